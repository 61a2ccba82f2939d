//! Uniqueness in lists that are sets or maps.

use std::collections::HashMap;

use keelson_api::field::{Error, ErrorList, Path};
use serde_json::{Map, Value};

use crate::schema::Schema;

/// Every repeated element of a set or map in an object.
pub fn check(value: &Value, schema: &Schema, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    walk(&mut errors, value, schema, path);
    errors
}

fn walk(errors: &mut ErrorList, value: &Value, schema: &Schema, path: &Path<'_>) {
    match value {
        Value::Object(map) => {
            for (name, inner) in map {
                if let Some(property) = schema.properties.get(name) {
                    walk(errors, inner, property, &path.child(name));
                } else if let Some(additional) = schema.additional_schema() {
                    walk(errors, inner, additional, &path.key(name));
                }
            }
        }
        Value::Array(items) => {
            match schema.list_type.as_deref() {
                Some("set") => {
                    for at in repeated(items.iter().map(Value::to_string)) {
                        errors.push(Error::duplicate(&path.index(at), &items[at]));
                    }
                }
                Some("map") => keys(errors, items, schema, path),
                _ => {}
            }
            if let Some(inner) = &schema.items {
                for (at, item) in items.iter().enumerate() {
                    walk(errors, item, inner, &path.index(at));
                }
            }
        }
        _ => {}
    }
}

/// Where something stands for the second time.
fn repeated(keys: impl Iterator<Item = String>) -> Vec<usize> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut second = Vec::new();
    for (at, key) in keys.enumerate() {
        let times = seen.entry(key).or_default();
        *times += 1;
        if *times == 2 {
            second.push(at);
        }
    }
    second
}

fn keys(errors: &mut ErrorList, items: &[Value], schema: &Schema, path: &Path<'_>) {
    for (at, item) in items.iter().enumerate() {
        if !item.is_object() && !item.is_null() {
            let why = "must be an object for an array of list-type map";
            errors.push(Error::invalid(&path.index(at), item, why));
            return;
        }
    }
    let key = |item: &Value| -> Value {
        let mut key = Map::new();
        for name in &schema.map_keys {
            if let Some(value) = item.get(name) {
                key.insert(name.clone(), value.clone());
            }
        }
        Value::Object(key)
    };
    for at in repeated(items.iter().map(|item| key(item).to_string())) {
        errors.push(Error::duplicate(&path.index(at), key(&items[at])));
    }
}
