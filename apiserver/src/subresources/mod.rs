//! Subresources, one row each: what a path like `pods/<name>/log` does. Resources that are only asked questions stand in
//! [`virtuals`].

pub mod binding;
pub mod eviction;
pub mod kubelet;
pub mod log_socket;
pub mod proxy;
pub mod scale;
pub mod token;
pub mod virtuals;

use std::sync::Arc;

use futures::future::BoxFuture;
use http::Method;
use keelson_api::status::Status;

use crate::request::Request;
use crate::resources::Resource;
use crate::response::{ApiResult, Response};
use crate::server::Server;
use crate::verbs;

type Handler =
    for<'a> fn(&'a Arc<Server>, Request, &'a Arc<Resource>) -> BoxFuture<'a, ApiResult<Response>>;

/// A subresource that is more than a view of its object.
struct Row {
    /// The resource as the cache names it; empty for every resource.
    resource: &'static str,
    subresource: &'static str,
    handler: Handler,
}

/// All of them. What isn't here is a view of the object with rules of its own.
const TABLE: &[Row] = &[
    Row {
        resource: "",
        subresource: "scale",
        handler: |s, r, x| Box::pin(scale::serve(s, r, x)),
    },
    Row {
        resource: "pods",
        subresource: "binding",
        handler: |s, r, x| Box::pin(binding::bind(s, r, x)),
    },
    Row {
        resource: "pods",
        subresource: "eviction",
        handler: |s, r, x| Box::pin(eviction::evict(s, r, x)),
    },
    Row {
        resource: "pods",
        subresource: "log",
        handler: |s, r, x| Box::pin(kubelet::log(s, r, x)),
    },
    Row {
        resource: "pods",
        subresource: "exec",
        handler: |s, r, x| Box::pin(kubelet::exec(s, r, x)),
    },
    Row {
        resource: "pods",
        subresource: "attach",
        handler: |s, r, x| Box::pin(kubelet::attach(s, r, x)),
    },
    Row {
        resource: "pods",
        subresource: "portforward",
        handler: |s, r, x| Box::pin(kubelet::port_forward(s, r, x)),
    },
    Row {
        resource: "pods",
        subresource: "proxy",
        handler: |s, r, x| Box::pin(proxy::pod(s, r, x)),
    },
    Row {
        resource: "services",
        subresource: "proxy",
        handler: |s, r, x| Box::pin(proxy::service(s, r, x)),
    },
    Row {
        resource: "nodes",
        subresource: "proxy",
        handler: |s, r, x| Box::pin(proxy::node(s, r, x)),
    },
    Row {
        resource: "serviceaccounts",
        subresource: "token",
        handler: |s, r, x| Box::pin(token::issue(s, r, x)),
    },
];

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
    // What is proxied answers OPTIONS itself.
    let proxied = name == "proxy" && request.method == Method::OPTIONS;
    if !proxied
        && !resource
            .kind
            .subresource_verbs(subresource)
            .contains(&request.info.verb.as_str())
    {
        return Err(Status::method_not_allowed());
    }
    let row = TABLE
        .iter()
        .find(|r| r.subresource == name && (r.resource.is_empty() || r.resource == resource.id));
    match row {
        Some(row) => (row.handler)(server, request, resource).await,
        None => view(server, request, resource, &name).await,
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
