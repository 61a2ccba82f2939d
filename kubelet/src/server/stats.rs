//! `/stats/summary`: what the node and its pods use, as upstream's Summary.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::Response;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Server;
use super::answer::{self, Body};
use crate::node::machine;
use crate::pods::containers;
use crate::runtime::{ContainerState, Usage};

/// Least time between the two samples that a rate is made from.
const APART: Duration = Duration::from_millis(500);

/// The last CPU samples, by whose they are.
#[derive(Default)]
pub struct Samples(Mutex<HashMap<String, Sample>>);

#[derive(Clone, Copy)]
struct Sample {
    at: Timestamp,
    nanos: u64,
    rate: Option<u64>,
}

impl Samples {
    /// Nanocores between the last sample and this one.
    fn rate(&self, key: &str, nanos: u64, at: Timestamp) -> Option<u64> {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(last) = samples.get(key).copied() else {
            samples.insert(
                key.to_owned(),
                Sample {
                    at,
                    nanos,
                    rate: None,
                },
            );
            return None;
        };
        let passed = crate::clock::until(last.at, at);
        if passed < APART {
            return last.rate;
        }
        let used = nanos.saturating_sub(last.nanos);
        let rate = Some((u128::from(used) * 1_000_000_000 / passed.as_nanos().max(1)) as u64);
        samples.insert(key.to_owned(), Sample { at, nanos, rate });
        rate
    }

    fn keep(&self, keys: &[String]) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|key, _| key == "node" || keys.contains(key));
    }
}

fn cpu(samples: &Samples, key: &str, nanos: u64, at: Timestamp) -> Value {
    let mut value = json!({"time": at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(), "usageCoreNanoSeconds": nanos});
    if let Some(rate) = samples.rate(key, nanos, at) {
        value["usageNanoCores"] = rate.into();
    }
    value
}

fn memory(usage: &Usage, at: Timestamp) -> Value {
    json!({
        "time": at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "usageBytes": usage.memory_usage,
        "workingSetBytes": usage.memory_working_set,
        "rssBytes": usage.memory_rss,
        "pageFaults": usage.page_faults,
        "majorPageFaults": usage.major_page_faults,
    })
}

fn fs(path: &Path, at: Timestamp) -> Value {
    let stats = machine::fs_stats(path).unwrap_or_default();
    json!({
        "time": at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "availableBytes": stats.available, "capacityBytes": stats.total, "usedBytes": stats.used,
        "inodesFree": stats.inodes_free, "inodes": stats.inodes, "inodesUsed": stats.inodes - stats.inodes_free,
    })
}

/// What the whole node uses.
pub fn node_usage() -> Usage {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|n| n.parse().ok())
        .collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; in hundredths of a second.
    let busy: u64 = fields
        .iter()
        .enumerate()
        .filter(|(i, _)| !matches!(i, 3 | 4) && *i < 8)
        .map(|(_, v)| v)
        .sum();
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let get = |key: &str| machine::meminfo(&meminfo, key).unwrap_or(0);
    let used = get("MemTotal").saturating_sub(get("MemFree"));
    Usage {
        cpu_nanos: busy * 10_000_000,
        memory_usage: used,
        memory_working_set: used.saturating_sub(get("Inactive(file)")),
        memory_rss: get("AnonPages"),
        ..Usage::default()
    }
}

fn network(netns_pid: Option<i32>, at: Timestamp) -> Option<Value> {
    let text = std::fs::read_to_string(format!("/proc/{}/net/dev", netns_pid?)).ok()?;
    let mut interfaces = Vec::new();
    for line in text.lines().skip(2) {
        let (name, rest) = line.split_once(':')?;
        let n: Vec<u64> = rest
            .split_whitespace()
            .filter_map(|v| v.parse().ok())
            .collect();
        if name.trim() == "lo" || n.len() < 11 {
            continue;
        }
        interfaces.push(json!({"name": name.trim(), "rxBytes": n[0], "rxErrors": n[2], "txBytes": n[8], "txErrors": n[10]}));
    }
    let mut value =
        json!({"time": at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(), "interfaces": interfaces});
    if let Some(eth0) = interfaces.first() {
        for (key, field) in eth0.as_object()? {
            value[key] = field.clone();
        }
    }
    Some(value)
}

/// The summary.
pub async fn summary(server: &Server, only_cpu_and_memory: bool) -> Response<Body> {
    let runtime = &server.host.runtime.runtime;
    let samples = &server.samples;
    let now = server.host.clock.now();
    let sandboxes = match runtime.list().await {
        Ok(sandboxes) => sandboxes,
        Err(error) => {
            return answer::text(http::StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
        }
    };
    let mut keys = Vec::new();
    let mut pods = Vec::new();
    for sandbox in sandboxes.iter().filter(|s| s.ready) {
        let mut list = Vec::new();
        let mut pid = None;
        for status in sandbox.containers.iter().filter(|c| containers::running(c)) {
            let ContainerState::Running {
                pid: container_pid,
                started_at,
            } = status.state
            else {
                continue;
            };
            pid = pid.or(Some(container_pid));
            // A container that ended since the listing has nothing to tell.
            let Ok(usage) = runtime.usage(&status.container).await else {
                continue;
            };
            let key = status.id.clone();
            list.push(json!({
                "name": status.container.name,
                "startTime": started_at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                "cpu": cpu(samples, &key, usage.cpu_nanos, now),
                "memory": memory(&usage, now),
            }));
            keys.push(key);
        }
        let usage = runtime
            .pod_usage(&sandbox.pod.uid)
            .await
            .unwrap_or_default();
        let mut pod = json!({
            "podRef": {"name": sandbox.pod.name, "namespace": sandbox.pod.namespace, "uid": sandbox.pod.uid},
            "startTime": sandbox.created_at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "containers": list,
            "cpu": cpu(samples, &sandbox.pod.uid, usage.cpu_nanos, now),
            "memory": memory(&usage, now),
        });
        if !only_cpu_and_memory {
            pod["process_stats"] = json!({"process_count": usage.pids});
            if let Some(network) = network(pid, now) {
                pod["network"] = network;
            }
        }
        keys.push(sandbox.pod.uid.clone());
        pods.push(pod);
    }
    samples.keep(&keys);
    let usage = node_usage();
    let machine = machine::Machine::read(&server.host.root_dir);
    let mut node = json!({
        "nodeName": server.host.node_name,
        "cpu": cpu(samples, "node", usage.cpu_nanos, now),
        "memory": memory(&usage, now),
    });
    node["memory"]["availableBytes"] = machine
        .memory
        .saturating_sub(usage.memory_working_set)
        .into();
    if !only_cpu_and_memory {
        node["fs"] = fs(&server.host.root_dir, now);
        node["runtime"] = json!({"imageFs": fs(&server.host.root_dir, now)});
        if let Some(network) = network(Some(1), now) {
            node["network"] = network;
        }
    }
    answer::json(&json!({"node": node, "pods": pods}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_between_samples() {
        let samples = Samples::default();
        let t0: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let later = |ms| crate::clock::after(t0, Duration::from_millis(ms));
        assert_eq!(samples.rate("a", 1_000_000_000, t0), None);
        assert_eq!(
            samples.rate("a", 2_000_000_000, later(2000)),
            Some(500_000_000)
        );
        assert_eq!(
            samples.rate("a", 2_000_000_001, later(2100)),
            Some(500_000_000),
            "too soon: the last rate"
        );
        samples.keep(&[]);
        assert_eq!(samples.rate("a", 3_000_000_000, later(4000)), None);
        assert!(node_usage().memory_usage > 0);
    }
}
