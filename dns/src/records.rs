//! What one Service means to DNS: pure, from the Service and its EndpointSlices.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

/// A named port: `_http._tcp`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Its name; an unnamed port has no SRV record.
    pub name: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Its number.
    pub number: u16,
}

/// The records of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Records {
    /// A cluster address: the Service's own name answers with it.
    Cluster {
        /// Addresses of both families.
        addresses: Vec<IpAddr>,
        /// Ports.
        ports: Vec<Port>,
    },
    /// Headless: the Service's name answers with all endpoints, and each endpoint has a name below it.
    Headless {
        /// Name below the Service → addresses.
        endpoints: BTreeMap<String, Vec<IpAddr>>,
        /// Name below the Service → ports, for SRV.
        ports: BTreeMap<String, Vec<Port>>,
    },
    /// An alias of a name elsewhere.
    External(String),
}

/// The records, or nothing for a Service that has no name in DNS (yet).
pub fn of(service: &Service, slices: &[&EndpointSlice]) -> Option<Records> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return spec
            .external_name
            .clone()
            .filter(|name| !name.is_empty())
            .map(Records::External);
    }
    if spec.cluster_ip.as_deref() == Some("None") {
        return Some(headless(
            slices,
            spec.publish_not_ready_addresses.unwrap_or(false),
        ));
    }
    let addresses: Vec<IpAddr> = match &spec.cluster_ips {
        Some(ips) if !ips.is_empty() => ips.iter().filter_map(|ip| ip.parse().ok()).collect(),
        _ => spec
            .cluster_ip
            .iter()
            .filter_map(|ip| ip.parse().ok())
            .collect(),
    };
    if addresses.is_empty() {
        return None;
    }
    let ports = spec
        .ports
        .iter()
        .flatten()
        .filter_map(|p| port(p.name.as_deref(), p.protocol.as_deref(), Some(p.port)))
        .collect();
    Some(Records::Cluster { addresses, ports })
}

fn port(name: Option<&str>, protocol: Option<&str>, number: Option<i32>) -> Option<Port> {
    Some(Port {
        name: name.unwrap_or_default().to_lowercase(),
        protocol: protocol.unwrap_or("TCP").to_lowercase(),
        number: u16::try_from(number?).ok()?,
    })
}

fn headless(slices: &[&EndpointSlice], publish_not_ready: bool) -> Records {
    let mut endpoints: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    let mut ports: BTreeMap<String, Vec<Port>> = BTreeMap::new();
    for slice in slices {
        let slice_ports: Vec<Port> = slice
            .ports
            .iter()
            .flatten()
            .filter_map(|p| port(p.name.as_deref(), p.protocol.as_deref(), p.port))
            .collect();
        for endpoint in slice
            .endpoints
            .iter()
            .flatten()
            .filter(|e| publish_not_ready || ready(e))
        {
            for address in endpoint
                .addresses
                .iter()
                .filter_map(|a| a.parse::<IpAddr>().ok())
            {
                let name = endpoint
                    .hostname
                    .clone()
                    .filter(|h| !h.is_empty())
                    .unwrap_or_else(|| dashed(address));
                let list = endpoints.entry(name.clone()).or_default();
                if !list.contains(&address) {
                    list.push(address);
                }
                let known = ports.entry(name).or_default();
                for port in &slice_ports {
                    if !known.contains(port) {
                        known.push(port.clone());
                    }
                }
            }
        }
    }
    Records::Headless { endpoints, ports }
}

fn ready(endpoint: &Endpoint) -> bool {
    endpoint
        .conditions
        .as_ref()
        .and_then(|c| c.ready)
        .unwrap_or(true)
}

/// The label of an address: `10-244-0-3`.
pub fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(spec: Value) -> Service {
        serde_json::from_value(
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": spec}),
        )
        .expect("service")
    }

    #[test]
    fn headless_services_name_their_endpoints() {
        let slice: EndpointSlice = serde_json::from_value(
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {},
            "addressType": "IPv4", "ports": [{"name": "HTTP", "port": 80}], "endpoints": [
                {"addresses": ["10.244.0.3"], "hostname": "web-0"},
                {"addresses": ["10.244.0.4"], "conditions": {"ready": false}},
                {"addresses": ["10.244.0.5"]}]}),
        )
        .expect("slice");
        let names = |spec: Value| match of(&service(spec), &[&slice]) {
            Some(Records::Headless { endpoints, .. }) => endpoints.into_keys().collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        assert_eq!(names(json!({"clusterIP": "None"})), ["10-244-0-5", "web-0"]);
        assert_eq!(
            names(json!({"clusterIP": "None", "publishNotReadyAddresses": true})),
            ["10-244-0-4", "10-244-0-5", "web-0"]
        );
    }

    #[test]
    fn a_service_without_an_address_has_no_name_yet() {
        assert_eq!(of(&service(json!({"ports": [{"port": 80}]})), &[]), None);
        assert_eq!(
            of(
                &service(json!({"type": "ExternalName", "externalName": "example.com"})),
                &[]
            ),
            Some(Records::External("example.com".into()))
        );
    }
}
