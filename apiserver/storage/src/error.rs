//! What can go wrong in a store, in terms that the API server can answer with.

use crate::store::{Revision, Stored};

/// The result of a store's operation.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Why a store did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store can't be reached, or refuses to work now. Nothing was written.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// No answer came in time: a write may or may not have been done.
    #[error("store request timed out: {0}")]
    Timeout(String),
    /// The connection broke before the answer came: a write may or may not have been done.
    #[error("store connection broke: {0}")]
    Interrupted(String),
    /// The value is larger than the store takes.
    #[error("etcdserver: request is too large")]
    TooLarge,
    /// The wanted revision is no longer kept. The revision is the oldest that is, or 0 where unknown.
    #[error("required revision has been compacted")]
    Compacted {
        /// The oldest revision that can still be read, or 0.
        compact_revision: Revision,
    },
    /// The wanted revision is not there yet.
    #[error("required revision is a future revision")]
    FutureRevision,
    /// The key is at another revision than expected.
    #[error("the key is at another revision than expected")]
    Conflict {
        /// What is stored now; `None` if the key is gone.
        current: Option<Box<Stored>>,
    },
    /// There is no such key.
    #[error("key not found")]
    NotFound,
    /// The key to create is there already.
    #[error("key already exists")]
    AlreadyExists,
    /// The store ended a watch for a reason of its own.
    #[error("watch cancelled: {0}")]
    Cancelled(String),
    /// An answer that makes no sense, or a refusal that trying again won't change.
    #[error("store error: {0}")]
    Internal(String),
}

impl StoreError {
    /// Whether the same read may succeed a moment later.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            StoreError::Unavailable(_)
                | StoreError::Timeout(_)
                | StoreError::Interrupted(_)
                | StoreError::Cancelled(_)
        )
    }
}
