//! Reading an upgrade request and answering it: which carrier, which sub-protocol.

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::Full;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Header by which SPDY clients offer sub-protocols.
pub const STREAM_PROTOCOL: &str = "x-stream-protocol-version";
const ACCEPTED_PROTOCOLS: &str = "x-accepted-stream-protocol-versions";

/// How the connection is carried after the upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// RFC 6455.
    WebSocket,
    /// SPDY/3.1.
    Spdy,
}

/// Why there is no upgrade: an HTTP answer other than 101, so that clients fall back.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UpgradeError {
    /// No upgrade, or to something else.
    #[error("unable to upgrade: missing upgrade headers in request")]
    NotAnUpgrade,
    /// A WebSocket upgrade without its key, or of another version.
    #[error("unable to upgrade: bad websocket handshake")]
    BadHandshake,
    /// None of the offered sub-protocols is known here.
    #[error(
        "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server supports {supported:?}"
    )]
    NoProtocol {
        /// What the client offered.
        offered: Vec<String>,
        /// What is known here.
        supported: Vec<String>,
    },
}

impl UpgradeError {
    /// The answer to send.
    pub fn response(&self) -> Response<Full<Bytes>> {
        let status = match self {
            Self::NoProtocol { .. } => StatusCode::FORBIDDEN,
            Self::NotAnUpgrade | Self::BadHandshake => StatusCode::BAD_REQUEST,
        };
        let mut response = Response::new(Full::new(Bytes::from(self.to_string())));
        *response.status_mut() = status;
        if let Self::NoProtocol { supported, .. } = self {
            for protocol in supported {
                if let Ok(value) = HeaderValue::from_str(protocol) {
                    response
                        .headers_mut()
                        .append(HeaderName::from_static(ACCEPTED_PROTOCOLS), value);
                }
            }
        }
        response
    }
}

/// Values of a comma-separated header that may be repeated.
fn values(headers: &HeaderMap, name: &str) -> Vec<String> {
    let all = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
    all.flat_map(|v| v.split(','))
        .map(|v| v.trim().to_owned())
        .filter(|v| !v.is_empty())
        .collect()
}

/// Which carrier a request asks for.
pub fn carrier(headers: &HeaderMap) -> Result<Carrier, UpgradeError> {
    let says = |name: &str, wanted: &str| {
        values(headers, name)
            .iter()
            .any(|v| v.eq_ignore_ascii_case(wanted))
    };
    if !says("connection", "upgrade") {
        return Err(UpgradeError::NotAnUpgrade);
    }
    if says("upgrade", "websocket") {
        Ok(Carrier::WebSocket)
    } else if says("upgrade", "SPDY/3.1") {
        Ok(Carrier::Spdy)
    } else {
        Err(UpgradeError::NotAnUpgrade)
    }
}

/// The sub-protocol: the first of the server's that the client offers; `None` if the client offers none at all.
pub fn negotiate(
    headers: &HeaderMap,
    carrier: Carrier,
    supported: &[&str],
) -> Result<Option<String>, UpgradeError> {
    let name = match carrier {
        Carrier::WebSocket => "sec-websocket-protocol",
        Carrier::Spdy => STREAM_PROTOCOL,
    };
    let offered = values(headers, name);
    if offered.is_empty() {
        return Ok(None);
    }
    match supported.iter().find(|s| offered.iter().any(|o| o == **s)) {
        Some(protocol) => Ok(Some((*protocol).to_owned())),
        None => Err(UpgradeError::NoProtocol {
            offered,
            supported: supported.iter().map(|s| (*s).to_owned()).collect(),
        }),
    }
}

/// The 101 that accepts.
pub fn accept(
    headers: &HeaderMap,
    carrier: Carrier,
    protocol: Option<&str>,
) -> Result<Response<Full<Bytes>>, UpgradeError> {
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let out = response.headers_mut();
    out.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    let protocol = protocol.and_then(|p| HeaderValue::from_str(p).ok());
    match carrier {
        Carrier::WebSocket => {
            let key = headers
                .get(header::SEC_WEBSOCKET_KEY)
                .ok_or(UpgradeError::BadHandshake)?;
            if headers
                .get(header::SEC_WEBSOCKET_VERSION)
                .is_none_or(|v| v != "13")
            {
                return Err(UpgradeError::BadHandshake);
            }
            let answer = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
                .map_err(|_| UpgradeError::BadHandshake)?;
            out.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            out.insert(header::SEC_WEBSOCKET_ACCEPT, answer);
            if let Some(protocol) = protocol {
                out.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
            }
        }
        Carrier::Spdy => {
            out.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
            if let Some(protocol) = protocol {
                out.insert(HeaderName::from_static(STREAM_PROTOCOL), protocol);
            }
        }
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_static(v)))
            .collect()
    }

    #[test]
    fn who_asks_for_what() {
        let spdy = headers(&[
            ("connection", "Upgrade"),
            ("upgrade", "SPDY/3.1"),
            (STREAM_PROTOCOL, "v5.x, v4.x"),
        ]);
        assert_eq!(carrier(&spdy), Ok(Carrier::Spdy));
        assert_eq!(
            negotiate(&spdy, Carrier::Spdy, &["v4.x", "v3.x"]),
            Ok(Some("v4.x".into()))
        );
        let refused = negotiate(&spdy, Carrier::Spdy, &["v1.x"])
            .unwrap_err()
            .response();
        assert_eq!(
            (
                refused.status(),
                refused.headers()[ACCEPTED_PROTOCOLS].to_str().unwrap()
            ),
            (StatusCode::FORBIDDEN, "v1.x")
        );
        assert!(carrier(&headers(&[("upgrade", "websocket")])).is_err());
    }

    #[test]
    fn the_key_is_answered() {
        let ask = headers(&[
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-version", "13"),
        ]);
        let answer = accept(&ask, Carrier::WebSocket, Some("v5.channel.k8s.io")).unwrap();
        assert_eq!(
            answer.headers()["sec-websocket-accept"],
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        assert!(accept(&HeaderMap::new(), Carrier::WebSocket, None).is_err());
    }
}
