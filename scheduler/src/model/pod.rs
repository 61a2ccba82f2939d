//! A pod with what scheduling asks of it, compiled once.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodSpec, PreferredSchedulingTerm};
use keelson_runtime::Key;

use super::affinity::{Term, WeightedTerm};
use super::node::HostPort;
use super::node_selector::{NodeMatcher, NodeTerm};
use super::resources::{Resources, pod_requests, pod_requests_for_scoring};

/// A pod and what follows from its specification.
#[derive(Clone, Debug)]
pub struct PodInfo {
    /// The pod itself.
    pub pod: Arc<Pod>,
    /// Namespace and name.
    pub key: Key,
    /// The uid: a pod of the same name later is another one.
    pub uid: String,
    /// The priority.
    pub priority: i32,
    /// What it requests.
    pub requests: Resources,
    /// CPU (thousandths) and memory as they count for scoring.
    pub scoring_requests: (i64, i64),
    /// Ports of the host that it wants.
    pub host_ports: Vec<HostPort>,
    /// What it requires of a node's labels.
    pub node_matcher: NodeMatcher,
    /// What it prefers of a node's labels, with weights.
    pub node_preferences: Vec<(NodeTerm, i64)>,
    /// Other pods it must be near to.
    pub required_affinity: Vec<Term>,
    /// Other pods it must be away from.
    pub required_anti_affinity: Vec<Term>,
    /// Other pods it would like to be near to (or, with a negative weight, away from).
    pub preferred_affinity: Vec<WeightedTerm>,
}

impl PodInfo {
    /// Compiles a pod.
    pub fn new(pod: Arc<Pod>) -> Arc<Self> {
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let affinity = spec.affinity.as_ref();
        let near = affinity.and_then(|a| a.pod_affinity.as_ref());
        let away = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
        let mut preferred_affinity = Vec::new();
        if let Some(near) = near {
            let terms = near
                .preferred_during_scheduling_ignored_during_execution
                .iter();
            preferred_affinity.extend(terms.flatten().map(|t| WeightedTerm::new(t, &pod, 1)));
        }
        if let Some(away) = away {
            let terms = away
                .preferred_during_scheduling_ignored_during_execution
                .iter();
            preferred_affinity.extend(terms.flatten().map(|t| WeightedTerm::new(t, &pod, -1)));
        }
        let required_affinity = near
            .and_then(|n| {
                n.required_during_scheduling_ignored_during_execution
                    .as_ref()
            })
            .map(|terms| terms.iter().map(|t| Term::new(t, &pod)).collect());
        let required_anti_affinity = away
            .and_then(|n| {
                n.required_during_scheduling_ignored_during_execution
                    .as_ref()
            })
            .map(|terms| terms.iter().map(|t| Term::new(t, &pod)).collect());
        Arc::new(PodInfo {
            key: Key::of(pod.as_ref()),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            priority: spec.priority.unwrap_or(0),
            requests: pod_requests(&pod),
            scoring_requests: pod_requests_for_scoring(&pod),
            host_ports: host_ports(spec),
            node_matcher: NodeMatcher::of_pod(spec),
            node_preferences: preferences(spec),
            required_affinity: required_affinity.unwrap_or_default(),
            required_anti_affinity: required_anti_affinity.unwrap_or_default(),
            preferred_affinity,
            pod,
        })
    }

    /// The specification.
    pub fn spec(&self) -> Option<&PodSpec> {
        self.pod.spec.as_ref()
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.key.namespace
    }

    /// The node that it is on, empty if none.
    pub fn node_name(&self) -> &str {
        self.spec()
            .and_then(|spec| spec.node_name.as_deref())
            .unwrap_or_default()
    }

    /// The node that preemption made room on, empty if none.
    pub fn nominated_node(&self) -> &str {
        self.pod
            .status
            .as_ref()
            .and_then(|status| status.nominated_node_name.as_deref())
            .unwrap_or_default()
    }

    /// The scheduler that is to place it.
    pub fn scheduler_name(&self) -> &str {
        self.spec()
            .and_then(|spec| spec.scheduler_name.as_deref())
            .unwrap_or("default-scheduler")
    }

    /// Whether somebody asked for it to go.
    pub fn is_terminating(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }

    /// Whether it has anything to do with other pods' places.
    pub fn has_affinity(&self) -> bool {
        !self.required_affinity.is_empty()
            || !self.required_anti_affinity.is_empty()
            || !self.preferred_affinity.is_empty()
    }
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let number = port.host_port.filter(|number| *number > 0)?;
            Some(HostPort::new(
                port.protocol.as_deref(),
                port.host_ip.as_deref(),
                number,
            ))
        })
        .collect()
}

fn preferences(spec: &PodSpec) -> Vec<(NodeTerm, i64)> {
    let compile = |given: &PreferredSchedulingTerm| {
        let empty = given.preference.match_expressions.iter().flatten().count()
            + given.preference.match_fields.iter().flatten().count();
        // Unlike a required one, an empty preference is left out; a weight of 0 changes nothing.
        (empty > 0 && given.weight != 0)
            .then(|| (NodeTerm::new(&given.preference), i64::from(given.weight)))
    };
    spec.affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|node| {
            node.preferred_during_scheduling_ignored_during_execution
                .as_ref()
        })
        .map(|terms| terms.iter().filter_map(compile).collect())
        .unwrap_or_default()
}
