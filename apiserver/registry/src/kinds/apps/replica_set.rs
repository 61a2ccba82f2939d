//! ReplicaSet: a number of equal pods.

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use serde_json::Value;

use super::{available_within_ready, replica_counts};
use crate::access::{Access, copy, part_mut, set_default};
use crate::columns::{AGE, CONTAINERS, Column, IMAGES, NAME, SELECTOR, integer};
use crate::meta::immutable;
use crate::pod::template;
use crate::print;
use crate::strategy::{Context, Keep, StatusUpdate, Strategy, count_generation, reset_new};
use crate::validation::not_negative;

/// The rules of ReplicaSet.
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

    fn default(&self, set: &mut Value) {
        let Some(spec) = part_mut(set, "spec") else {
            return;
        };
        set_default(spec, "replicas", 1);
        if let Some(found) = part_mut(spec, "template") {
            template::default(found);
        }
    }

    fn prepare_for_create(&self, set: &mut Value, _context: &Context<'_>) {
        reset_new(set, true);
        crate::access::set(set, "status.replicas", 0);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        copy(new, old, "status");
        count_generation(new, old);
    }

    fn validate(&self, set: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (set.part("spec"), Path::new("spec"));
        not_negative(&mut errors, spec, "replicas", &path);
        not_negative(&mut errors, spec, "minReadySeconds", &path);
        template::selector(&mut errors, spec, "deployment", &path);
        if spec.has("template") {
            template::validate(&mut errors, spec.part("template"), &path.child("template"));
            template::restarts_always(
                &mut errors,
                spec.part("template"),
                "ReplicaSet",
                &path.child("template"),
            );
        } else {
            errors.push(Error::required(&path.child("template"), ""));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
        let mut errors = self.validate(new, context);
        let spec = Path::new("spec");
        immutable(
            &mut errors,
            new.part("spec.selector"),
            old.part("spec.selector"),
            &spec.child("selector"),
        );
        errors
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let mut warnings = template::name_warnings(new, old);
        warnings.extend(template::warnings(new, old));
        warnings
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

    fn row(&self, set: &Value, now: Timestamp) -> Vec<Value> {
        let [names, images] = print::containers(set, "spec.template.spec.containers");
        vec![
            print::name(set),
            set.number("spec.replicas").into(),
            set.number("status.replicas").into(),
            set.number("status.readyReplicas").into(),
            print::age(set, now),
            names,
            images,
            print::selector(set, "spec.selector").into(),
        ]
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
        "terminatingReplicas",
    ];
    replica_counts(
        &mut errors,
        status,
        &counts,
        &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"],
        &path,
    );
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
    fn status_counts_fit_together() {
        let new = json!({"status": {"replicas": 1, "readyReplicas": 2, "availableReplicas": -1}});
        let found: Vec<String> = status_check(&new, &json!({}))
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            found,
            [
                "status.availableReplicas: Invalid value: -1: must be greater than or equal to 0",
                "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas"
            ]
        );
    }

    #[test]
    fn a_template_is_needed() {
        let set = json!({"spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}}});
        let errors = Rules.validate(&set, &Context::at(Timestamp::UNIX_EPOCH));
        assert!(
            errors
                .iter()
                .any(|e| e.to_string() == "spec.template: Required value"),
            "{errors:?}"
        );
    }
}
