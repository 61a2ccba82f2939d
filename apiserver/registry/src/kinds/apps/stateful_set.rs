//! StatefulSet: pods with names and volumes of their own, in order.

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names::{self, NameRule};
use serde_json::{Value, json};

use super::{amount, available_within_ready, collisions, replica_counts};
use crate::access::{
    Access, copy, items_mut, part_mut, remove, same, set, set_default, set_default_text,
};
use crate::columns::{AGE, CONTAINERS, Column, IMAGES, NAME, text};
use crate::kinds::core::persistent_volume_claim as claim;
use crate::meta::faults;
use crate::pod::template;
use crate::print;
use crate::strategy::{Context, Keep, StatusUpdate, Strategy, count_generation, reset_new};
use crate::validation::{at_most_whole, int_or_percent, not_negative, one_of};

const MAX_UNAVAILABLE: &str = "spec.updateStrategy.rollingUpdate.maxUnavailable";
/// What an update may change.
const MUTABLE: &[&str] = &[
    "replicas",
    "template",
    "updateStrategy",
    "minReadySeconds",
    "ordinals",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
];

/// The rules of StatefulSet.
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

    fn name_rule(&self) -> NameRule {
        NameRule::Label
    }

    fn default(&self, object: &mut Value) {
        let Some(spec) = part_mut(object, "spec") else {
            return;
        };
        set_default_text(spec, "podManagementPolicy", "OrderedReady");
        if spec.text("updateStrategy.type").is_empty() {
            set(spec, "updateStrategy.type", "RollingUpdate");
            set_default(spec, "updateStrategy.rollingUpdate", json!({}));
        }
        if let Some(rolling) = part_mut(spec, "updateStrategy.rollingUpdate")
            && rolling.is_object()
        {
            set_default(rolling, "partition", 0);
        }
        for when in ["whenDeleted", "whenScaled"] {
            set_default_text(
                spec,
                &format!("persistentVolumeClaimRetentionPolicy.{when}"),
                "Retain",
            );
        }
        set_default(spec, "replicas", 1);
        set_default(spec, "revisionHistoryLimit", 10);
        for template in items_mut(spec, "volumeClaimTemplates") {
            set(template, "apiVersion", "v1");
            set(template, "kind", "PersistentVolumeClaim");
            claim::default(template);
        }
        if let Some(found) = part_mut(spec, "template") {
            template::default(found);
        }
    }

    fn prepare_for_create(&self, object: &mut Value, _context: &Context<'_>) {
        reset_new(object, true);
        set(object, "status.replicas", 0);
        remove(object, MAX_UNAVAILABLE);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        copy(new, old, "status");
        if !old.has(MAX_UNAVAILABLE) {
            remove(new, MAX_UNAVAILABLE);
        }
        count_generation(new, old);
    }

    fn validate(&self, object: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = spec_errors(object);
        let (spec, path) = (object.part("spec"), Path::new("spec"));
        let list = path.child("volumeClaimTemplates");
        for (i, template) in spec.items("volumeClaimTemplates").iter().enumerate() {
            claim::validate_spec(
                &mut errors,
                template.part("spec"),
                &list.index(i).child("spec"),
            );
        }
        let service = spec.text("serviceName");
        if !service.is_empty() {
            faults(
                &mut errors,
                &path.child("serviceName"),
                service,
                names::dns1123_label(service),
            );
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = spec_errors(new);
        let mut rest = new.part("spec").clone();
        for field in MUTABLE {
            copy(&mut rest, old.part("spec"), field);
        }
        if !same(&rest, old.part("spec")) {
            let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
            errors.push(Error::forbidden(&Path::new("spec"), detail));
        }
        errors
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let mut warnings = template::warnings(new, old);
        if new.number("spec.revisionHistoryLimit") < 0 {
            warnings.push("spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended".into());
        }
        warnings
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        &["status"]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            text("Ready", "Ready pods of those wanted."),
            AGE,
            CONTAINERS,
            IMAGES,
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let [names, images] = print::containers(object, "spec.template.spec.containers");
        let ready = format!(
            "{}/{}",
            object.number("status.readyReplicas"),
            object.number("spec.replicas")
        );
        vec![
            print::name(object),
            ready.into(),
            print::age(object, now),
            names,
            images,
        ]
    }
}

fn spec_errors(object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, path) = (object.part("spec"), Path::new("spec"));
    let policy = spec.text("podManagementPolicy");
    if !matches!(policy, "OrderedReady" | "Parallel") {
        errors.push(Error::invalid(
            &path.child("podManagementPolicy"),
            policy,
            "must be 'OrderedReady' or 'Parallel'",
        ));
    }
    update_strategy(
        &mut errors,
        spec.part("updateStrategy"),
        &path.child("updateStrategy"),
    );
    let retention = path.child("persistentVolumeClaimRetentionPolicy");
    for when in ["whenDeleted", "whenScaled"] {
        let value = spec.part("persistentVolumeClaimRetentionPolicy").text(when);
        one_of(
            &mut errors,
            value,
            &["Retain", "Delete"],
            &retention.child(when),
        );
    }
    for field in ["replicas", "minReadySeconds"] {
        not_negative(&mut errors, spec, field, &path);
    }
    not_negative(
        &mut errors,
        spec.part("ordinals"),
        "start",
        &path.child("ordinals"),
    );
    template::selector(&mut errors, spec, "statefulset", &path);
    // The claims' volumes are there when the pods are made.
    let mut template = spec.part("template").clone();
    for made in ["spec.subdomain", "spec.hostname"] {
        remove(&mut template, made);
    }
    let claims: Vec<Value> = spec
        .items("volumeClaimTemplates")
        .iter()
        .map(|c| c.text("metadata.name"))
        .map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}}))
        .collect();
    if !claims.is_empty() {
        let own = template
            .items("spec.volumes")
            .iter()
            .filter(|v| !claims.iter().any(|c| c["name"] == v["name"]))
            .cloned();
        let volumes: Vec<Value> = claims.iter().cloned().chain(own).collect();
        set(&mut template, "spec.volumes", volumes);
    }
    template::validate(&mut errors, &template, &path.child("template"));
    template::restarts_always(
        &mut errors,
        &template,
        "StatefulSet",
        &path.child("template"),
    );
    errors
}

fn update_strategy(errors: &mut ErrorList, strategy: &Value, path: &Path<'_>) {
    let (rolling, at) = (strategy.part("rollingUpdate"), path.child("rollingUpdate"));
    match strategy.text("type") {
        "" => errors.push(Error::required(path, "")),
        "OnDelete" => {
            if !rolling.is_null() {
                errors.push(Error::invalid(
                    &at,
                    rolling,
                    "only allowed for updateStrategy 'RollingUpdate'",
                ));
            }
        }
        "RollingUpdate" => {
            not_negative(errors, rolling, "partition", &at);
            if rolling.has("maxUnavailable") {
                let (value, here) = (rolling.part("maxUnavailable"), at.child("maxUnavailable"));
                int_or_percent(errors, value, &here);
                if amount(value) == 0 {
                    errors.push(Error::invalid(&here, value, "cannot be 0"));
                }
                at_most_whole(errors, value, &here);
            }
        }
        _ => errors.push(Error::invalid(
            path,
            strategy,
            "must be 'RollingUpdate' or 'OnDelete'",
        )),
    }
}

fn status_check(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (status, path) = (new.part("status"), Path::new("status"));
    let counts = [
        "replicas",
        "readyReplicas",
        "currentReplicas",
        "updatedReplicas",
        "availableReplicas",
        "observedGeneration",
        "collisionCount",
    ];
    replica_counts(&mut errors, status, &counts, &counts[1..5], &path);
    available_within_ready(
        &mut errors,
        status,
        "cannot be greater than status.readyReplicas",
        &path,
    );
    collisions(&mut errors, new, old);
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object() -> Value {
        let mut object = json!({"metadata": {"name": "s"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "serviceName": "x",
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i",
                "volumeMounts": [{"name": "data", "mountPath": "/d"}]}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}}}}]}});
        Rules.default(&mut object);
        object
    }

    #[test]
    fn defaults() {
        let spec = &object()["spec"];
        assert_eq!(
            spec["updateStrategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})
        );
        assert_eq!(
            spec["persistentVolumeClaimRetentionPolicy"],
            json!({"whenDeleted": "Retain", "whenScaled": "Retain"})
        );
        assert_eq!(
            spec["volumeClaimTemplates"][0]["status"]["phase"],
            "Pending"
        );
        assert_eq!(
            spec["volumeClaimTemplates"][0]["kind"],
            "PersistentVolumeClaim"
        );
    }

    #[test]
    fn claims_are_volumes_and_most_of_the_spec_stays() {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        let old = object();
        assert_eq!(Rules.validate(&old, &context), vec![]);
        let mut new = old.clone();
        new["spec"]["replicas"] = 3.into();
        assert_eq!(Rules.validate_update(&new, &old, &context), vec![]);
        new["spec"]["serviceName"] = "y".into();
        let errors = Rules.validate_update(&new, &old, &context);
        assert!(errors[0].to_string().starts_with(
            "spec: Forbidden: updates to statefulset spec for fields other than 'replicas'"
        ));
    }
}
