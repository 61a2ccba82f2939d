//! From a request to its handler: paths without a resource by a table, resources by the kinds table.

use std::sync::Arc;

use http::header::ACCEPT;
use http::{HeaderValue, Method};
use keelson_api::status::Status;

use crate::aggregation;
use crate::discovery;
use crate::negotiate::{self, Negotiated, OBJECT_TYPES, Offers};
use crate::request::Request;
use crate::resources::Resource;
use crate::response::{self, ApiResult, Response};
use crate::server::Server;
use crate::subresources;
use crate::verbs;

/// Resources that clients are warned of.
const DEPRECATED: [(&str, &str); 2] = [
    (
        "componentstatuses",
        "v1 ComponentStatus is deprecated in v1.19+",
    ),
    (
        "endpoints",
        "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
    ),
];

/// Serves a request that passed all filters.
pub async fn dispatch(server: &Arc<Server>, request: Request) -> Response {
    if let Some(remote) = server.aggregation.route(&request) {
        return aggregation::proxy::serve(server, request, &remote).await;
    }
    let agreed = request
        .negotiate(Offers::Objects)
        .unwrap_or(Negotiated::JSON);
    let head = request.method == Method::HEAD;
    let is_resource = request.info.is_resource;
    let answered = if request.info.is_resource {
        resource(server, request).await
    } else {
        path(server, request).await
    };
    let unknown = |e: &Status| !is_resource && e.code == 404;
    let mut response = answered.unwrap_or_else(|e| match unknown(&e) {
        true => nowhere(),
        false => response::error(&agreed, &e),
    });
    if head {
        *response.body_mut() = crate::body::Body::Empty;
    }
    response
}

/// 404, as upstream answers where there is nothing at all.
fn nowhere() -> Response {
    let mut answer = response::text(404, "404 page not found\n");
    answer.headers_mut().insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    answer
}

/// Paths that name no resource.
async fn path(server: &Arc<Server>, request: Request) -> ApiResult<Response> {
    let path = request.uri.path().to_owned();
    let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
    let reads = matches!(request.method, Method::GET | Method::HEAD);
    if !reads {
        return Err(Status::method_not_allowed());
    }
    match segments[..] {
        [] => Ok(discovery::paths::index(server)),
        ["api"] => server.documents.load().core(&request),
        ["api", "v1"] => server.documents.load().resources(&request, "", "v1"),
        ["apis"] => server.documents.load().groups(&request),
        ["apis", group] => server.documents.load().group(&request, group),
        ["apis", group, version] => server.documents.load().resources(&request, group, version),
        ["version"] => Ok(discovery::paths::version()),
        ["healthz" | "livez" | "readyz", ..] => server.health.answer(&path, &request.query).await,
        ["metrics"] => Ok(discovery::paths::metrics(server)),
        ["openapi", ..] => discovery::openapi(server, request, &segments[1..]).await,
        [".well-known", "openid-configuration"] => {
            Ok(discovery::paths::openid_configuration(server))
        }
        ["openid", "v1", "jwks"] => Ok(discovery::paths::json_web_keys(server)),
        _ => Err(Status::no_such_path()),
    }
}

/// Paths that name a resource.
async fn resource(server: &Arc<Server>, mut request: Request) -> ApiResult<Response> {
    let info = request.info.clone();
    let Some(resource) = server
        .resources
        .get(&info.group, &info.version, &info.resource)
    else {
        return Err(Status::no_such_path());
    };
    if request.method == Method::HEAD && info.subresource != "proxy" {
        return Err(Status::method_not_allowed());
    }
    if let Some(custom) = &resource.custom {
        without_protobuf(&mut request)?;
        request.warnings.extend(custom.version.warning.clone());
    }
    if let Some((_, warning)) = DEPRECATED.iter().find(|(id, _)| *id == resource.id) {
        request.warnings.extend([(*warning).to_owned()]);
    }
    let in_namespace = !info.namespace.is_empty() && !resource.kind.is_namespace();
    if in_namespace && !resource.kind.namespaced {
        return Err(Status::no_such_path());
    }
    if !in_namespace
        && resource.kind.namespaced
        && (!info.path_name().is_empty()
            || info.verb == "deletecollection"
            || (info.verb == "create" && resource.kind.is_stored()))
    {
        return Err(if info.path_name().is_empty() {
            Status::method_not_allowed()
        } else {
            Status::no_such_path()
        });
    }
    if !info.subresource.is_empty() || info.verb == "proxy" {
        return subresources::dispatch(server, request, &resource).await;
    }
    if !resource.kind.is_stored() {
        return subresources::virtuals::dispatch(server, request, &resource).await;
    }
    // Objects are not posted to, collections neither replaced nor patched.
    let wrong_end = match info.verb.as_str() {
        "create" => !info.path_name().is_empty(),
        "update" | "patch" => info.path_name().is_empty(),
        _ => false,
    };
    if wrong_end
        || !resource
            .kind
            .discovery_verbs()
            .contains(&info.verb.as_str())
    {
        return Err(Status::method_not_allowed());
    }
    stored(server, request, &resource).await
}

/// Custom objects have no protobuf, only views of them do: takes it out of what the client accepts.
fn without_protobuf(request: &mut Request) -> ApiResult<()> {
    let accepted = negotiate::joined(&request.headers, ACCEPT);
    if !accepted.contains("vnd.kubernetes.protobuf") {
        return Ok(());
    }
    let left: Vec<&str> = accepted
        .split(',')
        .filter(|clause| !clause.contains("vnd.kubernetes.protobuf") || clause.contains("as="))
        .collect();
    if left.is_empty() {
        return Err(Status::not_acceptable(&OBJECT_TYPES[..2]));
    }
    if let Ok(value) = HeaderValue::from_str(&left.join(",")) {
        request.headers.insert(ACCEPT, value);
    }
    Ok(())
}

/// The verbs on stored objects.
async fn stored(
    server: &Arc<Server>,
    request: Request,
    resource: &Arc<Resource>,
) -> ApiResult<Response> {
    let strategy = &*resource.kind.strategy;
    match request.info.verb.as_str() {
        "get" => verbs::get::get(server, &request, resource).await,
        "list" => verbs::list::list(server, &request, resource).await,
        "watch" => verbs::watch::watch(server, &request, resource).await,
        "create" => verbs::create::create(server, request, resource).await,
        "update" => verbs::update::update(server, request, resource, strategy).await,
        "patch" => verbs::patch::patch(server, request, resource, strategy).await,
        "delete" => verbs::delete::delete(server, request, resource).await,
        "deletecollection" => {
            verbs::delete_collection::delete_collection(server, request, resource).await
        }
        _ => Err(Status::method_not_allowed()),
    }
}
