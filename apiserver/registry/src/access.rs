//! Reading and changing JSON objects by dotted paths (`spec.template.metadata`), with an absent field read as its zero value.

use serde_json::{Map, Value};

static NULL: Value = Value::Null;

/// Reading parts of an object. Paths are dotted field names; what is absent reads as null, `""`, `0`, `false` or empty.
pub trait Access {
    /// The part at `path`, or null.
    fn part(&self, path: &str) -> &Value;

    /// Whether there is something other than null at `path`.
    fn has(&self, path: &str) -> bool {
        !self.part(path).is_null()
    }

    /// The string at `path`.
    fn text(&self, path: &str) -> &str {
        self.part(path).as_str().unwrap_or_default()
    }

    /// The whole number at `path`, if there is one.
    fn int(&self, path: &str) -> Option<i64> {
        self.part(path).as_i64()
    }

    /// The whole number at `path`, or zero.
    fn number(&self, path: &str) -> i64 {
        self.int(path).unwrap_or_default()
    }

    /// The boolean at `path`.
    fn flag(&self, path: &str) -> bool {
        self.part(path).as_bool().unwrap_or_default()
    }

    /// The items of the list at `path`.
    fn items(&self, path: &str) -> &[Value] {
        self.part(path)
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    /// The entries of the map at `path`.
    fn entries(&self, path: &str) -> impl Iterator<Item = (&str, &Value)> {
        self.part(path)
            .as_object()
            .into_iter()
            .flatten()
            .map(|(k, v)| (k.as_str(), v))
    }

    /// Whether there is nothing at `path`, or an empty string, list or map.
    fn is_blank(&self, path: &str) -> bool {
        blank(self.part(path))
    }
}

impl Access for Value {
    fn part(&self, path: &str) -> &Value {
        let mut at = self;
        for key in path.split('.') {
            match at.get(key) {
                Some(next) => at = next,
                None => return &NULL,
            }
        }
        at
    }
}

/// Whether a value is null or an empty string, list or map, which Go's JSON does not tell apart from absence.
#[must_use]
pub fn blank(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        _ => false,
    }
}

/// Whether two values mean the same where null and empty collections do not differ, as upstream compares objects.
#[must_use]
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            x.iter().all(|(k, v)| same(v, y.get(k).unwrap_or(&NULL)))
                && y.iter().all(|(k, v)| x.contains_key(k) || same(&NULL, v))
        }
        (Value::Array(x), Value::Array(y)) => {
            x.len() == y.len() && x.iter().zip(y).all(|(v, w)| same(v, w))
        }
        (Value::Null, Value::Array(x)) | (Value::Array(x), Value::Null) => x.is_empty(),
        (Value::Null, Value::Object(x)) | (Value::Object(x), Value::Null) => x.is_empty(),
        _ => a == b,
    }
}

/// The place at `path`, made (with the objects on the way) where it is absent.
pub fn slot<'a>(object: &'a mut Value, path: &str) -> &'a mut Value {
    let mut at = object;
    for key in path.split('.') {
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        at = match at {
            Value::Object(map) => map.entry(key).or_insert(Value::Null),
            _ => unreachable!("made an object just above"),
        };
    }
    at
}

/// The part at `path`, if it is there.
pub fn part_mut<'a>(object: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    path.split('.')
        .try_fold(object, |at, key| at.get_mut(key))
        .filter(|v| !v.is_null())
}

/// The items of the list at `path`, to be changed.
pub fn items_mut<'a>(object: &'a mut Value, path: &str) -> impl Iterator<Item = &'a mut Value> {
    part_mut(object, path)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
}

/// Puts `value` at `path`.
pub fn set(object: &mut Value, path: &str, value: impl Into<Value>) {
    *slot(object, path) = value.into();
}

/// Puts `value` at `path` where nothing is.
pub fn set_default(object: &mut Value, path: &str, value: impl Into<Value>) {
    if !object.has(path) {
        set(object, path, value);
    }
}

/// Puts `value` at `path` where nothing, or the empty string, is.
pub fn set_default_text(object: &mut Value, path: &str, value: &str) {
    if object.text(path).is_empty() {
        set(object, path, value);
    }
}

/// Puts `value` at `path` where nothing, or zero, is.
pub fn set_default_number(object: &mut Value, path: &str, value: i64) {
    if object.number(path) == 0 {
        set(object, path, value);
    }
}

/// Takes away what is at `path`.
pub fn remove(object: &mut Value, path: &str) -> Option<Value> {
    match path.rsplit_once('.') {
        Some((parent, key)) => part_mut(object, parent)?.as_object_mut()?.remove(key),
        None => object.as_object_mut()?.remove(path),
    }
}

/// Makes the part at `path` of `to` what it is in `from`, absence included.
pub fn copy(to: &mut Value, from: &Value, path: &str) {
    let value = from.part(path);
    if value.is_null() {
        remove(to, path);
    } else {
        *slot(to, path) = value.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn absent_parts_read_as_zero() {
        let o = json!({"spec": {"replicas": 3, "paused": true, "items": [1], "name": "x"}});
        assert_eq!(o.number("spec.replicas"), 3);
        assert_eq!(o.text("spec.template.name"), "");
        assert!(o.flag("spec.paused") && !o.has("status") && o.items("spec.items").len() == 1);
    }

    #[test]
    fn parts_are_made_changed_and_taken_away() {
        let mut o = json!({});
        set_default(&mut o, "spec.a.b", 1);
        set_default(&mut o, "spec.a.b", 2);
        set_default_text(&mut o, "spec.t", "x");
        assert_eq!(o, json!({"spec": {"a": {"b": 1}, "t": "x"}}));
        remove(&mut o, "spec.a");
        copy(&mut o, &json!({"status": {"x": 1}}), "status");
        copy(&mut o, &json!({}), "spec");
        assert_eq!(o, json!({"status": {"x": 1}}));
    }

    #[test]
    fn empty_collections_are_as_good_as_none() {
        assert!(same(&json!({"a": [], "b": 1}), &json!({"b": 1, "c": {}})));
        assert!(!same(&json!({"a": ""}), &json!({})));
        assert!(!same(&json!({"a": [1]}), &json!({})));
    }
}
