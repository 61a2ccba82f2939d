//! TaintToleration: taints keep pods away that don't tolerate them; fewer taints to avoid are better.

use k8s_openapi::api::core::v1::{Node, Taint, Toleration};

use crate::framework::{Change, CycleState, MAX_SCORE, Plugin, Point, Rejection};
use crate::model::{NodeInfo, PodInfo};

pub struct TaintToleration;

fn tolerations(pod: &PodInfo) -> &[Toleration] {
    pod.spec()
        .and_then(|spec| spec.tolerations.as_deref())
        .unwrap_or_default()
}

/// Whether both pods tolerate differently.
pub(super) fn changed(old: &PodInfo, new: &PodInfo) -> bool {
    tolerations(old) != tolerations(new)
}

fn tolerated_by(taint: &Taint, toleration: &Toleration) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    if !(effect.is_empty() || effect == taint.effect) || !(key.is_empty() || key == taint.key) {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => {
            toleration.value.as_deref().unwrap_or_default()
                == taint.value.as_deref().unwrap_or_default()
        }
        Some(_) => false,
    }
}

/// Whether the pod tolerates the taint.
pub(super) fn tolerates(pod: &PodInfo, taint: &Taint) -> bool {
    tolerations(pod).iter().any(|t| tolerated_by(taint, t))
}

fn keeps_away(taint: &Taint) -> bool {
    matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
}

/// Whether a taint of the node keeps the pod away.
pub(super) fn is_kept_away(pod: &PodInfo, taints: &[Taint]) -> bool {
    taints
        .iter()
        .any(|taint| keeps_away(taint) && !tolerates(pod, taint))
}

fn taints(node: &Node) -> &[Taint] {
    node.spec
        .as_ref()
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default()
}

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::Filter, Point::Score]
    }

    fn helped_by(&self, pod: &PodInfo, change: &Change) -> bool {
        match change {
            Change::NodeAdded(node) => !is_kept_away(pod, taints(node)),
            Change::NodeUpdated { old, new } => {
                is_kept_away(pod, taints(old)) && !is_kept_away(pod, taints(new))
            }
            Change::OwnUpdated { old, new } => changed(old, new),
            _ => false,
        }
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        if is_kept_away(pod, node.taints()) {
            return Err(Rejection::unresolvable("node(s) had untolerated taint(s)"));
        }
        Ok(())
    }

    /// How many taints the pod would rather avoid.
    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let relevant = |toleration: &&Toleration| {
            matches!(
                toleration.effect.as_deref(),
                None | Some("" | "PreferNoSchedule")
            )
        };
        let intolerable = |taint: &&Taint| {
            taint.effect == "PreferNoSchedule"
                && !tolerations(pod)
                    .iter()
                    .filter(relevant)
                    .any(|t| tolerated_by(taint, t))
        };
        node.taints().iter().filter(intolerable).count() as i64
    }

    fn normalize(&self, _: &CycleState, _: &PodInfo, scores: &mut [i64]) {
        normalize(scores, true);
    }
}

/// Scales scores so that the greatest becomes 100; reversed, the greatest becomes 0.
pub(super) fn normalize(scores: &mut [i64], reverse: bool) {
    let greatest = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        *score = match greatest {
            0 if reverse => MAX_SCORE,
            0 => 0,
            _ => {
                let scaled = MAX_SCORE * *score / greatest;
                if reverse { MAX_SCORE - scaled } else { scaled }
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::build;

    #[test]
    fn filters_by_taints() {
        let tolerant = |toleration| {
            build::pod("p")
                .set("/spec/tolerations", json!([toleration]))
                .info()
        };
        let node = NodeInfo::new(build::node("n").taint("a", "1", "NoSchedule").done());
        let check = |toleration, fits| {
            let verdict =
                TaintToleration.filter(&CycleState::default(), &tolerant(toleration), &node);
            assert_eq!(verdict.is_ok(), fits);
        };
        check(json!({"key": "a", "value": "1"}), true);
        check(json!({"key": "a", "operator": "Exists"}), true);
        check(json!({"operator": "Exists"}), true);
        check(
            json!({"key": "a", "value": "1", "effect": "NoSchedule"}),
            true,
        );
        check(json!({"key": "a", "value": "2"}), false);
        check(json!({"key": "b", "operator": "Exists"}), false);
        check(
            json!({"key": "a", "operator": "Exists", "effect": "NoExecute"}),
            false,
        );
    }

    #[test]
    fn prefers_nodes_with_fewer_taints_to_avoid() {
        let pod = build::pod("p").info();
        let state = CycleState::default();
        let mut scores: Vec<i64> = [0, 1, 2]
            .map(|count| {
                let mut node = build::node("n").taint("x", "", "NoExecute");
                for number in 0..count {
                    node = node.taint(&format!("t{number}"), "", "PreferNoSchedule");
                }
                TaintToleration.score(&state, &pod, &NodeInfo::new(node.done()))
            })
            .into();
        TaintToleration.normalize(&state, &pod, &mut scores);
        assert_eq!(scores, [100, 50, 0]);
    }
}
