//! ReplicationController: the oldest way to a number of equal pods.

use std::borrow::Cow;

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::access::{Access, copy, part_mut, set, set_default};
use crate::columns::{AGE, CONTAINERS, Column, IMAGES, NAME, SELECTOR, integer};
use crate::kinds::apps::{available_within_ready, replica_counts};
use crate::pod::template;
use crate::print;
use crate::strategy::{
    Context, Keep, Propagation, StatusUpdate, Strategy, count_generation, reset_new,
};
use crate::validation::not_negative;

/// The rules of ReplicationController.
pub struct Rules;

static STATUS: StatusUpdate = StatusUpdate {
    kind: &Rules,
    keep: Keep::Nothing,
    check: status_check,
};

impl Strategy for Rules {
    fn subresource(&self, name: &str) -> Option<&'static dyn Strategy> {
        (name == "status").then_some(&STATUS)
    }

    fn default(&self, object: &mut Value) {
        let labels = object.part("spec.template.metadata.labels").clone();
        if !crate::access::blank(&labels) {
            if object.is_blank("spec.selector") {
                set(object, "spec.selector", labels.clone());
            }
            if object.is_blank("metadata.labels") {
                set(object, "metadata.labels", labels);
            }
        }
        let Some(spec) = part_mut(object, "spec") else {
            return;
        };
        set_default(spec, "replicas", 1);
        if let Some(found) = part_mut(spec, "template") {
            template::default(found);
        }
    }

    fn prepare_for_create(&self, object: &mut Value, _context: &Context<'_>) {
        reset_new(object, true);
        set(object, "status.replicas", 0);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        copy(new, old, "status");
        count_generation(new, old);
    }

    fn validate(&self, object: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (object.part("spec"), Path::new("spec"));
        not_negative(&mut errors, spec, "minReadySeconds", &path);
        if spec.is_blank("selector") {
            errors.push(Error::required(&path.child("selector"), ""));
        }
        not_negative(&mut errors, spec, "replicas", &path);
        let at = path.child("template");
        if !spec.has("template") {
            errors.push(Error::required(&at, ""));
            return errors;
        }
        let labels = spec.part("template.metadata.labels");
        if spec
            .entries("selector")
            .any(|(k, v)| labels.get(k) != Some(v))
        {
            errors.push(Error::invalid(
                &at.child("metadata.labels"),
                labels,
                "`selector` does not match template `labels`",
            ));
        }
        template::validate(&mut errors, spec.part("template"), &at);
        template::restarts_always(
            &mut errors,
            spec.part("template"),
            "ReplicationController",
            &at,
        );
        errors
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let mut warnings = template::name_warnings(new, old);
        warnings.extend(template::warnings(new, old));
        warnings
    }

    fn default_propagation(&self) -> Propagation {
        Propagation::Orphan
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        &["status"]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            integer("Desired", "How many pods are wanted."),
            integer("Current", "How many pods there are."),
            integer("Ready", "How many pods are ready."),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let [names, images] = print::containers(object, "spec.template.spec.containers");
        vec![
            print::name(object),
            object.number("spec.replicas").into(),
            object.number("status.replicas").into(),
            object.number("status.readyReplicas").into(),
            print::age(object, now),
            names,
            images,
            print::labels(object, "spec.selector").into(),
        ]
    }

    fn field_labels(&self) -> &'static [&'static str] {
        &["status.replicas"]
    }

    fn field<'o>(&self, object: &'o Value, label: &str) -> Cow<'o, str> {
        Cow::Owned(object.number(label).to_string())
    }
}

fn status_check(new: &Value, _old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (status, path) = (new.part("status"), Path::new("status"));
    let counts = [
        "replicas",
        "fullyLabeledReplicas",
        "readyReplicas",
        "availableReplicas",
        "observedGeneration",
    ];
    replica_counts(&mut errors, status, &counts, &counts[1..4], &path);
    available_within_ready(
        &mut errors,
        status,
        "cannot be greater than readyReplicas",
        &path,
    );
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn labels_come_from_the_template() {
        let mut object = json!({"metadata": {"name": "r"}, "spec": {"template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
        Rules.default(&mut object);
        assert_eq!(
            (&object["spec"]["selector"], &object["metadata"]["labels"]),
            (&json!({"a": "b"}), &json!({"a": "b"}))
        );
        assert_eq!(
            Rules.validate(&object, &Context::at(Timestamp::UNIX_EPOCH)),
            vec![]
        );
        object["spec"]["selector"] = json!({"x": "y"});
        let errors = Rules.validate(&object, &Context::at(Timestamp::UNIX_EPOCH));
        assert!(
            errors[0]
                .to_string()
                .ends_with("`selector` does not match template `labels`")
        );
    }
}
