//! Removes what a schema doesn't know, and says where that was.
//!
//! Metadata of the object itself and of embedded ones is [`crate::metadata`]'s.

use serde_json::Value;

use crate::schema::{Additional, Schema};

const META: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Removes unknown fields from a whole object; answers their paths, sorted.
pub fn prune(object: &mut Value, schema: Option<&Schema>) -> Vec<String> {
    let mut pruner = Pruner::default();
    let empty = Schema::default();
    let schema = schema.unwrap_or(&empty);
    pruner.prune(object, Some(schema), true, false);
    pruner.found.sort();
    pruner.found
}

/// Removes unknown fields from a part of an object.
pub fn prune_part(value: &mut Value, schema: &Schema) -> Vec<String> {
    let mut pruner = Pruner::default();
    pruner.prune(value, Some(schema), false, false);
    pruner.found
}

#[derive(Default)]
struct Pruner {
    path: Vec<String>,
    found: Vec<String>,
}

impl Pruner {
    fn at(&self, name: &str) -> String {
        let mut path = self.path.concat();
        if !path.is_empty() {
            path.push('.');
        }
        path + name
    }

    fn key<T>(&mut self, name: &str, act: impl FnOnce(&mut Self) -> T) -> T {
        let element = if self.path.is_empty() {
            name.to_owned()
        } else {
            format!(".{name}")
        };
        self.path.push(element);
        let done = act(self);
        self.path.pop();
        done
    }

    fn index<T>(&mut self, at: usize, act: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(format!("[{at}]"));
        let done = act(self);
        self.path.pop();
        done
    }

    /// `keep` leaves what isn't known on this level: below a list that preserves it.
    fn prune(&mut self, value: &mut Value, schema: Option<&Schema>, root: bool, keep: bool) {
        let preserves = keep || schema.is_some_and(|s| s.preserve_unknown);
        match value {
            Value::Object(map) => {
                let Some(schema) = schema else {
                    let names: Vec<String> = map.keys().cloned().collect();
                    for name in names {
                        self.found.push(self.at(&name));
                        map.remove(&name);
                    }
                    return;
                };
                let mut unknown = Vec::new();
                for (name, inner) in map.iter_mut() {
                    if (schema.embedded || root) && META.contains(&name.as_str()) {
                        continue;
                    }
                    if let Some(property) = schema.properties.get(name) {
                        self.key(name, |p| p.prune(inner, Some(property), false, false));
                    } else if let Some(additional) = &schema.additional {
                        let inner_schema = match additional {
                            Additional::Schema(schema) => Some(&**schema),
                            Additional::Any(_) => None,
                        };
                        self.key(name, |p| p.prune(inner, inner_schema, false, false));
                    } else if !preserves {
                        if !META.contains(&name.as_str()) || !self.path.is_empty() {
                            self.found.push(self.at(name));
                        }
                        unknown.push(name.clone());
                    }
                }
                for name in unknown {
                    map.remove(&name);
                }
            }
            Value::Array(items) => {
                let inner = schema.and_then(|s| s.items.as_deref());
                if preserves && inner.is_none() {
                    return;
                }
                for (at, item) in items.iter_mut().enumerate() {
                    self.index(at, |p| p.prune(item, inner, false, preserves));
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_declared_stays() {
        let schema = Schema::compile(&json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {"a": {"type": "string"}, "l": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "string"}}}}}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"in": {"type": "object", "properties": {"k": {"type": "string"}}}}}
        }})).unwrap();
        let mut object = json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "n"}, "x": 1,
            "spec": {"a": "1", "b": 2, "l": [{"n": "1", "m": 2}]}, "free": {"any": {"thing": 1}, "in": {"k": "1", "z": 2}}});
        assert_eq!(
            prune(&mut object, Some(&schema)),
            ["free.in.z", "spec.b", "spec.l[0].m", "x"]
        );
        assert_eq!(
            object,
            json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "n"},
            "spec": {"a": "1", "l": [{"n": "1"}]}, "free": {"any": {"thing": 1}, "in": {"k": "1"}}})
        );
    }
}
