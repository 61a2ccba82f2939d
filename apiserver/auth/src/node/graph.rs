//! Which nodes reach which objects, kept current object by object. A pod's references are counted per node, so that a decision
//! is a look-up and an update costs what the pod refers to.

use std::collections::{HashMap, HashSet};

use parking_lot::RwLock;
use serde_json::Value;

use super::references;

/// The kinds that a node reaches through others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Pod,
    Secret,
    ConfigMap,
    ServiceAccount,
    PersistentVolumeClaim,
    PersistentVolume,
    ResourceClaim,
    VolumeAttachment,
    ResourceSlice,
}

/// An object in the graph.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    kind: Kind,
    namespace: String,
    name: String,
}

impl Key {
    pub(super) fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

/// What an object that names a node (pod, attachment, slice) opened for it.
#[derive(Debug, PartialEq, Eq)]
struct Opened {
    node: String,
    keys: HashSet<Key>,
}

#[derive(Debug, Default)]
struct State {
    /// By the object that names a node.
    opened: HashMap<Key, Opened>,
    /// The inverse: how many objects open this one for a node.
    nodes: HashMap<Key, HashMap<String, u32>>,
    /// By volume: its claim and the secrets that it needs.
    volumes: HashMap<String, (Key, HashSet<Key>)>,
    /// By secret: the volumes that need it.
    secrets: HashMap<Key, HashSet<String>>,
}

/// The graph.
#[derive(Debug, Default)]
pub struct Graph {
    state: RwLock<State>,
}

impl Graph {
    /// Takes in a new or changed object; other resources than those that matter are ignored.
    pub fn upsert(&self, resource: &str, object: &Value) {
        let text = |pointer: &str| {
            object
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
        match resource {
            "pods" => {
                let key = Key::new(Kind::Pod, namespace, name);
                let mut keys = references::of_pod(object, namespace);
                keys.insert(key.clone());
                self.open(key, text("/spec/nodeName"), keys);
            }
            "volumeattachments" => self.open_itself(
                Key::new(Kind::VolumeAttachment, "", name),
                text("/spec/nodeName"),
            ),
            "resourceslices" => self.open_itself(
                Key::new(Kind::ResourceSlice, "", name),
                text("/spec/nodeName"),
            ),
            "persistentvolumes" => {
                let (claim_namespace, claim) = (
                    text("/spec/claimRef/namespace"),
                    text("/spec/claimRef/name"),
                );
                let mut state = self.state.write();
                state.forget_volume(name);
                if !claim.is_empty() {
                    let secrets = references::of_volume(object, claim_namespace);
                    for secret in &secrets {
                        state
                            .secrets
                            .entry(secret.clone())
                            .or_default()
                            .insert(name.to_owned());
                    }
                    let claim = Key::new(Kind::PersistentVolumeClaim, claim_namespace, claim);
                    state.volumes.insert(name.to_owned(), (claim, secrets));
                }
            }
            _ => {}
        }
    }

    /// Forgets an object.
    pub fn remove(&self, resource: &str, namespace: &str, name: &str) {
        let kind = match resource {
            "pods" => Kind::Pod,
            "volumeattachments" => Kind::VolumeAttachment,
            "resourceslices" => Kind::ResourceSlice,
            "persistentvolumes" => return self.state.write().forget_volume(name),
            _ => return,
        };
        self.state.write().close(&Key::new(kind, namespace, name));
    }

    /// Whether the node reaches the object.
    pub(super) fn reaches(&self, key: &Key, node: &str) -> bool {
        let state = self.state.read();
        match key.kind {
            Kind::PersistentVolume => state.volume_reaches(&key.name, node),
            Kind::Secret => {
                state.direct(key, node)
                    || state
                        .secrets
                        .get(key)
                        .is_some_and(|pvs| pvs.iter().any(|pv| state.volume_reaches(pv, node)))
            }
            _ => state.direct(key, node),
        }
    }

    /// Whether nothing is known.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let state = self.state.read();
        state.opened.is_empty()
            && state.nodes.is_empty()
            && state.volumes.is_empty()
            && state.secrets.is_empty()
    }

    fn open_itself(&self, key: Key, node: &str) {
        self.open(key.clone(), node, HashSet::from([key]));
    }

    fn open(&self, origin: Key, node: &str, keys: HashSet<Key>) {
        // Most updates are of a pod's status: those need no write lock.
        let wanted = (!node.is_empty()).then(|| Opened {
            node: node.to_owned(),
            keys,
        });
        if self.state.read().opened.get(&origin) == wanted.as_ref() {
            return;
        }
        let mut state = self.state.write();
        state.close(&origin);
        let Some(opened) = wanted else { return };
        for key in &opened.keys {
            *state
                .nodes
                .entry(key.clone())
                .or_default()
                .entry(opened.node.clone())
                .or_insert(0) += 1;
        }
        state.opened.insert(origin, opened);
    }
}

impl State {
    fn direct(&self, key: &Key, node: &str) -> bool {
        self.nodes
            .get(key)
            .is_some_and(|nodes| nodes.contains_key(node))
    }

    fn volume_reaches(&self, volume: &str, node: &str) -> bool {
        self.volumes
            .get(volume)
            .is_some_and(|(claim, _)| self.direct(claim, node))
    }

    fn close(&mut self, origin: &Key) {
        let Some(old) = self.opened.remove(origin) else {
            return;
        };
        for key in old.keys {
            let Some(nodes) = self.nodes.get_mut(&key) else {
                continue;
            };
            if let Some(count) = nodes.get_mut(&old.node) {
                *count -= 1;
                if *count == 0 {
                    nodes.remove(&old.node);
                }
            }
            if nodes.is_empty() {
                self.nodes.remove(&key);
            }
        }
    }

    fn forget_volume(&mut self, name: &str) {
        let Some((_, secrets)) = self.volumes.remove(name) else {
            return;
        };
        for secret in secrets {
            if let Some(volumes) = self.secrets.get_mut(&secret) {
                volumes.remove(name);
                if volumes.is_empty() {
                    self.secrets.remove(&secret);
                }
            }
        }
    }
}
