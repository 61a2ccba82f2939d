//! Signs `kube-public/cluster-info` with every token that may: who holds one can tell the real cluster from a false one.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::FutureExt;
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use keelson_runtime::informer::Options;
use keelson_runtime::{Informer, Key, Outcome, Queue};
use kube::api::PostParams;
use kube::{Api, Error};

use super::{Left, NAME_PREFIX, entry, left, tokens};
use crate::context::{Context, StartError, now};
use crate::controllers::Task;

const INFO_NAMESPACE: &str = "kube-public";
const INFO: &str = "cluster-info";
const CONTENT: &str = "kubeconfig";
const SIGNATURE: &str = "jws-kubeconfig-";

struct Controller {
    context: Context,
    tokens: Informer<Secret>,
    maps: Informer<ConfigMap>,
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let queue: Arc<Queue<Key>> = Queue::new("bootstrap_signer_queue");
    let options = Options::default().fields(format!("metadata.name={INFO}"));
    let api = Api::namespaced(context.client.clone(), INFO_NAMESPACE);
    let controller = Arc::new(Controller {
        tokens: tokens(&context.client),
        maps: Informer::start(api, options),
        context,
    });
    let key = || Key::new(INFO_NAMESPACE, INFO);
    let wake = queue.clone();
    controller.tokens.handle(move |_| wake.add(key()));
    let wake = queue.clone();
    controller.maps.handle(move |_| wake.add(key()));
    let (context, this) = (controller.context.clone(), controller.clone());
    let reconcile = move |_: Key| {
        let controller = controller.clone();
        async move { controller.reconcile().await }
    };
    Ok(async move {
        let synced = async {
            this.tokens.synced().await;
            this.maps.synced().await;
        };
        if context
            .stop
            .clone()
            .run_until_cancelled(synced)
            .await
            .is_some()
        {
            context.run(queue, 1, reconcile).await;
        }
    }
    .boxed())
}

/// Id and secret of a token that may sign.
fn signing(secret: &Secret, now: Timestamp) -> Option<(String, String)> {
    let (id, key) = (entry(secret, "token-id"), entry(secret, "token-secret"));
    let name = secret.metadata.name.as_deref()?.strip_prefix(NAME_PREFIX)?;
    let usable = name == id
        && !key.is_empty()
        && left(secret, now) != Left::Nothing
        && entry(secret, "usage-bootstrap-signing") == "true";
    usable.then_some((id, key))
}

/// A JWS of the content without the content itself, as RFC 7515's appendix F has it.
fn signature(content: &str, id: &str, key: &str) -> Result<String, jsonwebtoken::errors::Error> {
    let header = URL_SAFE_NO_PAD.encode(format!("{{\"alg\":\"HS256\",\"kid\":\"{id}\"}}"));
    let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let key = EncodingKey::from_secret(key.as_bytes());
    let signed = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256)?;
    Ok(format!("{header}..{signed}"))
}

/// The map's entries with the signatures that belong there; `None` if they are there already.
fn plan(
    map: &ConfigMap,
    tokens: &BTreeMap<String, String>,
) -> Result<Option<BTreeMap<String, String>>, jsonwebtoken::errors::Error> {
    let Some(old) = &map.data else {
        return Ok(None);
    };
    let Some(content) = old.get(CONTENT) else {
        return Ok(None);
    };
    let mut new: BTreeMap<String, String> = old
        .iter()
        .filter(|(key, _)| !key.starts_with(SIGNATURE))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    for (id, key) in tokens {
        new.insert(format!("{SIGNATURE}{id}"), signature(content, id, key)?);
    }
    Ok((new != *old).then_some(new))
}

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Api(#[from] Error),
    #[error("can't sign: {0}")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

impl Controller {
    async fn reconcile(&self) -> Result<Outcome, Failure> {
        let Some(map) = self.maps.find(INFO_NAMESPACE, INFO) else {
            return Ok(Outcome::Done);
        };
        let now = now();
        let tokens: BTreeMap<String, String> = self
            .tokens
            .list()
            .iter()
            .filter_map(|secret| signing(secret, now))
            .collect();
        if let Some(data) = plan(&map, &tokens)? {
            let map = ConfigMap {
                data: Some(data),
                ..(*map).clone()
            };
            let api = Api::<ConfigMap>::namespaced(self.context.client.clone(), INFO_NAMESPACE);
            match api.replace(INFO, &PostParams::default(), &map).await {
                Ok(_) => {}
                // The change that was in between wakes this again.
                Err(Error::Api(status)) if [404, 409].contains(&status.code) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    #[test]
    fn signatures_are_upstreams_and_follow_the_tokens() {
        // From upstream's own test of its signer.
        let expected =
            "eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8";
        keelson_daemon::install_crypto();
        assert_eq!(
            signature(
                "Hello from the other side. I must have called a thousand times.",
                "joshua",
                "my voice is my passcode"
            )
            .unwrap(),
            expected
        );
        let mut map = ConfigMap {
            data: Some(BTreeMap::from([
                (CONTENT.to_owned(), "x".to_owned()),
                ("jws-kubeconfig-gone12".to_owned(), "y".to_owned()),
            ])),
            ..ConfigMap::default()
        };
        let tokens = BTreeMap::from([("abcdef".to_owned(), "k".to_owned())]);
        let new = plan(&map, &tokens).unwrap().unwrap();
        assert_eq!(
            new.keys().collect::<Vec<_>>(),
            ["jws-kubeconfig-abcdef", "kubeconfig"]
        );
        map.data = Some(new);
        assert!(plan(&map, &tokens).unwrap().is_none());
    }

    #[test]
    fn only_tokens_that_may_sign_do() {
        let mut secret = Secret::default();
        secret.metadata.name = Some("bootstrap-token-abcdef".into());
        let text = |text: &str| ByteString(text.as_bytes().to_vec());
        secret.data = Some(BTreeMap::from([
            ("token-id".to_owned(), text("abcdef")),
            ("token-secret".to_owned(), text("s")),
            ("usage-bootstrap-signing".to_owned(), text("true")),
        ]));
        let now = Timestamp::now();
        assert!(signing(&secret, now).is_some());
        let data = secret.data.get_or_insert_default();
        data.insert("expiration".to_owned(), text("2020-01-01T00:00:00Z"));
        assert!(signing(&secret, now).is_none());
        assert_eq!(left(&secret, now), Left::Nothing);
    }
}
