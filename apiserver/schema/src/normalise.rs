//! The form in which upstream stores and answers an object: what Go would write after reading it.
//!
//! Quantities, times and durations become canonical, empty fields are left out or written out as the Go
//! type says. Defaults are the registry's.

use keelson_api::quantity;
use serde_json::{Map, Value};

use crate::decode::reencode_base64;
use crate::time;
use crate::types::{Field, ScalarKind, SchemaOr, Struct, Type};

/// Brings a value into the form that Go would write. Values that don't fit their type are left alone.
pub fn normalise(value: &mut Value, ty: &Type) {
    match ty {
        Type::Struct(ty) => normalise_struct(value, ty),
        Type::SchemaOr(union, ty) => match (value, union) {
            (value @ Value::Object(_), _) => normalise_struct(value, ty),
            (Value::Array(items), SchemaOr::Array) => {
                for item in items {
                    normalise_struct(item, ty);
                }
            }
            _ => {}
        },
        Type::List(list) => {
            if let Value::Array(items) = value {
                for item in items {
                    normalise(item, &list.element);
                }
            }
        }
        Type::Map(map) => {
            if let Value::Object(entries) = value {
                for entry in entries.values_mut() {
                    if entry.is_null() {
                        *entry = zero(&map.value);
                    }
                    normalise(entry, &map.value);
                }
            }
        }
        Type::Scalar(scalar) => normalise_scalar(value, scalar.kind),
    }
}

/// Gives every field that is a struct in Go (not a pointer to one) its place, so that defaults find it.
pub fn fill_structs(value: &mut Value, ty: &Type) {
    match (value, ty) {
        (Value::Object(object), Type::Struct(ty)) => {
            for field in ty.fields() {
                let is_struct = !field.pointer && matches!(field.ty, Type::Struct(_));
                if is_struct
                    && !field.omit_zero
                    && matches!(object.get(&*field.name), None | Some(Value::Null))
                {
                    object.insert(field.name.to_string(), Value::Object(Map::new()));
                }
                if let Some(inner) = object.get_mut(&*field.name) {
                    fill_structs(inner, &field.ty);
                }
            }
        }
        (Value::Array(items), Type::List(list)) => {
            for item in items {
                fill_structs(item, &list.element);
            }
        }
        (Value::Object(entries), Type::Map(map)) => {
            for entry in entries.values_mut() {
                fill_structs(entry, &map.value);
            }
        }
        _ => {}
    }
}

fn normalise_struct(value: &mut Value, ty: &Struct) {
    let Value::Object(object) = value else {
        return;
    };
    if ty.verbatim {
        let metadata = object.get_mut("metadata").zip(ty.field("metadata"));
        if let Some((metadata, field)) = metadata {
            normalise(metadata, &field.ty);
        }
        return;
    }
    for field in ty.fields() {
        let present = match object.get_mut(&*field.name) {
            None => false,
            Some(Value::Null) if !is_json(field) => {
                object.remove(&*field.name);
                false
            }
            Some(inner) => {
                normalise(inner, &field.ty);
                let omitted = omits(inner, field);
                if omitted {
                    object.remove(&*field.name);
                    continue;
                }
                true
            }
        };
        if !present && let Some(written) = absent(field) {
            object.insert(field.name.to_string(), written);
        }
    }
}

fn is_json(field: &Field) -> bool {
    matches!(&field.ty, Type::Scalar(scalar) if scalar.kind == ScalarKind::Json)
}

/// Whether Go leaves out a field of this value.
fn omits(value: &Value, field: &Field) -> bool {
    if field.pointer {
        return false;
    }
    match &field.ty {
        Type::List(_) | Type::Map(_) => field.omit_empty && is_empty(value),
        Type::Struct(ty) => field.omit_zero && is_zero_struct(value, ty),
        Type::SchemaOr(..) => false,
        Type::Scalar(scalar) => match scalar.kind {
            ScalarKind::String
            | ScalarKind::Bool
            | ScalarKind::Int32
            | ScalarKind::Int64
            | ScalarKind::Uint(_)
            | ScalarKind::Float64
            | ScalarKind::Bytes => field.omit_empty && is_empty(value),
            // structs in Go: only omitzero leaves them out
            ScalarKind::Quantity => field.omit_zero && value == "0",
            ScalarKind::IntOrString => field.omit_zero && value == &Value::from(0),
            ScalarKind::Duration => field.omit_zero && value == "0s",
            _ => false,
        },
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
    }
}

/// Whether a struct holds nothing but what its zero value writes.
fn is_zero_struct(value: &Value, ty: &Struct) -> bool {
    let mut empty = Value::Object(Map::new());
    normalise_struct(&mut empty, ty);
    *value == empty
}

/// What Go writes for a field that isn't there.
fn absent(field: &Field) -> Option<Value> {
    if field.pointer {
        return (!field.omit_empty && !field.omit_zero).then_some(Value::Null);
    }
    match &field.ty {
        Type::Struct(ty) => {
            if field.omit_zero {
                return None;
            }
            let mut empty = Value::Object(Map::new());
            normalise_struct(&mut empty, ty);
            Some(empty)
        }
        Type::Scalar(scalar) => match scalar.kind {
            // structs in Go: omitempty doesn't leave them out
            ScalarKind::Quantity
            | ScalarKind::IntOrString
            | ScalarKind::Duration
            | ScalarKind::Time
            | ScalarKind::MicroTime
            | ScalarKind::RawExtension
            | ScalarKind::Json => (!field.omit_zero).then(|| zero(&field.ty)),
            _ => (!field.omit_empty).then(|| zero(&field.ty)),
        },
        Type::List(_) | Type::Map(_) | Type::SchemaOr(..) => {
            (!field.omit_empty).then_some(Value::Null)
        }
    }
}

/// What Go writes for a type's zero value.
fn zero(ty: &Type) -> Value {
    match ty {
        Type::Scalar(scalar) => match scalar.kind {
            ScalarKind::String => Value::String(String::new()),
            ScalarKind::Bool => Value::Bool(false),
            ScalarKind::Int32
            | ScalarKind::Int64
            | ScalarKind::Uint(_)
            | ScalarKind::Float64
            | ScalarKind::IntOrString => Value::from(0),
            ScalarKind::Quantity => Value::String("0".to_owned()),
            ScalarKind::Duration => Value::String("0s".to_owned()),
            _ => Value::Null,
        },
        Type::Struct(ty) => {
            let mut empty = Value::Object(Map::new());
            normalise_struct(&mut empty, ty);
            empty
        }
        Type::List(_) | Type::Map(_) | Type::SchemaOr(..) => Value::Null,
    }
}

fn normalise_scalar(value: &mut Value, kind: ScalarKind) {
    let rewritten = match (kind, &*value) {
        (ScalarKind::Quantity, Value::String(text)) => quantity::canonical(text.trim()).ok(),
        (ScalarKind::Quantity, Value::Number(number)) => {
            quantity::canonical(&number.to_string()).ok()
        }
        (ScalarKind::Time, Value::String(text)) if !is_plain_time(text) => {
            time::parse(text, time::RFC3339).ok().map(time::format)
        }
        (ScalarKind::MicroTime, Value::String(text)) => time::parse(text, time::RFC3339)
            .ok()
            .map(time::format_micro),
        (ScalarKind::Duration, Value::String(text)) => {
            time::parse_duration(text).ok().map(time::format_duration)
        }
        (ScalarKind::Bytes, Value::String(text)) => reencode_base64(text),
        _ => None,
    };
    if let Some(text) = rewritten {
        *value = Value::String(text);
    }
}

/// Whether a time is in canonical form already, which nearly all are.
fn is_plain_time(text: &str) -> bool {
    text.len() == 20 && text.ends_with('Z')
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Schema;
    use serde_json::json;

    fn normalised(group: &str, kind: &str, mut object: Value) -> Value {
        normalise(
            &mut object,
            Schema::builtin().kind(group, "v1", kind).unwrap(),
        );
        object
    }

    #[test]
    fn a_pod_is_written_as_go_would() {
        let pod = normalised(
            "",
            "Pod",
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "a", "labels": {}, "creationTimestamp": "2026-01-02T03:04:05.9+01:00"},
                "spec": {
                    "hostNetwork": false, "priority": 0, "nodeName": "", "volumes": [],
                    "containers": [{
                        "name": "c", "stdin": false,
                        "resources": {"limits": {"cpu": "0.5", "memory": "1024Mi"}},
                        "securityContext": {"privileged": false},
                        "livenessProbe": {"httpGet": {"path": "/", "port": 80}}
                    }]
                }
            }),
        );
        assert_eq!(
            pod,
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "a", "creationTimestamp": "2026-01-02T02:04:05Z"},
                "spec": {
                    "priority": 0,
                    "containers": [{
                        "name": "c",
                        "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}},
                        "securityContext": {"privileged": false},
                        "livenessProbe": {"httpGet": {"path": "/", "port": 80}}
                    }]
                },
                "status": {}
            })
        );
    }

    #[test]
    fn required_fields_are_written_empty() {
        assert_eq!(
            normalised("apps", "Deployment", json!({})),
            json!({
                "metadata": {}, "status": {},
                "spec": {
                    "selector": null, "strategy": {},
                    "template": {"metadata": {}, "spec": {"containers": null}}
                }
            })
        );
        let service = normalised("", "Service", json!({"spec": {"ports": [{"port": 80}]}}));
        assert_eq!(service["spec"]["ports"][0]["targetPort"], json!(0));
        assert_eq!(service["status"], json!({"loadBalancer": {}}));
    }

    #[test]
    fn normalising_twice_changes_nothing() {
        for kind in [
            "Pod",
            "Service",
            "Node",
            "PersistentVolume",
            "Event",
            "Secret",
        ] {
            let once = normalised("", kind, json!({"data": {"a": "aGVsbG8="}}));
            assert_eq!(normalised("", kind, once.clone()), once, "{kind}");
        }
    }
}
