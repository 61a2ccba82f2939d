//! What happens when a definition is deleted: its objects go first, then its finalizer, and with that the definition.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use keelson_api::status::Status;
use keelson_extensions::names::{is_true, set_condition};
use keelson_registry::Context;
use keelson_registry::access::{Access, set};
use keelson_registry::kinds::apiextensions::CLEANUP;
use keelson_registry::rest::{self, DeleteOptions, Deletion};
use keelson_storage::{ListRequest, VersionMatch, WatchRequest, WatchStart};
use serde_json::{Value, json};

use crate::custom::DEFINITIONS;
use crate::error::from_cache;
use crate::objects::{self, Change, Current, Step};
use crate::resources::Resource;
use crate::response::ApiResult;
use crate::server::Server;

/// How many objects are deleted at once.
const AT_ONCE: usize = 16;
/// A pause before a failed clean-up is tried again, longer each time.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Whether a definition's objects are to be deleted.
pub fn is_due(crd: &Value) -> bool {
    crd.has("metadata.deletionTimestamp")
        && crd
            .items("metadata.finalizers")
            .iter()
            .any(|f| f == CLEANUP)
}

/// Deletes the objects of a definition and then lets the definition go. Ends when that is done or the server stops.
pub async fn clean(server: Arc<Server>, name: String) {
    let mut pause = PAUSE;
    loop {
        tokio::select! {
            () = server.stop.cancelled() => return,
            done = attempt(&server, &name) => match done {
                Ok(()) => return,
                Err(e) => tracing::warn!(definition = name, error = %e, "the objects of a custom resource can't all be deleted yet"),
            }
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(LONGEST_PAUSE);
    }
}

async fn attempt(server: &Arc<Server>, name: &str) -> ApiResult<()> {
    let Some(definitions) = server.resources.cached_as(DEFINITIONS) else {
        return Ok(());
    };
    let Some(current) = objects::live(server, &definitions, "", name).await? else {
        return Ok(());
    };
    if !is_due(&current.object) {
        return Ok(());
    }
    let begun = json!({"type": "Terminating", "status": "True", "reason": "InstanceDeletionInProgress",
        "message": "CustomResource deletion is in progress"});
    change(server, &definitions, name, begun, false).await?;
    let ended = if is_true(&current.object, "Established") {
        if let Err(e) = delete_objects(server, &current.object).await {
            let failed = json!({"type": "Terminating", "status": "True", "reason": "InstanceDeletionFailed",
                "message": format!("could not issue all deletes: {}", e.message)});
            change(server, &definitions, name, failed, false).await?;
            return Err(e);
        }
        json!({"type": "Terminating", "status": "False", "reason": "InstanceDeletionCompleted", "message": "removed all instances"})
    } else {
        json!({"type": "Terminating", "status": "False", "reason": "NeverEstablished", "message": "resource was never established"})
    };
    change(server, &definitions, name, ended, true).await
}

/// Deletes every object and waits until the last one, finalizers and all, is gone.
async fn delete_objects(server: &Arc<Server>, crd: &Value) -> ApiResult<()> {
    let (group, plural) = (
        crd.text("spec.group"),
        crd.text("status.acceptedNames.plural"),
    );
    let id = crate::resources::id(group, plural);
    let Some(resource) = server
        .resources
        .cached_as(&id)
        .filter(|r| r.custom.is_some())
    else {
        return Ok(());
    };
    let everything = ListRequest {
        version: VersionMatch::Consistent,
        ..ListRequest::default()
    };
    let listed = server
        .cache
        .list(&id, everything)
        .await
        .map_err(from_cache)?;
    stream::iter(listed.entries)
        .map(|entry| {
            let resource = resource.clone();
            async move {
                let deleted = objects::modify(
                    server,
                    &resource,
                    entry.namespace(),
                    entry.name(),
                    false,
                    &mut Deleting {
                        resource: &resource,
                    },
                )
                .await;
                match deleted {
                    Err(e) if !e.is_not_found() => Err(e),
                    _ => Ok(()),
                }
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;
    let changes = WatchRequest {
        start: WatchStart::Fresh,
        ..WatchRequest::default()
    };
    let mut watcher = server.cache.watch(&id, changes).await.map_err(from_cache)?;
    while server.cache.count(&id).map_err(from_cache)? > 0 {
        match watcher.next().await {
            Some(events) => drop(events.map_err(from_cache)?),
            None => return Err(Status::internal("the resource is no longer served")),
        }
    }
    Ok(())
}

struct Deleting<'a> {
    resource: &'a Resource,
}

#[async_trait]
impl Step for Deleting<'_> {
    async fn next(&mut self, current: &Current) -> ApiResult<Change> {
        let mut object = Value::clone(&current.object);
        let context = Context::at(Timestamp::now());
        let decided = rest::before_delete(
            &self.resource.kind,
            &mut object,
            &DeleteOptions::default(),
            &context,
        )?;
        Ok(match decided {
            Deletion::Remove => Change::Remove(object),
            Deletion::Mark => Change::Write(object),
            Deletion::Pending => Change::Keep(object),
        })
    }
}

/// Sets a definition's condition, and takes its finalizer off where the objects are gone.
async fn change(
    server: &Arc<Server>,
    definitions: &Resource,
    name: &str,
    condition: Value,
    done: bool,
) -> ApiResult<()> {
    let mut step = Conditioning { condition, done };
    match objects::modify(server, definitions, "", name, false, &mut step).await {
        Err(e) if e.is_not_found() => Ok(()),
        changed => changed.map(|_| ()),
    }
}

struct Conditioning {
    condition: Value,
    done: bool,
}

#[async_trait]
impl Step for Conditioning {
    async fn next(&mut self, current: &Current) -> ApiResult<Change> {
        let mut crd = Value::clone(&current.object);
        let now = rest::timestamp(Timestamp::now());
        set_condition(&mut crd, self.condition.clone(), &now);
        if !self.done {
            return Ok(Change::Write(crd));
        }
        let mut finalizers = crd.items("metadata.finalizers").to_vec();
        finalizers.retain(|f| f != CLEANUP);
        if finalizers.is_empty() {
            return Ok(Change::Remove(crd));
        }
        set(&mut crd, "metadata.finalizers", finalizers);
        Ok(Change::Write(crd))
    }
}
