//! A term of inter-pod affinity or anti-affinity: which other pods, within which part of the cluster.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Namespace, Pod, PodAffinityTerm, WeightedPodAffinityTerm};
use keelson_api::selector::Selector;

/// A compiled term.
#[derive(Clone, Debug)]
pub struct Term {
    /// The node label whose value makes nodes one place.
    pub topology_key: String,
    namespaces: Vec<String>,
    namespace_selector: Selector,
    selector: Selector,
}

/// A term with its weight.
#[derive(Clone, Debug)]
pub struct WeightedTerm {
    /// The term.
    pub term: Term,
    /// The weight, negative for anti-affinity.
    pub weight: i64,
}

impl Term {
    /// Compiles a term of a pod. Namespaces default to the pod's own. (matchLabelKeys are merged into the selector by
    /// the API server.)
    pub fn new(term: &PodAffinityTerm, pod: &Pod) -> Self {
        let own = pod.metadata.namespace.clone().unwrap_or_default();
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(own);
        }
        let compile =
            |given| Selector::from_label_selector(given).unwrap_or_else(|_| Selector::nothing());
        Term {
            topology_key: term.topology_key.clone(),
            namespaces,
            namespace_selector: compile(term.namespace_selector.as_ref()),
            selector: compile(term.label_selector.as_ref()),
        }
    }

    /// Whether another pod is meant. `labels_of` knows the labels of namespaces.
    pub fn matches(
        &self,
        namespace: &str,
        labels: &Option<BTreeMap<String, String>>,
        labels_of: &BTreeMap<String, BTreeMap<String, String>>,
    ) -> bool {
        self.matches_namespace(namespace, labels_of) && self.selector.matches(labels)
    }

    fn matches_namespace(
        &self,
        namespace: &str,
        labels_of: &BTreeMap<String, BTreeMap<String, String>>,
    ) -> bool {
        if self.namespaces.iter().any(|n| n == namespace) {
            return true;
        }
        if self.namespace_selector.is_nothing() {
            return false;
        }
        let empty = BTreeMap::new();
        self.namespace_selector
            .matches(labels_of.get(namespace).unwrap_or(&empty))
    }

    /// Whether another pod may be meant, whatever labels its namespace has.
    pub fn may_match(&self, namespace: &str, labels: &Option<BTreeMap<String, String>>) -> bool {
        (self.selects_namespaces() || self.namespaces.iter().any(|n| n == namespace))
            && self.selector.matches(labels)
    }

    /// Whether it asks for namespaces by their labels.
    pub fn selects_namespaces(&self) -> bool {
        !self.namespace_selector.is_nothing()
    }
}

impl WeightedTerm {
    /// Compiles a preferred term, with the sign of its weight turned for anti-affinity.
    pub fn new(term: &WeightedPodAffinityTerm, pod: &Pod, sign: i64) -> Self {
        WeightedTerm {
            term: Term::new(&term.pod_affinity_term, pod),
            weight: sign * i64::from(term.weight),
        }
    }
}

/// The labels of a namespace, as terms look at them.
pub(crate) fn namespace_labels(namespace: &Namespace) -> (String, BTreeMap<String, String>) {
    (
        namespace.metadata.name.clone().unwrap_or_default(),
        namespace.metadata.labels.clone().unwrap_or_default(),
    )
}
