//! What has to happen next with a pod. Pure: a [`View`] in, steps out; [`super::worker`] does them.

use std::sync::LazyLock;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus as ApiContainerStatus, Pod};

use super::containers::{self, Item, Role};
use super::memory::{ImageProgress, Memory, Progress, Stage};
use crate::clock;
use crate::runtime::{ContainerRef, ContainerState, ContainerStatus, SandboxStatus};

/// How long the failure of a pull is shown before the wait for the next one is.
const PULL_ERROR_SHOWN: Duration = Duration::from_secs(3);

/// What the decision is made from.
#[derive(Debug)]
pub struct View<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its containers.
    pub items: &'a [Item],
    /// What the runtime has of it.
    pub sandbox: Option<&'a SandboxStatus>,
    /// What the worker remembers.
    pub memory: &'a Memory,
    /// The node can give pods addresses.
    pub network_ready: bool,
    /// Longest wait between restarts.
    pub max_backoff: Duration,
    /// Now.
    pub now: Timestamp,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Set up volumes and make the sandbox; both may go on together.
    Prepare {
        /// Volumes are missing.
        volumes: bool,
        /// The sandbox is missing.
        sandbox: bool,
    },
    /// Say that the network is missing.
    WaitForNetwork,
    /// Remove a dead sandbox.
    RemoveSandbox,
    /// Look for the container's image, pull it if need be.
    FetchImage(String),
    /// Start the container.
    Start {
        /// Its name.
        name: String,
        /// Its attempt.
        attempt: u32,
    },
    /// Say that a container is held back.
    BackOff {
        /// Its name.
        name: String,
        /// When it ended.
        since: Timestamp,
    },
    /// Say that a pull is held back.
    ImageBackOff(String),
    /// Stop the container.
    Stop {
        /// Which.
        container: ContainerRef,
        /// How long it has.
        grace: Duration,
        /// Grace ends.
        deadline: Timestamp,
    },
    /// The pod has run longer than it may.
    DeadlineExceeded,
    /// The containers have done what they should: end the pod.
    Complete,
    /// Take down sandbox and volumes.
    TearDown,
}

/// Steps, and when to look again though nothing happens.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// To do now.
    pub steps: Vec<Step>,
    /// When to look again.
    pub wake: Option<Timestamp>,
}

impl Plan {
    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |w| w.min(at)));
    }

    fn step(&mut self, step: Step) {
        self.steps.push(step);
    }
}

/// The next steps.
pub fn next(view: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    match &view.memory.stage {
        Stage::Running => running(view, &mut plan),
        Stage::Terminating { deadline } => terminating(view, *deadline, &mut plan),
        Stage::Terminated => {
            if !view.memory.torn_down {
                plan.step(Step::TearDown);
            }
        }
    }
    plan
}

fn api_statuses(memory: &Memory) -> impl Iterator<Item = &ApiContainerStatus> {
    let last = &memory.last;
    last.init_container_statuses
        .iter()
        .chain(&last.container_statuses)
        .chain(&last.ephemeral_container_statuses)
        .flatten()
}

/// Exit code that the published status remembers for a container the runtime no longer has.
fn remembered_exit(memory: &Memory, name: &str) -> Option<i32> {
    let status = api_statuses(memory).find(|s| s.name == name)?;
    status
        .state
        .as_ref()?
        .terminated
        .as_ref()
        .map(|t| t.exit_code)
}

/// The attempt that a start would be: one more than the newest known.
pub fn next_attempt(memory: &Memory, sandbox: Option<&SandboxStatus>, name: &str) -> u32 {
    let found = containers::latest(sandbox, name).map(|c| match c.state {
        ContainerState::Created => c.container.attempt,
        _ => c.container.attempt + 1,
    });
    let remembered = api_statuses(memory).find(|s| s.name == name).map(|s| {
        let ran = s.container_id.as_ref().is_some_and(|id| !id.is_empty())
            || s.last_state
                .as_ref()
                .is_some_and(|l| l.terminated.is_some());
        u32::try_from(s.restart_count).unwrap_or(0) + u32::from(ran)
    });
    match (found, remembered) {
        (Some(f), _) => f,
        (None, Some(r)) => r,
        (None, None) => 0,
    }
}

/// Progress of a container; an empty one where there is none.
fn progress_of<'a>(memory: &'a Memory, name: &str) -> &'a Progress {
    static NONE: LazyLock<Progress> = LazyLock::new(Progress::default);
    memory.progress.get(name).unwrap_or(&NONE)
}

/// Whether this attempt was stopped only to be started again with other limits.
pub fn resizes(memory: &Memory, status: &ContainerStatus) -> bool {
    progress_of(memory, &status.container.name).resize_restart == Some(status.container.attempt)
}

/// How a pod's containers came out, if nothing of it is to run again.
pub fn finished(view: &View<'_>) -> bool {
    let ended = |item: &Item| -> Option<i32> {
        match containers::latest(view.sandbox, item.name()) {
            // One that was stopped to be given other limits starts again, however it ended.
            Some(status) if resizes(view.memory, status) => None,
            Some(status) => containers::exit_code(status),
            None => remembered_exit(view.memory, item.name()),
        }
    };
    let init_failed = view
        .items
        .iter()
        .filter(|i| i.role == Role::Init)
        .any(|item| {
            ended(item).is_some_and(|code| code != 0 && !containers::restarts(view.pod, item, code))
        });
    if init_failed {
        return true;
    }
    let mut apps = view.items.iter().filter(|i| i.role == Role::App).peekable();
    apps.peek().is_some()
        && apps
            .all(|item| ended(item).is_some_and(|code| !containers::restarts(view.pod, item, code)))
}

fn running(view: &View<'_>, plan: &mut Plan) {
    let spec_deadline = view
        .pod
        .spec
        .as_ref()
        .and_then(|s| s.active_deadline_seconds);
    if let Some(seconds) = spec_deadline.and_then(|s| u64::try_from(s).ok()) {
        let at = clock::after(view.memory.start_time, Duration::from_secs(seconds));
        if at <= view.now {
            plan.step(Step::DeadlineExceeded);
            return;
        }
        plan.wake_at(at);
    }
    if finished(view) {
        plan.step(Step::Complete);
        return;
    }
    let Some(sandbox) = view.sandbox.filter(|s| s.ready) else {
        if view.sandbox.is_some() {
            plan.step(Step::RemoveSandbox);
            return;
        }
        prepare(view, true, plan);
        return;
    };
    if !view.memory.volumes_ready {
        prepare(view, false, plan);
        // What already runs (a restarted kubelet) goes on; only starts have to wait.
        stops_only(view, sandbox, plan);
        return;
    }
    containers_of_running_pod(view, sandbox, plan);
}

fn prepare(view: &View<'_>, sandbox: bool, plan: &mut Plan) {
    if let Some(at) = view.memory.blocked_until.filter(|at| *at > view.now) {
        plan.wake_at(at);
        return;
    }
    let host_network = view
        .pod
        .spec
        .as_ref()
        .and_then(|s| s.host_network)
        .unwrap_or(false);
    if sandbox && !view.network_ready && !host_network {
        plan.step(Step::WaitForNetwork);
        return;
    }
    plan.step(Step::Prepare {
        volumes: !view.memory.volumes_ready,
        sandbox,
    });
}

fn grace(view: &View<'_>) -> Duration {
    let seconds = view
        .pod
        .spec
        .as_ref()
        .and_then(|s| s.termination_grace_period_seconds)
        .unwrap_or(30);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

fn stop(view: &View<'_>, status: &ContainerStatus, grace: Duration, plan: &mut Plan) {
    let deadline = clock::after(view.now, grace);
    plan.step(Step::Stop {
        container: status.container.clone(),
        grace,
        deadline,
    });
}

/// Stops of containers that probes or changed specs have doomed.
fn stops_only(view: &View<'_>, sandbox: &SandboxStatus, plan: &mut Plan) {
    for item in view.items {
        let progress = progress_of(view.memory, item.name());
        let Some(status) =
            containers::latest(Some(sandbox), item.name()).filter(|s| containers::running(s))
        else {
            continue;
        };
        if let (Some(doom), None) = (&progress.doom, progress.stopping) {
            stop(
                view,
                status,
                doom.grace.unwrap_or_else(|| grace(view)),
                plan,
            );
        }
    }
}

/// Whether init containers have all been passed in this sandbox.
pub fn initialized(items: &[Item], sandbox: Option<&SandboxStatus>, memory: &Memory) -> bool {
    if items
        .iter()
        .any(|i| i.role == Role::App && containers::latest(sandbox, i.name()).is_some())
    {
        return true;
    }
    items.iter().all(|item| match item.role {
        Role::Init => {
            containers::latest(sandbox, item.name()).and_then(containers::exit_code) == Some(0)
        }
        Role::Sidecar => started(item, sandbox, memory),
        Role::App | Role::Ephemeral => true,
    })
}

/// Whether a container runs, its postStart hook is done and its startup probe, if any, has succeeded.
pub fn started(item: &Item, sandbox: Option<&SandboxStatus>, memory: &Memory) -> bool {
    let Some(status) = containers::latest(sandbox, item.name()).filter(|s| containers::running(s))
    else {
        return false;
    };
    let progress = progress_of(memory, item.name());
    let hook = item
        .container
        .lifecycle
        .as_ref()
        .is_some_and(|l| l.post_start.is_some());
    if hook && progress.busy && progress.post_started != Some(status.container.attempt) {
        return false;
    }
    item.container.startup_probe.is_none() || progress.probed.startup == Some(true)
}

fn containers_of_running_pod(view: &View<'_>, sandbox: &SandboxStatus, plan: &mut Plan) {
    stops_only(view, sandbox, plan);
    let passed = initialized(view.items, Some(sandbox), view.memory);
    for item in view
        .items
        .iter()
        .filter(|i| matches!(i.role, Role::Init | Role::Sidecar))
    {
        let status = containers::latest(Some(sandbox), item.name());
        let code = status.and_then(containers::exit_code);
        if item.role == Role::Init {
            if passed || code == Some(0) {
                continue;
            }
            if !status.is_some_and(containers::running) {
                start(view, sandbox, item, plan);
            }
            return;
        }
        if !status.is_some_and(containers::running) {
            start(view, sandbox, item, plan);
        }
        if !passed && !started(item, Some(sandbox), view.memory) {
            return;
        }
    }
    for item in view.items.iter().filter(|i| i.role == Role::App) {
        let status = containers::latest(Some(sandbox), item.name());
        match status.map(|s| &s.state) {
            Some(ContainerState::Running { .. }) => {
                if progress_of(view.memory, item.name()).busy {
                    // Its postStart hook is under way; upstream starts the next container after it.
                    break;
                }
            }
            Some(ContainerState::Exited { exit_code, .. })
                if !containers::restarts(view.pod, item, *exit_code)
                    && !status.is_some_and(|s| resizes(view.memory, s)) => {}
            _ => start(view, sandbox, item, plan),
        }
    }
    for item in view.items.iter().filter(|i| i.role == Role::Ephemeral) {
        let ended_before = remembered_exit(view.memory, item.name()).is_some();
        let unstarted = containers::latest(Some(sandbox), item.name())
            .is_none_or(|s| s.state == ContainerState::Created);
        if unstarted && !ended_before {
            start(view, sandbox, item, plan);
        }
    }
}

fn start(view: &View<'_>, sandbox: &SandboxStatus, item: &Item, plan: &mut Plan) {
    let progress = progress_of(view.memory, item.name());
    if progress.busy || progress.stopping.is_some() {
        return;
    }
    if let Some(status) = containers::latest(Some(sandbox), item.name())
        && let ContainerState::Exited { finished_at, .. } = status.state
        && !resizes(view.memory, status)
        && let Some(until) = progress
            .backoff
            .wait_until(finished_at, view.now, view.max_backoff)
    {
        if progress.backoff_told != Some(finished_at) {
            plan.step(Step::BackOff {
                name: item.name().to_owned(),
                since: finished_at,
            });
        }
        plan.wake_at(until);
        return;
    }
    if let Some(at) = progress.retry_at.filter(|at| *at > view.now) {
        plan.wake_at(at);
        return;
    }
    match &progress.image {
        ImageProgress::Unknown => plan.step(Step::FetchImage(item.name().to_owned())),
        ImageProgress::Fetching => {}
        ImageProgress::Failed {
            since,
            retry_at,
            told,
        } if *retry_at > view.now => {
            let turn = clock::after(*since, PULL_ERROR_SHOWN);
            match told {
                false if turn <= view.now => plan.step(Step::ImageBackOff(item.name().to_owned())),
                false => plan.wake_at(turn),
                true => plan.wake_at(*retry_at),
            }
        }
        ImageProgress::Failed { .. } => plan.step(Step::FetchImage(item.name().to_owned())),
        ImageProgress::Present(_) => plan.step(Step::Start {
            name: item.name().to_owned(),
            attempt: next_attempt(view.memory, Some(sandbox), item.name()),
        }),
    }
}

fn terminating(view: &View<'_>, deadline: Timestamp, plan: &mut Plan) {
    let alive = |item: &Item| {
        containers::latest(view.sandbox, item.name()).filter(|s| containers::running(s))
    };
    let left = clock::until(view.now, deadline);
    let mut kill = |item: &Item, status: &ContainerStatus| {
        let progress = progress_of(view.memory, item.name());
        // A kill under way is repeated only when the grace was shortened.
        if progress
            .stopping
            .is_none_or(|until| clock::until(deadline, until) > Duration::from_secs(1))
        {
            plan.step(Step::Stop {
                container: status.container.clone(),
                grace: left,
                deadline,
            });
        }
    };
    let mut waiting = false;
    for item in view.items.iter().filter(|i| i.role != Role::Sidecar) {
        if let Some(status) = alive(item) {
            waiting = true;
            kill(item, status);
        }
    }
    // Sidecars go after the others, the last one first; when the grace is over, all at once.
    for item in view.items.iter().rev().filter(|i| i.role == Role::Sidecar) {
        if let Some(status) = alive(item) {
            if !waiting || left.is_zero() {
                kill(item, status);
            }
            waiting = true;
        }
    }
    let busy = view.memory.progress.values().any(|p| p.busy);
    if waiting {
        plan.wake_at(
            clock::after(deadline, Duration::from_secs(1))
                .max(clock::after(view.now, Duration::from_secs(1))),
        );
    } else if !busy {
        plan.step(Step::TearDown);
    }
}
