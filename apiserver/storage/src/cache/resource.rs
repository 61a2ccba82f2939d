//! One resource: its snapshot, its ring and those who watch it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use imbl::OrdMap;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, watch};

use super::change::Change;
use super::ring::Ring;
use super::{CacheOptions, ResourceConfig};
use crate::entry::Entry;
use crate::store::{Event, Revision, Stored, ValueState};

/// The objects by their keys.
pub(super) type Snapshot = OrdMap<Arc<str>, Arc<Entry>>;

/// The changes that wait for one watcher.
type Queue = mpsc::Sender<Arc<Change>>;

/// How many snapshots of the past are kept for lists in pages.
const PAST: usize = 4;

/// A field that every watcher of one object asks for.
const NAME: &str = "metadata.name";

pub(super) struct Resource {
    pub(super) config: ResourceConfig,
    state: RwLock<State>,
    /// The number of the ring's next change: who reads by cursor waits on it. Closed with the resource.
    wake: Mutex<Option<watch::Sender<u64>>>,
    past: Mutex<VecDeque<(Revision, Snapshot)>>,
}

pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) snapshot: Snapshot,
    /// What is stored but can't be read, by key.
    pub(super) unreadable: BTreeMap<String, Fault>,
    /// The state is at least as new as this.
    pub(super) revision: Revision,
    pub(super) ring: Ring,
    /// The revision of the last list: events up to it are in the snapshot already.
    loaded: Revision,
    /// Watchers that are found by a field's value.
    indexed: HashMap<(String, String), Vec<(u64, Queue)>>,
    next_watcher: u64,
}

/// Why a stored object can't be read.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    /// As a read of the object is answered.
    pub(super) why: Arc<str>,
    /// As a list is answered that the object is in.
    pub(super) in_list: Arc<str>,
}

/// What became of a stored value.
pub(super) enum Decoded {
    Entry(Arc<Entry>),
    Fault(String, Fault),
}

pub(super) enum Phase {
    /// Not listed yet.
    Empty,
    /// Being listed beside the running watch, whose events wait here.
    Loading(Vec<Event>),
    /// Listed, and following the watch.
    Live,
}

/// A change of the snapshot to be made: decoded already, so that the lock is held for a moment only.
pub(super) enum Step {
    Put(Arc<Entry>),
    Delete(String, Revision),
    Unreadable(String, Revision, Fault),
}

impl Step {
    fn revision(&self) -> Revision {
        match self {
            Step::Put(entry) => entry.revision(),
            Step::Delete(_, revision) | Step::Unreadable(_, revision, _) => *revision,
        }
    }
}

impl Resource {
    pub(super) fn new(
        mut config: ResourceConfig,
        options: &CacheOptions,
        loading: bool,
    ) -> Arc<Self> {
        if !config.index_fields.iter().any(|field| field == NAME) {
            config.index_fields.push(NAME.to_owned());
        }
        Arc::new(Resource {
            config,
            state: RwLock::new(State {
                phase: if loading {
                    Phase::Loading(Vec::new())
                } else {
                    Phase::Empty
                },
                snapshot: Snapshot::new(),
                unreadable: BTreeMap::new(),
                revision: 0,
                ring: Ring::new(options),
                loaded: 0,
                indexed: HashMap::new(),
                next_watcher: 0,
            }),
            wake: Mutex::new(Some(watch::Sender::new(0))),
            past: Mutex::default(),
        })
    }

    pub(super) fn is_live(&self) -> bool {
        matches!(self.state.read().phase, Phase::Live)
    }

    pub(super) fn count(&self) -> usize {
        self.state.read().snapshot.len()
    }

    pub(super) fn key(&self, namespace: &str, name: &str) -> String {
        if self.config.namespaced {
            format!("{}{namespace}/{name}", self.config.prefix)
        } else {
            format!("{}{name}", self.config.prefix)
        }
    }

    /// What the keys of a namespace begin with, or all keys.
    pub(super) fn scope(&self, namespace: Option<&str>) -> String {
        match namespace {
            Some(namespace) if self.config.namespaced => {
                format!("{}{namespace}/", self.config.prefix)
            }
            _ => self.config.prefix.clone(),
        }
    }

    pub(super) fn get(&self, namespace: &str, name: &str) -> Result<Option<Arc<Entry>>, Fault> {
        let key = self.key(namespace, name);
        let state = self.state.read();
        match state.snapshot.get(key.as_str()) {
            Some(entry) => Ok(Some(entry.clone())),
            None => state
                .unreadable
                .get(&key)
                .map_or(Ok(None), |fault| Err(fault.clone())),
        }
    }

    pub(super) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.read())
    }

    pub(super) fn write<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.write())
    }

    /// A receiver that wakes at each change; `None` once the resource is closed.
    pub(super) fn subscribe(&self) -> Option<watch::Receiver<u64>> {
        self.wake.lock().as_ref().map(watch::Sender::subscribe)
    }

    /// Ends every watcher.
    pub(super) fn close(&self) {
        self.wake.lock().take();
        self.state.write().indexed.clear();
    }

    /// The object behind a stored value. One that can't be decoded is reported.
    pub(super) fn decode(&self, stored: &Stored) -> Decoded {
        let extract = self.config.extract.as_ref();
        let fault = match &stored.state {
            ValueState::Unreadable(why) => Fault {
                why: why.clone(),
                in_list: format!("unable to transform key {:?}: {why}", stored.key).into(),
            },
            _ => match Entry::new(extract, &stored.key, &stored.value, stored.revision) {
                Ok(entry) => return Decoded::Entry(entry),
                Err(error) => {
                    let why: Arc<str> = error.to_string().into();
                    Fault {
                        in_list: why.clone(),
                        why,
                    }
                }
            },
        };
        tracing::error!(
            resource = self.config.id,
            key = stored.key,
            revision = stored.revision,
            error = %fault.why,
            "stored object can't be read"
        );
        Decoded::Fault(stored.key.clone(), fault)
    }

    pub(super) fn step(&self, event: &Event) -> Step {
        match event {
            Event::Put { stored, .. } => match self.decode(stored) {
                Decoded::Entry(entry) => Step::Put(entry),
                Decoded::Fault(key, fault) => Step::Unreadable(key, stored.revision, fault),
            },
            Event::Delete { key, revision, .. } => Step::Delete(key.clone(), *revision),
        }
    }

    /// Makes the changes and wakes whom they concern.
    pub(super) fn apply(&self, steps: Vec<Step>) {
        let next = {
            let mut state = self.state.write();
            for step in steps {
                state.apply(step, &self.config.index_fields);
            }
            state.ring.next()
        };
        self.announce(next);
    }

    fn announce(&self, next: u64) {
        if let Some(wake) = self.wake.lock().as_ref() {
            wake.send_if_modified(|at| std::mem::replace(at, next) != next);
        }
    }

    /// Takes a list of everything at a revision: what differs from the snapshot becomes changes, and nobody may start
    /// a watch before the revision, for what happened in between was not seen.
    pub(super) fn replace(&self, listed: Vec<Decoded>, revision: Revision) {
        let mut entries = Vec::with_capacity(listed.len());
        let mut unreadable = BTreeMap::new();
        for decoded in listed {
            match decoded {
                Decoded::Entry(entry) => entries.push(entry),
                Decoded::Fault(key, fault) => {
                    unreadable.insert(key, fault);
                }
            }
        }
        let next = {
            let mut state = self.state.write();
            let mut steps = state.difference(&entries, revision);
            let first = !matches!(state.phase, Phase::Live);
            let waiting = match std::mem::replace(&mut state.phase, Phase::Live) {
                Phase::Loading(events) => events,
                _ => Vec::new(),
            };
            if first {
                state.snapshot = entries.into_iter().map(|e| (e.shared_key(), e)).collect();
                steps.clear();
            }
            for step in steps {
                state.apply(step, &self.config.index_fields);
            }
            state.unreadable = unreadable;
            state.revision = state.revision.max(revision);
            state.loaded = revision;
            state.ring.raise_low(revision);
            for event in &waiting {
                let step = self.step(event);
                state.apply(step, &self.config.index_fields);
            }
            state.ring.next()
        };
        self.past.lock().clear();
        self.announce(next);
    }

    #[cfg(test)]
    pub(super) fn forget_past(&self) {
        self.past.lock().clear();
    }

    /// The objects as they were at a revision; `None` if the ring does not reach back so far. The caller made sure
    /// that the revision has been reached.
    pub(super) fn at(&self, revision: Revision) -> Option<Snapshot> {
        let mut past = self.past.lock();
        if let Some((_, snapshot)) = past.iter().find(|(at, _)| *at == revision) {
            return Some(snapshot.clone());
        }
        let snapshot = {
            let state = self.state.read();
            let from = state.ring.after(revision)?;
            let mut snapshot = state.snapshot.clone();
            for change in state.ring.from(from)?.rev() {
                match (&change.before, change.key()) {
                    (Some(entry), _) => {
                        snapshot.insert(entry.shared_key(), entry.clone());
                    }
                    (None, Some(key)) => {
                        snapshot.remove(&key);
                    }
                    (None, None) => {}
                }
            }
            snapshot
        };
        past.push_front((revision, snapshot.clone()));
        past.truncate(PAST);
        Some(snapshot)
    }
}

impl State {
    fn apply(&mut self, step: Step, index_fields: &[String]) {
        let revision = step.revision();
        if revision <= self.loaded {
            return;
        }
        self.revision = self.revision.max(revision);
        let (now, before) = match step {
            Step::Put(entry) => {
                self.unreadable.remove(entry.key());
                let before = self.snapshot.insert(entry.shared_key(), entry.clone());
                (Some(entry), before)
            }
            Step::Delete(key, _) => {
                self.unreadable.remove(&key);
                match self.snapshot.remove(key.as_str()) {
                    Some(before) => (None, Some(before)),
                    // It never was there for anybody.
                    None => return,
                }
            }
            // Watchers can't be shown it: for them it is gone.
            Step::Unreadable(key, _, fault) => {
                let before = self.snapshot.remove(key.as_str());
                self.unreadable.insert(key, fault);
                match before {
                    Some(before) => (None, Some(before)),
                    None => return,
                }
            }
        };
        let change = Change::new(revision, now, before);
        self.tell_indexed(&change, index_fields);
        self.ring.push(change);
    }

    /// Hands the change to the watchers that ask for one of its values. One whose queue is full is dropped: it finds
    /// its queue closed, and is cut off.
    fn tell_indexed(&mut self, change: &Arc<Change>, index_fields: &[String]) {
        if self.indexed.is_empty() {
            return;
        }
        for field in index_fields {
            let value = |entry: &Option<Arc<Entry>>| {
                entry
                    .as_ref()
                    .and_then(|e| e.fields().get(field))
                    .map(str::to_owned)
            };
            let (now, before) = (value(&change.now), value(&change.before));
            let moved = before != now;
            for value in [now, before.filter(|_| moved)].into_iter().flatten() {
                let key = (field.clone(), value);
                if let Some(watchers) = self.indexed.get_mut(&key) {
                    watchers.retain(|(_, queue)| queue.try_send(change.clone()).is_ok());
                    if watchers.is_empty() {
                        self.indexed.remove(&key);
                    }
                }
            }
        }
    }

    /// Registers a watcher that asks for a field's value, with what it is to see first.
    pub(super) fn index(
        &mut self,
        key: (String, String),
        capacity: usize,
        missed: Vec<Arc<Change>>,
    ) -> (u64, mpsc::Receiver<Arc<Change>>) {
        let (sender, receiver) = mpsc::channel((capacity + missed.len()).max(1));
        for change in missed {
            sender
                .try_send(change)
                .expect("the queue was made large enough");
        }
        let id = self.next_watcher;
        self.next_watcher += 1;
        self.indexed.entry(key).or_default().push((id, sender));
        (id, receiver)
    }

    #[cfg(test)]
    pub(super) fn watchers(&self) -> usize {
        self.indexed.len()
    }

    pub(super) fn unindex(&mut self, key: &(String, String), id: u64) {
        if let Some(watchers) = self.indexed.get_mut(key) {
            watchers.retain(|(other, _)| *other != id);
            if watchers.is_empty() {
                self.indexed.remove(key);
            }
        }
    }

    /// What leads from the snapshot to a list, in the order of revisions; deletions last, at the list's own.
    fn difference(&self, entries: &[Arc<Entry>], revision: Revision) -> Vec<Step> {
        let mut left = self.snapshot.clone();
        let mut steps: Vec<Step> = Vec::new();
        for entry in entries {
            let old = left.remove(entry.key());
            if old.is_none_or(|old| old.revision() != entry.revision()) {
                steps.push(Step::Put(entry.clone()));
            }
        }
        steps.sort_by_key(Step::revision);
        steps.extend(
            left.keys()
                .map(|key| Step::Delete(key.to_string(), revision)),
        );
        steps
    }
}
