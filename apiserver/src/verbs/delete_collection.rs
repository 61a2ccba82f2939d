//! DELETE of all objects that a list selects.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use keelson_api::status::Status;
use serde_json::{Value, json};

use crate::negotiate::Offers;
use crate::request::Request;
use crate::resources::Resource;
use crate::response::{self, ApiResult, Response};
use crate::server::Server;
use crate::verbs::delete::{Options, delete_one};
use crate::verbs::list;
use crate::verbs::options::ListOptions;

/// How many objects are deleted at once.
const AT_ONCE: usize = 10;

/// Answers DELETE of a collection with the objects deleted.
pub async fn delete_collection(
    server: &Arc<Server>,
    mut request: Request,
    resource: &Arc<Resource>,
) -> ApiResult<Response> {
    let agreed = request.negotiate(Offers::Objects)?;
    let options = Options::read(&mut request).await?;
    crate::verbs::delete::warn_of_orphans(&request, resource, &options);
    let selection = ListOptions::of(&request.query, resource, false)?;
    let namespace =
        Some(request.info.namespace.clone()).filter(|n| !n.is_empty() && resource.kind.namespaced);
    let chosen = list::page(server, resource, namespace, &selection).await?;
    let (server_ref, request, options, resource_ref) = (server, &request, &options, resource);
    let deleting = chosen.entries.iter().cloned().map(|entry| async move {
        match delete_one(
            server_ref,
            request,
            resource_ref,
            entry.namespace(),
            entry.name(),
            options,
        )
        .await
        {
            // Somebody else was quicker.
            Err(e) if e.is_not_found() => Ok(()),
            done => done.map(|_| ()),
        }?;
        serde_json::from_slice(&resource_ref.json(&entry)).map_err(Status::internal)
    });
    let deleting: Vec<BoxFuture<'_, ApiResult<Value>>> = deleting.map(|f| f.boxed()).collect();
    let items: Vec<Value> = stream::iter(deleting)
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    let list = json!({
        "kind": resource.kind.list_kind(),
        "apiVersion": resource.kind.api_version(),
        "metadata": {"resourceVersion": chosen.revision.to_string()},
        "items": items,
    });
    Ok(response::object(&agreed, 200, &list))
}
