//! CustomResourceDefinition (apiextensions.k8s.io/v1): its rules are `keelson-extensions`'; conditions are set by the
//! server's own loops.

use keelson_api::field::ErrorList;
use keelson_extensions::{check, internal, names};
use serde_json::{Value, json};

use crate::access::{Access, copy, items_mut, set, set_default};
use crate::columns::{self, Column};
use crate::rest::{self, Deletion};
use crate::strategy::{Context, Strategy, count_generation};

/// What keeps a definition until its objects are gone.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// The definition itself.
pub struct Rules;

/// Its `status`.
struct Status;

static STATUS: Status = Status;

fn storage_version(crd: &Value) -> Option<&str> {
    let stored = crd
        .items("spec.versions")
        .iter()
        .find(|v| v.flag("storage"))?;
    Some(stored.text("name"))
}

/// Notes the version that objects are stored in from now on.
fn note_stored(crd: &mut Value) {
    let Some(version) = storage_version(crd).map(str::to_owned) else {
        return;
    };
    let mut stored = crd.items("status.storedVersions").to_vec();
    if !stored.iter().any(|v| *v == version) {
        stored.push(version.into());
        set(crd, "status.storedVersions", stored);
    }
}

impl Strategy for Rules {
    fn subresource(&self, name: &str) -> Option<&dyn Strategy> {
        (name == "status").then_some(&STATUS)
    }

    fn default(&self, crd: &mut Value) {
        let kind = crd.text("spec.names.kind").to_owned();
        if crd.text("spec.names.singular").is_empty() {
            set(crd, "spec.names.singular", kind.to_lowercase());
        }
        if crd.text("spec.names.listKind").is_empty() && !kind.is_empty() {
            set(crd, "spec.names.listKind", format!("{kind}List"));
        }
        set_default(crd, "spec.conversion", json!({"strategy": "None"}));
        if crd.has("spec.conversion.webhook.clientConfig.service") {
            set_default(
                crd,
                "spec.conversion.webhook.clientConfig.service.port",
                443,
            );
        }
        if crd.items("status.storedVersions").is_empty() {
            note_stored(crd);
        }
    }

    fn prepare_for_create(&self, crd: &mut Value, _context: &Context<'_>) {
        set(crd, "status", json!({}));
        set(crd, "metadata.generation", 1);
        note_stored(crd);
    }

    fn validate(&self, crd: &Value, _context: &Context<'_>) -> ErrorList {
        check::create(crd)
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        copy(new, old, "status");
        count_generation(new, old);
        note_stored(new);
    }

    fn validate_update(&self, new: &Value, old: &Value, _context: &Context<'_>) -> ErrorList {
        check::update(new, old)
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let before = old.map(check::openapi::unknown_formats).unwrap_or_default();
        let mut found = check::openapi::unknown_formats(new);
        found.retain(|format| !before.contains(format));
        let quoted = found.iter().map(|f| keelson_api::field::quote(f));
        quoted.map(|f| format!("unrecognized format {f}")).collect()
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn delete_in_stages(&self, crd: &mut Value, context: &Context<'_>) -> Option<Deletion> {
        if crd.has("metadata.deletionTimestamp") {
            return None;
        }
        let now = rest::timestamp(context.now);
        set(crd, "metadata.deletionTimestamp", now.clone());
        let mut finalizers = crd.items("metadata.finalizers").to_vec();
        if !finalizers.iter().any(|f| f == CLEANUP) {
            finalizers.push(CLEANUP.into());
            set(crd, "metadata.finalizers", finalizers);
        }
        let condition = json!({"type": "Terminating", "status": "True", "reason": "InstanceDeletionPending",
            "message": "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon"});
        names::set_condition(crd, condition, &now);
        Some(Deletion::Mark)
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        &["status"]
    }

    fn columns(&self) -> &'static [Column] {
        columns::DEFAULT
    }

    fn to_storage(&self, crd: &mut Value) {
        internal::from_v1(crd);
        set(crd, "apiVersion", "apiextensions.k8s.io/v1beta1");
    }

    fn from_storage(&self, crd: &mut Value) {
        internal::to_v1(crd);
        set(crd, "apiVersion", "apiextensions.k8s.io/v1");
        // Old definitions may have columns without a type; Go's zero value shows.
        for version in items_mut(crd, "spec.versions") {
            for flag in ["served", "storage"] {
                set_default(version, flag, false);
            }
        }
        set_default(crd, "status.conditions", Value::Array(Vec::new()));
        if !crd.has("status.acceptedNames") {
            set(
                crd,
                "status.acceptedNames",
                json!({"plural": "", "kind": ""}),
            );
        }
    }
}

impl Strategy for Status {
    fn default(&self, crd: &mut Value) {
        Rules.default(crd);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        // Metadata may change by this way too: that is how finalizers are taken off.
        copy(new, old, "spec");
    }

    fn validate_update(&self, new: &Value, _old: &Value, _context: &Context<'_>) -> ErrorList {
        check::status(new)
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        &["metadata", "spec"]
    }

    fn to_storage(&self, crd: &mut Value) {
        Rules.to_storage(crd);
    }

    fn from_storage(&self, crd: &mut Value) {
        Rules.from_storage(crd);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    #[test]
    fn a_definition_is_kept_until_its_objects_are_gone() {
        let kind = kinds::find("apiextensions.k8s.io", "v1", "customresourcedefinitions").unwrap();
        let context = Context::at(jiff::Timestamp::UNIX_EPOCH);
        let mut crd = json!({"metadata": {"name": "a.b.c", "uid": "1"}, "spec": {"names": {"kind": "Foo"}, "versions": [{"name": "v1", "storage": true}]}});
        kind.strategy.default(&mut crd);
        assert_eq!(
            (
                crd.text("spec.names.listKind"),
                crd.part("status.storedVersions")
            ),
            ("FooList", &json!(["v1"]))
        );
        let deletion =
            rest::before_delete(kind, &mut crd, &rest::DeleteOptions::default(), &context).unwrap();
        assert_eq!(deletion, Deletion::Mark);
        assert_eq!(crd.part("metadata.finalizers"), &json!([CLEANUP]));
        assert!(names::is_true(&crd, "Terminating"));
    }

    #[test]
    fn what_is_stored_is_v1beta1() {
        let kind = kinds::find("apiextensions.k8s.io", "v1", "customresourcedefinitions").unwrap();
        let mut crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "spec": {"versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
        kind.strategy.to_storage(&mut crd);
        assert_eq!(crd.text("apiVersion"), "apiextensions.k8s.io/v1beta1");
        assert_eq!(crd.text("spec.validation.openAPIV3Schema.type"), "object");
        kind.strategy.from_storage(&mut crd);
        assert_eq!(
            crd.part("spec.versions"),
            &json!([{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}])
        );
    }
}
