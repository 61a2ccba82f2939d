//! Authenticates service-account tokens: the signature, the times, the audience, and that everything the token is bound to is
//! still there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use serde_json::Value;

use super::claims::{Bound, Claims, Issuer, Reference};
use crate::authenticate::token::{TokenAuthenticator, TokenError, TokenIdentity};
use crate::lookup::Lookup;
use crate::user::{User, service_account_groups, split_service_account};

/// The issuer of tokens in secrets.
pub const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
const LEGACY_INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// How far clocks may be apart, and how long something deleted still counts.
const LEEWAY: i64 = 60;
/// Verified tokens that are remembered; twice as many at most.
const REMEMBERED: usize = 2048;

/// Accepts service-account tokens.
pub struct ServiceAccountTokens {
    issuer: Arc<Issuer>,
    audiences: Vec<String>,
    lookup: Arc<dyn Lookup>,
    verified: Mutex<Verified>,
}

/// Claims whose signature was verified, by hash of the token. Only the signature is remembered: times and bound objects are
/// looked at every time, so that a token dies with its pod at once. Two generations bound the size.
#[derive(Default)]
struct Verified {
    young: HashMap<[u8; 32], Arc<Claims>>,
    old: HashMap<[u8; 32], Arc<Claims>>,
}

impl Verified {
    fn get(&mut self, key: &[u8; 32]) -> Option<Arc<Claims>> {
        if let Some(found) = self.young.get(key) {
            return Some(found.clone());
        }
        let found = self.old.remove(key)?;
        self.insert(*key, found.clone());
        Some(found)
    }

    fn insert(&mut self, key: [u8; 32], claims: Arc<Claims>) {
        if self.young.len() >= REMEMBERED {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, claims);
    }
}

impl ServiceAccountTokens {
    /// Accepts what the issuer's keys signed, for the API server's audiences (`--api-audiences`) unless others are asked for.
    pub fn new(issuer: Arc<Issuer>, audiences: Vec<String>, lookup: Arc<dyn Lookup>) -> Self {
        Self {
            issuer,
            audiences,
            lookup,
            verified: Mutex::default(),
        }
    }

    pub(super) fn claims(&self, token: &str) -> Result<Option<Arc<Claims>>, TokenError> {
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        if let Some(found) = self.verified.lock().get(&key) {
            return Ok(Some(found));
        }
        let Some(claims) = self.issuer.read(token, LEGACY_ISSUER)?.map(Arc::new) else {
            return Ok(None);
        };
        self.verified.lock().insert(key, claims.clone());
        Ok(Some(claims))
    }

    /// The object if it is there with this uid. The store is asked where the cache has none or another one: the token may be
    /// younger than what the cache has seen.
    async fn find(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Result<Option<Arc<Value>>, TokenError> {
        match self.lookup.get(resource, namespace, name) {
            Some(object) if uid_of(&object) == uid => Ok(Some(object)),
            _ => self
                .lookup
                .live(resource, namespace, name)
                .await
                .map_err(|e| TokenError(e.to_string())),
        }
    }

    async fn account(
        &self,
        namespace: &str,
        account: &Reference,
        now: i64,
    ) -> Result<(), TokenError> {
        let name = &account.name;
        let Some(object) = self
            .find("serviceaccounts", namespace, name, &account.uid)
            .await?
        else {
            return Err(TokenError(format!("serviceaccounts {name:?} not found")));
        };
        if uid_of(&object) != account.uid {
            return Err(TokenError(format!(
                "service account UID ({}) does not match claim ({})",
                uid_of(&object),
                account.uid
            )));
        }
        if deleted_before(&object, now - LEEWAY) {
            return Err(TokenError(format!(
                "service account {namespace}/{name} has been deleted"
            )));
        }
        Ok(())
    }

    async fn bound_to(
        &self,
        kind: &str,
        resource: &str,
        namespace: &str,
        bound: &Reference,
        now: i64,
    ) -> Result<(), TokenError> {
        let invalidated = || TokenError("service account token has been invalidated".into());
        let object = self
            .find(resource, namespace, &bound.name, &bound.uid)
            .await?
            .ok_or_else(invalidated)?;
        if uid_of(&object) != bound.uid {
            return Err(TokenError(format!(
                "{kind} UID ({}) does not match service account {kind} ref claim ({})",
                uid_of(&object),
                bound.uid
            )));
        }
        if deleted_before(&object, now - LEEWAY) {
            return Err(invalidated());
        }
        Ok(())
    }

    async fn bound(
        &self,
        claims: &Claims,
        bound: &Bound,
        now: i64,
    ) -> Result<(User, Option<String>), TokenError> {
        check_times(claims, now)?;
        let namespace = &bound.namespace;
        self.account(namespace, &bound.serviceaccount, now).await?;
        if let Some(secret) = &bound.secret {
            self.bound_to("secret", "secrets", namespace, secret, now)
                .await?;
        }
        if let Some(pod) = &bound.pod {
            self.bound_to("pod", "pods", namespace, pod, now).await?;
        } else if let Some(node) = &bound.node {
            // A pod's token names its node only to tell; a token bound to a node dies with it.
            self.bound_to("node", "nodes", "", node, now).await?;
        }
        Ok((claims.user(bound), None))
    }

    async fn legacy(
        &self,
        token: &str,
        claims: &Claims,
    ) -> Result<(User, Option<String>), TokenError> {
        let (namespace, secret_name) = (&claims.legacy_namespace, &claims.legacy_secret);
        for (claim, value) in [
            ("sub", &claims.sub),
            ("namespace", namespace),
            ("secretName", secret_name),
            ("serviceAccountName", &claims.legacy_name),
            ("serviceAccountUID", &claims.legacy_uid),
        ] {
            if value.is_empty() {
                return Err(TokenError(format!("{claim} claim is missing")));
            }
        }
        if split_service_account(&claims.sub)
            != Some((namespace.as_str(), claims.legacy_name.as_str()))
        {
            return Err(TokenError("sub claim is invalid".into()));
        }
        let now = unix_now();
        let invalidated = || TokenError("Token has been invalidated".into());
        let secret = match self.lookup.get("secrets", namespace, secret_name) {
            Some(secret) => Some(secret),
            None => self
                .lookup
                .live("secrets", namespace, secret_name)
                .await
                .map_err(|e| TokenError(e.to_string()))?,
        };
        let secret = secret
            .filter(|s| !deleted_before(s, i64::MAX))
            .ok_or_else(invalidated)?;
        let stored = secret
            .pointer("/data/token")
            .and_then(Value::as_str)
            .and_then(|t| STANDARD.decode(t).ok());
        if stored.as_deref() != Some(token.as_bytes()) {
            return Err(TokenError("Token does not match server's copy".into()));
        }
        let account = Reference {
            name: claims.legacy_name.clone(),
            uid: claims.legacy_uid.clone(),
        };
        self.account(namespace, &account, now).await?;
        if secret
            .pointer("/metadata/labels")
            .and_then(|l| l.get(LEGACY_INVALID_SINCE))
            .is_some()
        {
            return Err(TokenError(format!(
                "the token in secret {namespace}/{secret_name} for service account {namespace}/{} has been marked invalid. \
                 Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the \
                 '{LEGACY_INVALID_SINCE}' label from the secret to temporarily allow use of this token",
                claims.legacy_name
            )));
        }
        let user = User {
            name: claims.sub.clone(),
            uid: claims.legacy_uid.clone(),
            groups: service_account_groups(namespace),
            ..User::default()
        };
        Ok((user, None))
    }
}

#[async_trait]
impl TokenAuthenticator for ServiceAccountTokens {
    async fn authenticate(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<TokenIdentity>, TokenError> {
        let Some(claims) = self.claims(token)? else {
            return Ok(None);
        };
        let legacy = claims.iss == LEGACY_ISSUER && claims.kubernetes.is_none();
        let wanted = if audiences.is_empty() {
            &self.audiences
        } else {
            audiences
        };
        // Tokens in secrets are older than audiences: they are good for the API server only.
        let granted = if legacy { &self.audiences } else { &claims.aud };
        let audiences: Vec<String> = granted
            .iter()
            .filter(|a| wanted.contains(a))
            .cloned()
            .collect();
        if audiences.is_empty() {
            return Err(TokenError(format!(
                "token audiences {} is invalid for the target audiences {}",
                quoted(granted),
                quoted(wanted)
            )));
        }
        let (user, warning) = match (&claims.kubernetes, legacy) {
            (Some(bound), _) => self.bound(&claims, bound, unix_now()).await?,
            (None, true) => self.legacy(token, &claims).await?,
            (None, false) => return Ok(None),
        };
        Ok(Some(TokenIdentity {
            user: Arc::new(user),
            audiences,
            warning,
        }))
    }
}

fn check_times(claims: &Claims, now: i64) -> Result<(), TokenError> {
    let wrong = |sentence: &str| Err(TokenError(sentence.to_owned()));
    if claims.nbf.is_some_and(|t| now + LEEWAY < t) {
        return wrong("service account token is not valid yet");
    }
    if claims.exp.is_some_and(|t| now - LEEWAY > t) {
        return wrong("service account token has expired");
    }
    if claims.iat.is_some_and(|t| now + LEEWAY < t) {
        return wrong("service account token is issued in the future");
    }
    Ok(())
}

fn quoted(list: &[String]) -> String {
    let quoted: Vec<String> = list.iter().map(|a| format!("{a:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

fn uid_of(object: &Value) -> &str {
    object
        .pointer("/metadata/uid")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn deleted_before(object: &Value, time: i64) -> bool {
    let timestamp = object
        .pointer("/metadata/deletionTimestamp")
        .and_then(Value::as_str);
    timestamp.is_some_and(|t| {
        t.parse::<jiff::Timestamp>()
            .is_ok_and(|t| t.as_second() < time)
    })
}

/// Wall-clock seconds: what a token carries is wall-clock time.
pub(super) fn unix_now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs().cast_signed())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::lookup::testing::Objects;
    use crate::service_account::Keys;

    #[tokio::test]
    async fn a_token_in_a_secret_lives_as_long_as_the_secret() {
        let mut keys = Keys::new();
        let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
        keys.set_signing(pem.as_bytes()).unwrap();
        let issuer = Arc::new(Issuer {
            issuers: vec!["me".into()],
            keys: Arc::new(keys),
        });
        let claims = Claims {
            iss: LEGACY_ISSUER.into(),
            sub: "system:serviceaccount:ns:sa".into(),
            legacy_namespace: "ns".into(),
            legacy_secret: "s".into(),
            legacy_name: "sa".into(),
            legacy_uid: "1".into(),
            ..Claims::default()
        };
        let token = issuer.sign(&claims).unwrap();
        let objects = Arc::new(Objects::default());
        objects.put(
            "serviceaccounts",
            &json!({"metadata": {"namespace": "ns", "name": "sa", "uid": "1"}}),
        );
        let secret = |labels: Value, token: &str| json!({"metadata": {"namespace": "ns", "name": "s", "labels": labels}, "data": {"token": STANDARD.encode(token)}});
        objects.put("secrets", &secret(json!({}), &token));
        let tokens = ServiceAccountTokens::new(issuer, vec!["api".into()], objects.clone());
        let found = tokens.authenticate(&token, &[]).await.unwrap().unwrap();
        assert_eq!(
            (found.user.uid.as_str(), found.audiences.as_slice()),
            ("1", &["api".to_owned()][..])
        );
        // It is good for the API server only.
        assert!(
            tokens
                .authenticate(&token, &["vault".into()])
                .await
                .is_err()
        );
        objects.put(
            "secrets",
            &secret(json!({LEGACY_INVALID_SINCE: "2026-01-01"}), &token),
        );
        assert!(tokens.authenticate(&token, &[]).await.is_err());
        objects.put("secrets", &secret(json!({}), "another"));
        assert!(tokens.authenticate(&token, &[]).await.is_err());
        objects.take("secrets", "ns", "s");
        assert_eq!(
            tokens.authenticate(&token, &[]).await.unwrap_err().0,
            "Token has been invalidated"
        );
    }

    #[test]
    fn times_have_some_leeway() {
        let claims = |exp, nbf| Claims {
            exp: Some(exp),
            nbf: Some(nbf),
            ..Claims::default()
        };
        assert!(check_times(&claims(950, 1050), 1000).is_ok());
        assert!(check_times(&claims(900, 0), 1000).is_err());
        assert!(check_times(&claims(2000, 1100), 1000).is_err());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut verified = Verified::default();
        let claims = Arc::new(Claims::default());
        for i in 0..10 * REMEMBERED {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&i.to_le_bytes());
            verified.insert(key, claims.clone());
        }
        assert!(verified.young.len() + verified.old.len() <= 2 * REMEMBERED);
    }
}
