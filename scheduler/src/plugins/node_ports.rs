//! NodePorts: host ports are had once a node.

use crate::framework::{Change, CycleState, Plugin, Point, PreFilter, Rejection};
use crate::model::{NodeInfo, PodInfo, Snapshot};

pub struct NodePorts;

fn conflict(pod: &PodInfo, other: &PodInfo) -> bool {
    pod.host_ports
        .iter()
        .any(|port| other.host_ports.iter().any(|o| port.conflicts(o)))
}

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter]
    }

    fn helped_by(&self, pod: &PodInfo, change: &Change) -> bool {
        match change {
            Change::NodeAdded(_) => true,
            Change::PodDeleted(other) => conflict(pod, other),
            _ => false,
        }
    }

    fn pre_filter(
        &self,
        _: &mut CycleState,
        pod: &PodInfo,
        _: &Snapshot,
    ) -> Result<PreFilter, Rejection> {
        Ok(if pod.host_ports.is_empty() {
            PreFilter::Skip
        } else {
            PreFilter::All
        })
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        if node.pods().iter().any(|other| conflict(pod, other)) {
            return Err(Rejection::unschedulable(
                "node(s) didn't have free ports for the requested pod ports",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::build;

    #[test]
    fn ports_conflict_by_protocol_and_address() {
        let pod = |ports: serde_json::Value| {
            build::pod("p")
                .set("/spec/containers", json!([{"name": "c", "ports": ports}]))
                .info()
        };
        let taken = json!([{"containerPort": 1, "hostPort": 80, "hostIP": "10.0.0.1"}]);
        let mut node = NodeInfo::new(build::node("n").done());
        node.add_pod(pod(taken));
        let check = |ports, fits| {
            let verdict = NodePorts.filter(&CycleState::default(), &pod(ports), &node);
            assert_eq!(verdict.is_ok(), fits);
        };
        check(json!([{"containerPort": 80}]), true);
        check(json!([{"containerPort": 1, "hostPort": 81}]), true);
        check(json!([{"containerPort": 1, "hostPort": 80}]), false);
        check(
            json!([{"containerPort": 1, "hostPort": 80, "protocol": "UDP"}]),
            true,
        );
        check(
            json!([{"containerPort": 1, "hostPort": 80, "hostIP": "10.0.0.2"}]),
            true,
        );
        check(
            json!([{"containerPort": 1, "hostPort": 80, "hostIP": "0.0.0.0"}]),
            false,
        );
    }
}
