//! JSON web tokens of the configured issuers: signature, times, audience, rules, and who the claims say it is.

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use keelson_auth::User;
use keelson_auth::authenticate::token::{
    TokenAuthenticator, TokenError, TokenIdentity, own_audiences,
};
use serde_json::{Map, Value};

use super::config::{AuthenticationConfiguration, JwtAuthenticator, Mapping};
use super::issuer::Issuer;

/// How far in the future a token's beginning may lie.
const EARLY: i64 = 300;
/// What tokens may be signed with.
const ALGORITHMS: [(&str, Algorithm); 8] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
];

struct One {
    config: JwtAuthenticator,
    issuer: Arc<Issuer>,
    algorithms: Vec<Algorithm>,
}

/// Accepts the tokens of the issuers in force.
#[derive(Default)]
pub struct JwtTokens {
    /// The API server's own audiences, which the tokens are good for: those that they name are the issuer's.
    own: Vec<String>,
    all: ArcSwap<Vec<One>>,
}

impl JwtTokens {
    /// No issuers yet.
    pub fn new(own: Vec<String>) -> Self {
        JwtTokens {
            own,
            all: ArcSwap::default(),
        }
    }

    /// Takes a configuration's issuers in place of those that were there. Their keys are fetched at once, in the background.
    pub fn replace(&self, config: &AuthenticationConfiguration) {
        let all: Vec<One> = config
            .jwt
            .iter()
            .map(|jwt| One {
                issuer: Arc::new(Issuer::new(jwt.issuer.clone())),
                algorithms: ALGORITHMS
                    .iter()
                    .filter(|(name, _)| {
                        jwt.algorithms.is_empty() || jwt.algorithms.iter().any(|a| a == name)
                    })
                    .map(|(_, algorithm)| *algorithm)
                    .collect(),
                config: jwt.clone(),
            })
            .collect();
        for one in &all {
            let (issuer, url) = (one.issuer.clone(), one.config.issuer.url.clone());
            tokio::spawn(async move {
                if let Err(error) = issuer.refresh().await {
                    tracing::warn!(issuer = url, error, "can't fetch an issuer's keys yet");
                }
            });
        }
        self.all.store(Arc::new(all));
    }
}

/// The claims of something that looks like a token, unverified.
fn claims_of(token: &str) -> Option<Map<String, Value>> {
    jsonwebtoken::dangerous::insecure_decode_claims::<Map<String, Value>>(token).ok()
}

#[async_trait]
impl TokenAuthenticator for JwtTokens {
    async fn authenticate(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<TokenIdentity>, TokenError> {
        let all = self.all.load_full();
        if all.is_empty() {
            return Ok(None);
        }
        let Some(claims) = claims_of(token) else {
            return Ok(None);
        };
        let Some(one) = all.iter().find(|one| {
            claims
                .get("iss")
                .is_some_and(|iss| *iss == one.config.issuer.url.as_str())
        }) else {
            return Ok(None);
        };
        let Some(good_for) = own_audiences(&self.own, audiences) else {
            return Ok(None);
        };
        let now = jiff::Timestamp::now().as_second();
        let wrong = |why: String| TokenError(format!("oidc: {why}"));
        one.verify(token).await.map_err(wrong)?;
        one.check(&claims, now).map_err(wrong)?;
        Ok(Some(TokenIdentity {
            user: Arc::new(one.user(&claims).map_err(wrong)?),
            audiences: good_for,
            warning: None,
        }))
    }
}

impl One {
    async fn verify(&self, token: &str) -> Result<(), String> {
        let header =
            jsonwebtoken::decode_header(token).map_err(|e| format!("malformed jwt: {e}"))?;
        if !self.algorithms.contains(&header.alg) {
            return Err(format!(
                "id token signed with unsupported algorithm, got {:?}",
                header.alg
            ));
        }
        let (message, signature) = token.rsplit_once('.').ok_or("malformed jwt")?;
        let fits = |keys: &JwkSet| {
            candidates(keys, header.kid.as_deref()).any(|key| {
                DecodingKey::from_jwk(key).is_ok_and(|key| {
                    jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key, header.alg)
                        .unwrap_or(false)
                })
            })
        };
        if self.issuer.keys().is_some_and(|keys| fits(&keys)) {
            return Ok(());
        }
        // The issuer may have new keys.
        match self.issuer.refresh().await {
            Ok(Some(keys)) if fits(&keys) => Ok(()),
            Ok(_) => Err("failed to verify signature: failed to verify id token signature".into()),
            Err(error) => Err(format!("authenticator not initialized: {error}")),
        }
    }

    fn check(&self, claims: &Map<String, Value>, now: i64) -> Result<(), String> {
        let time = |name: &str| claims.get(name).and_then(Value::as_f64).map(|t| t as i64);
        let expires = time("exp").ok_or("verify token: no expiry")?;
        if expires <= now {
            return Err(format!(
                "verify token: token is expired (Token Expiry: {expires})"
            ));
        }
        if let Some(begins) = time("nbf")
            && begins > now + EARLY
        {
            return Err(format!(
                "verify token: current time {now} before the nbf (not before) time: {begins}"
            ));
        }
        let given: Vec<&str> = match claims.get("aud") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let audiences = &self.config.issuer.audiences;
        if !audiences.iter().any(|a| given.contains(&a.as_str())) {
            return Err(format!(
                "verify token: expected audience in {audiences:?} got {given:?}"
            ));
        }
        for rule in &self.config.claim_validation_rules {
            match claims.get(&rule.claim) {
                None => {
                    return Err(format!(
                        "required claim {} not present in ID token",
                        rule.claim
                    ));
                }
                Some(Value::String(value)) if *value == rule.required_value => {}
                Some(Value::String(value)) => {
                    return Err(format!(
                        "required claim {} value does not match. Got = {value}, want = {}",
                        rule.claim, rule.required_value
                    ));
                }
                Some(_) => {
                    return Err(format!("parse claim {}: it is no string", rule.claim));
                }
            }
        }
        Ok(())
    }

    fn user(&self, claims: &Map<String, Value>) -> Result<User, String> {
        let mappings = &self.config.claim_mappings;
        let name = text(claims, &mappings.username.claim)?;
        if mappings.username.claim == "email" {
            // An issuer that says that it did not look is believed.
            match claims.get("email_verified") {
                None | Some(Value::Bool(true)) => {}
                Some(_) => return Err("email not verified".to_owned()),
            }
        }
        let uid = match mappings.uid.claim.as_str() {
            "" => String::new(),
            claim => text(claims, claim)?,
        };
        let prefix = mappings.username.prefix.as_deref().unwrap_or_default();
        Ok(User {
            name: format!("{prefix}{name}"),
            uid,
            groups: groups(claims, &mappings.groups)?,
            ..User::default()
        })
    }
}

/// The keys that a token may be signed with: the one it names, or all for signatures.
fn candidates<'a>(keys: &'a JwkSet, kid: Option<&str>) -> impl Iterator<Item = &'a Jwk> {
    let kid = kid.filter(|k| !k.is_empty()).map(str::to_owned);
    keys.keys.iter().filter(move |key| {
        let signs = !matches!(key.common.public_key_use, Some(PublicKeyUse::Encryption));
        signs
            && kid
                .as_ref()
                .is_none_or(|kid| key.common.key_id.as_ref() == Some(kid))
    })
}

fn text(claims: &Map<String, Value>, claim: &str) -> Result<String, String> {
    match claims.get(claim) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
        Some(Value::String(_)) => Err(format!("claim {claim:?} is empty")),
        Some(_) => Err(format!("parse username claims {claim:?}: it is no string")),
        None => Err(format!("claim not present: {claim:?}")),
    }
}

fn groups(claims: &Map<String, Value>, mapping: &Mapping) -> Result<Vec<String>, String> {
    let prefix = mapping.prefix.as_deref().unwrap_or_default();
    let prefixed = |group: &str| format!("{prefix}{group}");
    match claims
        .get(&mapping.claim)
        .filter(|_| !mapping.claim.is_empty())
    {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(one)) => Ok(vec![prefixed(one)]),
        Some(Value::Array(list)) => {
            list.iter()
                .map(|group| {
                    group.as_str().map(prefixed).ok_or_else(|| {
                        format!("parse groups claim {:?}: not strings", mapping.claim)
                    })
                })
                .collect()
        }
        Some(_) => Err(format!(
            "parse groups claim {:?}: not strings",
            mapping.claim
        )),
    }
}
