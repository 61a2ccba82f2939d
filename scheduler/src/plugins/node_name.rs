//! NodeName: a pod that names its node goes to no other.

use crate::framework::{Change, CycleState, Plugin, Point, Rejection};
use crate::model::{NodeInfo, PodInfo};

pub struct NodeName;

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::Filter]
    }

    fn helped_by(&self, _: &PodInfo, change: &Change) -> bool {
        matches!(change, Change::NodeAdded(_))
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        if pod.node_name().is_empty() || pod.node_name() == node.name() {
            return Ok(());
        }
        Err(Rejection::unresolvable(
            "node(s) didn't match the requested node name",
        ))
    }
}
