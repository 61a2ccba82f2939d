//! What the API server keeps, and how it is read fast.
//!
//! [`Store`] is the small set of operations on revisioned keys that everything above needs; [`EtcdStore`] is the
//! real one, [`MemoryStore`] the one of tests. [`Cache`] follows one watch over the whole store and answers GET, LIST
//! and WATCH from memory. Kinds, their storage versions and encryption are the caller's: it hands the cache an
//! [`Extract`] per resource, and full etcd keys to the store.

pub mod cache;
mod entry;
mod error;
pub mod etcd;
mod memory;
mod pairs;
mod resume;
mod splice;
mod store;
#[cfg(test)]
mod suite;

pub use cache::{
    Cache, CacheError, CacheOptions, ListRequest, ListResult, Predicate, Prepare, ResourceConfig,
    VersionMatch, WatchEvent, WatchKind, WatchRequest, WatchStart, Watcher,
};
pub use entry::{Entry, Extract, ExtractError, Extracted};
pub use error::{Result, StoreError};
pub use etcd::{CompactionClock, EtcdConfig, EtcdStore, EtcdTls};
pub use memory::MemoryStore;
pub use pairs::Pairs;
pub use resume::resume;
pub use splice::with_resource_version;
pub use store::{
    Deleted, Event, EventStream, ListOptions, Listed, Revision, Store, Stored, ValueState,
    WatchOptions,
};
