//! The conditions of definitions: which names they get, and whether they are served.

use keelson_api::field::{Path, aggregate};
use keelson_extensions::Names;
use keelson_extensions::check::{approval, structural};
use keelson_extensions::names::{self, Taken, condition, is_true, set_condition};
use keelson_registry::access::Access;
use serde_json::{Value, json};

/// The definition with the conditions it should have, in view of all others.
pub fn next(crd: &Value, all: &[Value], now: &str) -> Value {
    let mut next = crd.clone();
    accept_names(&mut next, all, now);
    match approval::condition(crd) {
        Some(found) => set_if_changed(&mut next, found, now),
        None => drop_condition(&mut next, "KubernetesAPIApprovalPolicyConformant"),
    }
    match violations(crd) {
        Some(found) => set_if_changed(&mut next, found, now),
        None => drop_condition(&mut next, "NonStructuralSchema"),
    }
    next
}

/// The condition that says that a definition is served.
pub fn establish(crd: &mut Value, now: &str) {
    let established = json!({"type": "Established", "status": "True", "reason": "InitialNamesAccepted",
        "message": "the initial names have been accepted"});
    set_if_changed(crd, established, now);
}

fn accept_names(crd: &mut Value, all: &[Value], now: &str) {
    let (group, name) = (crd.text("spec.group"), crd.text("metadata.name"));
    let mut taken = Taken::default();
    for other in all {
        if other.text("spec.group") == group && other.text("metadata.name") != name {
            taken.add(&Names::of(other.part("status.acceptedNames")));
        }
    }
    // A definition's own accepted names are taken too, but by itself.
    let requested = Names::of(crd.part("spec.names"));
    let accepted = Names::of(crd.part("status.acceptedNames"));
    if requested == accepted && condition(crd, "NamesAccepted").is_some() {
        return;
    }
    let (names, found) = names::accept(&requested, &accepted, &taken);
    let are_accepted = found["status"] == "True";
    crd["status"]["acceptedNames"] = names::to_value(&names);
    set_if_changed(crd, found, now);
    if is_true(crd, "Established") {
        return;
    }
    let (reason, message) = if are_accepted {
        ("Installing", "the initial names have been accepted")
    } else {
        ("NotAccepted", "not all names are accepted")
    };
    let not_yet =
        json!({"type": "Established", "status": "False", "reason": reason, "message": message});
    set_if_changed(crd, not_yet, now);
}

fn violations(crd: &Value) -> Option<Value> {
    let mut errors = Vec::new();
    let unknown = |why: String| json!({"type": "NonStructuralSchema", "status": "Unknown", "reason": "StructuralError", "message": why});
    let spec = Path::new("spec");
    let versions = spec.child("versions");
    for (at, version) in crd.items("spec.versions").iter().enumerate() {
        let schema = version.part("schema.openAPIV3Schema");
        if schema.is_null() {
            continue;
        }
        if let Some(why) = structural::unsupported(schema) {
            let name = version.text("name");
            return Some(unknown(format!(
                "failed to check validation schema for version {name}: {why}"
            )));
        }
        let place = versions.index(at);
        let schema_path = place.child("schema");
        errors.extend(structural::check(
            schema,
            &schema_path.child("openAPIV3Schema"),
        ));
    }
    if crd.flag("spec.preserveUnknownFields") {
        let path = spec.child("preserveUnknownFields");
        errors.push(keelson_api::field::Error::invalid(
            &path,
            true,
            "must be false",
        ));
    }
    (!errors.is_empty()).then(|| {
        json!({"type": "NonStructuralSchema", "status": "True", "reason": "Violations", "message": aggregate(&errors)})
    })
}

fn set_if_changed(crd: &mut Value, wanted: Value, now: &str) {
    let ty = wanted.text("type");
    let same = condition(crd, ty).is_some_and(|c| {
        ["status", "reason", "message"]
            .iter()
            .all(|k| c.text(k) == wanted.text(k))
    });
    if !same {
        set_condition(crd, wanted, now);
    }
}

fn drop_condition(crd: &mut Value, ty: &str) {
    if condition(crd, ty).is_none() {
        return;
    }
    if let Some(conditions) = crd["status"]["conditions"].as_array_mut() {
        conditions.retain(|c| c["type"] != ty);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crd(name: &str, kind: &str) -> Value {
        json!({"metadata": {"name": format!("{name}.g.x")}, "spec": {"group": "g.x", "names": {"plural": name, "singular": name, "kind": kind, "listKind": format!("{kind}List")},
            "versions": [{"name": "v1", "schema": {"openAPIV3Schema": {"type": "object"}}}]}, "status": {}})
    }

    #[test]
    fn the_second_of_a_kind_is_not_accepted() {
        let first = next(&crd("foos", "Foo"), &[], "t");
        assert!(is_true(&first, "NamesAccepted"));
        assert_eq!(
            condition(&first, "Established").map(|c| c["reason"].clone()),
            Some("Installing".into())
        );
        let second = next(&crd("bars", "Foo"), std::slice::from_ref(&first), "t");
        assert_eq!(
            condition(&second, "NamesAccepted").map(|c| c["reason"].clone()),
            // Both kind and list kind are taken; the last one that is looked at is told.
            Some("ListKindConflict".into())
        );
        assert_eq!(
            condition(&second, "Established").map(|c| c["reason"].clone()),
            Some("NotAccepted".into())
        );
        let mut established = first.clone();
        establish(&mut established, "t");
        assert_eq!(next(&established, &[], "later"), established);
    }
}
