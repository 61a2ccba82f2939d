//! Reading and changing single objects: from the cache where that is good enough, from the store where it must be.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keelson_api::status::Status;
use keelson_storage::{Entry, StoreError, Stored, ValueState};
use serde_json::Value;

use crate::error::{from_cache, from_store};
use crate::resources::Resource;
use crate::response::ApiResult;
use crate::server::Server;

/// How often a change is tried again after others got in between.
const TRIES: usize = 12;

/// An object at a revision, with kind, apiVersion and resourceVersion.
#[derive(Clone)]
pub struct Current {
    /// The object.
    pub object: Arc<Value>,
    /// The revision of its last write.
    pub revision: u64,
    /// Whether it is stored otherwise than it would be now: a change that changes nothing writes it all the same.
    pub stale: bool,
}

/// What a change comes to.
pub enum Change {
    /// Store this.
    Write(Value),
    /// Remove the object; this is its last state.
    Remove(Value),
    /// Nothing is to be done; this is the answer.
    Keep(Value),
}

/// What became of an object.
pub struct Changed {
    /// Its state, with the new resourceVersion.
    pub object: Value,
    /// Whether it is gone.
    pub removed: bool,
}

/// One attempt to change an object; called again with a newer state if another write came first.
#[async_trait]
pub trait Step: Send {
    /// Decides what to do with the current state.
    async fn next(&mut self, current: &Current) -> ApiResult<Change>;

    /// Says whether what was decided last has been stored; what was reserved for it is kept or given back.
    async fn settled(&mut self, _stored: bool) {}
}

/// The object as the cache has it, at least as new as every write acknowledged before the call.
pub async fn fresh(
    server: &Server,
    resource: &Resource,
    namespace: &str,
    name: &str,
) -> ApiResult<Arc<Entry>> {
    let found = server
        .cache
        .get_fresh(&resource.id, namespace, name)
        .await
        .map_err(from_cache)?;
    found.ok_or_else(|| Status::not_found(resource.qualified(), name))
}

/// The object as the store has it.
pub async fn live(
    server: &Server,
    resource: &Resource,
    namespace: &str,
    name: &str,
) -> ApiResult<Option<Current>> {
    let stored = server
        .store
        .get(&resource.key(namespace, name))
        .await
        .map_err(|e| from_store(e, resource.qualified(), name))?;
    match stored {
        Some(stored) => Ok(Some(current(resource, &stored).await?)),
        None => Ok(None),
    }
}

async fn current(resource: &Resource, stored: &Stored) -> ApiResult<Current> {
    Ok(Current {
        object: Arc::new(resource.decode(&stored.value, stored.revision).await?),
        revision: stored.revision,
        stale: stored.state == ValueState::Stale
            || resource
                .custom
                .as_ref()
                .is_some_and(|c| c.is_stale_value(&stored.value)),
    })
}

/// The object as the cache has it, maybe a moment old.
async fn cached(
    server: &Server,
    resource: &Resource,
    namespace: &str,
    name: &str,
) -> ApiResult<Option<Current>> {
    let entry = server
        .cache
        .get(&resource.id, namespace, name)
        .map_err(from_cache)?;
    let Some(entry) = entry else {
        return Ok(None);
    };
    resource.prepare(std::slice::from_ref(&entry)).await?;
    Ok(Some(Current {
        object: Arc::new(resource.object(&entry)?),
        revision: entry.revision(),
        stale: resource.custom.as_ref().is_some_and(|c| c.is_stale(&entry)),
    }))
}

/// How long objects of a resource live.
fn ttl(server: &Server, resource: &Resource) -> Option<Duration> {
    (resource.id == "events").then_some(server.options.event_ttl)
}

/// Stores a new object; answers it with its resourceVersion.
pub async fn create(server: &Server, resource: &Resource, mut object: Value) -> ApiResult<Value> {
    let (namespace, name) = (
        text(&object, "namespace").to_owned(),
        text(&object, "name").to_owned(),
    );
    let bytes = resource.encode(&object).await?;
    let revision = server
        .store
        .create(
            &resource.key(&namespace, &name),
            bytes,
            ttl(server, resource),
        )
        .await
        .map_err(|e| from_store(e, resource.qualified(), &name))?;
    object["metadata"]["resourceVersion"] = revision.to_string().into();
    Ok(object)
}

/// Changes an object: begins with the cached state and turns to the store when that turns out to be old.
pub async fn modify(
    server: &Server,
    resource: &Resource,
    namespace: &str,
    name: &str,
    dry_run: bool,
    step: &mut dyn Step,
) -> ApiResult<Changed> {
    let key = resource.key(namespace, name);
    let fail = |e| from_store(e, resource.qualified(), name);
    let missing = || Status::not_found(resource.qualified(), name);
    let (mut state, mut is_live) = match cached(server, resource, namespace, name).await? {
        Some(state) => (state, false),
        None => (
            live(server, resource, namespace, name)
                .await?
                .ok_or_else(missing)?,
            true,
        ),
    };
    for _ in 0..TRIES {
        let decided = step.next(&state).await;
        let settled = match &decided {
            Err(_) | Ok(Change::Keep(_)) => true,
            Ok(_) => dry_run,
        };
        if settled && !is_live {
            // Only the newest state may refuse a change, or make it needless.
            let newest = live(server, resource, namespace, name)
                .await?
                .ok_or_else(missing)?;
            is_live = true;
            if newest.revision != state.revision {
                step.settled(false).await;
                state = newest;
                continue;
            }
            state.stale = newest.stale;
        }
        let written = match &decided {
            Ok(Change::Write(object)) if !dry_run => {
                let bytes = resource.encode(object).await?;
                Some(
                    server
                        .store
                        .update(&key, bytes, state.revision, ttl(server, resource))
                        .await,
                )
            }
            Ok(Change::Keep(object)) if !dry_run && state.stale => {
                let bytes = resource.encode(object).await?;
                Some(
                    server
                        .store
                        .update(&key, bytes, state.revision, ttl(server, resource))
                        .await,
                )
            }
            Ok(Change::Remove(_)) if !dry_run => Some(
                server
                    .store
                    .delete(&key, Some(state.revision))
                    .await
                    .map(|d| d.revision),
            ),
            _ => None,
        };
        step.settled(matches!(written, Some(Ok(_)))).await;
        let (mut object, removed) = match decided? {
            Change::Keep(object) | Change::Write(object) => (object, false),
            Change::Remove(object) => (object, true),
        };
        let conflict = match written {
            None => return Ok(Changed { object, removed }),
            Some(Ok(revision)) => {
                object["metadata"]["resourceVersion"] = revision.to_string().into();
                return Ok(Changed { object, removed });
            }
            Some(Err(StoreError::Conflict { current })) => current,
            Some(Err(e)) => return Err(fail(e)),
        };
        state = match conflict {
            Some(stored) => current(resource, &stored).await?,
            None => return Err(missing()),
        };
        is_live = true;
    }
    Err(Status::modified(resource.qualified(), name))
}

/// A text in an object's metadata, or "".
pub fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object
        .get("metadata")
        .and_then(|m| m.get(field))
        .and_then(Value::as_str)
        .unwrap_or_default()
}
