//! Sends a request on to an aggregated server, in its caller's name, and streams the answer back.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, HOST, HeaderName, LOCATION, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, StatusCode, Version};
use keelson_auth::User;

use super::remote::Remote;
use super::transport::Transport;
use crate::body::Body;
use crate::proxying::dial::DialError;
use crate::proxying::{forward, target};
use crate::request::Request;
use crate::response::{self, Response};
use crate::server::Server;

/// How long an aggregated server may take over discovery.
const DISCOVERY: Duration = Duration::from_secs(5);
/// Says by which servers a request has been sent on.
const HOP: HeaderName = HeaderName::from_static("x-keelson-aggregated-by");
const EXTRA: &str = "x-remote-extra-";
const FORBIDDEN_REDIRECT: &str =
    "the backend attempted to redirect this request, which is not permitted";
const UNAVAILABLE: &str = "service unavailable";

/// Plain text, as upstream's proxy answers errors.
fn error(code: u16, message: &str) -> Response {
    let mut answer = response::text(code, format!("{message}\n"));
    answer.headers_mut().insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    answer
}

/// Answers a request that another server is to answer.
pub async fn serve(server: &Arc<Server>, request: Request, remote: &Remote) -> Response {
    if !remote.is_available() {
        return error(503, UNAVAILABLE);
    }
    let own = &server.aggregation.hop;
    let returns = request.headers.get_all(HOP);
    if returns.iter().any(|v| v.as_bytes() == own.as_bytes()) {
        // Who names this very server as the one to serve the group must not keep it busy with itself.
        return error(503, UNAVAILABLE);
    }
    let transport = match remote.transport() {
        Ok(transport) => transport,
        Err(why) => return error(500, &why),
    };
    let address = match remote.address(server) {
        Ok(address) => address,
        Err(why) => {
            tracing::debug!(name = remote.registration().name, why, "not routed");
            return error(503, UNAVAILABLE);
        }
    };
    let segments = request.uri.path().split('/').filter(|s| !s.is_empty());
    let is_discovery = !request.info.is_resource && segments.count() == 3;
    let sent = send(server, request, &transport, &address);
    let answered = if is_discovery {
        match tokio::time::timeout(DISCOVERY, sent).await {
            Ok(answered) => answered,
            Err(_) => return error(503, "context deadline exceeded"),
        }
    } else {
        sent.await
    };
    answered.unwrap_or_else(|e| error(503, &format!("error trying to reach service: {e}")))
}

async fn send(
    server: &Server,
    mut request: Request,
    transport: &Arc<Transport>,
    address: &(String, u16),
) -> Result<Response, DialError> {
    let switching = forward::wants_upgrade(&request.headers);
    let headers = outgoing_headers(server, &request, address, switching);
    let path = request
        .uri
        .path_and_query()
        .map_or_else(|| "/".to_owned(), ToString::to_string);
    let mut outgoing = http::Request::new(request.body.take().map_or(Body::Empty, Body::Incoming));
    *outgoing.method_mut() = request.method.clone();
    *outgoing.uri_mut() = path
        .parse()
        .map_err(|_| DialError::ServerName(path.clone()))?;
    *outgoing.headers_mut() = headers;
    let answer = if switching {
        let mut sender = transport.dedicated(address).await?;
        let answer = sender.send_request(outgoing).await?;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(match request.upgrade.take() {
                Some(client) => forward::tunnel(client, answer),
                None => error(500, "unable to upgrade: the connection cannot be switched"),
            });
        }
        answer
    } else {
        transport.send(address, outgoing).await?
    };
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(error(
            502,
            "the backend switched protocols without being asked to",
        ));
    }
    Ok(incoming(answer))
}

/// The answer as it is passed on.
fn incoming(answer: http::Response<hyper::body::Incoming>) -> Response {
    let (mut parts, body) = answer.into_parts();
    if parts.status.is_redirection() && parts.headers.contains_key(LOCATION) {
        return response::text(502, FORBIDDEN_REDIRECT);
    }
    forward::strip_hop_by_hop(&mut parts.headers);
    parts.headers.remove(UPGRADE);
    parts.headers.remove(TRANSFER_ENCODING);
    // Said by this server, with the same value.
    parts.headers.remove("audit-id");
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    http::Response::from_parts(parts, Body::Incoming(body))
}

fn outgoing_headers(
    server: &Server,
    request: &Request,
    address: &(String, u16),
    switching: bool,
) -> HeaderMap {
    let mut headers = request.headers.clone();
    forward::strip_hop_by_hop(&mut headers);
    headers.remove(TRANSFER_ENCODING);
    headers.remove(HOST);
    if switching {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    } else {
        headers.remove(UPGRADE);
    }
    if let Ok(host) = HeaderValue::from_str(&target::authority(&address.0, address.1)) {
        headers.insert(HOST, host);
    }
    forward::add_forwarded_for(request, &mut headers);
    if let Ok(id) = HeaderValue::from_str(&request.audit_id) {
        headers.insert("audit-id", id);
    }
    if let Ok(hop) = HeaderValue::from_str(&server.aggregation.hop) {
        headers.append(HOP, hop);
    }
    identify(&mut headers, &request.user);
    headers
}

/// Says on whose behalf a request is sent, and lets nobody else say so.
pub(super) fn identify(headers: &mut HeaderMap, user: &User) {
    for name in ["x-remote-user", "x-remote-uid", "x-remote-group"] {
        headers.remove(name);
    }
    let extra: Vec<HeaderName> = headers
        .keys()
        .filter(|k| k.as_str().starts_with(EXTRA))
        .cloned()
        .collect();
    for name in extra {
        headers.remove(name);
    }
    let mut add = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            headers.append(name, value);
        }
    };
    add(HeaderName::from_static("x-remote-user"), &user.name);
    if !user.uid.is_empty() {
        add(HeaderName::from_static("x-remote-uid"), &user.uid);
    }
    for group in &user.groups {
        add(HeaderName::from_static("x-remote-group"), group);
    }
    for (key, values) in &user.extra {
        let Ok(name) = HeaderName::try_from(format!("{EXTRA}{}", escape(key))) else {
            continue;
        };
        for value in values {
            add(name.clone(), value);
        }
    }
}

/// A key as it can stand in a header's name: what can't is written `%XX`.
fn escape(key: &str) -> String {
    let mut escaped = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b'!' | b'#' | b'$' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`'
            | b'|' | b'~' => escaped.push(char::from(byte)),
            b if b.is_ascii_alphanumeric() => escaped.push(char::from(b)),
            b => escaped.push_str(&format!("%{b:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_is_told_by_the_server_alone() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-remote-user", "root"),
            ("x-remote-group", "system:masters"),
            ("x-remote-extra-a", "1"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let mut user = User::new("jane", &["g1", "g2"]);
        user.extra
            .insert("example.com/a b".into(), vec!["x".into(), "y".into()]);
        identify(&mut headers, &user);
        let all = |name: &str| -> Vec<String> {
            let values = headers.get_all(name).iter();
            values.map(|v| v.to_str().unwrap().to_owned()).collect()
        };
        assert_eq!(all("x-remote-user"), ["jane"]);
        assert_eq!(all("x-remote-group"), ["g1", "g2"]);
        assert_eq!(all("x-remote-extra-a"), Vec::<String>::new());
        assert_eq!(all("x-remote-extra-example.com%2fa%20b"), ["x", "y"]);
        assert!(!headers.contains_key("x-remote-uid"));
    }
}
