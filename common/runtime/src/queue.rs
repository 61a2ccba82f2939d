//! The keyed work queue.
//!
//! A key that is added while it waits is not added twice; one that is added while it is worked on comes back
//! once that work is done, so equal keys never run at the same time. Keys can be added after a delay, and after a failure with
//! exponential backoff. All waiting is on tokio's clock, so tests may pause it.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::hash::Hash;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::metrics::{METRICS, Name};

/// The first backoff after a failure, as upstream's default.
pub const BASE_DELAY: Duration = Duration::from_millis(5);
/// The longest backoff, as upstream's default.
pub const MAX_DELAY: Duration = Duration::from_secs(1000);

struct State<K> {
    ready: VecDeque<K>,
    // Everything in `ready`, and what was added while it was worked on.
    dirty: HashSet<K>,
    working: HashSet<K>,
    delayed: BTreeMap<(Instant, u64), K>,
    delayed_at: HashMap<K, (Instant, u64)>,
    added_at: HashMap<K, Instant>,
    failures: HashMap<K, u32>,
    sequence: u64,
    closed: bool,
}

/// A queue of keys; share it in an `Arc`.
pub struct Queue<K> {
    state: Mutex<State<K>>,
    wake: Notify,
    name: Name,
    base: Duration,
    max: Duration,
}

impl<K: Clone + Eq + Hash + Debug> Queue<K> {
    /// A queue whose metrics carry `name`.
    pub fn new(name: impl Into<String>) -> Arc<Self> {
        Self::with_backoff(name, BASE_DELAY, MAX_DELAY)
    }

    /// A queue with another backoff than upstream's default.
    pub fn with_backoff(name: impl Into<String>, base: Duration, max: Duration) -> Arc<Self> {
        let name = Name { name: name.into() };
        METRICS.depth.get_or_create(&name).set(0);
        Arc::new(Self {
            state: Mutex::new(State {
                ready: VecDeque::new(),
                dirty: HashSet::new(),
                working: HashSet::new(),
                delayed: BTreeMap::new(),
                delayed_at: HashMap::new(),
                added_at: HashMap::new(),
                failures: HashMap::new(),
                sequence: 0,
                closed: false,
            }),
            wake: Notify::new(),
            name,
            base,
            max,
        })
    }

    /// Adds a key to be worked on as soon as may be.
    pub fn add(&self, key: K) {
        let mut state = self.state.lock();
        if self.add_locked(&mut state, key) {
            drop(state);
            self.wake.notify_one();
        }
    }

    fn add_locked(&self, state: &mut State<K>, key: K) -> bool {
        if state.closed || !state.dirty.insert(key.clone()) {
            return false;
        }
        METRICS.adds.get_or_create(&self.name).inc();
        if state.working.contains(&key) {
            return false;
        }
        state.added_at.insert(key.clone(), Instant::now());
        state.ready.push_back(key);
        METRICS.depth.get_or_create(&self.name).inc();
        true
    }

    /// Adds a key after a delay. Of several delays for one key the shortest counts.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        let at = Instant::now() + delay;
        if let Some(before) = state.delayed_at.get(&key).copied() {
            if before.0 <= at {
                return;
            }
            state.delayed.remove(&before);
        }
        state.sequence += 1;
        let slot = (at, state.sequence);
        state.delayed.insert(slot, key.clone());
        state.delayed_at.insert(key, slot);
        drop(state);
        self.wake.notify_one();
    }

    /// Adds a key after the backoff that its failures call for, and gives that backoff back.
    pub fn add_rate_limited(&self, key: K) -> Duration {
        METRICS.retries.get_or_create(&self.name).inc();
        let delay = {
            let mut state = self.state.lock();
            let failures = state.failures.entry(key.clone()).or_insert(0);
            let delay = self
                .base
                .checked_mul(2u32.checked_pow(*failures).unwrap_or(u32::MAX))
                .unwrap_or(self.max)
                .min(self.max);
            *failures = failures.saturating_add(1);
            delay
        };
        self.add_after(key, delay);
        delay
    }

    /// Forgets the failures of a key.
    pub fn forget(&self, key: &K) {
        self.state.lock().failures.remove(key);
    }

    /// How often a key failed since it was last forgotten.
    pub fn failures(&self, key: &K) -> u32 {
        self.state.lock().failures.get(key).copied().unwrap_or(0)
    }

    /// How many keys wait to be worked on at once (delayed ones apart).
    pub fn len(&self) -> usize {
        self.state.lock().ready.len()
    }

    /// Whether no key waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Closes the queue: nothing can be added, and `next` ends when what waits has been handed out.
    pub fn shut_down(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.delayed.clear();
        state.delayed_at.clear();
        drop(state);
        self.wake.notify_waiters();
        self.wake.notify_one();
    }

    /// The next key to work on, which is done when the guard drops; `None` once the queue is closed and empty.
    pub async fn next(self: &Arc<Self>) -> Option<Working<K>> {
        loop {
            let wake = self.wake.notified();
            let deadline = {
                let mut state = self.state.lock();
                self.ripen(&mut state);
                if let Some(key) = state.ready.pop_front() {
                    let again = !state.ready.is_empty() || !state.delayed.is_empty();
                    state.dirty.remove(&key);
                    state.working.insert(key.clone());
                    let waited = state
                        .added_at
                        .remove(&key)
                        .map(|at| at.elapsed())
                        .unwrap_or_default();
                    drop(state);
                    if again {
                        // One worker is busy now: another has to mind what is left.
                        self.wake.notify_one();
                    }
                    METRICS.depth.get_or_create(&self.name).dec();
                    METRICS
                        .queue_duration
                        .get_or_create(&self.name)
                        .observe(waited.as_secs_f64());
                    return Some(Working {
                        queue: self.clone(),
                        key,
                        since: Instant::now(),
                    });
                }
                if state.closed {
                    self.wake.notify_one();
                    return None;
                }
                state.delayed.first_key_value().map(|((at, _), _)| *at)
            };
            match deadline {
                Some(at) => {
                    let _ = tokio::time::timeout_at(at, wake).await;
                }
                None => wake.await,
            }
        }
    }

    fn ripen(&self, state: &mut State<K>) {
        let now = Instant::now();
        while let Some(entry) = state.delayed.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let key = entry.remove();
            state.delayed_at.remove(&key);
            self.add_locked(state, key);
        }
    }

    fn done(&self, key: &K, since: Instant) {
        METRICS
            .work_duration
            .get_or_create(&self.name)
            .observe(since.elapsed().as_secs_f64());
        let mut state = self.state.lock();
        state.working.remove(key);
        if state.dirty.contains(key) {
            state.added_at.insert(key.clone(), Instant::now());
            state.ready.push_back(key.clone());
            METRICS.depth.get_or_create(&self.name).inc();
            drop(state);
            self.wake.notify_one();
        }
    }
}

/// A key being worked on; equal keys stay back until it drops.
pub struct Working<K: Clone + Eq + Hash + Debug> {
    queue: Arc<Queue<K>>,
    key: K,
    since: Instant,
}

impl<K: Clone + Eq + Hash + Debug> Deref for Working<K> {
    type Target = K;

    fn deref(&self) -> &K {
        &self.key
    }
}

impl<K: Clone + Eq + Hash + Debug> Drop for Working<K> {
    fn drop(&mut self) {
        self.queue.done(&self.key, self.since);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_is_never_worked_on_twice_at_once_and_no_add_is_lost() {
        let queue = Queue::new("test");
        queue.add("a");
        queue.add("a");
        let first = queue.next().await.unwrap();
        assert_eq!(queue.len(), 0);
        queue.add("a");
        queue.add("b");
        let second = queue.next().await.unwrap();
        assert_eq!(*second, "b");
        assert!(
            tokio::time::timeout(Duration::from_secs(1), queue.next())
                .await
                .is_err()
        );
        drop(first);
        assert_eq!(*queue.next().await.unwrap(), "a");
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_shortest_delay_counts() {
        let queue = Queue::new("test");
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(10));
        queue.add_after("a", Duration::from_secs(3));
        queue.add_after("a", Duration::from_secs(20));
        drop(queue.next().await.unwrap());
        assert_eq!(start.elapsed().as_secs(), 3);
        assert!(
            tokio::time::timeout(Duration::from_secs(60), queue.next())
                .await
                .is_err()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_shorter_delay_wakes_workers_that_wait_for_a_longer_one() {
        let queue = Queue::new("test");
        queue.add_after("slow", Duration::from_secs(100));
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.next().await.map(|k| (*k, Instant::now())) })
            })
            .collect();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let start = Instant::now();
        queue.add_after("quick", Duration::from_secs(1));
        queue.add_after("next", Duration::from_secs(2));
        let mut times = Vec::new();
        for worker in workers {
            let (key, at) = worker.await.unwrap().unwrap();
            times.push((key, (at - start).as_secs()));
        }
        times.sort_by_key(|t| t.1);
        assert_eq!(times, [("quick", 1), ("next", 2), ("slow", 99)]);
    }

    #[tokio::test(start_paused = true)]
    async fn backoff_doubles_to_the_cap_and_is_forgotten() {
        let queue = Queue::new("test");
        let delays: Vec<_> = (0..20)
            .map(|_| queue.add_rate_limited("a").as_millis())
            .collect();
        assert_eq!(&delays[..4], &[5, 10, 20, 40]);
        assert_eq!(delays[19], 1_000_000);
        queue.forget(&"a");
        assert_eq!(queue.add_rate_limited("a").as_millis(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn shutting_down_ends_every_worker() {
        let queue = Queue::<u8>::new("test");
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.next().await.is_none() })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(1)).await;
        queue.shut_down();
        for worker in workers {
            assert!(worker.await.unwrap());
        }
        queue.add(1);
        assert!(queue.next().await.is_none());
    }
}
