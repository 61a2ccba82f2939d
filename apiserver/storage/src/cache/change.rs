//! A change of one object, and what a watcher sees of it.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::entry::{Entry, Memo};
use crate::store::Revision;

/// One change in a resource's ring. At least one of the two states is there.
pub(super) struct Change {
    pub(super) revision: Revision,
    /// The state after it; `None` for a deletion.
    pub(super) now: Option<Arc<Entry>>,
    /// The state before it; `None` for a creation.
    pub(super) before: Option<Arc<Entry>>,
    /// The state before it, at this revision: for those to whom it is a deletion.
    gone: OnceLock<Arc<Entry>>,
    frames: Memo,
}

impl Change {
    pub(super) fn new(
        revision: Revision,
        now: Option<Arc<Entry>>,
        before: Option<Arc<Entry>>,
    ) -> Arc<Change> {
        Arc::new(Change {
            revision,
            now,
            before,
            gone: OnceLock::new(),
            frames: Memo::default(),
        })
    }

    /// Roughly what the ring keeps alive by holding this.
    pub(super) fn bytes(&self) -> usize {
        let size = |entry: &Option<Arc<Entry>>| entry.as_ref().map_or(0, |e| e.json().len());
        size(&self.now) + size(&self.before)
    }

    pub(super) fn key(&self) -> Option<Arc<str>> {
        self.now
            .as_ref()
            .or(self.before.as_ref())
            .map(|entry| entry.shared_key())
    }

    /// What the change is to somebody who sees only what `wanted` lets through.
    pub(super) fn seen(self: &Arc<Self>, wanted: impl Fn(&Entry) -> bool) -> Option<WatchEvent> {
        let now = self.now.as_ref().filter(|entry| wanted(entry));
        let before = self.before.as_ref().filter(|entry| wanted(entry));
        let (kind, entry) = match (now, before) {
            (Some(now), None) => (WatchKind::Added, now.clone()),
            (Some(now), Some(_)) => (WatchKind::Modified, now.clone()),
            (None, Some(before)) => {
                let gone = self.gone.get_or_init(|| before.at_revision(self.revision));
                (WatchKind::Deleted, gone.clone())
            }
            (None, None) => return None,
        };
        Some(WatchEvent::Object {
            kind,
            entry,
            origin: Origin(Some(self.clone())),
        })
    }
}

/// What happened to an object, as far as the watcher is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WatchKind {
    /// It is there, or matches from now on.
    Added,
    /// It changed.
    Modified,
    /// It is gone, or matches no longer.
    Deleted,
}

impl WatchKind {
    /// The API's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            WatchKind::Added => "ADDED",
            WatchKind::Modified => "MODIFIED",
            WatchKind::Deleted => "DELETED",
        }
    }
}

/// One thing to tell to a watcher.
#[derive(Clone, Debug)]
pub enum WatchEvent {
    /// An object.
    Object {
        /// What happened.
        kind: WatchKind,
        /// The object, with the event's resourceVersion; for a deletion in its last state (that matched).
        entry: Arc<Entry>,
        /// The change behind it, where there is one: see [`WatchEvent::frame`].
        origin: Origin,
    },
    /// Everything up to this revision has been told.
    Bookmark {
        /// The revision.
        revision: Revision,
        /// Whether this ends the initial state (annotation `k8s.io/initial-events-end`).
        initial_events_end: bool,
    },
}

/// The change that an event shows; initial events have none.
#[derive(Clone)]
pub struct Origin(Option<Arc<Change>>);

impl std::fmt::Debug for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Origin({:?})", self.0.as_ref().map(|c| c.revision))
    }
}

impl WatchEvent {
    pub(super) fn initial(entry: Arc<Entry>) -> Self {
        WatchEvent::Object {
            kind: WatchKind::Added,
            entry,
            origin: Origin(None),
        }
    }

    /// The resourceVersion of the event.
    pub fn revision(&self) -> Revision {
        match self {
            WatchEvent::Object { entry, .. } => entry.revision(),
            WatchEvent::Bookmark { revision, .. } => *revision,
        }
    }

    /// The state before the change, if it is known.
    pub fn previous(&self) -> Option<&Arc<Entry>> {
        match self {
            WatchEvent::Object { origin, .. } => origin.0.as_ref()?.before.as_ref(),
            WatchEvent::Bookmark { .. } => None,
        }
    }

    /// The event encoded as a frame of the stream: made once per encoding (a number of the caller's choice, below
    /// 2^30) for all watchers, and kept as long as the ring keeps the change. Not kept for initial events and
    /// bookmarks.
    pub fn frame(&self, encoding: u32, encode: impl FnOnce(&WatchEvent) -> Bytes) -> Bytes {
        match self {
            WatchEvent::Object {
                kind,
                origin: Origin(Some(change)),
                ..
            } => change
                .frames
                .get_or(encoding << 2 | *kind as u32, || encode(self)),
            _ => encode(self),
        }
    }
}
