//! What a pod asks of a node and how it fares: summed requests and limits, quality of service, readiness, phases.
//!
//! Defaulting and validation are left to the registry, placement to the scheduler, enforcement to the kubelet.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodCondition, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use crate::quantity::Quantity;

/// Amounts by resource name: `cpu`, `memory`, `ephemeral-storage`, `example.com/gpu`…
pub type ResourceList = BTreeMap<String, Quantity>;

/// Whether an init container is a sidecar: started in its turn, then kept running.
#[must_use]
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Requests,
    Limits,
}

fn amounts(resources: Option<&ResourceRequirements>, side: Side) -> ResourceList {
    let list = resources.and_then(|r| {
        if side == Side::Requests {
            r.requests.as_ref()
        } else {
            r.limits.as_ref()
        }
    });
    list.map(parse).unwrap_or_default()
}

/// The amounts in a list as the API writes it. What is no quantity was refused on creation, and counts as nothing.
#[must_use]
pub fn parse(list: &BTreeMap<String, Text>) -> ResourceList {
    list.iter()
        .filter_map(|(name, text)| Some((name.clone(), Quantity::parse(&text.0).ok()?)))
        .collect()
}

/// Adds each amount of `more` to `list`.
pub fn add(list: &mut ResourceList, more: &ResourceList) {
    for (name, amount) in more {
        *list.entry(name.clone()).or_insert(Quantity::ZERO) += *amount;
    }
}

/// Raises each amount of `list` to that of `other`.
pub fn raise(list: &mut ResourceList, other: &ResourceList) {
    for (name, amount) in other {
        let have = list.entry(name.clone()).or_insert(*amount);
        if *have < *amount {
            *have = *amount;
        }
    }
}

/// Whether pod-level `spec.resources` may name this resource.
#[must_use]
pub fn is_pod_level(resource: &str) -> bool {
    matches!(resource, "cpu" | "memory") || resource.starts_with("hugepages-")
}

/// What the containers need together: the running ones with their sidecars, or, if that is more, an init container with the sidecars started before it.
fn containers(spec: &PodSpec, side: Side) -> ResourceList {
    let mut running = ResourceList::new();
    for container in &spec.containers {
        add(&mut running, &amounts(container.resources.as_ref(), side));
    }
    let (mut sidecars, mut starting) = (ResourceList::new(), ResourceList::new());
    for container in spec.init_containers.iter().flatten() {
        let own = amounts(container.resources.as_ref(), side);
        if is_sidecar(container) {
            add(&mut running, &own);
            add(&mut sidecars, &own);
            raise(&mut starting, &sidecars);
        } else {
            let mut together = sidecars.clone();
            add(&mut together, &own);
            raise(&mut starting, &together);
        }
    }
    raise(&mut running, &starting);
    running
}

fn total(spec: &PodSpec, side: Side) -> ResourceList {
    let mut list = containers(spec, side);
    for (name, amount) in amounts(spec.resources.as_ref(), side) {
        if is_pod_level(&name) {
            list.insert(name, amount);
        }
    }
    list
}

/// What the pod requests of its node, its overhead included.
#[must_use]
pub fn requests(spec: &PodSpec) -> ResourceList {
    let mut list = total(spec, Side::Requests);
    if let Some(overhead) = &spec.overhead {
        add(&mut list, &parse(overhead));
    }
    list
}

/// What the pod is limited to; overhead counts only where there is a limit.
#[must_use]
pub fn limits(spec: &PodSpec) -> ResourceList {
    let mut list = total(spec, Side::Limits);
    for (name, amount) in spec.overhead.as_ref().map(parse).unwrap_or_default() {
        if let Some(limit) = list.get_mut(&name).filter(|l| **l != Quantity::ZERO) {
            *limit += amount;
        }
    }
    list
}

/// How dear a pod is to its node when memory runs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QosClass {
    /// Every container's requests equal its limits.
    Guaranteed,
    /// Some request or limit is given.
    Burstable,
    /// Nothing is.
    BestEffort,
}

impl QosClass {
    /// As `status.qosClass` spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            QosClass::Guaranteed => "Guaranteed",
            QosClass::Burstable => "Burstable",
            QosClass::BestEffort => "BestEffort",
        }
    }
}

/// The class a pod's CPU and memory put it in; pod-level ones decide where they are given.
#[must_use]
pub fn qos_class(spec: &PodSpec) -> QosClass {
    let counted = |resources: Option<&ResourceRequirements>, side| -> ResourceList {
        let mut list = amounts(resources, side);
        list.retain(|name, amount| {
            matches!(name.as_str(), "cpu" | "memory") && *amount > Quantity::ZERO
        });
        list
    };
    let own = spec
        .resources
        .as_ref()
        .filter(|r| r.requests.is_some() || r.limits.is_some());
    let all: Vec<Option<&ResourceRequirements>> = match own {
        Some(own) => vec![Some(own)],
        None => spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten())
            .map(|c| c.resources.as_ref())
            .collect(),
    };
    let (mut requests, mut limits) = (ResourceList::new(), ResourceList::new());
    let mut guaranteed = true;
    for resources in all {
        add(&mut requests, &counted(resources, Side::Requests));
        let limit = counted(resources, Side::Limits);
        guaranteed &= limit.len() == 2;
        add(&mut limits, &limit);
    }
    if requests.is_empty() && limits.is_empty() {
        QosClass::BestEffort
    } else if guaranteed && requests == limits {
        QosClass::Guaranteed
    } else {
        QosClass::Burstable
    }
}

/// The condition of this type in the pod's status.
#[must_use]
pub fn condition<'p>(pod: &'p Pod, kind: &str) -> Option<&'p PodCondition> {
    pod.status
        .as_ref()?
        .conditions
        .as_ref()?
        .iter()
        .find(|c| c.type_ == kind)
}

/// Whether the pod is ready to serve.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// Whether the pod has been ready for at least `min_ready_seconds`.
#[must_use]
pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: jiff::Timestamp) -> bool {
    let Some(ready) = condition(pod, "Ready").filter(|c| c.status == "True") else {
        return false;
    };
    min_ready_seconds == 0
        || ready
            .last_transition_time
            .as_ref()
            .is_some_and(|t| now.as_second() - t.0.as_second() >= i64::from(min_ready_seconds))
}

/// The pod's phase; empty before the first status.
#[must_use]
pub fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|s| s.phase.as_deref())
        .unwrap_or_default()
}

/// Whether all containers have ended for good.
#[must_use]
pub fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether the pod is being deleted.
#[must_use]
pub fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether a controller should count the pod: neither finished nor being deleted.
#[must_use]
pub fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !is_terminating(pod)
}

/// The node the pod is bound to; empty until then.
#[must_use]
pub fn node_name(pod: &Pod) -> &str {
    pod.spec
        .as_ref()
        .and_then(|s| s.node_name.as_deref())
        .unwrap_or_default()
}

/// Whether the pod mirrors a static pod of a kubelet.
#[must_use]
pub fn is_mirror(pod: &Pod) -> bool {
    pod.metadata
        .annotations
        .as_ref()
        .is_some_and(|a| a.contains_key("kubernetes.io/config.mirror"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(cpu: &str, limit: Option<&str>, policy: Option<&str>) -> Container {
        let list = |v: &str| {
            Some(
                [
                    ("cpu".to_string(), Text(v.into())),
                    ("memory".to_string(), Text("1Mi".into())),
                ]
                .into(),
            )
        };
        Container {
            resources: Some(ResourceRequirements {
                requests: list(cpu),
                limits: limit.and_then(list),
                ..Default::default()
            }),
            restart_policy: policy.map(Into::into),
            ..Default::default()
        }
    }

    fn cpu(list: &ResourceList) -> String {
        list["cpu"].to_string()
    }

    #[test]
    fn init_containers_count_by_their_maximum_with_sidecars_before_them() {
        let spec = PodSpec {
            containers: vec![container("100m", None, None), container("200m", None, None)],
            init_containers: Some(vec![
                container("150m", None, None),
                container("50m", None, Some("Always")),
                container("400m", None, None),
            ]),
            overhead: Some([("cpu".to_string(), Text("10m".into()))].into()),
            ..Default::default()
        };
        // 400m beside the sidecar's 50m beats the 350m that run afterwards.
        assert_eq!(cpu(&requests(&spec)), "460m");
    }

    #[test]
    fn pod_level_resources_win() {
        let spec = PodSpec {
            containers: vec![container("100m", None, None)],
            resources: Some(ResourceRequirements {
                requests: Some([("cpu".to_string(), Text("2".into()))].into()),
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(cpu(&requests(&spec)), "2");
    }

    #[test]
    fn quality_of_service() {
        let of = |containers| {
            qos_class(&PodSpec {
                containers,
                ..Default::default()
            })
        };
        assert_eq!(of(vec![Container::default()]), QosClass::BestEffort);
        assert_eq!(
            of(vec![container("1", Some("1"), None)]),
            QosClass::Guaranteed
        );
        assert_eq!(
            of(vec![container("1", Some("2"), None)]),
            QosClass::Burstable
        );
        assert_eq!(
            of(vec![container("1", Some("1"), None), Container::default()]),
            QosClass::Burstable
        );
    }
}
