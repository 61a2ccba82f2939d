//! What an object counts for in a namespace's quotas: which of a quota's resources it uses, how much, and in which scopes.
//!
//! Admission charges by this and the resource quota controller recounts by it, so that both always agree. Objects are JSON.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::PodSpec;
use serde_json::Value;

use crate::pod::{self, QosClass, ResourceList};
use crate::quantity::Quantity;

const POD_RESOURCES: [&str; 12] = [
    "pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "count/pods",
    "requests.storage",
];
/// What every container must give where a quota limits it.
const MUST_GIVE: [&str; 6] = [
    "cpu",
    "memory",
    "requests.cpu",
    "requests.memory",
    "limits.cpu",
    "limits.memory",
];
const SERVICE_RESOURCES: [&str; 4] = [
    "services",
    "services.nodeports",
    "services.loadbalancers",
    "count/services",
];
/// Core resources that are counted by their bare name too.
const COUNTED: [&str; 4] = [
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "resourcequotas",
];
const CLASS_SUFFIX: &str = ".storageclass.storage.k8s.io/";
const DEVICES_SUFFIX: &str = ".deviceclass.resource.k8s.io/devices";
/// The devices that one request can be given at most: what "all" counts as.
const ALL_DEVICES: i64 = 32;

/// A resource whose objects are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted<'a> {
    /// The API group; empty for the core group.
    pub group: &'a str,
    /// The plural.
    pub resource: &'a str,
}

impl Counted<'_> {
    fn core(&self, resource: &str) -> bool {
        self.group.is_empty() && self.resource == resource
    }

    /// The name of the plain count of objects: `count/deployments.apps`.
    #[must_use]
    pub fn count_name(&self) -> String {
        if self.group.is_empty() {
            format!("count/{}", self.resource)
        } else {
            format!("count/{}.{}", self.resource, self.group)
        }
    }

    /// Whether objects of this resource use what a quota calls `name`.
    #[must_use]
    pub fn uses(&self, name: &str) -> bool {
        if name == self.count_name() {
            return true;
        }
        if self.core("pods") {
            return (POD_RESOURCES.contains(&name) && name != "requests.storage")
                || name.starts_with("hugepages-")
                || name
                    .strip_prefix("requests.")
                    .is_some_and(|r| r.starts_with("hugepages-") || is_extended(r));
        }
        if self.core("services") {
            return SERVICE_RESOURCES.contains(&name);
        }
        if self.core("persistentvolumeclaims") {
            return matches!(name, "persistentvolumeclaims" | "requests.storage")
                || name.split_once(CLASS_SUFFIX).is_some_and(|(_, what)| {
                    matches!(what, "persistentvolumeclaims" | "requests.storage")
                });
        }
        if self.is_resource_claims() {
            return name.ends_with(DEVICES_SUFFIX);
        }
        self.group.is_empty() && COUNTED.contains(&self.resource) && name == self.resource
    }

    fn is_resource_claims(&self) -> bool {
        self.group == "resource.k8s.io" && self.resource == "resourceclaims"
    }

    /// Whether an object's content decides what it uses; of all others each counts one.
    #[must_use]
    pub fn looks_inside(&self) -> bool {
        self.is_resource_claims()
            || ["pods", "services", "persistentvolumeclaims"]
                .iter()
                .any(|resource| self.core(resource))
    }

    /// What each object uses whatever it holds.
    #[must_use]
    pub fn plain_usage(&self) -> ResourceList {
        let mut used = ResourceList::new();
        used.insert(self.count_name(), Quantity::from_value(1));
        if self.group.is_empty() && COUNTED.contains(&self.resource) {
            used.insert(self.resource.to_owned(), Quantity::from_value(1));
        }
        used
    }

    /// What an object uses.
    #[must_use]
    pub fn usage(&self, object: &Value) -> ResourceList {
        let mut used = self.plain_usage();
        if self.core("pods") {
            pod_usage(object, &mut used);
        } else if self.core("services") {
            service_usage(object, &mut used);
        } else if self.core("persistentvolumeclaims") {
            claim_usage(object, &mut used);
        } else if self.is_resource_claims() {
            device_usage(object, &mut used);
        }
        used
    }

    /// What a quota on `hard` requires an object to give, in upstream's sentence; `None` if it gives all.
    #[must_use]
    pub fn missing<'h>(
        &self,
        hard: impl Iterator<Item = &'h str>,
        object: &Value,
    ) -> Option<String> {
        if !self.core("pods") || has_pod_level(object) {
            return None;
        }
        let required: BTreeSet<&str> = hard.filter(|name| MUST_GIVE.contains(name)).collect();
        let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for container in ["/spec/containers", "/spec/initContainers"]
            .into_iter()
            .flat_map(|l| items(object, l))
        {
            let given = |name: &str| {
                let (side, resource) = name.split_once('.').unwrap_or(("requests", name));
                container
                    .pointer(&format!("/resources/{side}/{resource}"))
                    .is_some()
            };
            for name in required.iter().filter(|name| !given(name)) {
                missing
                    .entry(name)
                    .or_default()
                    .insert(text(container, "/name"));
            }
        }
        let parts: Vec<String> = missing
            .into_iter()
            .map(|(name, containers)| {
                format!(
                    "{name} for: {}",
                    containers.into_iter().collect::<Vec<_>>().join(",")
                )
            })
            .collect();
        (!parts.is_empty()).then(|| format!("must specify {}", parts.join("; ")))
    }

    /// What of an object the scopes of quotas look at.
    #[must_use]
    pub fn traits(&self, object: &Value) -> Traits {
        if self.core("pods") {
            Traits {
                bounded: is_bounded(object),
                best_effort: spec_of(object)
                    .is_some_and(|spec| pod::qos_class(&spec) == QosClass::BestEffort),
                crosses_namespaces: crosses_namespaces(object),
                classes: named([text(object, "/spec/priorityClassName")]),
            }
        } else if self.core("persistentvolumeclaims") {
            Traits {
                classes: named([
                    text(object, "/spec/volumeAttributesClassName"),
                    text(object, "/status/currentVolumeAttributesClassName"),
                    text(
                        object,
                        "/status/modifyVolumeStatus/targetVolumeAttributesClassName",
                    ),
                ]),
                ..Traits::default()
            }
        } else {
            Traits::default()
        }
    }

    /// Whether a quota's scopes take in an object.
    #[must_use]
    pub fn in_scope(&self, quota: &Value, object: &Value) -> bool {
        self.in_scope_with(quota, &self.traits(object))
    }

    /// Whether a quota's scopes take in an object of these traits.
    #[must_use]
    pub fn in_scope_with(&self, quota: &Value, traits: &Traits) -> bool {
        let plain = items(quota, "/spec/scopes")
            .iter()
            .filter_map(Value::as_str)
            .map(|scope| (scope, "Exists", vec![]));
        let selected = items(quota, "/spec/scopeSelector/matchExpressions")
            .iter()
            .map(|e| {
                let values = items(e, "/values")
                    .iter()
                    .filter_map(Value::as_str)
                    .collect();
                (text(e, "/scopeName"), text(e, "/operator"), values)
            });
        plain.chain(selected).all(|(scope, operator, values)| {
            if self.core("pods") {
                pod_in_scope(traits, scope, operator, &values)
            } else {
                self.core("persistentvolumeclaims")
                    && scope == "VolumeAttributesClass"
                    && selects(operator, &values, &traits.classes)
            }
        })
    }
}

/// What of an object the scopes of quotas look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traits {
    /// A pod that ends by itself.
    pub bounded: bool,
    /// A pod that asks for nothing.
    pub best_effort: bool,
    /// A pod with affinities across namespaces.
    pub crosses_namespaces: bool,
    /// The pod's priority class, or the claim's classes of volume attributes.
    pub classes: Vec<String>,
}

fn named<const N: usize>(names: [&str; N]) -> Vec<String> {
    let mut names: Vec<String> = names
        .into_iter()
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Whether a pod ends by itself, which is one of the scopes.
#[must_use]
pub fn is_bounded(pod: &Value) -> bool {
    pod.pointer("/spec/activeDeadlineSeconds")
        .and_then(Value::as_i64)
        .is_some_and(|s| s >= 0)
}

fn is_extended(resource: &str) -> bool {
    resource.contains('/') && !resource.contains("kubernetes.io/")
}

fn has_pod_level(pod: &Value) -> bool {
    let entries = |side: &str| {
        pod.pointer(&format!("/spec/resources/{side}"))
            .and_then(Value::as_object)
            .is_some_and(|o| !o.is_empty())
    };
    entries("requests") || entries("limits")
}

fn pod_usage(object: &Value, used: &mut ResourceList) {
    if matches!(text(object, "/status/phase"), "Failed" | "Succeeded") {
        return;
    }
    let Some(spec) = spec_of(object) else { return };
    used.insert("pods".into(), Quantity::from_value(1));
    for (name, amount) in pod::requests(&spec) {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage")
            || name.starts_with("hugepages-")
        {
            used.insert(name.clone(), amount);
            used.insert(format!("requests.{name}"), amount);
        } else if is_extended(&name) {
            used.insert(format!("requests.{name}"), amount);
        }
    }
    for (name, amount) in pod::limits(&spec) {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            used.insert(format!("limits.{name}"), amount);
        }
    }
}

fn service_usage(object: &Value, used: &mut ResourceList) {
    let ports = items(object, "/spec/ports");
    let count = |n: usize| Quantity::from_value(i64::try_from(n).unwrap_or(i64::MAX));
    let (node_ports, balancers) = match text(object, "/spec/type") {
        "NodePort" => (ports.len(), 0),
        "LoadBalancer"
            if object.pointer("/spec/allocateLoadBalancerNodePorts")
                == Some(&Value::Bool(false)) =>
        {
            (
                ports
                    .iter()
                    .filter(|p| {
                        p.get("nodePort")
                            .and_then(Value::as_i64)
                            .is_some_and(|n| n != 0)
                    })
                    .count(),
                1,
            )
        }
        "LoadBalancer" => (ports.len(), 1),
        _ => (0, 0),
    };
    used.insert("services".into(), count(1));
    used.insert("services.nodeports".into(), count(node_ports));
    used.insert("services.loadbalancers".into(), count(balancers));
}

/// The devices that a claim may get of each class at most.
fn device_usage(claim: &Value, used: &mut ResourceList) {
    let count = |request: &Value| match text(request, "/allocationMode") {
        "" | "ExactCount" => request.get("count").and_then(Value::as_i64).unwrap_or(1),
        "All" => ALL_DEVICES,
        _ => 0,
    };
    for request in items(claim, "/spec/devices/requests") {
        let mut worst: BTreeMap<&str, i64> = BTreeMap::new();
        for choice in items(request, "/firstAvailable")
            .iter()
            .chain(request.get("exactly"))
        {
            let most = worst.entry(text(choice, "/deviceClassName")).or_default();
            *most = (*most).max(count(choice));
        }
        for (class, devices) in worst {
            *used
                .entry(format!("{class}{DEVICES_SUFFIX}"))
                .or_insert(Quantity::ZERO) += Quantity::from_value(devices);
        }
    }
}

fn claim_usage(object: &Value, used: &mut ResourceList) {
    let old_class = object
        .pointer("/metadata/annotations/volume.beta.kubernetes.io~1storage-class")
        .and_then(Value::as_str);
    let class = old_class.unwrap_or_else(|| text(object, "/spec/storageClassName"));
    let asked = Quantity::parse(text(object, "/spec/resources/requests/storage")).ok();
    let granted = Quantity::parse(text(object, "/status/allocatedResources/storage")).ok();
    let mut add = |name: &str, amount: Quantity| {
        used.insert(name.to_owned(), amount);
        if !class.is_empty() {
            used.insert(format!("{class}{CLASS_SUFFIX}{name}"), amount);
        }
    };
    add("persistentvolumeclaims", Quantity::from_value(1));
    if let Some(size) = asked.max(granted) {
        add("requests.storage", size);
    }
}

fn pod_in_scope(traits: &Traits, scope: &str, operator: &str, values: &[&str]) -> bool {
    match scope {
        "Terminating" => traits.bounded,
        "NotTerminating" => !traits.bounded,
        "BestEffort" => traits.best_effort,
        "NotBestEffort" => !traits.best_effort,
        "PriorityClass" => selects(operator, values, &traits.classes),
        "CrossNamespacePodAffinity" => traits.crosses_namespaces,
        _ => false,
    }
}

fn selects(operator: &str, values: &[&str], names: &[String]) -> bool {
    let among = |name: &String| values.contains(&name.as_str());
    match operator {
        "Exists" => !names.is_empty(),
        "DoesNotExist" => names.is_empty(),
        "In" => names.iter().any(among),
        "NotIn" => names.is_empty() || names.iter().any(|name| !among(name)),
        _ => false,
    }
}

fn crosses_namespaces(pod: &Value) -> bool {
    let crosses = |term: &Value| {
        !items(term, "/namespaces").is_empty()
            || term.get("namespaceSelector").is_some_and(|s| !s.is_null())
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let list = |name: &str| items(pod, &format!("/spec/affinity/{kind}/{name}"));
        list("requiredDuringSchedulingIgnoredDuringExecution")
            .iter()
            .any(crosses)
            || list("preferredDuringSchedulingIgnoredDuringExecution")
                .iter()
                .any(|t| t.get("podAffinityTerm").is_some_and(crosses))
    })
}

fn spec_of(pod: &Value) -> Option<PodSpec> {
    serde_json::from_value(pod.get("spec")?.clone()).ok()
}

fn items<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PODS: Counted<'static> = Counted {
        group: "",
        resource: "pods",
    };

    fn show(list: &ResourceList) -> Vec<String> {
        list.iter().map(|(k, v)| format!("{k}={v}")).collect()
    }

    #[test]
    fn pods_use_what_their_containers_ask() {
        let pod = json!({"spec": {"containers": [{"name": "c", "resources": {
            "requests": {"cpu": "100m", "example.com/gpu": "1"}, "limits": {"memory": "1Gi"}}}]}});
        assert_eq!(
            show(&PODS.usage(&pod)),
            [
                "count/pods=1",
                "cpu=100m",
                "limits.memory=1Gi",
                "pods=1",
                "requests.cpu=100m",
                "requests.example.com/gpu=1"
            ]
        );
        let done = json!({"spec": {"containers": []}, "status": {"phase": "Succeeded"}});
        assert_eq!(show(&PODS.usage(&done)), ["count/pods=1"]);
        assert!(
            PODS.uses("requests.example.com/gpu")
                && PODS.uses("limits.cpu")
                && !PODS.uses("services")
        );
    }

    #[test]
    fn what_a_quota_limits_must_be_given() {
        let pod = json!({"spec": {"containers": [
            {"name": "b"}, {"name": "a", "resources": {"requests": {"cpu": "1"}}}]}});
        assert_eq!(
            PODS.missing(["pods", "requests.cpu", "limits.memory"].into_iter(), &pod)
                .as_deref(),
            Some("must specify limits.memory for: a,b; requests.cpu for: b")
        );
    }

    #[test]
    fn scopes_select_pods() {
        let best_effort =
            json!({"spec": {"containers": [{"name": "c"}], "priorityClassName": "high"}});
        let scoped = |scopes: Value| json!({"spec": {"scopes": scopes}});
        assert!(PODS.in_scope(
            &scoped(json!(["BestEffort", "NotTerminating"])),
            &best_effort
        ));
        assert!(!PODS.in_scope(&scoped(json!(["Terminating"])), &best_effort));
        let class = |operator: &str| {
            json!({"spec": {"scopeSelector": {"matchExpressions": [
                {"scopeName": "PriorityClass", "operator": operator, "values": ["high"]}]}}})
        };
        assert!(
            PODS.in_scope(&class("In"), &best_effort)
                && !PODS.in_scope(&class("NotIn"), &best_effort)
        );
        let services = Counted {
            group: "",
            resource: "services",
        };
        assert!(!services.in_scope(&scoped(json!(["BestEffort"])), &json!({})));
    }

    #[test]
    fn device_claims_count_the_worst_choice() {
        let claims = Counted {
            group: "resource.k8s.io",
            resource: "resourceclaims",
        };
        let claim = json!({"spec": {"devices": {"requests": [
            {"name": "a", "exactly": {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 2}},
            {"name": "b", "firstAvailable": [{"deviceClassName": "gpu", "count": 1}, {"deviceClassName": "nic", "allocationMode": "All"}]}]}}});
        assert_eq!(
            show(&claims.usage(&claim)),
            [
                "count/resourceclaims.resource.k8s.io=1",
                "gpu.deviceclass.resource.k8s.io/devices=3",
                "nic.deviceclass.resource.k8s.io/devices=32"
            ]
        );
        assert!(claims.uses("gpu.deviceclass.resource.k8s.io/devices") && claims.looks_inside());
    }

    #[test]
    fn services_and_claims_are_counted_in_parts() {
        let services = Counted {
            group: "",
            resource: "services",
        };
        let balanced =
            json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2}]}});
        assert_eq!(
            show(&services.usage(&balanced)),
            [
                "count/services=1",
                "services=1",
                "services.loadbalancers=1",
                "services.nodeports=2"
            ]
        );
        let claims = Counted {
            group: "",
            resource: "persistentvolumeclaims",
        };
        let claim = json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}});
        assert!(
            show(&claims.usage(&claim))
                .contains(&"gold.storageclass.storage.k8s.io/requests.storage=1Gi".to_owned())
        );
        assert!(claims.uses("gold.storageclass.storage.k8s.io/persistentvolumeclaims"));
        assert_eq!(
            Counted {
                group: "apps",
                resource: "deployments"
            }
            .count_name(),
            "count/deployments.apps"
        );
    }
}
