//! The one task that follows the store: lists everything, applies what the watch brings, and lists again when the
//! history it needs was compacted.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};

use super::resource::{Decoded, Phase, Resource, Step};
use super::{CacheError, Inner, ResourceConfig, Routes};
use crate::error::StoreError;
use crate::resume::resume;
use crate::store::{Event, ListOptions, Revision};

/// How many resources are listed at the same time.
const LISTS: usize = 8;
const PAUSE: Duration = Duration::from_millis(200);

pub(super) async fn run(inner: Arc<Inner>) {
    loop {
        match list_all(&inner).await {
            Ok(revision) => follow(&inner, revision).await,
            Err(error) => {
                tracing::warn!(%error, "can't fill the watch cache, trying again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Brings every resource to one revision; what changed since the last time becomes events.
async fn list_all(inner: &Arc<Inner>) -> Result<Revision, StoreError> {
    let revision = inner.store.current_revision().await?;
    inner.pump.lock().epoch += 1;
    let mut resources: Vec<Arc<Resource>> = inner.routes.load().by_id.values().cloned().collect();
    // One that is being added lists by itself.
    resources.retain(|resource| resource.read(|state| !matches!(state.phase, Phase::Loading(_))));
    let listed: Vec<(Arc<Resource>, Vec<Decoded>)> = futures::stream::iter(resources)
        .map(|resource| async move {
            let entries = list(inner, &resource, Some(revision)).await?.0;
            Ok::<_, StoreError>((resource, entries))
        })
        .buffer_unordered(LISTS)
        .try_collect()
        .await?;
    let _pump = inner.pump.lock();
    for (resource, entries) in listed {
        resource.replace(entries, revision);
    }
    inner.progress.send_modify(|at| *at = revision.max(*at));
    tracing::info!(revision, "watch cache filled");
    Ok(revision)
}

/// All objects of a resource, at a revision or the newest.
async fn list(
    inner: &Inner,
    resource: &Resource,
    at_revision: Option<Revision>,
) -> Result<(Vec<Decoded>, Revision), StoreError> {
    let options = ListOptions {
        at_revision,
        ..ListOptions::default()
    };
    let listed = inner.store.list(&resource.config.prefix, options).await?;
    let entries = listed
        .items
        .iter()
        .map(|stored| resource.decode(stored))
        .collect();
    Ok((entries, listed.revision))
}

/// Applies what the watch brings until it can't go on.
async fn follow(inner: &Arc<Inner>, revision: Revision) {
    // Of all keys: see the module above.
    let mut events = resume(inner.store.clone(), String::new(), revision);
    while let Some(batch) = events.next().await {
        match batch {
            Ok(batch) => apply(inner, &batch),
            Err(StoreError::Compacted { .. }) => {
                tracing::warn!("the store's history was compacted, listing again");
                return;
            }
            Err(error) => {
                tracing::error!(%error, "the store's watch failed, listing again");
                tokio::time::sleep(PAUSE).await;
                return;
            }
        }
    }
}

fn apply(inner: &Inner, batch: &[Event]) {
    let Some(last) = batch.last() else { return };
    let pump = inner.pump.lock();
    let routes = inner.routes.load();
    let mut steps: HashMap<*const Resource, (&Arc<Resource>, Vec<Step>)> = HashMap::new();
    for event in batch {
        let Some(resource) = routes.of_key(event.key()) else {
            continue;
        };
        let waits = resource.write(|state| match &mut state.phase {
            Phase::Loading(waiting) => {
                waiting.push(event.clone());
                true
            }
            Phase::Empty | Phase::Live => false,
        });
        if !waits {
            steps
                .entry(Arc::as_ptr(resource))
                .or_insert_with(|| (resource, Vec::new()))
                .1
                .push(resource.step(event));
        }
    }
    // A revision's events are all in one batch, so that nobody sees half of one.
    for (resource, steps) in steps.into_values() {
        resource.apply(steps);
    }
    drop(pump);
    inner.progress.send_modify(|at| *at = last.revision());
}

/// Adds a resource beside the running watch: its events wait while it is listed.
pub(super) async fn add(inner: &Arc<Inner>, config: ResourceConfig) -> Result<(), CacheError> {
    loop {
        let resource = Resource::new(config.clone(), &inner.options, true);
        let epoch = {
            let pump = inner.pump.lock();
            let mut routes = Routes::clone(&inner.routes.load());
            if let Some(old) = routes.by_id.remove(&config.id) {
                routes.by_prefix.remove(&old.config.prefix);
                old.close();
            }
            routes.insert(resource.clone());
            inner.routes.store(Arc::new(routes));
            pump.epoch
        };
        // At least as new as everything that the watch brought before the resource was in the table.
        let (entries, revision) = match list(inner, &resource, None).await {
            Ok(listed) => listed,
            Err(error) => {
                forget(inner, &resource);
                return Err(error.into());
            }
        };
        let pump = inner.pump.lock();
        if pump.epoch == epoch {
            resource.replace(entries, revision);
            return Ok(());
        }
        tracing::debug!(resource = config.id, "the cache was listed again meanwhile");
    }
}

/// Loads resources again that have objects which could not be read, if they can be now.
pub(super) async fn retry_unreadable(inner: &Arc<Inner>) {
    let resources: Vec<Arc<Resource>> = inner.routes.load().by_id.values().cloned().collect();
    for resource in resources {
        let Some(key) = resource.read(|state| state.unreadable.keys().next().cloned()) else {
            continue;
        };
        let readable = match inner.store.get(&key).await {
            Ok(Some(stored)) => matches!(resource.decode(&stored), Decoded::Entry(_)),
            Ok(None) => true,
            Err(_) => false,
        };
        if readable {
            tracing::info!(
                resource = resource.config.id,
                "what was unreadable can be read"
            );
            if let Err(error) = add(inner, resource.config.clone()).await {
                tracing::warn!(resource = resource.config.id, %error, "can't load a resource again");
            }
        }
    }
}

/// Takes a resource out of the table again that could not be listed.
fn forget(inner: &Inner, resource: &Arc<Resource>) {
    let _pump = inner.pump.lock();
    let mut routes = Routes::clone(&inner.routes.load());
    let id = &resource.config.id;
    if routes
        .by_id
        .get(id)
        .is_some_and(|r| Arc::ptr_eq(r, resource))
    {
        routes.by_id.remove(id);
        routes.by_prefix.remove(&resource.config.prefix);
        inner.routes.store(Arc::new(routes));
    }
}
