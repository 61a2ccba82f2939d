//! What a plugin can do.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::change::Change;
use super::profile::Profile;
use super::state::CycleState;
use super::verdict::{Diagnosis, Rejection};
use crate::model::{NodeInfo, PodInfo, Snapshot};
use crate::queue::QueuedPod;

/// Where a plugin can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Point {
    /// Before a pod may wait for its turn.
    PreEnqueue,
    /// Whose turn it is.
    QueueSort,
    /// Once for a pod, before nodes are looked at.
    PreFilter,
    /// Whether a node can take the pod.
    Filter,
    /// When no node can.
    PostFilter,
    /// Once for a pod, before nodes are scored.
    PreScore,
    /// How good a node is.
    Score,
    /// When a node was chosen.
    Reserve,
    /// Before binding starts.
    Permit,
    /// What must be done before the pod is bound.
    PreBind,
    /// Binding.
    Bind,
    /// After binding.
    PostBind,
}

/// What PreFilter found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PreFilter {
    /// Every node is to be looked at.
    All,
    /// Only these nodes can do.
    Nodes(Vec<String>),
    /// This plugin's Filter has nothing to say.
    Skip,
}

/// What PreScore found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoring {
    /// Nodes are to be scored.
    Score,
    /// This plugin's Score has nothing to say.
    Skip,
}

/// Whether a pod may be bound now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permit {
    /// It may.
    Allow,
    /// Once somebody allows it, within this time.
    Wait(Duration),
    /// It may not.
    Reject(Rejection),
}

/// Whether a Bind plugin did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The pod is bound.
    Done,
    /// Another plugin is to do it.
    Skip,
}

/// What PostFilter achieved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PostFilter {
    /// The node on which room is being made.
    pub nominated: Option<String>,
    /// Whether an earlier nomination is void.
    pub clear_nomination: bool,
    /// What is to be said, empty for nothing.
    pub message: String,
}

/// What PostFilter works on.
pub struct PostFilterInput<'a> {
    /// The profile, to try filters again.
    pub profile: &'a Profile,
    /// What the filters keep.
    pub state: &'a CycleState,
    /// The pod.
    pub pod: &'a Arc<PodInfo>,
    /// The nodes.
    pub snapshot: &'a Snapshot,
    /// Why they refused.
    pub diagnosis: &'a Diagnosis,
}

/// A scheduling plugin. It is asked only at its [`Plugin::points`]; elsewhere the defaults say nothing.
#[async_trait]
pub trait Plugin: Send + Sync {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    /// Where it is to be asked.
    fn points(&self) -> &'static [Point];

    /// Whether a change may make room for a pod that this plugin refused (upstream's queueing hints).
    fn helped_by(&self, pod: &PodInfo, change: &Change) -> bool {
        let _ = (pod, change);
        false
    }

    /// Whether the pod may wait for its turn.
    fn pre_enqueue(&self, pod: &PodInfo) -> Result<(), Rejection> {
        let _ = pod;
        Ok(())
    }

    /// Who comes first.
    fn compare(&self, a: &QueuedPod, b: &QueuedPod) -> Ordering {
        let _ = (a, b);
        Ordering::Equal
    }

    /// Works out what its Filter needs.
    fn pre_filter(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        snapshot: &Snapshot,
    ) -> Result<PreFilter, Rejection> {
        let _ = (state, pod, snapshot);
        Ok(PreFilter::All)
    }

    /// Keeps what PreFilter worked out true when another pod is tried out on a node.
    fn add_pod(&self, state: &mut CycleState, pod: &PodInfo, added: &PodInfo, node: &NodeInfo) {
        let _ = (state, pod, added, node);
    }

    /// Keeps what PreFilter worked out true when another pod is tried to be taken off a node.
    fn remove_pod(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        removed: &PodInfo,
        node: &NodeInfo,
    ) {
        let _ = (state, pod, removed, node);
    }

    /// Whether the node can take the pod.
    fn filter(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        let _ = (state, pod, node);
        Ok(())
    }

    /// Tries to make room.
    async fn post_filter(&self, input: PostFilterInput<'_>) -> Result<PostFilter, Rejection> {
        let _ = input;
        Ok(PostFilter::default())
    }

    /// Works out what its Score needs.
    fn pre_score(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        snapshot: &Snapshot,
        nodes: &[Arc<NodeInfo>],
    ) -> Result<Scoring, Rejection> {
        let _ = (state, pod, snapshot, nodes);
        Ok(Scoring::Score)
    }

    /// How good the node is.
    fn score(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let _ = (state, pod, node);
        0
    }

    /// Brings the scores of all nodes between 0 and 100.
    fn normalize(&self, state: &CycleState, pod: &PodInfo, scores: &mut [i64]) {
        let _ = (state, pod, scores);
    }

    /// Takes note of the choice.
    fn reserve(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        node: &NodeInfo,
    ) -> Result<(), Rejection> {
        let _ = (state, pod, node);
        Ok(())
    }

    /// Takes it back. Must not fail, and may be called without a `reserve`.
    fn unreserve(&self, state: &CycleState, pod: &PodInfo, node: &str) {
        let _ = (state, pod, node);
    }

    /// Whether the pod may be bound now.
    fn permit(&self, state: &CycleState, pod: &PodInfo, node: &str) -> Permit {
        let _ = (state, pod, node);
        Permit::Allow
    }

    /// Does what must be done before.
    async fn pre_bind(
        &self,
        state: &CycleState,
        pod: &PodInfo,
        node: &str,
    ) -> Result<(), Rejection> {
        let _ = (state, pod, node);
        Ok(())
    }

    /// Binds the pod.
    async fn bind(&self, pod: &PodInfo, node: &str) -> Result<Bound, Rejection> {
        let _ = (pod, node);
        Ok(Bound::Skip)
    }

    /// Takes note that it is bound.
    fn post_bind(&self, state: &CycleState, pod: &PodInfo, node: &str) {
        let _ = (state, pod, node);
    }
}
