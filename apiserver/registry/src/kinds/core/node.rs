//! Node: a machine that runs pods.

use std::borrow::Cow;
use std::collections::BTreeSet;

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use serde_json::Value;

use crate::access::{Access, copy, remove, set};
use crate::columns::{AGE, Column, NAME, text, wide};
use crate::meta::faults;
use crate::print;
use crate::strategy::{Context, Keep, StatusUpdate, Strategy, path_field};
use crate::validation::{cidr, resource_quantity, taint_effect};

/// The rules of Node.
pub struct Rules;

static STATUS: StatusUpdate = StatusUpdate {
    kind: &Rules,
    keep: Keep::Nothing,
    check: update_check,
};

impl Strategy for Rules {
    fn subresource(&self, name: &str) -> Option<&'static dyn Strategy> {
        (name == "status").then_some(&STATUS)
    }

    fn default(&self, node: &mut Value) {
        if !node.is_blank("status.capacity") && !node.has("status.allocatable") {
            let capacity = node.part("status.capacity").clone();
            set(node, "status.allocatable", capacity);
        }
        // The old single range and the list are kept alike.
        let (one, first) = (
            node.text("spec.podCIDR").to_string(),
            node.items("spec.podCIDRs").first().cloned(),
        );
        match first {
            None if !one.is_empty() => set(node, "spec.podCIDRs", vec![one]),
            Some(first) if one.is_empty() => set(node, "spec.podCIDR", first),
            _ => {}
        }
    }

    fn prepare_for_create(&self, node: &mut Value, _context: &Context<'_>) {
        remove(node, "spec.configSource");
        remove(node, "status.config");
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        copy(new, old, "status");
        if !old.has("spec.configSource") {
            remove(new, "spec.configSource");
        }
    }

    fn validate(&self, node: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        taints(&mut errors, node);
        resources(&mut errors, node);
        pod_ranges(&mut errors, node);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
        let mut errors = self.validate(new, context);
        errors.extend(update_check(new, old));
        errors
    }

    fn warnings(&self, node: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut warnings = Vec::new();
        if node.has("spec.configSource") {
            warnings.push("spec.configSource: the feature is removed".into());
        }
        if !node.text("spec.externalID").is_empty() {
            warnings.push(
                "spec.externalID: this field is deprecated, and is unused by Kubernetes".into(),
            );
        }
        warnings
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        &["status"]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            text("Status", "Whether the node is ready and takes pods."),
            text("Roles", "What the node is for, by its labels."),
            AGE,
            text("Version", "The kubelet's version."),
            wide("Internal-IP", "The address within the cluster."),
            wide("External-IP", "The address from outside."),
            wide("OS-Image", "The operating system."),
            wide("Kernel-Version", "The kernel."),
            wide("Container-Runtime", "What runs the containers."),
        ];
        COLUMNS
    }

    fn row(&self, node: &Value, now: Timestamp) -> Vec<Value> {
        let ready = node
            .items("status.conditions")
            .iter()
            .find(|c| c.text("type") == "Ready");
        let mut status = match ready.map(|c| c.text("status")) {
            Some("True") => "Ready",
            Some(_) => "NotReady",
            None => "Unknown",
        }
        .to_string();
        if node.flag("spec.unschedulable") {
            status.push_str(",SchedulingDisabled");
        }
        let address = |kind: &str| {
            let found = node
                .items("status.addresses")
                .iter()
                .find(|a| a.text("type") == kind);
            found.map_or("<none>", |a| a.text("address"))
        };
        let info =
            |key: &str| print::or(node.part("status.nodeInfo").text(key), "<unknown>").to_string();
        let mut kernel = info("kernelVersion");
        let architecture = node.text("status.nodeInfo.architecture");
        if !architecture.is_empty() {
            kernel = format!("{kernel} ({architecture})");
        }
        vec![
            print::name(node),
            status.into(),
            roles(node).into(),
            print::age(node, now),
            node.text("status.nodeInfo.kubeletVersion").into(),
            address("InternalIP").into(),
            address("ExternalIP").into(),
            info("osImage").into(),
            kernel.into(),
            info("containerRuntimeVersion").into(),
        ]
    }

    fn field_labels(&self) -> &'static [&'static str] {
        &["spec.unschedulable"]
    }

    fn field<'o>(&self, node: &'o Value, label: &str) -> Cow<'o, str> {
        match label {
            "spec.unschedulable" if !node.has(label) => Cow::Borrowed("false"),
            _ => path_field(node, label),
        }
    }
}

fn roles(node: &Value) -> String {
    let mut roles = BTreeSet::new();
    for (key, value) in node.entries("metadata.labels") {
        if let Some(role) = key
            .strip_prefix("node-role.kubernetes.io/")
            .filter(|r| !r.is_empty())
        {
            roles.insert(role);
        } else if key == "kubernetes.io/role" {
            roles.extend(value.as_str().filter(|v| !v.is_empty()));
        }
    }
    let list: Vec<&str> = roles.into_iter().collect();
    print::or(&list.join(","), "<none>").to_string()
}

fn taints(errors: &mut ErrorList, node: &Value) {
    // Upstream finds taints below metadata.
    let meta = Path::new("metadata");
    let list = meta.child("taints");
    let mut seen = BTreeSet::new();
    for (i, taint) in node.items("spec.taints").iter().enumerate() {
        let path = list.index(i);
        let (key, value, effect) = (taint.text("key"), taint.text("value"), taint.text("effect"));
        faults(errors, &path.child("key"), key, names::qualified_name(key));
        let found = names::label_value(value);
        if !found.is_empty() {
            errors.push(Error::invalid(&path.child("value"), value, found.join(";")));
        }
        taint_effect(errors, effect, &path.child("effect"));
        if !seen.insert((effect, key)) {
            let mut error = Error::duplicate(&path, taint);
            error.detail = "taints must be unique by key and effect pair".into();
            errors.push(error);
        }
    }
}

fn resources(errors: &mut ErrorList, node: &Value) {
    let status = Path::new("status");
    for side in ["capacity", "allocatable"] {
        let path = status.child(side);
        for (name, amount) in node.part("status").entries(side) {
            resource_quantity(errors, name, amount, &path.child(name));
        }
    }
}

fn pod_ranges(errors: &mut ErrorList, node: &Value) {
    let spec = Path::new("spec");
    let path = spec.child("podCIDRs");
    let ranges = node.items("spec.podCIDRs");
    let parsed: Vec<_> = ranges
        .iter()
        .enumerate()
        .filter_map(|(i, r)| cidr(errors, r.as_str().unwrap_or_default(), &path.index(i)))
        .collect();
    let families = (
        parsed.iter().any(|r| r.addr().is_ipv4()),
        parsed.iter().any(|r| r.addr().is_ipv6()),
    );
    if ranges.len() > 2 || (ranges.len() == 2 && families != (true, true)) {
        errors.push(Error::invalid(
            &path,
            ranges,
            "may specify no more than one CIDR for each IP family",
        ));
    }
}

/// What may not change, on updates of the node and of its status.
fn update_check(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    resources(&mut errors, new);
    let (status, spec) = (Path::new("status"), Path::new("spec"));
    let addresses = new.items("status.addresses");
    for (i, address) in addresses.iter().enumerate() {
        if addresses[..i].contains(address) {
            errors.push(Error::duplicate(
                &status.child("addresses").index(i),
                address,
            ));
        }
    }
    if !old.is_blank("spec.podCIDRs") && new.items("spec.podCIDRs") != old.items("spec.podCIDRs") {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        errors.push(Error::forbidden(&spec.child("podCIDRs"), detail));
    }
    if !old.text("spec.providerID").is_empty()
        && new.text("spec.providerID") != old.text("spec.providerID")
    {
        let detail = "node updates may not change providerID except from \"\" to valid";
        errors.push(Error::forbidden(&spec.child("providerID"), detail));
    }
    if new.text("spec.externalID") != old.text("spec.externalID") {
        errors.push(Error::forbidden(
            &spec.child("externalID"),
            "may not be updated",
        ));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_nodes_row() {
        let node = json!({
            "metadata": {"name": "n", "creationTimestamp": "2024-01-01T00:00:00Z", "labels": {"node-role.kubernetes.io/control-plane": ""}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
                       "nodeInfo": {"kubeletVersion": "v1.36.2", "kernelVersion": "6.1", "architecture": "amd64"}}
        });
        let cells = Rules.row(&node, "2024-01-01T00:05:00Z".parse().unwrap());
        let want = [
            "n",
            "Ready,SchedulingDisabled",
            "control-plane",
            "5m",
            "v1.36.2",
            "10.0.0.1",
            "<none>",
            "<unknown>",
            "6.1 (amd64)",
            "<unknown>",
        ];
        assert_eq!(cells, want);
    }

    #[test]
    fn taints_and_ranges_are_checked() {
        let node = json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule"}, {"key": "b"}],
                                   "podCIDRs": ["10.0.0.0/24", "10.0.1.0/24"]}});
        let found: Vec<String> = Rules
            .validate(&node, &Context::at(Timestamp::UNIX_EPOCH))
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            found[0],
            "metadata.taints[1]: Duplicate value: {\"effect\":\"NoSchedule\",\"key\":\"a\"}: taints must be unique by key and effect pair"
        );
        assert_eq!(found[1], "metadata.taints[2].effect: Required value");
        assert!(found[2].ends_with("may specify no more than one CIDR for each IP family"));
    }

    #[test]
    fn a_range_stays_once_given() {
        let old = json!({"spec": {"podCIDRs": ["10.0.0.0/24"]}});
        assert_eq!(update_check(&json!({"spec": {}}), &old).len(), 1);
        assert!(update_check(&old, &json!({"spec": {}})).is_empty());
    }
}
