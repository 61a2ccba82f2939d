//! ConfigMap: configuration for pods to read.

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use serde_json::Value;

use crate::access::{Access, same};
use crate::columns::{AGE, Column, NAME, text};
use crate::meta::faults;
use crate::print;
use crate::strategy::{Context, Strategy};

/// The most that a ConfigMap's or Secret's values may weigh together.
pub const SIZE_MAX: usize = 1024 * 1024;

/// The rules of ConfigMap.
pub struct Rules;

impl Strategy for Rules {
    fn validate(&self, map: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let mut size = 0;
        for field in ["data", "binaryData"] {
            let path = Path::new(field);
            for (key, value) in map.entries(field) {
                let at = path.key(key);
                faults(&mut errors, &at, key, names::config_map_key(key));
                let text = value.as_str().unwrap_or_default();
                if field == "data" {
                    size += text.len();
                    if map.part("binaryData").get(key).is_some() {
                        errors.push(Error::invalid(
                            &at,
                            key,
                            "duplicate of key present in binaryData",
                        ));
                    }
                } else {
                    size += decoded_length(text);
                }
            }
        }
        if size > SIZE_MAX {
            errors.push(Error::too_long(&Path::new(""), SIZE_MAX));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        if old.flag("immutable") {
            frozen(&mut errors, new, old, &["data", "binaryData"]);
        }
        errors.extend(self.validate(new, context));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, text("Data", "How many values it holds."), AGE];
        COLUMNS
    }

    fn row(&self, map: &Value, now: Timestamp) -> Vec<Value> {
        let count = map.entries("data").count() + map.entries("binaryData").count();
        vec![print::name(map), count.into(), print::age(map, now)]
    }
}

/// The length of what a base64 text stands for.
#[must_use]
pub fn decoded_length(base64: &str) -> usize {
    base64.trim_end_matches('=').len() * 3 / 4
}

/// Errors for changes of an object that is marked immutable.
pub fn frozen(errors: &mut ErrorList, new: &Value, old: &Value, fields: &[&str]) {
    const DETAIL: &str = "field is immutable when `immutable` is set";
    if !new.flag("immutable") {
        errors.push(Error::forbidden(&Path::new("immutable"), DETAIL));
    }
    for field in fields {
        if !same(new.part(field), old.part(field)) {
            errors.push(Error::forbidden(&Path::new(field), DETAIL));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(errors: &ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn keys_and_size() {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        let map = json!({"data": {"a": "1", "a/b": "2"}, "binaryData": {"a": "AA=="}});
        let found = texts(&Rules.validate(&map, &context));
        assert_eq!(
            found[0],
            "data[a]: Invalid value: \"a\": duplicate of key present in binaryData"
        );
        assert!(
            found[1].starts_with(
                "data[a/b]: Invalid value: \"a/b\": a valid config key must consist of"
            )
        );
        let big = json!({"data": {"a": "x".repeat(SIZE_MAX + 1)}});
        assert_eq!(
            texts(&Rules.validate(&big, &context)),
            [": Too long: may not be more than 1048576 bytes"]
        );
    }

    #[test]
    fn immutable_maps_stay() {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        let old = json!({"immutable": true, "data": {"a": "1"}});
        let new = json!({"data": {"a": "2"}});
        assert_eq!(
            texts(&Rules.validate_update(&new, &old, &context)),
            [
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set"
            ]
        );
    }
}
