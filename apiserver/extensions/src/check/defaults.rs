//! Defaults in a schema must themselves be valid, and hold nothing that would be pruned.

use keelson_api::field::{Error, ErrorList, Path};
use serde_json::Value;

use super::flag;
use crate::metadata::{self, Malformed};
use crate::prune::prune_part;
use crate::schema::Schema;
use crate::validate::validate;

/// Everything wrong with the defaults in a schema.
pub(super) fn check(schema: &Value, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    walk(&mut errors, schema, path, false, true);
    errors
}

fn walk(errors: &mut ErrorList, schema: &Value, path: &Path<'_>, inside_meta: bool, root: bool) {
    let embedded = root || flag(schema, "x-kubernetes-embedded-resource");
    let inside_meta = inside_meta && !embedded;
    if !schema["default"].is_null() {
        one(errors, schema, path, inside_meta);
    }
    if schema["items"].is_object() {
        walk(
            errors,
            &schema["items"],
            &path.child("items"),
            inside_meta,
            false,
        );
    }
    let properties = path.child("properties");
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let meta = embedded && matches!(name.as_str(), "metadata" | "apiVersion" | "kind");
        walk(
            errors,
            property,
            &properties.key(name),
            inside_meta || meta,
            false,
        );
    }
}

fn one(errors: &mut ErrorList, written: &Value, path: &Path<'_>, inside_meta: bool) {
    let at = path.child("default");
    let Ok(schema) = Schema::compile(written) else {
        // Patterns that can't be compiled are complained of where they stand.
        return;
    };
    let default = &written["default"];
    if !inside_meta {
        let mut pruned = default.clone();
        prune_part(&mut pruned, &schema);
        if pruned != *default {
            errors.push(Error::invalid(&at, default, "must not have unknown fields"));
        }
        let mut coerced = default.clone();
        if let Err(mut e) = metadata::coerce_embedded(&mut coerced, &schema, Malformed::Refuse) {
            e.field = format!("{at}.{}", e.field);
            errors.push(e);
            return;
        }
        let embedded = metadata::check_embedded(default, &schema, &at, &|_, _| ErrorList::new());
        if !embedded.is_empty() {
            errors.extend(embedded);
            return;
        }
    }
    errors.extend(validate(default, &schema, &at.to_string()));
}
