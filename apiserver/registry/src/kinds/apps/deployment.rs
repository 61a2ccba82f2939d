//! Deployment: replicas of a pod, replaced in an orderly way when the template changes.

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use serde_json::Value;

use super::{amount, available_within_ready, collisions, replica_counts};
use crate::access::{Access, copy, part_mut, same, set, set_default, set_default_text};
use crate::columns::{AGE, CONTAINERS, Column, IMAGES, NAME, SELECTOR, text};
use crate::meta::immutable;
use crate::pod::template;
use crate::print;
use crate::strategy::{Context, Keep, StatusUpdate, Strategy, reset_new};
use crate::validation::{at_most_whole, int_or_percent, not_negative};

/// The rules of Deployment.
pub struct Rules;

static STATUS: StatusUpdate = StatusUpdate {
    kind: &Rules,
    keep: Keep::Labels,
    check: status_check,
};

impl Strategy for Rules {
    fn subresource(&self, name: &str) -> Option<&'static dyn Strategy> {
        (name == "status").then_some(&STATUS)
    }

    fn default(&self, deployment: &mut Value) {
        let Some(spec) = part_mut(deployment, "spec") else {
            return;
        };
        set_default(spec, "replicas", 1);
        set_default_text(spec, "strategy.type", "RollingUpdate");
        if spec.text("strategy.type") == "RollingUpdate" {
            set_default(spec, "strategy.rollingUpdate.maxUnavailable", "25%");
            set_default(spec, "strategy.rollingUpdate.maxSurge", "25%");
        }
        set_default(spec, "revisionHistoryLimit", 10);
        set_default(spec, "progressDeadlineSeconds", 600);
        if let Some(found) = part_mut(spec, "template") {
            template::default(found);
        }
    }

    fn prepare_for_create(&self, deployment: &mut Value, _context: &Context<'_>) {
        reset_new(deployment, true);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        copy(new, old, "status");
        let generation = old.number("metadata.generation");
        let changed = ["spec", "metadata.annotations"]
            .iter()
            .any(|p| !same(new.part(p), old.part(p)));
        set(
            new,
            "metadata.generation",
            if changed { generation + 1 } else { generation },
        );
    }

    fn validate(&self, deployment: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (deployment.part("spec"), Path::new("spec"));
        not_negative(&mut errors, spec, "replicas", &path);
        template::selector(&mut errors, spec, "deployment", &path);
        template::validate(&mut errors, spec.part("template"), &path.child("template"));
        template::restarts_always(
            &mut errors,
            spec.part("template"),
            "ReplicaSet",
            &path.child("template"),
        );
        strategy(&mut errors, spec.part("strategy"), &path.child("strategy"));
        not_negative(&mut errors, spec, "minReadySeconds", &path);
        not_negative(&mut errors, spec, "revisionHistoryLimit", &path);
        if let Some(seconds) = spec.int("progressDeadlineSeconds") {
            not_negative(&mut errors, spec, "progressDeadlineSeconds", &path);
            if seconds <= spec.number("minReadySeconds") {
                errors.push(Error::invalid(
                    &path.child("progressDeadlineSeconds"),
                    seconds,
                    "must be greater than minReadySeconds",
                ));
            }
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
            text("Ready", "Ready pods of those wanted."),
            text("Up-to-date", "Pods of the newest template."),
            text("Available", "Pods that serve."),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ];
        COLUMNS
    }

    fn row(&self, deployment: &Value, now: Timestamp) -> Vec<Value> {
        let [names, images] = print::containers(deployment, "spec.template.spec.containers");
        vec![
            print::name(deployment),
            format!(
                "{}/{}",
                deployment.number("status.readyReplicas"),
                deployment.number("spec.replicas")
            )
            .into(),
            deployment.number("status.updatedReplicas").into(),
            deployment.number("status.availableReplicas").into(),
            print::age(deployment, now),
            names,
            images,
            print::selector(deployment, "spec.selector").into(),
        ]
    }
}

fn strategy(errors: &mut ErrorList, strategy: &Value, path: &Path<'_>) {
    let (rolling, at) = (strategy.part("rollingUpdate"), path.child("rollingUpdate"));
    match strategy.text("type") {
        "Recreate" => {
            if !rolling.is_null() {
                errors.push(Error::forbidden(
                    &at,
                    "may not be specified when strategy `type` is 'Recreate'",
                ));
            }
        }
        "RollingUpdate" => {
            if rolling.is_null() {
                errors.push(Error::required(
                    &at,
                    "this should be defaulted and never be nil",
                ));
                return;
            }
            let (unavailable, surge) = (rolling.part("maxUnavailable"), rolling.part("maxSurge"));
            let here = at.child("maxUnavailable");
            int_or_percent(errors, unavailable, &here);
            int_or_percent(errors, surge, &at.child("maxSurge"));
            if amount(unavailable) == 0 && amount(surge) == 0 {
                errors.push(Error::invalid(
                    &here,
                    unavailable,
                    "may not be 0 when `maxSurge` is 0",
                ));
            }
            at_most_whole(errors, unavailable, &here);
        }
        _ => errors.push(Error::not_supported(
            path,
            strategy,
            &["Recreate", "RollingUpdate"],
        )),
    }
}

fn status_check(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (status, path) = (new.part("status"), Path::new("status"));
    let counts = [
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "terminatingReplicas",
        "collisionCount",
    ];
    replica_counts(
        &mut errors,
        status,
        &counts,
        &["updatedReplicas", "readyReplicas", "availableReplicas"],
        &path,
    );
    available_within_ready(
        &mut errors,
        status,
        "cannot be greater than readyReplicas",
        &path,
    );
    collisions(&mut errors, new, old);
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment() -> Value {
        let mut object = json!({"metadata": {"name": "d", "namespace": "n"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
        Rules.default(&mut object);
        object
    }

    fn of(change: impl Fn(&mut Value)) -> Vec<String> {
        let mut object = deployment();
        change(&mut object);
        Rules
            .validate(&object, &Context::at(Timestamp::UNIX_EPOCH))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn defaults() {
        let spec = &deployment()["spec"];
        assert_eq!(spec["replicas"], 1);
        assert_eq!(
            spec["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
        );
        assert_eq!(
            (
                spec["revisionHistoryLimit"].as_i64(),
                spec["progressDeadlineSeconds"].as_i64()
            ),
            (Some(10), Some(600))
        );
        assert_eq!(spec["template"]["spec"]["restartPolicy"], "Always");
    }

    #[test]
    fn faults_have_upstreams_sentences() {
        assert!(of(|_| {}).is_empty());
        assert_eq!(
            of(|d| d["spec"]["template"]["metadata"]["labels"] = json!({"x": "y"})),
            [
                "spec.template.metadata.labels: Invalid value: {\"x\":\"y\"}: `selector` does not match template `labels`"
            ]
        );
        assert_eq!(
            of(|d| d["spec"]["selector"] = json!({})),
            ["spec.selector: Invalid value: {}: empty selector is invalid for deployment"]
        );
        assert_eq!(
            of(|d| drop(d["spec"].as_object_mut().unwrap().remove("selector"))),
            // No selector selects nothing, the template's labels neither.
            [
                "spec.selector: Required value",
                "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`"
            ]
        );
        assert_eq!(
            of(|d| d["spec"]["template"]["spec"]["restartPolicy"] = "Never".into()),
            [
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""
            ]
        );
        assert_eq!(
            of(|d| d["spec"]["strategy"]["rollingUpdate"] =
                json!({"maxSurge": 0, "maxUnavailable": 0})),
            [
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"
            ]
        );
        assert_eq!(
            of(|d| d["spec"]["progressDeadlineSeconds"] = 0.into()),
            [
                "spec.progressDeadlineSeconds: Invalid value: 0: must be greater than minReadySeconds"
            ]
        );
        assert_eq!(
            of(|d| d["spec"]["replicas"] = (-1).into()),
            ["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]
        );
    }

    #[test]
    fn the_selector_stays_and_annotations_count() {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        let mut old = deployment();
        old["metadata"]["generation"] = 1.into();
        let mut new = old.clone();
        new["spec"]["selector"] = json!({"matchLabels": {"a": "b", "c": "d"}});
        new["spec"]["template"]["metadata"]["labels"] = json!({"a": "b", "c": "d"});
        let errors = Rules.validate_update(&new, &old, &context);
        assert!(
            errors[0].to_string().ends_with("field is immutable"),
            "{errors:?}"
        );
        let mut noted = old.clone();
        noted["metadata"]["annotations"] = json!({"x": "y"});
        Rules.prepare_for_update(&mut noted, &old, &context);
        assert_eq!(noted["metadata"]["generation"], 2);
    }
}
