//! Node ports: the bitmap that upstream keeps in a RangeAllocation, changed by conditional writes.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keelson_api::field::{Error, Path};
use keelson_auth::{Qualified, Status};
use keelson_registry::access::{Access, set};
use rand::RngExt;
use serde_json::{Value, json};

use super::{AddressStore, fields};

/// Conditional writes that are tried before giving up: each loss means that somebody else won.
const ATTEMPTS: usize = 16;

/// Why a port cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum PortError {
    #[error("provided port is already allocated")]
    Allocated,
    #[error("provided port is not in the valid range. The range of valid ports is {0}")]
    NotInRange(PortRange),
    #[error("range is full")]
    Full,
}

/// A range of ports, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    base: u16,
    last: u16,
}

impl PortRange {
    /// `--service-node-port-range`'s default.
    pub const DEFAULT: Self = Self {
        base: 30000,
        last: 32767,
    };

    fn size(self) -> usize {
        usize::from(self.last - self.base) + 1
    }

    fn offset(self, port: u16) -> Option<usize> {
        (self.base..=self.last)
            .contains(&port)
            .then(|| usize::from(port - self.base))
    }

    /// How many ports at the start are left to those who choose their own.
    fn chosen(self) -> usize {
        if self.size() <= 16 {
            0
        } else {
            (self.size() / 32).clamp(16, 128)
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.base, self.last)
    }
}

/// A port range that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a port range such as 30000-32767")]
pub struct PortRangeError(String);

impl FromStr for PortRange {
    type Err = PortRangeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || PortRangeError(text.to_owned());
        let (base, last) = text.split_once('-').ok_or_else(wrong)?;
        let (base, last) = (
            base.trim().parse().map_err(|_| wrong())?,
            last.trim().parse().map_err(|_| wrong())?,
        );
        if base == 0 || base > last {
            Err(wrong())
        } else {
            Ok(Self { base, last })
        }
    }
}

/// The allocated ports of a range. Stored as a big-endian number whose bit n is the port base + n, without leading zeros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bitmap {
    range: PortRange,
    bits: Vec<bool>,
}

impl Bitmap {
    pub(super) fn empty(range: PortRange) -> Self {
        Self {
            range,
            bits: vec![false; range.size()],
        }
    }

    pub(super) fn from_bytes(range: PortRange, bytes: &[u8]) -> Self {
        let mut bitmap = Self::empty(range);
        for (i, byte) in bytes.iter().rev().enumerate() {
            for bit in 0..8 {
                if byte & (1 << bit) != 0
                    && let Some(slot) = bitmap.bits.get_mut(i * 8 + bit)
                {
                    *slot = true;
                }
            }
        }
        bitmap
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self
            .bits
            .chunks(8)
            .map(|chunk| {
                chunk
                    .iter()
                    .enumerate()
                    .fold(0, |byte, (i, set)| byte | (u8::from(*set) << i))
            })
            .collect();
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        bytes.reverse();
        bytes
    }

    pub(super) fn set(&mut self, port: u16, taken: bool) {
        if let Some(offset) = self.range.offset(port) {
            self.bits[offset] = taken;
        }
    }

    pub(super) fn ports(&self) -> impl Iterator<Item = u16> {
        (self.range.base..=self.range.last)
            .zip(&self.bits)
            .filter(|(_, taken)| **taken)
            .map(|(port, _)| port)
    }

    pub(super) fn has(&self, port: u16) -> bool {
        self.range.offset(port).is_some_and(|o| self.bits[o])
    }

    fn take(&mut self, port: u16) -> Result<(), PortError> {
        let offset = self
            .range
            .offset(port)
            .ok_or(PortError::NotInRange(self.range))?;
        if self.bits[offset] {
            return Err(PortError::Allocated);
        }
        self.bits[offset] = true;
        Ok(())
    }

    /// A free port, from the upper part as long as that has one.
    fn pick(&mut self) -> Result<u16, PortError> {
        let chosen = self.range.chosen();
        for (from, length) in [(chosen, self.bits.len() - chosen), (0, chosen)] {
            if length == 0 {
                continue;
            }
            let start = rand::rng().random_range(0..length);
            let free = (0..length)
                .map(|i| from + (start + i) % length)
                .find(|o| !self.bits[*o]);
            if let Some(offset) = free {
                self.bits[offset] = true;
                // The offset is below the range's size, which fits.
                return Ok(self.range.base + u16::try_from(offset).unwrap_or_default());
            }
        }
        Err(PortError::Full)
    }
}

pub(super) struct Ports {
    pub(super) store: Arc<dyn AddressStore>,
    pub(super) range: PortRange,
}

impl Ports {
    pub(super) fn new(store: Arc<dyn AddressStore>, range: PortRange) -> Self {
        Self { store, range }
    }

    /// Fills in the node ports of a Service and returns those that are new.
    pub(super) async fn allocate(
        &self,
        service: &mut Value,
        old: Option<&Value>,
        dry_run: bool,
    ) -> Result<Vec<u16>, Status> {
        let had_check = old.is_some_and(fields::needs_health_check);
        let needs_check = fields::needs_health_check(service) && !had_check;
        if !fields::has_ports(service) && !needs_check {
            return Ok(vec![]);
        }
        let original = service.clone();
        self.change(dry_run, |bitmap| {
            *service = original.clone();
            let mut taken = Vec::new();
            if fields::has_ports(service) {
                assign(service, old, bitmap, &mut taken)?;
            }
            if needs_check {
                assign_health_check(service, bitmap, &mut taken)?;
            }
            Ok(taken)
        })
        .await
    }

    pub(super) async fn release(&self, ports: &[u16]) -> Result<(), Status> {
        self.change(false, |bitmap| {
            for port in ports {
                bitmap.set(*port, false);
            }
            Ok(())
        })
        .await
    }

    /// Reads the bitmap, changes it and writes it, again and again until nobody else wrote meanwhile.
    pub(super) async fn change<T>(
        &self,
        dry_run: bool,
        mut change: impl FnMut(&mut Bitmap) -> Result<T, Status>,
    ) -> Result<T, Status> {
        let mut lost = None;
        for _ in 0..ATTEMPTS {
            let stored = self.store.node_ports().await?;
            let mut bitmap = self.read(stored.as_ref())?;
            let before = bitmap.clone();
            let result = change(&mut bitmap)?;
            if dry_run || bitmap == before {
                return Ok(result);
            }
            match self.store.put_node_ports(self.write(stored, &bitmap)).await {
                Ok(()) => return Ok(result),
                Err(status) if status.is_conflict() || status.is_already_exists() => {
                    lost = Some(status)
                }
                Err(status) => return Err(status),
            }
        }
        Err(lost.unwrap_or_else(|| Status::internal("node ports change too fast")))
    }

    pub(super) fn read(&self, stored: Option<&Value>) -> Result<Bitmap, Status> {
        let Some(stored) = stored else {
            return Ok(Bitmap::empty(self.range));
        };
        if stored.text("range") != self.range.to_string() {
            return Err(Status::internal(
                "the provided port range does not match the current port range",
            ));
        }
        let data = STANDARD
            .decode(stored.text("data"))
            .map_err(|e| Status::internal(format!("node port bitmap: {e}")))?;
        Ok(Bitmap::from_bytes(self.range, &data))
    }

    pub(super) fn write(&self, stored: Option<Value>, bitmap: &Bitmap) -> Value {
        let mut allocation = stored.unwrap_or_else(
            || json!({"apiVersion": "v1", "kind": "RangeAllocation", "metadata": {}}),
        );
        set(&mut allocation, "range", self.range.to_string());
        set(&mut allocation, "data", STANDARD.encode(bitmap.to_bytes()));
        allocation
    }
}

/// Gives every port of the Service a node port. Ports with the same number (TCP and UDP on 53, say) share one.
fn assign(
    service: &mut Value,
    old: Option<&Value>,
    bitmap: &mut Bitmap,
    taken: &mut Vec<u16>,
) -> Result<(), Status> {
    let name = service.text("metadata.name").to_owned();
    let wants = fields::wants_ports(service);
    let had = old.map(fields::ports).unwrap_or_default();
    let mut shared: BTreeMap<i64, u16> = BTreeMap::new();
    let asked: Vec<(i64, Option<u16>)> = service
        .items("spec.ports")
        .iter()
        .map(|p| (p.number("port"), fields::node_port(p.part("nodePort"))))
        .collect();
    for (i, (port, given)) in asked.iter().enumerate() {
        if given.is_none() && !wants {
            continue;
        }
        // On create, a number that another port with the same port number asks for is meant for this one too.
        let meant = given.or_else(|| shared.get(port).copied()).or_else(|| {
            old.is_none()
                .then(|| asked.iter().find(|(p, n)| p == port && n.is_some())?.1)
                .flatten()
        });
        let number = match meant {
            Some(number) => {
                if !had.contains(&number) && !taken.contains(&number) {
                    bitmap
                        .take(number)
                        .map_err(|why| invalid(&name, i, number, &why))?;
                    taken.push(number);
                }
                number
            }
            None => {
                let number = bitmap.pick().map_err(|why| {
                    Status::internal(format!("failed to allocate a nodePort: {why}"))
                })?;
                taken.push(number);
                number
            }
        };
        if old.is_none() {
            shared.entry(*port).or_insert(number);
        }
        if let Some(port) = service["spec"]["ports"].get_mut(i) {
            set(port, "nodePort", number);
        }
    }
    Ok(())
}

fn assign_health_check(
    service: &mut Value,
    bitmap: &mut Bitmap,
    taken: &mut Vec<u16>,
) -> Result<(), Status> {
    let port = match fields::health_check_port(service) {
        Some(port) => {
            bitmap.take(port).map_err(|why| {
                Status::internal(format!(
                    "failed to allocate requested HealthCheck NodePort {port}: {why}"
                ))
            })?;
            port
        }
        None => bitmap.pick().map_err(|why| {
            Status::internal(format!(
                "failed to allocate a HealthCheck NodePort 0: {why}"
            ))
        })?,
    };
    taken.push(port);
    set(service, "spec.healthCheckNodePort", port);
    Ok(())
}

fn invalid(name: &str, index: usize, port: u16, why: &PortError) -> Status {
    let spec = Path::new("spec");
    let ports = spec.child("ports");
    let path = ports.index(index);
    Status::invalid(
        Qualified::new("", "Service"),
        name,
        &[Error::invalid(
            &path.child("nodePort"),
            port,
            why.to_string(),
        )],
    )
}
