//! The worker of one pod: looks, asks [`super::plan`], does, publishes; until nothing of the pod is left.
//!
//! Slow things (pulls, hooks, stops) run as tasks that report back, so that a deletion is never held up by them.

mod learn;
mod reports;
mod resize;
mod steps;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use keelson_runtime::recorder::Kind;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::containers::{self, Item};
use super::memory::{Memory, Replacement, Stage, Verdict};
use super::{plan, status};
use crate::clock;
use crate::host::Host;
use crate::images::fetch;
use crate::probes::prober;
use crate::runtime::{ContainerRef, Image, PodRef, SandboxStatus};

/// How long a replaced container may be gone before the API hears of it.
const REPLACEMENT: Duration = Duration::from_secs(1);

/// What is wanted of a pod.
#[derive(Debug, Clone)]
pub struct Desired {
    /// The object.
    pub pod: Arc<Pod>,
    /// It is no more in its source.
    pub gone: bool,
    /// The node refused or evicted it.
    pub verdict: Option<Verdict>,
}

/// What the manager holds of a worker.
pub struct Handle {
    /// Whose.
    pub pod_ref: PodRef,
    /// From a file, not from the API.
    pub is_static: bool,
    /// What is wanted.
    pub desired: watch::Sender<Desired>,
    /// Makes the worker look.
    pub poke: Arc<Notify>,
    /// Makes it bring volumes up to date.
    pub refresh: Arc<Notify>,
}

/// What tasks report.
enum Report {
    Fetched(String, Result<Image, fetch::Failure>),
    Stopped(ContainerRef, Result<(), String>),
    Hooked(ContainerRef, Result<(), String>),
    Probed(prober::Verdict),
}

struct Probes {
    started: watch::Sender<bool>,
    tasks: Vec<AbortHandle>,
}

impl Drop for Probes {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// The worker.
pub struct Worker {
    host: Arc<Host>,
    pod_ref: PodRef,
    is_static: bool,
    desired: watch::Receiver<Desired>,
    poke: Arc<Notify>,
    refresh: Arc<Notify>,
    memory: Memory,
    volumes: BTreeMap<String, PathBuf>,
    probes: HashMap<ContainerRef, Probes>,
    reports: mpsc::Receiver<Report>,
    reporter: mpsc::Sender<Report>,
    verdicts: mpsc::Receiver<prober::Verdict>,
    verdict_sender: mpsc::Sender<prober::Verdict>,
    tasks: JoinSet<()>,
    network_told: bool,
}

/// Makes a worker and its handle.
pub fn new(host: Arc<Host>, desired: Desired, is_static: bool) -> (Worker, Handle) {
    let meta = &desired.pod.metadata;
    let pod_ref = PodRef {
        uid: meta.uid.clone().unwrap_or_default(),
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
    };
    let last = desired.pod.status.clone().unwrap_or_default();
    let now = host.clock.now();
    let over = matches!(last.phase.as_deref(), Some("Succeeded" | "Failed"));
    let mut memory = Memory::new(last, now);
    if over {
        // It ended before this kubelet started: only what is left has to go.
        memory.stage = Stage::Terminating { deadline: now };
    }
    let (sender, receiver) = watch::channel(desired);
    let (reporter, reports) = mpsc::channel(64);
    let (verdict_sender, verdicts) = mpsc::channel(64);
    let (poke, refresh) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let handle = Handle {
        pod_ref: pod_ref.clone(),
        is_static,
        desired: sender,
        poke: poke.clone(),
        refresh: refresh.clone(),
    };
    let worker = Worker {
        host,
        pod_ref,
        is_static,
        desired: receiver,
        poke,
        refresh,
        memory,
        volumes: BTreeMap::new(),
        probes: HashMap::new(),
        reports,
        reporter,
        verdicts,
        verdict_sender,
        tasks: JoinSet::new(),
        network_told: false,
    };
    (worker, handle)
}

impl Worker {
    fn uid(&self) -> &str {
        &self.pod_ref.uid
    }

    /// Works until nothing of the pod is left and nobody wants it.
    pub async fn run(mut self) {
        let mut network = self.host.network_ready.clone();
        let mut released = self.host.allotments.released();
        let mut stale = true;
        loop {
            let desired = self.desired.borrow_and_update().clone();
            self.advance_stage(&desired);
            let pod = self.allot(&desired.pod);
            let items = containers::of(&pod);
            let sandbox = match self.host.runtime.runtime.sandbox(self.uid()).await {
                Ok(sandbox) => sandbox,
                Err(error) => {
                    tracing::warn!(%error, pod = %self.pod_ref.name, "asking the runtime");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            self.learn(&pod, &items, sandbox.as_ref()).await;
            if stale && self.memory.volumes_ready && self.memory.stage == Stage::Running {
                self.refresh_volumes(&pod).await;
            }
            stale = false;
            let plan = plan::next(&plan::View {
                pod: &pod,
                items: &items,
                sandbox: sandbox.as_ref(),
                memory: &self.memory,
                network_ready: *network.borrow_and_update(),
                max_backoff: self.host.max_backoff(),
                now: self.host.clock.now(),
            });
            let held = self.held();
            if held.is_none() {
                self.publish(&pod, &items, sandbox.as_ref(), &desired);
            }
            if !plan.steps.is_empty() {
                for step in plan.steps {
                    self.perform(step, &pod, &items, sandbox.as_ref()).await;
                }
                if self.drain_reports(&items) {
                    continue;
                }
                if !self.waits_for_network(&pod) {
                    continue;
                }
            }
            if self.memory.torn_down && desired.gone {
                self.clean_up().await;
                return;
            }
            let token_due = self.host.volumes.tokens.due(self.uid());
            let wake = [
                plan.wake,
                token_due.filter(|_| self.memory.stage == Stage::Running),
                self.memory.resize_retry,
                held,
            ]
            .into_iter()
            .flatten()
            .min();
            let sleep = wake
                .map(|at| clock::until(self.host.clock.now(), at).max(Duration::from_millis(5)));
            tokio::select! {
                changed = self.desired.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    stale = true;
                }
                () = self.poke.notified() => {}
                () = self.refresh.notified() => stale = true,
                Some(report) = self.reports.recv() => self.absorb(report, &items),
                Some(verdict) = self.verdicts.recv() => self.absorb(Report::Probed(verdict), &items),
                Some(_) = self.tasks.join_next() => {}
                Ok(()) = network.changed() => {}
                Ok(()) = released.changed(), if self.memory.resize_pending.is_some() => {}
                () = tokio::time::sleep(sleep.unwrap_or(Duration::MAX)), if sleep.is_some() => {
                    stale = token_due.is_some_and(|due| due <= self.host.clock.now());
                }
            }
            self.drain_reports(&items);
        }
    }

    fn waits_for_network(&self, pod: &Pod) -> bool {
        let host_network = pod
            .spec
            .as_ref()
            .and_then(|s| s.host_network)
            .unwrap_or(false);
        self.network_told && !host_network && !*self.host.network_ready.borrow()
    }

    /// Moves on to termination when the object, the source or the node says so.
    fn advance_stage(&mut self, desired: &Desired) {
        let now = self.host.clock.now();
        let meta = &desired.pod.metadata;
        if let Some(verdict) = &desired.verdict
            && self.memory.verdict.is_none()
        {
            self.memory.verdict = Some(verdict.clone());
            if self.memory.stage == Stage::Running {
                self.memory.stage = Stage::Terminating {
                    deadline: clock::after(
                        now,
                        verdict.grace.unwrap_or_else(|| self.grace(&desired.pod)),
                    ),
                };
            }
        }
        if meta.deletion_timestamp.is_none() && !desired.gone {
            return;
        }
        let seconds = meta
            .deletion_grace_period_seconds
            .and_then(|s| u64::try_from(s).ok());
        let grace = seconds.map_or_else(|| self.grace(&desired.pod), Duration::from_secs);
        let deadline = clock::after(now, grace);
        match &mut self.memory.stage {
            Stage::Running => self.memory.stage = Stage::Terminating { deadline },
            Stage::Terminating { deadline: old } if deadline < *old => *old = deadline,
            _ => {}
        }
    }

    fn grace(&self, pod: &Pod) -> Duration {
        let seconds = pod
            .spec
            .as_ref()
            .and_then(|s| s.termination_grace_period_seconds)
            .unwrap_or(30);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }

    /// While a container with a changed spec is replaced, nothing is said for a moment: it stays ready to the API if the new
    /// one comes up at once, as with upstream, which looks at its containers once a second. Returns until when.
    fn held(&self) -> Option<Timestamp> {
        if self.memory.stage != Stage::Running {
            return None;
        }
        let now = self.host.clock.now();
        self.memory
            .progress
            .values()
            .filter_map(|progress| match progress.replacement {
                Some(Replacement::Ended(at)) => Some(clock::after(at, REPLACEMENT)),
                _ => None,
            })
            .max()
            .filter(|until| *until > now)
    }

    fn publish(
        &mut self,
        pod: &Pod,
        items: &[Item],
        sandbox: Option<&SandboxStatus>,
        desired: &Desired,
    ) {
        let status = status::compute(&status::View {
            pod,
            items,
            sandbox,
            memory: &self.memory,
            host_ips: &self.host.node_ips,
            max_backoff: self.host.max_backoff(),
            now: self.host.clock.now(),
        });
        if status != self.memory.last {
            self.memory.last = status.clone();
        }
        self.host.statuses.set(self.uid(), status);
        let deleting = pod.metadata.deletion_timestamp.is_some() && !desired.gone;
        if self.memory.torn_down && deleting && !self.is_static {
            self.host.statuses.finish(self.uid());
        }
    }

    async fn refresh_volumes(&mut self, pod: &Pod) {
        if let Err(error) = self.host.volumes.set_up(pod, self.uid(), true).await {
            self.host
                .event(pod, None, Kind::Warning, "FailedMount", error.to_string());
        }
    }
}
