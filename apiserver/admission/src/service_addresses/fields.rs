//! The interlinked address fields of a Service: which a type needs, and how a client that left some out meant them.

use keelson_registry::access::{Access, items_mut, remove, same, set};
use serde_json::Value;

pub(super) const NONE: &str = "None";

pub(super) fn needs_cluster_ip(service: &Value) -> bool {
    service.text("spec.type") != "ExternalName"
}

/// Whether a Service of this type may have node ports.
pub(super) fn has_ports(service: &Value) -> bool {
    matches!(service.text("spec.type"), "NodePort" | "LoadBalancer")
}

/// Whether ports without a node port get one.
pub(super) fn wants_ports(service: &Value) -> bool {
    match service.text("spec.type") {
        "NodePort" => true,
        "LoadBalancer" => service
            .part("spec.allocateLoadBalancerNodePorts")
            .as_bool()
            .unwrap_or(true),
        _ => false,
    }
}

pub(super) fn needs_health_check(service: &Value) -> bool {
    service.text("spec.type") == "LoadBalancer"
        && service.text("spec.externalTrafficPolicy") == "Local"
}

pub(super) fn is_headless(service: &Value) -> bool {
    service.text("spec.clusterIP") == NONE
        || service
            .part("spec.clusterIPs")
            .get(0)
            .is_some_and(|ip| ip == NONE)
}

/// The addresses that a Service holds.
pub(super) fn cluster_ips(service: &Value) -> Vec<String> {
    let listed = service.items("spec.clusterIPs");
    let single = [service.part("spec.clusterIP").clone()];
    let ips = if listed.is_empty() { &single } else { listed };
    ips.iter()
        .filter_map(Value::as_str)
        .filter(|ip| !ip.is_empty() && *ip != NONE)
        .map(str::to_owned)
        .collect()
}

/// The node ports that a Service holds, its health check's included, each once.
pub(super) fn ports(service: &Value) -> Vec<u16> {
    let mut ports: Vec<u16> = service
        .items("spec.ports")
        .iter()
        .filter_map(|p| node_port(p.part("nodePort")))
        .collect();
    if needs_health_check(service) {
        ports.extend(health_check_port(service));
    }
    ports.sort_unstable();
    ports.dedup();
    ports
}

pub(super) fn health_check_port(service: &Value) -> Option<u16> {
    node_port(service.part("spec.healthCheckNodePort"))
}

pub(super) fn node_port(value: &Value) -> Option<u16> {
    value
        .as_u64()
        .and_then(|p| u16::try_from(p).ok())
        .filter(|p| *p != 0)
}

/// Puts back what a client left out of an update: it was allocated, and the client need not know it.
pub(super) fn carry_over(service: &mut Value, old: &Value) {
    if needs_cluster_ip(old) && needs_cluster_ip(service) {
        for path in ["spec.clusterIP", "spec.clusterIPs"] {
            if service.is_blank(path) && !old.is_blank(path) {
                set(service, path, old.part(path).clone());
            }
        }
    }
    if wants_ports(old) && wants_ports(service) {
        let before = ports(old);
        let kept: Vec<u16> = ports(service)
            .into_iter()
            .filter(|p| before.contains(p))
            .collect();
        let find = |name: &str| {
            old.items("spec.ports")
                .iter()
                .rev()
                .find(|p| p.text("name") == name)
                .and_then(|p| node_port(p.part("nodePort")))
        };
        for port in items_mut(service, "spec.ports") {
            if node_port(port.part("nodePort")).is_none()
                && let Some(known) = find(port.text("name")).filter(|known| !kept.contains(known))
            {
                set(port, "nodePort", known);
            }
        }
    }
    if needs_health_check(old)
        && needs_health_check(service)
        && health_check_port(service).is_none()
        && let Some(port) = health_check_port(old)
    {
        set(service, "spec.healthCheckNodePort", port);
    }
}

/// Keeps `clusterIP` and `clusterIPs` in step where a client wrote one of the two. What contradicts itself is left for validation.
pub(super) fn normalize(service: &mut Value, old: Option<&Value>) {
    let single = service.text("spec.clusterIP").to_owned();
    let Some(old) = old else {
        if !single.is_empty() && service.is_blank("spec.clusterIPs") {
            set(service, "spec.clusterIPs", vec![single]);
        }
        return;
    };
    let before = old.text("spec.clusterIP");
    if !old.is_blank("spec.clusterIPs") && service.is_blank("spec.clusterIPs") && before == single {
        set(
            service,
            "spec.clusterIPs",
            old.part("spec.clusterIPs").clone(),
        );
    }
    if before != single && same(old.part("spec.clusterIPs"), service.part("spec.clusterIPs")) {
        if single.is_empty() {
            remove(service, "spec.clusterIPs");
        } else {
            set(service, "spec.clusterIPs", vec![single]);
        }
    }
}
