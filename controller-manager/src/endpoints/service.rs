//! What a Service makes of a pod: whether it is an endpoint, at which addresses and ports. No I/O.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    Container, Node, ObjectReference, Pod, Service, ServicePort, ServiceSpec,
};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::slice_plan::Group;
use crate::pod;

/// The label of a node's zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";

/// The Service's spec; the API server stores none without.
pub fn spec(service: &Service) -> ServiceSpec {
    service.spec.clone().unwrap_or_default()
}

/// Whether the Service has no address of its own.
pub fn is_headless(service: &Service) -> bool {
    service
        .spec
        .as_ref()
        .and_then(|spec| spec.cluster_ip.as_deref())
        == Some("None")
}

/// The selector of a Service whose endpoints are looked after by a controller.
pub fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector
        .as_ref()
        .filter(|selector| !selector.is_empty())
}

/// Whether pods with these labels belong to the Service.
pub fn selects(service: &Service, labels: &BTreeMap<String, String>) -> bool {
    selector(service).is_some_and(|selector| {
        selector
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
    })
}

/// Whether the pod can be an endpoint at all.
pub fn is_endpoint(pod: &Pod, also_terminating: bool) -> bool {
    !pod::is_terminal(pod)
        && addresses(pod).next().is_some()
        && (also_terminating || !pod::is_deleting(pod))
}

fn addresses(pod: &Pod) -> impl Iterator<Item = &str> {
    let status = pod.status.as_ref();
    let many = status
        .and_then(|status| status.pod_ips.as_deref())
        .unwrap_or_default();
    let one = status
        .and_then(|status| status.pod_ip.as_deref())
        .filter(|_| many.is_empty());
    many.iter()
        .map(|ip| ip.ip.as_str())
        .chain(one)
        .filter(|ip| !ip.is_empty())
}

/// The pod's address of a family.
pub fn address<'a>(pod: &'a Pod, address_type: &str) -> Option<&'a str> {
    addresses(pod).find(|address| match address.parse() {
        Ok(IpAddr::V4(_)) => address_type == "IPv4",
        Ok(IpAddr::V6(_)) => address_type == "IPv6",
        Err(_) => false,
    })
}

/// The families of the Service's slices.
pub fn address_types(service: &Service) -> Vec<String> {
    let spec = spec(service);
    let families = spec.ip_families.unwrap_or_default();
    if !families.is_empty() {
        return families;
    }
    let v6 = spec
        .cluster_ip
        .as_deref()
        .is_some_and(|ip| ip.contains(':'));
    vec![if v6 { "IPv6" } else { "IPv4" }.to_owned()]
}

/// The number that a Service's port means on a pod.
pub fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let name = match &port.target_port {
        None => return Some(port.port),
        Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    let sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    spec.containers
        .iter()
        .chain(spec.init_containers.iter().flatten().filter(sidecar))
        .flat_map(|container| container.ports.iter().flatten())
        .find(|candidate| {
            candidate.name.as_ref() == Some(name)
                && candidate.protocol.as_deref().unwrap_or("TCP")
                    == port.protocol.as_deref().unwrap_or("TCP")
        })
        .map(|candidate| candidate.container_port)
}

/// The ports of the Service that the pod has.
pub fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let mut ports: Vec<_> = service
        .spec
        .iter()
        .flat_map(|spec| spec.ports.iter().flatten())
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(target_port(pod, port)?),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    ports.sort_by(|a, b| (&a.name, &a.protocol, a.port).cmp(&(&b.name, &b.protocol, b.port)));
    ports
}

/// The pod as the target of an endpoint.
pub fn target(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// The host name under which DNS knows the pod, if the Service is its subdomain.
pub fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let own = spec.subdomain.is_some() && spec.subdomain == service.metadata.name;
    spec.hostname.clone().filter(|name| own && !name.is_empty())
}

/// Gathers the Service's endpoints by family and ports, in the order of the pods.
pub fn groups<'a>(
    service: &Service,
    pods: impl IntoIterator<Item = &'a Pod>,
    node: impl Fn(&str) -> Option<std::sync::Arc<Node>>,
) -> Vec<Group> {
    let spec = spec(service);
    let publish = spec.publish_not_ready_addresses == Some(true);
    let distribution = spec.traffic_distribution.as_deref().unwrap_or_default();
    let types = address_types(service);
    let mut groups: Vec<Group> = Vec::new();
    for pod in pods.into_iter().filter(|pod| is_endpoint(pod, true)) {
        let ports = ports(service, pod);
        let zone = node(pod::node(pod)).and_then(|node| node.labels().get(ZONE).cloned());
        for address_type in &types {
            let Some(address) = address(pod, address_type) else {
                continue;
            };
            let serving = pod::is_ready(pod);
            let terminating = pod::is_deleting(pod);
            let ready = publish || (serving && !terminating);
            let node_name = Some(pod::node(pod).to_owned()).filter(|node| !node.is_empty());
            let endpoint = Endpoint {
                addresses: vec![address.to_owned()],
                conditions: Some(EndpointConditions {
                    ready: Some(ready),
                    serving: Some(serving),
                    terminating: Some(terminating),
                }),
                hints: hints(distribution, ready, zone.as_deref(), node_name.as_deref()),
                hostname: hostname(service, pod),
                target_ref: Some(target(pod)),
                node_name,
                zone: zone.clone(),
                ..Endpoint::default()
            };
            match groups
                .iter_mut()
                .find(|group| group.address_type == *address_type && group.ports == ports)
            {
                Some(group) => group.endpoints.push(endpoint),
                None => groups.push(Group {
                    address_type: address_type.clone(),
                    ports: ports.clone(),
                    endpoints: vec![endpoint],
                }),
            }
        }
    }
    groups
}

fn hints(
    distribution: &str,
    ready: bool,
    zone: Option<&str>,
    node: Option<&str>,
) -> Option<EndpointHints> {
    let for_node = distribution == "PreferSameNode";
    if !ready || !(for_node || matches!(distribution, "PreferClose" | "PreferSameZone")) {
        return None;
    }
    let hints = EndpointHints {
        for_zones: zone.map(|zone| {
            vec![ForZone {
                name: zone.to_owned(),
            }]
        }),
        for_nodes: node.filter(|_| for_node).map(|node| {
            vec![ForNode {
                name: node.to_owned(),
            }]
        }),
    };
    (hints != EndpointHints::default()).then_some(hints)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::pod::tests::{merge, pod as make};
    use serde_json::{Value, json};

    pub(in crate::endpoints) fn service(extra: Value) -> Service {
        let mut value = json!({"metadata": {"name": "web", "namespace": "default", "uid": "s"}, "spec": {
            "clusterIP": "10.96.0.5", "ipFamilies": ["IPv4"], "selector": {"app": "web"},
            "ports": [{"port": 80, "targetPort": "http", "protocol": "TCP"}]}});
        merge(&mut value, &extra);
        serde_json::from_value(value).unwrap()
    }

    pub(in crate::endpoints) fn backend(name: &str, ip: &str, ready: bool, extra: Value) -> Pod {
        let mut value = json!({
            "metadata": {"labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]}]},
            "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}});
        merge(&mut value, &extra);
        make(name, value)
    }

    #[test]
    fn conditions_follow_readiness_and_deletion() {
        for (ready, deleting, publish, expected) in [
            (true, false, false, (true, true, false)),
            (false, false, false, (false, false, false)),
            (true, true, false, (false, true, true)),
            (false, true, true, (true, false, true)),
        ] {
            let service = service(json!({"spec": {"publishNotReadyAddresses": publish}}));
            let extra = if deleting {
                json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})
            } else {
                json!({})
            };
            let groups = groups(&service, [&backend("a", "10.0.0.1", ready, extra)], |_| {
                None
            });
            let conditions = groups[0].endpoints[0].conditions.clone().unwrap();
            let told = (
                conditions.ready.unwrap(),
                conditions.serving.unwrap(),
                conditions.terminating.unwrap(),
            );
            assert_eq!(told, expected, "{ready} {deleting} {publish}");
        }
    }

    #[test]
    fn named_ports_may_differ_between_pods() {
        let other = json!({"spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 9090}]}]}});
        let without = json!({"spec": {"containers": [{"name": "c"}]}});
        let pods = [
            backend("a", "10.0.0.1", true, json!({})),
            backend("b", "10.0.0.2", true, other),
            backend("c", "10.0.0.3", true, without),
            backend(
                "d",
                "10.0.0.4",
                true,
                json!({"status": {"phase": "Failed"}}),
            ),
            backend("e", "fd00::1", true, json!({})),
        ];
        let groups = groups(&service(json!({})), &pods, |_| None);
        let told: Vec<_> = groups
            .iter()
            .map(|g| {
                (
                    g.ports.iter().filter_map(|p| p.port).collect::<Vec<_>>(),
                    g.endpoints.len(),
                )
            })
            .collect();
        assert_eq!(told, [(vec![8080], 1), (vec![9090], 1), (vec![], 1)]);
    }

    #[test]
    fn host_names_need_the_service_as_subdomain() {
        let service = service(json!({"spec": {"clusterIP": "None"}}));
        let pod = backend(
            "a",
            "10.0.0.1",
            true,
            json!({"spec": {"hostname": "db-0", "subdomain": "web"}}),
        );
        assert_eq!(hostname(&service, &pod).as_deref(), Some("db-0"));
        let pod = backend(
            "a",
            "10.0.0.1",
            true,
            json!({"spec": {"hostname": "db-0", "subdomain": "x"}}),
        );
        assert_eq!(hostname(&service, &pod), None);
    }
}
