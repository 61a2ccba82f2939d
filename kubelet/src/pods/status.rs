//! `status` of a pod from what the runtime reports and the worker remembers. Pure; [`super::status_manager`] sends it.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus as ApiContainer, ContainerUser, HostIP,
    LinuxContainerUser, Pod, PodCondition, PodIP, PodStatus, ResourceRequirements,
    VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::containers::{self, Item, Role};
use super::memory::{Memory, Progress, ResizeNote, Stage};
use super::{plan, resources};
use crate::runtime::{ContainerState, ContainerStatus, SandboxStatus};

/// What a status is made from.
pub struct View<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its containers.
    pub items: &'a [Item],
    /// What the runtime has.
    pub sandbox: Option<&'a SandboxStatus>,
    /// What the worker remembers.
    pub memory: &'a Memory,
    /// Addresses of the node.
    pub host_ips: &'a [IpAddr],
    /// Longest wait between restarts.
    pub max_backoff: std::time::Duration,
    /// Now.
    pub now: Timestamp,
}

/// The status.
pub fn compute(view: &View<'_>) -> PodStatus {
    let passed = plan::initialized(view.items, view.sandbox, view.memory);
    let statuses = |roles: &[Role]| -> Vec<ApiContainer> {
        view.items
            .iter()
            .filter(|i| roles.contains(&i.role))
            .map(|item| container(view, item))
            .collect()
    };
    let init = statuses(&[Role::Init, Role::Sidecar]);
    let apps = statuses(&[Role::App]);
    let ephemeral = statuses(&[Role::Ephemeral]);
    let phase = phase(view, &init, &apps);
    let conditions = conditions(view, &phase, &init, &apps, passed);
    let ips = pod_ips(view);
    let verdict = view.memory.verdict.as_ref();
    // Of a pod that was never taken there is nothing to say but why.
    let rejected = view.sandbox.is_none()
        && verdict.is_some_and(|v| v.message.starts_with("Pod was rejected: "));
    let non_empty = |list: Vec<ApiContainer>| (!list.is_empty() && !rejected).then_some(list);
    let whole = view.pod.spec.as_ref().and_then(|s| s.resources.as_ref());
    PodStatus {
        phase: Some(phase),
        conditions: Some(conditions),
        reason: verdict.map(|v| v.reason.clone()),
        message: verdict.map(|v| v.message.clone()),
        host_ip: view.host_ips.first().map(ToString::to_string),
        host_ips: Some(
            view.host_ips
                .iter()
                .map(|ip| HostIP { ip: ip.to_string() })
                .collect(),
        ),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect()),
        start_time: Some(Time(view.memory.start_time)),
        init_container_statuses: non_empty(init),
        container_statuses: non_empty(apps),
        ephemeral_container_statuses: non_empty(ephemeral),
        qos_class: Some(resources::qos(view.pod).as_str().to_owned()),
        observed_generation: view.pod.metadata.generation,
        allocated_resources: whole.and_then(|r| r.requests.clone()),
        resources: whole.map(|own| {
            let given = view.memory.record.as_ref();
            given
                .and_then(|r| r.actuated.pod.clone())
                .unwrap_or_else(|| own.clone())
        }),
        ..PodStatus::default()
    }
}

fn pod_ips(view: &View<'_>) -> Vec<String> {
    let host_network = view
        .pod
        .spec
        .as_ref()
        .and_then(|s| s.host_network)
        .unwrap_or(false);
    if host_network {
        return if view.sandbox.is_some() || view.memory.last.pod_ip.is_some() {
            view.host_ips.iter().map(ToString::to_string).collect()
        } else {
            Vec::new()
        };
    }
    match view.sandbox.map(|s| &s.ips).filter(|ips| !ips.is_empty()) {
        Some(ips) => ips.iter().map(ToString::to_string).collect(),
        // A pod that ended keeps the address it had.
        None => view
            .memory
            .last
            .pod_ips
            .iter()
            .flatten()
            .map(|p| p.ip.clone())
            .collect(),
    }
}

fn last_status<'a>(memory: &'a Memory, name: &str) -> Option<&'a ApiContainer> {
    let last = &memory.last;
    last.init_container_statuses
        .iter()
        .chain(&last.container_statuses)
        .chain(&last.ephemeral_container_statuses)
        .flatten()
        .find(|s| s.name == name)
}

/// `state.terminated` of an ended container.
pub fn terminated(
    status: &ContainerStatus,
    message: Option<&String>,
) -> Option<ContainerStateTerminated> {
    let ContainerState::Exited {
        exit_code,
        oom_killed,
        started_at,
        finished_at,
        message: start_error,
    } = &status.state
    else {
        return None;
    };
    let reason = match (oom_killed, start_error.is_empty(), exit_code) {
        (_, false, _) => "StartError",
        (true, ..) => "OOMKilled",
        (_, _, 0) => "Completed",
        _ => "Error",
    };
    let text = if start_error.is_empty() {
        message.cloned().unwrap_or_default()
    } else {
        start_error.clone()
    };
    Some(ContainerStateTerminated {
        container_id: Some(status.id.clone()),
        exit_code: *exit_code,
        reason: Some(reason.into()),
        message: (!text.is_empty()).then_some(text),
        started_at: Some(Time(started_at.unwrap_or(Timestamp::UNIX_EPOCH))),
        finished_at: Some(Time(*finished_at)),
        signal: None,
    })
}

fn waiting(reason: &str, message: Option<String>) -> ApiState {
    ApiState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.into()),
            message: message.filter(|m| !m.is_empty()),
        }),
        ..ApiState::default()
    }
}

fn crash_loop(
    view: &View<'_>,
    item: &Item,
    status: &ContainerStatus,
    progress: Option<&Progress>,
) -> Option<ApiState> {
    let ContainerState::Exited {
        finished_at,
        exit_code,
        ..
    } = &status.state
    else {
        return None;
    };
    let going_on =
        view.memory.stage == Stage::Running && containers::restarts(view.pod, item, *exit_code);
    let backoff = &progress?.backoff;
    if !going_on
        || backoff
            .wait_until(*finished_at, view.now, view.max_backoff)
            .is_none()
    {
        return None;
    }
    let meta = &view.pod.metadata;
    let message = format!(
        "back-off {} restarting failed container={} pod={}_{}({})",
        crate::config::duration::format(backoff.delay()),
        item.name(),
        meta.name.as_deref().unwrap_or_default(),
        meta.namespace.as_deref().unwrap_or_default(),
        meta.uid.as_deref().unwrap_or_default(),
    );
    Some(waiting("CrashLoopBackOff", Some(message)))
}

/// State of a container, and the state before it.
fn states(view: &View<'_>, item: &Item) -> (ApiState, Option<ApiState>) {
    let progress = view.memory.progress.get(item.name());
    let message = |s: &ContainerStatus| progress.and_then(|p| p.messages.get(&s.container.attempt));
    let ended = |s: &ContainerStatus| {
        terminated(s, message(s)).map(|t| ApiState {
            terminated: Some(t),
            ..ApiState::default()
        })
    };
    let before = last_status(view.memory, item.name());
    let before_last = || {
        let state = before
            .and_then(|b| b.state.clone())
            .filter(|s| s.terminated.is_some());
        state
            .or_else(|| before.and_then(|b| b.last_state.clone()))
            .filter(|s| s.terminated.is_some())
    };
    // In a pod with init containers upstream says so of every container, until it runs.
    let blank = if has_init(view) {
        "PodInitializing"
    } else {
        "ContainerCreating"
    };
    let pending = || match progress.and_then(|p| p.waiting.clone()) {
        Some((reason, message)) => waiting(&reason, Some(message)),
        None => waiting(blank, None),
    };
    let Some(status) = containers::latest(view.sandbox, item.name()) else {
        let state = before
            .and_then(|b| b.state.clone())
            .filter(|s| s.terminated.is_some());
        let over = view.memory.stage != Stage::Running || plan_finished(view);
        return match state {
            Some(state) if over => (state, before.and_then(|b| b.last_state.clone())),
            _ => (pending(), before_last()),
        };
    };
    let last = containers::previous(view.sandbox, item.name()).and_then(ended);
    let last = last.or_else(|| {
        before
            .and_then(|b| b.last_state.clone())
            .filter(|s| s.terminated.is_some())
    });
    match &status.state {
        ContainerState::Created => (pending(), last),
        ContainerState::Running { started_at, .. } => {
            if hook_pending(item, progress, status) {
                return (pending(), last);
            }
            let running = ContainerStateRunning {
                started_at: Some(Time(*started_at)),
            };
            (
                ApiState {
                    running: Some(running),
                    ..ApiState::default()
                },
                last,
            )
        }
        ContainerState::Exited { exit_code, .. } => {
            let now_ended = ended(status);
            if let Some(state) = crash_loop(view, item, status, progress) {
                return (state, now_ended);
            }
            let restarting = view.memory.stage == Stage::Running
                && containers::restarts(view.pod, item, *exit_code);
            if let (true, Some((reason, message))) =
                (restarting, progress.and_then(|p| p.waiting.clone()))
            {
                return (waiting(&reason, Some(message)), now_ended);
            }
            (now_ended.unwrap_or_default(), last)
        }
    }
}

fn plan_finished(view: &View<'_>) -> bool {
    plan::finished(&plan::View {
        pod: view.pod,
        items: view.items,
        sandbox: view.sandbox,
        memory: view.memory,
        network_ready: true,
        max_backoff: view.max_backoff,
        now: view.now,
    })
}

fn has_init(view: &View<'_>) -> bool {
    view.items
        .iter()
        .any(|i| matches!(i.role, Role::Init | Role::Sidecar))
}

fn hook_pending(item: &Item, progress: Option<&Progress>, status: &ContainerStatus) -> bool {
    item.container
        .lifecycle
        .as_ref()
        .is_some_and(|l| l.post_start.is_some())
        && progress.is_some_and(|p| p.busy && p.post_started != Some(status.container.attempt))
}

fn container(view: &View<'_>, item: &Item) -> ApiContainer {
    let (state, last_state) = states(view, item);
    let status = containers::latest(view.sandbox, item.name());
    let before = last_status(view.memory, item.name());
    let progress = view.memory.progress.get(item.name());
    let started = state.running.is_some() && plan::started(item, view.sandbox, view.memory);
    let ready = match item.role {
        Role::Init => state.terminated.as_ref().is_some_and(|t| t.exit_code == 0),
        Role::Ephemeral => false,
        Role::Sidecar | Role::App => {
            let probed = progress.map(|p| &p.probed);
            let answered = item.container.readiness_probe.is_none()
                || probed.and_then(|p| p.readiness) == Some(true);
            started && answered && view.memory.stage != Stage::Terminated
        }
    };
    let spec_image = item.container.image.clone().unwrap_or_default();
    let restart_count = match status {
        Some(s) => i32::try_from(s.container.attempt).unwrap_or(i32::MAX),
        None => before.map_or(0, |b| b.restart_count),
    };
    let shown = status.is_some();
    let configured = item.container.resources.clone().unwrap_or_default();
    let actual = if state.running.is_some() {
        actual_resources(view.memory, item.name(), &configured)
    } else {
        configured.clone()
    };
    ApiContainer {
        name: item.name().to_owned(),
        image: status.map_or(spec_image, |s| s.image.clone()),
        image_id: status.map_or_else(
            || before.map(|b| b.image_id.clone()).unwrap_or_default(),
            |s| s.image_id.clone(),
        ),
        container_id: status
            .map(|s| s.id.clone())
            .or_else(|| before.and_then(|b| b.container_id.clone())),
        ready,
        started: Some(started),
        restart_count,
        resources: (shown && item.role != Role::Ephemeral).then(|| ResourceRequirements {
            claims: None,
            limits: actual.limits,
            requests: actual.requests,
        }),
        allocated_resources: configured
            .requests
            .filter(|_| shown && item.role != Role::Ephemeral),
        user: progress
            .filter(|_| shown)
            .and_then(|p| p.user.clone())
            .map(|(uid, gid, groups)| ContainerUser {
                linux: Some(LinuxContainerUser {
                    uid,
                    gid,
                    supplemental_groups: Some(groups),
                }),
            }),
        volume_mounts: shown.then(|| volume_mounts(item)).filter(|v| !v.is_empty()),
        state: Some(state),
        last_state: Some(last_state.unwrap_or_default()),
        ..ApiContainer::default()
    }
}

/// What the cgroups of a running container have been given, where that is not yet what it was allotted.
fn actual_resources(
    memory: &Memory,
    name: &str,
    allotted: &ResourceRequirements,
) -> ResourceRequirements {
    let mut actual = allotted.clone();
    let record = memory.record.as_ref();
    let Some(given) = record.and_then(|r| r.actuated.containers.get(name)) else {
        return actual;
    };
    let lists = [
        (&mut actual.limits, &given.limits),
        (&mut actual.requests, &given.requests),
    ];
    for (list, given) in lists {
        for name in ["cpu", "memory"] {
            if let (Some(list), Some(value)) =
                (list.as_mut(), given.as_ref().and_then(|g| g.get(name)))
            {
                list.insert(name.to_owned(), value.clone());
            }
        }
    }
    actual
}

fn volume_mounts(item: &Item) -> Vec<VolumeMountStatus> {
    let mounts = item.container.volume_mounts.iter().flatten();
    mounts
        .map(|mount| {
            let read_only = mount.read_only.unwrap_or(false);
            let recursive = match mount.recursive_read_only.as_deref() {
                Some("Enabled" | "IfPossible") => "Enabled",
                _ => "Disabled",
            };
            VolumeMountStatus {
                name: mount.name.clone(),
                mount_path: mount.mount_path.clone(),
                read_only: read_only.then_some(true),
                recursive_read_only: read_only.then(|| recursive.to_owned()),
                volume_status: None,
            }
        })
        .collect()
}

/// `status.phase`, by upstream's rules.
fn phase(view: &View<'_>, init: &[ApiContainer], apps: &[ApiContainer]) -> String {
    let before = view.memory.last.phase.as_deref().unwrap_or_default();
    if matches!(before, "Succeeded" | "Failed") {
        return before.to_owned();
    }
    if view.memory.verdict.is_some() {
        return "Failed".to_owned();
    }
    let over = view.memory.stage == Stage::Terminated;
    let code = |s: &ApiContainer| {
        s.state
            .as_ref()
            .and_then(|st| st.terminated.as_ref())
            .map(|t| t.exit_code)
    };
    let live = |s: &ApiContainer| s.state.as_ref().is_some_and(|st| st.running.is_some());
    let ran = |s: &ApiContainer| {
        s.last_state
            .as_ref()
            .is_some_and(|st| st.terminated.is_some())
    };
    let item = |s: &ApiContainer| view.items.iter().find(|i| i.name() == s.name);
    let again = |s: &ApiContainer, c: i32| {
        let resized = containers::latest(view.sandbox, &s.name)
            .is_some_and(|status| plan::resizes(view.memory, status));
        !over && (resized || item(s).is_some_and(|i| containers::restarts(view.pod, i, c)))
    };
    for status in init {
        let is_sidecar = item(status).is_some_and(|i| i.role == Role::Sidecar);
        if !is_sidecar && code(status).is_some_and(|c| c != 0 && !again(status, c)) {
            return "Failed".to_owned();
        }
    }
    if over {
        // The pod was stopped: what ended cleanly succeeded, what never ran did not.
        let good = apps.iter().all(|s| code(s) == Some(0));
        return if good && !apps.is_empty() {
            "Succeeded"
        } else {
            "Failed"
        }
        .to_owned();
    }
    let pending_init = !plan::initialized(view.items, view.sandbox, view.memory);
    let never_started = |s: &ApiContainer| !live(s) && code(s).is_none() && !ran(s);
    if pending_init && apps.iter().all(never_started) {
        return "Pending".to_owned();
    }
    if apps.iter().any(never_started)
        && !apps.iter().any(|s| live(s) || ran(s) || code(s).is_some())
    {
        return "Pending".to_owned();
    }
    if apps
        .iter()
        .any(|s| never_started(s) && s.state.as_ref().is_some_and(|st| st.waiting.is_some()))
    {
        return "Pending".to_owned();
    }
    let all_over = !apps.is_empty() && apps.iter().all(|s| code(s).is_some_and(|c| !again(s, c)));
    match (all_over, apps.iter().all(|s| code(s) == Some(0))) {
        (true, true) => "Succeeded",
        (true, false) => "Failed",
        (false, _) => "Running",
    }
    .to_owned()
}

struct Verdict {
    type_: &'static str,
    status: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

fn unready(names: &[&ApiContainer]) -> Option<String> {
    let names: Vec<&str> = names.iter().map(|s| s.name.as_str()).collect();
    (!names.is_empty()).then(|| format!("containers with unready status: [{}]", names.join(" ")))
}

fn conditions(
    view: &View<'_>,
    phase: &str,
    init: &[ApiContainer],
    apps: &[ApiContainer],
    passed: bool,
) -> Vec<PodCondition> {
    let failed = phase == "Failed";
    let succeeded = phase == "Succeeded";
    let over = |type_: &'static str, succeeded: bool| Verdict {
        type_,
        status: false,
        reason: Some(if succeeded {
            "PodCompleted"
        } else {
            "PodFailed"
        }),
        message: None,
    };
    let has_sandbox = view.sandbox.is_some_and(|s| s.ready) && !view.memory.torn_down;
    let ready_to_start = Verdict {
        type_: "PodReadyToStartContainers",
        status: has_sandbox,
        reason: None,
        message: None,
    };
    let initialized = {
        let open: Vec<&str> = init
            .iter()
            .filter(|s| !s.ready && s.started != Some(true))
            .map(|s| s.name.as_str())
            .collect();
        let ok = passed || succeeded || init.is_empty();
        let message = (!ok && !open.is_empty())
            .then(|| format!("containers with incomplete status: [{}]", open.join(" ")));
        Verdict {
            type_: "Initialized",
            status: ok && (!failed || passed),
            reason: if succeeded {
                Some("PodCompleted")
            } else if ok {
                None
            } else {
                Some("ContainersNotInitialized")
            },
            message,
        }
    };
    let sidecars: Vec<&ApiContainer> = init
        .iter()
        .filter(|s| {
            view.items
                .iter()
                .any(|i| i.role == Role::Sidecar && i.name() == s.name)
        })
        .collect();
    let open: Vec<&ApiContainer> = sidecars
        .into_iter()
        .chain(apps)
        .filter(|s| !s.ready)
        .collect();
    let containers_ready = if failed || succeeded {
        over("ContainersReady", succeeded)
    } else {
        let message = unready(&open);
        Verdict {
            type_: "ContainersReady",
            status: message.is_none(),
            reason: message.is_some().then_some("ContainersNotReady"),
            message,
        }
    };
    let ready = ready_condition(view, &containers_ready);
    let scheduled = Verdict {
        type_: "PodScheduled",
        status: true,
        reason: None,
        message: None,
    };
    let mut list: Vec<PodCondition> = [
        ready_to_start,
        initialized,
        ready,
        containers_ready,
        scheduled,
    ]
    .into_iter()
    .map(|verdict| stamp(view, verdict))
    .collect();
    let others = view
        .pod
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    let foreign: Vec<PodCondition> = others
        .filter(|c| !list.iter().any(|n| n.type_ == c.type_) && !RESIZE.contains(&&*c.type_))
        .cloned()
        .collect();
    list.extend(foreign);
    let disruption = view.memory.verdict.as_ref().and_then(|v| v.disruption);
    if let Some(reason) = disruption {
        list.retain(|c| c.type_ != "DisruptionTarget");
        list.push(stamp(
            view,
            Verdict {
                type_: "DisruptionTarget",
                status: true,
                reason: Some(reason),
                message: view.memory.verdict.as_ref().map(|v| v.message.clone()),
            },
        ));
    }
    if !failed && !succeeded {
        let notes = [&view.memory.resize_pending, &view.memory.resizing];
        let noted = RESIZE.iter().zip(notes);
        list.extend(
            noted.filter_map(|(type_, note)| Some(resize_condition(type_, note.as_ref()?))),
        );
    }
    list
}

/// The conditions that are there only while a resize waits or is under way.
const RESIZE: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

fn resize_condition(type_: &str, note: &ResizeNote) -> PodCondition {
    let text = |text: &String| (!text.is_empty()).then(|| text.clone());
    PodCondition {
        type_: type_.to_owned(),
        status: "True".to_owned(),
        reason: text(&note.reason),
        message: text(&note.message),
        last_probe_time: Some(Time(note.since)),
        last_transition_time: Some(Time(note.since)),
        observed_generation: note.generation,
    }
}

fn ready_condition(view: &View<'_>, containers_ready: &Verdict) -> Verdict {
    if !containers_ready.status {
        return Verdict {
            type_: "Ready",
            status: false,
            reason: containers_ready.reason,
            message: containers_ready.message.clone(),
        };
    }
    let given = view.pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let gates = view
        .pod
        .spec
        .iter()
        .flat_map(|s| s.readiness_gates.iter().flatten());
    let mut open = Vec::new();
    for gate in gates {
        let found = given
            .into_iter()
            .flatten()
            .find(|c| c.type_ == gate.condition_type);
        match found {
            None => open.push(format!(
                "corresponding condition of pod readiness gate {:?} does not exist.",
                gate.condition_type
            )),
            Some(c) if c.status != "True" => open.push(format!(
                "the status of pod readiness gate {:?} is not \"True\", but {}",
                gate.condition_type, c.status
            )),
            Some(_) => {}
        }
    }
    Verdict {
        type_: "Ready",
        status: open.is_empty(),
        reason: (!open.is_empty()).then_some("ReadinessGatesNotReady"),
        message: (!open.is_empty()).then(|| open.join(", ")),
    }
}

/// A condition with its transition time: the old one while the status is the same.
fn stamp(view: &View<'_>, verdict: Verdict) -> PodCondition {
    let status = if verdict.status { "True" } else { "False" };
    let before = view
        .memory
        .last
        .conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == verdict.type_);
    let since = before
        .filter(|c| c.status == status)
        .and_then(|c| c.last_transition_time.clone());
    PodCondition {
        type_: verdict.type_.to_owned(),
        status: status.to_owned(),
        reason: verdict.reason.map(str::to_owned),
        message: verdict.message,
        last_probe_time: None,
        last_transition_time: Some(since.unwrap_or(Time(view.now))),
        observed_generation: view.pod.metadata.generation,
    }
}
