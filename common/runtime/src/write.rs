//! Writing back: status updates that survive conflicts, and patches.

use std::fmt::Debug;

use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::{Api, Error, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// How often a conflicting write is tried, as upstream's default.
const TRIES: usize = 5;

/// Whether the error says that the object is not there.
pub fn is_not_found(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.code == 404)
}

/// Whether the error says that another write came first.
pub fn is_conflict(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.code == 409 && status.reason != "AlreadyExists")
}

/// Whether the error says that the name is taken.
pub fn is_already_exists(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.reason == "AlreadyExists")
}

/// Whether the error says that the namespace is on its way out, so nothing can be created there.
pub fn is_namespace_terminating(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.details.as_ref().is_some_and(|details|
        details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating")))
}

/// Turns "not found" into `None`.
pub fn optional<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes the status that `change` makes of `object`, and starts over from a fresh copy on a conflict. `change` says
/// whether there is anything to write; it may be called several times. An object that was replaced by another of the same name
/// is left alone: that is `None`, as is one that is gone.
pub async fn update_status<K>(
    api: &Api<K>,
    object: &K,
    mut change: impl FnMut(&mut K) -> bool,
) -> Result<Option<K>, Error>
where
    K: Resource + Clone + Serialize + DeserializeOwned + Debug,
{
    let name = object.meta().name.clone().unwrap_or_default();
    let mut current = object.clone();
    for _ in 1..TRIES {
        let before = current.clone();
        if !change(&mut current) {
            return Ok(Some(before));
        }
        match api
            .replace_status(&name, &PostParams::default(), &current)
            .await
        {
            Err(error) if is_conflict(&error) => {}
            other => return optional(other),
        }
        match api.get_opt(&name).await? {
            Some(fresh) if fresh.meta().uid == object.meta().uid => current = fresh,
            _ => return Ok(None),
        }
    }
    if !change(&mut current) {
        return Ok(Some(current));
    }
    optional(
        api.replace_status(&name, &PostParams::default(), &current)
            .await,
    )
}

/// A strategic merge patch (for kinds of the API server itself).
pub async fn patch_strategic<K>(api: &Api<K>, name: &str, patch: &Value) -> Result<K, Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    api.patch(name, &PatchParams::default(), &Patch::Strategic(patch))
        .await
}

/// A merge patch, which every kind understands.
pub async fn patch_merge<K>(api: &Api<K>, name: &str, patch: &Value) -> Result<K, Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
}

/// Options that delete exactly the object with this UID.
pub fn delete_params(uid: Option<&str>, policy: Option<PropagationPolicy>) -> DeleteParams {
    DeleteParams {
        preconditions: uid.map(|uid| Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        }),
        propagation_policy: policy,
        ..DeleteParams::default()
    }
}
