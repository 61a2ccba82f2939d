//! Binding: what the scheduler posts to put a pod on a node.

use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::status::{Qualified, Status};
use serde_json::{Value, json};

use crate::access::{Access, set, slot};
use crate::rest::timestamp;
use crate::strategy::{Context, Strategy};

/// The rules of Binding, which is not stored.
pub struct Rules;

impl Strategy for Rules {
    fn validate(&self, binding: &Value, _context: &Context<'_>) -> ErrorList {
        validate(binding)
    }
}

/// What is wrong with a binding.
#[must_use]
pub fn validate(binding: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let target = Path::new("target");
    let kind = binding.text("target.kind");
    // An empty kind means a node, as old schedulers had it.
    if !kind.is_empty() && kind != "Node" {
        errors.push(Error::not_supported(
            &target.child("kind"),
            kind,
            &["Node", "<empty>"],
        ));
    }
    if binding.text("target.name").is_empty() {
        errors.push(Error::required(&target.child("name"), ""));
    }
    errors
}

/// Puts the pod on the node of a valid binding, or says why that cannot be.
pub fn assign(pod: &mut Value, binding: &Value, context: &Context<'_>) -> Result<(), Status> {
    let name = pod.text("metadata.name").to_string();
    let conflict = |why: String| Status::conflict(Qualified::new("", "pods/binding"), &name, why);
    let uid = binding.text("metadata.uid");
    if !uid.is_empty() && uid != pod.text("metadata.uid") {
        let have = pod.text("metadata.uid");
        return Err(conflict(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {have}"
        )));
    }
    if pod.has("metadata.deletionTimestamp") {
        return Err(conflict(format!(
            "pod {name} is being deleted, cannot be assigned to a host"
        )));
    }
    let node = pod.text("spec.nodeName");
    if !node.is_empty() {
        return Err(conflict(format!(
            "pod {name} is already assigned to node \"{node}\""
        )));
    }
    if !pod.is_blank("spec.schedulingGates") {
        return Err(conflict(format!(
            "pod {name} has non-empty .spec.schedulingGates"
        )));
    }
    set(pod, "spec.nodeName", binding.text("target.name"));
    crate::access::remove(pod, "status.nominatedNodeName");
    for (key, value) in binding.entries("metadata.annotations") {
        slot(pod, "metadata.annotations");
        pod["metadata"]["annotations"][key] = value.clone();
    }
    // Labels of the node's topology, which admission put into the binding.
    for (key, value) in binding.entries("metadata.labels") {
        slot(pod, "metadata.labels");
        pod["metadata"]["labels"][key] = value.clone();
    }
    set_scheduled(pod, context);
    Ok(())
}

fn set_scheduled(pod: &mut Value, context: &Context<'_>) {
    let conditions = slot(pod, "status.conditions");
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(list) = conditions.as_array_mut() else {
        return;
    };
    let now = timestamp(context.now);
    match list.iter_mut().find(|c| c.text("type") == "PodScheduled") {
        Some(condition) if condition.text("status") == "True" => {}
        Some(condition) => {
            *condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
        }
        None => list.push(json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now})),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    #[test]
    fn a_pod_is_bound_once() {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {}});
        assign(&mut pod, &binding, &context).unwrap();
        assert_eq!(pod.text("spec.nodeName"), "n1");
        assert_eq!(pod["status"]["conditions"][0]["type"], "PodScheduled");
        let error = assign(&mut pod, &binding, &context).unwrap_err();
        assert_eq!(
            error.message,
            "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n1\""
        );
    }

    #[test]
    fn a_binding_names_a_node() {
        let found: Vec<String> = validate(&json!({"target": {"kind": "Pod"}}))
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            found,
            [
                "target.kind: Unsupported value: \"Pod\": supported values: \"Node\", \"<empty>\"",
                "target.name: Required value"
            ]
        );
    }
}
