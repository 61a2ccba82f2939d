//! The addresses of Services: cluster IPs, which are IPAddress objects made before the Service, and node ports, which are bits
//! in `/registry/ranges/servicenodeports`.
//!
//! There is no transaction over the three, so a write goes: reserve, store the Service, then `commit` (frees what the Service
//! no longer has) or `revert` (frees what was reserved). What a crash in between leaks, `repair` finds.

use std::sync::Arc;

use async_trait::async_trait;
use keelson_auth::{Lookup, Status};
use keelson_registry::access::Access;
use serde_json::Value;

mod families;
mod fields;
mod ips;
mod ports;
mod repair;

pub use families::Family;
pub use ips::Range;
pub use ports::PortRange;
pub use repair::{Leaks, Report};

use ips::Addresses;
use ports::Ports;

/// The writes that allocation needs. They bypass admission and are made as the API server itself.
#[async_trait]
pub trait AddressStore: Send + Sync {
    /// Creates an IPAddress; 409 AlreadyExists if there is one of that name.
    async fn create_ip_address(&self, address: Value) -> Result<(), Status>;

    /// Deletes an IPAddress if its uid still is this one; one that is gone is no error.
    async fn delete_ip_address(&self, name: &str, uid: &str) -> Result<(), Status>;

    /// The RangeAllocation of node ports as the store has it now, its revision in `metadata.resourceVersion`.
    async fn node_ports(&self) -> Result<Option<Value>, Status>;

    /// Writes the RangeAllocation if the stored one still has the given resourceVersion, or if there is none and none is given;
    /// 409 Conflict otherwise.
    async fn put_node_ports(&self, allocation: Value) -> Result<(), Status>;
}

/// Allocates and frees the addresses of Services.
pub struct ServiceAddresses {
    addresses: Addresses,
    ports: Ports,
    families: Vec<Family>,
}

/// What was reserved for a Service that is being written, and what it will no longer have.
#[derive(Debug, Default)]
#[must_use = "commit it after the Service is stored, revert it if that fails"]
pub struct Reservation {
    reserved: Held,
    released: Held,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Held {
    ips: Vec<String>,
    ports: Vec<u16>,
    owner: (String, String),
}

impl ServiceAddresses {
    /// For a store, the port range of `--service-node-port-range` and the families of `--service-cluster-ip-range`, the
    /// cluster's first family first.
    pub fn new(
        store: Arc<dyn AddressStore>,
        lookup: Arc<dyn Lookup>,
        port_range: PortRange,
        families: Vec<Family>,
    ) -> Self {
        Self {
            addresses: Addresses::new(store.clone(), lookup),
            ports: Ports::new(store, port_range),
            families,
        }
    }

    /// Fills in the addresses of a new Service. To be called before the strategy prepares and validates it.
    pub async fn create(&self, service: &mut Value, dry_run: bool) -> Result<Reservation, Status> {
        fields::normalize(service, None);
        families::init(service, None, &self.families)?;
        let mut reservation = Reservation::for_service(service);
        let result = self.allocate_new(service, dry_run, &mut reservation).await;
        self.settle(result, reservation, dry_run).await
    }

    /// Carries over, allocates and releases what changes between two forms of a Service. To be called before the strategy
    /// prepares and validates it.
    pub async fn update(
        &self,
        service: &mut Value,
        old: &Value,
        dry_run: bool,
    ) -> Result<Reservation, Status> {
        fields::carry_over(service, old);
        fields::normalize(service, Some(old));
        families::init(service, Some(old), &self.families)?;
        let mut reservation = Reservation::for_service(service);
        let result = self
            .allocate_changes(service, old, dry_run, &mut reservation)
            .await;
        self.settle(result, reservation, dry_run).await
    }

    /// Frees everything that a deleted Service had.
    pub async fn delete(&self, service: &Value) {
        let mut held = Held {
            owner: owner(service),
            ..Held::default()
        };
        if fields::needs_cluster_ip(service) {
            held.ips = fields::cluster_ips(service);
        }
        held.ports = fields::ports(service);
        self.free(&held).await;
    }

    /// Frees what the Service no longer has; call it once the Service is stored.
    pub async fn commit(&self, reservation: Reservation) {
        self.free(&reservation.released).await;
    }

    /// Frees what was reserved; call it if the Service could not be stored.
    pub async fn revert(&self, reservation: Reservation) {
        self.free(&reservation.reserved).await;
    }

    async fn settle(
        &self,
        result: Result<(), Status>,
        reservation: Reservation,
        dry_run: bool,
    ) -> Result<Reservation, Status> {
        match result {
            Ok(()) if dry_run => Ok(Reservation::default()),
            Ok(()) => Ok(reservation),
            Err(error) => {
                if !dry_run {
                    self.revert(reservation).await;
                }
                Err(error)
            }
        }
    }

    async fn allocate_new(
        &self,
        service: &mut Value,
        dry_run: bool,
        reservation: &mut Reservation,
    ) -> Result<(), Status> {
        self.addresses
            .allocate(service, dry_run, &mut reservation.reserved.ips)
            .await?;
        reservation.reserved.ports = self.ports.allocate(service, None, dry_run).await?;
        Ok(())
    }

    async fn allocate_changes(
        &self,
        service: &mut Value,
        old: &Value,
        dry_run: bool,
        reservation: &mut Reservation,
    ) -> Result<(), Status> {
        let (had, has) = (
            fields::needs_cluster_ip(old),
            fields::needs_cluster_ip(service),
        );
        if !had && has {
            self.addresses
                .allocate(service, dry_run, &mut reservation.reserved.ips)
                .await?;
        } else if had && !fields::is_headless(old) {
            if has {
                self.addresses
                    .change_secondary(service, old, dry_run, reservation)
                    .await?;
            } else {
                reservation.released.ips = fields::cluster_ips(old);
            }
        }
        reservation.reserved.ports = self.ports.allocate(service, Some(old), dry_run).await?;
        let now = fields::ports(service);
        let keeps = fields::has_ports(service);
        reservation.released.ports = fields::ports(old)
            .into_iter()
            .filter(|p| !keeps || !now.contains(p))
            .collect();
        if fields::needs_health_check(old) && !fields::needs_health_check(service) {
            reservation
                .released
                .ports
                .extend(fields::health_check_port(old));
        }
        reservation.released.ports.sort_unstable();
        reservation.released.ports.dedup();
        Ok(())
    }

    /// Frees addresses. What fails stays for the repair loop: the Service's write has happened already.
    async fn free(&self, held: &Held) {
        for ip in &held.ips {
            if let Err(error) = self.addresses.release(ip, &held.owner).await {
                tracing::warn!(%ip, %error, "cannot release a cluster IP; the repair loop will");
            }
        }
        if !held.ports.is_empty()
            && let Err(error) = self.ports.release(&held.ports).await
        {
            tracing::warn!(ports = ?held.ports, %error, "cannot release node ports; the repair loop will");
        }
    }
}

impl Reservation {
    fn for_service(service: &Value) -> Self {
        let held = || Held {
            owner: owner(service),
            ..Held::default()
        };
        Self {
            reserved: held(),
            released: held(),
        }
    }
}

fn owner(service: &Value) -> (String, String) {
    (
        service.text("metadata.namespace").to_owned(),
        service.text("metadata.name").to_owned(),
    )
}

#[cfg(test)]
mod tests;
