//! Taking in what the runtime shows: ended and running containers, and what follows for probes and limits.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;

use super::super::containers::{self, Item};
use super::super::memory::{Doom, ImageProgress, Probed, Replacement, Stage};
use super::super::{start, termination};
use super::{Probes, Worker};
use crate::probes::prober::{self, Prober};
use crate::runtime::{ContainerRef, ContainerState, SandboxStatus};

impl Worker {
    /// Takes in what the runtime reports: messages of ended containers, probes of running ones, changed specs.
    pub(super) async fn learn(
        &mut self,
        pod: &Arc<Pod>,
        items: &[Item],
        sandbox: Option<&SandboxStatus>,
    ) {
        super::super::lost::mark(&mut self.memory, sandbox, self.host.clock.now());
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
        let now = self.host.clock.now();
        for item in items {
            let Some(found) = containers::latest(sandbox, item.name()) else {
                continue;
            };
            let running = containers::running(found);
            let changed = running
                && Some(found.image.as_str()) != item.container.image.as_deref()
                && !found.image.is_empty();
            let progress = self.memory.container(item.name());
            if running && progress.doom.is_none() {
                progress.replacement = None;
            }
            if !running {
                if progress.replacement == Some(Replacement::Stopping) {
                    progress.replacement = Some(Replacement::Ended(now));
                }
                progress.doom = None;
                progress.stopping = None;
                progress.probed = Probed::default();
            } else if changed && progress.doom.is_none() {
                progress.doom = Some(Doom {
                    message: format!(
                        "Container {} definition changed, will be restarted",
                        item.name()
                    ),
                    grace: None,
                });
                progress.replacement = Some(Replacement::Stopping);
                progress.image = ImageProgress::Unknown;
            }
        }
        self.watch_probes(pod, items, sandbox);
        if self.memory.stage == Stage::Running {
            self.resize(pod, items, sandbox).await;
        }
    }

    /// Starts probes of containers that run, ends those of containers that don't.
    pub(super) fn watch_probes(
        &mut self,
        pod: &Arc<Pod>,
        items: &[Item],
        sandbox: Option<&SandboxStatus>,
    ) {
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
}
