//! The operations on revisioned keys on which everything else is built.
//!
//! Keys are whole etcd keys (`/registry/pods/default/web`), values are opaque bytes.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::error::Result;

/// A point in the store's history. Every write gets the next one.
pub type Revision = u64;

/// A key with its value, as of the revision of its last write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The whole key.
    pub key: String,
    /// The value as it was written.
    pub value: Bytes,
    /// The revision of the last write to this key.
    pub revision: Revision,
    /// What became of the value on its way up from a store that encrypts.
    pub state: ValueState,
}

/// How a value came out of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ValueState {
    /// As it would be written again.
    #[default]
    Current,
    /// Readable, but a write would store it differently: under another key, for one.
    Stale,
    /// Not at all, and why; the value is empty.
    Unreadable(Arc<str>),
}

/// Which part of a prefix to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// Only keys that sort after this one.
    pub start_after: Option<String>,
    /// At most so many items; 0 is all.
    pub limit: usize,
    /// The state at this revision; `None` is the newest.
    pub at_revision: Option<Revision>,
}

/// A list, in the order of keys, consistent at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// The items.
    pub items: Vec<Stored>,
    /// The revision whose state this is.
    pub revision: Revision,
    /// Whether there are more items than the limit.
    pub more: bool,
    /// How many there are behind the last item.
    pub remaining: u64,
}

/// What a delete removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// The revision of the deletion.
    pub revision: Revision,
    /// What was stored before.
    pub previous: Stored,
}

/// From where and how to watch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchOptions {
    /// Events with a revision greater than this; `None` is from now on.
    pub after_revision: Option<Revision>,
    /// Whether events should carry what was stored before (unless it was compacted).
    pub previous: bool,
}

/// A change to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The key was created or updated.
    Put {
        /// The new state.
        stored: Stored,
        /// The old one, where asked for and there was one.
        previous: Option<Stored>,
    },
    /// The key was deleted, or its lease expired.
    Delete {
        /// The key.
        key: String,
        /// The revision of the deletion.
        revision: Revision,
        /// The old state, where asked for.
        previous: Option<Stored>,
    },
}

impl Event {
    /// The key that changed.
    pub fn key(&self) -> &str {
        match self {
            Event::Put { stored, .. } => &stored.key,
            Event::Delete { key, .. } => key,
        }
    }

    /// The revision of the change.
    pub fn revision(&self) -> Revision {
        match self {
            Event::Put { stored, .. } => stored.revision,
            Event::Delete { revision, .. } => *revision,
        }
    }
}

/// Events in the order of their revisions, in batches that never split a revision. The stream ends with an error
/// ([`crate::StoreError::Compacted`] if the revision to start at is gone) and nothing resumes it; see
/// [`crate::resume`].
pub type EventStream = BoxStream<'static, Result<Vec<Event>>>;

/// A store of revisioned keys.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The newest state of a key (linearizable).
    async fn get(&self, key: &str) -> Result<Option<Stored>>;

    /// The keys that begin with `prefix` (all keys, if it is empty).
    async fn list(&self, prefix: &str, options: ListOptions) -> Result<Listed>;

    /// Writes a key that isn't there yet, or answers `AlreadyExists`. With `ttl` the key goes away by itself no
    /// earlier than that, and not much later.
    async fn create(&self, key: &str, value: Bytes, ttl: Option<Duration>) -> Result<Revision>;

    /// Writes a key whose last write was `expected`, or answers `Conflict` with what is there. Without `ttl` the key
    /// no longer expires.
    async fn update(
        &self,
        key: &str,
        value: Bytes,
        expected: Revision,
        ttl: Option<Duration>,
    ) -> Result<Revision>;

    /// Deletes a key, if given only at that revision. `NotFound` if it isn't there, `Conflict` if it is at another.
    async fn delete(&self, key: &str, expected: Option<Revision>) -> Result<Deleted>;

    /// Changes to the keys that begin with `prefix` (to all keys, if it is empty).
    async fn watch(&self, prefix: &str, options: WatchOptions) -> Result<EventStream>;

    /// The revision of the last write that was acknowledged before the call (linearizable).
    async fn current_revision(&self) -> Result<Revision>;

    /// Forgets what can be read only at revisions before this one.
    async fn compact(&self, revision: Revision) -> Result<()>;
}
