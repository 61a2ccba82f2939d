//! Whether a pod may be on a node by name, selector and affinity. No I/O.

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec};
use kube::ResourceExt;

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let number = |text: &str| text.parse::<i64>().ok();
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|value| values.iter().any(|wanted| wanted == value)),
        "NotIn" => !value.is_some_and(|value| values.iter().any(|wanted| wanted == value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        operator @ ("Gt" | "Lt") => match (
            value.and_then(number),
            values.first().and_then(|wanted| number(wanted)),
        ) {
            (Some(value), Some(wanted)) if operator == "Gt" => value > wanted,
            (Some(value), Some(wanted)) => value < wanted,
            _ => false,
        },
        _ => false,
    }
}

fn matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    // A term that asks for nothing matches nothing.
    !(expressions.is_empty() && fields.is_empty())
        && expressions
            .iter()
            .all(|wanted| holds(wanted, node.labels().get(&wanted.key).map(String::as_str)))
        && fields.iter().all(|wanted| {
            holds(
                wanted,
                (wanted.key == "metadata.name")
                    .then_some(node.metadata.name.as_deref())
                    .flatten(),
            )
        })
}

/// Whether the pod's node name, node selector and required affinity allow the node.
pub fn allows(pod: &PodSpec, node: &Node) -> bool {
    if pod
        .node_name
        .as_ref()
        .is_some_and(|name| !name.is_empty() && Some(name) != node.metadata.name.as_ref())
    {
        return false;
    }
    let selected = pod
        .node_selector
        .iter()
        .flatten()
        .all(|(key, value)| node.labels().get(key) == Some(value));
    let required = pod
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| {
            affinity
                .required_during_scheduling_ignored_during_execution
                .as_ref()
        });
    selected
        && required.is_none_or(|required| {
            required
                .node_selector_terms
                .iter()
                .any(|term| matches(term, node))
        })
}

#[cfg(test)]
mod tests {
    use super::super::taints::tests::node;
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_and_affinity() {
        let node = node(
            "n1",
            "True",
            json!({"metadata": {"labels": {"zone": "a", "cores": "8"}}}),
        );
        let term = |term: serde_json::Value| json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}});
        for (spec, expected) in [
            (json!({}), true),
            (json!({"nodeName": "n2"}), false),
            (json!({"nodeSelector": {"zone": "a"}}), true),
            (json!({"nodeSelector": {"zone": "b"}}), false),
            (
                term(
                    json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}),
                ),
                true,
            ),
            (
                term(
                    json!({"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["8"]}]}),
                ),
                false,
            ),
            (
                term(
                    json!({"matchExpressions": [{"key": "gpu", "operator": "NotIn", "values": ["x"]}]}),
                ),
                true,
            ),
            (term(json!({})), false),
        ] {
            let mut spec = spec.clone();
            spec["containers"] = json!([]);
            let parsed: PodSpec = serde_json::from_value(spec.clone()).unwrap();
            assert_eq!(allows(&parsed, &node), expected, "{spec}");
        }
    }
}
