//! The in-memory copy of one kind: objects by namespace and name, with indexes.
//!
//! Readers get `Arc`s and never block each other. Only the informer writes.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use kube::Resource;
use parking_lot::RwLock;

/// Namespace and name of an object; the namespace is empty for cluster-scoped kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The namespace, or an empty string.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Key {
    /// The key of a namespaced object.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The key of a cluster-scoped object.
    pub fn cluster(name: impl Into<String>) -> Self {
        Self::new("", name)
    }

    /// The key of an object.
    pub fn of<K: Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self::new(
            meta.namespace.clone().unwrap_or_default(),
            meta.name.clone().unwrap_or_default(),
        )
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

type IndexFn<K> = Arc<dyn Fn(&K) -> Vec<String> + Send + Sync>;

struct Index<K> {
    values_of: IndexFn<K>,
    keys: HashMap<String, BTreeSet<Key>>,
}

impl<K> Index<K> {
    fn insert(&mut self, key: &Key, object: &K) {
        for value in (self.values_of)(object) {
            self.keys.entry(value).or_default().insert(key.clone());
        }
    }

    fn remove(&mut self, key: &Key, object: &K) {
        for value in (self.values_of)(object) {
            if let Some(set) = self.keys.get_mut(&value) {
                set.remove(key);
                if set.is_empty() {
                    self.keys.remove(&value);
                }
            }
        }
    }
}

struct Inner<K> {
    objects: HashMap<Key, Arc<K>>,
    namespaces: HashMap<String, BTreeSet<String>>,
    indexes: HashMap<&'static str, Index<K>>,
}

/// Objects of one kind. Written by an [`crate::Informer`], read by everybody.
pub struct Store<K> {
    inner: RwLock<Inner<K>>,
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self {
            inner: RwLock::new(Inner {
                objects: HashMap::new(),
                namespaces: HashMap::new(),
                indexes: HashMap::new(),
            }),
        }
    }
}

impl<K> Store<K> {
    /// The object with this key.
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.inner.read().objects.get(key).cloned()
    }

    /// The namespaced object with this name.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.get(&Key::new(namespace, name))
    }

    /// All objects, in no particular order.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.inner.read().objects.values().cloned().collect()
    }

    /// The objects of one namespace, by name.
    pub fn list_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let inner = self.inner.read();
        let Some(names) = inner.namespaces.get(namespace) else {
            return Vec::new();
        };
        names
            .iter()
            .filter_map(|name| {
                inner
                    .objects
                    .get(&Key::new(namespace, name.as_str()))
                    .cloned()
            })
            .collect()
    }

    /// How many objects a namespace has.
    pub fn count_namespace(&self, namespace: &str) -> usize {
        let inner = self.inner.read();
        inner.namespaces.get(namespace).map_or(0, BTreeSet::len)
    }

    /// All keys.
    pub fn keys(&self) -> Vec<Key> {
        self.inner.read().objects.keys().cloned().collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.inner.read().objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The objects that index `name` files under `value`, by key. An index that was never added has no objects.
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        let inner = self.inner.read();
        let Some(keys) = inner.indexes.get(name).and_then(|i| i.keys.get(value)) else {
            return Vec::new();
        };
        keys.iter()
            .filter_map(|key| inner.objects.get(key).cloned())
            .collect()
    }

    /// How many objects index `name` files under `value`.
    pub fn count_by_index(&self, name: &str, value: &str) -> usize {
        let inner = self.inner.read();
        inner
            .indexes
            .get(name)
            .and_then(|i| i.keys.get(value))
            .map_or(0, BTreeSet::len)
    }

    /// The values that index `name` has objects under.
    pub fn index_values(&self, name: &str) -> Vec<String> {
        let inner = self.inner.read();
        inner
            .indexes
            .get(name)
            .map(|i| i.keys.keys().cloned().collect())
            .unwrap_or_default()
    }

    /// Adds an index over present and future objects. A second one of the same name is ignored, so that several
    /// users of one store may ask for the index that they share.
    pub fn index_by(
        &self,
        name: &'static str,
        values_of: impl Fn(&K) -> Vec<String> + Send + Sync + 'static,
    ) {
        let mut inner = self.inner.write();
        if inner.indexes.contains_key(name) {
            return;
        }
        let mut index = Index {
            values_of: Arc::new(values_of),
            keys: HashMap::new(),
        };
        for (key, object) in &inner.objects {
            index.insert(key, object);
        }
        inner.indexes.insert(name, index);
    }

    /// Puts an object in and gives back what was there.
    pub fn insert(&self, key: Key, object: Arc<K>) -> Option<Arc<K>> {
        let mut inner = self.inner.write();
        let old = inner.objects.insert(key.clone(), object.clone());
        for index in inner.indexes.values_mut() {
            if let Some(old) = &old {
                index.remove(&key, old);
            }
            index.insert(&key, &object);
        }
        if old.is_none() {
            inner
                .namespaces
                .entry(key.namespace)
                .or_default()
                .insert(key.name);
        }
        old
    }

    /// Takes an object out.
    pub fn remove(&self, key: &Key) -> Option<Arc<K>> {
        let mut inner = self.inner.write();
        let old = inner.objects.remove(key)?;
        for index in inner.indexes.values_mut() {
            index.remove(key, &old);
        }
        if let Some(names) = inner.namespaces.get_mut(&key.namespace) {
            names.remove(&key.name);
            if names.is_empty() {
                inner.namespaces.remove(&key.namespace);
            }
        }
        Some(old)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::ResourceExt;

    fn config_map(namespace: &str, name: &str, team: &str) -> Arc<ConfigMap> {
        let mut cm = ConfigMap::default();
        cm.metadata.namespace = Some(namespace.into());
        cm.metadata.name = Some(name.into());
        cm.labels_mut().insert("team".into(), team.into());
        Arc::new(cm)
    }

    fn put(store: &Store<ConfigMap>, object: Arc<ConfigMap>) {
        store.insert(Key::of(&*object), object);
    }

    #[test]
    fn indexes_follow_changes_whenever_they_were_added() {
        let store = Store::default();
        put(&store, config_map("a", "one", "red"));
        store.index_by("team", |cm: &ConfigMap| {
            cm.labels().get("team").cloned().into_iter().collect()
        });
        put(&store, config_map("b", "two", "red"));
        assert_eq!(store.by_index("team", "red").len(), 2);

        put(&store, config_map("a", "one", "blue"));
        assert_eq!(store.count_by_index("team", "red"), 1);
        assert_eq!(store.by_index("team", "blue")[0].name_any(), "one");

        store.remove(&Key::new("a", "one"));
        assert!(store.by_index("team", "blue").is_empty());
        assert_eq!(store.index_values("team"), vec!["red".to_owned()]);
        assert!(store.list_namespace("a").is_empty());
        assert_eq!(store.list_namespace("b").len(), 1);
    }
}
