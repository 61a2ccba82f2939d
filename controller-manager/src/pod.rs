//! What controllers ask of pods: ready, available, active, and which to delete first. No I/O.

use std::cmp::Ordering;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use kube::ResourceExt;

/// The annotation that makes a pod dearer or cheaper to delete.
pub const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The pod's phase.
pub fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("")
}

/// Whether the pod has ended for good.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether the pod is being deleted.
pub fn is_deleting(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether the pod counts towards a number of replicas.
pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !is_deleting(pod)
}

/// A condition of the pod.
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status
        .as_ref()?
        .conditions
        .as_ref()?
        .iter()
        .find(|condition| condition.type_ == kind)
}

/// Whether the pod is ready.
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Since when the pod has been ready.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready")?;
    if ready.status != "True" {
        return None;
    }
    ready.last_transition_time.as_ref().map(|time| time.0)
}

/// When the last of the pod's containers ended, or else when it was told to go.
pub fn finished_at(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    status
        .container_statuses
        .iter()
        .flatten()
        .filter_map(|container| {
            Some(
                container
                    .state
                    .as_ref()?
                    .terminated
                    .as_ref()?
                    .finished_at
                    .as_ref()?
                    .0,
            )
        })
        .max()
        .or_else(|| pod.metadata.deletion_timestamp.as_ref().map(|time| time.0))
        .or_else(|| {
            condition(pod, "Ready")?
                .last_transition_time
                .as_ref()
                .map(|time| time.0)
        })
}

/// Whether the pod has been ready for `min_ready_seconds`.
pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    is_ready(pod)
        && (min_ready_seconds == 0
            || ready_since(pod).is_some_and(|since| {
                now.as_second() - since.as_second() >= i64::from(min_ready_seconds)
            }))
}

/// The node the pod is bound to, or an empty string.
pub fn node(pod: &Pod) -> &str {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.node_name.as_deref())
        .unwrap_or("")
}

/// The pod's UID, or an empty string.
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or("")
}

/// The deletion cost that the pod's annotation gives it, if that makes sense.
pub fn deletion_cost(pod: &Pod) -> i32 {
    pod.annotations()
        .get(DELETION_COST)
        .filter(|text| {
            text.as_str() == "0"
                || !text.trim_start_matches('-').starts_with('0') && !text.starts_with('+')
        })
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

fn restarts(pod: &Pod) -> i32 {
    let Some(status) = &pod.status else { return 0 };
    status
        .container_statuses
        .iter()
        .flatten()
        .chain(status.init_container_statuses.iter().flatten())
        .map(|container| container.restart_count)
        .max()
        .unwrap_or(0)
}

/// The order of deletion: what comes first goes first. `rank` is how many related pods share the pod's node.
pub fn deletion_order(a: (&Pod, usize), b: (&Pod, usize), now: Timestamp) -> Ordering {
    let ((a, a_rank), (b, b_rank)) = (a, b);
    let assigned = |pod: &Pod| !node(pod).is_empty();
    let phase_rank = |pod: &Pod| match phase(pod) {
        "Unknown" => 1,
        "Running" => 2,
        _ => 0,
    };
    assigned(a)
        .cmp(&assigned(b))
        .then_with(|| phase_rank(a).cmp(&phase_rank(b)))
        .then_with(|| is_ready(a).cmp(&is_ready(b)))
        .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
        .then_with(|| b_rank.cmp(&a_rank))
        .then_with(|| younger_first(ready_since(a), ready_since(b), now))
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| younger_first(created(a), created(b), now))
        .then_with(|| uid(a).cmp(uid(b)))
}

fn created(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

/// Compares ages on a logarithmic scale, so that which of several old pods goes is left to chance (their UIDs).
fn younger_first(a: Option<Timestamp>, b: Option<Timestamp>, now: Timestamp) -> Ordering {
    let bucket = |time: Option<Timestamp>| {
        let time = time?;
        let age = now.as_second() - time.as_second();
        Some(if age <= 0 { 0 } else { age.ilog2() + 1 })
    };
    match (bucket(a), bucket(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        // One that doesn't know counts as the youngest.
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::{Value, json};

    pub(crate) fn pod(name: &str, extra: Value) -> Pod {
        let mut value = json!({"metadata": {"name": name, "namespace": "default", "uid": name}, "spec": {"containers": []}});
        merge(&mut value, &extra);
        serde_json::from_value(value).unwrap()
    }

    pub(crate) fn merge(into: &mut Value, from: &Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                for (key, value) in from {
                    merge(into.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
            (into, from) => *into = from.clone(),
        }
    }

    fn ready(since: &str) -> Value {
        json!({"spec": {"nodeName": "n"}, "status": {"phase": "Running", "conditions":
            [{"type": "Ready", "status": "True", "lastTransitionTime": since}]}})
    }

    #[test]
    fn availability_waits_for_min_ready_seconds() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let pod = pod("a", ready("2026-01-01T00:00:30Z"));
        assert!(is_available(&pod, 30, now));
        assert!(!is_available(&pod, 31, now));
    }

    #[test]
    fn cheap_pods_go_first() {
        let now: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
        let mut young = ready("2026-01-01T00:59:50Z");
        merge(
            &mut young,
            &json!({"metadata": {"creationTimestamp": "2026-01-01T00:59:40Z"}}),
        );
        let mut dear = ready("2026-01-01T00:59:50Z");
        merge(
            &mut dear,
            &json!({"metadata": {"annotations": {DELETION_COST: "10"}}}),
        );
        let order = [
            pod("unassigned", json!({"status": {"phase": "Pending"}})),
            pod(
                "pending",
                json!({"spec": {"nodeName": "n"}, "status": {"phase": "Pending"}}),
            ),
            pod(
                "unready",
                json!({"spec": {"nodeName": "n"}, "status": {"phase": "Running"}}),
            ),
            pod("young", young),
            pod("old", ready("2026-01-01T00:00:00Z")),
            pod("dear", dear),
        ];
        let mut shuffled: Vec<_> = order.iter().rev().collect();
        shuffled.sort_by(|a, b| deletion_order((a, 1), (b, 1), now));
        let names: Vec<_> = shuffled.iter().map(|pod| pod.name_any()).collect();
        assert_eq!(
            names,
            order.iter().map(|pod| pod.name_any()).collect::<Vec<_>>()
        );
        // Of two that are alike the one on the more crowded node goes.
        let (a, b) = (&order[4], &order[4]);
        assert_eq!(deletion_order((a, 3), (b, 1), now), Ordering::Less);
    }

    #[test]
    fn senseless_costs_are_ignored() {
        for (text, cost) in [
            ("5", 5),
            ("-5", -5),
            ("05", 0),
            ("+5", 0),
            ("x", 0),
            ("0", 0),
        ] {
            let pod = pod(
                "a",
                json!({"metadata": {"annotations": {DELETION_COST: text}}}),
            );
            assert_eq!(deletion_cost(&pod), cost, "{text}");
        }
    }
}
