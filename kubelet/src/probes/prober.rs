//! The schedule of one probe of one running container: delay, period, thresholds; results go to the pod's worker.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Probe};
use keelson_runtime::recorder::Kind as EventKind;
use tokio::sync::{mpsc, watch};

use super::{counts, grpc, http, tcp};
use crate::exec;
use crate::host::Host;
use crate::pods::containers::Item;
use crate::runtime::ContainerRef;

/// Which probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `startupProbe`.
    Startup,
    /// `livenessProbe`.
    Liveness,
    /// `readinessProbe`.
    Readiness,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// A change of a probe's verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Of which container.
    pub container: ContainerRef,
    /// By which probe.
    pub kind: Kind,
    /// Yes or no.
    pub healthy: bool,
}

/// What a prober is made from.
pub struct Prober {
    /// The kubelet's parts.
    pub host: Arc<Host>,
    /// The pod.
    pub pod: Arc<Pod>,
    /// The container.
    pub item: Item,
    /// The running attempt.
    pub container: ContainerRef,
    /// Address of the pod.
    pub ip: Option<IpAddr>,
    /// Which probe.
    pub kind: Kind,
    /// Its settings.
    pub probe: Probe,
    /// When the container was started.
    pub started_at: jiff::Timestamp,
    /// True once the startup probe has succeeded, or if there is none.
    pub started: watch::Receiver<bool>,
    /// Where verdicts go.
    pub verdicts: mpsc::Sender<Verdict>,
}

/// Counts results until a threshold is reached. Pure.
#[derive(Debug, Clone, Default)]
pub struct Counter {
    last: Option<bool>,
    run: i32,
}

impl Counter {
    /// Notes a result; the verdict once as many in a row agree as are asked for.
    pub fn note(&mut self, healthy: bool, probe: &Probe) -> Option<bool> {
        self.run = if self.last == Some(healthy) {
            self.run.saturating_add(1)
        } else {
            1
        };
        self.last = Some(healthy);
        let wanted = if healthy {
            probe.success_threshold.unwrap_or(1)
        } else {
            probe.failure_threshold.unwrap_or(3)
        };
        (self.run >= wanted.max(1)).then_some(healthy)
    }
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(
        value
            .and_then(|s| u64::try_from(s).ok())
            .filter(|s| *s > 0)
            .unwrap_or(default),
    )
}

impl Prober {
    async fn ask(&self) -> Result<(), String> {
        let timeout = seconds(self.probe.timeout_seconds, 1);
        let own = &self.item.container;
        let host = |given: Option<&String>| match given.filter(|h| !h.is_empty()) {
            Some(host) => Ok(host.clone()),
            None => self
                .ip
                .map(|ip| ip.to_string())
                .ok_or_else(|| "the pod has no address".to_owned()),
        };
        if let Some(action) = &self.probe.exec {
            let command = action.command.clone().unwrap_or_default();
            return match exec::run(
                &*self.host.runtime.runtime,
                &self.container,
                &command,
                Some(timeout),
                10 << 10,
            )
            .await
            {
                Ok(outcome) if outcome.code == 0 => Ok(()),
                Ok(outcome) => Err(outcome.output),
                Err(error) => Err(error.to_string()),
            };
        }
        if let Some(action) = &self.probe.http_get {
            let target = http::Target::of(action, own, self.ip)?;
            return match http::get(&target, timeout).await {
                Ok(answer) if (200..400).contains(&answer.status) => Ok(()),
                Ok(answer) => Err(format!(
                    "HTTP probe failed with statuscode: {}",
                    answer.status
                )),
                Err(error @ http::HttpError::Timeout) => {
                    Err(format!("Get {:?}: {error}", target.url()))
                }
                Err(error) => Err(error.to_string()),
            };
        }
        if let Some(action) = &self.probe.tcp_socket {
            return tcp::connect(
                &host(action.host.as_ref())?,
                http::port(&action.port, own)?,
                timeout,
            )
            .await;
        }
        if let Some(action) = &self.probe.grpc {
            let port = u16::try_from(action.port)
                .map_err(|_| format!("invalid port number: {}", action.port))?;
            return grpc::check(
                &host(None)?,
                port,
                action.service.as_deref().unwrap_or_default(),
                timeout,
            )
            .await;
        }
        Err("missing probe handler".into())
    }

    fn count(&self, healthy: bool) {
        let meta = &self.pod.metadata;
        counts::add(counts::Key {
            kind: self.kind.word(),
            result: if healthy { "successful" } else { "failed" },
            container: self.item.name().to_owned(),
            pod: meta.name.clone().unwrap_or_default(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            pod_uid: meta.uid.clone().unwrap_or_default(),
        });
    }

    /// Asks until dropped; a startup probe ends with its success.
    pub async fn run(mut self) {
        let period = seconds(self.probe.period_seconds, 10);
        let delay = seconds(self.probe.initial_delay_seconds, 0);
        if self.kind != Kind::Startup && self.started.wait_for(|s| *s).await.is_err() {
            return;
        }
        let now = self.host.clock.now();
        let due = crate::clock::after(self.started_at, delay);
        tokio::time::sleep(crate::clock::until(now, due)).await;
        let mut counter = Counter::default();
        let mut told = None;
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let answer = self.ask().await;
            self.count(answer.is_ok());
            if let Err(why) = &answer {
                let message = format!("{} probe failed: {why}", self.kind.word());
                self.host.event(
                    &self.pod,
                    Some(&self.item.field_path),
                    EventKind::Warning,
                    "Unhealthy",
                    message,
                );
            }
            let Some(healthy) = counter.note(answer.is_ok(), &self.probe) else {
                continue;
            };
            if told != Some(healthy) {
                told = Some(healthy);
                let verdict = Verdict {
                    container: self.container.clone(),
                    kind: self.kind,
                    healthy,
                };
                if self.verdicts.send(verdict).await.is_err()
                    || (self.kind == Kind::Startup && healthy)
                {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_in_a_row() {
        let probe = Probe {
            success_threshold: Some(2),
            failure_threshold: Some(3),
            ..Probe::default()
        };
        let mut counter = Counter::default();
        let verdicts: Vec<_> = [true, false, true, true, false, false, false]
            .map(|h| counter.note(h, &probe))
            .into();
        assert_eq!(
            verdicts,
            [None, None, None, Some(true), None, None, Some(false)]
        );
    }
}
