//! NodeResourcesFit: what a pod requests must be free; by default emptier nodes are better.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use serde::Deserialize;
use serde_json::Value;

use super::{PluginError, arguments};
use crate::framework::{Change, CycleState, Handle, Kind, MAX_SCORE, Plugin, Point, Rejection};
use crate::model::{NodeInfo, PodInfo, Resources};

const NAME: &str = "NodeResourcesFit";

/// A resource with its weight.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Weighted {
    pub(super) name: String,
    #[serde(default)]
    pub(super) weight: i64,
}

pub(super) fn cpu_and_memory() -> Vec<Weighted> {
    ["cpu", "memory"]
        .map(|name| Weighted {
            name: name.to_owned(),
            weight: 1,
        })
        .into()
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
enum Strategy {
    #[default]
    LeastAllocated,
    MostAllocated,
    RequestedToCapacityRatio,
}

#[derive(Clone, Debug, Deserialize)]
struct Shape {
    utilization: i64,
    score: i64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Ratio {
    shape: Vec<Shape>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ScoringStrategy {
    #[serde(rename = "type")]
    strategy: Strategy,
    resources: Vec<Weighted>,
    requested_to_capacity_ratio: Option<Ratio>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeResourcesFitArgs {
    ignored_resources: Vec<String>,
    ignored_resource_groups: Vec<String>,
    scoring_strategy: ScoringStrategy,
}

pub struct NodeResourcesFit {
    ignored: Vec<String>,
    ignored_groups: Vec<String>,
    strategy: Strategy,
    resources: Vec<Weighted>,
    shape: Vec<Shape>,
}

impl Default for NodeResourcesFit {
    fn default() -> Self {
        NodeResourcesFit {
            ignored: Vec::new(),
            ignored_groups: Vec::new(),
            strategy: Strategy::LeastAllocated,
            resources: cpu_and_memory(),
            shape: Vec::new(),
        }
    }
}

pub fn make(given: Option<&Value>, _: &Handle) -> Result<Arc<dyn Plugin>, PluginError> {
    let args: NodeResourcesFitArgs = arguments(NAME, given)?;
    let mut resources = args.scoring_strategy.resources;
    if resources.is_empty() {
        resources = cpu_and_memory();
    }
    for resource in &mut resources {
        resource.weight = resource.weight.max(1);
    }
    let shape = args
        .scoring_strategy
        .requested_to_capacity_ratio
        .unwrap_or_default()
        .shape;
    let strategy = args.scoring_strategy.strategy;
    let rises = shape
        .windows(2)
        .all(|w| w[0].utilization < w[1].utilization);
    if strategy == Strategy::RequestedToCapacityRatio && (shape.is_empty() || !rises) {
        return Err(PluginError::Arguments {
            plugin: NAME,
            why: "requestedToCapacityRatio.shape needs points of rising utilization".to_owned(),
        });
    }
    Ok(Arc::new(NodeResourcesFit {
        ignored: args.ignored_resources,
        ignored_groups: args.ignored_resource_groups,
        strategy,
        resources,
        shape,
    }))
}

/// What is free of a resource on a node, less what is requested; below nothing if it doesn't fit.
struct Lack {
    reason: String,
    /// Even an empty node hasn't that much.
    hopeless: bool,
}

impl NodeResourcesFit {
    fn is_ignored(&self, name: &str) -> bool {
        self.ignored.iter().any(|ignored| ignored == name)
            || name
                .split_once('/')
                .is_some_and(|(group, _)| self.ignored_groups.iter().any(|g| g == group))
    }

    fn lacks(&self, pod: &PodInfo, node: &NodeInfo) -> Vec<Lack> {
        let mut lacks = Vec::new();
        if node.pods().len() as i64 + 1 > node.allocatable.pods {
            lacks.push(Lack {
                reason: "Too many pods".to_owned(),
                hopeless: false,
            });
        }
        let scalars = pod
            .requests
            .scalar
            .keys()
            .map(String::as_str)
            .filter(|name| !self.is_ignored(name));
        for name in ["cpu", "memory", "ephemeral-storage"]
            .into_iter()
            .chain(scalars)
        {
            let wanted = pod.requests.get(name);
            let has = node.allocatable.get(name);
            if wanted > 0 && wanted > has - node.requested.get(name) {
                lacks.push(Lack {
                    reason: format!("Insufficient {name}"),
                    hopeless: wanted > has,
                });
            }
        }
        lacks
    }

    /// What would be taken of a resource, and what there is.
    fn amounts(&self, pod: &PodInfo, node: &NodeInfo, name: &str) -> (i64, i64) {
        let has = node.allocatable.get(name);
        let taken = match name {
            "cpu" => node.scoring_requested.0 + pod.scoring_requests.0,
            "memory" => node.scoring_requested.1 + pod.scoring_requests.1,
            other => node.requested.get(other) + pod.requests.get(other),
        };
        (taken, has)
    }

    fn rate(&self, taken: i64, has: i64) -> i64 {
        match self.strategy {
            Strategy::LeastAllocated if taken > has => 0,
            Strategy::LeastAllocated => share(has - taken, has),
            Strategy::MostAllocated => share(taken.min(has), has),
            Strategy::RequestedToCapacityRatio => {
                let utilization = if taken > has { 100 } else { share(taken, has) };
                self.shape_at(utilization)
            }
        }
    }

    /// The score between the points of the shape, whose scores are out of 10.
    fn shape_at(&self, utilization: i64) -> i64 {
        let scale = MAX_SCORE / 10;
        for (at, point) in self.shape.iter().enumerate() {
            if utilization <= point.utilization {
                let Some(before) = at.checked_sub(1).map(|before| &self.shape[before]) else {
                    return point.score * scale;
                };
                let (low, high) = (before.score * scale, point.score * scale);
                return low
                    + (high - low) * (utilization - before.utilization)
                        / (point.utilization - before.utilization);
            }
        }
        self.shape.last().map_or(0, |last| last.score * scale)
    }
}

fn share(part: i64, whole: i64) -> i64 {
    // Bytes times a hundred fit into 64 bits up to 90 PB.
    part.saturating_mul(MAX_SCORE) / whole
}

fn allocatable(node: &Node) -> Resources {
    node.status
        .as_ref()
        .and_then(|status| status.allocatable.as_ref())
        .map(Resources::of)
        .unwrap_or_default()
}

fn has_enough(pod: &PodInfo, node: &Node) -> bool {
    let has = allocatable(node);
    let names = pod.requests.scalar.keys().map(String::as_str);
    has.pods > 0
        && ["cpu", "memory", "ephemeral-storage"]
            .into_iter()
            .chain(names)
            .all(|name| pod.requests.get(name) <= has.get(name))
}

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        NAME
    }

    fn points(&self) -> &'static [Point] {
        &[Point::Filter, Point::Score]
    }

    fn helped_by(&self, pod: &PodInfo, change: &Change) -> bool {
        match change {
            Change::NodeAdded(node) => has_enough(pod, node),
            Change::NodeUpdated { old, new } => {
                has_enough(pod, new) && allocatable(old) != allocatable(new)
            }
            // Any pod that goes takes itself off the count of pods at least.
            Change::PodDeleted(_) => true,
            Change::PodUpdated { old, new } | Change::OwnUpdated { old, new } => {
                let (mut left, was) = (new.requests.clone(), &old.requests);
                left.raise(was);
                // Less of something than before.
                left != new.requests
            }
            _ => false,
        }
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        let lacks = self.lacks(pod, node);
        if lacks.is_empty() {
            return Ok(());
        }
        let hopeless = lacks.iter().any(|lack| lack.hopeless);
        Err(Rejection {
            kind: if hopeless {
                Kind::Unresolvable
            } else {
                Kind::Unschedulable
            },
            reasons: lacks.into_iter().map(|lack| lack.reason.into()).collect(),
            plugin: NAME,
        })
    }

    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let (mut total, mut weights) = (0, 0);
        for resource in &self.resources {
            let (taken, has) = self.amounts(pod, node, &resource.name);
            if has == 0 {
                continue;
            }
            total += self.rate(taken, has) * resource.weight;
            weights += resource.weight;
        }
        if weights == 0 { 0 } else { total / weights }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build;

    #[track_caller]
    fn check(requests: &[(&str, &str)], wanted: &[&str], kind: Option<Kind>) {
        let mut node = NodeInfo::new(
            build::node("n")
                .allocatable("pods", "2")
                .allocatable("example.com/gpu", "1")
                .done(),
        );
        node.add_pod(
            build::pod("there")
                .container(&[("cpu", "3"), ("memory", "1Gi")])
                .info(),
        );
        let pod = build::pod("p").container(requests).info();
        let verdict = NodeResourcesFit::default().filter(&CycleState::default(), &pod, &node);
        let reasons: Vec<String> = verdict
            .as_ref()
            .err()
            .map(|r| r.reasons.iter().map(|r| r.to_string()).collect())
            .unwrap_or_default();
        assert_eq!(reasons, wanted);
        assert_eq!(verdict.err().map(|r| r.kind), kind);
    }

    #[test]
    fn filters_by_what_is_free() {
        check(&[], &[], None);
        check(&[("cpu", "1"), ("memory", "7Gi")], &[], None);
        check(
            &[("cpu", "1001m")],
            &["Insufficient cpu"],
            Some(Kind::Unschedulable),
        );
        check(
            &[("cpu", "2"), ("memory", "7.5Gi")],
            &["Insufficient cpu", "Insufficient memory"],
            Some(Kind::Unschedulable),
        );
        check(
            &[("cpu", "5")],
            &["Insufficient cpu"],
            Some(Kind::Unresolvable),
        );
        check(&[("example.com/gpu", "1")], &[], None);
        check(
            &[("example.com/none", "1")],
            &["Insufficient example.com/none"],
            Some(Kind::Unresolvable),
        );
    }

    #[test]
    fn a_full_node_has_too_many_pods() {
        let mut node = NodeInfo::new(build::node("n").allocatable("pods", "1").done());
        node.add_pod(build::pod("there").info());
        let pod = build::pod("p").info();
        let verdict = NodeResourcesFit::default().filter(&CycleState::default(), &pod, &node);
        assert_eq!(verdict.unwrap_err().reasons, ["Too many pods"]);
    }

    #[test]
    fn emptier_nodes_are_better() {
        let plugin = NodeResourcesFit::default();
        let pod = build::pod("p")
            .container(&[("cpu", "1"), ("memory", "2Gi")])
            .info();
        let empty = NodeInfo::new(build::node("n").done());
        let mut busy = empty.clone();
        busy.add_pod(
            build::pod("there")
                .container(&[("cpu", "2"), ("memory", "4Gi")])
                .info(),
        );
        let state = CycleState::default();
        assert_eq!(plugin.score(&state, &pod, &empty), 75);
        assert_eq!(plugin.score(&state, &pod, &busy), 25);
    }

    #[test]
    fn a_shape_is_interpolated() {
        let point = |utilization, score| Shape { utilization, score };
        let plugin = NodeResourcesFit {
            strategy: Strategy::RequestedToCapacityRatio,
            shape: vec![point(0, 0), point(50, 10), point(100, 2)],
            ..NodeResourcesFit::default()
        };
        for (utilization, wanted) in [(0, 0), (25, 50), (50, 100), (75, 60), (100, 20)] {
            assert_eq!(plugin.shape_at(utilization), wanted, "{utilization}");
        }
    }
}
