//! Starting a container: its environment, files and mounts, its spec for the runtime, and the start itself.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use keelson_runtime::recorder::Kind;

use super::containers::{self, Item};
use super::{env, hosts, resources, security};
use crate::host::Host;
use crate::objects::ObjectError;
use crate::runtime::{
    ContainerRef, ContainerSpec, Image, Mount, PodRef, Propagation, RuntimeError, SandboxStatus,
};
use crate::volumes::mounts;

/// Why a container was not started: reason and message of `state.waiting`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Failure {
    /// `CreateContainerConfigError`, `CreateContainerError`, `RunContainerError`.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

fn config_error(message: impl ToString) -> Failure {
    Failure {
        reason: "CreateContainerConfigError",
        message: message.to_string(),
    }
}

/// What a start is made from.
pub struct Request<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Whose.
    pub pod_ref: &'a PodRef,
    /// Which container.
    pub item: &'a Item,
    /// Which attempt.
    pub attempt: u32,
    /// Its image.
    pub image: &'a Image,
    /// Volumes on the host.
    pub volumes: &'a BTreeMap<String, PathBuf>,
    /// The sandbox.
    pub sandbox: &'a SandboxStatus,
}

struct Lookup<'a> {
    host: &'a Host,
    request: &'a Request<'a>,
}

#[async_trait]
impl env::Lookup for Lookup<'_> {
    async fn config_map(&self, name: &str) -> Result<Arc<ConfigMap>, ObjectError> {
        let pod = self.request.pod_ref;
        self.host
            .objects
            .config_maps
            .get(&pod.uid, &pod.namespace, name)
            .await
    }

    async fn secret(&self, name: &str) -> Result<Arc<Secret>, ObjectError> {
        let pod = self.request.pod_ref;
        self.host
            .objects
            .secrets
            .get(&pod.uid, &pod.namespace, name)
            .await
    }

    async fn services(&self, namespace: &str) -> Option<Vec<Arc<Service>>> {
        self.host.objects.services.of(namespace).await
    }

    fn volume(&self, name: &str) -> Option<PathBuf> {
        self.request.volumes.get(name).cloned()
    }
}

/// Directory of a pod's logs: `<logs>/<namespace>_<name>_<uid>`.
pub fn log_directory(host: &Host, pod: &PodRef) -> PathBuf {
    host.config
        .pod_logs_dir
        .join(format!("{}_{}_{}", pod.namespace, pod.name, pod.uid))
}

/// Where a container leaves its termination message.
pub fn termination_file(host: &Host, container: &ContainerRef) -> PathBuf {
    host.volumes
        .pod_dir(&container.pod_uid)
        .join("containers")
        .join(&container.name)
        .join(container.attempt.to_string())
}

/// Addresses of the pod: its sandbox's, or the node's.
pub fn pod_ips(host: &Host, pod: &Pod, sandbox: &SandboxStatus) -> Vec<IpAddr> {
    let host_network = pod
        .spec
        .as_ref()
        .and_then(|s| s.host_network)
        .unwrap_or(false);
    if host_network {
        host.node_ips.clone()
    } else {
        sandbox.ips.clone()
    }
}

fn write_file(path: &Path, text: &str) -> Result<(), Failure> {
    let fail = |e: std::io::Error| config_error(format!("writing {}: {e}", path.display()));
    if std::fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(fail)?;
    }
    // In place: containers that run already have this very file mounted.
    std::fs::write(path, text).map_err(fail)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).map_err(fail)
}

/// hosts, resolv.conf and hostname of the pod as mounts, and the termination file.
fn files(
    host: &Host,
    request: &Request<'_>,
    container: &ContainerRef,
) -> Result<Vec<Mount>, Failure> {
    let pod = request.pod;
    let dir = host.volumes.pod_dir(&container.pod_uid);
    let spec = pod.spec.as_ref();
    let host_network = spec.and_then(|s| s.host_network).unwrap_or(false);
    let domain = &host.config.cluster_domain;
    let hosts_text = if host_network {
        hosts::host_network_hosts(
            pod,
            &std::fs::read_to_string("/etc/hosts").unwrap_or_default(),
        )
    } else {
        hosts::hosts(pod, &request.sandbox.ips, domain)
    };
    let node =
        hosts::Resolv::parse(&std::fs::read_to_string(&host.resolv_conf).unwrap_or_default());
    let resolv = hosts::resolv(pod, &node, &host.config.cluster_dns, domain).text();
    let mut list = vec![
        ("etc-hosts", "/etc/hosts", hosts_text),
        ("resolv.conf", "/etc/resolv.conf", resolv),
    ];
    if !host_network {
        let name = hosts::kernel_name(pod, domain).map_err(config_error)?;
        list.push(("hostname", "/etc/hostname", format!("{name}\n")));
    }
    let read_only = request
        .item
        .container
        .security_context
        .as_ref()
        .and_then(|s| s.read_only_root_filesystem)
        .unwrap_or(false);
    let mut mounts = Vec::new();
    for (file, target, text) in list {
        let path = dir.join(file);
        write_file(&path, &text)?;
        let read_only = read_only && target != "/etc/hosts";
        mounts.push(Mount {
            host_path: path,
            container_path: target.into(),
            read_only,
            propagation: Propagation::None,
        });
    }
    let message = termination_file(host, container);
    let fail = |e: std::io::Error| config_error(format!("making {}: {e}", message.display()));
    if let Some(parent) = message.parent() {
        std::fs::create_dir_all(parent).map_err(fail)?;
    }
    let made = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o666)
        .open(&message)
        .map_err(fail)?;
    made.set_permissions(std::fs::Permissions::from_mode(0o666))
        .map_err(fail)?;
    let target = request
        .item
        .container
        .termination_message_path
        .as_deref()
        .filter(|p| !p.is_empty())
        .unwrap_or("/dev/termination-log");
    mounts.push(Mount {
        host_path: message,
        container_path: target.into(),
        read_only: false,
        propagation: Propagation::None,
    });
    Ok(mounts)
}

async fn spec(
    host: &Host,
    request: &Request<'_>,
    container: &ContainerRef,
) -> Result<ContainerSpec, Failure> {
    let (pod, own) = (request.pod, &request.item.container);
    let ips = pod_ips(host, pod, request.sandbox);
    let lookup = Lookup { host, request };
    let facts = env::Facts {
        ips: &ips,
        host_ips: &host.node_ips,
        capacity: &host.volumes.capacity,
    };
    let vars = env::build(pod, own, &lookup, facts)
        .await
        .map_err(config_error)?;
    let security = security::resolve(pod, own, host.config.seccomp_default, &host.root_dir)
        .map_err(config_error)?;
    security::verify_non_root(pod, own, &security, request.image).map_err(config_error)?;
    let mount_request = mounts::Request {
        pod,
        uid: &container.pod_uid,
        container: own,
        volumes: request.volumes,
        env: &vars,
    };
    let volume_mounts = host.volumes.mounts(&mount_request).map_err(|e| {
        config_error(format!(
            "failed to prepare subPath for volumeMount of container {:?}: {e}",
            own.name
        ))
    })?;
    let mut mounts = files(host, request, container)?;
    // A volume that the pod mounts in the place of one of the kubelet's own files takes that place.
    mounts.retain(|m| {
        !volume_mounts
            .iter()
            .any(|v| v.container_path == m.container_path)
    });
    mounts.splice(0..0, volume_mounts);
    let get = |name: &str| vars.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    let expand = |words: Option<&Vec<String>>| {
        words
            .into_iter()
            .flatten()
            .map(|w| env::expand(w, &get))
            .collect()
    };
    let target = request
        .item
        .target
        .as_deref()
        .and_then(|name| containers::latest(Some(request.sandbox), name));
    Ok(ContainerSpec {
        container: container.clone(),
        pod: request.pod_ref.clone(),
        image_id: request.image.id.clone(),
        image: own.image.clone().unwrap_or_default(),
        command: expand(own.command.as_ref()),
        args: expand(own.args.as_ref()),
        working_dir: own.working_dir.clone().filter(|d| !d.is_empty()),
        mounts,
        devices: Vec::new(),
        resources: resources::of_container(pod, own, &host.limits),
        security,
        stdin: own.stdin.unwrap_or(false),
        stdin_once: own.stdin_once.unwrap_or(false),
        tty: own.tty.unwrap_or(false),
        log_path: PathBuf::from(&own.name).join(format!("{}.log", container.attempt)),
        target_container: target.map(|t| t.container.clone()),
        stop_signal: own.lifecycle.as_ref().and_then(|l| l.stop_signal.clone()),
        env: vars,
    })
}

/// User the container runs as, where that is known without looking into the image's files.
fn user(spec: &ContainerSpec) -> Option<(i64, i64, Vec<i64>)> {
    let uid = spec.security.run_as_user?;
    let gid = spec.security.run_as_group?;
    let mut groups = vec![gid];
    groups.extend(
        spec.security
            .supplemental_groups
            .iter()
            .filter(|g| **g != gid),
    );
    Some((uid, gid, groups))
}

/// What a started container leaves to remember.
#[derive(Debug, Clone)]
pub struct Started {
    /// User it runs as.
    pub user: Option<(i64, i64, Vec<i64>)>,
    /// Its limits.
    pub resources: crate::runtime::Resources,
}

/// Creates and starts the container.
pub async fn start(host: &Host, request: &Request<'_>) -> Result<Started, Failure> {
    let container = ContainerRef {
        pod_uid: request.pod_ref.uid.clone(),
        name: request.item.name().to_owned(),
        attempt: request.attempt,
    };
    let path = Some(request.item.field_path.as_str());
    let warn = |failure: Failure| {
        host.event(
            request.pod,
            path,
            Kind::Warning,
            "Failed",
            format!("Error: {}", failure.message),
        );
        failure
    };
    let spec = spec(host, request, &container).await.map_err(warn)?;
    let logs = log_directory(host, request.pod_ref);
    std::fs::create_dir_all(logs.join(request.item.name())).map_err(|e| {
        warn(Failure {
            reason: "CreateContainerError",
            message: format!("can't make log directory: {e}"),
        })
    })?;
    let runtime = &host.runtime.runtime;
    let created = runtime.create_container(&spec).await.map_err(|error| {
        let reason = match error {
            RuntimeError::Start(_) => "RunContainerError",
            _ => "CreateContainerError",
        };
        warn(Failure {
            reason,
            message: error.to_string(),
        })
    })?;
    host.event(
        request.pod,
        path,
        Kind::Normal,
        "Created",
        "Container created",
    );
    link_log(host, request, &created.id, &logs.join(&spec.log_path));
    runtime.start_container(&container).await.map_err(|error| {
        warn(Failure {
            reason: "RunContainerError",
            message: error.to_string(),
        })
    })?;
    host.event(
        request.pod,
        path,
        Kind::Normal,
        "Started",
        "Container started",
    );
    Ok(Started {
        user: user(&spec),
        resources: spec.resources,
    })
}

/// The link by which log collectors find the log: `<pod>_<namespace>_<container>-<id>.log`.
fn link_log(host: &Host, request: &Request<'_>, id: &str, log: &Path) {
    let id = id.rsplit('/').next().unwrap_or_default();
    let pod = request.pod_ref;
    let link = host.log_links.join(format!(
        "{}_{}_{}-{id}.log",
        pod.name,
        pod.namespace,
        request.item.name()
    ));
    if let Err(error) = std::fs::create_dir_all(&host.log_links).and_then(|()| {
        match std::os::unix::fs::symlink(log, &link) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }) {
        tracing::warn!(%error, link = %link.display(), "linking a container's log");
    }
}
