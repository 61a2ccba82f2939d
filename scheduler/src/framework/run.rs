//! Asking a profile's plugins, point by point.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::handle::Nominator;
use super::plugin::{Bound, Permit, Point, PreFilter, Scoring};
use super::profile::Profile;
use super::state::CycleState;
use super::verdict::{Diagnosis, Rejection};
use crate::model::{NodeInfo, PodInfo, Snapshot};
use crate::queue::QueuedPod;

/// The best score that a plugin gives.
pub const MAX_SCORE: i64 = 100;

impl Profile {
    /// Whether the pod may wait for its turn.
    pub fn pre_enqueue(&self, pod: &PodInfo) -> Result<(), Rejection> {
        for (plugin, _) in self.at(Point::PreEnqueue) {
            plugin
                .pre_enqueue(pod)
                .map_err(|rejection| rejection.by(plugin.name()))?;
        }
        Ok(())
    }

    /// Who comes first.
    pub fn compare(&self, a: &QueuedPod, b: &QueuedPod) -> Ordering {
        match self.at(Point::QueueSort).next() {
            Some((plugin, _)) => plugin.compare(a, b),
            None => a.timestamp.cmp(&b.timestamp),
        }
    }

    /// Runs PreFilter; the nodes to look at, if not all. What is learnt of nodes left out goes into the diagnosis.
    pub fn pre_filter(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        snapshot: &Snapshot,
        diagnosis: &mut Diagnosis,
    ) -> Result<Option<BTreeSet<String>>, Rejection> {
        let mut only: Option<BTreeSet<String>> = None;
        let mut by = BTreeSet::new();
        for (plugin, _) in self.at(Point::PreFilter) {
            let name = plugin.name();
            let found = plugin
                .pre_filter(state, pod, snapshot)
                .map_err(|rejection| rejection.by(name))?;
            match found {
                PreFilter::All => {}
                PreFilter::Skip => {
                    state.skip_filter.insert(name);
                }
                PreFilter::Nodes(nodes) => {
                    by.insert(name);
                    let nodes: BTreeSet<String> = nodes.into_iter().collect();
                    only = Some(match only {
                        Some(before) => before.intersection(&nodes).cloned().collect(),
                        None => nodes,
                    });
                }
            }
        }
        if only.is_some() {
            let names: Vec<&str> = by.iter().copied().collect();
            let reason = format!("node(s) didn't satisfy plugin(s) [{}]", names.join(" "));
            diagnosis.absent = Some(Rejection::unresolvable(reason));
            diagnosis.plugins.extend(by);
        }
        Ok(only)
    }

    /// Whether the node can take the pod, as the node stands.
    pub fn filter(
        &self,
        state: &CycleState,
        pod: &PodInfo,
        node: &NodeInfo,
    ) -> Result<(), Rejection> {
        for (plugin, _) in self.at(Point::Filter) {
            if state.skip_filter.contains(plugin.name()) {
                continue;
            }
            plugin
                .filter(state, pod, node)
                .map_err(|rejection| rejection.by(plugin.name()))?;
        }
        Ok(())
    }

    /// Whether the node can take the pod beside the pods of no lower priority for which room was made on it; and also
    /// without them, since they may go elsewhere and the pod may need them near.
    pub fn filter_beside_nominated(
        &self,
        nominator: &Nominator,
        state: &CycleState,
        pod: &PodInfo,
        node: &Arc<NodeInfo>,
    ) -> Result<(), Rejection> {
        let mut nominated = nominator.on(node.name());
        nominated.retain(|other| other.priority >= pod.priority && other.uid != pod.uid);
        if !nominated.is_empty() {
            let mut state = state.clone();
            let mut crowded = NodeInfo::clone(node);
            for other in nominated {
                crowded.add_pod(other.clone());
                self.add_pod(&mut state, pod, &other, &crowded);
            }
            self.filter(&state, pod, &crowded)?;
        }
        self.filter(state, pod, node)
    }

    /// Tells plugins that another pod is tried out on a node.
    pub fn add_pod(&self, state: &mut CycleState, pod: &PodInfo, added: &PodInfo, node: &NodeInfo) {
        for (plugin, _) in self.at(Point::PreFilter) {
            if !state.skip_filter.contains(plugin.name()) {
                plugin.add_pod(state, pod, added, node);
            }
        }
    }

    /// Tells plugins that another pod is tried to be taken off a node.
    pub fn remove_pod(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        removed: &PodInfo,
        node: &NodeInfo,
    ) {
        for (plugin, _) in self.at(Point::PreFilter) {
            if !state.skip_filter.contains(plugin.name()) {
                plugin.remove_pod(state, pod, removed, node);
            }
        }
    }

    /// The weighted scores of nodes.
    pub fn score(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        snapshot: &Snapshot,
        nodes: &[Arc<NodeInfo>],
    ) -> Result<Vec<i64>, Rejection> {
        for (plugin, _) in self.at(Point::PreScore) {
            let found = plugin
                .pre_score(state, pod, snapshot, nodes)
                .map_err(|rejection| rejection.by(plugin.name()))?;
            if found == Scoring::Skip {
                state.skip_score.insert(plugin.name());
            }
        }
        let mut totals = vec![0i64; nodes.len()];
        for (plugin, weight) in self.at(Point::Score) {
            if state.skip_score.contains(plugin.name()) {
                continue;
            }
            let mut scores: Vec<i64> = nodes
                .iter()
                .map(|node| plugin.score(state, pod, node))
                .collect();
            plugin.normalize(state, pod, &mut scores);
            for (total, score) in totals.iter_mut().zip(scores) {
                if !(0..=MAX_SCORE).contains(&score) {
                    let text = format!("plugin {} gave an invalid score {score}", plugin.name());
                    return Err(Rejection::error(text).by(plugin.name()));
                }
                *total += score * weight;
            }
        }
        Ok(totals)
    }

    /// Tells plugins of the choice; who refuses undoes it for all.
    pub fn reserve(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        node: &NodeInfo,
    ) -> Result<(), Rejection> {
        for (plugin, _) in self.at(Point::Reserve) {
            if let Err(rejection) = plugin.reserve(state, pod, node) {
                self.unreserve(state, pod, node.name());
                return Err(rejection.by(plugin.name()));
            }
        }
        Ok(())
    }

    /// Takes the choice back, in reverse order.
    pub fn unreserve(&self, state: &CycleState, pod: &PodInfo, node: &str) {
        let plugins: Vec<_> = self.at(Point::Reserve).collect();
        for (plugin, _) in plugins.into_iter().rev() {
            plugin.unreserve(state, pod, node);
        }
    }

    /// Asks for permits: how long to wait for whom, if anybody wants it.
    pub fn permit(
        &self,
        state: &CycleState,
        pod: &PodInfo,
        node: &str,
    ) -> Result<Option<(&'static str, std::time::Duration)>, Rejection> {
        let mut wait = None;
        for (plugin, _) in self.at(Point::Permit) {
            match plugin.permit(state, pod, node) {
                Permit::Allow => {}
                Permit::Reject(rejection) => return Err(rejection.by(plugin.name())),
                Permit::Wait(limit) => wait = Some((plugin.name(), limit)),
            }
        }
        Ok(wait)
    }

    /// Does what must be done before, and binds.
    pub async fn bind(
        &self,
        state: &CycleState,
        pod: &PodInfo,
        node: &str,
    ) -> Result<(), Rejection> {
        for (plugin, _) in self.at(Point::PreBind) {
            plugin
                .pre_bind(state, pod, node)
                .await
                .map_err(|rejection| rejection.by(plugin.name()))?;
        }
        for (plugin, _) in self.at(Point::Bind) {
            let bound = plugin
                .bind(pod, node)
                .await
                .map_err(|rejection| rejection.by(plugin.name()))?;
            if bound == Bound::Done {
                for (plugin, _) in self.at(Point::PostBind) {
                    plugin.post_bind(state, pod, node);
                }
                return Ok(());
            }
        }
        Err(Rejection::error("no plugin bound the pod"))
    }
}
