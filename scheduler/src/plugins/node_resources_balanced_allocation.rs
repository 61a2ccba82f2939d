//! NodeResourcesBalancedAllocation: better where the pod evens out what is taken of the node's resources.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::node_resources_fit::{Weighted, cpu_and_memory};
use super::{PluginError, arguments};
use crate::framework::{CycleState, Handle, MAX_SCORE, Plugin, Point, Rejection, Scoring};
use crate::model::{NodeInfo, PodInfo, Snapshot};

const NAME: &str = "NodeResourcesBalancedAllocation";

pub struct NodeResourcesBalancedAllocation {
    resources: Vec<Weighted>,
}

impl Default for NodeResourcesBalancedAllocation {
    fn default() -> Self {
        NodeResourcesBalancedAllocation {
            resources: cpu_and_memory(),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NodeResourcesBalancedAllocationArgs {
    resources: Vec<Weighted>,
}

pub fn make(given: Option<&Value>, _: &Handle) -> Result<Arc<dyn Plugin>, PluginError> {
    let args: NodeResourcesBalancedAllocationArgs = arguments(NAME, given)?;
    Ok(Arc::new(if args.resources.is_empty() {
        NodeResourcesBalancedAllocation::default()
    } else {
        NodeResourcesBalancedAllocation {
            resources: args.resources,
        }
    }))
}

/// How even fractions are: 100 where all are the same, 50 at worst.
fn evenness(fractions: &[f64]) -> i64 {
    if fractions.len() < 2 {
        return MAX_SCORE;
    }
    let count = fractions.len() as f64;
    let mean = fractions.iter().sum::<f64>() / count;
    let variance = fractions.iter().map(|f| (f - mean).powi(2)).sum::<f64>() / count;
    ((1.0 - variance.sqrt()) * MAX_SCORE as f64) as i64
}

impl NodeResourcesBalancedAllocation {
    fn score_with(&self, node: &NodeInfo, pod: Option<&PodInfo>) -> i64 {
        let fractions: Vec<f64> = self
            .resources
            .iter()
            .filter_map(|resource| {
                let has = node.allocatable.get(&resource.name);
                let more = pod.map_or(0, |pod| pod.requests.get(&resource.name));
                let taken = node.requested.get(&resource.name) + more;
                (has != 0).then(|| (taken as f64 / has as f64).min(1.0))
            })
            .collect();
        evenness(&fractions)
    }
}

impl Plugin for NodeResourcesBalancedAllocation {
    fn name(&self) -> &'static str {
        NAME
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreScore, Point::Score]
    }

    /// Pods that request nothing would all be sent to the same node.
    fn pre_score(
        &self,
        _: &mut CycleState,
        pod: &PodInfo,
        _: &Snapshot,
        _: &[Arc<NodeInfo>],
    ) -> Result<Scoring, Rejection> {
        let asks = self
            .resources
            .iter()
            .any(|resource| pod.requests.get(&resource.name) != 0);
        Ok(if asks { Scoring::Score } else { Scoring::Skip })
    }

    /// By what the pod changes: about 75 if nothing, towards 100 if it evens things out.
    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let with = self.score_with(node, Some(pod));
        let without = self.score_with(node, None);
        MAX_SCORE / 2 + (MAX_SCORE / 2 + with - without) / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build;

    #[test]
    fn evening_out_is_better() {
        let plugin = NodeResourcesBalancedAllocation::default();
        let state = CycleState::default();
        let mut node = NodeInfo::new(build::node("n").done());
        node.add_pod(build::pod("there").container(&[("cpu", "2")]).info());
        let evens = build::pod("p").container(&[("memory", "4Gi")]).info();
        let worsens = build::pod("p").container(&[("cpu", "2")]).info();
        assert_eq!(plugin.score(&state, &evens, &node), 87);
        assert_eq!(plugin.score(&state, &worsens, &node), 62);
    }
}
