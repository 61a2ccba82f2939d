//! Subresources, one row each: what a path like `pods/<name>/log` does. Resources that are only asked questions stand in [`virtuals`].

pub mod virtuals;

use std::sync::Arc;

use keelson_api::status::Status;

use crate::request::Request;
use crate::resources::Resource;
use crate::response::{ApiResult, Response};
use crate::server::Server;
use crate::verbs;

/// Serves a subresource.
pub async fn dispatch(
    server: &Arc<Server>,
    request: Request,
    resource: &Arc<Resource>,
) -> ApiResult<Response> {
    let name = request.info.subresource.clone();
    let Some(subresource) = resource.kind.subresource(&name) else {
        return Err(Status::no_such_path());
    };
    if !resource
        .kind
        .subresource_verbs(subresource)
        .contains(&request.info.verb.as_str())
    {
        return Err(Status::method_not_allowed());
    }
    match (resource.id.as_str(), name.as_str()) {
        _ => view(server, request, resource, &name).await,
    }
}

/// Subresources that are views of the whole object with rules of their own.
async fn view(
    server: &Arc<Server>,
    request: Request,
    resource: &Arc<Resource>,
    name: &str,
) -> ApiResult<Response> {
    if request.info.verb == "get" {
        return verbs::get::get(server, &request, resource).await;
    }
    let strategy = resource
        .kind
        .strategy
        .subresource(name)
        .ok_or_else(Status::method_not_allowed)?;
    match request.info.verb.as_str() {
        "update" => verbs::update::update(server, request, resource, strategy).await,
        "patch" => verbs::patch::patch(server, request, resource, strategy).await,
        _ => Err(Status::method_not_allowed()),
    }
}
