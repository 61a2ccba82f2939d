//! The token webhook: a TokenReview to whom a kubeconfig names, answers kept for a while.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keelson_auth::User;
use keelson_auth::authenticate::token::{TokenAuthenticator, TokenError, TokenIdentity};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::webhook_client::WebhookClient;

/// How often a webhook that is away is asked, and the first pause.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);
/// Answers that are kept at most.
const MOST: usize = 4096;

type Kept = (Instant, Option<TokenIdentity>);

/// Asks a webhook.
pub struct TokenWebhook {
    client: WebhookClient,
    /// The API server's own audiences, where a caller names none.
    audiences: Vec<String>,
    ttl: Duration,
    kept: Mutex<HashMap<[u8; 32], Kept>>,
}

impl TokenWebhook {
    /// Asks this webhook, and believes its answers for so long.
    pub fn new(client: WebhookClient, audiences: Vec<String>, ttl: Duration) -> Self {
        TokenWebhook {
            client,
            audiences,
            ttl,
            kept: Mutex::default(),
        }
    }

    async fn ask(&self, token: &str, audiences: &[String]) -> Result<Value, TokenError> {
        let review = json!({
            "kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1",
            "metadata": {}, "spec": {"token": token, "audiences": audiences}, "status": {"user": {}},
        });
        let mut pause = PAUSE;
        let mut tries = 1;
        loop {
            match self.client.post(&review).await {
                Ok(answer) => return Ok(answer),
                Err(error) if tries == TRIES => return Err(TokenError(error)),
                Err(error) => {
                    tracing::warn!(error, "the token webhook failed, trying again");
                    tokio::time::sleep(pause).await;
                    (pause, tries) = (pause.mul_f64(1.5), tries + 1);
                }
            }
        }
    }
}

fn key(token: &str, audiences: &[String]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for part in std::iter::once(token).chain(audiences.iter().map(String::as_str)) {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part.as_bytes());
    }
    digest.finalize().into()
}

/// What an answer says of the token.
fn identity(
    answer: &Value,
    asked: &[String],
    own: &[String],
) -> Result<Option<TokenIdentity>, TokenError> {
    let status = &answer["status"];
    if status["authenticated"] != true {
        return match status["error"].as_str() {
            Some(error) if !error.is_empty() => Err(TokenError(error.to_owned())),
            _ => Ok(None),
        };
    }
    let texts = |value: &Value| -> Vec<String> {
        value
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|v| v.as_str().map(str::to_owned))
            .collect()
    };
    // A webhook that names none knows of none: what it says is good for the server's own.
    let answered = match texts(&status["audiences"]) {
        none if none.is_empty() => own.to_vec(),
        named => named,
    };
    let audiences: Vec<String> = answered
        .into_iter()
        .filter(|audience| asked.contains(audience))
        .collect();
    if audiences.is_empty() && !asked.is_empty() {
        return Ok(None);
    }
    let user = &status["user"];
    let text = |field: &str| user[field].as_str().unwrap_or_default().to_owned();
    let extra: BTreeMap<String, Vec<String>> = user["extra"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| (k.clone(), texts(v)))
        .collect();
    Ok(Some(TokenIdentity {
        user: Arc::new(User {
            name: text("username"),
            uid: text("uid"),
            groups: texts(&user["groups"]),
            extra,
        }),
        audiences,
        warning: None,
    }))
}

#[async_trait]
impl TokenAuthenticator for TokenWebhook {
    async fn authenticate(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<TokenIdentity>, TokenError> {
        let audiences = if audiences.is_empty() {
            &self.audiences
        } else {
            audiences
        };
        let key = key(token, audiences);
        if let Some((since, kept)) = self.kept.lock().get(&key)
            && since.elapsed() < self.ttl
        {
            return Ok(kept.clone());
        }
        let found = identity(
            &self.ask(token, audiences).await?,
            audiences,
            &self.audiences,
        )?;
        let mut kept = self.kept.lock();
        if kept.len() >= MOST {
            kept.retain(|_, (since, _)| since.elapsed() < self.ttl);
        }
        if kept.len() < MOST {
            kept.insert(key, (Instant::now(), found.clone()));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_users_nobody_or_errors() {
        let asked = ["api".to_owned()];
        let yes = json!({"status": {"authenticated": true, "audiences": ["api", "x"], "user": {"username": "jane", "groups": ["dev"], "extra": {"k": ["v"]}}}});
        let found = identity(&yes, &asked, &asked).unwrap().unwrap();
        assert_eq!(
            (found.user.name.as_str(), found.audiences.len()),
            ("jane", 1)
        );
        assert_eq!(found.user.extra["k"], ["v"]);
        let other = json!({"status": {"authenticated": true, "audiences": ["x"], "user": {"username": "jane"}}});
        assert!(identity(&other, &asked, &asked).unwrap().is_none());
        // One that knows of no audiences speaks for the server's own only.
        let unaware = json!({"status": {"authenticated": true, "user": {"username": "jane"}}});
        assert!(identity(&unaware, &asked, &asked).unwrap().is_some());
        let elsewhere = ["elsewhere".to_owned()];
        assert!(identity(&unaware, &elsewhere, &asked).unwrap().is_none());
        assert!(
            identity(&json!({"status": {}}), &asked, &asked)
                .unwrap()
                .is_none()
        );
        assert!(identity(&json!({"status": {"error": "no"}}), &asked, &asked).is_err());
    }
}
