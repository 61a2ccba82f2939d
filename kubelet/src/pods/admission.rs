//! Whether a pod can run on this node at all: resources, node selection, ports, number of pods. Pure.
//!
//! The scheduler has looked at all that already; a pod that names its node itself, or a race, shows up here.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod};

use super::memory::Verdict;
use super::resources;
use crate::quantity;

fn rejected(reason: String, message: &str) -> Verdict {
    Verdict {
        reason,
        message: format!("Pod was rejected: {message}"),
        ..Verdict::default()
    }
}

/// The first reason to refuse `pod` beside the `others`, if there is one.
pub fn refuse(pod: &Pod, node: &Node, others: &[&Pod]) -> Option<Verdict> {
    let spec = pod.spec.as_ref()?;
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        let message = "Failed to admit pod as the `spec.os.name` field doesn't match node's OS";
        return Some(rejected("PodOSNotSupported".into(), message));
    }
    if !selected(pod, node) {
        let message =
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        return Some(rejected("NodeAffinity".into(), message));
    }
    out_of(pod, node, others).or_else(|| port_conflict(pod, others))
}

fn out_of(pod: &Pod, node: &Node, others: &[&Pod]) -> Option<Verdict> {
    let allocatable = node.status.as_ref()?.allocatable.as_ref()?;
    let capacity = |name: &str| {
        if name == "cpu" {
            quantity::milli_value(Some(allocatable), name)
        } else {
            quantity::value(Some(allocatable), name)
        }
    };
    let lacks = |name: &str, requested: i64, used: i64, capacity: i64| {
        let message = format!(
            "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
        );
        Some(rejected(format!("OutOf{name}"), &message))
    };
    if let Some(most) = capacity("pods")
        && others.len() as i64 + 1 > most
    {
        return lacks("pods", 1, others.len() as i64, most);
    }
    for name in requested(pod) {
        let wanted = resources::pod_request(pod, &name);
        let Some(most) = capacity(&name) else {
            // A resource nobody has advertised: only extended ones are somebody's to refuse.
            if name.contains('/') && wanted > 0 {
                return lacks(&name, wanted, 0, 0);
            }
            continue;
        };
        let used: i64 = others
            .iter()
            .map(|p| resources::pod_request(p, &name))
            .sum();
        if wanted > 0 && used + wanted > most {
            return lacks(&name, wanted, used, most);
        }
    }
    None
}

fn requested(pod: &Pod) -> Vec<String> {
    let spec = pod.spec.as_ref();
    let containers = spec.into_iter().flat_map(|s| {
        s.containers
            .iter()
            .chain(s.init_containers.iter().flatten())
    });
    let mut names: Vec<String> = containers
        .filter_map(|c| c.resources.as_ref())
        .flat_map(|r| {
            r.requests
                .iter()
                .flatten()
                .chain(r.limits.iter().flatten())
                .map(|(k, _)| k.clone())
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

fn host_ports(pod: &Pod) -> Vec<(i32, String, String)> {
    let containers = pod.spec.iter().flat_map(|s| s.containers.iter());
    let ports = containers.flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|p| {
            let ip = p
                .host_ip
                .clone()
                .filter(|ip| !ip.is_empty())
                .unwrap_or_else(|| "0.0.0.0".into());
            Some((
                p.host_port.filter(|h| *h > 0)?,
                p.protocol.clone().unwrap_or_else(|| "TCP".into()),
                ip,
            ))
        })
        .collect()
}

fn port_conflict(pod: &Pod, others: &[&Pod]) -> Option<Verdict> {
    let own = host_ports(pod);
    let taken = others.iter().flat_map(|p| host_ports(p));
    let clash = |(port, protocol, ip): &(i32, String, String)| {
        own.iter().any(|(p, proto, i)| {
            p == port && proto == protocol && (i == ip || i == "0.0.0.0" || ip == "0.0.0.0")
        })
    };
    let message =
        "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
    taken
        .into_iter()
        .any(|t| clash(&t))
        .then(|| rejected("NodePorts".into(), message))
}

fn selected(pod: &Pod, node: &Node) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let empty = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    if spec
        .node_selector
        .iter()
        .flatten()
        .any(|(k, v)| labels.get(k) != Some(v))
    {
        return false;
    }
    let affinity = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| {
        a.required_during_scheduling_ignored_during_execution
            .as_ref()
    });
    required.is_none_or(|r| {
        r.node_selector_terms
            .iter()
            .any(|t| term(t, labels, node.metadata.name.as_deref().unwrap_or_default()))
    })
}

fn term(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>, name: &str) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    expressions
        .iter()
        .all(|r| requirement(r, labels.get(&r.key).map(String::as_str)))
        && fields
            .iter()
            .all(|r| r.key == "metadata.name" && requirement(r, Some(name)))
}

fn requirement(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|v| values.iter().any(|w| w == v));
    let compare = |f: fn(&i64, &i64) -> bool| match (
        value.and_then(|v| v.parse().ok()),
        values.first().and_then(|v| v.parse().ok()),
    ) {
        (Some(have), Some(want)) => f(&have, &want),
        _ => false,
    };
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(i64::gt),
        "Lt" => compare(i64::lt),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"spec": spec})).unwrap()
    }

    #[test]
    fn reasons() {
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "n", "labels": {"zone": "a"}},
            "status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "3"}}}))
            .unwrap();
        let cpu = |millis: &str| {
            pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": millis}}}]}))
        };
        let other = cpu("800m");
        let refusal = refuse(&cpu("300m"), &node, &[&other]).unwrap();
        assert_eq!(refusal.reason, "OutOfcpu");
        assert_eq!(
            refusal.message,
            "Pod was rejected: Node didn't have enough resource: cpu, requested: 300, used: 800, capacity: 1000"
        );
        assert_eq!(refuse(&cpu("200m"), &node, &[&other]), None);
        assert_eq!(
            refuse(&cpu("1m"), &node, &[&other, &other, &other])
                .unwrap()
                .reason,
            "OutOfpods"
        );
        let picky = pod(json!({"containers": [], "nodeSelector": {"zone": "b"}}));
        assert_eq!(refuse(&picky, &node, &[]).unwrap().reason, "NodeAffinity");
        let port = pod(
            json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]}),
        );
        assert_eq!(refuse(&port, &node, &[&port]).unwrap().reason, "NodePorts");
    }
}
