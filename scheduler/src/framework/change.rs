//! Something that happened in the cluster and may help a pod that fits nowhere.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;

use crate::model::PodInfo;

/// What happened.
#[derive(Clone, Debug)]
pub enum Change {
    /// A node came.
    NodeAdded(Arc<Node>),
    /// A node changed.
    NodeUpdated {
        /// What it was.
        old: Arc<Node>,
        /// What it is.
        new: Arc<Node>,
    },
    /// A node went.
    NodeDeleted(Arc<Node>),
    /// A pod got a node.
    PodAssigned(Arc<PodInfo>),
    /// A pod that has a node changed.
    PodUpdated {
        /// What it was.
        old: Arc<PodInfo>,
        /// What it is.
        new: Arc<PodInfo>,
    },
    /// A pod that had a node is gone or done, or could not be bound.
    PodDeleted(Arc<PodInfo>),
    /// The waiting pod itself changed.
    OwnUpdated {
        /// What it was.
        old: Arc<PodInfo>,
        /// What it is.
        new: Arc<PodInfo>,
    },
    /// A namespace got other labels.
    NamespaceChanged(String),
    /// A claim, volume, storage class or what a node has of CSI came or changed.
    StorageChanged,
    /// Time has passed: everything is worth another look.
    Elapsed,
}
