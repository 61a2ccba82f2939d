//! Tokens of service accounts, bound to their pod: asked for once, renewed before they expire.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::PostParams;
use kube::core::Request as ApiRequest;

use super::VolumeError;
use crate::clock::{self, Clock};

/// No token is kept for longer.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);

struct Kept {
    token: String,
    expires: Timestamp,
    renew: Timestamp,
}

type Key = (String, String, i64);

/// The tokens of this node's pods.
pub struct Tokens {
    client: Option<Client>,
    clock: Clock,
    kept: Mutex<HashMap<Key, Kept>>,
}

/// When a token that lives for `life` from `now` is renewed: after four fifths, or a day.
fn renewal(now: Timestamp, life: Duration) -> Timestamp {
    clock::after(now, (life * 4 / 5).min(MAX_AGE))
}

impl Tokens {
    /// None yet.
    pub fn new(client: Option<Client>, clock: Clock) -> Self {
        Self {
            client,
            clock,
            kept: Mutex::new(HashMap::new()),
        }
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<Key, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A token for the pod, fresh enough.
    pub async fn get(
        &self,
        pod: &Pod,
        uid: &str,
        audience: Option<&str>,
        seconds: i64,
    ) -> Result<String, VolumeError> {
        let key = (
            uid.to_owned(),
            audience.unwrap_or_default().to_owned(),
            seconds,
        );
        let now = self.clock.now();
        if let Some(kept) = self.kept().get(&key).filter(|k| k.renew > now) {
            return Ok(kept.token.clone());
        }
        match self.request(pod, uid, audience, seconds).await {
            Ok((token, expires)) => {
                let kept = Kept {
                    token: token.clone(),
                    expires,
                    renew: renewal(now, clock::until(now, expires)),
                };
                self.kept().insert(key, kept);
                Ok(token)
            }
            // One that still holds is better than none.
            Err(error) => match self.kept().get(&key).filter(|k| k.expires > now) {
                Some(kept) => {
                    tracing::warn!(%error, "renewing a service account token");
                    Ok(kept.token.clone())
                }
                None => Err(error),
            },
        }
    }

    async fn request(
        &self,
        pod: &Pod,
        uid: &str,
        audience: Option<&str>,
        seconds: i64,
    ) -> Result<(String, Timestamp), VolumeError> {
        let client = self
            .client
            .as_ref()
            .ok_or_else(|| VolumeError::Api("this kubelet has no API server".into()))?;
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let account = pod
            .spec
            .as_ref()
            .and_then(|s| s.service_account_name.as_deref())
            .unwrap_or("default");
        let body = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(audience.iter().map(|a| (*a).to_owned()).collect()),
                expiration_seconds: Some(seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: pod.metadata.name.clone(),
                    uid: Some(uid.to_owned()),
                }),
            }),
            ..TokenRequest::default()
        };
        let bad = |e: String| VolumeError::Api(format!("failed to fetch token: {e}"));
        let bytes = serde_json::to_vec(&body).map_err(|e| bad(e.to_string()))?;
        let request = ApiRequest::new(format!("/api/v1/namespaces/{namespace}/serviceaccounts"))
            .create_subresource("token", account, &PostParams::default(), bytes)
            .map_err(|e| bad(e.to_string()))?;
        let answer: TokenRequest = client
            .request(request)
            .await
            .map_err(|e| bad(super::api_words(&e)))?;
        let status = answer.status.unwrap_or_default();
        match (status.token, status.expiration_timestamp) {
            (Some(token), Some(expires)) => Ok((token, expires.0)),
            _ => Err(bad("the answer holds no token".into())),
        }
    }

    /// When the next token of a pod is due.
    pub fn due(&self, uid: &str) -> Option<Timestamp> {
        self.kept()
            .iter()
            .filter(|((u, ..), _)| u == uid)
            .map(|(_, kept)| kept.renew)
            .min()
    }

    /// A pod is gone.
    pub fn forget(&self, uid: &str) {
        self.kept().retain(|(u, ..), _| u != uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewed_in_time() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(
            renewal(now, Duration::from_secs(3600)),
            clock::after(now, Duration::from_secs(2880))
        );
        assert_eq!(
            renewal(now, Duration::from_secs(365 * 86400)),
            clock::after(now, MAX_AGE)
        );
    }
}
