//! Whether a schema is structural: every field typed where it is specified, logic restricted to values.

use keelson_api::field::{Error, ErrorList, Path};
use serde_json::{Map, Value, json};

use super::{flag, list, text};
use crate::schema::pattern;

fn object<'a>(value: &'a Value, key: &str) -> Option<&'a Map<String, Value>> {
    value.get(key).and_then(Value::as_object)
}

/// Whether a schema is none.
pub(super) fn is_not(schema: &Value) -> bool {
    unsupported(schema).is_some() || !check(schema, &Path::new("")).is_empty()
}

/// What of a schema can't be read as a structural one at all.
#[must_use]
pub fn unsupported(schema: &Value) -> Option<String> {
    for key in [
        "id",
        "$schema",
        "$ref",
        "patternProperties",
        "dependencies",
        "additionalItems",
        "definitions",
    ] {
        let empty = match &schema[key] {
            Value::Null => true,
            Value::String(s) => s.is_empty(),
            Value::Object(map) => map.is_empty() && key != "additionalItems",
            _ => false,
        };
        if !empty {
            let shown = if key == "$schema" { "schema" } else { key };
            return Some(format!("OpenAPIV3Schema '{shown}' is not supported"));
        }
    }
    if schema["items"].is_array() {
        return Some("OpenAPIV3Schema 'items' must be a schema, but is an array".to_owned());
    }
    if schema["x-kubernetes-preserve-unknown-fields"] == Value::Bool(false) {
        return Some(
            "internal error: 'x-kubernetes-preserve-unknown-fields' must be true or undefined"
                .to_owned(),
        );
    }
    let inner = ["allOf", "anyOf", "oneOf"]
        .iter()
        .flat_map(|k| list(schema, k));
    let single = ["not", "items", "additionalProperties"]
        .iter()
        .map(|k| &schema[*k])
        .filter(|s| s.is_object());
    let properties = object(schema, "properties")
        .into_iter()
        .flat_map(Map::values);
    inner.chain(single).chain(properties).find_map(unsupported)
}

/// What makes a schema not structural, sorted as upstream sorts it.
#[must_use]
pub fn check(schema: &Value, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    invariants(&mut errors, schema, Level::Root, path);
    complete(&mut errors, schema, Some(schema), path, path);
    errors.sort_by_key(ToString::to_string);
    errors
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

fn invariants(errors: &mut ErrorList, schema: &Value, level: Level, path: &Path<'_>) {
    let ty = text(schema, "type");
    let (items, additional) = (&schema["items"], &schema["additionalProperties"]);
    if ty == "array" && items.is_null() {
        errors.push(Error::required(&path.child("items"), "must be specified"));
    }
    if items.is_object() {
        invariants(errors, items, Level::Item, &path.child("items"));
    }
    let properties_path = path.child("properties");
    for (name, property) in object(schema, "properties").into_iter().flatten() {
        invariants(errors, property, Level::Field, &properties_path.key(name));
    }
    if !additional.is_null() {
        let at = path.child("additionalProperties");
        if level == Level::Root {
            errors.push(Error::forbidden(&at, "must not be used at the root"));
        }
        if additional.is_object() {
            invariants(errors, additional, Level::Field, &at);
        }
    }
    let embedded = flag(schema, "x-kubernetes-embedded-resource");
    let preserves = flag(schema, "x-kubernetes-preserve-unknown-fields");
    let int_or_string = flag(schema, "x-kubernetes-int-or-string");
    if int_or_string {
        for (set, key) in [
            (preserves, "x-kubernetes-preserve-unknown-fields"),
            (embedded, "x-kubernetes-embedded-resource"),
        ] {
            if set {
                errors.push(Error::invalid(
                    &path.child(key),
                    true,
                    "must be false if x-kubernetes-int-or-string is true",
                ));
            }
        }
    }
    let either = json!([{"type": "integer"}, {"type": "string"}]);
    let skip_any_of = schema["anyOf"] == either;
    let skip_all_of = schema["allOf"][0]["anyOf"] == either;
    values(errors, schema, skip_any_of, skip_all_of, level, path);
    types(
        errors,
        schema,
        level,
        path,
        embedded,
        preserves || int_or_string,
    );
    meta(errors, schema, level, path, embedded);
    if embedded && !preserves && object(schema, "properties").is_none_or(Map::is_empty) {
        let why = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.push(Error::required(&properties_path, why));
    }
}

fn types(
    errors: &mut ErrorList,
    schema: &Value,
    level: Level,
    path: &Path<'_>,
    embedded: bool,
    may_be_untyped: bool,
) {
    let ty = text(schema, "type");
    let at = path.child("type");
    if embedded && ty != "object" {
        let why = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(if ty.is_empty() {
            Error::required(&at, why)
        } else {
            Error::invalid(&at, ty, why)
        });
    } else if ty.is_empty() && !may_be_untyped {
        let why = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.push(Error::required(&at, why));
    }
    if embedded && !schema["additionalProperties"].is_null() {
        let why = "must not be used if x-kubernetes-embedded-resource is set";
        errors.push(Error::forbidden(&path.child("additionalProperties"), why));
    }
    if level == Level::Root && !ty.is_empty() && ty != "object" {
        errors.push(Error::invalid(&at, ty, "must be object at the root"));
    }
}

fn meta(errors: &mut ErrorList, schema: &Value, level: Level, path: &Path<'_>, embedded: bool) {
    let checks = level == Level::Root || embedded;
    let properties = path.child("properties");
    for name in ["kind", "apiVersion"] {
        let property = &schema["properties"][name];
        if checks && property.is_object() && text(property, "type") != "string" {
            let at = properties.key(name);
            errors.push(Error::invalid(
                &at.child("type"),
                text(property, "type"),
                "must be string",
            ));
        }
    }
    let metadata = &schema["properties"]["metadata"];
    if !metadata.is_object() {
        return;
    }
    let at = properties.key("metadata");
    if checks && text(metadata, "type") != "object" {
        errors.push(Error::invalid(
            &at.child("type"),
            text(metadata, "type"),
            "must be object",
        ));
    }
    if level == Level::Root {
        let only_names = object(metadata, "properties")
            .is_none_or(|p| p.keys().all(|k| k == "name" || k == "generateName"));
        let only_these = metadata
            .as_object()
            .into_iter()
            .flatten()
            .all(|(key, value)| {
                matches!(key.as_str(), "type" | "properties" | "default")
                    || value.is_null()
                    || value == &Value::Bool(false)
            });
        if !only_names || !only_these {
            let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
            errors.push(Error::forbidden(&at, why));
        }
    }
}

/// The part of a schema that restricts values.
fn values(
    errors: &mut ErrorList,
    schema: &Value,
    skip_any_of: bool,
    skip_all_of: bool,
    level: Level,
    path: &Path<'_>,
) {
    let at = path.child("anyOf");
    if !skip_any_of {
        for (index, inner) in list(schema, "anyOf").iter().enumerate() {
            nested(errors, inner, false, level, &at.index(index));
        }
    }
    let at = path.child("allOf");
    for (index, inner) in list(schema, "allOf").iter().enumerate() {
        nested(
            errors,
            inner,
            skip_all_of && index == 0,
            level,
            &at.index(index),
        );
    }
    let at = path.child("oneOf");
    for (index, inner) in list(schema, "oneOf").iter().enumerate() {
        nested(errors, inner, false, level, &at.index(index));
    }
    if schema["not"].is_object() {
        nested(errors, &schema["not"], false, level, &path.child("not"));
    }
    let written = text(schema, "pattern");
    if !written.is_empty()
        && let Err(why) = pattern(written)
    {
        let why = format!("must be a valid regular expression, but isn't: {why}");
        errors.push(Error::invalid(&path.child("pattern"), written, why));
    }
}

fn nested(
    errors: &mut ErrorList,
    schema: &Value,
    skip_any_of: bool,
    level: Level,
    path: &Path<'_>,
) {
    values(errors, schema, skip_any_of, false, level, path);
    if schema["items"].is_object() {
        nested(errors, &schema["items"], false, level, &path.child("items"));
    }
    let properties = path.child("properties");
    for (name, inner) in object(schema, "properties").into_iter().flatten() {
        nested(errors, inner, false, Level::Field, &properties.key(name));
    }
    let mut forbid = |key: &str, set: bool, why: &str| {
        if set {
            errors.push(Error::forbidden(
                &path.child(key),
                format!("must be {why} to be structural"),
            ));
        }
    };
    let present = |key: &str| !schema[key].is_null();
    forbid("type", !text(schema, "type").is_empty(), "empty");
    let additional = !matches!(
        schema["additionalProperties"],
        Value::Null | Value::Bool(false)
    );
    forbid("additionalProperties", additional, "undefined");
    forbid("default", present("default"), "undefined");
    forbid("title", !text(schema, "title").is_empty(), "empty");
    forbid(
        "description",
        !text(schema, "description").is_empty(),
        "empty",
    );
    for key in [
        "nullable",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-embedded-resource",
        "x-kubernetes-int-or-string",
    ] {
        forbid(key, flag(schema, key), "false");
    }
    forbid(
        "x-kubernetes-list-map-keys",
        !list(schema, "x-kubernetes-list-map-keys").is_empty(),
        "empty",
    );
    forbid(
        "x-kubernetes-list-type",
        present("x-kubernetes-list-type"),
        "undefined",
    );
    forbid(
        "x-kubernetes-map-type",
        present("x-kubernetes-map-type"),
        "undefined",
    );
    forbid(
        "x-kubernetes-validations",
        !list(schema, "x-kubernetes-validations").is_empty(),
        "empty",
    );
    if schema["properties"]["metadata"].is_object() {
        errors.push(Error::forbidden(
            &properties.key("metadata"),
            "must not be specified in a nested context",
        ));
    }
}

/// Every restriction of a value must have that value specified: `whole` is the structural schema of the place.
fn complete(
    errors: &mut ErrorList,
    schema: &Value,
    whole: Option<&Value>,
    place: &Path<'_>,
    path: &Path<'_>,
) {
    if schema["not"].is_object() {
        complete_nested(errors, &schema["not"], whole, place, &path.child("not"));
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        let at = path.child(key);
        for (index, inner) in list(schema, key).iter().enumerate() {
            complete_nested(errors, inner, whole, place, &at.index(index));
        }
    }
}

fn complete_nested(
    errors: &mut ErrorList,
    schema: &Value,
    whole: Option<&Value>,
    place: &Path<'_>,
    path: &Path<'_>,
) {
    let Some(whole) = whole.filter(|w| w.is_object()) else {
        errors.push(Error::required(
            place,
            format!("because it is defined in {path}"),
        ));
        return;
    };
    complete(errors, schema, Some(whole), place, path);
    if schema["items"].is_object() {
        complete_nested(
            errors,
            &schema["items"],
            Some(&whole["items"]),
            &place.child("items"),
            &path.child("items"),
        );
    }
    let (properties, own) = (place.child("properties"), path.child("properties"));
    for (name, inner) in object(schema, "properties").into_iter().flatten() {
        let (at, from) = (properties.key(name), own.key(name));
        complete_nested(
            errors,
            inner,
            Some(&whole["properties"][name.as_str()]),
            &at,
            &from,
        );
    }
}
