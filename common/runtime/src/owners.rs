//! Who owns what: controller references, and adopting and releasing dependents by label.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;
use serde_json::{Value, json};

/// The reference to the controller that owns the object, if one does.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references
        .as_deref()
        .unwrap_or_default()
        .iter()
        .find(|owner| owner.controller == Some(true))
}

/// Whether the object with this UID is the controller of the other.
pub fn is_controlled_by(meta: &ObjectMeta, uid: &str) -> bool {
    controller_of(meta).is_some_and(|owner| owner.uid == uid)
}

/// The reference that makes `owner` the controller of what carries it.
pub fn controller_ref<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// What a controller does about an object that may be its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is the controller's already.
    Keep,
    /// It is nobody's and matches: take it.
    Adopt,
    /// It is the controller's but doesn't match any more: let it go.
    Release,
    /// It is none of the controller's business.
    Ignore,
}

/// Decides about one object, given its owner-to-be's UID, whether that one is being deleted, and whether the selector matches.
pub fn claim(owner_uid: &str, owner_deleting: bool, object: &ObjectMeta, matches: bool) -> Claim {
    match controller_of(object) {
        Some(owner) if owner.uid != owner_uid => Claim::Ignore,
        Some(_) if matches => Claim::Keep,
        Some(_) if owner_deleting => Claim::Ignore,
        Some(_) => Claim::Release,
        None if owner_deleting || !matches || object.deletion_timestamp.is_some() => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// The strategic merge patch that adopts the object with `uid` (which guards against a successor of the same name).
pub fn adopt_patch(owner: &OwnerReference, uid: &str) -> Value {
    json!({"metadata": {"ownerReferences": [owner], "uid": uid}})
}

/// The strategic merge patch that releases the object with `uid` from the owner with `owner_uid`.
pub fn release_patch(owner_uid: &str, uid: &str) -> Value {
    json!({"metadata": {"ownerReferences": [{"$patch": "delete", "uid": owner_uid}], "uid": uid}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims() {
        let object = |owner: Option<&str>, deleting: bool| ObjectMeta {
            owner_references: owner.map(|uid| {
                vec![OwnerReference {
                    uid: uid.into(),
                    controller: Some(true),
                    ..OwnerReference::default()
                }]
            }),
            deletion_timestamp: deleting.then_some(
                k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH),
            ),
            ..ObjectMeta::default()
        };
        // owner, deleting, matches, owner deleting => claim
        for (owner, deleting, matches, owner_deleting, expected) in [
            (Some("me"), false, true, false, Claim::Keep),
            (Some("me"), true, true, true, Claim::Keep),
            (Some("me"), false, false, false, Claim::Release),
            (Some("me"), false, false, true, Claim::Ignore),
            (Some("you"), false, true, false, Claim::Ignore),
            (None, false, true, false, Claim::Adopt),
            (None, true, true, false, Claim::Ignore),
            (None, false, false, false, Claim::Ignore),
            (None, false, true, true, Claim::Ignore),
        ] {
            assert_eq!(
                claim("me", owner_deleting, &object(owner, deleting), matches),
                expected,
                "{owner:?} {deleting} {matches} {owner_deleting}"
            );
        }
    }
}
