//! Cluster IPs: the ranges that ServiceCIDR objects give, and the IPAddress object that holds each address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use keelson_api::field::{Error, Path};
use keelson_auth::{Lookup, Qualified, Status};
use keelson_registry::access::{Access, set};
use rand::RngExt;
use serde_json::{Value, json};

use super::families::Family;
use super::{AddressStore, Reservation, fields};

pub(super) const ADDRESSES: &str = "ipaddresses.networking.k8s.io";
const CIDRS: &str = "servicecidrs.networking.k8s.io";
pub(super) const FAMILY_LABEL: &str = "ipaddress.kubernetes.io/ip-family";
pub(super) const MANAGER_LABEL: &str = "ipaddress.kubernetes.io/managed-by";
pub(super) const MANAGER: &str = "ipallocator.k8s.io";

/// Why an address cannot be had.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
enum IpError {
    #[error("provided IP is already allocated")]
    Allocated,
    #[error("the provided network does not match the current range")]
    NoRange,
    #[error("range is full")]
    Full,
    #[error("{0}")]
    Store(Status),
}

/// The usable addresses of a network, as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    net: IpNet,
    first: u128,
    last: u128,
    /// Where the band begins from which addresses are picked; below it the ones that people choose have their place.
    dynamic: u128,
}

impl Range {
    /// The range of a network: without the network's own address and, for IPv4, its broadcast address.
    pub fn new(net: IpNet) -> Option<Self> {
        let net = net.trunc();
        let first = number(net.network()).checked_add(1)?;
        let last = match net {
            IpNet::V4(v4) => number(IpAddr::V4(v4.broadcast())).checked_sub(1)?,
            IpNet::V6(v6) => number(IpAddr::V6(v6.broadcast())),
        };
        if first > last {
            return None;
        }
        let host_bits = u32::from(net.max_prefix_len() - net.prefix_len());
        let size = if host_bits >= 63 {
            u128::from(u64::MAX >> 1)
        } else {
            1_u128 << host_bits
        };
        let offset = if size <= 16 {
            0
        } else {
            (size / 16).clamp(16, 256)
        };
        Some(Self {
            net,
            first,
            last,
            dynamic: (first + offset).min(last),
        })
    }

    /// The address that the API server's own Service gets.
    pub fn first_address(&self) -> IpAddr {
        address(self.first, self.family())
    }

    /// The family.
    pub fn family(&self) -> Family {
        Family::of(self.net.addr())
    }

    fn holds(&self, ip: IpAddr) -> bool {
        Family::of(ip) == self.family() && (self.first..=self.last).contains(&number(ip))
    }

    /// Every address, the upper band first, each band from a random place on.
    fn candidates(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let family = self.family();
        let band = |from: u128, to: u128| {
            let length = (to - from + 1).min(u128::from(u64::MAX >> 1));
            let start = rand::rng().random_range(0..length);
            (0..length).map(move |i| from + (start + i) % length)
        };
        let upper = band(self.dynamic, self.last);
        let lower = (self.dynamic > self.first).then(|| band(self.first, self.dynamic - 1));
        upper
            .chain(lower.into_iter().flatten())
            .map(move |n| address(n, family))
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn address(number: u128, family: Family) -> IpAddr {
    match family {
        // A number of an IPv4 range fits: it came from one.
        Family::V4 => IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX))),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

pub(super) struct Addresses {
    pub(super) store: Arc<dyn AddressStore>,
    pub(super) lookup: Arc<dyn Lookup>,
}

impl Addresses {
    pub(super) fn new(store: Arc<dyn AddressStore>, lookup: Arc<dyn Lookup>) -> Self {
        Self { store, lookup }
    }

    /// Reserves the addresses that a Service asks for, and picks those that it does not name.
    pub(super) async fn allocate(
        &self,
        service: &mut Value,
        dry_run: bool,
        reserved: &mut Vec<String>,
    ) -> Result<(), Status> {
        if !fields::needs_cluster_ip(service) || fields::is_headless(service) {
            return Ok(());
        }
        let families: Vec<Family> = words(service)
            .iter()
            .filter_map(|w| Family::parse(w))
            .collect();
        let mut ips = fields::cluster_ips(service);
        for (i, family) in families.into_iter().enumerate() {
            let got = self
                .reserve(service, family, ips.get(i).map(String::as_str), dry_run)
                .await?;
            if !dry_run {
                reserved.push(got.clone());
            }
            if i == ips.len() {
                ips.push(got);
            }
        }
        if let Some(first) = ips.first().cloned() {
            set(service, "spec.clusterIP", first);
            set(service, "spec.clusterIPs", json!(ips));
        }
        Ok(())
    }

    /// Reserves or gives up the second address of a Service that gains or loses a family.
    pub(super) async fn change_secondary(
        &self,
        service: &mut Value,
        old: &Value,
        dry_run: bool,
        reservation: &mut Reservation,
    ) -> Result<(), Status> {
        let (before, now) = (words(old), words(service));
        match (before.len(), now.len()) {
            (1, 2) => {
                let Some(family) = now.get(1).and_then(|w| Family::parse(w)) else {
                    return Ok(());
                };
                let mut ips = fields::cluster_ips(service);
                let got = self
                    .reserve(service, family, ips.get(1).map(String::as_str), dry_run)
                    .await?;
                if !dry_run {
                    reservation.reserved.ips.push(got.clone());
                }
                ips.truncate(1);
                ips.push(got);
                set(service, "spec.clusterIPs", json!(ips));
            }
            (2, 1) => reservation
                .released
                .ips
                .extend(fields::cluster_ips(old).into_iter().nth(1)),
            _ => {}
        }
        Ok(())
    }

    /// Frees an address, if it still belongs to the Service.
    pub(super) async fn release(&self, ip: &str, owner: &(String, String)) -> Result<(), Status> {
        let Some(object) = self.lookup.live(ADDRESSES, "", ip).await? else {
            return Ok(());
        };
        let parent = object.part("spec.parentRef");
        if parent.text("resource") != "services"
            || (parent.text("namespace"), parent.text("name")) != (&owner.0, &owner.1)
        {
            return Ok(());
        }
        self.store
            .delete_ip_address(ip, object.text("metadata.uid"))
            .await
    }

    async fn reserve(
        &self,
        service: &Value,
        family: Family,
        wanted: Option<&str>,
        dry_run: bool,
    ) -> Result<String, Status> {
        let name = service.text("metadata.name");
        let invalid = |why: String| {
            let spec = Path::new("spec");
            let path = spec.child("clusterIPs");
            let given = service.part("spec.clusterIPs");
            Status::invalid(
                Qualified::new("", "Service"),
                name,
                &[Error::invalid(&path, given, why)],
            )
        };
        let ranges = self.ranges(family).await?;
        if let Some(wanted) = wanted {
            let ip: IpAddr = wanted
                .parse()
                .map_err(|_| Status::internal(format!("failed to parse service IP {wanted:?}")))?;
            return match self.take(&ranges, ip, service, dry_run).await {
                Ok(()) => Ok(wanted.to_owned()),
                Err(IpError::Store(status)) => Err(status),
                Err(error) => Err(invalid(format!("failed to allocate IP {wanted}: {error}"))),
            };
        }
        match self.pick(&ranges, service, dry_run).await {
            Ok(ip) => Ok(ip.to_string()),
            Err(IpError::Store(status)) => Err(status),
            Err(IpError::Full) => Err(Status::internal(format!(
                "failed to allocate a serviceIP for Service {name:?}: {}",
                IpError::Full
            ))),
            Err(error) => Err(invalid(format!("failed to allocate IP: {error}"))),
        }
    }

    async fn take(
        &self,
        ranges: &[Range],
        ip: IpAddr,
        service: &Value,
        dry_run: bool,
    ) -> Result<(), IpError> {
        if !ranges.iter().any(|r| r.holds(ip)) {
            return Err(IpError::NoRange);
        }
        if dry_run {
            Ok(())
        } else {
            self.create(ip, service).await
        }
    }

    async fn pick(
        &self,
        ranges: &[Range],
        service: &Value,
        dry_run: bool,
    ) -> Result<IpAddr, IpError> {
        if ranges.is_empty() {
            return Err(IpError::NoRange);
        }
        if dry_run {
            // As upstream: which one it will be is not known before it is taken.
            return Ok(ranges[0].net.network());
        }
        for range in ranges {
            for ip in range.candidates() {
                if self.lookup.get(ADDRESSES, "", &ip.to_string()).is_some() {
                    continue;
                }
                match self.create(ip, service).await {
                    // Taken since the cache saw it: the next one.
                    Err(IpError::Allocated) => {}
                    Err(error) => return Err(error),
                    Ok(()) => return Ok(ip),
                }
            }
        }
        Err(IpError::Full)
    }

    async fn create(&self, ip: IpAddr, service: &Value) -> Result<(), IpError> {
        match self.store.create_ip_address(object(ip, service)).await {
            Ok(()) => Ok(()),
            Err(status) if status.is_already_exists() => Err(IpError::Allocated),
            Err(status) => Err(IpError::Store(status)),
        }
    }

    /// The ranges of a family, of ServiceCIDRs that are ready and not going.
    async fn ranges(&self, family: Family) -> Result<Vec<Range>, Status> {
        let mut cidrs = self.lookup.list(CIDRS, "");
        if cidrs.is_empty() {
            cidrs = self.lookup.live_list(CIDRS, "").await?;
        }
        let usable = cidrs
            .iter()
            .filter(|c| !c.has("metadata.deletionTimestamp") && !unready(c));
        let nets = usable
            .flat_map(|c| c.items("spec.cidrs"))
            .filter_map(Value::as_str);
        let ranges = nets.filter_map(|c| c.parse().ok()).filter_map(Range::new);
        Ok(ranges.filter(|r| r.family() == family).collect())
    }
}

/// The IPAddress object that holds an address for a Service.
pub(super) fn object(ip: IpAddr, service: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {"name": ip.to_string(), "labels": {
            FAMILY_LABEL: Family::of(ip).as_str(), MANAGER_LABEL: MANAGER}},
        "spec": {"parentRef": {"group": "", "resource": "services",
            "namespace": service.text("metadata.namespace"), "name": service.text("metadata.name")}},
    })
}

fn unready(cidr: &Value) -> bool {
    cidr.items("status.conditions")
        .iter()
        .any(|c| c.text("type") == "Ready" && c.text("status") == "False")
}

fn words(service: &Value) -> Vec<&str> {
    service
        .items("spec.ipFamilies")
        .iter()
        .filter_map(Value::as_str)
        .collect()
}
