//! Tokens of service accounts that live in secrets: made for secrets that ask for one, and cleared away when nobody uses them any more.

pub mod cleaner;
pub mod maker;
mod sign;

use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use keelson_runtime::informer::Options;
use keelson_runtime::{Informer, Informers};

/// The type of secrets with tokens.
const KIND: &str = "kubernetes.io/service-account-token";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// The one informer of secrets: only those with tokens, and only as much of them as is looked at.
fn secrets(informers: &Informers) -> Informer<Secret> {
    informers.get_with::<Secret>(|| Options::default().fields(format!("type={KIND}")))
}

fn annotation<'s>(secret: &'s Secret, name: &str) -> &'s str {
    let annotations = secret.metadata.annotations.as_ref();
    annotations
        .and_then(|all| all.get(name))
        .map_or("", String::as_str)
}

/// Whether the secret is this account's, and not that of an earlier one of the same name.
fn belongs(secret: &Secret, account: &ServiceAccount) -> bool {
    let uid = annotation(secret, ACCOUNT_UID);
    annotation(secret, ACCOUNT) == account.metadata.name.as_deref().unwrap_or_default()
        && (uid.is_empty() || Some(uid) == account.metadata.uid.as_deref())
}
