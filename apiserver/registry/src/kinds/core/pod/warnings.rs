//! What a client is warned of when it creates a pod.

use std::collections::BTreeSet;

use keelson_api::names;
use serde_json::Value;

use crate::access::Access;

/// The warnings for a new pod.
pub(super) fn of(pod: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    let found = names::dns1123_label(pod.text("metadata.name"));
    if !found.is_empty() {
        let list = found.join(" ");
        warnings.push(format!(
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [{list}]"
        ));
    }
    warnings.extend(of_spec(pod.part("spec"), "spec"));
    warnings
}

/// The warnings for a pod specification at `path`.
pub(crate) fn of_spec(spec: &Value, path: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    for (i, volume) in spec.items("volumes").iter().enumerate() {
        if volume.has("gitRepo") {
            warnings.push(format!("{path}.volumes[{i}].gitRepo: deprecated in v1.11, and disabled by default in v1.33+"));
        }
    }
    for (i, constraint) in spec.items("topologySpreadConstraints").iter().enumerate() {
        if !constraint.has("labelSelector") {
            warnings.push(format!(
                "{path}.topologySpreadConstraints[{i}].labelSelector: a null labelSelector results in matching no pod"
            ));
        }
    }
    warnings.extend(of_lists(spec, path));
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (i, container) in spec.items(list).iter().enumerate() {
            let mut seen: BTreeSet<&str> = BTreeSet::new();
            for (j, variable) in container.items("env").iter().enumerate() {
                let name = variable.text("name");
                if !seen.insert(name) && !references(variable.text("value"), name) {
                    warnings.push(format!(
                        "{path}.{list}[{i}].env[{j}]: hides previous definition of \"{name}\", which may be dropped when using apply"
                    ));
                }
            }
        }
    }
    warnings
}

/// Entries that come twice, and amounts of less than a byte.
fn of_lists(spec: &Value, path: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut seen = BTreeSet::new();
    for (i, alias) in spec.items("hostAliases").iter().enumerate() {
        let ip = alias.text("ip");
        if !seen.insert(ip) {
            warnings.push(format!("{path}.hostAliases[{i}].ip: duplicate ip {ip:?}"));
        }
    }
    let mut seen = BTreeSet::new();
    for (i, secret) in spec.items("imagePullSecrets").iter().enumerate() {
        let name = secret.text("name");
        let at = format!("{path}.imagePullSecrets[{i}].name");
        if name.is_empty() {
            warnings.push(format!("{at}: invalid empty name {name:?}"));
        } else if !seen.insert(name) {
            warnings.push(format!("{at}: duplicate name {name:?}"));
        }
    }
    for list in ["initContainers", "containers"] {
        for (i, container) in spec.items(list).iter().enumerate() {
            for resource in ["memory", "ephemeral-storage"] {
                for amounts in ["limits", "requests"] {
                    let amount = container.part("resources").part(amounts).text(resource);
                    if amount.ends_with('m') {
                        warnings.push(format!(
                            "{path}.{list}[{i}].resources.{amounts}[{resource}]: fractional byte value {amount:?} is invalid, must be an integer"
                        ));
                    }
                }
            }
        }
    }
    warnings
}

/// A variable that is made of its own former value hides nothing.
fn references(value: &str, name: &str) -> bool {
    value.contains(&format!("$({name})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn odd_names_and_repeated_variables() {
        let pod = json!({"metadata": {"name": "a.b"}, "spec": {"containers": [{"env": [{"name": "X"}, {"name": "X"}, {"name": "X", "value": "$(X)1"}]}]}});
        let found = of(&pod);
        assert_eq!(found.len(), 2);
        assert!(found[0].ends_with("a DNS label is recommended: [must not contain dots]"));
        assert_eq!(
            found[1],
            "spec.containers[0].env[1]: hides previous definition of \"X\", which may be dropped when using apply"
        );
    }
}
