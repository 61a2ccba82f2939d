//! The addresses of Services around their writes: reserved before, kept or given back after.
//!
//! What is allocated, and how, is `keelson-admission`'s; here are the store's side of it and the repair loop.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use keelson_admission::service_addresses::{
    AddressStore, Family, Leaks, Reservation, ServiceAddresses,
};
use keelson_api::status::{Qualified, Status};
use keelson_auth::Lookup;
use keelson_registry::access::Access;
use keelson_storage::{Store, StoreError};
use serde_json::Value;

use crate::error::from_store;
use crate::objects::text;
use crate::options::Options;
use crate::resources::{Resource, Resources};
use crate::response::ApiResult;
use crate::server::Server;
use crate::startup::own;

const IP_ADDRESSES: &str = "ipaddresses.networking.k8s.io";
const RANGES: Qualified<'static> = Qualified::new("", "rangeallocations");
/// How often leaks are looked for.
const REPAIR: Duration = Duration::from_secs(180);

/// Allocates the addresses of Services; other resources pass.
pub struct Addresses(ServiceAddresses);

/// What was reserved for one write.
#[must_use = "say what became of the write"]
pub struct Reserved(Option<Reservation>);

impl Addresses {
    /// For a server with these options.
    pub fn new(options: &Options, store: Arc<dyn AddressStore>, lookup: Arc<dyn Lookup>) -> Self {
        let families = options
            .service_families
            .iter()
            .map(|f| match f {
                keelson_registry::Family::V4 => Family::V4,
                keelson_registry::Family::V6 => Family::V6,
            })
            .collect();
        Addresses(ServiceAddresses::new(
            store,
            lookup,
            options.node_ports,
            families,
        ))
    }

    /// Reserves what a new object needs.
    pub async fn create(
        &self,
        resource: &Resource,
        object: &mut Value,
        dry_run: bool,
    ) -> ApiResult<Reserved> {
        if resource.id != "services" {
            return Ok(Reserved(None));
        }
        self.0
            .create(object, dry_run)
            .await
            .map(|r| Reserved(Some(r)))
    }

    /// Reserves what a changed object needs. Subresources change no addresses.
    pub async fn update(
        &self,
        resource: &Resource,
        object: &mut Value,
        old: &Value,
        subresource: &str,
        dry_run: bool,
    ) -> ApiResult<Reserved> {
        if resource.id != "services" || !subresource.is_empty() {
            return Ok(Reserved(None));
        }
        self.0
            .update(object, old, dry_run)
            .await
            .map(|r| Reserved(Some(r)))
    }

    /// Keeps or gives back what was reserved.
    pub async fn settle(&self, reserved: Reserved, stored: bool) {
        match reserved.0 {
            Some(reservation) if stored => self.0.commit(reservation).await,
            Some(reservation) => self.0.revert(reservation).await,
            None => {}
        }
    }

    /// Frees what a removed object had.
    pub async fn removed(&self, resource: &Resource, object: &Value) {
        if resource.id == "services" {
            self.0.delete(object).await;
        }
    }

    /// One look for leaks.
    pub async fn repair(&self, leaks: &mut Leaks) -> ApiResult<()> {
        self.0.repair(leaks, Timestamp::now()).await.map(|_| ())
    }
}

/// Looks for leaks every few minutes.
pub async fn repair_loop(server: Arc<Server>, mut leaks: Leaks) {
    loop {
        tokio::select! {
            () = server.stop.cancelled() => return,
            () = tokio::time::sleep(REPAIR) => {}
        }
        if let Err(e) = server.addresses.repair(&mut leaks).await {
            tracing::warn!(error = %e, "looking for leaked Service addresses failed");
        }
    }
}

/// The store's side of allocation.
pub struct Writes {
    resources: Arc<Resources>,
    store: Arc<dyn Store>,
    node_ports: String,
}

impl Writes {
    /// Over this store.
    pub fn new(resources: Arc<Resources>, store: Arc<dyn Store>, etcd_prefix: &str) -> Self {
        Writes {
            resources,
            store,
            node_ports: format!("{etcd_prefix}/ranges/servicenodeports"),
        }
    }

    fn ip_addresses(&self) -> ApiResult<Arc<Resource>> {
        self.resources
            .cached_as(IP_ADDRESSES)
            .ok_or_else(|| Status::internal("no resource ipaddresses"))
    }
}

#[async_trait]
impl AddressStore for Writes {
    async fn create_ip_address(&self, address: Value) -> Result<(), Status> {
        let resource = self.ip_addresses()?;
        let object = own::completed(&resource, address)?;
        let name = text(&object, "name");
        let bytes = resource.encode(&object).await?;
        let done = self
            .store
            .create(&resource.key("", name), bytes, None)
            .await;
        done.map(|_| ())
            .map_err(|e| from_store(e, resource.qualified(), name))
    }

    async fn delete_ip_address(&self, name: &str, uid: &str) -> Result<(), Status> {
        let resource = self.ip_addresses()?;
        let fail = |e| from_store(e, resource.qualified(), name);
        let key = resource.key("", name);
        let Some(stored) = self.store.get(&key).await.map_err(fail)? else {
            return Ok(());
        };
        let object = resource.decode(&stored.value, stored.revision).await?;
        if text(&object, "uid") != uid {
            return Ok(());
        }
        match self.store.delete(&key, Some(stored.revision)).await {
            Ok(_) | Err(StoreError::NotFound) => Ok(()),
            Err(e) => Err(fail(e)),
        }
    }

    async fn node_ports(&self) -> Result<Option<Value>, Status> {
        let stored = self
            .store
            .get(&self.node_ports)
            .await
            .map_err(|e| from_store(e, RANGES, "servicenodeports"))?;
        stored
            .map(|stored| {
                let mut value: Value =
                    crate::resources::from_bytes(&stored.value).map_err(Status::internal)?;
                keelson_registry::access::set(
                    &mut value,
                    "metadata.resourceVersion",
                    stored.revision.to_string(),
                );
                Ok(value)
            })
            .transpose()
    }

    async fn put_node_ports(&self, mut allocation: Value) -> Result<(), Status> {
        let version = allocation.text("metadata.resourceVersion").to_owned();
        keelson_registry::access::remove(&mut allocation, "metadata.resourceVersion");
        let bytes = Bytes::from(allocation.to_string());
        let done = match version.parse() {
            Ok(expected) => {
                self.store
                    .update(&self.node_ports, bytes, expected, None)
                    .await
            }
            Err(_) => self.store.create(&self.node_ports, bytes, None).await,
        };
        match done {
            Ok(_) => Ok(()),
            Err(StoreError::AlreadyExists | StoreError::NotFound) => {
                Err(Status::modified(RANGES, "servicenodeports"))
            }
            Err(e) => Err(from_store(e, RANGES, "servicenodeports")),
        }
    }
}
