//! Taking in what tasks and probes report.

use std::time::Duration;

use super::super::containers::Item;
use super::super::memory::{Doom, ImageProgress};
use super::{Report, Worker};
use crate::clock;
use crate::probes::prober;

impl Worker {
    pub(super) fn absorb(&mut self, report: Report, items: &[Item]) {
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

    pub(super) fn absorb_verdict(&mut self, verdict: &prober::Verdict, items: &[Item]) {
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

    pub(super) fn drain_reports(&mut self, items: &[Item]) -> bool {
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
}
