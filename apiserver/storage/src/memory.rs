//! A store in memory, for tests: with history, watches, compaction and expiry as etcd has them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::error::{Result, StoreError};
use crate::store::{
    Deleted, Event, EventStream, ListOptions, Listed, Revision, Store, Stored, WatchOptions,
};

/// A store that lives and dies with the process.
#[derive(Clone)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
    /// The newest revision and the generation of connections; a new generation ends every watch.
    changed: Arc<watch::Sender<(Revision, u64)>>,
    max_value: usize,
}

struct State {
    revision: Revision,
    /// States before this revision are forgotten.
    compacted: Revision,
    current: BTreeMap<String, Stored>,
    /// Every event after `compacted`, oldest first, each with what was stored before.
    log: VecDeque<Event>,
    down: bool,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store at revision 1, as a new etcd is.
    pub fn new() -> Self {
        MemoryStore {
            state: Arc::new(Mutex::new(State {
                revision: 1,
                compacted: 0,
                current: BTreeMap::new(),
                log: VecDeque::new(),
                down: false,
            })),
            changed: Arc::new(watch::Sender::new((1, 0))),
            // etcd's own default limit of a request.
            max_value: 1_572_864,
        }
    }

    /// Makes the store unreachable (which ends every watch) or reachable again.
    pub fn set_down(&self, down: bool) {
        self.state.lock().down = down;
        if down {
            self.changed.send_modify(|(_, generation)| *generation += 1);
        }
    }

    fn state(&self) -> Result<parking_lot::MutexGuard<'_, State>> {
        let state = self.state.lock();
        if state.down {
            return Err(StoreError::Unavailable("memory store is down".to_owned()));
        }
        Ok(state)
    }

    fn announce(&self, revision: Revision) {
        self.changed.send_modify(|(newest, _)| *newest = revision);
    }

    fn check_size(&self, value: &Bytes) -> Result<()> {
        if value.len() > self.max_value {
            return Err(StoreError::TooLarge);
        }
        Ok(())
    }

    fn expire_later(&self, key: &str, revision: Revision, ttl: Option<Duration>) {
        let Some(ttl) = ttl else { return };
        let (store, key) = (self.clone(), key.to_owned());
        // A later write has another revision, so that this deletes nothing then.
        tokio::spawn(async move {
            tokio::time::sleep(ttl).await;
            let _ = store.delete(&key, Some(revision)).await;
        });
    }
}

impl State {
    fn put(&mut self, key: &str, value: Bytes) -> Revision {
        self.revision += 1;
        let stored = Stored {
            key: key.to_owned(),
            value,
            revision: self.revision,
            state: crate::store::ValueState::Current,
        };
        let previous = self.current.insert(key.to_owned(), stored.clone());
        self.log.push_back(Event::Put { stored, previous });
        self.revision
    }

    /// The keys at a revision: today's, with everything since taken back.
    fn at(&self, revision: Revision) -> Result<BTreeMap<String, Stored>> {
        if revision > self.revision {
            return Err(StoreError::FutureRevision);
        }
        if revision < self.compacted {
            return Err(StoreError::Compacted {
                compact_revision: self.compacted,
            });
        }
        let mut keys = self.current.clone();
        for event in self.log.iter().rev() {
            if event.revision() <= revision {
                break;
            }
            let (Event::Put { previous, .. } | Event::Delete { previous, .. }) = event;
            match previous {
                Some(stored) => keys.insert(stored.key.clone(), stored.clone()),
                None => keys.remove(event.key()),
            };
        }
        Ok(keys)
    }

    fn events_after(&self, revision: Revision, prefix: &str, previous: bool) -> Result<Vec<Event>> {
        if revision + 1 < self.compacted {
            return Err(StoreError::Compacted {
                compact_revision: self.compacted,
            });
        }
        Ok(self
            .log
            .iter()
            .filter(|event| event.revision() > revision && event.key().starts_with(prefix))
            .cloned()
            .map(|mut event| {
                if !previous {
                    let (Event::Put { previous, .. } | Event::Delete { previous, .. }) = &mut event;
                    *previous = None;
                }
                event
            })
            .collect())
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &str) -> Result<Option<Stored>> {
        Ok(self.state()?.current.get(key).cloned())
    }

    async fn list(&self, prefix: &str, options: ListOptions) -> Result<Listed> {
        let state = self.state()?;
        let revision = options.at_revision.unwrap_or(state.revision);
        let keys = state.at(revision)?;
        let after = options.start_after.unwrap_or_default();
        let mut items: Vec<Stored> = keys
            .into_values()
            .filter(|stored| stored.key.starts_with(prefix) && stored.key > after)
            .collect();
        let total = items.len();
        if options.limit > 0 {
            items.truncate(options.limit);
        }
        Ok(Listed {
            more: items.len() < total,
            remaining: (total - items.len()) as u64,
            items,
            revision,
        })
    }

    async fn create(&self, key: &str, value: Bytes, ttl: Option<Duration>) -> Result<Revision> {
        self.check_size(&value)?;
        let revision = {
            let mut state = self.state()?;
            if state.current.contains_key(key) {
                return Err(StoreError::AlreadyExists);
            }
            state.put(key, value)
        };
        self.announce(revision);
        self.expire_later(key, revision, ttl);
        Ok(revision)
    }

    async fn update(
        &self,
        key: &str,
        value: Bytes,
        expected: Revision,
        ttl: Option<Duration>,
    ) -> Result<Revision> {
        self.check_size(&value)?;
        let revision = {
            let mut state = self.state()?;
            match state.current.get(key) {
                Some(stored) if stored.revision == expected => {}
                other => {
                    return Err(StoreError::Conflict {
                        current: other.cloned().map(Box::new),
                    });
                }
            }
            state.put(key, value)
        };
        self.announce(revision);
        self.expire_later(key, revision, ttl);
        Ok(revision)
    }

    async fn delete(&self, key: &str, expected: Option<Revision>) -> Result<Deleted> {
        let deleted = {
            let mut state = self.state()?;
            let stored = state.current.get(key).ok_or(StoreError::NotFound)?;
            if expected.is_some_and(|expected| stored.revision != expected) {
                return Err(StoreError::Conflict {
                    current: Some(Box::new(stored.clone())),
                });
            }
            let previous = stored.clone();
            state.revision += 1;
            let revision = state.revision;
            state.current.remove(key);
            state.log.push_back(Event::Delete {
                key: key.to_owned(),
                revision,
                previous: Some(previous.clone()),
            });
            Deleted { revision, previous }
        };
        self.announce(deleted.revision);
        Ok(deleted)
    }

    async fn watch(&self, prefix: &str, options: WatchOptions) -> Result<EventStream> {
        let receiver = self.changed.subscribe();
        let (after, generation) = {
            let state = self.state()?;
            let generation = receiver.borrow().1;
            (options.after_revision.unwrap_or(state.revision), generation)
        };
        let cursor = Cursor {
            store: self.clone(),
            receiver,
            prefix: prefix.to_owned(),
            previous: options.previous,
            after,
            generation,
        };
        Ok(futures::stream::unfold(Some(cursor), |cursor| async {
            let mut cursor = cursor?;
            match cursor.next().await {
                Ok(events) => Some((Ok(events), Some(cursor))),
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed())
    }

    async fn current_revision(&self) -> Result<Revision> {
        Ok(self.state()?.revision)
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        let mut state = self.state()?;
        if revision > state.revision {
            return Err(StoreError::FutureRevision);
        }
        if revision <= state.compacted {
            return Err(StoreError::Compacted {
                compact_revision: state.compacted,
            });
        }
        state.compacted = revision;
        // As in etcd, the state at the compacted revision itself can still be read: a watch may start at it.
        while state
            .log
            .front()
            .is_some_and(|event| event.revision() < revision)
        {
            state.log.pop_front();
        }
        Ok(())
    }
}

/// A watch in progress.
struct Cursor {
    store: MemoryStore,
    receiver: watch::Receiver<(Revision, u64)>,
    prefix: String,
    previous: bool,
    after: Revision,
    generation: u64,
}

impl Cursor {
    async fn next(&mut self) -> Result<Vec<Event>> {
        loop {
            let (newest, generation) = *self.receiver.borrow_and_update();
            if generation != self.generation {
                return Err(StoreError::Unavailable("memory store went away".to_owned()));
            }
            let events =
                self.store
                    .state()?
                    .events_after(self.after, &self.prefix, self.previous)?;
            // The log may be ahead of the announcement that woke this watch.
            self.after = events
                .last()
                .map_or(newest, Event::revision)
                .max(self.after);
            if !events.is_empty() {
                return Ok(events);
            }
            if self.receiver.changed().await.is_err() {
                return Err(StoreError::Unavailable("memory store is gone".to_owned()));
            }
        }
    }
}
