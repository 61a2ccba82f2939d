//! Doing the steps of a plan.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use keelson_runtime::recorder::Kind;
use tokio::sync::watch;

use super::super::containers::{self, Item};
use super::super::memory::{ImageProgress, Stage, Verdict};
use super::super::{plan, start};
use super::{Desired, Report, Worker};
use crate::clock;
use crate::images::fetch;
use crate::runtime::{ContainerRef, ContainerState, SandboxStatus};

impl Worker {
    pub(super) async fn perform(
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
                    ..Verdict::default()
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

    pub(super) async fn prepare(&mut self, pod: &Arc<Pod>, volumes: bool, sandbox: bool) {
        let host = self.host.clone();
        let uid = self.pod_ref.uid.clone();
        let set_up = async {
            if volumes {
                Some(host.volumes.set_up(pod, &uid, false).await)
            } else {
                None
            }
        };
        let spec = super::super::sandbox::spec(&host, pod, &self.pod_ref);
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

    pub(super) async fn remove_dead_sandbox(&mut self, pod: &Pod) {
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
        super::super::lost::forget_progress(&mut self.memory);
    }

    pub(super) fn fetch_image(&mut self, pod: &Arc<Pod>, item: &Item) {
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

    pub(super) fn image_backoff(&mut self, pod: &Pod, item: &Item) {
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

    pub(super) async fn start(
        &mut self,
        pod: &Arc<Pod>,
        item: &Item,
        attempt: u32,
        sandbox: &SandboxStatus,
    ) {
        let now = self.host.clock.now();
        let max = self.host.max_backoff();
        let progress = self.memory.container(item.name());
        let ImageProgress::Present(image) = progress.image.clone() else {
            return;
        };
        let before = containers::latest(Some(sandbox), item.name());
        if let Some(ContainerState::Exited { finished_at, .. }) = before.map(|s| &s.state) {
            if progress.resize_restart.is_none() {
                progress.backoff.next(*finished_at, now, max);
            }
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
        progress.probed = super::super::memory::Probed::default();
        match outcome {
            Ok(started) => {
                progress.waiting = None;
                progress.retry_at = None;
                progress.user = started.user;
                progress.resize_restart = None;
                self.started_with(item);
                self.post_start(pod, item, container, sandbox);
                self.prune(item, attempt, sandbox).await;
            }
            Err(failure) => {
                progress.waiting = Some((failure.reason.to_owned(), failure.message));
                progress.retry_at = Some(clock::after(now, Duration::from_secs(10)));
            }
        }
    }

    pub(super) fn post_start(
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
            let place = super::super::lifecycle::Place {
                pod: &pod,
                item: &item,
                container: &container,
                ip,
            };
            let outcome = super::super::lifecycle::run_hook(&host, &place, &hook)
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
    pub(super) async fn prune(&mut self, item: &Item, attempt: u32, sandbox: &SandboxStatus) {
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
            super::super::logs::remove(&self.host, &self.pod_ref, status);
            self.memory
                .container(item.name())
                .messages
                .remove(&status.container.attempt);
        }
    }

    pub(super) fn stop(
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
            let place = super::super::lifecycle::Place {
                pod: &pod,
                item: &item,
                container: &container,
                ip,
            };
            let outcome = super::super::lifecycle::stop(&host, &place, grace, &message)
                .await
                .map_err(|e| e.to_string());
            let _ = reporter.send(Report::Stopped(container, outcome)).await;
        });
    }

    pub(super) async fn tear_down(&mut self, sandbox: Option<&SandboxStatus>) {
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
        self.host.allotments.release(self.uid());
        self.host.objects.release(self.uid());
        self.host.volumes.tokens.forget(self.uid());
    }

    /// Removes what the pod leaves on disk.
    pub(super) async fn clean_up(&mut self) {
        if let Err(error) = self.host.runtime.runtime.remove_sandbox(self.uid()).await {
            tracing::warn!(%error, pod = %self.pod_ref.name, "removing the sandbox");
        }
        if let Err(error) = self.host.volumes.forget(self.uid()) {
            tracing::warn!(%error, pod = %self.pod_ref.name, "removing the pod's directory");
        }
        super::super::logs::remove_pod(&self.host, &self.pod_ref);
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
