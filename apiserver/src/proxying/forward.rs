//! Sends one request on and brings its answer back; a connection that the backend switched to another protocol becomes a tunnel.
//!
//! A tunnel begins only after the backend's own 101 (CVE-2018-1002105), and redirects are handed to the client, never
//! followed (CVE-2020-8559).

use http::header::{CONNECTION, HOST, HeaderName, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, StatusCode, Version};
use hyper_util::rt::TokioIo;
use keelson_api::status::Status;
use tokio::io::copy_bidirectional;

use super::dial::{DialError, dial};
use super::target::Target;
use crate::body::Body;
use crate::request::Request;
use crate::response::{ApiResult, Response};

/// Headers that concern one connection only.
const HOP_BY_HOP: [&str; 7] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
];

/// Forwards the request to its target.
pub async fn forward(mut request: Request, target: &Target) -> ApiResult<Response> {
    let switching = wants_upgrade(&request.headers);
    let headers = outgoing_headers(&request, target, switching)?;
    let mut outgoing = http::Request::builder()
        .method(request.method.clone())
        .uri(target.path_and_query.as_str())
        .version(Version::HTTP_11)
        .body(request.body.take().map_or(Body::Empty, Body::Incoming))
        .map_err(|e| Status::bad_request(format!("the request cannot be proxied: {e}")))?;
    *outgoing.headers_mut() = headers;

    let mut sender = dial(&target.host, target.port, target.tls.as_ref())
        .await
        .map_err(unreachable)?;
    let answer = sender
        .send_request(outgoing)
        .await
        .map_err(|e| unreachable(DialError::Http(e)))?;

    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(client) = request.upgrade.take().filter(|_| switching) else {
            return Err(Status::internal(
                "the backend switched protocols without being asked to",
            ));
        };
        return Ok(tunnel(client, answer));
    }
    let (mut parts, body) = answer.into_parts();
    strip_hop_by_hop(&mut parts.headers);
    parts.headers.remove(UPGRADE);
    parts.headers.remove(TRANSFER_ENCODING);
    parts.version = Version::HTTP_11;
    Ok(http::Response::from_parts(parts, Body::Incoming(body)))
}

/// Answers 101 and joins both connections once the answer is out.
pub(crate) fn tunnel(
    client: hyper::upgrade::OnUpgrade,
    mut answer: http::Response<hyper::body::Incoming>,
) -> Response {
    let backend = hyper::upgrade::on(&mut answer);
    tokio::spawn(async move {
        let (client, backend) = match tokio::try_join!(client, backend) {
            Ok(both) => both,
            Err(e) => {
                tracing::debug!(error = %e, "the protocol switch failed");
                return;
            }
        };
        let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
        if let Err(e) = copy_bidirectional(&mut client, &mut backend).await {
            tracing::debug!(error = %e, "tunnel ended");
        }
    });
    let (mut parts, _) = answer.into_parts();
    parts.extensions.clear();
    http::Response::from_parts(parts, Body::Empty)
}

/// Whether the client asks to switch protocols.
pub fn wants_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE)
        && headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .any(|v| {
                v.split(',')
                    .any(|t| t.trim().eq_ignore_ascii_case("upgrade"))
            })
}

fn outgoing_headers(request: &Request, target: &Target, switching: bool) -> ApiResult<HeaderMap> {
    let mut headers = request.headers.clone();
    strip_hop_by_hop(&mut headers);
    if switching {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    } else {
        headers.remove(UPGRADE);
    }
    headers.remove(TRANSFER_ENCODING);
    let bad = |_| Status::bad_request("the request cannot be proxied: bad host");
    headers.insert(
        HOST,
        HeaderValue::from_str(&target.authority()).map_err(bad)?,
    );
    add_forwarded_for(request, &mut headers);
    Ok(headers)
}

/// Says for whom the request is sent on.
pub(crate) fn add_forwarded_for(request: &Request, headers: &mut HeaderMap) {
    let from = request.peer.address.ip().to_string();
    let chain = match request.header("x-forwarded-for") {
        Some(before) => format!("{before}, {from}"),
        None => from,
    };
    if let Ok(value) = HeaderValue::from_str(&chain) {
        headers.insert(HeaderName::from_static("x-forwarded-for"), value);
    }
}

/// Takes out what concerns one connection only.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<String> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(|t| t.trim().to_ascii_lowercase())
        .filter(|t| t != "upgrade")
        .collect();
    for name in named.iter().map(String::as_str).chain(HOP_BY_HOP) {
        headers.remove(name);
    }
}

fn unreachable(e: DialError) -> Status {
    Status::service_unavailable(format!("error trying to reach service: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_needs_both_headers() {
        let mut headers = HeaderMap::new();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        assert!(!wants_upgrade(&headers));
        headers.insert(CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        assert!(wants_upgrade(&headers));
    }

    #[test]
    fn headers_of_one_connection_are_not_passed_on() {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("x-secret"));
        headers.insert("x-secret", HeaderValue::from_static("1"));
        headers.insert("x-kept", HeaderValue::from_static("1"));
        strip_hop_by_hop(&mut headers);
        assert_eq!(
            headers.keys().map(|k| k.as_str()).collect::<Vec<_>>(),
            ["x-kept"]
        );
    }
}
