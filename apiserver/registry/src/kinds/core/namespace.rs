//! Namespace: a scope for names, emptied by its controller before it goes.

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names::{self, NameRule};
use serde_json::{Value, json};

use crate::access::{Access, copy, set, set_default_text, slot};
use crate::columns::{AGE, Column, NAME, text};
use crate::meta::faults;
use crate::print;
use crate::rest::{Deletion, timestamp};
use crate::strategy::{Context, Keep, StatusUpdate, Strategy};

const FINALIZER: &str = "kubernetes";
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// The rules of Namespace.
pub struct Rules;

static STATUS: StatusUpdate = StatusUpdate {
    kind: &Rules,
    keep: Keep::Nothing,
    check: status_check,
};

impl Strategy for Rules {
    fn subresource(&self, name: &str) -> Option<&'static dyn Strategy> {
        match name {
            "status" => Some(&STATUS),
            "finalize" => Some(&Finalize),
            _ => None,
        }
    }

    fn name_rule(&self) -> NameRule {
        NameRule::Label
    }

    fn default(&self, namespace: &mut Value) {
        set_default_text(namespace, "status.phase", "Active");
        label(namespace);
    }

    fn prepare_for_create(&self, namespace: &mut Value, _context: &Context<'_>) {
        set(namespace, "status", json!({"phase": "Active"}));
        let finalizers = slot(namespace, "spec.finalizers");
        if !finalizers.is_array() {
            *finalizers = json!([]);
        }
        if let Some(list) = finalizers.as_array_mut()
            && !list.iter().any(|f| f == FINALIZER)
        {
            list.push(FINALIZER.into());
        }
        label(namespace);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        copy(new, old, "spec.finalizers");
        copy(new, old, "status");
        label(new);
    }

    fn validate(&self, namespace: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let spec = Path::new("spec");
        finalizers(&mut errors, namespace, |_| {
            spec.child("finalizers").to_string()
        });
        errors
    }

    fn delete_in_stages(&self, namespace: &mut Value, context: &Context<'_>) -> Option<Deletion> {
        if !namespace.has("metadata.deletionTimestamp") {
            set(
                namespace,
                "metadata.deletionTimestamp",
                timestamp(context.now),
            );
            set(namespace, "status.phase", "Terminating");
            return Some(Deletion::Mark);
        }
        if namespace.is_blank("spec.finalizers") {
            None
        } else {
            Some(Deletion::Pending)
        }
    }

    fn may_disappear(&self, namespace: &Value) -> bool {
        namespace.is_blank("spec.finalizers")
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        &["status"]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            text(
                "Status",
                "Whether the namespace is in use or being emptied.",
            ),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, namespace: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            print::name(namespace),
            namespace.text("status.phase").into(),
            print::age(namespace, now),
        ]
    }

    fn field_labels(&self) -> &'static [&'static str] {
        &["status.phase"]
    }
}

fn label(namespace: &mut Value) {
    let name = namespace.text("metadata.name").to_string();
    if name.is_empty() {
        return;
    }
    let labels = slot(namespace, "metadata.labels");
    if !labels.is_object() {
        *labels = json!({});
    }
    labels[NAME_LABEL] = name.into();
}

fn finalizers(errors: &mut ErrorList, namespace: &Value, at: impl Fn(usize) -> String) {
    for (i, finalizer) in namespace
        .items("spec.finalizers")
        .iter()
        .filter_map(Value::as_str)
        .enumerate()
    {
        let field = at(i);
        let path = Path::new(&field);
        faults(errors, &path, finalizer, names::qualified_name(finalizer));
        if !finalizer.contains('/')
            && !matches!(finalizer, FINALIZER | "orphan" | "foregroundDeletion")
        {
            errors.push(Error::invalid(
                &path,
                finalizer,
                "name is neither a standard finalizer name nor is it fully qualified",
            ));
        }
    }
}

fn status_check(new: &Value, _old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (status, phase) = (Path::new("status"), new.text("status.phase"));
    // Upstream spells this path with a capital.
    let path = status.child("Phase");
    if new.has("metadata.deletionTimestamp") {
        if phase != "Terminating" {
            errors.push(Error::invalid(
                &path,
                phase,
                "may only be 'Terminating' if `deletionTimestamp` is not empty",
            ));
        }
    } else if phase != "Active" {
        errors.push(Error::invalid(
            &path,
            phase,
            "may only be 'Active' if `deletionTimestamp` is empty",
        ));
    }
    errors
}

/// The `finalize` subresource: the only way to change `spec.finalizers`.
struct Finalize;

impl Strategy for Finalize {
    fn name_rule(&self) -> NameRule {
        NameRule::Label
    }

    fn default(&self, namespace: &mut Value) {
        Rules.default(namespace);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        copy(new, old, "status");
    }

    fn validate_update(&self, new: &Value, _old: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        finalizers(&mut errors, new, |i| format!("spec.finalizers[{i}]"));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        Rules.columns()
    }

    fn row(&self, namespace: &Value, now: Timestamp) -> Vec<Value> {
        Rules.row(namespace, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::find;
    use crate::rest::{
        DeleteOptions, before_create, before_delete, before_update, deletion_complete,
    };

    #[test]
    fn a_namespace_lives_and_goes_in_stages() {
        let kind = find("", "v1", "namespaces").unwrap();
        let context = Context::at(Timestamp::UNIX_EPOCH);
        let mut ns =
            json!({"metadata": {"name": "a", "uid": "1"}, "status": {"phase": "Terminating"}});
        before_create(kind, &mut ns, &context).unwrap();
        assert_eq!(ns.text("status.phase"), "Active");
        assert_eq!(ns["spec"]["finalizers"], json!(["kubernetes"]));
        assert_eq!(ns["metadata"]["labels"][NAME_LABEL], "a");
        assert_eq!(
            before_delete(kind, &mut ns, &DeleteOptions::default(), &context).unwrap(),
            Deletion::Mark
        );
        assert_eq!(ns.text("status.phase"), "Terminating");
        assert_eq!(
            before_delete(kind, &mut ns, &DeleteOptions::default(), &context).unwrap(),
            Deletion::Pending
        );
        let mut finalized = ns.clone();
        finalized["spec"]["finalizers"] = json!([]);
        before_update(
            kind,
            kind.strategy.subresource("finalize").unwrap(),
            &mut finalized,
            &ns,
            &context,
        )
        .unwrap();
        assert!(deletion_complete(kind, &finalized, &ns));
        assert!(!deletion_complete(kind, &ns, &ns));
    }

    #[test]
    fn names_are_labels() {
        let kind = find("", "v1", "namespaces").unwrap();
        let error = before_create(
            kind,
            &mut json!({"metadata": {"name": "a.b"}}),
            &Context::at(Timestamp::UNIX_EPOCH),
        )
        .unwrap_err();
        assert!(
            error
                .message
                .contains("metadata.name: Invalid value: \"a.b\": must not contain dots"),
            "{}",
            error.message
        );
    }
}
