//! A node with the pods that are on it, or about to be.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};

use super::pod::PodInfo;
use super::resources::Resources;

/// A port of the host that a pod takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    protocol: String,
    address: String,
    port: i32,
}

const ANY: &str = "0.0.0.0";

impl HostPort {
    /// A port; TCP on every address unless said otherwise.
    pub fn new(protocol: Option<&str>, address: Option<&str>, port: i32) -> Self {
        let or = |given: Option<&str>, default: &str| match given {
            Some(given) if !given.is_empty() => given.to_owned(),
            _ => default.to_owned(),
        };
        HostPort {
            protocol: or(protocol, "TCP"),
            address: or(address, ANY),
            port,
        }
    }

    /// Whether both can't be had on one node.
    pub fn conflicts(&self, other: &HostPort) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address == other.address || self.address == ANY || other.address == ANY)
    }
}

/// A node and what is taken of it.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    node: Arc<Node>,
    name: String,
    /// What it has for pods.
    pub allocatable: Resources,
    /// What its pods request.
    pub requested: Resources,
    /// CPU and memory that its pods count for when scoring.
    pub scoring_requested: (i64, i64),
    /// Sizes of the images that it has, by name.
    pub images: Arc<BTreeMap<String, i64>>,
    pods: Vec<Arc<PodInfo>>,
    /// How many of them have affinity of any kind, and how many required anti-affinity.
    affinity_pods: usize,
    anti_affinity_pods: usize,
}

impl NodeInfo {
    /// A node that only has a name yet: its pods were seen before it.
    pub fn unseen(name: &str) -> Self {
        NodeInfo {
            name: name.to_owned(),
            ..NodeInfo::default()
        }
    }

    /// A node without pods.
    pub fn new(node: Arc<Node>) -> Self {
        let mut info = Self::unseen(node.metadata.name.as_deref().unwrap_or_default());
        info.set_node(node);
        info
    }

    /// Takes the node's newest state; its pods stay.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let status = node.status.as_ref();
        self.allocatable = status
            .and_then(|status| status.allocatable.as_ref())
            .map(Resources::of)
            .unwrap_or_default();
        let images = status.and_then(|status| status.images.as_ref());
        self.images = Arc::new(
            images
                .into_iter()
                .flatten()
                .flat_map(|image| {
                    let size = image.size_bytes.unwrap_or(0);
                    image.names.iter().flatten().map(move |n| (n.clone(), size))
                })
                .collect(),
        );
        self.node = node;
    }

    /// The node.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Whether the node itself has been seen (and not deleted).
    pub fn is_seen(&self) -> bool {
        self.node.metadata.name.is_some()
    }

    /// Forgets the node, but not that its pods are there still.
    pub fn unsee(&mut self) {
        self.node = Arc::default();
        self.allocatable = Resources::default();
        self.images = Arc::default();
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value of one of its labels.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.node
            .metadata
            .labels
            .as_ref()?
            .get(key)
            .map(String::as_str)
    }

    /// Its taints.
    pub fn taints(&self) -> &[Taint] {
        self.node
            .spec
            .as_ref()
            .and_then(|spec| spec.taints.as_deref())
            .unwrap_or_default()
    }

    /// Whether it is cordoned.
    pub fn is_unschedulable(&self) -> bool {
        self.node
            .spec
            .as_ref()
            .and_then(|spec| spec.unschedulable)
            .unwrap_or(false)
    }

    /// The pods on it.
    pub fn pods(&self) -> &[Arc<PodInfo>] {
        &self.pods
    }

    /// Whether a pod on it has affinity of any kind.
    pub fn has_affinity_pods(&self) -> bool {
        self.affinity_pods > 0
    }

    /// Whether a pod on it must be away from others.
    pub fn has_anti_affinity_pods(&self) -> bool {
        self.anti_affinity_pods > 0
    }

    /// Adds a pod, with what it takes.
    pub fn add_pod(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.scoring_requested.0 += pod.scoring_requests.0;
        self.scoring_requested.1 += pod.scoring_requests.1;
        self.affinity_pods += usize::from(pod.has_affinity());
        self.anti_affinity_pods += usize::from(!pod.required_anti_affinity.is_empty());
        self.pods.push(pod);
    }

    /// Removes a pod and gives back what it took.
    pub fn remove_pod(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let at = self.pods.iter().position(|pod| pod.uid == uid)?;
        let pod = self.pods.swap_remove(at);
        self.requested.subtract(&pod.requests);
        self.scoring_requested.0 -= pod.scoring_requests.0;
        self.scoring_requested.1 -= pod.scoring_requests.1;
        self.affinity_pods -= usize::from(pod.has_affinity());
        self.anti_affinity_pods -= usize::from(!pod.required_anti_affinity.is_empty());
        Some(pod)
    }
}
