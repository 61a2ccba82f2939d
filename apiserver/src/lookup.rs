//! What authentication, authorization and admission read of other objects: the cache, and the store where that may lag.

use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt;
use keelson_api::status::Status;
use keelson_auth::{Lookup, LookupError};
use keelson_storage::{Cache, ListOptions, ListRequest, Store, VersionMatch};
use serde_json::Value;

use crate::error::from_store;
use crate::resources::{Resource, Resources};

/// Reads objects for decisions.
pub struct Objects {
    resources: Arc<Resources>,
    store: Arc<dyn Store>,
    cache: Cache,
}

impl Objects {
    /// Reads from this cache and store.
    pub fn new(resources: Arc<Resources>, store: Arc<dyn Store>, cache: Cache) -> Self {
        Objects {
            resources,
            store,
            cache,
        }
    }

    fn resource(&self, id: &str, name: &str) -> Result<Arc<Resource>, LookupError> {
        self.resources
            .cached_as(id)
            .ok_or_else(|| error(id, name, "there is no such resource"))
    }
}

fn error(resource: &str, name: &str, message: impl ToString) -> LookupError {
    LookupError {
        resource: resource.to_owned(),
        name: name.to_owned(),
        message: message.to_string(),
    }
}

#[async_trait]
impl Lookup for Objects {
    fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let resource = self.resources.cached_as(resource)?;
        let entry = self.cache.get(&resource.id, namespace, name).ok()??;
        resource.object(&entry).ok().map(Arc::new)
    }

    fn list(&self, resource: &str, namespace: &str) -> Vec<Arc<Value>> {
        let Some(resource) = self.resources.cached_as(resource) else {
            return Vec::new();
        };
        let namespace = Some(namespace.to_owned()).filter(|n| !n.is_empty());
        let request = ListRequest {
            namespace,
            version: VersionMatch::Any,
            ..ListRequest::default()
        };
        // A list of whatever is at hand waits for nothing.
        let Some(Ok(listed)) = self.cache.list(&resource.id, request).now_or_never() else {
            return Vec::new();
        };
        listed
            .entries
            .iter()
            .filter_map(|entry| resource.object(entry).ok().map(Arc::new))
            .collect()
    }

    async fn live(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Value>>, LookupError> {
        let found = self.resource(resource, name)?;
        let stored = self
            .store
            .get(&found.key(namespace, name))
            .await
            .map_err(|e| error(resource, name, e))?;
        let Some(stored) = stored else {
            return Ok(None);
        };
        let object = found
            .decode(&stored.value, stored.revision)
            .await
            .map_err(|e| error(resource, name, e))?;
        Ok(Some(Arc::new(object)))
    }

    async fn live_list(
        &self,
        resource: &str,
        namespace: &str,
    ) -> Result<Vec<Arc<Value>>, LookupError> {
        let found = self.resource(resource, "")?;
        let prefix = if found.kind.namespaced && !namespace.is_empty() {
            found.key(namespace, "")
        } else {
            found.prefix.clone()
        };
        let listed = self
            .store
            .list(&prefix, ListOptions::default())
            .await
            .map_err(|e| error(resource, "", e))?;
        let mut objects = Vec::with_capacity(listed.items.len());
        for stored in &listed.items {
            let object = found
                .decode(&stored.value, stored.revision)
                .await
                .map_err(|e| error(resource, "", e))?;
            objects.push(Arc::new(object));
        }
        Ok(objects)
    }
}

/// What admission plugins write.
pub struct Writes {
    resources: Arc<Resources>,
    store: Arc<dyn Store>,
}

impl Writes {
    /// Writes to this store.
    pub fn new(resources: Arc<Resources>, store: Arc<dyn Store>) -> Self {
        Writes { resources, store }
    }
}

#[async_trait]
impl keelson_admission::Writer for Writes {
    async fn update_status(&self, resource: &str, object: Value) -> Result<Value, Status> {
        let found = self
            .resources
            .cached_as(resource)
            .ok_or_else(|| Status::internal(format!("no resource {resource}")))?;
        let text = |field: &str| crate::objects::text(&object, field).to_owned();
        let (namespace, name) = (text("namespace"), text("name"));
        let expected: u64 = text("resourceVersion")
            .parse()
            .map_err(|_| Status::modified(found.qualified(), &name))?;
        let bytes = found.encode(&object).await?;
        let key = found.key(&namespace, &name);
        let revision = self
            .store
            .update(&key, bytes, expected, None)
            .await
            .map_err(|e| from_store(e, found.qualified(), &name))?;
        let mut written = object;
        written["metadata"]["resourceVersion"] = revision.to_string().into();
        Ok(written)
    }
}
