//! What each address of a Service means: pure, from the Service and its EndpointSlices to a list of [`Virtual`].
//!
//! Follows the Service API: traffic policies, serving-and-terminating endpoints as a last resort (KEP-1669), session affinity.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

/// Affinity timeout where the Service says none, in seconds.
const AFFINITY_SECONDS: u32 = 10_800;

/// Transport protocol, ordered and printed as nft does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    fn parse(text: Option<&str>) -> Option<Self> {
        match text {
            None | Some("" | "TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// Where clients send to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Front {
    /// An address of the Service: cluster IP, external IP or load balancer.
    Address(Ipv4Addr, Protocol, u16),
    /// A port on every address of the node.
    Node(Protocol, u16),
}

/// What happens when there is nobody to send to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Otherwise {
    /// Refuse, so that clients know at once.
    Reject,
    /// Say nothing: other nodes have endpoints, a load balancer will find them.
    Drop,
}

/// Whose address is hidden behind the node's, so that answers come back through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Masquerade {
    /// Nobody's: the client's address is kept (external traffic policy Local).
    Never,
    /// Of clients that are no pods.
    OffCluster,
    /// Everybody's.
    Always,
}

/// One address and port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Virtual {
    /// Where clients send to.
    pub front: Front,
    /// To whom it goes.
    pub endpoints: BTreeSet<SocketAddrV4>,
    /// `ClientIP` affinity, in seconds.
    pub affinity: Option<u32>,
    /// Without endpoints.
    pub otherwise: Otherwise,
    /// Whose address is hidden.
    pub masquerade: Masquerade,
}

/// Everything a Service means on this node.
pub fn virtuals(service: &Service, slices: &[&EndpointSlice], node: &str) -> Vec<Virtual> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let type_ = spec.type_.as_deref().unwrap_or("ClusterIP");
    let cluster_ips: Vec<Ipv4Addr> = addresses(
        spec.cluster_ips
            .iter()
            .flatten()
            .chain(spec.cluster_ip.iter()),
    );
    if type_ == "ExternalName" || cluster_ips.is_empty() {
        return Vec::new();
    }
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let configured = spec
            .session_affinity_config
            .as_ref()
            .and_then(|c| c.client_ip.as_ref())
            .and_then(|c| c.timeout_seconds);
        configured
            .and_then(|s| u32::try_from(s).ok())
            .unwrap_or(AFFINITY_SECONDS)
    });
    let internal_local = spec.internal_traffic_policy.as_deref() == Some("Local");
    let external_local = spec.external_traffic_policy.as_deref() == Some("Local");
    let external = external_addresses(service);
    let mut list = Vec::new();
    for port in spec.ports.iter().flatten() {
        let (Some(protocol), Ok(number)) = (
            Protocol::parse(port.protocol.as_deref()),
            u16::try_from(port.port),
        ) else {
            continue;
        };
        let all = endpoints(port, slices, None);
        let local = if internal_local || external_local {
            endpoints(port, slices, Some(node))
        } else {
            BTreeSet::new()
        };
        for ip in &cluster_ips {
            let endpoints = if internal_local { &local } else { &all };
            let otherwise = if internal_local && !all.is_empty() {
                Otherwise::Drop
            } else {
                Otherwise::Reject
            };
            list.push(Virtual {
                front: Front::Address(*ip, protocol, number),
                endpoints: endpoints.clone(),
                affinity,
                otherwise,
                masquerade: Masquerade::OffCluster,
            });
        }
        let outside = |front| Virtual {
            front,
            endpoints: if external_local {
                local.clone()
            } else {
                all.clone()
            },
            affinity,
            otherwise: if external_local && !all.is_empty() {
                Otherwise::Drop
            } else {
                Otherwise::Reject
            },
            masquerade: if external_local {
                Masquerade::Never
            } else {
                Masquerade::Always
            },
        };
        list.extend(
            external
                .iter()
                .map(|ip| outside(Front::Address(*ip, protocol, number))),
        );
        if matches!(type_, "NodePort" | "LoadBalancer")
            && let Some(node_port) = port
                .node_port
                .and_then(|p| u16::try_from(p).ok())
                .filter(|p| *p > 0)
        {
            list.push(outside(Front::Node(protocol, node_port)));
        }
    }
    list
}

/// IPv4 addresses of a list, each once; `None` (headless) and IPv6 are left out.
fn addresses<'a>(list: impl Iterator<Item = &'a String>) -> Vec<Ipv4Addr> {
    list.filter_map(|text| text.parse().ok())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}

fn external_addresses(service: &Service) -> Vec<Ipv4Addr> {
    let from_spec = service
        .spec
        .iter()
        .flat_map(|s| s.external_ips.iter().flatten());
    let status = service
        .status
        .as_ref()
        .and_then(|s| s.load_balancer.as_ref())
        .and_then(|l| l.ingress.as_ref());
    // `ipMode: Proxy` means that the balancer's own address must be reached through the balancer.
    let from_status = status
        .into_iter()
        .flatten()
        .filter(|i| i.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|i| i.ip.as_ref());
    addresses(from_spec.chain(from_status))
}

/// The endpoints of one port: the ready ones, or, if there is none, those that still serve while they terminate.
fn endpoints(
    port: &ServicePort,
    slices: &[&EndpointSlice],
    node: Option<&str>,
) -> BTreeSet<SocketAddrV4> {
    let ready = collect(port, slices, node, |endpoint| {
        condition(endpoint, |c| c.ready, true)
    });
    if !ready.is_empty() {
        return ready;
    }
    collect(port, slices, node, |endpoint| {
        condition(endpoint, |c| c.serving, false) && condition(endpoint, |c| c.terminating, false)
    })
}

fn condition(
    endpoint: &Endpoint,
    field: impl Fn(&k8s_openapi::api::discovery::v1::EndpointConditions) -> Option<bool>,
    unknown: bool,
) -> bool {
    endpoint
        .conditions
        .as_ref()
        .and_then(field)
        .unwrap_or(unknown)
}

fn collect(
    port: &ServicePort,
    slices: &[&EndpointSlice],
    node: Option<&str>,
    usable: impl Fn(&Endpoint) -> bool,
) -> BTreeSet<SocketAddrV4> {
    let protocol = Protocol::parse(port.protocol.as_deref());
    let name = port.name.as_deref().unwrap_or_default();
    let mut found = BTreeSet::new();
    for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
        let numbers = slice.ports.iter().flatten().filter(|p| {
            p.name.as_deref().unwrap_or_default() == name
                && Protocol::parse(p.protocol.as_deref()) == protocol
        });
        for number in numbers.filter_map(|p| p.port.and_then(|n| u16::try_from(n).ok())) {
            for endpoint in slice
                .endpoints
                .iter()
                .flatten()
                .filter(|e| usable(e) && (node.is_none() || e.node_name.as_deref() == node))
            {
                // Only the first address counts: the others are the same backend (EndpointSlice API).
                if let Some(ip) = endpoint.addresses.first().and_then(|a| a.parse().ok()) {
                    found.insert(SocketAddrV4::new(ip, number));
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(spec: Value) -> Service {
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "n"}, "spec": spec})).expect("service")
    }

    fn slice(endpoints: Value) -> EndpointSlice {
        serde_json::from_value(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "s-1"}, "addressType": "IPv4",
            "ports": [{"name": "http", "port": 3000, "protocol": "TCP"}], "endpoints": endpoints}))
        .expect("slice")
    }

    fn endpoint(ip: &str, node: &str, ready: bool, serving: bool, terminating: bool) -> Value {
        json!({"addresses": [ip], "nodeName": node, "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
    }

    fn show(list: &[Virtual]) -> Vec<String> {
        let ips = |v: &Virtual| {
            v.endpoints
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(",")
        };
        list.iter()
            .map(|v| {
                format!(
                    "{:?} -> [{}] {:?} {:?}",
                    v.front,
                    ips(v),
                    v.otherwise,
                    v.masquerade
                )
            })
            .collect()
    }

    #[test]
    fn a_node_port_service_answers_at_both() {
        let service = service(
            json!({"type": "NodePort", "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"],
            "ports": [{"name": "http", "port": 80, "nodePort": 30080, "protocol": "TCP"}]}),
        );
        let slice = slice(json!([
            endpoint("10.244.0.2", "a", true, true, false),
            endpoint("10.244.1.2", "b", true, true, false),
            endpoint("10.244.1.3", "b", false, false, false)
        ]));
        assert_eq!(
            show(&virtuals(&service, &[&slice], "a")),
            [
                "Address(10.96.0.5, Tcp, 80) -> [10.244.0.2:3000,10.244.1.2:3000] Reject OffCluster",
                "Node(Tcp, 30080) -> [10.244.0.2:3000,10.244.1.2:3000] Reject Always"
            ]
        );
    }

    #[test]
    fn local_policies_keep_to_the_node_and_drop_without_endpoints() {
        let spec = json!({"type": "LoadBalancer", "clusterIPs": ["10.96.0.5"], "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local",
            "ports": [{"name": "http", "port": 80, "nodePort": 30080}]});
        let slice = slice(json!([endpoint("10.244.1.2", "b", true, true, false)]));
        assert_eq!(
            show(&virtuals(&service(spec.clone()), &[&slice], "a")),
            [
                "Address(10.96.0.5, Tcp, 80) -> [] Drop OffCluster",
                "Node(Tcp, 30080) -> [] Drop Never"
            ]
        );
        assert_eq!(
            show(&virtuals(&service(spec), &[&slice], "b")),
            [
                "Address(10.96.0.5, Tcp, 80) -> [10.244.1.2:3000] Drop OffCluster",
                "Node(Tcp, 30080) -> [10.244.1.2:3000] Drop Never"
            ]
        );
    }

    #[test]
    fn terminating_endpoints_are_a_last_resort() {
        let service =
            service(json!({"clusterIPs": ["10.96.0.5"], "ports": [{"name": "http", "port": 80}]}));
        let going = endpoint("10.244.0.2", "a", false, true, true);
        let only = slice(json!([going]));
        assert_eq!(virtuals(&service, &[&only], "a")[0].endpoints.len(), 1);
        let both = slice(json!([
            going,
            endpoint("10.244.0.3", "a", true, true, false)
        ]));
        assert_eq!(
            virtuals(&service, &[&both], "a")[0]
                .endpoints
                .iter()
                .map(|e| e.ip().to_string())
                .collect::<Vec<_>>(),
            ["10.244.0.3"]
        );
    }

    #[test]
    fn headless_and_external_names_have_no_rules() {
        let slice = slice(json!([endpoint("10.244.0.2", "a", true, true, false)]));
        let ports = json!([{"name": "http", "port": 80}]);
        assert!(
            virtuals(
                &service(json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": ports})),
                &[&slice],
                "a"
            )
            .is_empty()
        );
        assert!(
            virtuals(
                &service(json!({"type": "ExternalName", "externalName": "x", "ports": ports})),
                &[&slice],
                "a"
            )
            .is_empty()
        );
    }
}
