//! All names of the cluster, changed a Service at a time, and the look-up of one name.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use parking_lot::RwLock;

use crate::records::{Port, Records};

/// Version of the specification, as `dns-version` answers it.
pub const SPECIFICATION: &str = "1.1.0";

/// An SRV target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Port.
    pub port: u16,
    /// Full name of the target.
    pub target: String,
    /// Its addresses, for the additional section.
    pub addresses: Vec<IpAddr>,
}

/// What a name is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Addresses.
    Addresses(Vec<IpAddr>),
    /// Services at it.
    Services(Vec<Service>),
    /// An alias.
    Alias(String),
    /// A text.
    Text(String),
    /// A name that exists and holds nothing itself.
    Empty,
    /// No such name.
    Nothing,
}

#[derive(Debug, Default)]
struct State {
    /// (namespace, service) → records.
    services: HashMap<(String, String), Records>,
    namespaces: HashSet<String>,
    /// Address → names.
    reverse: HashMap<IpAddr, Vec<String>>,
}

/// The zone.
#[derive(Debug)]
pub struct Zone {
    domain: String,
    state: RwLock<State>,
}

impl Zone {
    /// An empty zone for a domain such as `cluster.local`.
    pub fn new(domain: &str) -> Self {
        Self {
            domain: domain.trim_matches('.').to_lowercase(),
            state: RwLock::default(),
        }
    }

    /// The domain, without the final dot.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Replaces the records of a Service; `None` removes them.
    pub fn set(&self, namespace: &str, service: &str, records: Option<Records>) {
        let key = (namespace.to_lowercase(), service.to_lowercase());
        let mut state = self.state.write();
        if let Some(old) = state.services.remove(&key) {
            for (address, name) in self.reverse_names(&key, &old) {
                if let Some(names) = state.reverse.get_mut(&address) {
                    names.retain(|n| *n != name);
                    if names.is_empty() {
                        state.reverse.remove(&address);
                    }
                }
            }
        }
        if let Some(new) = records {
            for (address, name) in self.reverse_names(&key, &new) {
                let names = state.reverse.entry(address).or_default();
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            state.services.insert(key, new);
        }
    }

    /// Adds or removes a namespace: an unknown one is NXDOMAIN, a known one without Services exists.
    pub fn set_namespace(&self, name: &str, exists: bool) {
        let mut state = self.state.write();
        if exists {
            state.namespaces.insert(name.to_lowercase());
        } else {
            state.namespaces.remove(&name.to_lowercase());
        }
    }

    fn reverse_names(
        &self,
        (namespace, service): &(String, String),
        records: &Records,
    ) -> Vec<(IpAddr, String)> {
        let base = format!("{service}.{namespace}.svc.{}.", self.domain);
        match records {
            Records::Cluster { addresses, .. } => {
                addresses.iter().map(|a| (*a, base.clone())).collect()
            }
            Records::Headless { endpoints, .. } => endpoints
                .iter()
                .flat_map(|(name, list)| {
                    list.iter()
                        .map(|a| (*a, format!("{name}.{base}")))
                        .collect::<Vec<_>>()
                })
                .collect(),
            Records::External(_) => Vec::new(),
        }
    }

    /// Whether a name (lower case, without the final dot) is ours to answer, and what of it is left of the domain.
    pub fn relative<'a>(&self, name: &'a str) -> Option<&'a str> {
        if name == self.domain {
            return Some("");
        }
        name.strip_suffix(&self.domain)?.strip_suffix('.')
    }

    /// Looks up a name relative to the domain (lower case).
    pub fn find(&self, relative: &str) -> Found {
        if relative.is_empty() {
            return Found::Empty;
        }
        let labels: Vec<&str> = relative.split('.').collect();
        let state = self.state.read();
        match labels.as_slice() {
            ["dns-version"] => Found::Text(SPECIFICATION.into()),
            ["svc" | "pod"] => Found::Empty,
            [namespace, "svc" | "pod"] => {
                if state.namespaces.contains(*namespace) {
                    Found::Empty
                } else {
                    Found::Nothing
                }
            }
            [address, namespace, "pod"] => pod(address, namespace, &state),
            [rest @ .., service, namespace, "svc"] => {
                let Some(records) = state
                    .services
                    .get(&((*namespace).to_owned(), (*service).to_owned()))
                else {
                    return Found::Nothing;
                };
                self.within(
                    rest,
                    &format!("{service}.{namespace}.svc.{}.", self.domain),
                    records,
                )
            }
            _ => Found::Nothing,
        }
    }

    fn within(&self, rest: &[&str], base: &str, records: &Records) -> Found {
        match (rest, records) {
            ([], Records::External(name)) => Found::Alias(name.clone()),
            (_, Records::External(_)) => Found::Nothing,
            ([], Records::Cluster { addresses, .. }) => Found::Addresses(addresses.clone()),
            ([], Records::Headless { endpoints, .. }) if endpoints.is_empty() => Found::Nothing,
            ([], Records::Headless { endpoints, .. }) => {
                Found::Addresses(endpoints.values().flatten().copied().collect())
            }
            ([label], Records::Headless { endpoints, .. }) if endpoints.contains_key(*label) => {
                Found::Addresses(endpoints.get(*label).cloned().unwrap_or_default())
            }
            ([protocol], _) if protocol.starts_with('_') => {
                let wanted = protocol.trim_start_matches('_');
                if ports(records).any(|(_, p, _)| p.protocol == wanted) {
                    Found::Empty
                } else {
                    Found::Nothing
                }
            }
            ([port, protocol], _) if port.starts_with('_') && protocol.starts_with('_') => {
                let (port, protocol) = (
                    port.trim_start_matches('_'),
                    protocol.trim_start_matches('_'),
                );
                let services: Vec<Service> = ports(records)
                    .filter(|(_, p, _)| {
                        !p.name.is_empty() && p.name == port && p.protocol == protocol
                    })
                    .map(|(name, p, addresses)| Service {
                        port: p.number,
                        target: name.map_or_else(|| base.to_owned(), |n| format!("{n}.{base}")),
                        addresses: addresses.to_vec(),
                    })
                    .collect();
                if services.is_empty() {
                    Found::Nothing
                } else {
                    Found::Services(services)
                }
            }
            _ => Found::Nothing,
        }
    }

    /// The names of an address of ours.
    pub fn reverse(&self, address: IpAddr) -> Vec<String> {
        self.state
            .read()
            .reverse
            .get(&address)
            .cloned()
            .unwrap_or_default()
    }
}

/// Every port with the endpoint's name (headless) and the addresses behind it.
fn ports(records: &Records) -> Box<dyn Iterator<Item = (Option<&str>, &Port, &[IpAddr])> + '_> {
    match records {
        Records::Cluster { addresses, ports } => {
            Box::new(ports.iter().map(move |p| (None, p, addresses.as_slice())))
        }
        Records::Headless { endpoints, ports } => {
            Box::new(ports.iter().flat_map(move |(name, list)| {
                let addresses = endpoints.get(name).map(Vec::as_slice).unwrap_or_default();
                list.iter()
                    .map(move |p| (Some(name.as_str()), p, addresses))
            }))
        }
        Records::External(_) => Box::new(std::iter::empty()),
    }
}

/// `10-244-0-3.namespace.pod`: the address that the name itself says, in a namespace that exists.
fn pod(label: &str, namespace: &str, state: &State) -> Found {
    if !state.namespaces.contains(namespace) {
        return Found::Nothing;
    }
    let v4 = label
        .replace('-', ".")
        .parse::<Ipv4Addr>()
        .map(IpAddr::from);
    match v4.or_else(|_| {
        label
            .replace('-', ":")
            .parse::<Ipv6Addr>()
            .map(IpAddr::from)
    }) {
        Ok(address) => Found::Addresses(vec![address]),
        Err(_) => Found::Nothing,
    }
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` stands for.
pub fn reverse_address(name: &str) -> Option<IpAddr> {
    if let Some(rest) = name.strip_suffix(".in-addr.arpa") {
        let octets: Vec<u8> = rest
            .split('.')
            .rev()
            .map(str::parse)
            .collect::<Result<_, _>>()
            .ok()?;
        return <[u8; 4]>::try_from(octets).ok().map(IpAddr::from);
    }
    let rest = name.strip_suffix(".ip6.arpa")?;
    let nibbles: Vec<u8> = rest
        .split('.')
        .rev()
        .map(|n| u8::from_str_radix(n, 16).ok().filter(|v| *v < 16))
        .collect::<Option<_>>()?;
    if nibbles.len() != 32 {
        return None;
    }
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(nibbles.chunks(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    Some(IpAddr::from(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone() -> Zone {
        let zone = Zone::new("cluster.local.");
        zone.set_namespace("default", true);
        let port = |name: &str| Port {
            name: name.into(),
            protocol: "tcp".into(),
            number: 80,
        };
        zone.set(
            "default",
            "api",
            Some(Records::Cluster {
                addresses: vec![IpAddr::from([10, 96, 0, 7])],
                ports: vec![port("http"), port("")],
            }),
        );
        let endpoints = [("web-0", 3u8), ("web-1", 4)]
            .map(|(n, a)| (n.to_owned(), vec![IpAddr::from([10, 244, 0, a])]))
            .into();
        let ports = [("web-0", port("http")), ("web-1", port("http"))]
            .map(|(n, p)| (n.to_owned(), vec![p]))
            .into();
        zone.set(
            "default",
            "web",
            Some(Records::Headless { endpoints, ports }),
        );
        zone.set(
            "default",
            "out",
            Some(Records::External("example.com".into())),
        );
        zone
    }

    #[test]
    fn every_form_of_name() {
        let zone = zone();
        for (name, expected) in [
            ("api.default.svc", "Addresses([10.96.0.7])"),
            ("web.default.svc", "Addresses([10.244.0.3, 10.244.0.4])"),
            ("web-1.web.default.svc", "Addresses([10.244.0.4])"),
            ("web-2.web.default.svc", "Nothing"),
            (
                "_http._tcp.api.default.svc",
                "Services([Service { port: 80, target: \"api.default.svc.cluster.local.\", addresses: [10.96.0.7] }])",
            ),
            ("_tcp.api.default.svc", "Empty"),
            ("_http._udp.api.default.svc", "Nothing"),
            ("out.default.svc", "Alias(\"example.com\")"),
            ("10-244-0-9.default.pod", "Addresses([10.244.0.9])"),
            ("10-244-0-9.nowhere.pod", "Nothing"),
            ("default.svc", "Empty"),
            ("nowhere.svc", "Nothing"),
            ("nope.default.svc", "Nothing"),
            ("dns-version", "Text(\"1.1.0\")"),
            ("", "Empty"),
        ] {
            assert_eq!(format!("{:?}", zone.find(name)), expected, "{name}");
        }
    }

    #[test]
    fn names_stay_within_their_domain() {
        let zone = zone();
        assert_eq!(zone.relative("a.b.svc.cluster.local"), Some("a.b.svc"));
        assert_eq!(zone.relative("cluster.local"), Some(""));
        assert_eq!(zone.relative("xcluster.local"), None);
        assert_eq!(zone.relative("example.com"), None);
    }

    #[test]
    fn addresses_have_names_until_their_service_goes() {
        let zone = zone();
        let address = reverse_address("4.0.244.10.in-addr.arpa").expect("v4");
        assert_eq!(
            zone.reverse(address),
            ["web-1.web.default.svc.cluster.local."]
        );
        zone.set("default", "web", None);
        assert!(zone.reverse(address).is_empty());
        assert_eq!(reverse_address("999.0.0.1.in-addr.arpa"), None);
        let v6 = "b.a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa";
        assert_eq!(
            reverse_address(v6).map(|a| a.to_string()).as_deref(),
            Some("2001:db8::567:89ab")
        );
    }
}
