//! One pod after another: find a node, assume it, and let a task of its own bind.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use k8s_openapi::api::core::v1::Pod;
use keelson_runtime::Informer;
use rand::RngExt;
use tokio::time::Instant;

use crate::framework::{
    Change, CycleState, Diagnosis, Handle, Kind, Point, PostFilterInput, Profile, Rejection,
};
use crate::metrics::{Attempt, Attempts, METRICS};
use crate::model::{NodeInfo, PodInfo, Snapshot};
use crate::queue::{Queue, QueuedPod};
use crate::report::{self, Nomination};

/// Below this many nodes all are looked at.
const MIN_FEASIBLE: usize = 100;
const MIN_PERCENTAGE: usize = 5;

/// The scheduler. Cheap to clone.
#[derive(Clone)]
pub struct Scheduler {
    /// Where pods wait.
    pub queue: Arc<Queue>,
    /// What it works with.
    pub handle: Handle,
    /// The profiles by name.
    pub profiles: Arc<BTreeMap<String, Arc<Profile>>>,
    /// Pods, to see their newest state.
    pub pods: Informer<Pod>,
    /// Where the next search begins, so that not always the same nodes are looked at in a large cluster.
    pub start: Arc<AtomicUsize>,
}

/// Why no node was found.
enum Failure {
    NoNodes,
    NoFit(Box<Diagnosis>),
    Error(Rejection),
}

impl Scheduler {
    /// Places pods for ever.
    pub async fn run(self) {
        loop {
            let pod = self.queue.next().await;
            self.schedule_one(pod).await;
        }
    }

    /// Tries one pod.
    pub async fn schedule_one(&self, queued: QueuedPod) {
        let pod = queued.info.clone();
        let Some(profile) = self.profiles.get(pod.scheduler_name()).cloned() else {
            self.queue.done(&pod.uid);
            return;
        };
        if pod.is_terminating() || self.handle.cache.lock().is_assumed(&pod.uid) {
            self.queue.done(&pod.uid);
            return;
        }
        let started = Instant::now();
        let snapshot = self.handle.cache.lock().snapshot();
        let mut state = CycleState::default();
        let found = self.find(&profile, &mut state, &pod, &snapshot);
        METRICS
            .algorithm_duration
            .observe(started.elapsed().as_secs_f64());
        match found {
            Ok(node) => self.take(profile, state, queued, node, started),
            Err(Failure::NoFit(mut diagnosis)) => {
                let nomination = self
                    .make_room(&profile, &state, &pod, &snapshot, &mut diagnosis)
                    .await;
                self.count("unschedulable", &profile, started);
                let message = diagnosis.message();
                self.fail(queued, *diagnosis, "Unschedulable", &message, nomination);
            }
            Err(Failure::NoNodes) => {
                self.count("unschedulable", &profile, started);
                let mut diagnosis = Diagnosis::default();
                // Any node that comes may help: whoever filters says so.
                diagnosis
                    .plugins
                    .extend(profile.at(Point::Filter).map(|(plugin, _)| plugin.name()));
                let message = "no nodes available to schedule pods";
                self.fail(
                    queued,
                    diagnosis,
                    "Unschedulable",
                    message,
                    Nomination::Keep,
                );
            }
            Err(Failure::Error(rejection)) => {
                self.count("error", &profile, started);
                let message = rejection.message();
                self.fail(
                    queued,
                    Diagnosis::default(),
                    "SchedulerError",
                    &message,
                    Nomination::Keep,
                );
            }
        }
    }

    fn count(&self, result: &'static str, profile: &Profile, started: Instant) {
        let attempt = Attempt {
            result,
            profile: profile.name.clone(),
        };
        METRICS
            .attempt_duration
            .get_or_create(&attempt)
            .observe(started.elapsed().as_secs_f64());
        METRICS.attempts.get_or_create(&attempt).inc();
    }

    /// The best node for the pod.
    fn find(
        &self,
        profile: &Profile,
        state: &mut CycleState,
        pod: &PodInfo,
        snapshot: &Snapshot,
    ) -> Result<Arc<NodeInfo>, Failure> {
        if snapshot.nodes.is_empty() {
            return Err(Failure::NoNodes);
        }
        let mut diagnosis = Diagnosis {
            all_nodes: snapshot.nodes.len(),
            ..Diagnosis::default()
        };
        let only = match profile.pre_filter(state, pod, snapshot, &mut diagnosis) {
            Ok(only) => only,
            Err(rejection) if rejection.kind == Kind::Error => {
                return Err(Failure::Error(rejection));
            }
            Err(rejection) => {
                diagnosis.pre_filter = Some(rejection.message());
                diagnosis.plugins.insert(rejection.plugin);
                diagnosis.absent = Some(rejection);
                return Err(Failure::NoFit(Box::new(diagnosis)));
            }
        };
        if let Some(node) = self.nominated(profile, state, pod, snapshot) {
            return Ok(node);
        }
        let candidates: Vec<&Arc<NodeInfo>> = match &only {
            Some(names) => names.iter().filter_map(|n| snapshot.node(n)).collect(),
            None => snapshot.nodes.iter().collect(),
        };
        let feasible = self.feasible(profile, state, pod, &candidates, &mut diagnosis)?;
        match feasible.as_slice() {
            [] => Err(Failure::NoFit(Box::new(diagnosis))),
            [single] => Ok(single.clone()),
            several => {
                let scores = profile
                    .score(state, pod, snapshot, several)
                    .map_err(Failure::Error)?;
                Ok(best(several, &scores).clone())
            }
        }
    }

    /// The node on which room was made for the pod, if it fits by now.
    fn nominated(
        &self,
        profile: &Profile,
        state: &CycleState,
        pod: &PodInfo,
        snapshot: &Snapshot,
    ) -> Option<Arc<NodeInfo>> {
        let nominator = &self.handle.nominator;
        let name = nominator.node_of(&pod.uid)?;
        let node = snapshot.node(&name)?;
        profile
            .filter_beside_nominated(nominator, state, pod, node)
            .is_ok()
            .then(|| node.clone())
    }

    /// The nodes that can take the pod; in a large cluster no more than are worth scoring.
    fn feasible(
        &self,
        profile: &Profile,
        state: &CycleState,
        pod: &PodInfo,
        candidates: &[&Arc<NodeInfo>],
        diagnosis: &mut Diagnosis,
    ) -> Result<Vec<Arc<NodeInfo>>, Failure> {
        let count = candidates.len();
        let wanted = enough(profile.percentage_of_nodes_to_score, count);
        let start = self.start.load(Ordering::Relaxed) % count.max(1);
        let mut feasible = Vec::new();
        let mut seen = 0;
        for node in candidates[start..].iter().chain(&candidates[..start]) {
            seen += 1;
            match profile.filter_beside_nominated(&self.handle.nominator, state, pod, node) {
                Ok(()) => {
                    feasible.push(Arc::clone(node));
                    if feasible.len() >= wanted {
                        break;
                    }
                }
                Err(rejection) if rejection.kind == Kind::Error => {
                    return Err(Failure::Error(rejection));
                }
                Err(rejection) => diagnosis.refuse(node.name(), rejection),
            }
        }
        self.start
            .store((start + seen) % count.max(1), Ordering::Relaxed);
        Ok(feasible)
    }

    /// Assumes that the pod is on the node, and binds it beside the next pod's turn.
    fn take(
        &self,
        profile: Arc<Profile>,
        mut state: CycleState,
        queued: QueuedPod,
        chosen: Arc<NodeInfo>,
        started: Instant,
    ) {
        let pod = queued.info.clone();
        let node = chosen.name().to_owned();
        if !self.handle.cache.lock().assume(pod.clone(), &node) {
            self.queue.done(&pod.uid);
            return;
        }
        self.handle.nominator.remove(&pod.uid);
        let permitted = profile
            .reserve(&mut state, &pod, &chosen)
            .and_then(|()| profile.permit(&state, &pod, &node));
        let wait = match permitted {
            Ok(wait) => wait,
            Err(rejection) => {
                self.give_up(&profile, &state, queued, &node, rejection, started);
                return;
            }
        };
        let scheduler = self.clone();
        keelson_daemon::task::spawn("bind", async move {
            let permitted = match wait {
                Some((plugin, limit)) => {
                    scheduler.handle.waiting.wait(&pod.uid, limit, plugin).await
                }
                None => Ok(()),
            };
            // What happens from here on can't make it fit better: nothing need be remembered for it any more.
            scheduler.queue.done(&pod.uid);
            let bound = match permitted {
                Ok(()) => profile.bind(&state, &pod, &node).await,
                refused => refused,
            };
            match bound {
                Ok(()) => scheduler.bound(&profile, &queued, &node, started),
                Err(rejection) => {
                    scheduler.give_up(&profile, &state, queued, &node, rejection, started);
                }
            }
        });
    }

    fn bound(&self, profile: &Profile, queued: &QueuedPod, node: &str, started: Instant) {
        let pod = &queued.info;
        self.count("scheduled", profile, started);
        METRICS.pod_attempts.observe(f64::from(queued.attempts));
        if let Some(first) = queued.first_attempt {
            METRICS
                .sli_duration
                .get_or_create(&Attempts {
                    attempts: queued.attempts.min(15).to_string(),
                })
                .observe(first.elapsed().as_secs_f64());
        }
        tracing::info!(pod = %pod.key, node, "bound");
        report::scheduled(&self.handle, pod, node);
    }

    /// Takes a choice back that could not be carried out.
    fn give_up(
        &self,
        profile: &Profile,
        state: &CycleState,
        queued: QueuedPod,
        node: &str,
        rejection: Rejection,
        started: Instant,
    ) {
        let pod = queued.info.clone();
        profile.unreserve(state, &pod, node);
        self.handle.cache.lock().forget(&pod.uid);
        // What it would have taken is free again for others.
        self.queue.tell(&Change::PodDeleted(pod.clone()));
        let mut diagnosis = Diagnosis::default();
        let (result, reason) = match rejection.kind {
            Kind::Error => ("error", "SchedulerError"),
            _ => {
                diagnosis.plugins.insert(rejection.plugin);
                ("unschedulable", "Unschedulable")
            }
        };
        self.count(result, profile, started);
        let message = match rejection.kind {
            Kind::Error => format!("binding rejected: {}", rejection.message()),
            _ => format!("0/1 nodes are available: 1 {}.", rejection.message()),
        };
        self.fail(queued, diagnosis, reason, &message, Nomination::Keep);
    }

    /// Asks the PostFilter plugins to make room, until one does.
    async fn make_room(
        &self,
        profile: &Profile,
        state: &CycleState,
        pod: &Arc<PodInfo>,
        snapshot: &Snapshot,
        diagnosis: &mut Diagnosis,
    ) -> Nomination {
        let mut nomination = Nomination::Keep;
        let mut messages: Vec<String> = Vec::new();
        for (plugin, _) in profile.at(Point::PostFilter) {
            let input = PostFilterInput {
                profile,
                state,
                pod,
                snapshot,
                diagnosis,
            };
            match plugin.post_filter(input).await {
                Ok(outcome) => {
                    if let Some(node) = outcome.nominated {
                        nomination = Nomination::Set(node);
                        messages.clear();
                        break;
                    }
                    if outcome.clear_nomination {
                        nomination = Nomination::Set(String::new());
                    }
                    if !outcome.message.is_empty() {
                        messages.push(outcome.message);
                    }
                }
                Err(rejection) => {
                    tracing::error!(pod = %pod.key, plugin = plugin.name(), error = rejection.message(), "cannot make room");
                }
            }
        }
        diagnosis.post_filter = messages.join(", ");
        if let Nomination::Set(node) = &nomination {
            self.handle.nominator.set(pod.clone(), node);
        }
        nomination
    }

    /// Puts the pod back and says why.
    fn fail(
        &self,
        mut queued: QueuedPod,
        diagnosis: Diagnosis,
        reason: &'static str,
        message: &str,
        nomination: Nomination,
    ) {
        let uid = queued.info.uid.clone();
        let newest = self.pods.get(&queued.info.key);
        let newest = newest.filter(|pod| pod.metadata.uid.as_deref() == Some(uid.as_str()));
        let Some(newest) = newest.map(PodInfo::new) else {
            // Deleted meanwhile.
            self.handle.nominator.remove(&uid);
            self.queue.done(&uid);
            return;
        };
        if !newest.node_name().is_empty() {
            // Bound after all (by somebody else, or the answer got lost).
            self.queue.done(&uid);
            return;
        }
        tracing::info!(pod = %queued.info.key, reason, message, "not scheduled");
        queued.info = newest.clone();
        queued.plugins = diagnosis.plugins;
        queued.pending = diagnosis.pending;
        self.queue.put_back(queued);
        report::failed(&self.handle, &newest, reason, message, nomination);
    }
}

/// How many feasible nodes are enough to choose from.
fn enough(percentage: Option<u32>, nodes: usize) -> usize {
    if nodes < MIN_FEASIBLE {
        return nodes.max(1);
    }
    let percentage = match percentage {
        Some(percentage) => percentage as usize,
        None => 50usize.saturating_sub(nodes / 125).max(MIN_PERCENTAGE),
    };
    (nodes * percentage / 100).max(MIN_FEASIBLE)
}

/// One of the nodes with the highest score, each with the same chance.
fn best<'a>(nodes: &'a [Arc<NodeInfo>], scores: &[i64]) -> &'a Arc<NodeInfo> {
    let highest = scores.iter().max();
    let tops: Vec<&Arc<NodeInfo>> = nodes
        .iter()
        .zip(scores)
        .filter(|(_, score)| Some(*score) == highest)
        .map(|(node, _)| node)
        .collect();
    tops[rand::rng().random_range(0..tops.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_cluster_is_not_searched_in_full() {
        assert_eq!(enough(None, 1), 1);
        assert_eq!(enough(None, 99), 99);
        assert_eq!(enough(None, 100), 100);
        assert_eq!(enough(None, 1_000), 420);
        assert_eq!(enough(None, 5_000), 500);
        assert_eq!(enough(None, 10_000), 500);
        assert_eq!(enough(Some(50), 5_000), 2_500);
        assert_eq!(enough(Some(1), 5_000), 100);
    }
}
