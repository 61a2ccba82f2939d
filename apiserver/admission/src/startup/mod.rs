//! The objects that must exist from the first start, as data. Creating and keeping them is the API server's business; the RBAC
//! policy is in `keelson_auth::rbac::bootstrap`.

use std::net::IpAddr;

use serde_json::{Value, json};

pub mod authentication;
pub mod flow_control;

/// An object, and the resource it belongs to, written as for `Lookup`.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// The resource.
    pub resource: &'static str,
    /// The object.
    pub value: Value,
}

/// The namespaces, in the order in which others need them.
pub fn namespaces() -> Vec<Object> {
    ["kube-system", "default", "kube-public", "kube-node-lease"]
        .into_iter()
        .map(|name| Object {
            resource: "namespaces",
            value: json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
        })
        .collect()
}

/// The priority classes of what a node and a cluster cannot do without.
pub fn priority_classes() -> Vec<Object> {
    [
        (
            "system-node-critical",
            2_000_001_000_i64,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
    ]
    .into_iter()
    .map(|(name, value, description)| Object {
        resource: "priorityclasses.scheduling.k8s.io",
        value: json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": description, "preemptionPolicy": "PreemptLowerPriority"}),
    })
    .collect()
}

/// The ServiceCIDR of `--service-cluster-ip-range`. Its `status` says that it is ready: nothing else will.
pub fn service_cidr(cidrs: &[String], now: &str) -> Object {
    Object {
        resource: "servicecidrs.networking.k8s.io",
        value: json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
            "spec": {"cidrs": cidrs},
            "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "", "lastTransitionTime": now,
                "message": "Kubernetes default Service CIDR is ready"}]}}),
    }
}

/// The Service `default/kubernetes`, by which pods find the API server.
pub fn kubernetes_service(cluster_ip: IpAddr, target_port: u16) -> Object {
    Object {
        resource: "services",
        value: json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kubernetes", "namespace": "default",
                "labels": {"component": "apiserver", "provider": "kubernetes"}},
            "spec": {"type": "ClusterIP", "sessionAffinity": "None",
                "clusterIP": cluster_ip.to_string(),
                "ipFamilies": [if cluster_ip.is_ipv4() { "IPv4" } else { "IPv6" }], "ipFamilyPolicy": "SingleStack",
                "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": target_port}]}}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service_addresses::Range;

    #[test]
    fn the_first_service_has_the_first_address() {
        let range = Range::new("10.96.0.0/12".parse().unwrap()).unwrap();
        let service = kubernetes_service(range.first_address(), 6443).value;
        assert_eq!(service["spec"]["clusterIP"], "10.96.0.1");
        assert_eq!(service["spec"]["ipFamilies"], json!(["IPv4"]));
    }
}
