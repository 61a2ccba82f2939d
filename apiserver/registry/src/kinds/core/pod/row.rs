//! A pod's line in a table: how many containers are ready, how it fares in a word, and how often it restarted.

use jiff::Timestamp;
use serde_json::Value;

use crate::access::Access;
use crate::columns::{AGE, Column, NAME, text, wide};
use crate::print;

pub(super) const COLUMNS: &[Column] = &[
    NAME,
    text("Ready", "Ready containers of all."),
    text("Status", "How the pod fares, in a word."),
    text(
        "Restarts",
        "How often its containers restarted, and how long ago the last time.",
    ),
    AGE,
    wide("IP", "The pod's address."),
    wide("Node", "The node it runs on."),
    wide("Nominated Node", "The node kept free for it."),
    wide("Readiness Gates", "Gates that are open, of all."),
];

/// How a pod fares, counted together.
struct Summary {
    ready: usize,
    total: usize,
    reason: String,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

pub(super) fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = summarise(pod);
    let restarts = match summary.last_restart {
        Some(then) if summary.restarts != 0 => {
            format!("{} ({} ago)", summary.restarts, print::elapsed(then, now))
        }
        _ => summary.restarts.to_string(),
    };
    let ip = pod
        .items("status.podIPs")
        .first()
        .map_or(pod.text("status.podIP"), |i| i.text("ip"));
    vec![
        print::name(pod),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        print::age(pod, now),
        print::or(ip, "<none>").into(),
        print::or(pod.text("spec.nodeName"), "<none>").into(),
        print::or(pod.text("status.nominatedNodeName"), "<none>").into(),
        gates(pod).into(),
    ]
}

fn gates(pod: &Value) -> String {
    let gates = pod.items("spec.readinessGates");
    if gates.is_empty() {
        return "<none>".into();
    }
    let open = gates
        .iter()
        .filter(|g| condition_true(pod, g.text("conditionType")))
        .count();
    format!("{open}/{}", gates.len())
}

fn condition_true(pod: &Value, kind: &str) -> bool {
    pod.items("status.conditions")
        .iter()
        .any(|c| c.text("type") == kind && c.text("status") == "True")
}

fn is_sidecar(pod: &Value, name: &str) -> bool {
    pod.items("spec.initContainers")
        .iter()
        .any(|c| c.text("name") == name && c.text("restartPolicy") == "Always")
}

fn last_end(status: &Value) -> Option<Timestamp> {
    print::time(status, "lastState.terminated.finishedAt")
}

/// What ended a container, in a word.
fn ending(terminated: &Value) -> String {
    let (reason, signal) = (terminated.text("reason"), terminated.number("signal"));
    if !reason.is_empty() {
        reason.into()
    } else if signal != 0 {
        format!("Signal:{signal}")
    } else {
        format!("ExitCode:{}", terminated.number("exitCode"))
    }
}

fn summarise(pod: &Value) -> Summary {
    let phase = pod.text("status.phase");
    let gated = pod
        .items("status.conditions")
        .iter()
        .any(|c| c.text("type") == "PodScheduled" && c.text("reason") == "SchedulingGated");
    let reason = if gated {
        "SchedulingGated"
    } else {
        print::or(pod.text("status.reason"), phase)
    };
    let sidecars = pod
        .items("spec.initContainers")
        .iter()
        .filter(|c| c.text("restartPolicy") == "Always")
        .count();
    let mut summary = Summary {
        ready: 0,
        total: pod.items("spec.containers").len() + sidecars,
        reason: reason.into(),
        restarts: 0,
        last_restart: None,
    };
    let (initializing, sidecar_restarts, sidecar_last) = init_containers(pod, &mut summary);
    if !initializing || condition_true(pod, "Initialized") {
        summary.restarts = sidecar_restarts;
        summary.last_restart = sidecar_last;
        containers(pod, &mut summary);
    }
    if pod.has("metadata.deletionTimestamp") {
        if pod.text("status.reason") == "NodeLost" {
            summary.reason = "Unknown".into();
        } else if !matches!(phase, "Failed" | "Succeeded") {
            summary.reason = "Terminating".into();
        }
    }
    summary
}

/// Goes through the init containers up to the first that has not done its part. Answers whether there is one, and
/// how often and when last the sidecars among them restarted.
fn init_containers(pod: &Value, summary: &mut Summary) -> (bool, i64, Option<Timestamp>) {
    let (mut sidecar_restarts, mut sidecar_last) = (0, None);
    for (i, status) in pod.items("status.initContainerStatuses").iter().enumerate() {
        let sidecar = is_sidecar(pod, status.text("name"));
        summary.restarts += status.number("restartCount");
        summary.last_restart = summary.last_restart.max(last_end(status));
        if sidecar {
            sidecar_restarts += status.number("restartCount");
            sidecar_last = sidecar_last.max(last_end(status));
        }
        let (terminated, waiting) = (
            status.part("state.terminated"),
            status.text("state.waiting.reason"),
        );
        if !terminated.is_null() && terminated.number("exitCode") == 0 {
            continue;
        }
        if sidecar && status.flag("started") {
            summary.ready += usize::from(status.flag("ready"));
            continue;
        }
        summary.reason = if !terminated.is_null() {
            format!("Init:{}", ending(terminated))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{i}/{}", pod.items("spec.initContainers").len())
        };
        return (true, sidecar_restarts, sidecar_last);
    }
    (false, sidecar_restarts, sidecar_last)
}

fn containers(pod: &Value, summary: &mut Summary) {
    let (mut running, mut error) = (false, None);
    // The first container's word counts, so the last comes first.
    for status in pod.items("status.containerStatuses").iter().rev() {
        summary.restarts += status.number("restartCount");
        summary.last_restart = summary.last_restart.max(last_end(status));
        let (terminated, waiting) = (
            status.part("state.terminated"),
            status.text("state.waiting.reason"),
        );
        if !waiting.is_empty() {
            summary.reason = waiting.into();
        } else if !terminated.is_null() {
            summary.reason = ending(terminated);
            if terminated.number("exitCode") != 0 {
                error = Some(summary.reason.clone());
            }
        } else if status.flag("ready") && status.has("state.running") {
            running = true;
            summary.ready += 1;
        }
    }
    if summary.reason == "Completed" {
        if running && condition_true(pod, "Ready") {
            summary.reason = "Running".into();
        } else if let Some(error) = error {
            summary.reason = error;
        } else if running {
            summary.reason = "NotReady".into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(pod: &Value) -> Vec<String> {
        let now = "2024-01-01T00:01:00Z".parse().unwrap();
        cells(pod, now)[1..4]
            .iter()
            .map(|c| c.as_str().unwrap().to_string())
            .collect()
    }

    #[test]
    fn status_words_are_upstreams() {
        let running =
            json!({"name": "c", "ready": true, "restartCount": 0, "state": {"running": {}}});
        let two = json!([{"name": "a"}, {"name": "b"}]);
        let cases = [
            (
                json!({"spec": {"containers": two}, "status": {"phase": "Pending"}}),
                ["0/2", "Pending", "0"],
            ),
            (
                json!({"spec": {"containers": [{}]}, "status": {"phase": "Running", "containerStatuses": [running]}}),
                ["1/1", "Running", "0"],
            ),
            (
                json!({"spec": {"containers": [{}]}, "status": {"phase": "Running", "containerStatuses": [
                    {"restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                     "lastState": {"terminated": {"finishedAt": "2024-01-01T00:00:50Z"}}}]}}),
                ["0/1", "CrashLoopBackOff", "2 (10s ago)"],
            ),
            (
                json!({"spec": {"containers": [{}]}, "status": {"phase": "Succeeded", "containerStatuses": [
                    {"restartCount": 0, "state": {"terminated": {"reason": "Completed", "exitCode": 0}}}]}}),
                ["0/1", "Completed", "0"],
            ),
            (
                json!({"spec": {"containers": two}, "status": {"phase": "Running", "containerStatuses": [
                    {"state": {"terminated": {"reason": "Completed", "exitCode": 0}}}, {"state": {"terminated": {"exitCode": 3}}}]}}),
                ["0/2", "ExitCode:3", "0"],
            ),
            (
                json!({"spec": {"containers": [{}], "initContainers": [{"name": "i"}, {"name": "j"}]}, "status": {"phase": "Pending",
                    "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 0}}}, {"name": "j", "state": {"running": {}}}]}}),
                ["0/1", "Init:1/2", "0"],
            ),
            (
                json!({"spec": {"containers": [{}], "initContainers": [{"name": "i"}]}, "status": {"phase": "Pending",
                    "initContainerStatuses": [{"name": "i", "restartCount": 1, "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]}}),
                ["0/1", "Init:Error", "1"],
            ),
            (
                json!({"metadata": {"deletionTimestamp": "x"}, "spec": {"containers": [{}]}, "status": {"phase": "Running", "containerStatuses": [running]}}),
                ["1/1", "Terminating", "0"],
            ),
            (
                json!({"spec": {"containers": [{}], "initContainers": [{"name": "s", "restartPolicy": "Always"}]}, "status": {"phase": "Running",
                    "initContainerStatuses": [{"name": "s", "started": true, "ready": true, "state": {"running": {}}}], "containerStatuses": [running]}}),
                ["2/2", "Running", "0"],
            ),
            (
                json!({"spec": {"containers": [{}]}, "status": {"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]}}),
                ["0/1", "SchedulingGated", "0"],
            ),
            (
                json!({"spec": {"containers": [{}]}, "status": {"phase": "Failed", "reason": "Evicted"}}),
                ["0/1", "Evicted", "0"],
            ),
        ];
        for (pod, want) in cases {
            assert_eq!(shown(&pod), want, "{pod}");
        }
    }
}
