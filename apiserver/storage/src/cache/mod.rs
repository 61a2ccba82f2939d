//! The watch cache: GET, LIST and WATCH from memory.
//!
//! One watch over *all* keys of the store feeds it. So every revision passes by, and "has the cache reached revision
//! R" needs no progress notification, which old etcds get wrong; a consistent read is one small read of the newest
//! revision (shared by all who wait for one) and a wait until the watch has come that far. Keys that belong to no
//! resource are only counted.
//!
//! Each resource has an immutable ordered snapshot, replaced at every change, and a ring of its latest changes, into
//! which watchers hold cursors. What is selected, how objects look, and what errors become is the API server's.

mod change;
mod fresh;
mod list;
mod pump;
mod resource;
mod ring;
#[cfg(test)]
mod tests;
mod watcher;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use change::{Origin, WatchEvent, WatchKind};
pub use list::{ListRequest, ListResult, VersionMatch};
pub use watcher::{WatchRequest, WatchStart, Watcher};

use crate::entry::{Entry, Extract};
use crate::error::StoreError;
use crate::store::{Revision, Store};
use fresh::SingleFlight;
use resource::Resource;

/// Whether an object is wanted, by its labels and fields. The namespace is asked for separately.
pub type Predicate = Arc<dyn Fn(&Entry) -> bool + Send + Sync>;

/// Makes entries ready for a predicate that must look at more than what was taken out of them: the API server asks
/// conversion webhooks here. The error is what the client is told.
pub type Prepare =
    Arc<dyn Fn(Vec<Arc<Entry>>) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// A resource to keep.
#[derive(Clone)]
pub struct ResourceConfig {
    /// A name for it, such as `pods` or `deployments.apps`.
    pub id: String,
    /// What its keys begin with, with the last slash: `/registry/pods/`.
    pub prefix: String,
    /// Whether a namespace stands between prefix and name.
    pub namespaced: bool,
    /// Makes objects of stored values.
    pub extract: Arc<dyn Extract>,
    /// Fields by whose value watchers are found, such as `spec.nodeName`; `metadata.name` always is one.
    pub index_fields: Vec<String>,
}

/// How the cache behaves.
#[derive(Clone, Debug)]
pub struct CacheOptions {
    /// So many changes of a resource are kept in any case.
    pub min_ring: usize,
    /// So many are kept at most.
    pub max_ring: usize,
    /// Above the least number, changes older than this are dropped.
    pub ring_age: Duration,
    /// Above the least number, changes are dropped so that their objects take no more bytes than this.
    pub ring_bytes: usize,
    /// How many changes may wait for a watcher that is found by a field.
    pub queue: usize,
    /// How long a read waits for a revision.
    pub fresh_timeout: Duration,
    /// How often watchers that want bookmarks get one.
    pub bookmark_interval: Duration,
}

impl Default for CacheOptions {
    fn default() -> Self {
        CacheOptions {
            min_ring: 1_024,
            max_ring: 65_536,
            ring_age: Duration::from_secs(75),
            ring_bytes: 64 << 20,
            queue: 1_024,
            fresh_timeout: Duration::from_secs(3),
            bookmark_interval: Duration::from_secs(60),
        }
    }
}

/// Why the cache can't answer.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// There is no such resource (any more).
    #[error("the cache has no resource {0}")]
    UnknownResource(String),
    /// The first list is not there yet.
    #[error("the cache is not filled yet")]
    NotReady,
    /// The history that is asked for is gone (410, reason Expired): relist.
    #[error("too old resource version: {requested} ({oldest})")]
    Gone {
        /// From where it was to be.
        requested: Revision,
        /// The oldest revision that is kept.
        oldest: Revision,
    },
    /// The watcher did not keep up with the changes and is cut off: relist.
    #[error("the watcher is too slow")]
    TooSlow,
    /// The revision is not there after waiting for a while (504, with cause ResourceVersionTooLarge).
    #[error("Too large resource version: {requested}, current: {current}")]
    TooLarge {
        /// The revision asked for.
        requested: Revision,
        /// Where the cache is.
        current: Revision,
    },
    /// The object is stored but can't be decrypted or decoded.
    #[error("{0}")]
    Unreadable(Arc<str>),
    /// Entries can't be made ready to be looked at.
    #[error("{0}")]
    Unprepared(String),
    /// The store can't be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The watch cache. Cheap to clone; its task ends with the last clone.
#[derive(Clone)]
pub struct Cache {
    inner: Arc<Inner>,
    _stop: Arc<DropGuard>,
}

struct Inner {
    store: Arc<dyn Store>,
    options: CacheOptions,
    routes: ArcSwap<Routes>,
    /// Serialises changes of the table and what the pump does with a batch, so that a resource that is added misses
    /// no event.
    pump: Mutex<PumpState>,
    /// Every change up to this revision has been applied; 0 before the first list.
    progress: watch::Sender<Revision>,
    fresh: SingleFlight,
    /// States before this revision are not answered any more, as the store does not.
    oldest: AtomicU64,
}

#[derive(Default)]
struct PumpState {
    /// Counts the lists of everything: what was loaded beside one must be loaded again.
    epoch: u64,
}

/// The resources, by name and by prefix.
#[derive(Clone, Default)]
struct Routes {
    by_id: HashMap<String, Arc<Resource>>,
    by_prefix: HashMap<String, Arc<Resource>>,
}

impl Routes {
    /// The resource with the longest prefix of the key.
    fn of_key(&self, key: &str) -> Option<&Arc<Resource>> {
        let mut end = key.len();
        while let Some(slash) = key[..end].rfind('/') {
            if let Some(resource) = self.by_prefix.get(&key[..=slash]) {
                return Some(resource);
            }
            end = slash;
        }
        None
    }

    fn insert(&mut self, resource: Arc<Resource>) {
        self.by_prefix
            .insert(resource.config.prefix.clone(), resource.clone());
        self.by_id.insert(resource.config.id.clone(), resource);
    }
}

impl Cache {
    /// Starts to fill a cache; it is filled once [`Cache::ready`] returns. Outages of the store are waited out.
    pub fn start(
        store: Arc<dyn Store>,
        options: CacheOptions,
        resources: Vec<ResourceConfig>,
    ) -> Cache {
        let mut routes = Routes::default();
        for config in resources {
            routes.insert(Resource::new(config, &options, false));
        }
        let inner = Arc::new(Inner {
            fresh: SingleFlight::new(store.clone()),
            store,
            options,
            routes: ArcSwap::from_pointee(routes),
            pump: Mutex::default(),
            progress: watch::Sender::new(0),
            oldest: AtomicU64::new(0),
        });
        let stop = CancellationToken::new();
        tokio::spawn({
            let (inner, stop) = (inner.clone(), stop.clone());
            async move {
                stop.run_until_cancelled(pump::run(inner)).await;
            }
        });
        Cache {
            inner,
            _stop: Arc::new(stop.drop_guard()),
        }
    }

    /// Waits until the first list is there.
    pub async fn ready(&self) {
        let mut progress = self.inner.progress.subscribe();
        // Fails only if the sender is gone, and it is held here.
        let _ = progress.wait_for(|revision| *revision > 0).await;
    }

    /// Whether the first list is there.
    pub fn is_ready(&self) -> bool {
        self.progress() > 0
    }

    /// Every change up to this revision has been applied.
    pub fn progress(&self) -> Revision {
        *self.inner.progress.borrow()
    }

    /// Starts to keep another resource, or the same in another form (a CRD with a new storage version or schema), and
    /// waits until it is there. Watchers of a resource that is replaced end.
    pub async fn add_resource(&self, config: ResourceConfig) -> Result<(), CacheError> {
        self.ready().await;
        pump::add(&self.inner, config).await
    }

    /// Tries again to read what could not be decrypted or decoded; watchers of resources where that helps end.
    pub async fn retry_unreadable(&self) {
        pump::retry_unreadable(&self.inner).await;
    }

    /// Whether there are stored objects that can't be read.
    pub fn has_unreadable(&self) -> bool {
        let routes = self.inner.routes.load();
        routes
            .by_id
            .values()
            .any(|resource| resource.read(|state| !state.unreadable.is_empty()))
    }

    /// Forgets a resource; its watchers end.
    pub fn remove_resource(&self, id: &str) {
        let _pump = self.inner.pump.lock();
        let mut routes = Routes::clone(&self.inner.routes.load());
        if let Some(resource) = routes.by_id.remove(id) {
            routes.by_prefix.remove(&resource.config.prefix);
            self.inner.routes.store(Arc::new(routes));
            resource.close();
        }
    }

    /// Whether the resource is kept.
    pub fn has_resource(&self, id: &str) -> bool {
        self.inner.routes.load().by_id.contains_key(id)
    }

    /// The newest revision of the store, by one read that is shared by all who ask at the same time.
    pub async fn fresh_revision(&self) -> Result<Revision, CacheError> {
        Ok(self.inner.fresh.revision().await?)
    }

    /// Waits (for a bounded time) until every change up to the revision has been applied.
    pub async fn wait_until_fresh(&self, revision: Revision) -> Result<(), CacheError> {
        self.inner.wait_until_fresh(revision).await
    }

    /// The object as the cache has it: maybe a moment old.
    pub fn get(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Entry>>, CacheError> {
        let resource = self.inner.resource(resource)?;
        resource
            .get(namespace, name)
            .map_err(|fault| CacheError::Unreadable(fault.why))
    }

    /// The object as it is now: at least as new as every write that was acknowledged before the call.
    pub async fn get_fresh(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Entry>>, CacheError> {
        let revision = self.inner.fresh.revision().await?;
        self.inner.wait_until_fresh(revision).await?;
        self.get(resource, namespace, name)
    }

    /// From now on lists at revisions before this one are answered with [`CacheError::Gone`], even where the cache still knows
    /// them: clients shall not see more of the past than the store, which other servers answer from too, has.
    pub fn forget_before(&self, revision: Revision) {
        self.inner.oldest.fetch_max(revision, Ordering::Relaxed);
    }

    /// A list, consistent at one revision.
    pub async fn list(
        &self,
        resource: &str,
        request: ListRequest,
    ) -> Result<ListResult, CacheError> {
        list::list(&self.inner, resource, request).await
    }

    /// A watch.
    pub async fn watch(
        &self,
        resource: &str,
        request: WatchRequest,
    ) -> Result<Watcher, CacheError> {
        watcher::open(&self.inner, resource, request).await
    }

    /// How many objects of the resource there are, without a look at the store.
    pub fn count(&self, resource: &str) -> Result<usize, CacheError> {
        Ok(self.inner.resource(resource)?.count())
    }
}

impl Inner {
    fn resource(&self, id: &str) -> Result<Arc<Resource>, CacheError> {
        let routes = self.routes.load();
        let resource = routes
            .by_id
            .get(id)
            .ok_or_else(|| CacheError::UnknownResource(id.to_owned()))?;
        if !resource.is_live() {
            return Err(CacheError::NotReady);
        }
        Ok(resource.clone())
    }

    fn progress(&self) -> Revision {
        *self.progress.borrow()
    }

    async fn wait_until_fresh(&self, revision: Revision) -> Result<(), CacheError> {
        let mut progress = self.progress.subscribe();
        let reached = progress.wait_for(|at| *at >= revision);
        match tokio::time::timeout(self.options.fresh_timeout, reached).await {
            Ok(_) => Ok(()),
            Err(_) => Err(CacheError::TooLarge {
                requested: revision,
                current: self.progress(),
            }),
        }
    }
}
