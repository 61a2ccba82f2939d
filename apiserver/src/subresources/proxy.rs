//! `proxy` of pods, Services and nodes: any request, passed on to what is behind them.

use std::sync::Arc;

use http::header::LOCATION;
use http::{HeaderValue, Method};
use keelson_api::status::Status;
use rand::seq::IndexedRandom;

use super::kubelet;
use crate::body::Body;
use crate::objects;
use crate::proxying::forward::forward;
use crate::proxying::links::Place;
use crate::proxying::target::{self, ProxyName, Target};
use crate::request::Request;
use crate::resources::Resource;
use crate::response::{self, ApiResult, Response};
use crate::server::Server;

/// What follows `/proxy` in the path, as it was sent; `None` if not even a slash does.
fn tail(request: &Request) -> Option<String> {
    let path = request.uri.path();
    let behind = request.info.parts.len().saturating_sub(3);
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let tail = segments[segments.len().saturating_sub(behind)..].join("/");
    let ends = path.ends_with('/');
    match (tail.is_empty(), ends) {
        (true, false) => None,
        (true, true) => Some("/".to_owned()),
        (false, ends) => Some(format!("/{tail}{}", if ends { "/" } else { "" })),
    }
}

/// The path and query for the backend, or the redirect of who reads to the path with a slash.
fn path_and_query(request: &Request) -> Result<String, Box<Response>> {
    let reads = matches!(request.method, Method::GET | Method::HEAD);
    let tail = match tail(request) {
        None if !reads => Some("/".to_owned()),
        tail => tail,
    };
    let Some(tail) = tail else {
        let query = request
            .uri
            .query()
            .map(|q| format!("?{q}"))
            .unwrap_or_default();
        let mut answer = response::with_type(301, "text/plain; charset=utf-8", Body::Empty);
        if let Ok(value) = HeaderValue::from_str(&format!("{}/{query}", request.uri.path())) {
            answer.headers_mut().insert(LOCATION, value);
        }
        return Err(Box::new(answer));
    };
    Ok(match request.uri.query() {
        Some(query) => format!("{tail}?{query}"),
        None => tail,
    })
}

/// Answers `pods/<name>/proxy`.
pub async fn pod(
    server: &Arc<Server>,
    request: Request,
    resource: &Arc<Resource>,
) -> ApiResult<Response> {
    let name = request.info.path_name().to_owned();
    let asked = ProxyName::parse(&name).ok_or_else(|| target::bad_name("pod", &name))?;
    let entry = objects::fresh(server, resource, &request.info.namespace, asked.name).await?;
    let (host, port) = target::pod(&resource.object(&entry)?, asked.port)?;
    kubelet::connect(server, &request, resource, "PodProxyOptions").await?;
    send(server, request, host, port, asked.scheme).await
}

/// Answers `services/<name>/proxy`.
pub async fn service(
    server: &Arc<Server>,
    request: Request,
    resource: &Arc<Resource>,
) -> ApiResult<Response> {
    let name = request.info.path_name().to_owned();
    let asked = ProxyName::parse(&name).ok_or_else(|| target::bad_name("service", &name))?;
    let namespace = request.info.namespace.clone();
    let entry = objects::fresh(server, resource, &namespace, asked.name).await?;
    let service = resource.object(&entry)?;
    let Some(port_name) = target::service_port(&service, asked.port) else {
        return Err(Status::service_unavailable(format!(
            "no service port {} found for service {:?}",
            asked.port, asked.name
        )));
    };
    let slices: Vec<_> = server
        .lookup
        .list("endpointslices.discovery.k8s.io", &namespace)
        .into_iter()
        .filter(|s| {
            s.pointer("/metadata/labels")
                .and_then(|l| l.get("kubernetes.io/service-name"))
                .is_some_and(|n| n == asked.name)
        })
        .collect();
    if slices.is_empty() {
        return Err(Status::not_found(resource.qualified(), asked.name));
    }
    let found = target::endpoints(&slices, port_name);
    let Some((host, port)) = found.choose(&mut rand::rng()).cloned() else {
        return Err(target::no_endpoints(asked.name));
    };
    kubelet::connect(server, &request, resource, "ServiceProxyOptions").await?;
    send(server, request, host, port, asked.scheme).await
}

/// Answers `nodes/<name>/proxy`.
pub async fn node(
    server: &Arc<Server>,
    request: Request,
    resource: &Arc<Resource>,
) -> ApiResult<Response> {
    let name = request.info.path_name().to_owned();
    let asked = ProxyName::parse(&name).ok_or_else(|| target::bad_name("node", &name))?;
    let path = match path_and_query(&request) {
        Ok(path) => path,
        Err(redirect) => return Ok(*redirect),
    };
    let own = kubelet::kubelet(server, asked.name, path.clone()).await?;
    kubelet::connect(server, &request, resource, "NodeProxyOptions").await?;
    if asked.port.is_empty() || asked.port == own.port.to_string() {
        return through(request, &own).await;
    }
    // Another port of the node isn't the kubelet: our certificate is none of its business.
    let port = asked
        .port
        .parse()
        .map_err(|_| target::bad_name("node", &name))?;
    let tls = (asked.scheme == "https").then(|| server.backends.unchecked.clone());
    through(
        request,
        &Target {
            host: own.host,
            port,
            tls,
            path_and_query: path,
        },
    )
    .await
}

/// Forwards and lets the answer's links lead through here again.
async fn through(mut request: Request, target: &Target) -> ApiResult<Response> {
    let place = Place::of(&request, target.authority(), &target.path_and_query);
    let path = request.uri.path().to_owned();
    place.announce(&mut request.headers, &path);
    Ok(place.turn(forward(request, target).await?))
}

async fn send(
    server: &Server,
    request: Request,
    host: String,
    port: u16,
    scheme: &str,
) -> ApiResult<Response> {
    let path_and_query = match path_and_query(&request) {
        Ok(path) => path,
        Err(redirect) => return Ok(*redirect),
    };
    let address = host
        .parse()
        .map_err(|_| Status::bad_request("address not allowed"))?;
    if !allowed(address) {
        return Err(Status::bad_request("address not allowed"));
    }
    let tls = (scheme == "https").then(|| server.backends.unchecked.clone());
    through(
        request,
        &Target {
            host,
            port,
            tls,
            path_and_query,
        },
    )
    .await
}

/// Who can write pod statuses or endpoints must not reach the server's own host through its proxy.
fn allowed(address: std::net::IpAddr) -> bool {
    let link_local = match address {
        std::net::IpAddr::V4(v4) => v4.is_link_local(),
        std::net::IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast() || link_local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_host_is_out_of_reach() {
        for (address, want) in [
            ("10.244.0.5", true),
            ("127.0.0.1", false),
            ("169.254.169.254", false),
            ("::1", false),
            ("fd00::1", true),
        ] {
            assert_eq!(allowed(address.parse().unwrap()), want, "{address}");
        }
    }
}
