//! PersistentVolumeClaim: a wish for storage.

use std::collections::BTreeSet;

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use keelson_api::quantity::Quantity;
use serde_json::{Value, json};

use super::pod::differences;
use crate::access::{Access, copy, part_mut, remove, same, set, set_default, set_default_text};
use crate::columns::{AGE, Column, NAME, text, wide};
use crate::meta::{faults, immutable};
use crate::print;
use crate::strategy::{Context, Keep, StatusUpdate, Strategy};
use crate::validation::{checked, label_selector, one_of, quantity, required};

/// How a volume may be mounted, with the abbreviations of tables.
pub const ACCESS_MODES: &[(&str, &str)] = &[
    ("ReadOnlyMany", "ROX"),
    ("ReadWriteMany", "RWX"),
    ("ReadWriteOnce", "RWO"),
    ("ReadWriteOncePod", "RWOP"),
];
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// The rules of PersistentVolumeClaim.
pub struct Rules;

static STATUS: StatusUpdate = StatusUpdate {
    kind: &Rules,
    keep: Keep::Nothing,
    check: status_check,
};

/// Fills in a claim, in a template too.
pub fn default(claim: &mut Value) {
    set_default_text(claim, "status.phase", "Pending");
    if let Some(spec) = part_mut(claim, "spec") {
        set_default(spec, "volumeMode", "Filesystem");
    }
}

impl Strategy for Rules {
    fn subresource(&self, name: &str) -> Option<&'static dyn Strategy> {
        (name == "status").then_some(&STATUS)
    }

    fn default(&self, claim: &mut Value) {
        default(claim);
    }

    fn prepare_for_create(&self, claim: &mut Value, _context: &Context<'_>) {
        set(claim, "status", json!({"phase": "Pending"}));
        normalise_sources(claim);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        copy(new, old, "status");
        normalise_sources(new);
    }

    fn validate(&self, claim: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        validate_spec(&mut errors, claim.part("spec"), &Path::new("spec"));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
        let mut errors = self.validate(new, context);
        update(&mut errors, new, old);
        errors
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        &["status"]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            text("Status", "Whether it has a volume."),
            text("Volume", "Its volume."),
            text("Capacity", "The volume's size."),
            text("Access Modes", "How the volume may be mounted."),
            text("StorageClass", "The class of storage wished for."),
            text(
                "VolumeAttributesClass",
                "The class of attributes wished for.",
            ),
            AGE,
            wide("VolumeMode", "Whether it is a filesystem or a device."),
        ];
        COLUMNS
    }

    fn row(&self, claim: &Value, now: Timestamp) -> Vec<Value> {
        let phase = if claim.has("metadata.deletionTimestamp") {
            "Terminating"
        } else {
            claim.text("status.phase")
        };
        let volume = claim.text("spec.volumeName");
        let (capacity, modes) = if volume.is_empty() {
            (String::new(), String::new())
        } else {
            let size = claim
                .part("status.capacity")
                .get("storage")
                .map_or("0".to_string(), |s| quantity(s).to_string());
            (size, short_modes(claim.items("status.accessModes")))
        };
        vec![
            print::name(claim),
            phase.into(),
            volume.into(),
            capacity.into(),
            modes.into(),
            class_of(claim).into(),
            print::or(claim.text("spec.volumeAttributesClassName"), "<unset>").into(),
            print::age(claim, now),
            print::or(claim.text("spec.volumeMode"), "<unset>").into(),
        ]
    }
}

/// The class of a claim or volume, in the old annotation or the field.
#[must_use]
pub fn class_of(object: &Value) -> &str {
    let old = object
        .part("metadata.annotations")
        .get(OLD_CLASS)
        .and_then(Value::as_str);
    old.unwrap_or_else(|| object.text("spec.storageClassName"))
}

/// Access modes as tables abbreviate them, each once.
#[must_use]
pub fn short_modes(modes: &[Value]) -> String {
    let order = [
        "ReadWriteOnce",
        "ReadOnlyMany",
        "ReadWriteMany",
        "ReadWriteOncePod",
    ];
    let short = |mode: &str| {
        ACCESS_MODES
            .iter()
            .find(|(m, _)| *m == mode)
            .map_or("", |(_, s)| *s)
    };
    order
        .iter()
        .filter(|m| modes.iter().any(|v| v == **m))
        .map(|m| short(m))
        .collect::<Vec<_>>()
        .join(",")
}

/// A source of data given in one field is copied to the other.
fn normalise_sources(claim: &mut Value) {
    let Some(spec) = part_mut(claim, "spec") else {
        return;
    };
    if spec.has("dataSource") {
        let (group, kind) = (
            spec.text("dataSource.apiGroup"),
            spec.text("dataSource.kind"),
        );
        let known = matches!(
            (group, kind),
            ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
        );
        if !known {
            remove(spec, "dataSource");
        }
    }
    // Sources in other namespaces are off by default.
    remove(spec, "dataSourceRef.namespace");
    match (spec.has("dataSource"), spec.has("dataSourceRef")) {
        (true, false) => {
            let source = spec.part("dataSource").clone();
            set(spec, "dataSourceRef", source);
        }
        (false, true) => {
            let (group, kind) = (
                spec.text("dataSourceRef.apiGroup"),
                spec.text("dataSourceRef.kind"),
            );
            if matches!(
                (group, kind),
                ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
            ) {
                let source = spec.part("dataSourceRef").clone();
                set(spec, "dataSource", source);
            }
        }
        _ => {}
    }
}

/// The access modes of a claim or volume.
pub fn access_modes(errors: &mut ErrorList, modes: &[Value], required: &str, path: &Path<'_>) {
    let known: Vec<&str> = ACCESS_MODES.iter().map(|(m, _)| *m).collect();
    if modes.is_empty() {
        errors.push(Error::required(path, required));
    }
    let texts: BTreeSet<&str> = modes.iter().filter_map(Value::as_str).collect();
    for mode in modes.iter().filter_map(Value::as_str) {
        one_of(errors, mode, &known, path);
    }
    if texts.contains("ReadWriteOncePod")
        && texts
            .iter()
            .any(|m| *m != "ReadWriteOncePod" && known.contains(m))
    {
        errors.push(Error::forbidden(
            path,
            "may not use ReadWriteOncePod with other access modes",
        ));
    }
}

/// Everything wrong with a claim's specification.
pub fn validate_spec(errors: &mut ErrorList, spec: &Value, path: &Path<'_>) {
    access_modes(
        errors,
        spec.items("accessModes"),
        "at least 1 access mode is required",
        &path.child("accessModes"),
    );
    label_selector(errors, spec.part("selector"), &path.child("selector"));
    let resources = path.child("resources");
    let at = resources.key("storage");
    match spec.part("resources.requests").get("storage") {
        None => errors.push(Error::required(&at, "")),
        Some(size) if quantity(size) <= Quantity::ZERO => {
            errors.push(Error::invalid(
                &at,
                quantity(size).to_string(),
                "must be greater than zero",
            ));
        }
        Some(_) => {}
    }
    checked(
        errors,
        spec,
        "storageClassName",
        path,
        names::dns1123_subdomain,
    );
    if spec.has("volumeMode") {
        one_of(
            errors,
            spec.text("volumeMode"),
            &["Block", "Filesystem"],
            &path.child("volumeMode"),
        );
    }
    for field in ["dataSource", "dataSourceRef"] {
        let (source, at) = (spec.part(field), path.child(field));
        if source.is_null() {
            continue;
        }
        required(errors, source, "name", &at);
        required(errors, source, "kind", &at);
        if source.text("apiGroup").is_empty() && source.text("kind") != "PersistentVolumeClaim" {
            let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errors.push(Error::invalid(&at, source.text("kind"), detail));
        }
        checked(errors, source, "apiGroup", &at, names::dns1123_subdomain);
    }
    if spec.has("dataSource") && spec.has("dataSourceRef") {
        let alike = ["apiGroup", "kind", "name"]
            .iter()
            .all(|k| spec.part("dataSource").text(k) == spec.part("dataSourceRef").text(k));
        if !alike {
            errors.push(Error::invalid(path, json!({}), "must match dataSourceRef"));
        }
    }
    checked(
        errors,
        spec,
        "volumeAttributesClassName",
        path,
        names::dns1123_subdomain,
    );
}

/// A claim's specification stays, but for the volume once, the class once, and the size of a bound claim.
fn update(errors: &mut ErrorList, new: &Value, old: &Value) {
    const SIZE: &str = "resources.requests.storage";
    let path = Path::new("spec");
    let (mut munged, before) = (new.part("spec").clone(), old.part("spec"));
    if before.text("volumeName").is_empty() {
        copy(&mut munged, before, "volumeName");
    }
    let annotation = |o: &Value| {
        o.part("metadata.annotations")
            .get(OLD_CLASS)
            .and_then(Value::as_str)
            .map(str::to_string)
    };
    let class = munged.text("storageClassName").to_string();
    let from_annotation =
        annotation(old).is_some_and(|a| a == class) && !before.has("storageClassName");
    let from_nothing = munged.has("storageClassName")
        && !before.has("storageClassName")
        && annotation(old).is_none();
    if from_annotation || from_nothing {
        remove(&mut munged, "storageClassName");
    }
    let bound = new.text("status.phase") == "Bound";
    if bound {
        copy(&mut munged, before, SIZE);
        copy(&mut munged, before, "volumeAttributesClassName");
    }
    if !same(&munged, before) {
        let mut changed = Vec::new();
        differences(&munged, before, "spec", &mut changed);
        let detail = format!(
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n{}",
            changed.join("\n")
        );
        errors.push(Error::forbidden(&path, detail));
    }
    let size = |o: &Value, p: &str| quantity(o.part(p));
    let (now, had) = (size(new.part("spec"), SIZE), size(before, SIZE));
    if now < had && now <= size(old, "status.capacity.storage") {
        errors.push(Error::forbidden(
            &path.child(SIZE),
            "field can not be less than status.capacity",
        ));
    }
    immutable(
        errors,
        new.part("spec.volumeMode"),
        old.part("spec.volumeMode"),
        &Path::new("volumeMode"),
    );
    if old.has("status.currentVolumeAttributesClassName")
        && new.text("spec.volumeAttributesClassName").is_empty()
    {
        let what = if new.has("spec.volumeAttributesClassName") {
            "empty string"
        } else {
            "nil"
        };
        let detail = format!(
            "update to {what} is forbidden when status.currentVolumeAttributesClassName is not nil"
        );
        errors.push(Error::forbidden(
            &path.child("volumeAttributesClassName"),
            detail,
        ));
    }
}

fn status_check(new: &Value, _old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let status = Path::new("status");
    let capacity = status.child("capacity");
    for (name, amount) in new.entries("status.capacity") {
        if quantity(amount) < Quantity::ZERO {
            errors.push(Error::invalid(
                &capacity.key(name),
                quantity(amount).value(),
                "must be a valid resource quantity",
            ));
        }
    }
    let resizes = status.child("allocatedResourceStatuses");
    for (name, state) in new.entries("status.allocatedResourceStatuses") {
        faults(&mut errors, &resizes, name, names::qualified_name(name));
        if !RESIZES.contains(&state.as_str().unwrap_or_default()) {
            errors.push(Error::not_supported(&resizes, name, &RESIZES));
        }
    }
    errors
}

/// How far a resize may be.
const RESIZES: [&str; 5] = [
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
    "NodeResizePending",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn claim() -> Value {
        let mut claim = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
        Rules.default(&mut claim);
        claim
    }

    fn texts(errors: &ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn claims_are_checked() {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        assert!(Rules.validate(&claim(), &context).is_empty());
        let bad = json!({"spec": {"accessModes": ["X"], "volumeMode": "Y"}});
        assert_eq!(
            texts(&Rules.validate(&bad, &context)),
            [
                "spec.accessModes: Unsupported value: \"X\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
                "spec.resources[storage]: Required value",
                "spec.volumeMode: Unsupported value: \"Y\": supported values: \"Block\", \"Filesystem\""
            ]
        );
    }

    #[test]
    fn a_bound_claim_may_grow() {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        let mut old = claim();
        old["spec"]["volumeName"] = "v".into();
        old["status"] = json!({"phase": "Bound", "capacity": {"storage": "1Gi"}});
        let mut new = old.clone();
        new["spec"]["resources"]["requests"]["storage"] = "2Gi".into();
        assert_eq!(Rules.validate_update(&new, &old, &context), vec![]);
        new["spec"]["resources"]["requests"]["storage"] = "512Mi".into();
        assert_eq!(
            texts(&Rules.validate_update(&new, &old, &context)),
            [
                "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"
            ]
        );
        new = old.clone();
        new["spec"]["volumeName"] = "w".into();
        assert!(
            texts(&Rules.validate_update(&new, &old, &context))[0]
                .starts_with("spec: Forbidden: spec is immutable after creation")
        );
    }

    #[test]
    fn modes_are_abbreviated() {
        assert_eq!(
            short_modes(&[json!("ReadWriteMany"), json!("ReadWriteOnce")]),
            "RWO,RWX"
        );
    }
}
