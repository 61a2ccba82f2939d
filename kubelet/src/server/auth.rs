//! Who calls and whether they may: client certificates, TokenReview, SubjectAccessReview on `nodes/<subresource>`.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderMap, Method};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use keelson_daemon::secure_port;
use kube::Client;
use kube::api::{Api, PostParams};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::config::KubeletConfiguration;

/// Most answers that are kept.
const MAX_KEPT: usize = 4096;

/// A caller.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct User {
    /// Name.
    pub name: String,
    uid: Option<String>,
    groups: Vec<String>,
}

/// Why a request goes no further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// 401.
    Unauthenticated,
    /// 403 with a sentence.
    Forbidden(String),
    /// 500: the API server could not be asked.
    Broken(String),
}

struct Kept<K, V>(Mutex<HashMap<K, (V, Instant)>>);

impl<K: Hash + Eq, V: Clone> Kept<K, V> {
    fn new() -> Self {
        Self(Mutex::new(HashMap::new()))
    }

    fn get(&self, key: &K) -> Option<V> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(key)
            .filter(|(_, until)| *until > Instant::now())
            .map(|(value, _)| value.clone())
    }

    fn put(&self, key: K, value: V, life: Duration) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if kept.len() >= MAX_KEPT {
            kept.retain(|_, (_, until)| *until > now);
        }
        if kept.len() < MAX_KEPT {
            kept.insert(key, (value, now + life));
        }
    }
}

/// The delegated decisions.
pub struct Auth {
    client: Option<Client>,
    node: String,
    anonymous: bool,
    tokens: bool,
    token_life: Duration,
    everybody: bool,
    yes_life: Duration,
    no_life: Duration,
    users: Kept<[u8; 32], Option<User>>,
    decisions: Kept<(User, &'static str, &'static str), Result<(), String>>,
}

/// The subresources that a path stands for: having any of them is enough.
pub fn subresources(path: &str) -> &'static [&'static str] {
    let is = |prefix: &str| {
        path == prefix
            || path
                .strip_prefix(prefix)
                .is_some_and(|rest| rest.starts_with('/'))
    };
    match path {
        _ if is("/stats") => &["stats"],
        _ if is("/metrics") => &["metrics"],
        _ if is("/logs") => &["log"],
        _ if is("/checkpoint") => &["checkpoint"],
        _ if is("/statusz") => &["statusz"],
        _ if is("/flagz") => &["configz"],
        _ if is("/pods") || is("/runningpods") => &["pods", "proxy"],
        _ if is("/healthz") => &["healthz", "proxy"],
        _ if is("/configz") => &["configz", "proxy"],
        _ => &["proxy"],
    }
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

impl Auth {
    /// By the configuration; without a client only administrators' certificates get in.
    pub fn new(client: Option<Client>, node: &str, config: &KubeletConfiguration) -> Self {
        Self {
            client,
            node: node.to_owned(),
            anonymous: config.authentication.anonymous.enabled,
            tokens: config.authentication.webhook.enabled,
            token_life: config.authentication.webhook.cache_ttl,
            everybody: config.authorization.mode == "AlwaysAllow",
            yes_life: config.authorization.webhook.cache_authorized_ttl,
            no_life: config.authorization.webhook.cache_unauthorized_ttl,
            users: Kept::new(),
            decisions: Kept::new(),
        }
    }

    /// Lets a request through or not.
    pub async fn check(
        &self,
        certificate: Option<(String, Vec<String>)>,
        headers: &HeaderMap,
        method: &Method,
        path: &str,
    ) -> Result<User, Refusal> {
        let user = self.authenticate(certificate, headers).await?;
        if !self.everybody {
            self.authorize(&user, verb(method), subresources(path))
                .await?;
        }
        Ok(user)
    }

    async fn authenticate(
        &self,
        certificate: Option<(String, Vec<String>)>,
        headers: &HeaderMap,
    ) -> Result<User, Refusal> {
        if let Some((name, mut groups)) = certificate {
            groups.push("system:authenticated".into());
            return Ok(User {
                name,
                uid: None,
                groups,
            });
        }
        if let Some(token) = secure_port::bearer(headers) {
            return match self.token(&token).await? {
                Some(user) => Ok(user),
                None => Err(Refusal::Unauthenticated),
            };
        }
        if self.anonymous {
            return Ok(User {
                name: "system:anonymous".into(),
                uid: None,
                groups: vec!["system:unauthenticated".into()],
            });
        }
        Err(Refusal::Unauthenticated)
    }

    async fn token(&self, token: &str) -> Result<Option<User>, Refusal> {
        let (true, Some(client)) = (self.tokens, &self.client) else {
            return Ok(None);
        };
        let key: [u8; 32] = Sha256::digest(token).into();
        if let Some(user) = self.users.get(&key) {
            return Ok(user);
        }
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                audiences: None,
            },
            ..TokenReview::default()
        };
        let answer = Api::<TokenReview>::all(client.clone())
            .create(&PostParams::default(), &review)
            .await;
        let status = answer
            .map_err(|e| Refusal::Broken(format!("token review: {e}")))?
            .status
            .unwrap_or_default();
        let user = status
            .user
            .filter(|_| status.authenticated == Some(true))
            .map(|user| User {
                name: user.username.unwrap_or_default(),
                uid: user.uid,
                groups: user.groups.unwrap_or_default(),
            });
        let life = if user.is_some() {
            self.token_life
        } else {
            self.token_life.min(Duration::from_secs(10))
        };
        self.users.put(key, user.clone(), life);
        Ok(user)
    }

    async fn authorize(
        &self,
        user: &User,
        verb: &'static str,
        subresources: &'static [&'static str],
    ) -> Result<(), Refusal> {
        for subresource in subresources {
            if self.allowed(user, verb, subresource).await?.is_ok() {
                return Ok(());
            }
        }
        Err(Refusal::Forbidden(format!(
            "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)={subresources:?})",
            user.name
        )))
    }

    async fn allowed(
        &self,
        user: &User,
        verb: &'static str,
        subresource: &'static str,
    ) -> Result<Result<(), String>, Refusal> {
        let Some(client) = &self.client else {
            let administrator = user
                .groups
                .iter()
                .any(|g| g == "system:masters" || g == "kubeadm:cluster-admins");
            return Ok(if administrator {
                Ok(())
            } else {
                Err("no API server to ask".into())
            });
        };
        let key = (user.clone(), verb, subresource);
        if let Some(decision) = self.decisions.get(&key) {
            return Ok(decision);
        }
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                uid: user.uid.clone(),
                groups: Some(user.groups.clone()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.into()),
                    version: Some("v1".into()),
                    resource: Some("nodes".into()),
                    subresource: Some(subresource.into()),
                    name: Some(self.node.clone()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let answer = Api::<SubjectAccessReview>::all(client.clone())
            .create(&PostParams::default(), &review)
            .await;
        let status = answer
            .map_err(|e| Refusal::Broken(format!("subject access review: {e}")))?
            .status
            .unwrap_or_default();
        let decision = if status.allowed {
            Ok(())
        } else {
            Err(status.reason.unwrap_or_default())
        };
        let life = if status.allowed {
            self.yes_life
        } else {
            self.no_life
        };
        self.decisions.put(key, decision.clone(), life);
        Ok(decision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_path_needs() {
        for (path, wanted) in [
            ("/stats/summary", &["stats"][..]),
            ("/metrics/cadvisor", &["metrics"]),
            ("/logs/x", &["log"]),
            ("/pods", &["pods", "proxy"]),
            ("/healthz/ping", &["healthz", "proxy"]),
            ("/exec/a/b/c", &["proxy"]),
            ("/statistics", &["proxy"]),
        ] {
            assert_eq!(subresources(path), wanted, "{path}");
        }
    }

    #[tokio::test]
    async fn without_an_api_server_only_administrators() {
        let auth = Auth::new(None, "n", &KubeletConfiguration::default());
        let (headers, get) = (HeaderMap::new(), Method::GET);
        let none = auth.check(None, &headers, &get, "/pods").await;
        assert_eq!(none, Err(Refusal::Unauthenticated));
        let admin = Some(("a".to_owned(), vec!["system:masters".to_owned()]));
        assert!(auth.check(admin, &headers, &get, "/pods").await.is_ok());
        let node = Some(("system:node:m".to_owned(), vec!["system:nodes".to_owned()]));
        let refused = auth.check(node, &headers, &get, "/pods").await.unwrap_err();
        assert_eq!(refused, Refusal::Forbidden("Forbidden (user=system:node:m, verb=get, resource=nodes, subresource(s)=[\"pods\", \"proxy\"])".into()));
    }
}
