//! Asking the API server who calls a daemon's secure port and whether they may: TokenReview and SubjectAccessReview.
//!
//! Answers are kept for a short while, as upstream does: yes for ten seconds, no for ten seconds too.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use keelson_daemon::secure_port::{Access, Caller, Delegate};
use kube::api::PostParams;
use kube::{Api, Client, Error};
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::warn;

const KEEP: Duration = Duration::from_secs(10);
const MOST_KEPT: usize = 1024;

/// Who a caller turned out to be.
#[derive(Clone, Debug)]
struct User {
    name: String,
    uid: Option<String>,
    groups: Vec<String>,
}

/// A [`Delegate`] that asks the API server.
pub struct Delegation {
    authentication: Client,
    authorization: Client,
    kept: Mutex<HashMap<u64, (Access, Instant)>>,
}

impl Delegation {
    /// Asks with these clients (`--authentication-kubeconfig` and `--authorization-kubeconfig`).
    pub fn new(authentication: Client, authorization: Client) -> Self {
        Self {
            authentication,
            authorization,
            kept: Mutex::new(HashMap::new()),
        }
    }

    async fn authenticate(&self, caller: &Caller) -> Result<Option<User>, Error> {
        if let Some((name, groups)) = &caller.certificate {
            let mut groups = groups.clone();
            groups.push("system:authenticated".into());
            return Ok(Some(User {
                name: name.clone(),
                uid: None,
                groups,
            }));
        }
        let Some(token) = &caller.token else {
            return Ok(None);
        };
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.clone(),
                audiences: None,
            },
            ..TokenReview::default()
        };
        let review = Api::<TokenReview>::all(self.authentication.clone())
            .create(&PostParams::default(), &review)
            .await?;
        let status = review.status.unwrap_or_default();
        if status.authenticated != Some(true) {
            return Ok(None);
        }
        Ok(status.user.and_then(|user| {
            Some(User {
                name: user.username?,
                uid: user.uid,
                groups: user.groups.unwrap_or_default(),
            })
        }))
    }

    async fn ask(&self, caller: &Caller, verb: &str, path: &str) -> Result<Access, Error> {
        let Some(user) = self.authenticate(caller).await? else {
            return Ok(Access::Unauthenticated);
        };
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name),
                uid: user.uid,
                groups: Some(user.groups),
                non_resource_attributes: Some(NonResourceAttributes {
                    path: Some(path.to_owned()),
                    verb: Some(verb.to_owned()),
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let review = Api::<SubjectAccessReview>::all(self.authorization.clone())
            .create(&PostParams::default(), &review)
            .await?;
        let allowed = review
            .status
            .is_some_and(|status| status.allowed && status.denied != Some(true));
        Ok(if allowed {
            Access::Allowed
        } else {
            Access::Forbidden
        })
    }
}

fn digest(caller: &Caller, verb: &str, path: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&caller.certificate, &caller.token, verb, path).hash(&mut hasher);
    hasher.finish()
}

#[async_trait]
impl Delegate for Delegation {
    async fn allow(&self, caller: &Caller, verb: &str, path: &str) -> Access {
        let key = digest(caller, verb, path);
        if let Some((access, at)) = self.kept.lock().get(&key).copied()
            && at.elapsed() < KEEP
        {
            return access;
        }
        match self.ask(caller, verb, path).await {
            Ok(access) => {
                let mut kept = self.kept.lock();
                if kept.len() >= MOST_KEPT {
                    kept.retain(|_, (_, at)| at.elapsed() < KEEP);
                }
                if kept.len() < MOST_KEPT {
                    kept.insert(key, (access, Instant::now()));
                }
                access
            }
            Err(error) => {
                // Nobody is let in on doubt.
                warn!(%error, "cannot ask the API server about a caller");
                Access::Unauthenticated
            }
        }
    }
}
