//! NodeUnschedulable: cordoned nodes take only pods that tolerate it.

use k8s_openapi::api::core::v1::Taint;

use super::taint_toleration::tolerates;
use crate::framework::{Change, CycleState, Plugin, Point, Rejection};
use crate::model::{NodeInfo, PodInfo};

pub struct NodeUnschedulable;

fn cordon() -> Taint {
    Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    }
}

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::Filter]
    }

    fn helped_by(&self, _: &PodInfo, change: &Change) -> bool {
        let open = |node: &k8s_openapi::api::core::v1::Node| {
            node.spec.as_ref().and_then(|spec| spec.unschedulable) != Some(true)
        };
        match change {
            Change::NodeAdded(node) => open(node),
            Change::NodeUpdated { old, new } => !open(old) && open(new),
            Change::OwnUpdated { old, new } => super::taint_toleration::changed(old, new),
            _ => false,
        }
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        if !node.is_unschedulable() || tolerates(pod, &cordon()) {
            return Ok(());
        }
        Err(Rejection::unresolvable("node(s) were unschedulable"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::build;

    #[test]
    fn cordoned_nodes_take_only_who_tolerates_it() {
        let node = NodeInfo::new(build::node("n").cordoned().done());
        let state = CycleState::default();
        let pod = build::pod("p");
        assert!(
            NodeUnschedulable
                .filter(&state, &pod.info(), &node)
                .is_err()
        );
        let daemon = pod.set(
            "/spec/tolerations",
            json!([{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]),
        );
        assert!(
            NodeUnschedulable
                .filter(&state, &daemon.info(), &node)
                .is_ok()
        );
        let open = build::node("n").done();
        let change = Change::NodeUpdated {
            old: node.node().clone(),
            new: open,
        };
        assert!(NodeUnschedulable.helped_by(&build::pod("p").info(), &change));
    }
}
