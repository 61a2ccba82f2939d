//! Read access to other objects, for decisions that depend on them. The API server implements it over its cache and store.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

/// A live read that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("reading {resource} {name:?}: {message}")]
pub struct LookupError {
    /// The resource asked for.
    pub resource: String,
    /// The object asked for.
    pub name: String,
    /// What went wrong.
    pub message: String,
}

/// Read access to objects. A resource is written `<plural>` for the core group and `<plural>.<group>` for others, as in
/// `priorityclasses.scheduling.k8s.io`; the namespace is empty for cluster-scoped objects. Objects are in their storage version.
#[async_trait]
pub trait Lookup: Send + Sync {
    /// The object as the watch cache has it.
    fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>>;

    /// The objects of a namespace (of all namespaces, if it is empty) as the watch cache has them, in key order.
    fn list(&self, resource: &str, namespace: &str) -> Vec<Arc<Value>>;

    /// The object as the store has it now, for what a cache that lags behind must not get wrong.
    async fn live(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Value>>, LookupError>;

    /// The objects of a namespace (of all, if it is empty) as the store has them now.
    async fn live_list(
        &self,
        resource: &str,
        namespace: &str,
    ) -> Result<Vec<Arc<Value>>, LookupError>;
}

impl From<LookupError> for keelson_api::status::Status {
    fn from(error: LookupError) -> Self {
        Self::internal(error)
    }
}

/// A set of objects for tests.
#[cfg(any(test, feature = "testing"))]
pub mod testing {
    use std::collections::BTreeMap;

    use super::{Arc, Lookup, LookupError, Value, async_trait};

    /// Objects by resource, namespace and name; the cache and the store are the same.
    #[derive(Default)]
    pub struct Objects(parking_lot::RwLock<BTreeMap<(String, String, String), Arc<Value>>>);

    impl Objects {
        /// Adds or replaces an object.
        pub fn put(&self, resource: &str, object: &Value) {
            let text = |p: &str| {
                object
                    .pointer(p)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned()
            };
            let key = (
                resource.to_owned(),
                text("/metadata/namespace"),
                text("/metadata/name"),
            );
            self.0.write().insert(key, Arc::new(object.clone()));
        }

        /// Removes an object.
        pub fn take(&self, resource: &str, namespace: &str, name: &str) {
            self.0
                .write()
                .remove(&(resource.to_owned(), namespace.to_owned(), name.to_owned()));
        }
    }

    #[async_trait]
    impl Lookup for Objects {
        fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
            self.0
                .read()
                .get(&(resource.to_owned(), namespace.to_owned(), name.to_owned()))
                .cloned()
        }

        fn list(&self, resource: &str, namespace: &str) -> Vec<Arc<Value>> {
            let objects = self.0.read();
            let of = objects
                .iter()
                .filter(|((r, n, _), _)| r == resource && (namespace.is_empty() || n == namespace));
            of.map(|(_, v)| v.clone()).collect()
        }

        async fn live(
            &self,
            resource: &str,
            namespace: &str,
            name: &str,
        ) -> Result<Option<Arc<Value>>, LookupError> {
            Ok(self.get(resource, namespace, name))
        }

        async fn live_list(
            &self,
            resource: &str,
            namespace: &str,
        ) -> Result<Vec<Arc<Value>>, LookupError> {
            Ok(self.list(resource, namespace))
        }
    }
}
