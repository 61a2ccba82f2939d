//! Finds what a crash left behind: addresses and ports that no Service has, and Services whose addresses nobody holds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use keelson_auth::Status;
use keelson_registry::access::Access;
use serde_json::Value;

use super::ips::{self, ADDRESSES, MANAGER, MANAGER_LABEL};
use super::{ServiceAddresses, fields};

/// An address younger than this may belong to a Service that is just being written.
const GRACE_SECONDS: i64 = 60;
/// In how many runs in a row a port must be without a Service before it is freed.
const SIGHTINGS: u32 = 3;

/// What the last runs saw of ports that no Service has. Keep it from run to run.
#[derive(Debug, Default)]
pub struct Leaks(HashMap<u16, u32>);

/// What a run found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    /// Addresses that no Service has, freed.
    pub freed_ips: Vec<String>,
    /// Addresses of Services that nobody held, taken.
    pub taken_ips: Vec<String>,
    /// Addresses that two Services claim: for people to mend.
    pub contested_ips: Vec<String>,
    /// Ports that no Service has, freed.
    pub freed_ports: Vec<u16>,
    /// Ports of Services that were not marked, marked.
    pub taken_ports: Vec<u16>,
}

impl Report {
    /// Whether everything was as it should be.
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

/// What to do about addresses.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    free: Vec<(String, String)>,
    take: Vec<(IpAddr, Arc<Value>)>,
    contested: Vec<String>,
}

/// Decides from the Services and the IPAddress objects; `now` in seconds.
fn plan(services: &[Arc<Value>], addresses: &[Arc<Value>], now: i64) -> Plan {
    let mut plan = Plan::default();
    let held: BTreeMap<&str, &Arc<Value>> = addresses
        .iter()
        .map(|a| (a.text("metadata.name"), a))
        .collect();
    let mut claimed: BTreeSet<(String, String, String)> = BTreeSet::new();
    for service in services.iter().filter(|s| fields::needs_cluster_ip(s)) {
        let (namespace, name) = (
            service.text("metadata.namespace"),
            service.text("metadata.name"),
        );
        for ip in fields::cluster_ips(service) {
            match held.get(ip.as_str()) {
                Some(address) if belongs(address, namespace, name) => {}
                Some(_) => plan.contested.push(ip.clone()),
                None => plan
                    .take
                    .extend(ip.parse().ok().map(|ip| (ip, service.clone()))),
            }
            claimed.insert((ip, namespace.to_owned(), name.to_owned()));
        }
    }
    for address in addresses {
        if address
            .part("metadata.labels")
            .get(MANAGER_LABEL)
            .and_then(Value::as_str)
            != Some(MANAGER)
        {
            continue;
        }
        let created = address
            .text("metadata.creationTimestamp")
            .parse::<jiff::Timestamp>();
        if created.is_ok_and(|t| now - t.as_second() < GRACE_SECONDS) {
            continue;
        }
        let parent = address.part("spec.parentRef");
        let name = address.text("metadata.name").to_owned();
        let claim = (
            name.clone(),
            parent.text("namespace").to_owned(),
            parent.text("name").to_owned(),
        );
        if !claimed.contains(&claim) {
            plan.free
                .push((name, address.text("metadata.uid").to_owned()));
        }
    }
    plan
}

fn belongs(address: &Value, namespace: &str, name: &str) -> bool {
    let parent = address.part("spec.parentRef");
    parent.text("resource") == "services"
        && parent.text("namespace") == namespace
        && parent.text("name") == name
}

impl ServiceAddresses {
    /// One run of the repair loop: at start before the first Service is written (the port bitmap is then made to fit a changed
    /// range), and every few minutes.
    pub async fn repair(&self, leaks: &mut Leaks, now: jiff::Timestamp) -> Result<Report, Status> {
        let mut report = Report::default();
        self.repair_ips(&mut report, now).await?;
        self.repair_ports(&mut report, leaks).await?;
        if !report.is_clean() {
            tracing::warn!(?report, "service addresses were repaired");
        }
        Ok(report)
    }

    async fn repair_ips(&self, report: &mut Report, now: jiff::Timestamp) -> Result<(), Status> {
        let lookup = &self.addresses.lookup;
        // Addresses first: a Service written between the two reads is then seen with its address, and never without.
        let addresses = lookup.live_list(ADDRESSES, "").await?;
        let services = lookup.live_list("services", "").await?;
        let plan = plan(&services, &addresses, now.as_second());
        report.contested_ips = plan.contested;
        for (ip, service) in plan.take {
            match self
                .addresses
                .store
                .create_ip_address(ips::object(ip, &service))
                .await
            {
                Ok(()) => report.taken_ips.push(ip.to_string()),
                // Somebody took it since the list: the next run sees who.
                Err(status) if status.is_already_exists() => {}
                Err(status) => return Err(status),
            }
        }
        for (name, uid) in plan.free {
            self.addresses.store.delete_ip_address(&name, &uid).await?;
            report.freed_ips.push(name);
        }
        Ok(())
    }

    async fn repair_ports(&self, report: &mut Report, leaks: &mut Leaks) -> Result<(), Status> {
        let ports = &self.ports;
        let stored = ports.store.node_ports().await?;
        let services = self.addresses.lookup.live_list("services", "").await?;
        let used: BTreeSet<u16> = services.iter().flat_map(|s| fields::ports(s)).collect();
        let refit = stored
            .as_ref()
            .is_some_and(|s| s.text("range") != ports.range.to_string());
        let mut bitmap = if refit {
            super::ports::Bitmap::empty(ports.range)
        } else {
            ports.read(stored.as_ref())?
        };
        let before = bitmap.clone();
        for port in &used {
            if !bitmap.has(*port) {
                bitmap.set(*port, true);
                if bitmap.has(*port) && !refit {
                    report.taken_ports.push(*port);
                }
            }
        }
        let orphans: Vec<u16> = before.ports().filter(|p| !used.contains(p)).collect();
        leaks.0.retain(|port, _| orphans.contains(port));
        for port in orphans {
            let seen = leaks.0.entry(port).or_default();
            *seen += 1;
            if *seen >= SIGHTINGS {
                leaks.0.remove(&port);
                bitmap.set(port, false);
                report.freed_ports.push(port);
            }
        }
        if bitmap == before && stored.is_some() && !refit {
            return Ok(());
        }
        // The revision that was read guards the write: allocations since then win, and the next run looks again.
        match ports
            .store
            .put_node_ports(ports.write(stored, &bitmap))
            .await
        {
            Err(status) if status.is_conflict() || status.is_already_exists() => {
                report.freed_ports.clear();
                report.taken_ports.clear();
                Ok(())
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_are_matched_with_services() {
        let address = |name: &str, parent: &str, age: &str| {
            Arc::new(
                json!({"metadata": {"name": name, "uid": name, "creationTimestamp": age, "labels": {MANAGER_LABEL: MANAGER}},
                "spec": {"parentRef": {"resource": "services", "namespace": "ns", "name": parent}}}),
            )
        };
        let service = |name: &str, ip: &str| {
            Arc::new(
                json!({"metadata": {"namespace": "ns", "name": name}, "spec": {"clusterIP": ip, "clusterIPs": [ip]}}),
            )
        };
        let old = "2020-01-01T00:00:00Z";
        let now: jiff::Timestamp = "2020-01-01T01:00:00Z".parse().unwrap();
        let addresses = [
            address("10.0.0.1", "a", old),
            address("10.0.0.2", "gone", old),
            address("10.0.0.3", "new", "2020-01-01T00:59:30Z"),
            address("10.0.0.4", "x", old),
        ];
        let services = [
            service("a", "10.0.0.1"),
            service("b", "10.0.0.9"),
            service("x", "10.0.0.4"),
            service("y", "10.0.0.4"),
            service("h", "None"),
        ];
        let plan = plan(&services, &addresses, now.as_second());
        assert_eq!(plan.free, [("10.0.0.2".to_owned(), "10.0.0.2".to_owned())]);
        assert_eq!(
            plan.take
                .iter()
                .map(|(ip, _)| ip.to_string())
                .collect::<Vec<_>>(),
            ["10.0.0.9"]
        );
        assert_eq!(plan.contested, ["10.0.0.4"]);
    }
}
