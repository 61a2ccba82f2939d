//! What an update may change of a pod: images, the deadline, more tolerations, fewer gates.

use keelson_api::field::{Error, ErrorList, Path, quote};
use keelson_api::names;
use serde_json::Value;

use super::{MIRROR, metadata_and_spec};
use crate::access::{Access, copy, same};

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
const CONTAINER_LISTS: [&str; 2] = ["containers", "initContainers"];

/// Everything wrong with a changed pod.
pub(super) fn validate(new: &Value, old: &Value) -> ErrorList {
    let mut errors = metadata_and_spec(new);
    annotations(&mut errors, new, old);
    let path = Path::new("spec");
    for list in CONTAINER_LISTS {
        if new.part("spec").items(list).len() != old.part("spec").items(list).len() {
            errors.push(Error::forbidden(
                &path.child(list),
                "pod updates may not add or remove containers",
            ));
            return errors;
        }
    }
    deadline(&mut errors, new, old, &path.child("activeDeadlineSeconds"));
    only_more_tolerations(&mut errors, new, old, &path.child("tolerations"));
    only_fewer_gates(&mut errors, new, old, &path.child("schedulingGates"));
    if same(new.part("spec"), old.part("spec")) {
        return errors;
    }
    let mut munged = new.clone();
    undo_allowed(&mut munged, old);
    if !old.is_blank("spec.schedulingGates") {
        gated(&mut errors, &mut munged, old, &path);
    }
    if !same(munged.part("spec"), old.part("spec")) {
        let mut changed = Vec::new();
        differences(munged.part("spec"), old.part("spec"), "spec", &mut changed);
        let detail = format!(
            "pod updates may not change fields other than {UPDATABLE}\n{}",
            changed.join("\n")
        );
        errors.push(Error::forbidden(&path, detail));
    }
    errors
}

/// The paths at which two values differ.
pub(crate) fn differences(new: &Value, old: &Value, path: &str, out: &mut Vec<String>) {
    match (new, old) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let (x, y) = (
                    a.get(key).unwrap_or(&Value::Null),
                    b.get(key).unwrap_or(&Value::Null),
                );
                if !same(x, y) {
                    differences(x, y, &format!("{path}.{key}"), out);
                }
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (x, y)) in a
                .iter()
                .zip(b)
                .enumerate()
                .filter(|(_, (x, y))| !same(x, y))
            {
                differences(x, y, &format!("{path}[{i}]"), out);
            }
        }
        _ => out.push(format!("{path}: {old} -> {new}")),
    }
}

pub(super) fn annotations(errors: &mut ErrorList, new: &Value, old: &Value) {
    let meta = Path::new("metadata");
    let path = meta.child("annotations");
    let get = |pod: &Value| pod.part("metadata.annotations").get(MIRROR).cloned();
    match (get(new), get(old)) {
        (None, Some(_)) => errors.push(Error::forbidden(
            &path.key(MIRROR),
            "may not remove or update mirror pod annotation",
        )),
        (Some(a), Some(b)) if a != b => {
            errors.push(Error::forbidden(
                &path.key(MIRROR),
                "may not remove or update mirror pod annotation",
            ));
        }
        (Some(_), None) => errors.push(Error::forbidden(
            &path.key(MIRROR),
            "may not add mirror pod annotation",
        )),
        _ => {}
    }
}

fn deadline(errors: &mut ErrorList, new: &Value, old: &Value, path: &Path<'_>) {
    const FIELD: &str = "spec.activeDeadlineSeconds";
    const MAX: i64 = i32::MAX as i64;
    match (new.int(FIELD), old.int(FIELD)) {
        (Some(seconds), before) => {
            if !(0..=MAX).contains(&seconds) {
                errors.push(Error::invalid(
                    path,
                    seconds,
                    names::inclusive_range_error(0, MAX),
                ));
            } else if before.is_some_and(|b| b < seconds) {
                errors.push(Error::invalid(
                    path,
                    seconds,
                    "must be less than or equal to previous value",
                ));
            }
        }
        (None, Some(_)) => errors.push(Error::invalid(
            path,
            Value::Null,
            "must not update from a positive integer to nil value",
        )),
        (None, None) => {}
    }
}

fn only_more_tolerations(errors: &mut ErrorList, new: &Value, old: &Value, path: &Path<'_>) {
    let now = new.items("spec.tolerations");
    for toleration in old.items("spec.tolerations") {
        let alike = |other: &Value| {
            ["key", "operator", "value", "effect"]
                .iter()
                .all(|f| other.text(f) == toleration.text(f))
        };
        if !now.iter().any(alike) {
            errors.push(Error::forbidden(
                path,
                "existing toleration can not be modified except its tolerationSeconds",
            ));
        }
    }
}

fn only_fewer_gates(errors: &mut ErrorList, new: &Value, old: &Value, path: &Path<'_>) {
    let had = old.items("spec.schedulingGates");
    for (i, gate) in new.items("spec.schedulingGates").iter().enumerate() {
        let name = gate.text("name");
        if !had.iter().any(|g| g.text("name") == name) {
            let detail =
                format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.push(Error::forbidden(&path.index(i).child("name"), detail));
        }
    }
}

/// Takes back every change that is allowed, so that what is left is not.
fn undo_allowed(pod: &mut Value, old: &Value) {
    for list in CONTAINER_LISTS {
        let images: Vec<Value> = old
            .part("spec")
            .items(list)
            .iter()
            .map(|c| c.part("image").clone())
            .collect();
        let path = format!("spec.{list}");
        for (container, image) in crate::access::items_mut(pod, &path).zip(images) {
            container["image"] = image;
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        copy(pod, old, &format!("spec.{field}"));
    }
    let grace = "spec.terminationGracePeriodSeconds";
    if old.number(grace) < 0 && pod.number(grace) == 1 {
        copy(pod, old, grace);
    }
}

/// A gated pod may still be told more of where to run.
fn gated(errors: &mut ErrorList, pod: &mut Value, old: &Value, path: &Path<'_>) {
    let selector = path.child("nodeSelector");
    for (key, value) in old.entries("spec.nodeSelector") {
        if pod.part("spec.nodeSelector").get(key) != Some(value) {
            errors.push(Error::invalid(
                &selector,
                pod.part("spec.nodeSelector"),
                "only additions are allowed (no mutations or deletions)",
            ));
            break;
        }
    }
    copy(pod, old, "spec.nodeSelector");
    let affinity = path.child("affinity.nodeAffinity");
    affinity_additions(
        errors,
        pod.part("spec.affinity.nodeAffinity"),
        old.part("spec.affinity.nodeAffinity"),
        &affinity,
    );
    let only_node = ["podAffinity", "podAntiAffinity"]
        .iter()
        .all(|k| pod.part("spec.affinity").is_blank(k));
    if only_node && !old.has("spec.affinity") {
        crate::access::remove(pod, "spec.affinity");
    } else {
        copy(pod, old, "spec.affinity.nodeAffinity");
    }
}

fn affinity_additions(errors: &mut ErrorList, new: &Value, old: &Value, path: &Path<'_>) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    if old.is_blank(REQUIRED) {
        return;
    }
    let at = path.child(REQUIRED);
    let terms = at.child("nodeSelectorTerms");
    let list = |affinity: &Value| affinity.part(REQUIRED).items("nodeSelectorTerms").to_vec();
    let (now, before) = (list(new), list(old));
    if before.is_empty() {
        return;
    }
    if now.len() != before.len() {
        errors.push(Error::invalid(
            &terms,
            now,
            "no additions/deletions to non-empty NodeSelectorTerms list are allowed",
        ));
        return;
    }
    for (i, (term, had)) in now.iter().zip(&before).enumerate() {
        let added = |field: &str| {
            let (a, b) = (term.items(field), had.items(field));
            a.len() >= b.len() && a[..b.len()] == *b
        };
        if !added("matchExpressions") || !added("matchFields") {
            let detail = "only additions are allowed (no mutations or deletions)";
            errors.push(Error::invalid(&terms.index(i), term, detail));
        }
    }
}

/// The names of ephemeral containers that were there and are not, or are different.
pub(super) fn ephemeral_changes(errors: &mut ErrorList, new: &Value, old: &Value) {
    let spec = Path::new("spec");
    let path = spec.child("ephemeralContainers");
    let now = new.items("spec.ephemeralContainers");
    for had in old.items("spec.ephemeralContainers") {
        let name = had.text("name");
        match now.iter().find(|c| c.text("name") == name) {
            None => errors.push(Error::forbidden(
                &path,
                format!(
                    "existing ephemeral containers {} may not be removed\n",
                    quote(name)
                ),
            )),
            Some(found) if !same(found, had) => {
                let mut changed = Vec::new();
                differences(found, had, name, &mut changed);
                let detail = format!(
                    "existing ephemeral containers {} may not be changed\n{}",
                    quote(name),
                    changed.join("\n")
                );
                errors.push(Error::forbidden(&path, detail));
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::Strategy as _;
    use serde_json::json;

    fn pod() -> Value {
        let mut pod = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": [{"name": "c", "image": "a:1"}],
            "tolerations": [{"key": "k", "operator": "Exists"}], "activeDeadlineSeconds": 10}});
        super::super::Rules.default(&mut pod);
        pod
    }

    fn of(change: impl Fn(&mut Value)) -> Vec<String> {
        let old = pod();
        let mut new = pod();
        change(&mut new);
        validate(&new, &old)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn what_may_change() {
        assert!(of(|p| p["spec"]["containers"][0]["image"] = "b:2".into()).is_empty());
        assert!(of(|p| p["spec"]["activeDeadlineSeconds"] = 5.into()).is_empty());
        assert!(
            of(|p| p["spec"]["tolerations"]
                .as_array_mut()
                .unwrap()
                .push(json!({"key": "x", "operator": "Exists"})))
            .is_empty()
        );
        assert!(of(|p| p["metadata"]["labels"] = json!({"a": "b"})).is_empty());
    }

    #[test]
    fn what_may_not_change() {
        let errors = of(|p| p["spec"]["hostname"] = "x".into());
        assert!(errors[0].starts_with("spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"), "{errors:?}");
        assert!(
            errors[0].ends_with("spec.hostname: null -> \"x\""),
            "{errors:?}"
        );
        assert_eq!(
            of(|p| p["spec"]["activeDeadlineSeconds"] = 20.into()),
            [
                "spec.activeDeadlineSeconds: Invalid value: 20: must be less than or equal to previous value"
            ]
        );
        assert_eq!(
            of(|p| p["spec"]["tolerations"] = json!([])),
            [
                "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"
            ]
        );
        assert_eq!(
            of(|p| {
                let mut second = p["spec"]["containers"][0].clone();
                second["name"] = "d".into();
                p["spec"]["containers"].as_array_mut().unwrap().push(second);
            }),
            ["spec.containers: Forbidden: pod updates may not add or remove containers"]
        );
        assert_eq!(
            of(|p| p["spec"]["schedulingGates"] = json!([{"name": "g"}])),
            [
                "spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'g'"
            ]
        );
    }
}
