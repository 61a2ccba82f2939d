//! NodeAffinity: node selectors, required and preferred node affinity, and the profile's own (`addedAffinity`).

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Affinity, NodeAffinity as ApiAffinity, PodSpec};
use serde::Deserialize;
use serde_json::Value;

use super::{PluginError, arguments, taint_toleration::normalize};
use crate::framework::{Change, CycleState, Handle, Plugin, Point, PreFilter, Rejection, Scoring};
use crate::model::{NodeInfo, NodeMatcher, NodeTerm, PodInfo, Snapshot};

#[derive(Default)]
pub struct NodeAffinity {
    added: NodeMatcher,
    added_preferences: Vec<(NodeTerm, i64)>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeAffinityArgs {
    added_affinity: Option<ApiAffinity>,
}

pub fn make(given: Option<&Value>, _: &Handle) -> Result<Arc<dyn Plugin>, PluginError> {
    let args: NodeAffinityArgs = arguments("NodeAffinity", given)?;
    let Some(added) = args.added_affinity else {
        return Ok(Arc::new(NodeAffinity::default()));
    };
    let added_preferences = added
        .preferred_during_scheduling_ignored_during_execution
        .iter()
        .flatten()
        .map(|p| (NodeTerm::new(&p.preference), i64::from(p.weight)))
        .collect();
    let spec = PodSpec {
        affinity: Some(Affinity {
            node_affinity: Some(added),
            ..Affinity::default()
        }),
        ..PodSpec::default()
    };
    Ok(Arc::new(NodeAffinity {
        added: NodeMatcher::of_pod(&spec),
        added_preferences,
    }))
}

const MISMATCH: &str = "node(s) didn't match Pod's node affinity/selector";

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn points(&self) -> &'static [Point] {
        &[
            Point::PreFilter,
            Point::Filter,
            Point::PreScore,
            Point::Score,
        ]
    }

    fn helped_by(&self, pod: &PodInfo, change: &Change) -> bool {
        let matches = |node| self.added.matches(node) && pod.node_matcher.matches(node);
        match change {
            Change::NodeAdded(node) => matches(node),
            Change::NodeUpdated { old, new } => !matches(old) && matches(new),
            _ => false,
        }
    }

    fn pre_filter(
        &self,
        _: &mut CycleState,
        pod: &PodInfo,
        _: &Snapshot,
    ) -> Result<PreFilter, Rejection> {
        if pod.node_matcher.is_empty() && self.added.is_empty() {
            return Ok(PreFilter::Skip);
        }
        match pod.node_matcher.only_names() {
            // Each term asks for names that exclude each other.
            Some(names) if names.is_empty() => {
                Err(Rejection::unresolvable("pod affinity terms conflict"))
            }
            Some(names) => Ok(PreFilter::Nodes(names)),
            None => Ok(PreFilter::All),
        }
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        if !self.added.matches(node.node()) {
            return Err(Rejection::unresolvable(
                "node(s) didn't match scheduler-enforced node affinity",
            ));
        }
        if !pod.node_matcher.matches(node.node()) {
            return Err(Rejection::unresolvable(MISMATCH));
        }
        Ok(())
    }

    fn pre_score(
        &self,
        _: &mut CycleState,
        pod: &PodInfo,
        _: &Snapshot,
        _: &[Arc<NodeInfo>],
    ) -> Result<Scoring, Rejection> {
        let nothing = pod.node_preferences.is_empty() && self.added_preferences.is_empty();
        Ok(if nothing {
            Scoring::Skip
        } else {
            Scoring::Score
        })
    }

    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        pod.node_preferences
            .iter()
            .chain(&self.added_preferences)
            .filter(|(term, _)| term.matches(node.node()))
            .map(|(_, weight)| weight)
            .sum()
    }

    fn normalize(&self, _: &CycleState, _: &PodInfo, scores: &mut [i64]) {
        normalize(scores, false);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::build;

    #[track_caller]
    fn check(spec: &[(&str, Value)], fits: &[&str]) {
        let mut pod = build::pod("p");
        for (pointer, value) in spec {
            pod = pod.set(pointer, value.clone());
        }
        let pod = pod.info();
        let nodes = [
            build::node("a").label("zone", "x").label("size", "3"),
            build::node("b").label("zone", "y"),
            build::node("c"),
        ];
        let plugin = NodeAffinity::default();
        let got: Vec<String> = nodes
            .iter()
            .map(|node| NodeInfo::new(node.done()))
            .filter(|node| plugin.filter(&CycleState::default(), &pod, node).is_ok())
            .map(|node| node.name().to_owned())
            .collect();
        assert_eq!(got, fits);
    }

    const REQUIRED: &str =
        "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution";

    fn terms(terms: Value) -> [(&'static str, Value); 1] {
        [(REQUIRED, json!({"nodeSelectorTerms": terms}))]
    }

    #[test]
    fn filters_by_labels_and_names() {
        check(&[], &["a", "b", "c"]);
        check(&[("/spec/nodeSelector", json!({"zone": "x"}))], &["a"]);
        let zone = |operator, values: Value| json!([{"matchExpressions": [{"key": "zone", "operator": operator, "values": values}]}]);
        check(&terms(zone("In", json!(["x", "y"]))), &["a", "b"]);
        check(&terms(zone("NotIn", json!(["x"]))), &["b", "c"]);
        check(&terms(zone("Exists", json!([]))), &["a", "b"]);
        check(&terms(zone("DoesNotExist", json!([]))), &["c"]);
        let size =
            json!([{"matchExpressions": [{"key": "size", "operator": "Gt", "values": ["2"]}]}]);
        check(&terms(size), &["a"]);
        let name =
            json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["c"]}]}]);
        check(&terms(name), &["c"]);
        // An empty term and an empty list match nothing.
        check(&terms(json!([{}])), &[]);
        check(&terms(json!([])), &[]);
        // Terms are alternatives; the selector comes on top.
        let either = json!([
            {"matchExpressions": [{"key": "size", "operator": "Exists"}]},
            {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["y"]}]},
        ]);
        check(&terms(either.clone()), &["a", "b"]);
        let mut both = terms(either).to_vec();
        both.push(("/spec/nodeSelector", json!({"zone": "y"})));
        check(&both, &["b"]);
    }

    #[test]
    fn a_daemons_pod_needs_only_its_node_looked_at() {
        let name = json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["c"]}]}]});
        let pod = build::pod("p").set(REQUIRED, name).info();
        let found = NodeAffinity::default()
            .pre_filter(&mut CycleState::default(), &pod, &Snapshot::default())
            .unwrap();
        assert_eq!(found, PreFilter::Nodes(vec!["c".to_owned()]));
    }
}
