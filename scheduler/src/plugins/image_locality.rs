//! ImageLocality: better where the pod's images are already, unless they are everywhere's only on few nodes.

use crate::framework::{CycleState, MAX_SCORE, Plugin, Point, Rejection, Scoring};
use crate::model::{NodeInfo, PodInfo, Snapshot};
use std::sync::Arc;

const MEGABYTE: i64 = 1024 * 1024;
/// Less than this counts as nothing.
const MIN: i64 = 23 * MEGABYTE;
/// More than this a container counts no more.
const MAX_PER_CONTAINER: i64 = 1_000 * MEGABYTE;

pub struct ImageLocality;

/// How many nodes have each of the pod's images, and how many nodes there are.
#[derive(Clone)]
struct Spread {
    images: Vec<(String, usize)>,
    nodes: usize,
    containers: i64,
}

/// The name with its tag: nodes report `latest` where a pod leaves the tag out.
fn normalized(image: &str) -> String {
    let name = image.rsplit('/').next().unwrap_or(image);
    if name.contains(':') || name.contains('@') {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreScore, Point::Score]
    }

    fn pre_score(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        snapshot: &Snapshot,
        _: &[Arc<NodeInfo>],
    ) -> Result<Scoring, Rejection> {
        let Some(spec) = pod.spec() else {
            return Ok(Scoring::Skip);
        };
        let containers = spec
            .init_containers
            .iter()
            .flatten()
            .chain(&spec.containers);
        let names: Vec<&str> = containers
            .filter_map(|container| container.image.as_deref())
            .collect();
        let volumes = spec.volumes.iter().flatten();
        let volumes = volumes.filter_map(|v| v.image.as_ref()?.reference.as_deref());
        let images = names
            .iter()
            .copied()
            .chain(volumes)
            .map(normalized)
            .map(|name| {
                let nodes = snapshot.image_nodes.get(&name).copied().unwrap_or(0);
                (name, nodes)
            })
            .collect();
        let spread = Spread {
            images,
            nodes: snapshot.nodes.len(),
            containers: names.len() as i64,
        };
        if spread.containers == 0 || spread.images.iter().all(|(_, nodes)| *nodes == 0) {
            return Ok(Scoring::Skip);
        }
        state.put(self.name(), spread);
        Ok(Scoring::Score)
    }

    fn score(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> i64 {
        let Some(spread) = state.get::<Spread>(self.name()) else {
            return 0;
        };
        // An image that few nodes have counts less, or all pods would follow it.
        let sum: i64 = spread
            .images
            .iter()
            .filter_map(|(name, nodes)| {
                let size = *node.images.get(name)?;
                Some((size as f64 * (*nodes as f64 / spread.nodes as f64)) as i64)
            })
            .sum();
        let max = MAX_PER_CONTAINER * spread.containers;
        MAX_SCORE * (sum.clamp(MIN, max) - MIN) / (max - MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build;
    use crate::model::Cache;

    #[test]
    fn a_node_with_the_image_is_better() {
        let mut cache = Cache::default();
        cache.set_node(
            build::node("a")
                .image("busybox:latest", 500 * MEGABYTE)
                .done(),
        );
        cache.set_node(build::node("b").done());
        let snapshot = cache.snapshot();
        let pod = build::pod("p").container(&[]).info();
        let mut state = CycleState::default();
        let found = ImageLocality.pre_score(&mut state, &pod, &snapshot, &snapshot.nodes);
        assert_eq!(found, Ok(Scoring::Score));
        let score = |name| ImageLocality.score(&state, &pod, snapshot.node(name).unwrap());
        // Half of the nodes have it: 250 MB of 23..1000.
        assert_eq!((score("a"), score("b")), (23, 0));
        assert_eq!(normalized("host:5000/x"), "host:5000/x:latest");
        assert_eq!(normalized("host:5000/x:1"), "host:5000/x:1");
    }
}
