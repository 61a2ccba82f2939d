//! The Scale of a custom resource, by the paths its definition names.

use keelson_api::status::Status;
use keelson_extensions::Scale;
use keelson_registry::access::{Access, set};
use serde_json::{Map, Value, json};

use crate::response::ApiResult;

fn inner(path: &str) -> &str {
    path.trim_start_matches('.')
}

/// The Scale of an object.
pub fn of(object: &Value, scale: &Scale) -> ApiResult<Value> {
    let mut meta = Map::new();
    for key in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        let value = object.part("metadata").part(key);
        if !value.is_null() {
            meta.insert(key.to_owned(), value.clone());
        }
    }
    let replicas = object.part(inner(&scale.spec_replicas));
    let Some(replicas) = replicas.as_i64() else {
        let path = &scale.spec_replicas;
        return Err(Status::internal(format!(
            "the spec replicas field {path:?} does not exist"
        )));
    };
    let mut status = json!({"replicas": object.number(inner(&scale.status_replicas))});
    if let Some(path) = &scale.selector {
        let selector = object.text(inner(path));
        if !selector.is_empty() {
            status["selector"] = selector.into();
        }
    }
    let spec = if replicas == 0 {
        json!({})
    } else {
        json!({"replicas": replicas})
    };
    Ok(
        json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta, "spec": spec, "status": status}),
    )
}

/// Sets what a Scale wants.
pub fn apply(object: &mut Value, wanted: &Value, scale: &Scale) {
    set(
        object,
        inner(&scale.spec_replicas),
        wanted.number("spec.replicas"),
    );
}
