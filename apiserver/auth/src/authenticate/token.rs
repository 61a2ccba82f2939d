//! Bearer tokens: where they stand in a request, and what accepts them.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderValue, header};

use crate::user::User;

/// Longer tokens are not looked at; headers are bounded by the server as well.
const LONGEST: usize = 32 * 1024;
const WEBSOCKET_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

/// Why a token that an authenticator feels responsible for is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TokenError(pub String);

/// An accepted token.
#[derive(Debug, Clone)]
pub struct TokenIdentity {
    /// The caller, without `system:authenticated`.
    pub user: Arc<User>,
    /// Which of the asked audiences the token is good for.
    pub audiences: Vec<String>,
    /// A warning for the caller.
    pub warning: Option<String>,
}

/// Which of the asked audiences tokens that name none are good for: the API server's own. `None` if others only were
/// asked for, so that such a token passes for nobody elsewhere.
pub fn own_audiences(own: &[String], asked: &[String]) -> Option<Vec<String>> {
    let both: Vec<String> = asked.iter().filter(|a| own.contains(a)).cloned().collect();
    (asked.is_empty() || !both.is_empty()).then_some(both)
}

/// Accepts bearer tokens.
#[async_trait]
pub trait TokenAuthenticator: Send + Sync {
    /// The token's user, if it is good for one of `audiences` (the API server's own, if empty); `None` if this is not the
    /// kind of token that the authenticator knows.
    async fn authenticate(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<TokenIdentity>, TokenError>;
}

/// The bearer token of a request, from `Authorization` or, for browsers, from the WebSocket subprotocols.
pub fn bearer(headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
    {
        let (scheme, rest) = value.trim().split_once(' ')?;
        let token = rest.split(' ').next().unwrap_or_default();
        return (scheme.eq_ignore_ascii_case("bearer")
            && !token.is_empty()
            && token.len() <= LONGEST)
            .then(|| token.to_owned());
    }
    let encoded = websocket_protocols(headers).find_map(|p| p.strip_prefix(WEBSOCKET_PREFIX))?;
    if encoded.len() > LONGEST {
        return None;
    }
    let token = String::from_utf8(URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()?;
    (!token.is_empty()).then_some(token)
}

/// Removes the token's subprotocol, so that it is never offered back or passed on.
pub(crate) fn strip_websocket(headers: &mut HeaderMap) {
    if !websocket_protocols(headers).any(|p| p.starts_with(WEBSOCKET_PREFIX)) {
        return;
    }
    let kept: Vec<&str> = websocket_protocols(headers)
        .filter(|p| !p.starts_with(WEBSOCKET_PREFIX))
        .collect();
    match HeaderValue::from_str(&kept.join(", ")) {
        Ok(value) if !kept.is_empty() => headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value),
        _ => headers.remove(header::SEC_WEBSOCKET_PROTOCOL),
    };
}

fn websocket_protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_in_both_places() {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::AUTHORIZATION,
            HeaderValue::from_static("bearer abc"),
        );
        assert_eq!(bearer(&headers).as_deref(), Some("abc"));
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Basic abc"));
        assert_eq!(bearer(&headers), None);
        let mut headers = HeaderMap::new();
        headers.insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(
                "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.YWJj",
            ),
        );
        assert_eq!(bearer(&headers).as_deref(), Some("abc"));
        strip_websocket(&mut headers);
        assert_eq!(headers[header::SEC_WEBSOCKET_PROTOCOL], "v5.channel.k8s.io");
    }
}
