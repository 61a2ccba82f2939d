//! Owner references: who controls an object, and how an owner writes itself into what it makes.

use k8s_openapi::Resource;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::Value;

/// The reference to the object's controller.
#[must_use]
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references
        .as_ref()?
        .iter()
        .find(|r| r.controller == Some(true))
}

/// The reference to the controller of an untyped object.
#[must_use]
pub fn controller_of_value(object: &Value) -> Option<&Value> {
    object
        .pointer("/metadata/ownerReferences")?
        .as_array()?
        .iter()
        .find(|r| r.get("controller") == Some(&Value::Bool(true)))
}

/// Whether `owner` controls the object.
#[must_use]
pub fn is_controlled_by(meta: &ObjectMeta, owner: &ObjectMeta) -> bool {
    controller_of(meta).is_some_and(|r| Some(&r.uid) == owner.uid.as_ref())
}

/// The reference that an object controlled by `owner` carries; `None` while the owner was not stored yet.
#[must_use]
pub fn controller_reference<T: Resource>(owner: &ObjectMeta) -> Option<OwnerReference> {
    Some(OwnerReference {
        api_version: T::API_VERSION.into(),
        kind: T::KIND.into(),
        name: owner.name.clone()?,
        uid: owner.uid.clone()?,
        controller: Some(true),
        block_owner_deletion: Some(true),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::ReplicaSet;

    #[test]
    fn an_owner_is_recognised_by_uid() {
        let owner = ObjectMeta {
            name: Some("rs".into()),
            uid: Some("u1".into()),
            ..Default::default()
        };
        let reference = controller_reference::<ReplicaSet>(&owner).unwrap();
        assert_eq!(
            (reference.api_version.as_str(), reference.kind.as_str()),
            ("apps/v1", "ReplicaSet")
        );
        let pod = ObjectMeta {
            owner_references: Some(vec![reference]),
            ..Default::default()
        };
        assert!(is_controlled_by(&pod, &owner));
        let namesake = ObjectMeta {
            uid: Some("u2".into()),
            ..owner
        };
        assert!(!is_controlled_by(&pod, &namesake));
    }
}
