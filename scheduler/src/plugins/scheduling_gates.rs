//! SchedulingGates: a pod with gates is not tried at all.

use crate::framework::{Change, Kind, Plugin, Point, Rejection};
use crate::model::PodInfo;

pub struct SchedulingGates;

impl Plugin for SchedulingGates {
    fn name(&self) -> &'static str {
        "SchedulingGates"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreEnqueue]
    }

    fn helped_by(&self, _: &PodInfo, change: &Change) -> bool {
        matches!(change, Change::OwnUpdated { .. })
    }

    fn pre_enqueue(&self, pod: &PodInfo) -> Result<(), Rejection> {
        let gates = pod.spec().and_then(|spec| spec.scheduling_gates.as_deref());
        let names: Vec<&str> = gates
            .unwrap_or_default()
            .iter()
            .map(|gate| gate.name.as_str())
            .collect();
        if names.is_empty() {
            return Ok(());
        }
        let text = format!("waiting for scheduling gates: [{}]", names.join(" "));
        Err(Rejection {
            plugin: self.name(),
            ..Rejection::new(Kind::Unresolvable, text)
        })
    }
}
