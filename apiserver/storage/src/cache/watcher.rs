//! WATCH: a cursor into a resource's ring, or a small queue of its own for a watcher that asks for one field's value.

use std::ops::Bound;
use std::sync::Arc;
use std::vec;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::change::{Change, WatchEvent};
use super::resource::{Resource, State};
use super::{CacheError, Inner, Predicate, Prepare};
use crate::entry::Entry;
use crate::store::Revision;

/// How many events are handed over at once.
const BATCH: usize = 256;

/// Where a watch starts, as `resourceVersion` and `sendInitialEvents` say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WatchStart {
    /// With the changes from now on.
    Now,
    /// With the state, at least as new as every write acknowledged before the call (no resourceVersion).
    #[default]
    Fresh,
    /// With the state as it is at hand (resourceVersion 0).
    Any,
    /// With the state, at least this new (resourceVersion with sendInitialEvents).
    AtLeast(Revision),
    /// With the changes after this revision (resourceVersion).
    After(Revision),
}

/// What to watch.
#[derive(Clone, Default)]
pub struct WatchRequest {
    /// Only this namespace.
    pub namespace: Option<String>,
    /// Only objects that it lets through. One that no longer is becomes a deletion.
    pub predicate: Option<Predicate>,
    /// What objects need before the predicate can look at them.
    pub prepare: Option<Prepare>,
    /// A field and the value that the predicate asks of it (`spec.nodeName` or `metadata.name`), so that changes of
    /// other objects don't wake this watcher. Left unused where the resource has no such index.
    pub index: Option<(String, String)>,
    /// From where.
    pub start: WatchStart,
    /// Whether bookmarks are wanted.
    pub bookmarks: bool,
    /// Whether a bookmark is to end the initial state (sendInitialEvents).
    pub initial_events_end: bool,
}

/// A watch in progress. Dropping it ends it.
pub struct Watcher {
    inner: Arc<Inner>,
    resource: Arc<Resource>,
    namespace: Option<String>,
    predicate: Option<Predicate>,
    prepare: Option<Prepare>,
    /// Changes that were taken and are being made ready.
    pending: Vec<Arc<Change>>,
    bookmarks: bool,
    next_bookmark: Instant,
    initial: Option<Initial>,
    /// Everything up to this revision has been told.
    told: Revision,
    /// Changes up to this revision are known to the client already, though the cache may still be to see them.
    pass_over: Revision,
    source: Source,
}

struct Initial {
    entries: vec::IntoIter<Arc<Entry>>,
    revision: Revision,
    mark_end: bool,
}

enum Source {
    Ring {
        next: u64,
        wake: watch::Receiver<u64>,
    },
    Queue {
        key: (String, String),
        id: u64,
        queue: mpsc::Receiver<Arc<Change>>,
    },
}

pub(super) async fn open(
    inner: &Arc<Inner>,
    id: &str,
    request: WatchRequest,
) -> Result<Watcher, CacheError> {
    match request.start {
        WatchStart::Fresh => {
            let revision = inner.fresh.revision().await?;
            inner.wait_until_fresh(revision).await?;
        }
        WatchStart::AtLeast(revision) => inner.wait_until_fresh(revision).await?,
        WatchStart::Now | WatchStart::Any | WatchStart::After(_) => {}
    }
    let resource = inner.resource(id)?;
    let wake = resource
        .subscribe()
        .ok_or_else(|| CacheError::UnknownResource(id.to_owned()))?;
    let progress = inner.progress();
    let index = request
        .index
        .filter(|(field, _)| resource.config.index_fields.contains(field));
    let start = request.start;
    let (source, initial, told) = resource.write(|state| {
        let current = progress.max(state.revision);
        let after = match start {
            WatchStart::After(revision) => revision,
            _ => current,
        };
        let next = match start {
            // A revision that is not there yet: what comes up to it is passed over.
            WatchStart::After(revision) => state.ring.after(revision).ok_or(CacheError::Gone {
                requested: revision,
                oldest: state.ring.low(),
            })?,
            _ => state.ring.next(),
        };
        let initial = match start {
            WatchStart::Fresh | WatchStart::Any | WatchStart::AtLeast(_) => Some(Initial {
                entries: entries(&resource, state, request.namespace.as_deref()).into_iter(),
                revision: current,
                mark_end: request.initial_events_end,
            }),
            WatchStart::Now | WatchStart::After(_) => None,
        };
        let source = match index {
            None => Source::Ring { next, wake },
            Some(key) => queue(&inner.options, state, key, next)?,
        };
        Ok::<_, CacheError>((source, initial, after))
    })?;
    Ok(Watcher {
        next_bookmark: Instant::now() + inner.options.bookmark_interval,
        inner: inner.clone(),
        resource,
        namespace: request.namespace,
        prepare: request.prepare.filter(|_| request.predicate.is_some()),
        predicate: request.predicate,
        pending: Vec::new(),
        bookmarks: request.bookmarks,
        initial,
        told,
        pass_over: match start {
            WatchStart::After(revision) => revision,
            _ => 0,
        },
        source,
    })
}

fn entries(resource: &Resource, state: &State, namespace: Option<&str>) -> Vec<Arc<Entry>> {
    let scope = resource.scope(namespace);
    state
        .snapshot
        .range::<_, str>((Bound::Included(scope.as_str()), Bound::Unbounded))
        .take_while(|(key, _)| key.starts_with(&scope))
        .map(|(_, entry)| entry.clone())
        .collect()
}

/// Registers for a field's value, with what the ring has of it since the start.
fn queue(
    options: &super::CacheOptions,
    state: &mut State,
    key: (String, String),
    next: u64,
) -> Result<Source, CacheError> {
    let has = |entry: &Option<Arc<Entry>>| {
        entry
            .as_ref()
            .is_some_and(|e| e.fields().get(&key.0) == Some(key.1.as_str()))
    };
    let missed: Vec<Arc<Change>> = state
        .ring
        .from(next)
        .into_iter()
        .flatten()
        .filter(|change| has(&change.now) || has(&change.before))
        .cloned()
        .collect();
    let (id, queue) = state.index(key.clone(), options.queue, missed);
    Ok(Source::Queue { key, id, queue })
}

impl Watcher {
    /// The next events, at least one. `None` when the resource is gone; after an error there is nothing more. May be
    /// dropped before it is done: no event is lost.
    pub async fn next(&mut self) -> Option<Result<Vec<WatchEvent>, CacheError>> {
        if let Err(e) = self.ready_initial().await {
            return Some(Err(e));
        }
        if let Some(events) = self.initial_batch() {
            return Some(Ok(events));
        }
        loop {
            match self.take() {
                Ok(()) => match self.tell().await {
                    Ok(events) if !events.is_empty() => return Some(Ok(events)),
                    Ok(_) => {}
                    Err(e) => return Some(Err(e)),
                },
                Err(Ended::Closed) => return None,
                Err(Ended::Behind) => return Some(Err(CacheError::TooSlow)),
            }
            let due = self.next_bookmark;
            let wanted = self.bookmarks;
            let bookmark = async move {
                match wanted {
                    true => tokio::time::sleep_until(due).await,
                    false => std::future::pending().await,
                }
            };
            let woken = tokio::select! {
                woken = wait(&mut self.source) => woken,
                () = bookmark => {
                    if let Some(event) = self.bookmark() {
                        return Some(Ok(vec![event]));
                    }
                    continue;
                }
            };
            match woken {
                Woken::Look => {}
                Woken::Change(change) => self.pending.push(change),
                // The ring is closed with its resource, a queue also when it is full.
                Woken::Closed => {
                    return self.resource.subscribe().map(|_| Err(CacheError::TooSlow));
                }
            }
        }
    }

    /// A bookmark, if everything that there is has been told; to be sent before the watch's time is over.
    pub fn bookmark(&mut self) -> Option<WatchEvent> {
        self.next_bookmark = Instant::now() + self.inner.options.bookmark_interval;
        if self.initial.is_some() {
            return None;
        }
        // In this order: what was applied before is in the ring or the queue.
        let progress = self.inner.progress();
        let caught_up = match &self.source {
            Source::Ring { next, .. } => self.resource.read(|state| state.ring.next() == *next),
            Source::Queue { queue, .. } => queue.is_empty() && !queue.is_closed(),
        };
        if !caught_up || !self.pending.is_empty() {
            return None;
        }
        self.told = self.told.max(progress);
        Some(WatchEvent::Bookmark {
            revision: self.told,
            initial_events_end: false,
        })
    }

    fn initial_batch(&mut self) -> Option<Vec<WatchEvent>> {
        let mut events = Vec::new();
        let initial = self.initial.as_mut()?;
        for entry in initial.entries.by_ref() {
            if self.predicate.as_ref().is_none_or(|wants| wants(&entry)) {
                events.push(WatchEvent::initial(entry));
                if events.len() == BATCH {
                    return Some(events);
                }
            }
        }
        if initial.mark_end {
            events.push(WatchEvent::Bookmark {
                revision: initial.revision,
                initial_events_end: true,
            });
        }
        self.initial = None;
        (!events.is_empty()).then_some(events)
    }

    /// Makes the initial state ready to be looked at.
    async fn ready_initial(&self) -> Result<(), CacheError> {
        let (Some(prepare), Some(initial)) = (&self.prepare, &self.initial) else {
            return Ok(());
        };
        let entries = initial.entries.as_slice().to_vec();
        prepare(entries).await.map_err(CacheError::Unprepared)
    }

    /// What the pending changes are to the watcher.
    async fn tell(&mut self) -> Result<Vec<WatchEvent>, CacheError> {
        if let Some(prepare) = &self.prepare
            && !self.pending.is_empty()
        {
            let states = |change: &Arc<Change>| [change.now.clone(), change.before.clone()];
            let entries = self.pending.iter().flat_map(states).flatten().collect();
            prepare(entries).await.map_err(CacheError::Unprepared)?;
        }
        let pending = std::mem::take(&mut self.pending);
        Ok(pending
            .iter()
            .filter_map(|change| self.see(change))
            .collect())
    }

    /// Takes what is there without waiting.
    fn take(&mut self) -> Result<(), Ended> {
        if !self.pending.is_empty() {
            return Ok(());
        }
        let mut changes: Vec<Arc<Change>> = Vec::new();
        match &mut self.source {
            Source::Ring { next, wake } => {
                wake.mark_unchanged();
                let at = *next;
                let batch = self.resource.read(|state| {
                    let kept = state.ring.from(at)?;
                    Some(kept.take(BATCH).cloned().collect::<Vec<_>>())
                });
                changes = batch.ok_or(Ended::Behind)?;
                *next += changes.len() as u64;
                if changes.len() == BATCH {
                    wake.mark_changed();
                }
            }
            Source::Queue { queue, .. } => {
                while changes.len() < BATCH {
                    match queue.try_recv() {
                        Ok(change) => changes.push(change),
                        Err(mpsc::error::TryRecvError::Empty) => break,
                        Err(mpsc::error::TryRecvError::Disconnected) if changes.is_empty() => {
                            return Err(match self.resource.subscribe() {
                                Some(_) => Ended::Behind,
                                None => Ended::Closed,
                            });
                        }
                        Err(mpsc::error::TryRecvError::Disconnected) => break,
                    }
                }
            }
        }
        self.pending = changes;
        Ok(())
    }

    fn see(&mut self, change: &Arc<Change>) -> Option<WatchEvent> {
        if change.revision <= self.pass_over {
            return None;
        }
        self.told = self.told.max(change.revision);
        change.seen(|entry| {
            self.namespace
                .as_deref()
                .is_none_or(|namespace| entry.namespace() == namespace)
                && self.predicate.as_ref().is_none_or(|wants| wants(entry))
        })
    }
}

enum Ended {
    Closed,
    Behind,
}

enum Woken {
    Look,
    Change(Arc<Change>),
    Closed,
}

async fn wait(source: &mut Source) -> Woken {
    match source {
        Source::Ring { wake, .. } => match wake.changed().await {
            Ok(()) => Woken::Look,
            Err(_) => Woken::Closed,
        },
        Source::Queue { queue, .. } => match queue.recv().await {
            Some(change) => Woken::Change(change),
            None => Woken::Closed,
        },
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Source::Queue { key, id, .. } = &self.source {
            self.resource.write(|state| state.unindex(key, *id));
        }
    }
}
