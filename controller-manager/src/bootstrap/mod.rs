//! Bootstrap tokens: Secrets by which new nodes know the cluster, and the cluster new nodes. One controller signs the public
//! description of the cluster with them, one deletes those whose time has come.

pub mod cleaner;
pub mod signer;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use keelson_runtime::Informer;
use keelson_runtime::informer::Options;
use kube::{Api, Client};

/// Where the tokens are.
const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";
const NAME_PREFIX: &str = "bootstrap-token-";

/// The tokens alone, so that the cluster's other Secrets are not kept in memory.
fn tokens(client: &Client) -> Informer<Secret> {
    let options = Options::default().fields(format!("type={TYPE}"));
    Informer::start(Api::namespaced(client.clone(), NAMESPACE), options)
}

/// An entry of a Secret as text.
fn entry(secret: &Secret, key: &str) -> String {
    secret
        .data
        .as_ref()
        .and_then(|data| data.get(key))
        .and_then(|value| String::from_utf8(value.0.clone()).ok())
        .unwrap_or_default()
}

/// How long a token still lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    ForEver,
    For(SignedDuration),
    Nothing,
}

fn left(secret: &Secret, now: Timestamp) -> Left {
    let text = entry(secret, "expiration");
    if text.is_empty() {
        return Left::ForEver;
    }
    match text.parse::<Timestamp>() {
        Ok(at) if at > now => Left::For(at.duration_since(now)),
        // Nobody can say when: it has passed.
        Ok(_) | Err(_) => Left::Nothing,
    }
}
