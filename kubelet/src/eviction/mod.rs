//! The eviction manager: watches what the node has left, sets its pressure conditions, frees what nobody uses and, if
//! that is not enough, ends one pod at a time. Local limits of pods (emptyDir sizes, ephemeral storage) are kept here too.

pub mod local;
pub mod rank;
pub mod thresholds;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use keelson_runtime::recorder::Kind;
use tokio::sync::watch;

use crate::host::Host;
use crate::images::collect::Collector;
use crate::node::machine;
use crate::pods::manager::Manager;
use crate::pods::memory::Verdict;
use crate::pods::resources::{self, Qos};
use crate::pods::{containers, logs};
use crate::runtime::SandboxStatus;
use rank::{Candidate, ContainerUse};
use thresholds::{History, Observation, Observations, Signal, Threshold};

/// How often the node is looked at.
const PERIOD: Duration = Duration::from_secs(10);

/// The conditions that hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Too little memory.
    pub memory: bool,
    /// Too little disk.
    pub disk: bool,
    /// Too few process ids.
    pub pids: bool,
}

impl Pressure {
    /// Why a new pod is not taken under this pressure; `None` if it is.
    pub fn refuses(self, pod: &Pod) -> Option<Verdict> {
        if rank::critical(pod) || self == Self::default() {
            return None;
        }
        let only_memory = self.memory && !self.disk && !self.pids;
        if only_memory {
            let tolerates = pod
                .spec
                .iter()
                .flat_map(|s| s.tolerations.iter().flatten())
                .any(|t| {
                    t.key
                        .as_deref()
                        .is_none_or(|k| k == "node.kubernetes.io/memory-pressure")
                        && t.effect.as_deref().is_none_or(|e| e == "NoSchedule")
                });
            if resources::qos(pod) != Qos::BestEffort || tolerates {
                return None;
            }
        }
        let names = [
            (self.memory, "MemoryPressure"),
            (self.disk, "DiskPressure"),
            (self.pids, "PIDPressure"),
        ];
        let on: Vec<&str> = names
            .iter()
            .filter(|(on, _)| *on)
            .map(|(_, n)| *n)
            .collect();
        Some(Verdict {
            reason: "Evicted".into(),
            message: format!(
                "Pod was rejected: The node had condition: [{}]. ",
                on.join(", ")
            ),
            ..Verdict::default()
        })
    }
}

/// The manager.
pub struct Evictions {
    host: Arc<Host>,
    pods: Arc<Manager>,
    images: Arc<Collector>,
    thresholds: Vec<Threshold>,
    pressure: watch::Sender<Pressure>,
}

/// What the node has left.
pub fn observe(host: &Host) -> Observations {
    let mut seen = BTreeMap::new();
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let get = |key: &str| machine::meminfo(&meminfo, key);
    if let (Some(capacity), Some(free)) = (get("MemTotal"), get("MemFree")) {
        // What the page cache gives up first counts as free, as in upstream's working set.
        let available = free + get("Inactive(file)").unwrap_or(0);
        seen.insert(
            Signal::Memory,
            Observation {
                available,
                capacity,
            },
        );
    }
    if let Ok(fs) = machine::fs_stats(&host.root_dir) {
        let bytes = Observation {
            available: fs.available,
            capacity: fs.total,
        };
        seen.insert(Signal::NodeFs, bytes);
        seen.insert(Signal::ImageFs, bytes);
        if fs.inodes > 0 {
            let inodes = Observation {
                available: fs.inodes_free,
                capacity: fs.inodes,
            };
            seen.insert(Signal::NodeInodes, inodes);
            seen.insert(Signal::ImageInodes, inodes);
        }
    }
    let number =
        |path: &str| -> Option<u64> { std::fs::read_to_string(path).ok()?.trim().parse().ok() };
    let most = [
        number("/proc/sys/kernel/pid_max"),
        number("/proc/sys/kernel/threads-max"),
    ];
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let running = load
        .split_whitespace()
        .nth(3)
        .and_then(|f| f.split_once('/')?.1.parse::<u64>().ok());
    if let (Some(capacity), Some(running)) = (most.into_iter().flatten().min(), running) {
        let available = capacity.saturating_sub(running);
        seen.insert(
            Signal::Pids,
            Observation {
                available,
                capacity,
            },
        );
    }
    seen
}

impl Evictions {
    /// Fails if the configuration's thresholds are none.
    pub fn new(
        host: Arc<Host>,
        pods: Arc<Manager>,
        images: Arc<Collector>,
        pressure: watch::Sender<Pressure>,
    ) -> Result<Self, String> {
        let thresholds = thresholds::parse(&host.config)?;
        Ok(Self {
            host,
            pods,
            images,
            thresholds,
            pressure,
        })
    }

    /// Looks until dropped.
    pub async fn run(self) {
        let mut history = History::default();
        loop {
            self.look(&mut history).await;
            tokio::time::sleep(PERIOD).await;
        }
    }

    async fn look(&self, history: &mut History) {
        let now = self.host.clock.now();
        let seen = observe(&self.host);
        let acting = history.observe(&self.thresholds, &seen, now);
        let transition = self.host.config.eviction_pressure_transition_period;
        let has = |condition| history.has(condition, transition, now);
        let pressure = Pressure {
            memory: has("MemoryPressure"),
            disk: has("DiskPressure"),
            pids: has("PIDPressure"),
        };
        if self
            .pressure
            .send_if_modified(|old| std::mem::replace(old, pressure) != pressure)
        {
            self.host.node_changed.notify_one();
        }
        if self.host.config.local_storage_capacity_isolation && self.over_limits().await {
            return;
        }
        let Some(threshold) = acting.first() else {
            return;
        };
        let resource = threshold.signal.resource();
        tracing::warn!(signal = ?threshold.signal, "the node runs short, attempting to reclaim");
        self.host.node_event(
            Kind::Warning,
            "EvictionThresholdMet",
            format!("Attempting to reclaim {resource}"),
        );
        if threshold.signal.on_disk() && self.reclaim(history).await {
            return;
        }
        self.evict_one(threshold, &seen).await;
    }

    /// Removes what nobody uses; whether that was enough.
    async fn reclaim(&self, history: &mut History) -> bool {
        self.remove_dead_containers().await;
        if let Err(error) = self.images.free(&self.host, &self.pods, u64::MAX).await {
            tracing::warn!(%error, "removing unused images");
        }
        let seen = observe(&self.host);
        history
            .observe(&self.thresholds, &seen, self.host.clock.now())
            .iter()
            .all(|t| !t.signal.on_disk())
    }

    /// Containers of pods that are over, and attempts that were followed by others.
    async fn remove_dead_containers(&self) {
        let runtime = &self.host.runtime.runtime;
        let Ok(sandboxes) = runtime.list().await else {
            return;
        };
        for sandbox in &sandboxes {
            for status in &sandbox.containers {
                let newest = containers::latest(Some(sandbox), &status.container.name)
                    .is_some_and(|latest| latest.container == status.container);
                let dead = containers::exit_code(status).is_some();
                // The newest attempt says how the pod came out, as long as it goes on.
                if !dead || (newest && sandbox.ready) {
                    continue;
                }
                if let Err(error) = runtime.remove_container(&status.container).await {
                    tracing::warn!(%error, container = %status.container.name, "removing a dead container");
                    continue;
                }
                logs::remove(&self.host, &sandbox.pod, status);
            }
        }
    }

    async fn evict_one(&self, threshold: &Threshold, seen: &Observations) {
        let mut candidates = self.candidates(threshold.signal).await;
        rank::rank(threshold.signal, &mut candidates);
        let Some(seen) = seen.get(&threshold.signal).copied() else {
            return;
        };
        for candidate in candidates {
            if rank::critical(&candidate.pod) {
                continue;
            }
            let most = u64::try_from(self.host.config.eviction_max_pod_grace_period).unwrap_or(0);
            let own = candidate
                .pod
                .spec
                .as_ref()
                .and_then(|s| s.termination_grace_period_seconds)
                .and_then(|s| u64::try_from(s).ok())
                .unwrap_or(most);
            let grace = match threshold.grace {
                // A hard threshold leaves no time; upstream's least is a second.
                None => Duration::from_secs(1),
                Some(_) => Duration::from_secs(own.min(most)),
            };
            let message = rank::message(threshold, seen, &candidate);
            self.evict(&candidate.pod, message, grace);
            return;
        }
        tracing::warn!("the node runs short, and no pod can be evicted");
    }

    fn evict(&self, pod: &Pod, message: String, grace: Duration) {
        tracing::warn!(
            pod = pod.metadata.name.as_deref(),
            namespace = pod.metadata.namespace.as_deref(),
            %message,
            "evicting a pod"
        );
        self.host
            .event(pod, None, Kind::Warning, "Evicted", message.clone());
        let verdict = Verdict {
            reason: "Evicted".into(),
            message,
            grace: Some(grace),
            disruption: Some("TerminationByKubelet"),
        };
        self.pods
            .evict(pod.metadata.uid.as_deref().unwrap_or_default(), verdict);
    }

    /// Pods that run, with what they use.
    async fn candidates(&self, signal: Signal) -> Vec<Candidate> {
        let runtime = &self.host.runtime.runtime;
        let mut found = Vec::new();
        for pod in self.active() {
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            let Ok(Some(sandbox)) = runtime.sandbox(&uid).await else {
                continue;
            };
            let usage = runtime.pod_usage(&uid).await.unwrap_or_default();
            let mut containers = self.container_use(&sandbox, signal).await;
            let volumes = if signal.on_disk() {
                local::volumes(&self.host, &pod).await.values().sum()
            } else {
                0
            };
            containers.sort_by(|a, b| a.name.cmp(&b.name));
            found.push(Candidate {
                memory: usage.memory_working_set,
                disk: volumes + containers.iter().map(|c| c.disk).sum::<u64>(),
                pids: usage.pids,
                containers,
                pod: Arc::new(pod),
            });
        }
        found
    }

    async fn container_use(&self, sandbox: &SandboxStatus, signal: Signal) -> Vec<ContainerUse> {
        let mut all = Vec::new();
        for status in sandbox.containers.iter().filter(|c| containers::running(c)) {
            let runtime = &self.host.runtime.runtime;
            let usage = runtime.usage(&status.container).await.unwrap_or_default();
            all.push(ContainerUse {
                name: status.container.name.clone(),
                memory: usage.memory_working_set,
                disk: if signal.on_disk() {
                    local::container(&self.host, &sandbox.pod, status).await
                } else {
                    0
                },
            });
        }
        all
    }

    fn active(&self) -> Vec<Pod> {
        let mut pods = self.pods.pods();
        pods.retain(|pod| {
            let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
            !matches!(phase, Some("Succeeded" | "Failed"))
                && pod.metadata.deletion_timestamp.is_none()
        });
        pods
    }

    /// Ends pods that use more of the disk than they may; whether there were any.
    async fn over_limits(&self) -> bool {
        let mut any = false;
        for pod in self.active() {
            if let Some(message) = local::over(&self.host, &pod).await
                && !rank::critical(&pod)
            {
                self.evict(&pod, message, Duration::from_secs(1));
                any = true;
            }
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn who_is_refused_under_pressure() {
        let pod = |spec: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"spec": spec})).unwrap()
        };
        let best = pod(json!({"containers": [{"name": "c"}]}));
        let burst =
            pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1m"}}}]}));
        let memory = Pressure {
            memory: true,
            ..Pressure::default()
        };
        assert_eq!(memory.refuses(&burst), None);
        let verdict = memory.refuses(&best).unwrap();
        assert_eq!(
            verdict.message,
            "Pod was rejected: The node had condition: [MemoryPressure]. "
        );
        let disk = Pressure {
            disk: true,
            ..Pressure::default()
        };
        assert!(disk.refuses(&burst).is_some());
        let system = pod(json!({"priority": 2_000_000_000, "containers": []}));
        assert_eq!(disk.refuses(&system), None);
    }
}
