//! What a budget's status is to say. No I/O.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::pod;

/// How long an eviction that was granted may take to show as a deletion.
const DELETION_TIMEOUT: i64 = 120;

fn part(value: &IntOrString, total: i32) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent: i64 = text
                .strip_suffix('%')
                .and_then(|percent| percent.parse().ok())
                .unwrap_or(0);
            i32::try_from((percent * i64::from(total) + 99) / 100).unwrap_or(i32::MAX)
        }
    }
}

/// What is known of one budget.
pub struct Snapshot<'a> {
    /// The budget.
    pub budget: &'a PodDisruptionBudget,
    /// The pods that it covers.
    pub pods: &'a [Arc<Pod>],
    /// How many pods their owners ask for, where [`needs_scale`] asks for that.
    pub scale: i32,
    /// The time.
    pub now: Timestamp,
}

/// What comes of it.
pub struct Count {
    /// The status, with its condition.
    pub status: PodDisruptionBudgetStatus,
    /// When the next granted eviction that was not carried out is to be forgotten.
    pub again: Option<Duration>,
    /// The pods whose eviction was granted too long ago.
    pub late: Vec<Arc<Pod>>,
}

/// Whether it matters how many pods there should be, and not only how many there are.
pub fn needs_scale(budget: &PodDisruptionBudget) -> bool {
    budget.spec.as_ref().is_some_and(|spec| {
        spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
    })
}

/// Counts.
pub fn count(snapshot: &Snapshot<'_>) -> Count {
    let spec = snapshot.budget.spec.clone().unwrap_or_default();
    let before = snapshot.budget.status.clone().unwrap_or_default();
    let total = i32::try_from(snapshot.pods.len()).unwrap_or(i32::MAX);
    let scale = snapshot.scale;
    let (expected, desired) = match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => (scale, (scale - part(most, scale)).max(0)),
        (None, Some(IntOrString::Int(least))) => (total, *least),
        (None, Some(least)) => (scale, part(least, scale)),
        (None, None) => (0, 0),
    };
    let (mut disrupted, mut late) = (BTreeMap::new(), Vec::new());
    let mut again: Option<i64> = None;
    for (name, at) in before.disrupted_pods.iter().flatten() {
        let pod = snapshot
            .pods
            .iter()
            .find(|pod| pod.metadata.name.as_ref() == Some(name) && !pod::is_deleting(pod));
        let Some(pod) = pod else {
            continue;
        };
        let left = at.0.as_second() + DELETION_TIMEOUT - snapshot.now.as_second();
        if left > 0 {
            disrupted.insert(name.clone(), at.clone());
            again = Some(again.map_or(left, |again| again.min(left)));
        } else {
            late.push(pod.clone());
        }
    }
    let healthy = snapshot.pods.iter().filter(|pod| {
        !pod::is_deleting(pod) && pod::is_ready(pod) && !disrupted.contains_key(&pod.name_any())
    });
    let healthy = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
    // A budget that covers nothing yet must not let the first pods go before they are counted.
    let allowed = if expected <= 0 {
        0
    } else {
        (healthy - desired).max(0)
    };
    let mut status = PodDisruptionBudgetStatus {
        conditions: before.conditions,
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        disrupted_pods: Some(disrupted).filter(|disrupted| !disrupted.is_empty()),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected),
        observed_generation: snapshot.budget.metadata.generation,
    };
    let reason = match allowed {
        0 => ("False", "InsufficientPods"),
        _ => ("True", "SufficientPods"),
    };
    judge(&mut status, reason, "", snapshot.now);
    Count {
        status,
        again: again
            .and_then(|left| u64::try_from(left).ok())
            .map(Duration::from_secs),
        late,
    }
}

/// The status of a budget that can't be counted: nobody is evicted.
pub fn fail_safe(
    budget: &PodDisruptionBudget,
    why: &str,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let mut status = budget.status.clone().unwrap_or_default();
    status.disruptions_allowed = Some(0);
    judge(&mut status, ("False", "SyncFailed"), why, now);
    status
}

/// Sets the condition that says whether evictions are allowed.
fn judge(
    status: &mut PodDisruptionBudgetStatus,
    (value, reason): (&str, &str),
    message: &str,
    now: Timestamp,
) {
    let generation = status.observed_generation;
    let conditions = status.conditions.get_or_insert_default();
    let before = conditions
        .iter()
        .find(|condition| condition.type_ == "DisruptionAllowed");
    let since = before
        .filter(|own| own.status == value)
        .map_or(Time(now), |own| own.last_transition_time.clone());
    conditions.retain(|condition| condition.type_ != "DisruptionAllowed");
    conditions.push(Condition {
        type_: "DisruptionAllowed".into(),
        status: value.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: since,
        observed_generation: generation,
    });
}

/// A selector as upstream's programs print it.
pub fn printed(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else {
        return "nil".to_owned();
    };
    let mut text = String::from("&LabelSelector{MatchLabels:map[string]string{");
    for (key, value) in selector.match_labels.iter().flatten() {
        // Writing to a string cannot fail.
        let _ = write!(text, "{key}: {value},");
    }
    text.push_str("},MatchExpressions:[]LabelSelectorRequirement{");
    for part in selector.match_expressions.iter().flatten() {
        let values = part.values.as_deref().unwrap_or_default().join(" ");
        let _ = write!(
            text,
            "LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},",
            part.key, part.operator
        );
    }
    text.push_str("},}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::tests::pod as make;
    use serde_json::{Value, json};

    fn counted(spec: Value, pods: &str, scale: i32, disrupted: Value) -> Count {
        let budget: PodDisruptionBudget =
            serde_json::from_value(json!({"metadata": {"generation": 3}, "spec": spec, "status": {"disruptedPods": disrupted,
            "currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0}}))
            .unwrap();
        let pods: Vec<_> = pods
            .chars()
            .enumerate()
            .map(|(n, state)| {
                let status = if state == 'r' { "True" } else { "False" };
                Arc::new(make(&format!("p{n}"), json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": status}]}})))
            })
            .collect();
        count(&Snapshot {
            budget: &budget,
            pods: &pods,
            scale,
            now: Timestamp::UNIX_EPOCH,
        })
    }

    fn allowed(spec: Value, pods: &str, scale: i32, disrupted: Value) -> (i32, i32, i32) {
        let status = counted(spec, pods, scale, disrupted).status;
        (
            status.current_healthy.unwrap(),
            status.desired_healthy.unwrap(),
            status.disruptions_allowed.unwrap(),
        )
    }

    #[test]
    fn counts() {
        for (spec, pods, scale, expected) in [
            (json!({"minAvailable": 2}), "rrr", 0, (3, 2, 1)),
            (json!({"minAvailable": 2}), "r..", 0, (1, 2, 0)),
            (json!({"maxUnavailable": 1}), "rrr", 3, (3, 2, 1)),
            (json!({"maxUnavailable": "50%"}), "rrrrr", 5, (5, 2, 3)),
            (json!({"minAvailable": "50%"}), "rrr", 5, (3, 3, 0)),
            (json!({"maxUnavailable": 1}), "rrr", 0, (3, 0, 0)),
            (json!({"minAvailable": 0}), "", 0, (0, 0, 0)),
        ] {
            assert_eq!(
                allowed(spec.clone(), pods, scale, json!({})),
                expected,
                "{spec}"
            );
        }
    }

    #[test]
    fn granted_evictions_count_until_the_deletion_shows_or_two_minutes_have_passed() {
        let spec = json!({"minAvailable": 2});
        let fresh = json!({"p0": "1969-12-31T23:59:50Z"});
        assert_eq!(allowed(spec.clone(), "rrr", 0, fresh.clone()), (2, 2, 0));
        assert_eq!(
            counted(spec.clone(), "rrr", 0, fresh).again,
            Some(Duration::from_secs(110))
        );
        let stale = json!({"p0": "1969-12-31T23:50:00Z"});
        let count = counted(spec.clone(), "rrr", 0, stale.clone());
        assert_eq!(count.late[0].name_any(), "p0");
        assert_eq!(allowed(spec, "rrr", 0, stale), (3, 2, 1));
    }

    #[test]
    fn what_can_not_be_counted_allows_nothing() {
        let budget: PodDisruptionBudget = serde_json::from_value(json!({"metadata": {"generation": 4}, "status":
            {"currentHealthy": 2, "desiredHealthy": 1, "disruptionsAllowed": 1, "expectedPods": 2, "observedGeneration": 3}}))
        .unwrap();
        let status = fail_safe(&budget, "why", Timestamp::UNIX_EPOCH);
        assert_eq!(status.disruptions_allowed, Some(0));
        assert_eq!(
            status.observed_generation,
            Some(3),
            "the newest spec was not counted"
        );
        let condition = &status.conditions.unwrap()[0];
        assert_eq!(
            (condition.reason.as_str(), condition.message.as_str()),
            ("SyncFailed", "why")
        );
    }

    #[test]
    fn selectors_are_printed_as_go_does() {
        let selector: LabelSelector = serde_json::from_value(json!({"matchLabels": {"a": "b"},
            "matchExpressions": [{"key": "c", "operator": "In", "values": ["d", "e"]}]}))
        .unwrap();
        assert_eq!(
            printed(Some(&selector)),
            "&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{LabelSelectorRequirement{Key:c,Operator:In,Values:[d e],},},}"
        );
    }
}
