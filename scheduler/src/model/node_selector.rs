//! Which nodes a pod may go to by their labels and names: node selectors and required and preferred node affinity.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec,
};
use keelson_api::selector::{Operator, Requirement, Selector};

/// One term: all of its conditions on labels and on `metadata.name`.
#[derive(Clone, Debug)]
pub struct NodeTerm {
    labels: Vec<Requirement>,
    /// Names that the node must or must not have.
    names: Vec<(bool, Vec<String>)>,
    /// A term that says nothing, or nothing that can be understood, matches no node.
    nothing: bool,
}

fn operator(name: &str) -> Option<Operator> {
    Some(match name {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan,
        "Lt" => Operator::LessThan,
        _ => return None,
    })
}

fn requirement(given: &NodeSelectorRequirement) -> Option<Requirement> {
    let values = given.values.clone().unwrap_or_default();
    Requirement::new(&given.key, operator(&given.operator)?, values).ok()
}

impl NodeTerm {
    /// Compiles a term.
    pub fn new(term: &NodeSelectorTerm) -> Self {
        let expressions = term.match_expressions.as_deref().unwrap_or_default();
        let fields = term.match_fields.as_deref().unwrap_or_default();
        let labels: Option<Vec<Requirement>> = expressions.iter().map(requirement).collect();
        let names: Option<Vec<(bool, Vec<String>)>> = fields
            .iter()
            .map(|field| {
                let wanted = match field.operator.as_str() {
                    "In" => true,
                    "NotIn" => false,
                    _ => return None,
                };
                (field.key == "metadata.name")
                    .then(|| (wanted, field.values.clone().unwrap_or_default()))
            })
            .collect();
        NodeTerm {
            nothing: (expressions.is_empty() && fields.is_empty())
                || labels.is_none()
                || names.is_none(),
            labels: labels.unwrap_or_default(),
            names: names.unwrap_or_default(),
        }
    }

    /// Whether the node meets every condition.
    pub fn matches(&self, node: &Node) -> bool {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        !self.nothing
            && self.labels.iter().all(|r| r.matches(&node.metadata.labels))
            && self
                .names
                .iter()
                .all(|(wanted, names)| names.iter().any(|n| n == name) == *wanted)
    }

    /// The only nodes that can match by name, where the term names some.
    fn only_names(&self) -> Option<Vec<String>> {
        let mut wanted = self.names.iter().filter(|(wanted, _)| *wanted);
        let mut only = wanted.next()?.1.clone();
        for (_, names) in wanted {
            only.retain(|name| names.contains(name));
        }
        Some(only)
    }
}

/// What a pod requires of its node's labels.
#[derive(Clone, Debug, Default)]
pub struct NodeMatcher {
    selector: Option<Selector>,
    /// Any of these terms, where there is a required affinity.
    terms: Option<Vec<NodeTerm>>,
}

impl NodeMatcher {
    /// What a node selector by itself requires (a volume's node affinity).
    pub fn of_selector(selector: &NodeSelector) -> Self {
        NodeMatcher {
            selector: None,
            terms: Some(
                selector
                    .node_selector_terms
                    .iter()
                    .map(NodeTerm::new)
                    .collect(),
            ),
        }
    }

    /// What a pod requires.
    pub fn of_pod(spec: &PodSpec) -> Self {
        let empty = BTreeMap::new();
        let map = spec.node_selector.as_ref().unwrap_or(&empty);
        let required = spec
            .affinity
            .as_ref()
            .and_then(|affinity| affinity.node_affinity.as_ref())
            .and_then(|node| {
                node.required_during_scheduling_ignored_during_execution
                    .as_ref()
            });
        NodeMatcher {
            selector: (!map.is_empty()).then(|| Selector::from_map(map)),
            terms: required.map(|r| r.node_selector_terms.iter().map(NodeTerm::new).collect()),
        }
    }

    /// Whether anything is required.
    pub fn is_empty(&self) -> bool {
        self.selector.is_none() && self.terms.is_none()
    }

    /// Whether the node may be taken.
    pub fn matches(&self, node: &Node) -> bool {
        self.selector
            .as_ref()
            .is_none_or(|selector| selector.matches(&node.metadata.labels))
            && self
                .terms
                .as_ref()
                .is_none_or(|terms| terms.iter().any(|term| term.matches(node)))
    }

    /// The only nodes that can match, if every term names nodes (as a DaemonSet's pods do).
    pub fn only_names(&self) -> Option<Vec<String>> {
        let terms = self.terms.as_ref()?;
        let mut all = Vec::new();
        for term in terms {
            all.extend(term.only_names()?);
        }
        (!terms.is_empty()).then_some(all)
    }
}
