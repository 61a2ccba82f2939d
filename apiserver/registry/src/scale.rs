//! `scale`: the replicas of any workload, as one small object.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use keelson_api::field::{Error, Path};
use keelson_api::selector::Selector;
use keelson_api::status::{Qualified, Status};
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::access::{Access, set};
use crate::columns::{AGE, Column, integer, text};
use crate::print;

/// The columns of a Scale's table.
pub const COLUMNS: &[Column] = &[
    text("Name", "The object's name."),
    integer("Desired", "How many pods are wanted."),
    integer("Available", "How many pods there are."),
    AGE,
];

/// The cells of a Scale's row.
#[must_use]
pub fn row(scale: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        print::name(scale),
        scale.number("spec.replicas").into(),
        scale.number("status.replicas").into(),
        print::age(scale, now),
    ]
}

/// The Scale of a workload.
#[must_use]
pub fn of(object: &Value) -> Value {
    let mut meta = serde_json::Map::new();
    for key in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        if object.part("metadata").has(key) {
            meta.insert(key.into(), object.part("metadata").part(key).clone());
        }
    }
    let mut status = json!({"replicas": object.number("status.replicas")});
    let selector = selector(object.part("spec.selector"));
    if !selector.is_empty() {
        set(&mut status, "selector", selector);
    }
    let mut spec = json!({});
    let replicas = object.number("spec.replicas");
    if replicas != 0 {
        set(&mut spec, "replicas", replicas);
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta, "spec": spec, "status": status})
}

fn selector(selector: &Value) -> String {
    // ReplicationControllers select by a plain map.
    let plain = selector
        .as_object()
        .is_some_and(|m| m.values().all(Value::is_string))
        && !selector.has("matchLabels");
    if plain {
        let pairs: Vec<String> = selector
            .as_object()
            .into_iter()
            .flatten()
            .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
            .collect();
        return pairs.join(",");
    }
    LabelSelector::deserialize(selector)
        .ok()
        .and_then(|s| Selector::from_label_selector(Some(&s)).ok())
        .map(|s| s.to_string())
        .unwrap_or_default()
}

/// Brings a changed Scale into the workload it is of, whose name is `resource` in `group`.
pub fn apply(object: &mut Value, scale: &Value, resource: Qualified<'_>) -> Result<(), Status> {
    let name = object.text("metadata.name").to_string();
    let kind = Qualified::new("autoscaling", "Scale");
    let mut errors = Vec::new();
    let (meta, spec) = (Path::new("metadata"), Path::new("spec"));
    if scale.text("metadata.name") != name {
        errors.push(Error::invalid(
            &meta.child("name"),
            scale.text("metadata.name"),
            format!("must be \"{name}\""),
        ));
    }
    let replicas = scale.number("spec.replicas");
    if replicas < 0 {
        errors.push(Error::invalid(
            &spec.child("replicas"),
            replicas,
            "must be greater than or equal to 0",
        ));
    }
    if !errors.is_empty() {
        return Err(Status::invalid(kind, scale.text("metadata.name"), &errors));
    }
    let uid = scale.text("metadata.uid");
    if !uid.is_empty() && uid != object.text("metadata.uid") {
        let why = format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            object.text("metadata.uid")
        );
        return Err(Status::conflict(resource, &name, why));
    }
    set(object, "spec.replicas", replicas);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_and_its_scale() {
        let mut object = json!({"metadata": {"name": "w", "namespace": "n", "uid": "1", "labels": {"x": "y"}},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"a": "b"}}}, "status": {"replicas": 2}});
        let mut scale = of(&object);
        assert_eq!(
            scale,
            json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {"name": "w", "namespace": "n", "uid": "1"},
                "spec": {"replicas": 3}, "status": {"replicas": 2, "selector": "a=b"}})
        );
        scale["spec"]["replicas"] = 5.into();
        apply(&mut object, &scale, Qualified::new("apps", "deployments")).unwrap();
        assert_eq!(object["spec"]["replicas"], 5);
        scale["spec"]["replicas"] = (-1).into();
        let error = apply(&mut object, &scale, Qualified::new("apps", "deployments")).unwrap_err();
        assert_eq!(
            error.message,
            "Scale.autoscaling \"w\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0"
        );
    }
}
