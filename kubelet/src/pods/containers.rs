//! The containers of a pod's spec, of every kind, in one list, and finding them in what the runtime reports.

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod};

use crate::runtime::{ContainerState, ContainerStatus, SandboxStatus};

/// What a container is to its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs to completion before the others.
    Init,
    /// An init container with `restartPolicy: Always`.
    Sidecar,
    /// `spec.containers`.
    App,
    /// `spec.ephemeralContainers`.
    Ephemeral,
}

/// A container with its role.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Its role.
    pub role: Role,
    /// Its spec; ephemeral containers have the same fields.
    pub container: Container,
    /// `targetContainerName` of an ephemeral container.
    pub target: Option<String>,
    /// Path of the field, for events: `spec.containers{name}`.
    pub field_path: String,
}

impl Item {
    /// Name of the container.
    pub fn name(&self) -> &str {
        &self.container.name
    }
}

/// All containers: init and sidecars in order, then the others, then ephemeral ones.
pub fn of(pod: &Pod) -> Vec<Item> {
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    let item = |role, list: &str, container: Container, target| Item {
        role,
        field_path: format!("spec.{list}{{{}}}", container.name),
        container,
        target,
    };
    let init = spec.init_containers.iter().flatten().map(|c| {
        let role = if c.restart_policy.as_deref() == Some("Always") {
            Role::Sidecar
        } else {
            Role::Init
        };
        item(role, "initContainers", c.clone(), None)
    });
    let apps = spec
        .containers
        .iter()
        .map(|c| item(Role::App, "containers", c.clone(), None));
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| {
        item(
            Role::Ephemeral,
            "ephemeralContainers",
            from_ephemeral(c),
            c.target_container_name.clone().filter(|t| !t.is_empty()),
        )
    });
    init.chain(apps).chain(ephemeral).collect()
}

fn from_ephemeral(c: &EphemeralContainer) -> Container {
    Container {
        args: c.args.clone(),
        command: c.command.clone(),
        env: c.env.clone(),
        env_from: c.env_from.clone(),
        image: c.image.clone(),
        image_pull_policy: c.image_pull_policy.clone(),
        name: c.name.clone(),
        security_context: c.security_context.clone(),
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        termination_message_path: c.termination_message_path.clone(),
        termination_message_policy: c.termination_message_policy.clone(),
        tty: c.tty,
        volume_devices: c.volume_devices.clone(),
        volume_mounts: c.volume_mounts.clone(),
        working_dir: c.working_dir.clone(),
        ..Container::default()
    }
}

/// The newest attempt of a container.
pub fn latest<'a>(sandbox: Option<&'a SandboxStatus>, name: &str) -> Option<&'a ContainerStatus> {
    sandbox?
        .containers
        .iter()
        .filter(|c| c.container.name == name)
        .max_by_key(|c| c.container.attempt)
}

/// The attempt before the newest.
pub fn previous<'a>(sandbox: Option<&'a SandboxStatus>, name: &str) -> Option<&'a ContainerStatus> {
    let newest = latest(sandbox, name)?.container.attempt;
    sandbox?
        .containers
        .iter()
        .filter(|c| c.container.name == name && c.container.attempt < newest)
        .max_by_key(|c| c.container.attempt)
}

/// Exit code of an ended container.
pub fn exit_code(status: &ContainerStatus) -> Option<i32> {
    match status.state {
        ContainerState::Exited { exit_code, .. } => Some(exit_code),
        _ => None,
    }
}

/// Whether it runs.
pub fn running(status: &ContainerStatus) -> bool {
    matches!(status.state, ContainerState::Running { .. })
}

/// Whether a container that ended with `code` is to be started again, while its pod should go on.
pub fn restarts(pod: &Pod, item: &Item, code: i32) -> bool {
    match item.role {
        Role::Ephemeral => return false,
        Role::Sidecar => return true,
        Role::Init | Role::App => {}
    }
    let container = &item.container;
    for rule in container.restart_policy_rules.iter().flatten() {
        let Some(codes) = &rule.exit_codes else {
            continue;
        };
        let listed = codes.values.iter().flatten().any(|v| *v == code);
        let matches = if codes.operator == "NotIn" {
            !listed
        } else {
            listed
        };
        if matches && rule.action == "Restart" {
            return true;
        }
    }
    let pod_policy = pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref());
    match container
        .restart_policy
        .as_deref()
        .or(pod_policy)
        .unwrap_or("Always")
    {
        "Never" => false,
        "OnFailure" => code != 0,
        _ => item.role == Role::App || code != 0,
    }
}
