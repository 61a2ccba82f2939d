//! Bootstrap tokens: `<id>.<secret>`, kept in Secrets of `kube-system`, by which new nodes ask for their certificates.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::token::{TokenAuthenticator, TokenError, TokenIdentity, own_audiences};
use crate::lookup::Lookup;
use crate::user::User;

const NAMESPACE: &str = "kube-system";
const NAME_PREFIX: &str = "bootstrap-token-";
const TYPE: &str = "bootstrap.kubernetes.io/token";
const USER_PREFIX: &str = "system:bootstrap:";
const GROUP: &str = "system:bootstrappers";

/// Accepts bootstrap tokens (`--enable-bootstrap-token-auth`).
pub struct BootstrapTokens {
    lookup: Arc<dyn Lookup>,
    /// The API server's own audiences: the tokens are good for nothing else.
    audiences: Vec<String>,
}

impl BootstrapTokens {
    /// Reads Secrets by this.
    pub fn new(lookup: Arc<dyn Lookup>, audiences: Vec<String>) -> Self {
        BootstrapTokens { lookup, audiences }
    }
}

/// Id and secret of a token of the right form.
fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |part: &str, length: usize| {
        part.len() == length
            && part
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    (plain(id, 6) && plain(secret, 16)).then_some((id, secret))
}

fn entry(secret: &Value, key: &str) -> String {
    secret["data"][key]
        .as_str()
        .and_then(|text| STANDARD.decode(text).ok())
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .unwrap_or_default()
}

/// Whether the expiration has passed; one that can't be read has.
fn is_expired(secret: &Value, now: jiff::Timestamp) -> bool {
    let text = entry(secret, "expiration");
    !text.is_empty()
        && text
            .parse::<jiff::Timestamp>()
            .map_or(true, |expires| expires <= now)
}

fn groups(secret: &Value) -> Result<Vec<String>, String> {
    let mut groups = BTreeSet::from([GROUP.to_owned()]);
    let extra = entry(secret, "auth-extra-groups");
    for group in extra.split(',').filter(|_| !extra.is_empty()) {
        let good = group
            .strip_prefix("system:bootstrappers:")
            .is_some_and(|rest| {
                let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
                (1..=256).contains(&rest.len())
                    && rest.bytes().all(|b| inner(b) || b == b':' || b == b'-')
                    && rest.bytes().last().is_some_and(inner)
            });
        if !good {
            return Err(format!(
                "bootstrap group {group:?} is invalid (must match \\Asystem:bootstrappers:[a-z0-9:-]{{0,255}}[a-z0-9]\\z)"
            ));
        }
        groups.insert(group.to_owned());
    }
    Ok(groups.into_iter().collect())
}

/// The user of a token whose id names this Secret, or why it has none.
fn user(secret: &Value, id: &str, given: &str, now: jiff::Timestamp) -> Result<User, String> {
    if !secret["metadata"]["deletionTimestamp"].is_null() {
        return Err("is deleted and awaiting removal".into());
    }
    if secret["type"] != TYPE {
        return Err(format!("has invalid type, expected {TYPE}."));
    }
    let wanted = entry(secret, "token-secret");
    if verify_slices_are_equal(wanted.as_bytes(), given.as_bytes()).is_err() {
        return Err("has invalid value for key token-secret.".into());
    }
    if entry(secret, "token-id") != id {
        return Err("has invalid value for key token-id.".into());
    }
    if is_expired(secret, now) {
        return Err("has expired".into());
    }
    if entry(secret, "usage-bootstrap-authentication") != "true" {
        return Err("not marked usage-bootstrap-authentication=true.".into());
    }
    let groups =
        groups(secret).map_err(|e| format!("has invalid value for key auth-extra-groups: {e}."))?;
    Ok(User {
        name: format!("{USER_PREFIX}{id}"),
        groups,
        ..User::default()
    })
}

#[async_trait]
impl TokenAuthenticator for BootstrapTokens {
    async fn authenticate(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<TokenIdentity>, TokenError> {
        let Some((id, given)) = parse(token) else {
            return Ok(None);
        };
        let Some(audiences) = own_audiences(&self.audiences, audiences) else {
            return Ok(None);
        };
        let name = format!("{NAME_PREFIX}{id}");
        let Some(secret) = self.lookup.get("secrets", NAMESPACE, &name) else {
            return Ok(None);
        };
        match user(&secret, id, given, jiff::Timestamp::now()) {
            Ok(user) => Ok(Some(TokenIdentity {
                user: Arc::new(user),
                audiences,
                warning: None,
            })),
            Err(why) => {
                tracing::debug!("bootstrap secret {NAMESPACE}/{name} matching bearer token {why}");
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn secret(change: impl FnOnce(&mut Value)) -> Value {
        let code = |text: &str| STANDARD.encode(text);
        let mut secret = json!({
            "type": TYPE, "metadata": {},
            "data": {
                "token-id": code("abcdef"), "token-secret": code("0123456789abcdef"),
                "usage-bootstrap-authentication": code("true"),
                "expiration": code("2100-01-01T00:00:00Z"),
                "auth-extra-groups": code("system:bootstrappers:workers"),
            },
        });
        change(&mut secret);
        secret
    }

    #[test]
    fn a_token_is_good_only_if_everything_fits() {
        let now = jiff::Timestamp::now();
        let found = user(&secret(|_| {}), "abcdef", "0123456789abcdef", now).unwrap();
        assert_eq!(found.name, "system:bootstrap:abcdef");
        assert_eq!(
            found.groups,
            ["system:bootstrappers", "system:bootstrappers:workers"]
        );
        let code = |text: &str| json!(STANDARD.encode(text));
        let changes: [fn(&mut Value, Value); 5] = [
            |s, _| s["type"] = "Opaque".into(),
            |s, _| s["metadata"]["deletionTimestamp"] = "2020-01-01T00:00:00Z".into(),
            |s, v| s["data"]["expiration"] = v,
            |s, v| s["data"]["auth-extra-groups"] = v,
            |s, v| s["data"]["usage-bootstrap-authentication"] = v,
        ];
        for change in changes {
            let secret = secret(|s| change(s, code("2020-01-01T00:00:00Z")));
            assert!(user(&secret, "abcdef", "0123456789abcdef", now).is_err());
        }
        assert!(user(&secret(|_| {}), "abcdef", "0123456789abcdeX", now).is_err());
    }

    #[test]
    fn tokens_have_one_form() {
        assert!(parse("abcdef.0123456789abcdef").is_some());
        for bad in [
            "abcdef",
            "ABCDEF.0123456789abcdef",
            "abcdef.0123456789abcde",
            "a.b.c",
        ] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
