//! PodTopologySpread: pods of a kind spread evenly over zones, nodes, or whatever label says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{
    ReplicationController, Service, TopologySpreadConstraint as ApiConstraint,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use keelson_api::owner;
use keelson_api::selector::{Operator, Requirement, Selector};
use keelson_runtime::Informer;
use keelson_runtime::informer;
use serde::Deserialize;
use serde_json::Value;

use super::taint_toleration::is_kept_away;
use super::{PluginError, arguments};
use crate::framework::{
    Change, CycleState, Handle, MAX_SCORE, Plugin, Point, PreFilter, Rejection, Scoring,
};
use crate::model::{NodeInfo, PodInfo, Snapshot};

const NAME: &str = "PodTopologySpread";
const SCORE: &str = "PodTopologySpread/score";
const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// What belongs together by default: the pods of a Service or a controller.
struct Owners {
    services: Informer<Service>,
    replica_sets: Informer<ReplicaSet>,
    stateful_sets: Informer<StatefulSet>,
    controllers: Informer<ReplicationController>,
}

#[derive(Default)]
pub struct PodTopologySpread {
    /// Constraints of pods that have none themselves.
    defaults: Vec<ApiConstraint>,
    /// Whether they are the built-in ones: nodes without the labels are scored all the same then.
    system_defaults: bool,
    owners: Option<Owners>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodTopologySpreadArgs {
    default_constraints: Vec<ApiConstraint>,
    defaulting_type: String,
}

fn system_defaults() -> Vec<ApiConstraint> {
    [(HOSTNAME, 3), (ZONE, 5)]
        .map(|(key, max_skew)| ApiConstraint {
            topology_key: key.to_owned(),
            max_skew,
            when_unsatisfiable: "ScheduleAnyway".to_owned(),
            ..ApiConstraint::default()
        })
        .into()
}

pub fn make(given: Option<&Value>, handle: &Handle) -> Result<Arc<dyn Plugin>, PluginError> {
    let args: PodTopologySpreadArgs = arguments(NAME, given)?;
    let listed = args.defaulting_type == "List";
    if !listed && !args.default_constraints.is_empty() {
        return Err(PluginError::Arguments {
            plugin: NAME,
            why: "defaultConstraints need defaultingType List".to_owned(),
        });
    }
    let informers = &handle.informers;
    let owners = Owners {
        services: informers.get(),
        replica_sets: informers.get_with(|| {
            informer::Options::default().project(|set: &mut ReplicaSet| {
                set.status = None;
                if let Some(spec) = &mut set.spec {
                    spec.template = None;
                }
            })
        }),
        stateful_sets: informers.get_with(|| {
            informer::Options::default().project(|set: &mut StatefulSet| {
                set.status = None;
                if let Some(spec) = &mut set.spec {
                    spec.template = Default::default();
                    spec.volume_claim_templates = None;
                }
            })
        }),
        controllers: informers.get(),
    };
    Ok(Arc::new(PodTopologySpread {
        defaults: if listed {
            args.default_constraints
        } else {
            system_defaults()
        },
        system_defaults: !listed,
        owners: Some(owners),
    }))
}

impl Owners {
    /// What selects the pod together with its like: the Services and the controller that select it.
    fn selector(&self, pod: &PodInfo) -> Option<Selector> {
        let labels = pod.pod.metadata.labels.as_ref()?;
        let mut requirements: Vec<Requirement> = Vec::new();
        for service in self.services.list_namespace(pod.namespace()) {
            let map = service.spec.as_ref().and_then(|s| s.selector.as_ref());
            if let Some(map) = map.filter(|map| !map.is_empty()) {
                let selector = Selector::from_map(map);
                if selector.matches(labels) {
                    requirements.extend(selector.requirements().iter().cloned());
                }
            }
        }
        let owner = owner::controller_of(&pod.pod.metadata);
        let label_selector =
            |selector: &LabelSelector| Selector::from_label_selector(Some(selector)).ok();
        let of_owner = owner.and_then(|owner| {
            let (namespace, name) = (pod.namespace(), owner.name.as_str());
            match owner.kind.as_str() {
                "ReplicaSet" => {
                    let set = self.replica_sets.find(namespace, name)?;
                    label_selector(&set.spec.as_ref()?.selector)
                }
                "StatefulSet" => {
                    let set = self.stateful_sets.find(namespace, name)?;
                    label_selector(&set.spec.as_ref()?.selector)
                }
                "ReplicationController" => {
                    let controller = self.controllers.find(namespace, name)?;
                    let map = controller.spec.as_ref()?.selector.as_ref()?;
                    Some(Selector::from_map(map))
                }
                _ => None,
            }
        });
        requirements.extend(
            of_owner
                .iter()
                .flat_map(|s| s.requirements().iter().cloned()),
        );
        (!requirements.is_empty()).then(|| Selector::of(requirements))
    }
}

/// A compiled constraint.
#[derive(Clone, Debug)]
struct Constraint {
    key: String,
    max_skew: i64,
    min_domains: usize,
    selector: Selector,
    honor_affinity: bool,
    honor_taints: bool,
}

impl Constraint {
    fn new(given: &ApiConstraint, pod: &PodInfo, selector: Option<&Selector>) -> Self {
        let mut selector = selector.cloned().unwrap_or_else(|| {
            Selector::from_label_selector(given.label_selector.as_ref())
                .unwrap_or_else(|_| Selector::nothing())
        });
        // The API server merges these too; twice does no harm.
        let mut requirements = selector.requirements().to_vec();
        for key in given.match_label_keys.iter().flatten() {
            let value = pod.pod.metadata.labels.as_ref().and_then(|l| l.get(key));
            let requirement = value
                .and_then(|value| Requirement::new(key, Operator::In, vec![value.clone()]).ok());
            requirements.extend(requirement);
        }
        if !selector.is_nothing() {
            selector = Selector::of(requirements);
        }
        Constraint {
            key: given.topology_key.clone(),
            max_skew: i64::from(given.max_skew),
            min_domains: usize::try_from(given.min_domains.unwrap_or(1)).unwrap_or(1),
            selector,
            honor_affinity: given.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: given.node_taints_policy.as_deref() == Some("Honor"),
        }
    }

    fn selects(&self, pod: &PodInfo, other: &PodInfo) -> bool {
        other.namespace() == pod.namespace()
            && !other.is_terminating()
            && self.selector.matches(&other.pod.metadata.labels)
    }

    /// How many pods of the kind are on the node.
    fn count(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let pods = node.pods().iter();
        pods.filter(|other| self.selects(pod, other)).count() as i64
    }

    /// Whether the node counts at all.
    fn includes(&self, pod: &PodInfo, node: &NodeInfo) -> bool {
        (!self.honor_affinity || pod.node_matcher.matches(node.node()))
            && (!self.honor_taints || !is_kept_away(pod, node.taints()))
    }
}

/// A constraint with how many pods of the kind are in each place.
#[derive(Clone, Debug)]
struct Spread {
    constraint: Constraint,
    counts: BTreeMap<String, i64>,
}

impl Spread {
    fn least(&self) -> i64 {
        if self.counts.len() < self.constraint.min_domains {
            return 0;
        }
        self.counts.values().copied().min().unwrap_or(0)
    }

    fn update(&mut self, pod: &PodInfo, other: &PodInfo, node: &NodeInfo, by: i64) {
        if !self.constraint.selects(pod, other) || !self.constraint.includes(pod, node) {
            return;
        }
        let value = node.label(&self.constraint.key);
        if let Some(count) = value.and_then(|value| self.counts.get_mut(value)) {
            *count += by;
        }
    }
}

#[derive(Clone)]
struct ScoringState {
    /// The constraints with their weights and counts by place (by node for the host name).
    spreads: Vec<(Spread, f64)>,
    /// Nodes that lack a label and are not scored.
    ignored: BTreeSet<String>,
}

fn has_all(node: &NodeInfo, constraints: &[Constraint]) -> bool {
    constraints.iter().all(|c| node.label(&c.key).is_some())
}

fn own(pod: &PodInfo) -> &[ApiConstraint] {
    pod.spec()
        .and_then(|spec| spec.topology_spread_constraints.as_deref())
        .unwrap_or_default()
}

impl PodTopologySpread {
    /// The pod's constraints of a kind, or the defaults.
    fn constraints(&self, pod: &PodInfo, when: &str) -> Vec<Constraint> {
        let wanted = |given: &&ApiConstraint| given.when_unsatisfiable == when;
        if !own(pod).is_empty() {
            let given = own(pod).iter().filter(wanted);
            return given.map(|c| Constraint::new(c, pod, None)).collect();
        }
        if !self.defaults.iter().any(|c| c.when_unsatisfiable == when) {
            return Vec::new();
        }
        let selector = self.owners.as_ref().and_then(|owners| owners.selector(pod));
        let Some(selector) = selector else {
            return Vec::new();
        };
        let given = self.defaults.iter().filter(wanted);
        given
            .map(|c| Constraint::new(c, pod, Some(&selector)))
            .collect()
    }

    fn may_help(&self, pod: &PodInfo, other: &PodInfo) -> bool {
        let constraints = self.constraints(pod, "DoNotSchedule");
        constraints.iter().any(|c| {
            other.namespace() == pod.namespace() && c.selector.matches(&other.pod.metadata.labels)
        })
    }
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        NAME
    }

    fn points(&self) -> &'static [Point] {
        &[
            Point::PreFilter,
            Point::Filter,
            Point::PreScore,
            Point::Score,
        ]
    }

    fn helped_by(&self, pod: &PodInfo, change: &Change) -> bool {
        match change {
            Change::NodeAdded(_) | Change::NodeDeleted(_) => true,
            Change::NodeUpdated { old, new } => {
                let taints = |node: &k8s_openapi::api::core::v1::Node| {
                    node.spec.as_ref().and_then(|spec| spec.taints.clone())
                };
                old.metadata.labels != new.metadata.labels || taints(old) != taints(new)
            }
            Change::PodAssigned(other) | Change::PodDeleted(other) => self.may_help(pod, other),
            Change::PodUpdated { old, new } => {
                (old.pod.metadata.labels != new.pod.metadata.labels
                    || old.is_terminating() != new.is_terminating())
                    && (self.may_help(pod, old) || self.may_help(pod, new))
            }
            Change::OwnUpdated { old, new } => old.pod.metadata.labels != new.pod.metadata.labels,
            Change::NamespaceChanged(_) | Change::StorageChanged | Change::Elapsed => false,
        }
    }

    fn pre_filter(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        snapshot: &Snapshot,
    ) -> Result<PreFilter, Rejection> {
        let constraints = self.constraints(pod, "DoNotSchedule");
        if constraints.is_empty() {
            return Ok(PreFilter::Skip);
        }
        let mut spreads: Vec<Spread> = constraints
            .iter()
            .map(|constraint| Spread {
                constraint: constraint.clone(),
                counts: BTreeMap::new(),
            })
            .collect();
        for node in &snapshot.nodes {
            if !has_all(node, &constraints) {
                continue;
            }
            for spread in &mut spreads {
                let constraint = &spread.constraint;
                let Some(value) = node.label(&constraint.key) else {
                    continue;
                };
                if constraint.includes(pod, node) {
                    let count = constraint.count(pod, node);
                    *spread.counts.entry(value.to_owned()).or_default() += count;
                }
            }
        }
        state.put(NAME, spreads);
        Ok(PreFilter::All)
    }

    fn add_pod(&self, state: &mut CycleState, pod: &PodInfo, added: &PodInfo, node: &NodeInfo) {
        for spread in state.get_mut::<Vec<Spread>>(NAME).into_iter().flatten() {
            spread.update(pod, added, node, 1);
        }
    }

    fn remove_pod(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        removed: &PodInfo,
        node: &NodeInfo,
    ) {
        for spread in state.get_mut::<Vec<Spread>>(NAME).into_iter().flatten() {
            spread.update(pod, removed, node, -1);
        }
    }

    fn filter(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        for spread in state.get::<Vec<Spread>>(NAME).into_iter().flatten() {
            let constraint = &spread.constraint;
            let Some(value) = node.label(&constraint.key) else {
                return Err(Rejection::unresolvable(
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                ));
            };
            let own = i64::from(constraint.selector.matches(&pod.pod.metadata.labels));
            let there = spread.counts.get(value).copied().unwrap_or(0);
            if there + own - spread.least() > constraint.max_skew {
                return Err(Rejection::unschedulable(
                    "node(s) didn't match pod topology spread constraints",
                ));
            }
        }
        Ok(())
    }

    fn pre_score(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        snapshot: &Snapshot,
        nodes: &[Arc<NodeInfo>],
    ) -> Result<Scoring, Rejection> {
        let constraints = self.constraints(pod, "ScheduleAnyway");
        if constraints.is_empty() {
            return Ok(Scoring::Skip);
        }
        let all_labels = !own(pod).is_empty() || !self.system_defaults;
        let lacks = |node: &NodeInfo| all_labels && !has_all(node, &constraints);
        let ignored: BTreeSet<String> = nodes
            .iter()
            .filter(|node| lacks(node))
            .map(|node| node.name().to_owned())
            .collect();
        let scored = || nodes.iter().filter(|node| !ignored.contains(node.name()));
        let spreads = constraints.iter().map(|constraint| {
            let mut counts: BTreeMap<String, i64> = BTreeMap::new();
            let by_host = constraint.key == HOSTNAME;
            for node in scored() {
                if by_host {
                    counts.insert(node.name().to_owned(), constraint.count(pod, node));
                } else if let Some(value) = node.label(&constraint.key) {
                    counts.insert(value.to_owned(), 0);
                }
            }
            if !by_host {
                for node in &snapshot.nodes {
                    if lacks(node) || !constraint.includes(pod, node) {
                        continue;
                    }
                    let value = node.label(&constraint.key);
                    if let Some(count) = value.and_then(|value| counts.get_mut(value)) {
                        *count += constraint.count(pod, node);
                    }
                }
            }
            // The more places there are, the more one pod more in a place matters.
            let weight = ((counts.len() + 2) as f64).ln();
            let spread = Spread {
                constraint: constraint.clone(),
                counts,
            };
            (spread, weight)
        });
        let spreads = spreads.collect();
        state.put(SCORE, ScoringState { spreads, ignored });
        Ok(Scoring::Score)
    }

    fn score(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> i64 {
        let Some(scoring) = state.get::<ScoringState>(SCORE) else {
            return 0;
        };
        if scoring.ignored.contains(node.name()) {
            return -1;
        }
        let score: f64 = scoring
            .spreads
            .iter()
            .filter_map(|(spread, weight)| {
                let constraint = &spread.constraint;
                let value = node.label(&constraint.key)?;
                let place = match constraint.key == HOSTNAME {
                    true => node.name(),
                    false => value,
                };
                let count = spread.counts.get(place).copied().unwrap_or(0);
                Some(count as f64 * weight + (constraint.max_skew - 1) as f64)
            })
            .sum();
        score.round() as i64
    }

    fn normalize(&self, _: &CycleState, _: &PodInfo, scores: &mut [i64]) {
        // Nodes that are not scored carry -1.
        let counted = || scores.iter().copied().filter(|score| *score >= 0);
        let (least, most) = (counted().min().unwrap_or(0), counted().max().unwrap_or(0));
        for score in scores {
            *score = match (*score, most) {
                (..0, _) => 0,
                (_, 0) => MAX_SCORE,
                (score, most) => MAX_SCORE * (most + least - score) / most,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::build::{self, PodBuilder};
    use crate::model::Cache;

    fn cluster(pods: &[&str]) -> Snapshot {
        let mut cache = Cache::default();
        for (name, zone) in [("a", "x"), ("b", "x"), ("c", "y")] {
            cache.set_node(build::node(name).label("zone", zone).done());
        }
        cache.set_node(build::node("d").done());
        for node in pods {
            cache.set_pod(app().on(node).info());
        }
        cache.snapshot()
    }

    fn app() -> PodBuilder {
        build::pod("p").labels(json!({"app": "web"}))
    }

    fn constraint(key: &str, when: &str, more: Value) -> Value {
        let mut constraint = json!({
            "maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": when,
            "labelSelector": {"matchLabels": {"app": "web"}},
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            constraint[key] = value.clone();
        }
        json!([constraint])
    }

    #[track_caller]
    fn check(pods: &[&str], more: Value, fits: &[&str]) {
        let snapshot = cluster(pods);
        let pod = app().set(
            "/spec/topologySpreadConstraints",
            constraint("zone", "DoNotSchedule", more),
        );
        let (plugin, pod) = (PodTopologySpread::default(), pod.info());
        let mut state = CycleState::default();
        plugin.pre_filter(&mut state, &pod, &snapshot).unwrap();
        let nodes = snapshot.nodes.iter();
        let fitting: Vec<&str> = nodes
            .filter(|node| plugin.filter(&state, &pod, node).is_ok())
            .map(|node| node.name())
            .collect();
        assert_eq!(fitting, fits);
    }

    #[test]
    fn the_skew_is_kept() {
        check(&[], json!({}), &["a", "b", "c"]);
        check(&["a"], json!({}), &["c"]);
        check(&["a", "c"], json!({}), &["a", "b", "c"]);
        check(&["a", "b"], json!({"maxSkew": 3}), &["a", "b", "c"]);
        // As long as there are too few places, the emptiest counts as empty.
        check(&["a", "c"], json!({"minDomains": 3}), &[]);
        // Pods on nodes without the label count nowhere.
        check(&["d"], json!({}), &["a", "b", "c"]);
    }

    #[test]
    fn a_pod_that_goes_makes_room() {
        let snapshot = cluster(&["a"]);
        let spread = constraint("zone", "DoNotSchedule", json!({}));
        let pod = app().set("/spec/topologySpreadConstraints", spread).info();
        let plugin = PodTopologySpread::default();
        let mut state = CycleState::default();
        plugin.pre_filter(&mut state, &pod, &snapshot).unwrap();
        let node = snapshot.node("a").unwrap();
        assert!(plugin.filter(&state, &pod, node).is_err());
        plugin.remove_pod(&mut state, &pod, &node.pods()[0], node);
        assert!(plugin.filter(&state, &pod, node).is_ok());
    }

    #[test]
    fn emptier_places_are_better() {
        let snapshot = cluster(&["a", "a", "c"]);
        let spread = constraint("zone", "ScheduleAnyway", json!({}));
        let pod = app().set("/spec/topologySpreadConstraints", spread).info();
        let plugin = PodTopologySpread::default();
        let mut state = CycleState::default();
        plugin
            .pre_score(&mut state, &pod, &snapshot, &snapshot.nodes)
            .unwrap();
        let nodes = snapshot.nodes.iter();
        let mut scores: Vec<i64> = nodes.map(|n| plugin.score(&state, &pod, n)).collect();
        plugin.normalize(&state, &pod, &mut scores);
        assert_eq!(scores, [33, 33, 100, 0]);
    }
}
