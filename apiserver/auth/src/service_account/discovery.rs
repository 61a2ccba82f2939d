//! The OIDC documents with which others verify service-account tokens: `/.well-known/openid-configuration` and
//! `/openid/v1/jwks`.

use serde_json::{Value, json};

use super::claims::Issuer;

/// How long the documents may be cached, in seconds.
pub const MAX_AGE: u32 = 3600;

/// The discovery document; `jwks_uri` is `--service-account-jwks-uri` or this server's own.
pub fn configuration(issuer: &Issuer, jwks_uri: &str) -> Value {
    let mut algorithms: Vec<&str> = issuer
        .keys
        .verifying()
        .iter()
        .filter_map(|k| k.jwk().get("alg").and_then(Value::as_str))
        .collect();
    algorithms.sort_unstable();
    algorithms.dedup();
    json!({
        "issuer": issuer.issuers.first(),
        "jwks_uri": jwks_uri,
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": algorithms,
    })
}

/// The public keys.
pub fn keys(issuer: &Issuer) -> Value {
    json!({"keys": issuer.keys.verifying().iter().map(|k| k.jwk().clone()).collect::<Vec<_>>()})
}
