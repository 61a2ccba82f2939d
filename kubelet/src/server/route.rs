//! From a request to its answer: health for everybody, all else after [`super::auth`].

use std::collections::HashMap;

use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::answer::{self, Body};
use super::auth::Refusal;
use super::{Server, files, logs, metrics, stats, streams};
use crate::pods::containers;
use crate::runtime::ContainerRef;

/// Query parameters; repeated ones in order.
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Of a URI's query.
    pub fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|p| !p.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key, true), decode(value, true))
        });
        Self(pairs.collect())
    }

    /// The first value.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, v)| v.as_str())
            .filter(|v| !v.is_empty())
    }

    /// All values.
    pub fn all(&self, key: &str) -> Vec<String> {
        self.0
            .iter()
            .filter(|(k, _)| k == key)
            .map(|(_, v)| v.clone())
            .collect()
    }

    /// Whether it is `true` or `1`.
    pub fn is(&self, key: &str) -> bool {
        matches!(self.get(key), Some("1" | "true" | "True" | "t"))
    }
}

/// Undoes percent-encoding.
fn decode(text: &str, plus: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = bytes
            .get(i + 1..i + 3)
            .and_then(|h| std::str::from_utf8(h).ok())
            .and_then(|h| u8::from_str_radix(h, 16).ok());
        match (bytes[i], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                i += 3;
            }
            (b'+', _) if plus => {
                out.push(b' ');
                i += 1;
            }
            (byte, _) => {
                out.push(byte);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A pod, and which of its containers.
pub struct Place {
    /// The pod.
    pub pod: std::sync::Arc<Pod>,
    /// Container's name.
    pub container: String,
}

impl Place {
    /// The pod's uid.
    pub fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }
}

fn missing(namespace: &str, name: &str) -> Response<Body> {
    answer::text(
        StatusCode::NOT_FOUND,
        format!("pod does not exist: pod {namespace}/{name} not found"),
    )
}

/// `<namespace>/<pod>[/<uid>]/<container>`.
fn place(server: &Server, parts: &[String]) -> Result<Place, Box<Response<Body>>> {
    let (namespace, name, uid, container) = match parts {
        [namespace, name, container] => (namespace, name, None, container),
        [namespace, name, uid, container] => (namespace, name, Some(uid.as_str()), container),
        _ => return Err(Box::new(answer::not_found())),
    };
    let pod = server
        .pods
        .find(namespace, name, uid)
        .ok_or_else(|| Box::new(missing(namespace, name)))?;
    Ok(Place {
        pod,
        container: container.clone(),
    })
}

/// The running attempt of a container.
pub async fn running(server: &Server, place: &Place) -> Result<ContainerRef, Response<Body>> {
    let failed = |text: String| answer::text(StatusCode::INTERNAL_SERVER_ERROR, text);
    let sandbox = server
        .host
        .runtime
        .runtime
        .sandbox(place.uid())
        .await
        .map_err(|e| failed(e.to_string()))?;
    let found = containers::latest(sandbox.as_ref(), &place.container);
    match found {
        Some(status) if containers::running(status) => Ok(status.container.clone()),
        Some(_) => Err(failed(format!(
            "container {} is not running",
            place.container
        ))),
        None => Err(failed(format!(
            "container not found ({:?})",
            place.container
        ))),
    }
}

/// Answers a request.
pub async fn answer(
    server: &std::sync::Arc<Server>,
    request: Request<Incoming>,
    certificate: Option<(String, Vec<String>)>,
) -> Response<Body> {
    let path = request.uri().path().to_owned();
    if let Err(refusal) = server
        .auth
        .check(certificate, request.headers(), request.method(), &path)
        .await
    {
        return match refusal {
            Refusal::Unauthenticated => {
                let mut response = answer::text(StatusCode::UNAUTHORIZED, "Unauthorized");
                response.headers_mut().insert(
                    header::WWW_AUTHENTICATE,
                    http::HeaderValue::from_static("Bearer"),
                );
                response
            }
            Refusal::Forbidden(message) => answer::text(StatusCode::FORBIDDEN, message),
            Refusal::Broken(message) => {
                tracing::warn!(path, "{message}");
                answer::text(StatusCode::INTERNAL_SERVER_ERROR, "Internal Error")
            }
        };
    }
    if let Some((status, body)) = server.health.answer(&path, request.uri().query()) {
        return answer::text(status, body);
    }
    let parts: Vec<String> = path
        .split('/')
        .skip(1)
        .filter(|p| !p.is_empty())
        .map(|p| decode(p, false))
        .collect();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let Some((first, rest)) = parts.split_first() else {
        return answer::not_found();
    };
    let debugging = server.host.config.enable_debugging_handlers;
    match (first.as_str(), rest.len()) {
        ("pods", 0) => pods(server),
        ("stats", 1) if rest[0] == "summary" => {
            stats::summary(server, query.is("only_cpu_and_memory")).await
        }
        ("metrics", 0) => answer::prometheus(server.metrics.encode()),
        ("metrics", 1) => metrics::answer(server, &rest[0]).await,
        (
            "run" | "exec" | "attach" | "portForward" | "containerLogs" | "runningpods" | "logs",
            _,
        ) if !debugging => answer::text(
            StatusCode::METHOD_NOT_ALLOWED,
            "Debug endpoints are disabled.",
        ),
        ("runningpods", 0) => running_pods(server).await,
        ("configz", 0) => answer::json(&json!({"kubeletconfig": &*server.host.config})),
        ("containerLogs", 3) => match place(server, rest) {
            Ok(place) => logs::answer(server, &place, &query).await,
            Err(response) => *response,
        },
        ("exec" | "attach", _) => match place(server, rest) {
            Ok(place) => {
                streams::remote_command(server, request, place, &query, first == "exec").await
            }
            Err(response) => *response,
        },
        ("portForward", 2 | 3) => {
            let uid = rest.get(2).map(String::as_str);
            match server.pods.find(&rest[0], &rest[1], uid) {
                Some(pod) => streams::port_forward(server, request, pod).await,
                None => missing(&rest[0], &rest[1]),
            }
        }
        ("run", _) if request.method() == Method::POST => match place(server, rest) {
            Ok(place) => streams::run(server, &place, &query).await,
            Err(response) => *response,
        },
        ("logs", _) if server.host.config.enable_system_log_handler => files::answer(rest),
        _ => answer::not_found(),
    }
}

fn pods(server: &Server) -> Response<Body> {
    let items = server.pods.pods();
    answer::json(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

async fn running_pods(server: &Server) -> Response<Body> {
    let sandboxes = match server.host.runtime.runtime.list().await {
        Ok(sandboxes) => sandboxes,
        Err(error) => return answer::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    let items: Vec<_> = sandboxes
        .iter()
        .map(|sandbox| {
            let mut seen: HashMap<&str, &str> = HashMap::new();
            for status in sandbox.containers.iter().filter(|c| containers::running(c)) {
                seen.insert(&status.container.name, &status.image);
            }
            let containers: Vec<_> = seen.iter().map(|(name, image)| json!({"name": name, "image": image, "resources": {}})).collect();
            json!({
                "metadata": {"name": sandbox.pod.name, "namespace": sandbox.pod.namespace, "uid": sandbox.pod.uid},
                "spec": {"containers": containers},
                "status": {},
            })
        })
        .collect();
    answer::json(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let query = Query::parse("command=sh&command=-c&command=echo+a%20b%26c&input=1&tty=false");
        assert_eq!(query.all("command"), ["sh", "-c", "echo a b&c"]);
        assert!(query.is("input") && !query.is("tty") && query.get("none").is_none());
        assert_eq!(decode("a%2", false), "a%2");
    }
}
