//! InterPodAffinity: pods that must, must not, or would rather (not) be near others.
//!
//! What matters is counted once for a pod, by topology key and value; a node is then judged by its labels alone.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::{PluginError, arguments};
use crate::framework::{
    Change, CycleState, Handle, MAX_SCORE, Plugin, Point, PreFilter, Rejection, Scoring,
};
use crate::model::{NodeInfo, PodInfo, Snapshot, Term};

const NAME: &str = "InterPodAffinity";

pub struct InterPodAffinity {
    /// What a required affinity of a pod that is there counts for when scoring.
    hard_weight: i64,
    ignore_existing_preferences: bool,
}

impl Default for InterPodAffinity {
    fn default() -> Self {
        InterPodAffinity {
            hard_weight: 1,
            ignore_existing_preferences: false,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct InterPodAffinityArgs {
    hard_pod_affinity_weight: Option<i64>,
    ignore_preferred_terms_of_existing_pods: bool,
}

pub fn make(given: Option<&Value>, _: &Handle) -> Result<Arc<dyn Plugin>, PluginError> {
    let args: InterPodAffinityArgs = arguments(NAME, given)?;
    Ok(Arc::new(InterPodAffinity {
        hard_weight: args.hard_pod_affinity_weight.unwrap_or(1),
        ignore_existing_preferences: args.ignore_preferred_terms_of_existing_pods,
    }))
}

/// Topology key and value: a place.
type Place = (String, String);
type Counts = HashMap<Place, i64>;
type Namespaces = Arc<BTreeMap<String, BTreeMap<String, String>>>;

#[derive(Clone, Default)]
struct Filtering {
    /// Places of pods that don't want this one near.
    existing_anti: Counts,
    /// Places of pods that meet all affinity terms.
    affinity: Counts,
    /// Places of pods that meet an anti-affinity term.
    anti: Counts,
    namespaces: Namespaces,
}

#[derive(Clone, Default)]
struct ScoringState {
    places: HashMap<String, HashMap<String, i64>>,
}

fn matches(term: &Term, pod: &PodInfo, namespaces: &Namespaces) -> bool {
    term.matches(pod.namespace(), &pod.pod.metadata.labels, namespaces)
}

fn matches_all(terms: &[Term], pod: &PodInfo, namespaces: &Namespaces) -> bool {
    !terms.is_empty() && terms.iter().all(|term| matches(term, pod, namespaces))
}

fn count(counts: &mut Counts, node: &NodeInfo, key: &str, by: i64) {
    let Some(value) = node.label(key) else { return };
    let place = (key.to_owned(), value.to_owned());
    let now = counts.entry(place.clone()).or_default();
    *now += by;
    if *now == 0 {
        counts.remove(&place);
    }
}

fn at(counts: &Counts, node: &NodeInfo, key: &str) -> Option<i64> {
    let value = node.label(key)?;
    Some(
        counts
            .get(&(key.to_owned(), value.to_owned()))
            .copied()
            .unwrap_or(0),
    )
}

impl Filtering {
    /// Counts another pod in (or out, with -1).
    fn update(&mut self, pod: &PodInfo, other: &PodInfo, node: &NodeInfo, by: i64) {
        for term in &other.required_anti_affinity {
            if matches(term, pod, &self.namespaces) {
                count(&mut self.existing_anti, node, &term.topology_key, by);
            }
        }
        if matches_all(&pod.required_affinity, other, &self.namespaces) {
            for term in &pod.required_affinity {
                count(&mut self.affinity, node, &term.topology_key, by);
            }
        }
        for term in &pod.required_anti_affinity {
            if matches(term, other, &self.namespaces) {
                count(&mut self.anti, node, &term.topology_key, by);
            }
        }
    }

    fn near_enough(&self, pod: &PodInfo, node: &NodeInfo) -> bool {
        let mut all_there = true;
        for term in &pod.required_affinity {
            match at(&self.affinity, node, &term.topology_key) {
                // Without the label the node is in no place at all.
                None => return false,
                Some(count) => all_there &= count > 0,
            }
        }
        // The first of a group that wants to be together may start it.
        all_there
            || (self.affinity.is_empty()
                && matches_all(&pod.required_affinity, pod, &self.namespaces))
    }

    fn far_enough(&self, pod: &PodInfo, node: &NodeInfo) -> bool {
        let mut terms = pod.required_anti_affinity.iter();
        !terms.any(|term| at(&self.anti, node, &term.topology_key).is_some_and(|c| c > 0))
    }

    fn is_wanted(&self, node: &NodeInfo) -> bool {
        self.existing_anti.is_empty()
            || !self
                .existing_anti
                .iter()
                .any(|((key, value), count)| *count > 0 && node.label(key) == Some(value))
    }
}

/// Whether two pods have required terms that concern each other, whatever labels namespaces have.
fn concern(pod: &PodInfo, other: &PodInfo) -> bool {
    let hit = |terms: &[Term], who: &PodInfo| {
        let labels = &who.pod.metadata.labels;
        terms.iter().any(|t| t.may_match(who.namespace(), labels))
    };
    hit(&pod.required_affinity, other)
        || hit(&pod.required_anti_affinity, other)
        || hit(&other.required_anti_affinity, pod)
}

impl Plugin for InterPodAffinity {
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
            Change::NodeUpdated { old, new } => old.metadata.labels != new.metadata.labels,
            Change::PodAssigned(other) | Change::PodDeleted(other) => concern(pod, other),
            Change::PodUpdated { old, new } => {
                old.pod.metadata.labels != new.pod.metadata.labels
                    && (concern(pod, old) || concern(pod, new))
            }
            Change::OwnUpdated { old, new } => old.pod.metadata.labels != new.pod.metadata.labels,
            Change::NamespaceChanged(_) => pod
                .required_affinity
                .iter()
                .chain(&pod.required_anti_affinity)
                .any(Term::selects_namespaces),
            Change::StorageChanged | Change::Elapsed => false,
        }
    }

    fn pre_filter(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        snapshot: &Snapshot,
    ) -> Result<PreFilter, Rejection> {
        let asks = !pod.required_affinity.is_empty() || !pod.required_anti_affinity.is_empty();
        let mut filtering = Filtering {
            namespaces: snapshot.namespaces.clone(),
            ..Filtering::default()
        };
        for node in &snapshot.nodes {
            if !asks && !node.has_anti_affinity_pods() {
                continue;
            }
            for other in node.pods() {
                filtering.update(pod, other, node, 1);
            }
        }
        if !asks && filtering.existing_anti.is_empty() {
            return Ok(PreFilter::Skip);
        }
        state.put(NAME, filtering);
        Ok(PreFilter::All)
    }

    fn add_pod(&self, state: &mut CycleState, pod: &PodInfo, added: &PodInfo, node: &NodeInfo) {
        if let Some(filtering) = state.get_mut::<Filtering>(NAME) {
            filtering.update(pod, added, node, 1);
        }
    }

    fn remove_pod(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        removed: &PodInfo,
        node: &NodeInfo,
    ) {
        if let Some(filtering) = state.get_mut::<Filtering>(NAME) {
            filtering.update(pod, removed, node, -1);
        }
    }

    fn filter(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        let Some(filtering) = state.get::<Filtering>(NAME) else {
            return Ok(());
        };
        if !filtering.near_enough(pod, node) {
            return Err(Rejection::unresolvable(
                "node(s) didn't match pod affinity rules",
            ));
        }
        if !filtering.far_enough(pod, node) {
            return Err(Rejection::unschedulable(
                "node(s) didn't match pod anti-affinity rules",
            ));
        }
        if !filtering.is_wanted(node) {
            return Err(Rejection::unschedulable(
                "node(s) didn't satisfy existing pods anti-affinity rules",
            ));
        }
        Ok(())
    }

    fn pre_score(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        snapshot: &Snapshot,
        _: &[Arc<NodeInfo>],
    ) -> Result<Scoring, Rejection> {
        let asks = !pod.preferred_affinity.is_empty();
        if !asks && self.ignore_existing_preferences {
            return Ok(Scoring::Skip);
        }
        let mut scoring = ScoringState::default();
        let mut add = |node: &NodeInfo, key: &str, weight: i64| {
            if let Some(value) = node.label(key) {
                let values = scoring.places.entry(key.to_owned()).or_default();
                *values.entry(value.to_owned()).or_default() += weight;
            }
        };
        let namespaces = &snapshot.namespaces;
        for node in &snapshot.nodes {
            if !asks && !node.has_affinity_pods() {
                continue;
            }
            for other in node.pods() {
                for own in &pod.preferred_affinity {
                    if matches(&own.term, other, namespaces) {
                        add(node, &own.term.topology_key, own.weight);
                    }
                }
                for term in &other.required_affinity {
                    if self.hard_weight > 0 && matches(term, pod, namespaces) {
                        add(node, &term.topology_key, self.hard_weight);
                    }
                }
                if self.ignore_existing_preferences {
                    continue;
                }
                for theirs in &other.preferred_affinity {
                    if matches(&theirs.term, pod, namespaces) {
                        add(node, &theirs.term.topology_key, theirs.weight);
                    }
                }
            }
        }
        if scoring.places.is_empty() {
            return Ok(Scoring::Skip);
        }
        state.put("InterPodAffinity/score", scoring);
        Ok(Scoring::Score)
    }

    fn score(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> i64 {
        let Some(scoring) = state.get::<ScoringState>("InterPodAffinity/score") else {
            return 0;
        };
        scoring
            .places
            .iter()
            .filter_map(|(key, values)| values.get(node.label(key)?))
            .sum()
    }

    fn normalize(&self, _: &CycleState, _: &PodInfo, scores: &mut [i64]) {
        let least = scores.iter().copied().min().unwrap_or(0);
        let span = scores.iter().copied().max().unwrap_or(0) - least;
        for score in scores {
            *score = match span {
                0 => 0,
                _ => MAX_SCORE * (*score - least) / span,
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

    const NEAR: &str = "/spec/affinity/podAffinity/requiredDuringSchedulingIgnoredDuringExecution";
    const AWAY: &str =
        "/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution";

    fn term(app: &str, key: &str) -> Value {
        json!([{"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key}])
    }

    /// a and b are in zone x, c in zone y, d in none.
    fn cluster(pods: &[(PodBuilder, &str)]) -> Snapshot {
        let mut cache = Cache::default();
        for (name, zone) in [("a", "x"), ("b", "x"), ("c", "y")] {
            cache.set_node(build::node(name).label("zone", zone).done());
        }
        cache.set_node(build::node("d").done());
        for (pod, node) in pods {
            cache.set_pod(pod.clone().on(node).info());
        }
        cache.snapshot()
    }

    fn fitting(pod: &PodBuilder, snapshot: &Snapshot) -> Vec<String> {
        let (plugin, pod) = (InterPodAffinity::default(), pod.info());
        let mut state = CycleState::default();
        if plugin.pre_filter(&mut state, &pod, snapshot) == Ok(PreFilter::Skip) {
            return vec!["all".to_owned()];
        }
        let fits = |node: &&Arc<NodeInfo>| plugin.filter(&state, &pod, node).is_ok();
        let fitting = snapshot.nodes.iter().filter(fits);
        fitting.map(|node| node.name().to_owned()).collect()
    }

    fn app(name: &str) -> PodBuilder {
        build::pod(name).labels(json!({"app": name}))
    }

    #[test]
    fn required_terms() {
        let snapshot = cluster(&[(app("web"), "a")]);
        assert_eq!(fitting(&app("p"), &snapshot), ["all"]);
        let near = |key| app("p").set(NEAR, term("web", key));
        assert_eq!(fitting(&near("zone"), &snapshot), ["a", "b"]);
        assert_eq!(fitting(&near("kubernetes.io/hostname"), &snapshot), ["a"]);
        let away = |key| app("p").set(AWAY, term("web", key));
        assert_eq!(fitting(&away("zone"), &snapshot), ["c", "d"]);
        // Nobody to be near to.
        let lonely = app("p").set(NEAR, term("none", "zone"));
        assert!(fitting(&lonely, &snapshot).is_empty());
        // The first of its group is let in, where there is a place at all.
        let first = app("p").set(NEAR, term("p", "zone"));
        assert_eq!(fitting(&first, &snapshot), ["a", "b", "c"]);
    }

    #[test]
    fn a_pod_that_is_there_may_not_want_another_near() {
        let shy = app("shy").set(AWAY, term("p", "zone"));
        let snapshot = cluster(&[(shy.clone(), "c")]);
        assert_eq!(fitting(&app("p"), &snapshot), ["a", "b", "d"]);
        assert_eq!(fitting(&app("q"), &snapshot), ["all"]);
        // Preemption tries what would be without it.
        let (plugin, pod, shy) = (
            InterPodAffinity::default(),
            app("p").info(),
            shy.on("c").info(),
        );
        let mut state = CycleState::default();
        plugin.pre_filter(&mut state, &pod, &snapshot).unwrap();
        let node = snapshot.node("c").unwrap();
        assert!(plugin.filter(&state, &pod, node).is_err());
        plugin.remove_pod(&mut state, &pod, &shy, node);
        assert!(plugin.filter(&state, &pod, node).is_ok());
        plugin.add_pod(&mut state, &pod, &shy, node);
        assert!(plugin.filter(&state, &pod, node).is_err());
    }

    #[test]
    fn preferences_become_scores() {
        let path = "/spec/affinity/podAffinity/preferredDuringSchedulingIgnoredDuringExecution";
        let weighted = json!([{"weight": 10, "podAffinityTerm": term("web", "zone")[0]}]);
        let snapshot = cluster(&[(app("web"), "a")]);
        let (plugin, pod) = (
            InterPodAffinity::default(),
            app("p").set(path, weighted).info(),
        );
        let mut state = CycleState::default();
        plugin
            .pre_score(&mut state, &pod, &snapshot, &snapshot.nodes)
            .unwrap();
        let nodes = snapshot.nodes.iter();
        let mut scores: Vec<i64> = nodes.map(|n| plugin.score(&state, &pod, n)).collect();
        plugin.normalize(&state, &pod, &mut scores);
        assert_eq!(scores, [100, 100, 0, 0]);
    }

    #[test]
    fn namespaces_are_chosen_by_name_or_label() {
        let mut cache = Cache::default();
        cache.set_node(build::node("a").label("zone", "x").done());
        let elsewhere = app("web").set("/metadata/namespace", json!("other"));
        cache.set_pod(elsewhere.on("a").info());
        let labels = BTreeMap::from([("team".to_owned(), "t".to_owned())]);
        cache.set_namespace("other".to_owned(), Some(labels));
        let snapshot = cache.snapshot();
        let near = |more: (&str, Value)| {
            let mut terms = term("web", "zone");
            terms[0][more.0] = more.1;
            fitting(&app("p").set(NEAR, terms), &snapshot).len()
        };
        assert_eq!(near(("namespaces", json!([]))), 0);
        assert_eq!(near(("namespaces", json!(["other"]))), 1);
        assert_eq!(near(("namespaceSelector", json!({}))), 1);
        let team = |name| json!({"matchLabels": {"team": name}});
        assert_eq!(near(("namespaceSelector", team("t"))), 1);
        assert_eq!(near(("namespaceSelector", team("u"))), 0);
    }
}
