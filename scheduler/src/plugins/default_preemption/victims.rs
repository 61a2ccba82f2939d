//! Who would have to go, and where that costs least: pure decisions.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use keelson_api::selector::Selector;

use crate::framework::{CycleState, Nominator, Profile, Rejection};
use crate::model::{NodeInfo, PodInfo};

/// A node on which room can be made.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) node: String,
    /// Most important first.
    pub(super) victims: Vec<Arc<PodInfo>>,
    /// How many of them a budget protects.
    pub(super) violations: usize,
}

/// When the pod began to run, for "the younger one goes first".
fn started(pod: &PodInfo) -> Option<jiff::Timestamp> {
    pod.pod
        .status
        .as_ref()
        .and_then(|status| status.start_time.as_ref())
        .map(|time| time.0)
}

/// Higher priority first, then who runs longer.
fn importance(pod: &PodInfo) -> (Reverse<i32>, jiff::Timestamp) {
    let now = jiff::Timestamp::MAX;
    (Reverse(pod.priority), started(pod).unwrap_or(now))
}

/// The fewest pods of lower priority whose leaving lets the pod in.
pub(super) fn on_node(
    profile: &Profile,
    nominator: &Nominator,
    state: &CycleState,
    pod: &PodInfo,
    node: &Arc<NodeInfo>,
    budgets: &[Arc<PodDisruptionBudget>],
) -> Result<Candidate, Rejection> {
    let mut lower: Vec<Arc<PodInfo>> = node
        .pods()
        .iter()
        .filter(|other| other.priority < pod.priority)
        .cloned()
        .collect();
    if lower.is_empty() {
        return Err(Rejection::unresolvable(
            "No preemption victims found for incoming pod",
        ));
    }
    let mut state = state.clone();
    let mut node = NodeInfo::clone(node);
    for other in &lower {
        node.remove_pod(&other.uid);
        profile.remove_pod(&mut state, pod, other, &node);
    }
    let fits = |state: &CycleState, node: &NodeInfo| {
        profile.filter_beside_nominated(nominator, state, pod, &Arc::new(node.clone()))
    };
    // Even without all of them?
    fits(&state, &node)?;
    lower.sort_by_key(|other| importance(other));
    let (protected, free) = split(&lower, budgets);
    let mut candidate = Candidate {
        node: node.name().to_owned(),
        victims: Vec::new(),
        violations: 0,
    };
    // Whoever can stay, stays: the protected are asked first, then the important.
    let order = protected.iter().map(|other| (other, true));
    for (other, is_protected) in order.chain(free.iter().map(|other| (other, false))) {
        node.add_pod(other.clone());
        profile.add_pod(&mut state, pod, other, &node);
        if fits(&state, &node).is_ok() {
            continue;
        }
        node.remove_pod(&other.uid);
        profile.remove_pod(&mut state, pod, other, &node);
        candidate.victims.push(other.clone());
        candidate.violations += usize::from(is_protected);
    }
    candidate.victims.sort_by_key(|other| importance(other));
    Ok(candidate)
}

/// Those whose eviction would break a budget, and the others; both in the order given.
fn split(
    pods: &[Arc<PodInfo>],
    budgets: &[Arc<PodDisruptionBudget>],
) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let mut left: BTreeMap<usize, i32> = BTreeMap::new();
    let (mut protected, mut free) = (Vec::new(), Vec::new());
    for pod in pods {
        let mut breaks = false;
        for (number, budget) in budgets.iter().enumerate() {
            if !covers(budget, pod) {
                continue;
            }
            let status = budget.status.as_ref();
            let gone = status.and_then(|s| s.disrupted_pods.as_ref());
            if gone.is_some_and(|gone| gone.contains_key(&pod.key.name)) {
                continue;
            }
            let allowed = status.and_then(|s| s.disruptions_allowed).unwrap_or(0);
            let left = left.entry(number).or_insert(allowed);
            *left -= 1;
            breaks |= *left < 0;
        }
        if breaks {
            protected.push(pod.clone());
        } else {
            free.push(pod.clone());
        }
    }
    (protected, free)
}

fn covers(budget: &PodDisruptionBudget, pod: &PodInfo) -> bool {
    if budget.metadata.namespace.as_deref() != Some(pod.namespace()) {
        return false;
    }
    let labels = &pod.pod.metadata.labels;
    if labels.as_ref().is_none_or(|labels| labels.is_empty()) {
        return false;
    }
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    Selector::from_label_selector(selector)
        .is_ok_and(|selector| !selector.is_empty() && selector.matches(labels))
}

/// Where it costs least: the fewest broken budgets, then the lowest highest priority of a victim, the lowest sum of
/// priorities, the fewest victims, and the latest start of the most important victims.
pub(super) fn best(candidates: Vec<Candidate>) -> Option<Candidate> {
    // Priorities may be negative: the sum must grow with every victim.
    let offset = i64::from(i32::MAX) + 1;
    candidates.into_iter().min_by_key(|candidate| {
        let highest = candidate.victims.first().map(|victim| victim.priority);
        let sum: i64 = candidate
            .victims
            .iter()
            .map(|victim| i64::from(victim.priority) + offset)
            .sum();
        let earliest = candidate
            .victims
            .iter()
            .filter(|victim| Some(victim.priority) == highest)
            .map(|victim| started(victim).unwrap_or(jiff::Timestamp::MAX))
            .min();
        (
            candidate.violations,
            highest,
            sum,
            candidate.victims.len(),
            Reverse(earliest),
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::build;
    use crate::model::Snapshot;
    use crate::plugins;

    fn node(pods: &[Arc<PodInfo>]) -> Arc<NodeInfo> {
        let mut node = NodeInfo::new(build::node("n").done());
        for pod in pods {
            node.add_pod(pod.clone());
        }
        Arc::new(node)
    }

    fn lower(name: &str, cpu: &str, priority: i32, since: &str) -> Arc<PodInfo> {
        build::pod(name)
            .container(&[("cpu", cpu)])
            .priority(priority)
            .labels(json!({"app": name}))
            .set("/status/startTime", json!(since))
            .info()
    }

    fn budget(app: &str, allowed: i32) -> Arc<PodDisruptionBudget> {
        let value = json!({
            "metadata": {"name": app, "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": app}}},
            "status": {"disruptionsAllowed": allowed, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1},
        });
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn try_on(
        cpu: &str,
        pods: &[Arc<PodInfo>],
        budgets: &[Arc<PodDisruptionBudget>],
    ) -> Result<(Vec<String>, usize), String> {
        let profile = plugins::profile_for_tests();
        let pod = build::pod("urgent")
            .container(&[("cpu", cpu)])
            .priority(100)
            .info();
        let node = node(pods);
        let snapshot = Snapshot {
            nodes: vec![node.clone()],
            ..Snapshot::default()
        };
        let mut state = CycleState::default();
        let mut diagnosis = crate::framework::Diagnosis::default();
        profile
            .pre_filter(&mut state, &pod, &snapshot, &mut diagnosis)
            .unwrap();
        let nominator = Nominator::default();
        let found = on_node(&profile, &nominator, &state, &pod, &node, budgets);
        found
            .map(|candidate| {
                let names = candidate.victims.iter().map(|v| v.key.name.clone());
                (names.collect(), candidate.violations)
            })
            .map_err(|rejection| rejection.message())
    }

    const EARLY: &str = "2026-01-01T00:00:00Z";
    const LATE: &str = "2026-02-01T00:00:00Z";

    #[test]
    fn only_as_many_go_as_must() {
        let pods = [
            lower("old", "1", 1, EARLY),
            lower("young", "1", 1, LATE),
            lower("better", "1", 50, LATE),
            lower("equal", "1", 100, LATE),
        ];
        assert_eq!(try_on("1", &pods, &[]).unwrap().0, ["young"]);
        assert_eq!(try_on("2", &pods, &[]).unwrap().0, ["old", "young"]);
        assert_eq!(try_on("4", &pods, &[]).unwrap_err(), "Insufficient cpu");
        let equals = [lower("equal", "4", 100, LATE)];
        assert_eq!(
            try_on("1", &equals, &[]).unwrap_err(),
            "No preemption victims found for incoming pod"
        );
    }

    #[test]
    fn budgets_protect_as_far_as_possible() {
        let pods = [lower("old", "2", 1, EARLY), lower("young", "2", 1, LATE)];
        let strict = [budget("young", 0)];
        assert_eq!(
            try_on("2", &pods, &strict).unwrap(),
            (vec!["old".to_owned()], 0)
        );
        let lenient = [budget("young", 1)];
        assert_eq!(
            try_on("2", &pods, &lenient).unwrap(),
            (vec!["young".to_owned()], 0)
        );
        let (victims, violations) = try_on("4", &pods, &strict).unwrap();
        assert_eq!((victims.len(), violations), (2, 1));
    }

    #[test]
    fn the_cheapest_node_is_taken() {
        let candidate = |node: &str, victims: &[Arc<PodInfo>], violations| Candidate {
            node: node.to_owned(),
            victims: victims.to_vec(),
            violations,
        };
        let low = || lower("low", "1", -5, EARLY);
        let high = || lower("high", "1", 5, EARLY);
        let young = || lower("young", "1", -5, LATE);
        let best = |candidates| best(candidates).unwrap().node;
        let cheap = candidate("cheap", &[low(), low()], 0);
        assert_eq!(
            best(vec![candidate("broken", &[low()], 1), cheap.clone()]),
            "cheap"
        );
        assert_eq!(
            best(vec![candidate("high", &[high()], 0), cheap.clone()]),
            "cheap"
        );
        assert_eq!(best(vec![cheap, candidate("one", &[low()], 0)]), "one");
        assert_eq!(
            best(vec![
                candidate("old", &[low()], 0),
                candidate("young", &[young()], 0)
            ]),
            "young"
        );
    }
}
