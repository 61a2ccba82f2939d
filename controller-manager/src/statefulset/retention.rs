//! Who owns the claims of a StatefulSet's pods, by its persistentVolumeClaimRetentionPolicy: the garbage collector deletes them with
//! their last owner. No I/O.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use keelson_runtime::owners;
use kube::{Resource, ResourceExt};

use super::plan;

/// A pod of a set, whose claims are looked at.
#[derive(Clone, Copy)]
pub struct Holder<'a> {
    /// The set.
    pub set: &'a StatefulSet,
    /// The pod; one that isn't made yet has no UID.
    pub pod: &'a Pod,
}

fn deletes(set: &StatefulSet, when: fn(&Policy) -> Option<&str>) -> bool {
    set.spec
        .as_ref()
        .and_then(|spec| {
            spec.persistent_volume_claim_retention_policy
                .as_ref()
                .and_then(when)
        })
        .is_some_and(|what| what == "Delete")
}

type Policy = k8s_openapi::api::apps::v1::StatefulSetPersistentVolumeClaimRetentionPolicy;

/// Whether claims go with the pods that scaling down takes away.
pub fn deletes_when_scaled(set: &StatefulSet) -> bool {
    deletes(set, |policy| policy.when_scaled.as_deref())
}

fn deletes_with_set(set: &StatefulSet) -> bool {
    deletes(set, |policy| policy.when_deleted.as_deref())
}

fn uid(meta: &ObjectMeta) -> &str {
    meta.uid.as_deref().unwrap_or_default()
}

/// Whether the reference is to an object of this kind and name, of whatever UID.
fn names<K: Resource<DynamicType = ()>>(owner: &OwnerReference, object: &K) -> bool {
    owner.kind == K::kind(&())
        && owner.api_version == K::api_version(&())
        && Some(&owner.name) == object.meta().name.as_ref()
}

/// Whether the claim is of an earlier object of the same name.
pub fn is_stale<K: Resource<DynamicType = ()>>(claim: &PersistentVolumeClaim, object: &K) -> bool {
    claim
        .owner_references()
        .iter()
        .find(|owner| names(owner, object))
        .is_some_and(|owner| owner.uid != uid(object.meta()))
}

impl Holder<'_> {
    fn owned_by(&self, claim: &PersistentVolumeClaim, meta: &ObjectMeta) -> bool {
        claim
            .owner_references()
            .iter()
            .any(|owner| owner.uid == uid(meta))
    }

    /// Whether somebody else manages the claim, so that the policy can't.
    pub fn is_contested(&self, claim: &PersistentVolumeClaim) -> bool {
        if !deletes_when_scaled(self.set) && !deletes_with_set(self.set) {
            return false;
        }
        claim.owner_references().iter().any(|owner| {
            if names(owner, self.set) {
                owner.uid != uid(&self.set.metadata)
            } else if names(owner, self.pod) {
                owner.uid != uid(&self.pod.metadata)
            } else {
                owner.controller == Some(true)
            }
        })
    }

    /// Whether the set and the pod are to own the claim.
    fn wanted(&self) -> (bool, bool) {
        let (start, end) = plan::range(self.set);
        let kept = plan::ordinal(self.set, self.pod)
            .is_some_and(|ordinal| (start..end).contains(&ordinal));
        match (deletes_when_scaled(self.set), deletes_with_set(self.set)) {
            (false, with_set) => (with_set, false),
            (true, with_set) => (with_set && kept, !kept),
        }
    }

    /// The owners that the claim should have instead of those that it has; `None` if they are right, or none of our business.
    pub fn owners(&self, claim: &PersistentVolumeClaim) -> Option<Vec<OwnerReference>> {
        if is_stale(claim, self.set) || is_stale(claim, self.pod) {
            return None;
        }
        let has = (
            self.owned_by(claim, &self.set.metadata),
            self.owned_by(claim, &self.pod.metadata),
        );
        let contested = self.is_contested(claim);
        let wanted = if contested {
            (false, false)
        } else {
            self.wanted()
        };
        let weak = claim.owner_references().iter().any(|owner| {
            [&self.set.metadata, &self.pod.metadata]
                .iter()
                .any(|meta| uid(meta) == owner.uid)
                && owner.controller != Some(true)
        });
        if has == wanted && (contested || !weak) {
            return None;
        }
        let mut owners: Vec<OwnerReference> = claim
            .owner_references()
            .iter()
            .filter(|owner| !names(owner, self.set) && !names(owner, self.pod))
            .cloned()
            .collect();
        if wanted.0 {
            owners.push(owners::controller_ref(self.set));
        }
        if wanted.1 {
            owners.push(owners::controller_ref(self.pod));
        }
        Some(owners)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn set(scaled: &str, deleted: &str) -> StatefulSet {
        serde_json::from_value(json!({"metadata": {"name": "db", "uid": "s"}, "spec": {"replicas": 1, "selector": {}, "template": {},
            "persistentVolumeClaimRetentionPolicy": {"whenScaled": scaled, "whenDeleted": deleted}}}))
        .unwrap()
    }

    fn pod(name: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": name, "uid": name}})).unwrap()
    }

    fn claim(owners: &[Value]) -> PersistentVolumeClaim {
        serde_json::from_value(json!({"metadata": {"name": "data", "ownerReferences": owners}}))
            .unwrap()
    }

    fn of_set() -> Value {
        json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "s", "controller": true})
    }

    fn uids(set: &StatefulSet, pod: &Pod, claim: &PersistentVolumeClaim) -> Option<Vec<String>> {
        let owners = Holder { set, pod }.owners(claim)?;
        Some(owners.into_iter().map(|owner| owner.uid).collect())
    }

    #[test]
    fn owners_follow_the_policy() {
        let (kept, condemned, free) = (pod("db-0"), pod("db-1"), claim(&[]));
        let owned = claim(&[of_set()]);
        let none = Some(Vec::<String>::new());
        let some = |uid: &str| Some(vec![uid.to_owned()]);
        for (scaled, deleted, of_kept, of_condemned) in [
            ("Retain", "Retain", None, None),
            ("Retain", "Delete", some("s"), some("s")),
            ("Delete", "Retain", None, some("db-1")),
            ("Delete", "Delete", some("s"), some("db-1")),
        ] {
            let set = set(scaled, deleted);
            assert_eq!(uids(&set, &kept, &free), of_kept, "{scaled} {deleted}");
            assert_eq!(
                uids(&set, &condemned, &free),
                of_condemned,
                "{scaled} {deleted}"
            );
        }
        assert_eq!(uids(&set("Retain", "Retain"), &kept, &owned), none);
        assert_eq!(uids(&set("Retain", "Delete"), &kept, &owned), None);
        assert_eq!(
            uids(&set("Delete", "Delete"), &condemned, &owned),
            some("db-1")
        );
    }

    #[test]
    fn what_others_manage_or_earlier_ones_left_is_let_be() {
        let set = set("Delete", "Delete");
        let other = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "x", "controller": true});
        assert!(
            Holder {
                set: &set,
                pod: &pod("db-0")
            }
            .is_contested(&claim(std::slice::from_ref(&other)))
        );
        assert_eq!(
            uids(&set, &pod("db-0"), &claim(std::slice::from_ref(&other))),
            None
        );
        assert_eq!(
            uids(&set, &pod("db-0"), &claim(&[other, of_set()])),
            Some(vec!["x".to_owned()])
        );
        let earlier =
            claim(&[json!({"apiVersion": "v1", "kind": "Pod", "name": "db-0", "uid": "old"})]);
        assert!(is_stale(&earlier, &pod("db-0")));
        assert_eq!(uids(&set, &pod("db-0"), &earlier), None);
        // A reference that doesn't control is made one that does.
        let weak = claim(&[
            json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "s"}),
        ]);
        assert_eq!(uids(&set, &pod("db-0"), &weak), Some(vec!["s".to_owned()]));
    }
}
