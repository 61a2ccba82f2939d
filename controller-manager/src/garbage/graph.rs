//! Who depends on whom, by UID, and what a change of one object calls for. No I/O.
//!
//! An owner that objects refer to but that no watch has shown is in the graph too, unseen, until it shows up or turns out not to exist.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::ApiResource;

/// The finalizer of an owner whose dependents go first.
pub const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of an owner whose dependents stay.
pub const ORPHAN: &str = "orphan";

/// Where an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its kind, as known from discovery or, for an owner not seen yet, from the reference.
    pub kind: Kind,
    /// Its namespace, empty if it has none (or, for an owner not seen yet, the namespace of who refers to it).
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// How well the kind of an object is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// From discovery.
    Known(Arc<ApiResource>),
    /// From a reference: API version and kind.
    Named(String, String),
}

/// Something to look at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Work {
    /// Whether this object should be deleted, or how far its own deletion is.
    Delete(String),
    /// Whether an owner that nobody has seen exists.
    Verify(String),
    /// The dependents of this object are to be let go.
    Orphan(String),
}

impl std::fmt::Display for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Delete(uid) => write!(f, "delete {uid}"),
            Self::Verify(uid) => write!(f, "verify {uid}"),
            Self::Orphan(uid) => write!(f, "orphan {uid}"),
        }
    }
}

/// One object.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where it is.
    pub identity: Identity,
    /// Its owners.
    pub owners: Vec<OwnerReference>,
    /// The UIDs of its dependents.
    pub dependents: HashSet<String>,
    /// Whether a watch has shown it.
    pub seen: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether it is being deleted in the foreground.
    pub foreground: bool,
    /// Whether it is being deleted and leaves its dependents.
    pub orphaning: bool,
}

/// All objects.
#[derive(Default)]
pub struct Graph {
    nodes: HashMap<String, Node>,
}

fn has(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.iter().flatten().any(|own| own == finalizer)
}

fn blocks(owner: &OwnerReference) -> bool {
    owner.block_owner_deletion == Some(true)
}

impl Graph {
    /// A node.
    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// How many nodes there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The dependents of an owner that hold its deletion up.
    pub fn blocking(&self, uid: &str) -> Vec<&Node> {
        self.dependents(uid)
            .into_iter()
            .filter(|node| {
                node.owners
                    .iter()
                    .any(|owner| owner.uid == uid && blocks(owner))
            })
            .collect()
    }

    /// The dependents of an owner.
    pub fn dependents(&self, uid: &str) -> Vec<&Node> {
        let Some(node) = self.nodes.get(uid) else {
            return Vec::new();
        };
        node.dependents
            .iter()
            .filter_map(|dependent| self.nodes.get(dependent))
            .collect()
    }

    /// An object was added or changed.
    pub fn upsert(&mut self, resource: &Arc<ApiResource>, meta: &ObjectMeta) -> Vec<Work> {
        let Some(uid) = meta.uid.clone() else {
            return Vec::new();
        };
        let mut work = Vec::new();
        let identity = Identity {
            kind: Kind::Known(resource.clone()),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: uid.clone(),
        };
        let owners = meta.owner_references.clone().unwrap_or_default();
        let deleting = meta.deletion_timestamp.is_some();
        let foreground = deleting && has(meta, FOREGROUND);
        let orphaning = deleting && has(meta, ORPHAN);
        let (before, was_foreground, was_orphaning) = match self.nodes.get_mut(&uid) {
            Some(node) => {
                let before = std::mem::replace(&mut node.owners, owners.clone());
                let was = (before, node.foreground, node.orphaning);
                node.identity = identity.clone();
                node.seen = true;
                node.deleting = deleting;
                node.foreground = foreground;
                node.orphaning = orphaning;
                was
            }
            None => {
                let node = Node {
                    identity: identity.clone(),
                    owners: owners.clone(),
                    dependents: HashSet::new(),
                    seen: true,
                    deleting,
                    foreground,
                    orphaning,
                };
                self.nodes.insert(uid.clone(), node);
                (Vec::new(), false, false)
            }
        };
        self.relink(&identity, &before, &owners, &mut work);
        if orphaning && !was_orphaning {
            work.push(Work::Orphan(uid.clone()));
        }
        if foreground && !was_foreground {
            work.extend(
                self.dependents(&uid)
                    .iter()
                    .map(|node| Work::Delete(node.identity.uid.clone())),
            );
            work.push(Work::Delete(uid));
        }
        work
    }

    fn relink(
        &mut self,
        identity: &Identity,
        before: &[OwnerReference],
        after: &[OwnerReference],
        work: &mut Vec<Work>,
    ) {
        let uid = &identity.uid;
        for owner in before {
            let now = after.iter().find(|candidate| candidate.uid == owner.uid);
            if now.is_none() {
                self.unlink(&owner.uid, uid);
            }
            // The owner may have waited for this one.
            if blocks(owner) && now.is_none_or(|now| !blocks(now)) {
                work.push(Work::Delete(owner.uid.clone()));
            }
        }
        for owner in after {
            if before.iter().any(|candidate| candidate.uid == owner.uid) {
                continue;
            }
            match self.nodes.get_mut(&owner.uid) {
                Some(node) => {
                    node.dependents.insert(uid.clone());
                }
                None => {
                    let node = Node {
                        identity: Identity {
                            kind: Kind::Named(owner.api_version.clone(), owner.kind.clone()),
                            namespace: identity.namespace.clone(),
                            name: owner.name.clone(),
                            uid: owner.uid.clone(),
                        },
                        owners: Vec::new(),
                        dependents: HashSet::from([uid.clone()]),
                        seen: false,
                        deleting: false,
                        foreground: false,
                        orphaning: false,
                    };
                    self.nodes.insert(owner.uid.clone(), node);
                    work.push(Work::Verify(owner.uid.clone()));
                }
            }
        }
    }

    /// Takes a dependent off an owner, and the owner too if nobody has seen it and nobody refers to it any more.
    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(node) = self.nodes.get_mut(owner) {
            node.dependents.remove(dependent);
            if !node.seen && node.dependents.is_empty() {
                self.nodes.remove(owner);
            }
        }
    }

    /// An object is gone, or an owner turned out not to exist.
    pub fn remove(&mut self, uid: &str) -> Vec<Work> {
        let Some(node) = self.nodes.remove(uid) else {
            return Vec::new();
        };
        let mut work: Vec<_> = node.dependents.into_iter().map(Work::Delete).collect();
        for owner in &node.owners {
            self.unlink(&owner.uid, uid);
            if self
                .nodes
                .get(&owner.uid)
                .is_some_and(|owner| owner.foreground)
            {
                work.push(Work::Delete(owner.uid.clone()));
            }
        }
        work
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn kind() -> Arc<ApiResource> {
        Arc::new(ApiResource {
            group: String::new(),
            version: "v1".into(),
            api_version: "v1".into(),
            kind: "Pod".into(),
            plural: "pods".into(),
        })
    }

    fn meta(uid: &str, owners: &[(&str, bool)], extra: Value) -> ObjectMeta {
        let owners: Vec<_> = owners
            .iter()
            .map(|(uid, blocks)| json!({"apiVersion": "v1", "kind": "X", "name": uid, "uid": uid, "blockOwnerDeletion": blocks}))
            .collect();
        let mut value =
            json!({"name": uid, "namespace": "default", "uid": uid, "ownerReferences": owners});
        crate::pod::tests::merge(&mut value, &extra);
        serde_json::from_value(value).unwrap()
    }

    fn told(mut work: Vec<Work>) -> Vec<String> {
        work.sort();
        work.iter().map(Work::to_string).collect()
    }

    #[test]
    fn an_owner_nobody_has_seen_is_verified_and_its_absence_told_to_dependents() {
        let mut graph = Graph::default();
        assert_eq!(
            told(graph.upsert(&kind(), &meta("a", &[("o", false)], json!({})))),
            ["verify o"]
        );
        assert!(
            graph
                .upsert(&kind(), &meta("b", &[("o", false)], json!({})))
                .is_empty()
        );
        assert_eq!(told(graph.remove("o")), ["delete a", "delete b"]);
        assert_eq!(graph.len(), 2);
        // An owner that was never there leaves nothing behind once nobody refers to it.
        graph.upsert(&kind(), &meta("c", &[("p", false)], json!({})));
        graph.remove("c");
        assert_eq!(graph.len(), 2);
    }

    #[test]
    fn foreground_deletion_goes_down_and_comes_back_up() {
        let mut graph = Graph::default();
        graph.upsert(&kind(), &meta("o", &[], json!({})));
        graph.upsert(&kind(), &meta("a", &[("o", true)], json!({})));
        graph.upsert(&kind(), &meta("b", &[("o", false)], json!({})));
        let gone = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [FOREGROUND]});
        assert_eq!(
            told(graph.upsert(&kind(), &meta("o", &[], gone.clone()))),
            ["delete a", "delete b", "delete o"]
        );
        assert!(graph.upsert(&kind(), &meta("o", &[], gone)).is_empty());
        assert_eq!(graph.blocking("o").len(), 1);
        assert_eq!(told(graph.remove("a")), ["delete o"]);
        assert!(graph.blocking("o").is_empty());
    }

    #[test]
    fn orphaning_and_unblocking_are_noticed() {
        let mut graph = Graph::default();
        graph.upsert(&kind(), &meta("o", &[], json!({})));
        graph.upsert(&kind(), &meta("a", &[("o", true)], json!({})));
        let orphan = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [ORPHAN]});
        assert_eq!(
            told(graph.upsert(&kind(), &meta("o", &[], orphan))),
            ["orphan o"]
        );
        assert_eq!(
            told(graph.upsert(&kind(), &meta("a", &[("o", false)], json!({})))),
            ["delete o"]
        );
        assert!(graph.upsert(&kind(), &meta("a", &[], json!({}))).is_empty());
        assert!(graph.dependents("o").is_empty());
        assert!(graph.remove("o").is_empty());
    }
}
