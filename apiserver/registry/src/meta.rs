//! Rules of `metadata`, the same for every kind.

use std::collections::BTreeSet;

use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names::{self, NameRule};
use serde_json::Value;

use crate::access::{Access, same};

const IMMUTABLE: &str = "field is immutable";
const ANNOTATIONS_MAX: usize = 256 * 1024;

/// What is wrong with the metadata of a new object.
#[must_use]
pub fn validate(object: &Value, rule: NameRule, namespaced: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    let meta = object.part("metadata");
    let path = Path::new("metadata");
    let (name, prefix, namespace) = (
        meta.text("name"),
        meta.text("generateName"),
        meta.text("namespace"),
    );
    if !prefix.is_empty() {
        faults(
            &mut errors,
            &path.child("generateName"),
            prefix,
            rule.check(prefix, true),
        );
    }
    if name.is_empty() {
        errors.push(Error::required(
            &path.child("name"),
            "name or generateName is required",
        ));
    } else {
        faults(
            &mut errors,
            &path.child("name"),
            name,
            rule.check(name, false),
        );
    }
    let at = path.child("namespace");
    match (namespaced, namespace) {
        (true, "") => errors.push(Error::required(&at, "")),
        (true, namespace) => faults(
            &mut errors,
            &at,
            namespace,
            NameRule::Label.check(namespace, false),
        ),
        (false, "") => {}
        (false, _) => errors.push(Error::forbidden(&at, "not allowed on this type")),
    }
    if meta.number("generation") < 0 {
        errors.push(Error::invalid(
            &path.child("generation"),
            meta.number("generation"),
            "must be greater than or equal to 0",
        ));
    }
    common(&mut errors, meta, &path);
    finalizers(&mut errors, meta, &path.child("finalizers"));
    errors
}

/// What is wrong with the metadata of a changed object.
#[must_use]
pub fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (new, old) = (new.part("metadata"), old.part("metadata"));
    let path = Path::new("metadata");
    if old.has("deletionTimestamp") {
        let had: BTreeSet<&str> = old
            .items("finalizers")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        let added: BTreeSet<&str> = new
            .items("finalizers")
            .iter()
            .filter_map(Value::as_str)
            .filter(|f| !had.contains(f))
            .collect();
        if !added.is_empty() {
            let list: Vec<String> = added.iter().map(|f| keelson_api::field::quote(f)).collect();
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                list.join(", ")
            );
            errors.push(Error::forbidden(&path.child("finalizers"), detail));
        }
    }
    if new.number("generation") < old.number("generation") {
        errors.push(Error::invalid(
            &path.child("generation"),
            new.number("generation"),
            "must not be decremented",
        ));
    }
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        immutable(
            &mut errors,
            new.part(field),
            old.part(field),
            &path.child(field),
        );
    }
    common(&mut errors, new, &path);
    errors
}

fn common(errors: &mut ErrorList, meta: &Value, path: &Path<'_>) {
    labels(errors, meta.part("labels"), &path.child("labels"));
    annotations(errors, meta.part("annotations"), &path.child("annotations"));
    owners(errors, meta, &path.child("ownerReferences"));
    managers(errors, meta, &path.child("managedFields"));
}

/// An error for each fault of `value`.
pub fn faults(errors: &mut ErrorList, path: &Path<'_>, value: &str, faults: names::Faults) {
    errors.extend(
        faults
            .into_iter()
            .map(|fault| Error::invalid(path, value, fault)),
    );
}

/// An error if the values differ.
pub fn immutable(errors: &mut ErrorList, new: &Value, old: &Value, path: &Path<'_>) {
    if !same(new, old) {
        errors.push(Error::invalid(path, new, IMMUTABLE));
    }
}

/// What is wrong with a map of labels.
pub fn labels(errors: &mut ErrorList, labels: &Value, path: &Path<'_>) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        faults(errors, path, key, names::qualified_name(key));
        let value = value.as_str().unwrap_or_default();
        faults(errors, path, value, names::label_value(value));
    }
}

/// What is wrong with a map of annotations.
pub fn annotations(errors: &mut ErrorList, annotations: &Value, path: &Path<'_>) {
    let mut size = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        // The prefix's case does not matter in annotations.
        faults(
            errors,
            path,
            key,
            names::qualified_name(&key.to_lowercase()),
        );
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_MAX {
        errors.push(Error::too_long(path, ANNOTATIONS_MAX));
    }
}

fn owners(errors: &mut ErrorList, meta: &Value, path: &Path<'_>) {
    let mut controller: Option<String> = None;
    for owner in meta.items("ownerReferences") {
        let (version, kind, name) = (
            owner.text("apiVersion"),
            owner.text("kind"),
            owner.text("name"),
        );
        if version.rsplit('/').next().unwrap_or_default().is_empty() {
            errors.push(Error::invalid(
                &path.child("apiVersion"),
                version,
                "version must not be empty",
            ));
        }
        for field in ["kind", "name", "uid"] {
            if owner.text(field).is_empty() {
                errors.push(Error::invalid(&path.child(field), "", "must not be empty"));
            }
        }
        if version == "v1" && kind == "Event" {
            errors.push(Error::invalid(
                path,
                owner,
                "/v1, Kind=Event is disallowed from being an owner",
            ));
        }
        if owner.flag("controller") {
            let this = format!("{kind}/{name}");
            match &controller {
                Some(first) => {
                    let detail = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                    );
                    errors.push(Error::invalid(path, meta.part("ownerReferences"), detail));
                }
                None => controller = Some(this),
            }
        }
    }
}

/// Finalizers that need no domain.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

fn finalizers(errors: &mut ErrorList, meta: &Value, path: &Path<'_>) {
    let list = meta.items("finalizers");
    for finalizer in list.iter().filter_map(Value::as_str) {
        faults(errors, path, finalizer, names::qualified_name(finalizer));
    }
    for (i, finalizer) in list.iter().enumerate() {
        let name = finalizer.as_str().unwrap_or_default();
        if !name.contains('/') && !STANDARD_FINALIZERS.contains(&name) {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(Error::invalid(&path.index(i), name, why));
        }
    }
    let has = |name: &str| list.iter().any(|f| f == name);
    if has("orphan") && has("foregroundDeletion") {
        errors.push(Error::invalid(
            path,
            list,
            "finalizer orphan and foregroundDeletion cannot be both set",
        ));
    }
}

fn managers(errors: &mut ErrorList, meta: &Value, path: &Path<'_>) {
    for (i, entry) in meta.items("managedFields").iter().enumerate() {
        let at = path.index(i);
        let operation = entry.text("operation");
        if !matches!(operation, "Apply" | "Update") {
            errors.push(Error::invalid(
                &at.child("operation"),
                operation,
                "must be `Apply` or `Update`",
            ));
        }
        let fields_type = entry.text("fieldsType");
        if !fields_type.is_empty() && fields_type != "FieldsV1" {
            errors.push(Error::invalid(
                &at.child("fieldsType"),
                fields_type,
                "must be `FieldsV1`",
            ));
        }
        field_manager(errors, entry.text("manager"), &at.child("manager"));
        if entry.text("subresource").len() > 256 {
            errors.push(Error::too_long(&at.child("subresource"), 256));
        }
    }
}

/// What is wrong with the name of a field manager.
pub fn field_manager(errors: &mut ErrorList, manager: &str, path: &Path<'_>) {
    if manager.len() > 128 {
        errors.push(Error::too_long(path, 128));
    }
    for (i, c) in manager.char_indices().filter(|(_, c)| c.is_control()) {
        errors.push(Error::invalid(
            path,
            manager,
            format!("invalid character U+{:04X} (at position {i})", c as u32),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn messages(errors: &[Error]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn new_metadata() {
        let cases = [
            (json!({"name": "a", "namespace": "b"}), true, vec![]),
            (
                json!({"namespace": "b"}),
                true,
                vec!["metadata.name: Required value: name or generateName is required"],
            ),
            (
                json!({"name": "a"}),
                true,
                vec!["metadata.namespace: Required value"],
            ),
            (
                json!({"name": "a", "namespace": "b"}),
                false,
                vec!["metadata.namespace: Forbidden: not allowed on this type"],
            ),
            (
                json!({"name": "a", "labels": {"a": "-"}}),
                false,
                vec![
                    "metadata.labels: Invalid value: \"-\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
                ],
            ),
            (
                json!({"name": "a", "finalizers": ["orphan", "foregroundDeletion"]}),
                false,
                vec![
                    "metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan and foregroundDeletion cannot be both set",
                ],
            ),
        ];
        for (meta, namespaced, want) in cases {
            assert_eq!(
                messages(&validate(
                    &json!({"metadata": meta}),
                    NameRule::Subdomain,
                    namespaced
                )),
                want
            );
        }
    }

    #[test]
    fn changed_metadata() {
        let old = json!({"metadata": {"name": "a", "uid": "1", "deletionTimestamp": "x", "finalizers": ["a/b"]}});
        let new = json!({"metadata": {"name": "b", "uid": "1", "deletionTimestamp": "x", "finalizers": ["a/b", "c/d"]}});
        assert_eq!(
            messages(&validate_update(&new, &old)),
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"c/d\"}",
                "metadata.name: Invalid value: \"b\": field is immutable",
            ]
        );
    }
}
