//! DaemonSet: a pod on every node.

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use serde_json::{Value, json};

use super::{amount, collisions, replica_counts};
use crate::access::{Access, copy, part_mut, same, set, set_default, set_default_text, slot};
use crate::columns::{AGE, CONTAINERS, Column, IMAGES, NAME, SELECTOR, integer, text};
use crate::meta::immutable;
use crate::pod::template;
use crate::print;
use crate::strategy::{Context, Keep, StatusUpdate, Strategy, count_generation, reset_new};
use crate::validation::{at_most_whole, int_or_percent, not_negative};

/// Where the count of the template's changes is kept.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

/// The rules of DaemonSet.
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
        // A field of upstream's internal type that only this annotation shows: it is always written.
        let generation = template_generation(object);
        set_template_generation(object, generation);
        let Some(spec) = part_mut(object, "spec") else {
            return;
        };
        set_default_text(spec, "updateStrategy.type", "RollingUpdate");
        if spec.text("updateStrategy.type") == "RollingUpdate" {
            set_default(spec, "updateStrategy.rollingUpdate.maxUnavailable", 1);
            set_default(spec, "updateStrategy.rollingUpdate.maxSurge", 0);
        }
        set_default(spec, "revisionHistoryLimit", 10);
        if let Some(found) = part_mut(spec, "template") {
            template::default(found);
        }
    }

    fn prepare_for_create(&self, object: &mut Value, _context: &Context<'_>) {
        reset_new(object, true);
        set(
            object,
            "status",
            json!({"currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0}),
        );
        let generation = template_generation(object).max(1);
        set_template_generation(object, generation);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        copy(new, old, "status");
        let changed = !same(new.part("spec.template"), old.part("spec.template"));
        set_template_generation(new, template_generation(old) + i64::from(changed));
        count_generation(new, old);
    }

    fn validate(&self, object: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (object.part("spec"), Path::new("spec"));
        template::selector(&mut errors, spec, "daemonset", &path);
        template::validate(&mut errors, spec.part("template"), &path.child("template"));
        template::restarts_always(
            &mut errors,
            spec.part("template"),
            "DaemonSet",
            &path.child("template"),
        );
        not_negative(&mut errors, spec, "minReadySeconds", &path);
        update_strategy(
            &mut errors,
            spec.part("updateStrategy"),
            &path.child("updateStrategy"),
        );
        not_negative(&mut errors, spec, "revisionHistoryLimit", &path);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let spec = Path::new("spec");
        immutable(
            &mut errors,
            new.part("spec.selector"),
            old.part("spec.selector"),
            &spec.child("selector"),
        );
        errors.extend(self.validate(new, context));
        errors
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        template::warnings(new, old)
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        &["status"]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            integer("Desired", "Nodes that should run the pod."),
            integer("Current", "Nodes that have the pod."),
            integer("Ready", "Nodes whose pod is ready."),
            integer("Up-to-date", "Nodes with the newest pod."),
            integer("Available", "Nodes whose pod serves."),
            text("Node Selector", "Which nodes."),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let [names, images] = print::containers(object, "spec.template.spec.containers");
        let count = |field: &str| Value::from(object.part("status").number(field));
        vec![
            print::name(object),
            count("desiredNumberScheduled"),
            count("currentNumberScheduled"),
            count("numberReady"),
            count("updatedNumberScheduled"),
            count("numberAvailable"),
            print::labels(object, "spec.template.spec.nodeSelector").into(),
            print::age(object, now),
            names,
            images,
            print::selector(object, "spec.selector").into(),
        ]
    }
}

fn template_generation(object: &Value) -> i64 {
    let text = object
        .part("metadata.annotations")
        .get(TEMPLATE_GENERATION)
        .and_then(Value::as_str);
    text.and_then(|t| t.parse().ok()).unwrap_or_default()
}

fn set_template_generation(object: &mut Value, generation: i64) {
    let annotations = slot(object, "metadata.annotations");
    if !annotations.is_object() {
        *annotations = json!({});
    }
    annotations[TEMPLATE_GENERATION] = generation.to_string().into();
}

fn update_strategy(errors: &mut ErrorList, strategy: &Value, path: &Path<'_>) {
    let (rolling, at) = (strategy.part("rollingUpdate"), path.child("rollingUpdate"));
    match strategy.text("type") {
        "OnDelete" => {}
        "RollingUpdate" if rolling.is_null() => errors.push(Error::required(&at, "")),
        "RollingUpdate" => {
            let (unavailable, surge) = (rolling.part("maxUnavailable"), rolling.part("maxSurge"));
            let (here, there) = (at.child("maxUnavailable"), at.child("maxSurge"));
            int_or_percent(errors, unavailable, &here);
            int_or_percent(errors, surge, &there);
            at_most_whole(errors, unavailable, &here);
            at_most_whole(errors, surge, &there);
            match (amount(unavailable) != 0, amount(surge) != 0) {
                (true, true) => errors.push(Error::invalid(
                    &there,
                    surge,
                    "may not be set when maxUnavailable is non-zero",
                )),
                (false, false) => {
                    errors.push(Error::required(&here, "cannot be 0 when maxSurge is 0"))
                }
                _ => {}
            }
        }
        _ => errors.push(Error::not_supported(
            path,
            strategy,
            &["RollingUpdate", "OnDelete"],
        )),
    }
}

fn status_check(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let counts = [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ];
    replica_counts(
        &mut errors,
        new.part("status"),
        &counts,
        &[],
        &Path::new("status"),
    );
    collisions(&mut errors, new, old);
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn template_changes_are_counted() {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        let mut old = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
        Rules.default(&mut old);
        Rules.prepare_for_create(&mut old, &context);
        assert_eq!(Rules.validate(&old, &context), vec![]);
        assert_eq!(old["metadata"]["annotations"][TEMPLATE_GENERATION], "1");
        let mut new = old.clone();
        new["spec"]["template"]["spec"]["containers"][0]["image"] = "j".into();
        Rules.prepare_for_update(&mut new, &old, &context);
        assert_eq!(new["metadata"]["annotations"][TEMPLATE_GENERATION], "2");
        assert_eq!(new["metadata"]["generation"], 2);
    }

    #[test]
    fn surge_and_unavailable_exclude_each_other() {
        let mut errors = ErrorList::new();
        let both =
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}});
        update_strategy(&mut errors, &both, &Path::new("s"));
        assert_eq!(
            errors[0].to_string(),
            "s.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero"
        );
    }
}
