//! The worker of one pod: looks, asks [`super::plan`], does, publishes; until nothing of the pod is left.
//!
//! Slow things (pulls, hooks, stops) run as tasks that report back, so that a deletion is never held up by them.

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
use super::memory::{Doom, ImageProgress, Memory, Stage, Verdict};
use super::{plan, resources, start, status, termination};
use crate::clock;
use crate::host::Host;
use crate::images::fetch;
use crate::probes::prober::{self, Prober};
use crate::runtime::{ContainerRef, ContainerState, Image, PodRef, Resources, SandboxStatus};

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
    applied: HashMap<ContainerRef, Resources>,
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
        applied: HashMap::new(),
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
        let mut stale = true;
        loop {
            let desired = self.desired.borrow_and_update().clone();
            let pod = desired.pod.clone();
            let items = containers::of(&pod);
            self.advance_stage(&desired);
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
            self.publish(&pod, &items, sandbox.as_ref(), &desired);
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

    fn drain_reports(&mut self, items: &[Item]) -> bool {
        let mut any = false;
        while let Ok(report) = self.reports.try_recv() {
            self.absorb(report, items);
            any = true;
        }
        while let Ok(verdict) = self.verdicts.try_recv() {
            self.absorb(Report::Probed(verdict), items);
            any = true;
        }
        any
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
                    deadline: clock::after(now, self.grace(&desired.pod)),
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

    /// Takes in what the runtime reports: messages of ended containers, probes of running ones, changed specs.
    async fn learn(&mut self, pod: &Arc<Pod>, items: &[Item], sandbox: Option<&SandboxStatus>) {
        super::lost::mark(&mut self.memory, sandbox, self.host.clock.now());
        let all = sandbox.map(|s| s.containers.as_slice()).unwrap_or_default();
        for found in all {
            let Some(item) = items.iter().find(|i| i.name() == found.container.name) else {
                continue;
            };
            if let ContainerState::Exited { exit_code, .. } = found.state {
                let container = &found.container;
                let file = start::termination_file(&self.host, container);
                let progress = self.memory.container(&container.name);
                progress
                    .messages
                    .entry(container.attempt)
                    .or_insert_with(|| {
                        termination::read(&item.container, &file, &found.log_path, exit_code)
                    });
            }
        }
        for item in items {
            let Some(found) = containers::latest(sandbox, item.name()) else {
                continue;
            };
            let running = containers::running(found);
            let changed = running
                && Some(found.image.as_str()) != item.container.image.as_deref()
                && !found.image.is_empty();
            let progress = self.memory.container(item.name());
            if !running {
                progress.doom = None;
                progress.stopping = None;
                progress.probed = super::memory::Probed::default();
            } else if changed && progress.doom.is_none() {
                progress.doom = Some(Doom {
                    message: format!(
                        "Container {} definition changed, will be restarted",
                        item.name()
                    ),
                    grace: None,
                });
                progress.image = ImageProgress::Unknown;
            }
        }
        self.watch_probes(pod, items, sandbox);
        if self.memory.stage == Stage::Running {
            self.resize(pod, items, sandbox).await;
        }
    }

    /// Starts probes of containers that run, ends those of containers that don't.
    fn watch_probes(&mut self, pod: &Arc<Pod>, items: &[Item], sandbox: Option<&SandboxStatus>) {
        let alive = |c: &ContainerRef| {
            containers::latest(sandbox, &c.name)
                .is_some_and(|s| s.container == *c && containers::running(s))
        };
        self.probes.retain(|container, _| alive(container));
        let Some(sandbox) = sandbox else { return };
        for item in items {
            let Some(found) = containers::latest(Some(sandbox), item.name()) else {
                continue;
            };
            let ContainerState::Running { started_at, .. } = found.state else {
                continue;
            };
            let own = &item.container;
            let wanted = [
                (prober::Kind::Startup, own.startup_probe.as_ref()),
                (prober::Kind::Liveness, own.liveness_probe.as_ref()),
                (prober::Kind::Readiness, own.readiness_probe.as_ref()),
            ];
            if self.probes.contains_key(&found.container) || wanted.iter().all(|(_, p)| p.is_none())
            {
                continue;
            }
            let (started, started_seen) = watch::channel(own.startup_probe.is_none());
            let mut tasks = Vec::new();
            for (kind, probe) in wanted {
                let Some(probe) = probe else { continue };
                let prober = Prober {
                    host: self.host.clone(),
                    pod: pod.clone(),
                    item: item.clone(),
                    container: found.container.clone(),
                    ip: start::pod_ips(&self.host, pod, sandbox).first().copied(),
                    kind,
                    probe: probe.clone(),
                    started_at,
                    started: started_seen.clone(),
                    verdicts: self.verdict_sender.clone(),
                };
                tasks.push(self.tasks.spawn(prober.run()));
            }
            self.probes
                .insert(found.container.clone(), Probes { started, tasks });
        }
    }

    /// Gives running containers the limits their spec now asks for.
    async fn resize(&mut self, pod: &Pod, items: &[Item], sandbox: Option<&SandboxStatus>) {
        for item in items {
            let Some(found) =
                containers::latest(sandbox, item.name()).filter(|s| containers::running(s))
            else {
                continue;
            };
            let wanted = resources::of_container(pod, &item.container, &self.host.limits);
            match self.applied.get(&found.container) {
                Some(applied) if *applied == wanted => continue,
                // After a restart of the kubelet: what runs was made from this spec or is set to it below.
                _ => {}
            }
            let first = !self.applied.contains_key(&found.container);
            if let Err(error) = self
                .host
                .runtime
                .runtime
                .update_resources(&found.container, &wanted)
                .await
            {
                tracing::warn!(%error, container = item.name(), "setting limits of a running container");
                if !first {
                    let message = format!("Error resizing container {}: {error}", item.name());
                    self.host.event(
                        pod,
                        Some(&item.field_path),
                        Kind::Warning,
                        "ResizeError",
                        message,
                    );
                }
            }
            self.applied.insert(found.container.clone(), wanted);
        }
        self.applied
            .retain(|c, _| containers::latest(sandbox, &c.name).is_some_and(|s| s.container == *c));
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

    async fn perform(
        &mut self,
        step: plan::Step,
        pod: &Arc<Pod>,
        items: &[Item],
        sandbox: Option<&SandboxStatus>,
    ) {
        let item = |name: &str| items.iter().find(|i| i.name() == name);
        let now = self.host.clock.now();
        match step {
            plan::Step::Prepare { volumes, sandbox } => self.prepare(pod, volumes, sandbox).await,
            plan::Step::WaitForNetwork => {
                if !std::mem::replace(&mut self.network_told, true) {
                    let message = "network is not ready: container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady \
                                   message:Network plugin returns error: pod range not assigned";
                    self.host
                        .event(pod, None, Kind::Warning, "NetworkNotReady", message);
                }
            }
            plan::Step::RemoveSandbox => self.remove_dead_sandbox(pod).await,
            plan::Step::FetchImage(name) => {
                if let Some(item) = item(&name) {
                    self.fetch_image(pod, item);
                }
            }
            plan::Step::Start { name, attempt } => {
                if let (Some(item), Some(sandbox)) = (item(&name), sandbox) {
                    self.start(pod, item, attempt, sandbox).await;
                }
            }
            plan::Step::BackOff { name, since } => {
                let progress = self.memory.container(&name);
                progress.backoff_told = Some(since);
                if let Some(item) = item(&name) {
                    let message = format!(
                        "Back-off restarting failed container {name} in pod {}_{}({})",
                        self.pod_ref.name, self.pod_ref.namespace, self.pod_ref.uid
                    );
                    self.host.event(
                        pod,
                        Some(&item.field_path),
                        Kind::Warning,
                        "BackOff",
                        message,
                    );
                }
            }
            plan::Step::ImageBackOff(name) => {
                if let Some(item) = item(&name) {
                    self.image_backoff(pod, item);
                }
            }
            plan::Step::Stop {
                container,
                grace,
                deadline,
            } => {
                if let Some(item) = item(&container.name) {
                    self.stop(pod, item, container, grace, deadline, sandbox);
                }
            }
            plan::Step::DeadlineExceeded => {
                let message = "Pod was active on the node longer than the specified deadline";
                self.memory.verdict = Some(Verdict {
                    reason: "DeadlineExceeded".into(),
                    message: message.into(),
                });
                self.host
                    .event(pod, None, Kind::Normal, "DeadlineExceeded", message);
                self.memory.stage = Stage::Terminating {
                    deadline: clock::after(now, self.grace(pod)),
                };
            }
            plan::Step::Complete => {
                self.memory.stage = Stage::Terminating {
                    deadline: clock::after(now, self.grace(pod)),
                }
            }
            plan::Step::TearDown => self.tear_down(sandbox).await,
        }
    }

    async fn prepare(&mut self, pod: &Arc<Pod>, volumes: bool, sandbox: bool) {
        let host = self.host.clone();
        let uid = self.pod_ref.uid.clone();
        let set_up = async {
            if volumes {
                Some(host.volumes.set_up(pod, &uid, false).await)
            } else {
                None
            }
        };
        let spec = super::sandbox::spec(&host, pod, &self.pod_ref);
        let run = async {
            if sandbox {
                match &spec {
                    Ok(spec) => Some(
                        host.runtime
                            .runtime
                            .run_sandbox(spec)
                            .await
                            .map_err(|e| e.to_string()),
                    ),
                    Err(error) => Some(Err(error.to_string())),
                }
            } else {
                None
            }
        };
        // A deletion must not wait for an object that never comes.
        let mut desired = self.desired.clone();
        desired.mark_unchanged();
        let both = tokio::select! {
            both = async { tokio::join!(set_up, run) } => both,
            _ = wait_for_end(&mut desired) => return,
        };
        let now = self.host.clock.now();
        let mut failed = false;
        match both.0 {
            Some(Ok(paths)) => {
                self.volumes = paths;
                self.memory.volumes_ready = true;
            }
            Some(Err(error)) => {
                failed = true;
                self.host
                    .event(pod, None, Kind::Warning, "FailedMount", error.to_string());
            }
            None => {}
        }
        if let Some(Err(error)) = both.1 {
            failed = true;
            let message = format!("Failed to create pod sandbox: {error}");
            self.host
                .event(pod, None, Kind::Warning, "FailedCreatePodSandBox", message);
        }
        if failed {
            let wait = match self.memory.sandbox_backoff.delay() {
                Duration::ZERO => Duration::from_secs(1),
                delay => (delay / 5).min(Duration::from_secs(30)),
            };
            self.memory
                .sandbox_backoff
                .next(now, now, Duration::from_secs(300));
            self.memory.blocked_until = Some(clock::after(now, wait));
        } else {
            self.memory.sandbox_backoff.reset();
            self.memory.blocked_until = None;
        }
    }

    async fn remove_dead_sandbox(&mut self, pod: &Pod) {
        self.host.event(
            pod,
            None,
            Kind::Normal,
            "SandboxChanged",
            "Pod sandbox changed, it will be killed and re-created.",
        );
        let runtime = self.host.runtime.runtime.clone();
        let removed = match runtime.stop_sandbox(self.uid()).await {
            Ok(()) => runtime.remove_sandbox(self.uid()).await,
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            tracing::warn!(%error, pod = %self.pod_ref.name, "removing a dead sandbox");
            tokio::time::sleep(Duration::from_secs(1)).await;
            return;
        }
        super::lost::forget_progress(&mut self.memory);
    }

    fn fetch_image(&mut self, pod: &Arc<Pod>, item: &Item) {
        let progress = self.memory.container(item.name());
        progress.image = ImageProgress::Fetching;
        let (host, pod, item, uid) = (
            self.host.clone(),
            pod.clone(),
            item.clone(),
            self.pod_ref.uid.clone(),
        );
        let reporter = self.reporter.clone();
        self.tasks.spawn(async move {
            let outcome = fetch::fetch(&host, &pod, &uid, &item).await;
            // The worker may have ended; then nobody needs to know.
            let _ = reporter
                .send(Report::Fetched(item.name().to_owned(), outcome))
                .await;
        });
    }

    fn image_backoff(&mut self, pod: &Pod, item: &Item) {
        let image = item.container.image.clone().unwrap_or_default();
        let progress = self.memory.container(item.name());
        if let ImageProgress::Failed { told, .. } = &mut progress.image {
            *told = true;
        }
        let why = progress
            .waiting
            .take()
            .map(|(reason, message)| format!(": {reason}: {message}"))
            .unwrap_or_default();
        progress.waiting = Some((
            "ImagePullBackOff".into(),
            format!("Back-off pulling image {image:?}{why}"),
        ));
        let path = Some(item.field_path.as_str());
        self.host.event(
            pod,
            path,
            Kind::Normal,
            "BackOff",
            format!("Back-off pulling image {image:?}"),
        );
        self.host.event(
            pod,
            path,
            Kind::Warning,
            "Failed",
            "Error: ImagePullBackOff",
        );
    }

    async fn start(&mut self, pod: &Arc<Pod>, item: &Item, attempt: u32, sandbox: &SandboxStatus) {
        let now = self.host.clock.now();
        let max = self.host.max_backoff();
        let progress = self.memory.container(item.name());
        let ImageProgress::Present(image) = progress.image.clone() else {
            return;
        };
        let before = containers::latest(Some(sandbox), item.name());
        if let Some(ContainerState::Exited { finished_at, .. }) = before.map(|s| &s.state) {
            progress.backoff.next(*finished_at, now, max);
        }
        let request = start::Request {
            pod,
            pod_ref: &self.pod_ref,
            item,
            attempt,
            image: &image,
            volumes: &self.volumes,
            sandbox,
        };
        let outcome = start::start(&self.host, &request).await;
        let container = ContainerRef {
            pod_uid: self.pod_ref.uid.clone(),
            name: item.name().to_owned(),
            attempt,
        };
        let progress = self.memory.container(item.name());
        // The image is looked up again for the next attempt: it may have been removed or pulled anew.
        progress.image = ImageProgress::Unknown;
        progress.probed = super::memory::Probed::default();
        match outcome {
            Ok(started) => {
                progress.waiting = None;
                progress.retry_at = None;
                progress.user = started.user;
                self.applied.insert(container.clone(), started.resources);
                self.post_start(pod, item, container, sandbox);
                self.prune(item, attempt, sandbox).await;
            }
            Err(failure) => {
                progress.waiting = Some((failure.reason.to_owned(), failure.message));
                progress.retry_at = Some(clock::after(now, Duration::from_secs(10)));
            }
        }
    }

    fn post_start(
        &mut self,
        pod: &Arc<Pod>,
        item: &Item,
        container: ContainerRef,
        sandbox: &SandboxStatus,
    ) {
        let Some(hook) = item
            .container
            .lifecycle
            .as_ref()
            .and_then(|l| l.post_start.clone())
        else {
            return;
        };
        self.memory.container(item.name()).busy = true;
        let (host, pod, item, reporter) = (
            self.host.clone(),
            pod.clone(),
            item.clone(),
            self.reporter.clone(),
        );
        let ip = start::pod_ips(&host, &pod, sandbox).first().copied();
        self.tasks.spawn(async move {
            let place = super::lifecycle::Place {
                pod: &pod,
                item: &item,
                container: &container,
                ip,
            };
            let outcome = super::lifecycle::run_hook(&host, &place, &hook)
                .await
                .map_err(|e| e.to_string());
            if outcome.is_err() {
                host.event(
                    &pod,
                    Some(&item.field_path),
                    Kind::Warning,
                    "FailedPostStartHook",
                    "PostStartHook failed",
                );
            }
            let _ = reporter.send(Report::Hooked(container, outcome)).await;
        });
    }

    /// Removes attempts that no `kubectl logs --previous` asks for any more.
    async fn prune(&mut self, item: &Item, attempt: u32, sandbox: &SandboxStatus) {
        let old = sandbox
            .containers
            .iter()
            .filter(|c| c.container.name == item.name() && c.container.attempt + 1 < attempt);
        for status in old {
            if let Err(error) = self
                .host
                .runtime
                .runtime
                .remove_container(&status.container)
                .await
            {
                tracing::warn!(%error, container = item.name(), "removing an old attempt");
                continue;
            }
            super::logs::remove(&self.host, &self.pod_ref, status);
            self.memory
                .container(item.name())
                .messages
                .remove(&status.container.attempt);
        }
    }

    fn stop(
        &mut self,
        pod: &Arc<Pod>,
        item: &Item,
        container: ContainerRef,
        grace: Duration,
        deadline: Timestamp,
        sandbox: Option<&SandboxStatus>,
    ) {
        let progress = self.memory.container(&container.name);
        progress.stopping = Some(deadline);
        let message = match &progress.doom {
            Some(doom) => doom.message.clone(),
            None => format!("Stopping container {}", container.name),
        };
        let ip = sandbox.and_then(|s| start::pod_ips(&self.host, pod, s).first().copied());
        let (host, pod, item, reporter) = (
            self.host.clone(),
            pod.clone(),
            item.clone(),
            self.reporter.clone(),
        );
        self.tasks.spawn(async move {
            let place = super::lifecycle::Place {
                pod: &pod,
                item: &item,
                container: &container,
                ip,
            };
            let outcome = super::lifecycle::stop(&host, &place, grace, &message)
                .await
                .map_err(|e| e.to_string());
            let _ = reporter.send(Report::Stopped(container, outcome)).await;
        });
    }

    fn absorb(&mut self, report: Report, items: &[Item]) {
        let now = self.host.clock.now();
        match report {
            Report::Fetched(name, Ok(image)) => {
                let progress = self.memory.container(&name);
                progress.waiting = None;
                progress.pull_backoff.reset();
                progress.image = ImageProgress::Present(image);
            }
            Report::Fetched(name, Err(failure)) => {
                let progress = self.memory.container(&name);
                progress
                    .pull_backoff
                    .next(now, now, Duration::from_secs(300));
                let retry_at = clock::after(now, progress.pull_backoff.delay());
                let told = !matches!(failure.reason, "ErrImagePull" | "RegistryUnavailable");
                progress.waiting = Some((failure.reason.to_owned(), failure.message));
                progress.image = ImageProgress::Failed {
                    since: now,
                    retry_at,
                    told,
                };
            }
            Report::Stopped(container, outcome) => {
                let progress = self.memory.container(&container.name);
                progress.stopping = None;
                if let Err(error) = outcome {
                    tracing::warn!(%error, container = %container.name, "stopping a container");
                    // Not at once again.
                    progress.stopping = Some(clock::after(now, Duration::from_secs(1)));
                    let (poke, name) = (self.reporter.clone(), container);
                    self.tasks.spawn(async move {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        let _ = poke.send(Report::Stopped(name, Ok(()))).await;
                    });
                }
            }
            Report::Hooked(container, outcome) => {
                let progress = self.memory.container(&container.name);
                progress.busy = false;
                progress.post_started = Some(container.attempt);
                if let Err(error) = outcome {
                    tracing::debug!(%error, container = %container.name, "postStart hook failed");
                    progress.doom = Some(Doom {
                        message: "FailedPostStartHook".into(),
                        grace: None,
                    });
                }
            }
            Report::Probed(verdict) => self.absorb_verdict(&verdict, items),
        }
    }

    fn absorb_verdict(&mut self, verdict: &prober::Verdict, items: &[Item]) {
        if !self.probes.contains_key(&verdict.container) {
            return;
        }
        let name = &verdict.container.name;
        let Some(item) = items.iter().find(|i| i.name() == name) else {
            return;
        };
        let own_grace = |probe: Option<&k8s_openapi::api::core::v1::Probe>| {
            probe
                .and_then(|p| p.termination_grace_period_seconds)
                .and_then(|s| u64::try_from(s).ok())
                .map(Duration::from_secs)
        };
        let (startup, liveness) = (
            own_grace(item.container.startup_probe.as_ref()),
            own_grace(item.container.liveness_probe.as_ref()),
        );
        let doom = |word: &str, grace| {
            Some(Doom {
                message: format!("Container {name} failed {word} probe, will be restarted"),
                grace,
            })
        };
        let progress = self.memory.container(name);
        match (verdict.kind, verdict.healthy) {
            (prober::Kind::Readiness, healthy) => progress.probed.readiness = Some(healthy),
            (prober::Kind::Startup, true) => {
                progress.probed.startup = Some(true);
                if let Some(probes) = self.probes.get(&verdict.container) {
                    probes.started.send_replace(true);
                }
            }
            (prober::Kind::Startup, false) => progress.doom = doom("startup", startup),
            (prober::Kind::Liveness, false) => progress.doom = doom("liveness", liveness),
            (prober::Kind::Liveness, true) => {}
        }
    }

    async fn tear_down(&mut self, sandbox: Option<&SandboxStatus>) {
        self.probes.clear();
        if sandbox.is_some()
            && let Err(error) = self.host.runtime.runtime.stop_sandbox(self.uid()).await
        {
            tracing::warn!(%error, pod = %self.pod_ref.name, "stopping the sandbox");
            tokio::time::sleep(Duration::from_secs(1)).await;
            return;
        }
        if let Err(error) = self.host.volumes.tear_down(self.uid()) {
            tracing::warn!(%error, pod = %self.pod_ref.name, "taking volumes down");
            tokio::time::sleep(Duration::from_secs(1)).await;
            return;
        }
        self.memory.stage = Stage::Terminated;
        self.memory.torn_down = true;
        self.host.objects.release(self.uid());
        self.host.volumes.tokens.forget(self.uid());
    }

    /// Removes what the pod leaves on disk.
    async fn clean_up(&mut self) {
        if let Err(error) = self.host.runtime.runtime.remove_sandbox(self.uid()).await {
            tracing::warn!(%error, pod = %self.pod_ref.name, "removing the sandbox");
        }
        if let Err(error) = self.host.volumes.forget(self.uid()) {
            tracing::warn!(%error, pod = %self.pod_ref.name, "removing the pod's directory");
        }
        super::logs::remove_pod(&self.host, &self.pod_ref);
        self.host.statuses.forget(self.uid());
        crate::probes::counts::forget(self.uid());
        self.tasks.abort_all();
    }
}

/// Resolves when the pod is to end.
async fn wait_for_end(desired: &mut watch::Receiver<Desired>) {
    let ends =
        |d: &Desired| d.gone || d.verdict.is_some() || d.pod.metadata.deletion_timestamp.is_some();
    if desired.wait_for(|d| ends(d)).await.is_err() {
        std::future::pending::<()>().await;
    }
}
