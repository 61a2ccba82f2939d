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
