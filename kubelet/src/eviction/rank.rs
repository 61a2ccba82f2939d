//! Which pod goes first when something runs short, and what is said about it. Pure.

use std::cmp::Reverse;

use k8s_openapi::api::core::v1::Pod;

use super::thresholds::{Observation, Signal, Threshold, amount};
use crate::pods::resources;
use crate::quantity;

/// What a container uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerUse {
    /// Its name.
    pub name: String,
    /// Working set in bytes.
    pub memory: u64,
    /// Bytes on disk.
    pub disk: u64,
}

/// A pod and what it uses.
#[derive(Debug, Clone, Default)]
pub struct Candidate {
    /// The pod.
    pub pod: std::sync::Arc<Pod>,
    /// Working set in bytes.
    pub memory: u64,
    /// Bytes on disk: emptyDirs, logs, writable layers.
    pub disk: u64,
    /// Processes.
    pub pids: u64,
    /// Its containers.
    pub containers: Vec<ContainerUse>,
}

/// Whether a pod is never evicted: static, mirror, or of a system priority.
pub fn critical(pod: &Pod) -> bool {
    let source = |key: &str| {
        pod.metadata
            .annotations
            .as_ref()
            .is_some_and(|a| a.get(key).is_some_and(|v| v != "api"))
    };
    source("kubernetes.io/config.source")
        || source("kubernetes.io/config.mirror")
        || priority(pod) >= 2_000_000_000
}

fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0)
}

fn request(pod: &Pod, name: &str) -> u64 {
    u64::try_from(resources::pod_request(pod, name)).unwrap_or(0)
}

/// The candidates, who goes first first: over its requests, of low priority, using much.
pub fn rank(signal: Signal, candidates: &mut [Candidate]) {
    match signal {
        Signal::Memory => candidates.sort_by_key(|c| {
            let asked = request(&c.pod, "memory");
            (
                c.memory <= asked,
                priority(&c.pod),
                Reverse(i128::from(c.memory) - i128::from(asked)),
            )
        }),
        Signal::Pids => candidates.sort_by_key(|c| (priority(&c.pod), Reverse(c.pids))),
        _ => candidates.sort_by_key(|c| {
            let asked = request(&c.pod, "ephemeral-storage");
            (
                c.disk <= asked,
                priority(&c.pod),
                Reverse(i128::from(c.disk) - i128::from(asked)),
            )
        }),
    }
}

/// Bytes as upstream prints a quantity in powers of two.
fn binary(bytes: u64) -> String {
    for (shift, unit) in [(40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")] {
        if bytes > 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// `status.message` of the evicted pod.
pub fn message(threshold: &Threshold, seen: Observation, candidate: &Candidate) -> String {
    let resource = threshold.signal.resource();
    let quantity = if threshold.value.ends_with('%') {
        binary(amount(threshold, seen))
    } else {
        threshold.value.clone()
    };
    let mut text = format!(
        "The node was low on resource: {resource}. Threshold quantity: {quantity}, available: {}. ",
        binary(seen.available)
    );
    let spec = candidate.pod.spec.as_ref();
    for used in &candidate.containers {
        let found = spec.and_then(|s| {
            s.containers
                .iter()
                .chain(s.init_containers.iter().flatten())
                .find(|c| c.name == used.name)
        });
        let requests = found.and_then(|c| c.resources.as_ref().and_then(|r| r.requests.as_ref()));
        let usage = match resource {
            "memory" => used.memory,
            "ephemeral-storage" => used.disk,
            _ => continue,
        };
        let asked = requests.and_then(|r| r.get(resource));
        let bytes = quantity::value(requests, resource).unwrap_or(0);
        if found.is_some() && usage > u64::try_from(bytes).unwrap_or(0) {
            text.push_str(&format!(
                "Container {} was using {}, request is {}, has larger consumption of {resource}. ",
                used.name,
                binary(usage),
                asked.map_or("0", |q| q.0.as_str())
            ));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn candidate(name: &str, priority: i32, asked: &str, memory: u64) -> Candidate {
        let pod = json!({"metadata": {"name": name}, "spec": {"priority": priority, "containers": [
            {"name": "c", "resources": {"requests": {"memory": asked}}}]}});
        Candidate {
            pod: serde_json::from_value(pod).unwrap(),
            memory,
            containers: vec![ContainerUse {
                name: "c".into(),
                memory,
                disk: 0,
            }],
            ..Candidate::default()
        }
    }

    #[test]
    fn who_uses_more_than_it_asked_for_goes_first() {
        let mut all = [
            candidate("modest", 0, "1Gi", 900 << 20),
            candidate("important", 10, "1Mi", 800 << 20),
            candidate("greedy", 0, "1Mi", 500 << 20),
            candidate("little", 0, "1Mi", 2 << 20),
        ];
        rank(Signal::Memory, &mut all);
        let names: Vec<_> = all
            .iter()
            .map(|c| c.pod.metadata.name.clone().unwrap())
            .collect();
        assert_eq!(names, ["greedy", "little", "important", "modest"]);
        let threshold = Threshold {
            signal: Signal::Memory,
            value: "100Mi".into(),
            grace: None,
            reclaim: None,
        };
        let seen = Observation {
            available: 50 << 20,
            capacity: 4 << 30,
        };
        assert_eq!(
            message(&threshold, seen, &all[0]),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. \
             Container c was using 500Mi, request is 1Mi, has larger consumption of memory. "
        );
        assert!(critical(&candidate("system", 2_000_000_000, "1", 1).pod));
    }
}
