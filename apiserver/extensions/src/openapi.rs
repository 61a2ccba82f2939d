//! The schema of a custom resource as clients are shown it in the OpenAPI documents.

use serde_json::{Map, Value, json};

use crate::definition::Version;

const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";

/// The schema to publish of a version: in the v2 document without what that does not know. A schema with `properties` is
/// still to be given its `metadata`.
#[must_use]
pub fn published(version: &Version, preserve_unknown: bool, v2: bool) -> Value {
    let written = &version.written;
    let preserves = preserve_unknown || version.schema.as_ref().is_some_and(|s| s.preserve_unknown);
    if !written.is_object() || (v2 && preserves) {
        // Clients would take anything more for the whole of what is allowed.
        return json!({"type": "object"});
    }
    let mut schema = written.clone();
    if v2 {
        simplify(&mut schema);
    }
    embed(&mut schema);
    if !schema["properties"].is_object() {
        schema["properties"] = Value::Object(Map::new());
    }
    schema["properties"]["apiVersion"] = json!({"type": "string", "description": API_VERSION});
    schema["properties"]["kind"] = json!({"type": "string", "description": KIND});
    if !version.selectable.is_empty() {
        let fields: Vec<Value> = version
            .selectable
            .iter()
            .map(|(label, _)| json!({"fieldPath": label}))
            .collect();
        schema["x-kubernetes-selectable-fields"] = fields.into();
    }
    schema
}

fn children(schema: &mut Value, act: &dyn Fn(&mut Value)) {
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(key).filter(|i| i.is_object()) {
            act(inner);
        }
    }
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(act);
    }
}

/// Leaves out what OpenAPI v2 does not know, and what kubectl can't cope with.
fn simplify(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else {
        return;
    };
    for key in ["allOf", "anyOf", "oneOf", "not"] {
        map.remove(key);
    }
    let nullable = map.remove("nullable") == Some(Value::Bool(true));
    let preserves = map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    if nullable || preserves {
        map.remove("items");
        map.remove("properties");
    }
    let ty = map.get("type").and_then(Value::as_str).unwrap_or_default();
    if nullable || (ty == "array" && !map.contains_key("items")) || (preserves && ty == "object") {
        map.remove("type");
    }
    let is_nullable = |s: &Value| s["nullable"] == Value::Bool(true);
    let nullables: Vec<String> = map
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter(|(_, s)| is_nullable(s))
        .map(|(name, _)| name.clone())
        .collect();
    if let Some(required) = map.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|name| !nullables.iter().any(|n| name == n));
        if required.is_empty() {
            map.remove("required");
        }
    }
    if map.get("additionalProperties").is_some_and(is_nullable) {
        map.remove("required");
    }
    children(schema, &simplify);
}

/// Says of embedded objects that they have kind and version.
fn embed(schema: &mut Value) {
    children(schema, &|inner| {
        let embedded = inner["x-kubernetes-embedded-resource"] == Value::Bool(true);
        if embedded && inner["properties"].is_object() {
            inner["properties"]["apiVersion"] =
                json!({"type": "string", "description": API_VERSION});
            inner["properties"]["kind"] = json!({"type": "string", "description": KIND});
        }
        embed(inner);
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn v2_is_simpler() {
        let mut schema = json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "string", "nullable": true},
            "b": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"c": {"type": "string"}}},
            "d": {"anyOf": [{"type": "integer"}], "x-kubernetes-int-or-string": true}}});
        simplify(&mut schema);
        assert_eq!(
            schema,
            json!({"type": "object", "properties": {"a": {}, "b": {"x-kubernetes-preserve-unknown-fields": true}, "d": {"x-kubernetes-int-or-string": true}}})
        );
    }
}
