//! Fills in what a schema has defaults for, and takes away nulls that mean nothing.

use serde_json::Value;

use crate::schema::Schema;

/// Fills in defaults.
pub fn default(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(map) => {
            for (name, property) in &schema.properties {
                let Some(default) = &property.default else {
                    continue;
                };
                if map
                    .get(name)
                    .is_none_or(|v| v.is_null() && !property.nullable)
                {
                    map.insert(name.clone(), default.clone());
                }
            }
            for (name, inner) in map.iter_mut() {
                if let Some(property) = schema.properties.get(name) {
                    self::default(inner, property);
                } else if let Some(additional) = schema.additional_schema() {
                    default_null(inner, additional);
                    self::default(inner, additional);
                }
            }
        }
        Value::Array(items) => {
            let Some(inner) = &schema.items else { return };
            for item in items {
                default_null(item, inner);
                self::default(item, inner);
            }
        }
        _ => {}
    }
}

fn default_null(value: &mut Value, schema: &Schema) {
    if value.is_null() && !schema.nullable {
        *value = schema.default.clone().unwrap_or_default();
    }
}

/// Removes nulls of properties that can be neither null nor defaulted.
pub fn prune_nulls(value: &mut Value, schema: Option<&Schema>) {
    match value {
        Value::Object(map) => map.retain(|name, inner| {
            let property = schema.and_then(|s| s.property(name));
            if inner.is_null() {
                return property.is_none_or(|p| p.nullable || p.default.is_some());
            }
            prune_nulls(inner, property);
            true
        }),
        Value::Array(items) => {
            let inner = schema.and_then(|s| s.items.as_deref());
            for item in items {
                prune_nulls(item, inner);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nulls_are_defaulted_dropped_or_kept() {
        let schema = Schema::compile(&json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "a": {"type": "string", "default": "A"}, "b": {"type": "string", "default": "B", "nullable": true},
            "c": {"type": "string"}, "d": {"type": "string", "nullable": true}, "e": {"type": "integer", "default": 5}
        }}}})).unwrap();
        let mut object = json!({"spec": {"a": null, "b": null, "c": null, "d": null}});
        prune_nulls(&mut object, Some(&schema));
        default(&mut object, &schema);
        assert_eq!(
            object,
            json!({"spec": {"a": "A", "b": null, "d": null, "e": 5}})
        );
    }
}
