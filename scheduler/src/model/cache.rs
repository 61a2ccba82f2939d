//! What is where: every node with its pods, those included that were only just placed and are being bound.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;

use super::node::NodeInfo;
use super::pod::PodInfo;

/// The state of all nodes at one moment. Nodes that don't change are shared with the cache and with other snapshots.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The nodes, by name.
    pub nodes: Vec<Arc<NodeInfo>>,
    /// How many nodes have an image, by its name.
    pub image_nodes: Arc<BTreeMap<String, usize>>,
    /// The labels of namespaces.
    pub namespaces: Arc<BTreeMap<String, BTreeMap<String, String>>>,
}

impl Snapshot {
    /// The node with this name.
    pub fn node(&self, name: &str) -> Option<&Arc<NodeInfo>> {
        self.nodes
            .binary_search_by(|node| node.name().cmp(name))
            .ok()
            .map(|at| &self.nodes[at])
    }
}

/// Nodes and placed pods. Writers change only what an event touches; a node that a snapshot still holds is copied then.
#[derive(Debug, Default)]
pub struct Cache {
    nodes: BTreeMap<String, Arc<NodeInfo>>,
    /// Where each pod is, by uid.
    places: HashMap<String, Place>,
    image_nodes: Arc<BTreeMap<String, usize>>,
    namespaces: Arc<BTreeMap<String, BTreeMap<String, String>>>,
}

#[derive(Debug)]
struct Place {
    node: String,
    /// Whether only this scheduler knows yet.
    assumed: bool,
}

impl Cache {
    /// The state now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            nodes: self
                .nodes
                .values()
                .filter(|node| node.is_seen())
                .cloned()
                .collect(),
            image_nodes: self.image_nodes.clone(),
            namespaces: self.namespaces.clone(),
        }
    }

    /// How many nodes, pods and assumed pods there are.
    pub fn sizes(&self) -> (usize, usize, usize) {
        let nodes = self.nodes.values().filter(|node| node.is_seen()).count();
        let assumed = self.places.values().filter(|place| place.assumed).count();
        (nodes, self.places.len(), assumed)
    }

    /// Takes a node's newest state.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        let info = self
            .nodes
            .entry(name)
            .or_insert_with_key(|name| Arc::new(NodeInfo::unseen(name)));
        let info = Arc::make_mut(info);
        let before = info.images.clone();
        info.set_node(node);
        let after = info.images.clone();
        self.count_images(&before, &after);
    }

    /// Forgets a node; its pods are told to be gone one by one.
    pub fn remove_node(&mut self, name: &str) {
        let Some(info) = self.nodes.get_mut(name) else {
            return;
        };
        let before = info.images.clone();
        if info.pods().is_empty() {
            self.nodes.remove(name);
        } else {
            Arc::make_mut(info).unsee();
        }
        self.count_images(&before, &BTreeMap::new());
    }

    fn count_images(&mut self, before: &BTreeMap<String, i64>, after: &BTreeMap<String, i64>) {
        if before.keys().eq(after.keys()) {
            return;
        }
        let counts = Arc::make_mut(&mut self.image_nodes);
        for name in before.keys() {
            if let Some(count) = counts.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(name);
                }
            }
        }
        for name in after.keys() {
            *counts.entry(name.clone()).or_default() += 1;
        }
    }

    /// Takes a namespace's labels, or forgets them.
    pub fn set_namespace(&mut self, name: String, labels: Option<BTreeMap<String, String>>) {
        let namespaces = Arc::make_mut(&mut self.namespaces);
        match labels {
            Some(labels) => namespaces.insert(name, labels),
            None => namespaces.remove(&name),
        };
    }

    /// Places a pod on a node before the API server knows. `false` if it has a place already.
    pub fn assume(&mut self, pod: Arc<PodInfo>, node: &str) -> bool {
        if self.places.contains_key(&pod.uid) {
            return false;
        }
        self.place(pod, node, true);
        true
    }

    /// Takes an assumed pod away again, since it could not be bound.
    pub fn forget(&mut self, uid: &str) {
        if self.places.get(uid).is_some_and(|place| place.assumed) {
            self.remove_pod(uid);
        }
    }

    /// Whether the pod has a place that the API server doesn't know of yet.
    pub fn is_assumed(&self, uid: &str) -> bool {
        self.places.get(uid).is_some_and(|place| place.assumed)
    }

    /// Takes the newest state of a pod that has a node.
    pub fn set_pod(&mut self, pod: Arc<PodInfo>) {
        self.remove_pod(&pod.uid);
        let node = pod.node_name().to_owned();
        self.place(pod, &node, false);
    }

    fn place(&mut self, pod: Arc<PodInfo>, node: &str, assumed: bool) {
        let place = Place {
            node: node.to_owned(),
            assumed,
        };
        self.places.insert(pod.uid.clone(), place);
        let info = self
            .nodes
            .entry(node.to_owned())
            .or_insert_with_key(|name| Arc::new(NodeInfo::unseen(name)));
        Arc::make_mut(info).add_pod(pod);
    }

    /// Takes a pod away that is gone or done.
    pub fn remove_pod(&mut self, uid: &str) {
        let Some(place) = self.places.remove(uid) else {
            return;
        };
        let Some(info) = self.nodes.get_mut(&place.node) else {
            return;
        };
        let info = Arc::make_mut(info);
        info.remove_pod(uid);
        if info.pods().is_empty() && !info.is_seen() {
            self.nodes.remove(&place.node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build;

    #[test]
    fn snapshots_do_not_change_and_share_what_stays() {
        let mut cache = Cache::default();
        cache.set_node(build::node("a").done());
        cache.set_node(build::node("b").done());
        let before = cache.snapshot();
        let pod = build::pod("p").container(&[("cpu", "1")]).info();
        assert!(cache.assume(pod.clone(), "a"));
        assert!(!cache.assume(pod.clone(), "b"));
        let after = cache.snapshot();
        assert!(before.node("a").unwrap().pods().is_empty());
        assert_eq!(after.node("a").unwrap().requested.milli_cpu, 1_000);
        assert!(Arc::ptr_eq(
            before.node("b").unwrap(),
            after.node("b").unwrap()
        ));
        assert!(cache.is_assumed(&pod.uid));
        cache.forget(&pod.uid);
        assert_eq!(cache.snapshot().node("a").unwrap().requested.milli_cpu, 0);
    }

    #[test]
    fn the_api_servers_word_replaces_what_was_assumed() {
        let mut cache = Cache::default();
        cache.set_node(build::node("a").done());
        let pod = build::pod("p").container(&[("cpu", "1")]);
        cache.assume(pod.clone().info(), "a");
        let bound = pod.on("b").info();
        cache.set_pod(bound.clone());
        assert!(!cache.is_assumed(&bound.uid));
        assert!(cache.snapshot().node("a").unwrap().pods().is_empty());
        // It is known to be there, though its node isn't seen yet; forgetting an assumption does nothing now.
        cache.forget(&bound.uid);
        cache.set_node(build::node("b").done());
        assert_eq!(cache.snapshot().node("b").unwrap().pods().len(), 1);
        cache.remove_node("b");
        assert!(cache.snapshot().node("b").is_none());
        cache.remove_pod(&bound.uid);
        assert_eq!(cache.sizes(), (1, 0, 0));
    }
}
