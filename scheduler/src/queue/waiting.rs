//! The queue's state and rules, without a clock of its own.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::framework::{Change, Profile};
use crate::model::PodInfo;

/// How long pods wait.
#[derive(Clone, Copy, Debug)]
pub struct QueueOptions {
    /// After the first failure.
    pub initial_backoff: Duration,
    /// At most.
    pub max_backoff: Duration,
    /// Pods that nothing helped are tried again after this.
    pub unschedulable_limit: Duration,
}

impl Default for QueueOptions {
    fn default() -> Self {
        QueueOptions {
            initial_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(10),
            unschedulable_limit: Duration::from_secs(300),
        }
    }
}

/// A pod with its history in the queue.
#[derive(Clone, Debug)]
pub struct QueuedPod {
    /// The pod.
    pub info: Arc<PodInfo>,
    /// When it last came into the queue.
    pub timestamp: Instant,
    /// When it was first tried.
    pub first_attempt: Option<Instant>,
    /// How often it was tried.
    pub attempts: u32,
    /// How often in a row it fitted nowhere.
    pub unschedulable: u32,
    /// How often in a row something went wrong.
    pub errors: u32,
    /// The plugins that refused it the last time.
    pub plugins: BTreeSet<&'static str>,
    /// The plugins that wait for something.
    pub pending: BTreeSet<&'static str>,
    /// Whether a PreEnqueue plugin holds it back.
    pub gated: bool,
}

impl QueuedPod {
    fn new(info: Arc<PodInfo>, now: Instant) -> Self {
        QueuedPod {
            info,
            timestamp: now,
            first_attempt: None,
            attempts: 0,
            unschedulable: 0,
            errors: 0,
            plugins: BTreeSet::new(),
            pending: BTreeSet::new(),
            gated: false,
        }
    }
}

/// How many pods wait where, as `scheduler_pending_pods` tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Can be tried now.
    pub active: usize,
    /// Were tried a moment ago.
    pub backoff: usize,
    /// Fit nowhere.
    pub unschedulable: usize,
    /// Are held back.
    pub gated: usize,
}

enum Place {
    /// The number tells the heap's valid item from older ones.
    Active(u64, Arc<QueuedPod>),
    Backoff(Instant, QueuedPod),
    Unschedulable(QueuedPod),
}

/// A pod in the heap of those that can be tried.
struct Turn {
    number: u64,
    pod: Arc<QueuedPod>,
    profile: Arc<Profile>,
}

impl Ord for Turn {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap gives its greatest first.
        self.profile
            .compare(&other.pod, &self.pod)
            .then(other.number.cmp(&self.number))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Turn {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Turn {}

/// The waiting pods, by uid.
pub struct Waiting {
    options: QueueOptions,
    profiles: BTreeMap<String, Arc<Profile>>,
    places: HashMap<String, Place>,
    turns: BinaryHeap<Turn>,
    next_number: u64,
    /// Backoffs by their ends.
    backoff: BTreeSet<(Instant, String)>,
    /// Pods that fit nowhere, by when they were last tried; gated ones are not among them.
    sleeping: BTreeSet<(Instant, String)>,
    /// Pods being tried, each with the number of the first change since it was taken, and as it was last seen.
    in_flight: HashMap<String, (u64, Arc<PodInfo>)>,
    /// What happened since the oldest of them was taken.
    changes: VecDeque<Change>,
    first_change: u64,
}

impl Waiting {
    /// Nobody waits.
    pub fn new(options: QueueOptions, profiles: BTreeMap<String, Arc<Profile>>) -> Self {
        Waiting {
            options,
            profiles,
            places: HashMap::new(),
            turns: BinaryHeap::new(),
            next_number: 0,
            backoff: BTreeSet::new(),
            sleeping: BTreeSet::new(),
            in_flight: HashMap::new(),
            changes: VecDeque::new(),
            first_change: 0,
        }
    }

    fn profile(&self, pod: &PodInfo) -> Option<&Arc<Profile>> {
        self.profiles.get(pod.scheduler_name())
    }

    /// Takes a pod in, or its newest state.
    pub fn put(&mut self, info: Arc<PodInfo>, now: Instant) {
        if let Some((_, seen)) = self.in_flight.get_mut(&info.uid) {
            // It comes back with its newest state, if it comes back; the change itself may help it.
            let old = std::mem::replace(seen, info.clone());
            self.changes
                .push_back(Change::OwnUpdated { old, new: info });
            return;
        }
        match self.take(&info.uid) {
            None => self.activate(QueuedPod::new(info, now)),
            Some(Place::Active(_, pod)) => {
                let mut pod = QueuedPod::clone(&pod);
                pod.info = info;
                self.activate(pod);
            }
            Some(Place::Backoff(until, mut pod)) => {
                pod.info = info;
                self.wait(until, pod);
            }
            Some(Place::Unschedulable(mut pod)) => {
                let old = std::mem::replace(&mut pod.info, info.clone());
                let change = Change::OwnUpdated { old, new: info };
                if pod.gated || self.helps(&pod, &change) {
                    self.requeue(pod, now);
                } else {
                    self.sleep(pod);
                }
            }
        }
    }

    /// Forgets a pod.
    pub fn remove(&mut self, uid: &str) {
        self.take(uid);
    }

    /// Takes a pod from wherever it is.
    fn take(&mut self, uid: &str) -> Option<Place> {
        let place = self.places.remove(uid)?;
        match &place {
            // The heap's item is passed over when its turn comes.
            Place::Active(..) => {}
            Place::Backoff(until, _) => {
                self.backoff.remove(&(*until, uid.to_owned()));
            }
            Place::Unschedulable(pod) => {
                self.sleeping.remove(&(pod.timestamp, uid.to_owned()));
            }
        }
        Some(place)
    }

    fn wait(&mut self, until: Instant, pod: QueuedPod) {
        let uid = pod.info.uid.clone();
        self.backoff.insert((until, uid.clone()));
        self.places.insert(uid, Place::Backoff(until, pod));
    }

    fn sleep(&mut self, pod: QueuedPod) {
        let uid = pod.info.uid.clone();
        if !pod.gated {
            self.sleeping.insert((pod.timestamp, uid.clone()));
        }
        self.places.insert(uid, Place::Unschedulable(pod));
    }

    /// Whether the pod's turn may come, or a gate holds it back.
    fn activate(&mut self, mut pod: QueuedPod) {
        let Some(profile) = self.profile(&pod.info).cloned() else {
            return;
        };
        let uid = pod.info.uid.clone();
        if let Err(rejection) = profile.pre_enqueue(&pod.info) {
            pod.gated = true;
            pod.plugins = BTreeSet::from([rejection.plugin]);
            self.sleep(pod);
            return;
        }
        pod.gated = false;
        let number = self.next_number;
        self.next_number += 1;
        let pod = Arc::new(pod);
        self.places.insert(uid, Place::Active(number, pod.clone()));
        self.turns.push(Turn {
            number,
            pod,
            profile,
        });
    }

    /// Where a pod goes that is worth another try: it waits out its backoff first.
    fn requeue(&mut self, pod: QueuedPod, now: Instant) {
        let until = pod.timestamp + self.backoff_of(&pod);
        if until <= now || pod.gated {
            self.activate(pod);
        } else {
            self.wait(until, pod);
        }
    }

    /// Doubled with each failure in a row.
    fn backoff_of(&self, pod: &QueuedPod) -> Duration {
        let failures = if pod.errors > 0 {
            pod.errors
        } else {
            pod.unschedulable
        };
        if failures == 0 {
            return Duration::ZERO;
        }
        let factor = 1u32.checked_shl(failures - 1).unwrap_or(u32::MAX);
        self.options
            .initial_backoff
            .saturating_mul(factor)
            .min(self.options.max_backoff)
    }

    /// Whether a change may help the pod, as the plugins that refused it say.
    fn helps(&self, pod: &QueuedPod, change: &Change) -> bool {
        if matches!(change, Change::Elapsed) || (pod.plugins.is_empty() && pod.pending.is_empty()) {
            return true;
        }
        if let Change::OwnUpdated { new, .. } = change
            && new.uid != pod.info.uid
        {
            return false;
        }
        let Some(profile) = self.profile(&pod.info) else {
            return false;
        };
        pod.plugins
            .iter()
            .chain(&pod.pending)
            .filter_map(|name| profile.plugin(name))
            .any(|plugin| plugin.helped_by(&pod.info, change))
    }

    /// Tells what happened: those whom it may help get another try.
    pub fn tell(&mut self, change: &Change, now: Instant) {
        if !self.in_flight.is_empty() {
            self.changes.push_back(change.clone());
        }
        let helped: Vec<String> = self
            .places
            .iter()
            .filter_map(|(uid, place)| match place {
                Place::Unschedulable(pod) if !pod.gated && self.helps(pod, change) => {
                    Some(uid.clone())
                }
                _ => None,
            })
            .collect();
        for uid in helped {
            if let Some(Place::Unschedulable(pod)) = self.take(&uid) {
                self.requeue(pod, now);
            }
        }
    }

    /// Takes a pod back that could not be placed, with what is known of why. If something happened meanwhile that may
    /// help, it doesn't wait for more.
    pub fn put_back(&mut self, mut pod: QueuedPod, now: Instant) {
        let uid = pod.info.uid.clone();
        let since = self.in_flight.get(&uid).map(|(since, _)| *since);
        let failed = pod.plugins.is_empty() && pod.pending.is_empty();
        if failed {
            pod.errors += 1;
        } else {
            pod.unschedulable += 1;
            pod.errors = 0;
        }
        pod.timestamp = now;
        let skip = since.map_or(u64::MAX, |since| since.saturating_sub(self.first_change));
        let helped = failed
            || self
                .changes
                .iter()
                .skip(usize::try_from(skip).unwrap_or(usize::MAX))
                .any(|change| self.helps(&pod, change));
        self.done(&uid);
        if self.places.contains_key(&uid) {
            return;
        }
        if helped {
            self.requeue(pod, now);
        } else {
            self.sleep(pod);
        }
    }

    /// The attempt with this pod is over.
    pub fn done(&mut self, uid: &str) {
        self.in_flight.remove(uid);
        match self.in_flight.values().map(|(since, _)| since).min() {
            None => {
                self.first_change += self.changes.len() as u64;
                self.changes.clear();
            }
            Some(oldest) => {
                while self.first_change < *oldest && self.changes.pop_front().is_some() {
                    self.first_change += 1;
                }
            }
        }
    }

    /// Lets time pass: backoffs end, and what nothing helped gets another try.
    fn tick(&mut self, now: Instant) {
        while let Some((until, uid)) = self.backoff.first().cloned() {
            if until > now {
                break;
            }
            if let Some(Place::Backoff(_, pod)) = self.take(&uid) {
                self.activate(pod);
            }
        }
        let limit = self.options.unschedulable_limit;
        while let Some((since, uid)) = self.sleeping.first().cloned() {
            if since + limit > now {
                break;
            }
            if let Some(Place::Unschedulable(pod)) = self.take(&uid) {
                self.requeue(pod, now);
            }
        }
    }

    /// The next pod to be tried.
    pub fn pop(&mut self, now: Instant) -> Option<QueuedPod> {
        self.tick(now);
        let mut pod = self.pop_active().or_else(|| self.pop_early())?;
        pod.gated = false;
        pod.attempts += 1;
        pod.first_attempt.get_or_insert(now);
        pod.plugins.clear();
        pod.pending.clear();
        let next = self.first_change + self.changes.len() as u64;
        self.in_flight
            .insert(pod.info.uid.clone(), (next, pod.info.clone()));
        Some(pod)
    }

    fn pop_active(&mut self) -> Option<QueuedPod> {
        while let Some(turn) = self.turns.pop() {
            let uid = &turn.pod.info.uid;
            let valid = matches!(self.places.get(uid), Some(Place::Active(number, _)) if *number == turn.number);
            if valid {
                self.places.remove(uid);
                return Some(Arc::unwrap_or_clone(turn.pod));
            }
        }
        None
    }

    /// With nobody else to try, a pod that something may have helped needn't wait out its backoff. One with which
    /// something went wrong does.
    fn pop_early(&mut self) -> Option<QueuedPod> {
        let candidates = self.backoff.iter().find(|(_, uid)| {
            matches!(self.places.get(uid), Some(Place::Backoff(_, pod)) if pod.errors == 0)
        });
        let uid = candidates?.1.clone();
        match self.take(&uid) {
            Some(Place::Backoff(_, pod)) => Some(pod),
            _ => None,
        }
    }

    /// When time alone changes something next.
    pub fn deadline(&self) -> Option<Instant> {
        let backoff = self.backoff.first().map(|(until, _)| *until);
        let limit = self.options.unschedulable_limit;
        let sleeping = self.sleeping.first().map(|(since, _)| *since + limit);
        backoff.into_iter().chain(sleeping).min()
    }

    /// How many pods wait where.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for place in self.places.values() {
            match place {
                Place::Active(..) => counts.active += 1,
                Place::Backoff(..) => counts.backoff += 1,
                Place::Unschedulable(pod) if pod.gated => counts.gated += 1,
                Place::Unschedulable(_) => counts.unschedulable += 1,
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::build;
    use crate::plugins;

    const FIT: &str = "NodeResourcesFit";

    fn waiting() -> (Waiting, Instant) {
        let profile = plugins::profile_for_tests();
        let profiles = BTreeMap::from([(profile.name.clone(), Arc::new(profile))]);
        (
            Waiting::new(QueueOptions::default(), profiles),
            Instant::now(),
        )
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn fail(waiting: &mut Waiting, name: &str, now: Instant) {
        let mut pod = waiting.pop(now).expect("a pod");
        assert_eq!(pod.info.key.name, name);
        pod.plugins.insert(FIT);
        waiting.put_back(pod, now);
    }

    #[test]
    fn the_highest_priority_comes_first_then_the_oldest() {
        let (mut waiting, now) = waiting();
        waiting.put(build::pod("first").info(), now);
        waiting.put(build::pod("second").info(), now + seconds(1));
        waiting.put(build::pod("urgent").priority(100).info(), now + seconds(2));
        let order: Vec<String> = std::iter::from_fn(|| waiting.pop(now + seconds(3)))
            .map(|pod| pod.info.key.name.clone())
            .collect();
        assert_eq!(order, ["urgent", "first", "second"]);
    }

    #[test]
    fn a_pod_that_fits_nowhere_sleeps_until_something_helps() {
        let (mut waiting, now) = waiting();
        let pod = build::pod("p").container(&[("cpu", "2")]);
        waiting.put(pod.info(), now);
        fail(&mut waiting, "p", now);
        assert_eq!(waiting.counts().unschedulable, 1);
        // A node that is too small does not help, one that is large enough does.
        let small = build::node("small").allocatable("cpu", "1").done();
        waiting.tell(&Change::NodeAdded(small), now + seconds(5));
        assert!(waiting.pop(now + seconds(5)).is_none());
        let large = build::node("large").done();
        waiting.tell(&Change::NodeAdded(large), now + seconds(6));
        assert!(waiting.pop(now + seconds(6)).is_some());
    }

    #[test]
    fn what_happens_during_an_attempt_is_not_missed() {
        let (mut waiting, now) = waiting();
        waiting.put(build::pod("p").container(&[("cpu", "2")]).info(), now);
        let mut pod = waiting.pop(now).unwrap();
        waiting.tell(&Change::NodeAdded(build::node("n").done()), now);
        pod.plugins.insert(FIT);
        waiting.put_back(pod, now);
        assert_eq!(waiting.counts().backoff, 1);
        // So is what happens to the pod itself.
        let mut pod = waiting.pop(now + seconds(1)).unwrap();
        let smaller = build::pod("p").container(&[("cpu", "1")]);
        let uid = json!(pod.info.uid);
        waiting.put(smaller.set("/metadata/uid", uid).info(), now);
        pod.plugins.insert(FIT);
        waiting.put_back(pod, now);
        assert_eq!(waiting.counts().backoff, 1);
        // It is over: the same does not help twice.
        fail(&mut waiting, "p", now + seconds(1));
        assert_eq!(waiting.counts().unschedulable, 1);
        assert!(waiting.changes.is_empty());
    }

    #[test]
    fn errors_back_off_and_double() {
        let (mut waiting, mut now) = waiting();
        waiting.put(build::pod("p").info(), now);
        for wait in [1, 2, 4, 8, 10, 10] {
            let pod = waiting.pop(now).expect("its turn");
            waiting.put_back(pod, now);
            assert_eq!(waiting.deadline(), Some(now + seconds(wait)));
            assert!(waiting.pop(now + seconds(wait) / 2).is_none());
            now += seconds(wait);
        }
        let pod = waiting.pop(now).unwrap();
        assert_eq!(pod.attempts, 7);
    }

    #[test]
    fn after_five_minutes_everything_is_tried_again() {
        let (mut waiting, now) = waiting();
        waiting.put(build::pod("p").info(), now);
        fail(&mut waiting, "p", now);
        assert_eq!(waiting.deadline(), Some(now + seconds(300)));
        assert!(waiting.pop(now + seconds(299)).is_none());
        assert!(waiting.pop(now + seconds(300)).is_some());
    }

    #[test]
    fn gates_hold_a_pod_back_until_they_are_gone() {
        let (mut waiting, now) = waiting();
        let open = build::pod("p");
        let gated = open.clone().set(
            "/spec/schedulingGates",
            json!([{"name": "example.com/wait"}]),
        );
        waiting.put(gated.info(), now);
        assert_eq!(waiting.counts().gated, 1);
        waiting.tell(&Change::Elapsed, now);
        assert!(waiting.pop(now + seconds(1_000)).is_none());
        waiting.put(open.info(), now);
        assert!(waiting.pop(now).is_some());
    }

    #[test]
    fn updates_replace_and_removal_forgets() {
        let (mut waiting, now) = waiting();
        let pod = build::pod("p");
        waiting.put(pod.info(), now);
        waiting.put(pod.clone().priority(7).info(), now);
        let popped = waiting.pop(now).unwrap();
        assert_eq!(popped.info.priority, 7);
        assert!(waiting.pop(now).is_none());
        // An update while it is tried adds no second one.
        waiting.put(pod.info(), now);
        assert!(waiting.pop(now).is_none());
        waiting.done(&popped.info.uid);
        waiting.put(pod.info(), now);
        waiting.remove(&pod.info().uid);
        assert!(waiting.pop(now).is_none());
        assert_eq!(waiting.counts(), Counts::default());
    }
}
