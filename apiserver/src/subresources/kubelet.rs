//! `log`, `exec`, `attach` and `portforward`: passed on to the kubelet of the pod's node.

use std::fmt::Write as _;
use std::sync::Arc;

use http_body_util::BodyExt;
use keelson_admission::Operation;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::status::{Qualified, Status};
use serde_json::{Value, json};

use crate::body::Body;
use crate::objects;
use crate::proxying::forward::{forward, wants_upgrade};
use crate::proxying::target::{self, Target};
use crate::query::Query;
use crate::request::Request;
use crate::resources::Resource;
use crate::response::{ApiResult, Response};
use crate::server::Server;
use crate::subresources::log_socket::LogSocket;
use crate::verbs::admission::Write;

/// So much of a kubelet's error is passed on.
const MAX_ERROR: usize = 10_000;

/// Answers `log`.
pub async fn log(
    server: &Arc<Server>,
    mut request: Request,
    resource: &Arc<Resource>,
) -> ApiResult<Response> {
    check_log_options(&request.query, request.info.path_name())?;
    let (namespace, name) = (
        request.info.namespace.clone(),
        request.info.path_name().to_owned(),
    );
    let pod = pod(server, resource, &request).await?;
    let container = target::container(&pod, request.query.get("container").unwrap_or_default())?;
    let Ok(node) = target::node_of(&pod) else {
        let mut nothing = http::Response::new(Body::Empty);
        *nothing.status_mut() = http::StatusCode::NO_CONTENT;
        let uncached = http::HeaderValue::from_static("no-cache, private");
        nothing
            .headers_mut()
            .insert(http::header::CACHE_CONTROL, uncached);
        return Ok(nothing);
    };
    let mut query = String::new();
    let passed = [
        "follow",
        "previous",
        "timestamps",
        "sinceSeconds",
        "sinceTime",
        "tailLines",
        "limitBytes",
        "stream",
    ];
    for key in passed {
        if let Some(value) = request.query.get(key) {
            push(&mut query, key, value);
        }
    }
    let path = format!(
        "/containerLogs/{}/{}/{}",
        encode(&namespace),
        encode(&name),
        encode(&container)
    );
    let target = kubelet_of_pod(server, node, with_query(path, &query)).await?;
    let socket = LogSocket::of(&mut request)?;
    let mut answer = forward(request, &target).await?;
    let code = answer.status().as_u16();
    if (200..=206).contains(&code) {
        if let Some(socket) = socket {
            return socket.answer(answer.into_body());
        }
        answer.headers_mut().insert(
            http::header::CONTENT_TYPE,
            http::HeaderValue::from_static("text/plain"),
        );
        return Ok(answer);
    }
    Err(kubelet_error(
        code,
        &read_error(answer.into_body()).await,
        &name,
    ))
}

/// The kubelet's words as an API error.
fn kubelet_error(code: u16, words: &str, pod: &str) -> Status {
    match code {
        400 => Status::bad_request(words),
        404 => Status::failure(
            404,
            "NotFound",
            format!("the server could not find the requested resource ( pods/log {pod})"),
        ),
        500 => Status::internal(words),
        code => Status::failure(code, "", words),
    }
}

async fn read_error(mut body: Body) -> String {
    let mut text = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data() {
            text.extend_from_slice(&data);
        }
        if text.len() > MAX_ERROR {
            text.truncate(MAX_ERROR);
            break;
        }
    }
    String::from_utf8_lossy(&text).trim_end().to_owned()
}

fn check_log_options(query: &Query, pod: &str) -> ApiResult<()> {
    let mut errors = ErrorList::new();
    let number = |key: &str| query.int(key);
    let zero = "must be greater than or equal to 0";
    if let Some(lines) = number("tailLines")?.filter(|n| *n < 0) {
        errors.push(Error::invalid(&Path::new("tailLines"), lines, zero));
    }
    if let Some(bytes) = number("limitBytes")?.filter(|n| *n < 1) {
        errors.push(Error::invalid(
            &Path::new("limitBytes"),
            bytes,
            "must be greater than 0",
        ));
    }
    match (number("sinceSeconds")?, query.non_empty("sinceTime")) {
        (Some(_), Some(_)) => errors.push(Error::forbidden(
            &Path::new(""),
            "at most one of `sinceTime` or `sinceSeconds` may be specified",
        )),
        (Some(seconds), None) if seconds < 1 => errors.push(Error::invalid(
            &Path::new("sinceSeconds"),
            seconds,
            "must be greater than 0",
        )),
        _ => {}
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid(
            Qualified::new("", "PodLogOptions"),
            pod,
            &errors,
        ))
    }
}

/// Answers `exec`.
pub async fn exec(
    server: &Arc<Server>,
    request: Request,
    resource: &Arc<Resource>,
) -> ApiResult<Response> {
    stream(server, request, resource, "exec").await
}

/// Answers `attach`.
pub async fn attach(
    server: &Arc<Server>,
    request: Request,
    resource: &Arc<Resource>,
) -> ApiResult<Response> {
    stream(server, request, resource, "attach").await
}

/// A command's streams.
async fn stream(
    server: &Arc<Server>,
    request: Request,
    resource: &Arc<Resource>,
    verb: &str,
) -> ApiResult<Response> {
    let (namespace, name) = (
        request.info.namespace.clone(),
        request.info.path_name().to_owned(),
    );
    let pod = pod(server, resource, &request).await?;
    let container = target::container(&pod, request.query.get("container").unwrap_or_default())?;
    let node = target::node_of(&pod)?.to_owned();
    connect(
        server,
        &request,
        resource,
        if verb == "exec" {
            "PodExecOptions"
        } else {
            "PodAttachOptions"
        },
    )
    .await?;
    let mut query = String::new();
    for (asked, passed) in [
        ("stdin", "input"),
        ("stdout", "output"),
        ("stderr", "error"),
        ("tty", "tty"),
    ] {
        if request.query.flag(asked) {
            push(&mut query, passed, "1");
        }
    }
    for command in request.query.all("command") {
        push(&mut query, "command", command);
    }
    let path = format!(
        "/{verb}/{}/{}/{}",
        encode(&namespace),
        encode(&name),
        encode(&container)
    );
    let target = kubelet_of_pod(server, &node, with_query(path, &query)).await?;
    let phase = pod
        .pointer("/status/phase")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        let what = if verb == "exec" {
            "exec into"
        } else {
            "attach to"
        };
        return Err(Status::bad_request(format!(
            "cannot {what} a container in a completed pod; current phase is {phase}"
        )));
    }
    upgraded(request, &target).await
}

/// Answers `portforward`.
pub async fn port_forward(
    server: &Arc<Server>,
    request: Request,
    resource: &Arc<Resource>,
) -> ApiResult<Response> {
    let (namespace, name) = (
        request.info.namespace.clone(),
        request.info.path_name().to_owned(),
    );
    let pod = pod(server, resource, &request).await?;
    let node = target::node_of(&pod)?.to_owned();
    connect(server, &request, resource, "PodPortForwardOptions").await?;
    let mut query = String::new();
    for port in request.query.all("ports") {
        push(&mut query, "port", port);
    }
    let path = format!("/portForward/{}/{}", encode(&namespace), encode(&name));
    let target = kubelet_of_pod(server, &node, with_query(path, &query)).await?;
    upgraded(request, &target).await
}

async fn upgraded(request: Request, target: &Target) -> ApiResult<Response> {
    if !wants_upgrade(&request.headers) {
        return Err(Status::bad_request("Upgrade request required"));
    }
    forward(request, target).await
}

async fn pod(server: &Server, resource: &Resource, request: &Request) -> ApiResult<Value> {
    let entry = objects::fresh(
        server,
        resource,
        &request.info.namespace,
        request.info.path_name(),
    )
    .await?;
    resource.object(&entry)
}

/// Lets admission see the connection.
pub async fn connect(
    server: &Arc<Server>,
    request: &Request,
    resource: &Resource,
    kind: &str,
) -> ApiResult<()> {
    let write = Write {
        server,
        request,
        resource,
        kind: Some(("", "v1", kind)),
        namespace: &request.info.namespace,
        name: request.info.path_name(),
        options: Value::Null,
        dry_run: false,
    };
    let options = connect_options(request, kind);
    let mut admitted = write.admission(Operation::Connect, Some(options), None);
    write.admit(&mut admitted).await?;
    write.validate(&mut admitted).await
}

/// What a connection is asked for, as the object that plugins and webhooks see.
fn connect_options(request: &Request, kind: &str) -> Value {
    let mut options = json!({"kind": kind, "apiVersion": "v1"});
    for flag in ["stdin", "stdout", "stderr", "tty"] {
        if request.query.flag(flag) {
            options[flag] = Value::Bool(true);
        }
    }
    for text in ["container", "path"] {
        if let Some(value) = request.query.get(text).filter(|v| !v.is_empty()) {
            options[text] = value.into();
        }
    }
    let command: Vec<&str> = request.query.all("command").collect();
    if !command.is_empty() {
        options["command"] = command.into();
    }
    let ports: Vec<i64> = request
        .query
        .all("ports")
        .filter_map(|port| port.parse().ok())
        .collect();
    if !ports.is_empty() {
        options["ports"] = ports.into();
    }
    if kind.ends_with("ProxyOptions") && request.info.parts.len() > 3 {
        options["path"] = request.info.parts[3..].join("/").into();
    }
    options
}

/// The kubelet of a pod's node. Upstream names the pods' resource where the node is missing.
async fn kubelet_of_pod(server: &Server, node: &str, path_and_query: String) -> ApiResult<Target> {
    kubelet(server, node, path_and_query)
        .await
        .map_err(|e| match e.is_not_found() {
            true => Status::not_found(Qualified::new("", "pods"), node),
            false => e,
        })
}

/// The kubelet of a node, to be asked for a path.
pub async fn kubelet(server: &Server, node: &str, path_and_query: String) -> ApiResult<Target> {
    let nodes = server
        .resources
        .get("", "v1", "nodes")
        .ok_or_else(Status::no_such_path)?;
    let entry = objects::fresh(server, &nodes, "", node).await?;
    let (host, port) = target::kubelet(&nodes.object(&entry)?, &server.options.kubelet_addresses)?;
    Ok(Target {
        host,
        port,
        tls: Some(server.backends.kubelet.clone()),
        path_and_query,
    })
}

fn with_query(path: String, query: &str) -> String {
    if query.is_empty() {
        path
    } else {
        format!("{path}?{query}")
    }
}

fn push(query: &mut String, key: &str, value: &str) {
    if !query.is_empty() {
        query.push('&');
    }
    // Writing to a String can't fail.
    let _ = write!(query, "{key}={}", encode(value));
}

/// Escapes a text for a path segment or a query value.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_options_are_checked_before_the_kubelet_is_asked() {
        for bad in [
            "tailLines=-1",
            "limitBytes=0",
            "sinceSeconds=0",
            "sinceSeconds=5&sinceTime=2024-01-01T00:00:00Z",
        ] {
            assert_eq!(
                check_log_options(&Query::parse(bad), "p").unwrap_err().code,
                422,
                "{bad}"
            );
        }
        assert_eq!(
            check_log_options(&Query::parse("tailLines=x"), "p")
                .unwrap_err()
                .code,
            400
        );
        assert!(
            check_log_options(&Query::parse("tailLines=0&limitBytes=1&follow=true"), "p").is_ok()
        );
    }

    #[test]
    fn commands_are_escaped() {
        let mut query = String::new();
        push(&mut query, "command", "sh");
        push(&mut query, "command", "a b&c=d");
        assert_eq!(query, "command=sh&command=a%20b%26c%3Dd");
    }
}
