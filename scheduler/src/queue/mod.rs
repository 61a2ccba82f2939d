//! Whose turn it is: pods that can be tried now, pods that were tried a moment ago, and pods that fit nowhere until
//! something happens that could help them.
//!
//! [`Waiting`] is the pure part: every method is told the time. [`Queue`] puts a lock and a clock around it.

mod waiting;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

pub use waiting::{Counts, QueueOptions, QueuedPod, Waiting};

use crate::framework::{Change, Profile};
use crate::model::PodInfo;

/// The queue of pods without a node.
pub struct Queue {
    waiting: Mutex<Waiting>,
    changed: Notify,
}

impl Queue {
    /// An empty queue for the pods of these profiles.
    pub fn new(options: QueueOptions, profiles: BTreeMap<String, Arc<Profile>>) -> Self {
        Queue {
            waiting: Mutex::new(Waiting::new(options, profiles)),
            changed: Notify::new(),
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Waiting, Instant) -> T) -> T {
        let outcome = change(&mut self.waiting.lock(), Instant::now());
        self.changed.notify_one();
        outcome
    }

    /// Takes a pod in, or its newest state.
    pub fn put(&self, pod: Arc<PodInfo>) {
        self.change(|waiting, now| waiting.put(pod, now));
    }

    /// Forgets a pod.
    pub fn remove(&self, uid: &str) {
        self.change(|waiting, _| waiting.remove(uid));
    }

    /// Tells what happened to those whom it may help.
    pub fn tell(&self, change: &Change) {
        self.change(|waiting, now| waiting.tell(change, now));
    }

    /// Takes a pod back that could not be placed.
    pub fn put_back(&self, pod: QueuedPod) {
        self.change(|waiting, now| waiting.put_back(pod, now));
    }

    /// The attempt with this pod is over.
    pub fn done(&self, uid: &str) {
        self.waiting.lock().done(uid);
    }

    /// How many pods wait where.
    pub fn counts(&self) -> Counts {
        self.waiting.lock().counts()
    }

    /// The next pod to be tried. Must be followed by [`Queue::put_back`] or [`Queue::done`].
    pub async fn next(&self) -> QueuedPod {
        loop {
            let changed = self.changed.notified();
            let deadline = {
                let mut waiting = self.waiting.lock();
                let now = Instant::now();
                if let Some(pod) = waiting.pop(now) {
                    return pod;
                }
                waiting.deadline()
            };
            match deadline {
                Some(deadline) => {
                    // Either way there may be something now.
                    let _ = tokio::time::timeout_at(deadline, changed).await;
                }
                None => changed.await,
            }
        }
    }
}
