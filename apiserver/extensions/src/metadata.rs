//! Metadata of objects whose own type isn't known: brought into ObjectMeta's form, and checked where it is embedded.

use std::sync::LazyLock;

use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use keelson_schema::{FieldValidation, Schema as Types, Type, decode_value, normalise};
use serde_json::{Map, Value};

use crate::schema::Schema;

static OBJECT_META: LazyLock<Option<&'static Type>> =
    LazyLock::new(|| Types::builtin().named("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"));

/// What is to become of metadata that doesn't fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// It is an error.
    Refuse,
    /// It is dropped: what is stored must stay readable.
    Drop,
}

/// Brings an object's own metadata into form; answers the paths of unknown fields below `prefix`.
pub fn coerce_own(
    object: &mut Value,
    malformed: Malformed,
    prefix: &str,
) -> Result<Vec<String>, String> {
    let (Some(ty), Some(metadata)) = (*OBJECT_META, object.get_mut("metadata")) else {
        return Ok(Vec::new());
    };
    let taken = std::mem::take(metadata);
    let (coerced, unknown) = match decode_value(taken.clone(), ty, FieldValidation::Warn) {
        Ok(decoded) => (decoded.object, decoded.warnings),
        Err(e) if malformed == Malformed::Refuse => {
            *metadata = taken;
            return Err(e.to_string());
        }
        Err(_) => (field_by_field(taken, ty), Vec::new()),
    };
    *metadata = coerced;
    if !metadata.is_object() {
        *metadata = Value::Object(Map::new());
    }
    normalise(metadata, ty);
    if let Some(map) = metadata.as_object_mut()
        && map.get("creationTimestamp").is_some_and(Value::is_null)
    {
        map.remove("creationTimestamp");
    }
    Ok(unknown
        .iter()
        .filter_map(|w| w.strip_prefix("unknown field \"")?.strip_suffix('"'))
        .map(|path| format!("{prefix}metadata.{path}"))
        .collect())
}

fn field_by_field(metadata: Value, ty: &Type) -> Value {
    let mut kept = Map::new();
    let Value::Object(fields) = metadata else {
        return Value::Object(kept);
    };
    for (name, value) in fields {
        let mut alone = Map::new();
        alone.insert(name, value);
        if let Ok(decoded) = decode_value(Value::Object(alone), ty, FieldValidation::Ignore)
            && let Value::Object(fits) = decoded.object
        {
            kept.extend(fits);
        }
    }
    Value::Object(kept)
}

/// Brings the metadata of embedded objects into form; answers the paths of unknown fields.
pub fn coerce_embedded(
    value: &mut Value,
    schema: &Schema,
    malformed: Malformed,
) -> Result<Vec<String>, Error> {
    let mut unknown = Vec::new();
    coerce(value, schema, malformed, "", &mut unknown)?;
    unknown.sort();
    Ok(unknown)
}

fn coerce(
    value: &mut Value,
    schema: &Schema,
    malformed: Malformed,
    path: &str,
    unknown: &mut Vec<String>,
) -> Result<(), Error> {
    if schema.embedded && value.is_object() {
        coerce_one(value, malformed, path, unknown)?;
    }
    match value {
        Value::Object(map) => {
            for (name, inner) in map.iter_mut() {
                let (child, property) = match schema.properties.get(name) {
                    Some(property) => (joined(path, name), Some(property)),
                    None => (format!("{path}[{name}]"), schema.additional_schema()),
                };
                if let Some(property) = property {
                    coerce(inner, property, malformed, &child, unknown)?;
                }
            }
        }
        Value::Array(items) => {
            if let Some(inner) = &schema.items {
                for (at, item) in items.iter_mut().enumerate() {
                    coerce(item, inner, malformed, &format!("{path}[{at}]"), unknown)?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

fn joined(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn coerce_one(
    value: &mut Value,
    malformed: Malformed,
    path: &str,
    unknown: &mut Vec<String>,
) -> Result<(), Error> {
    for key in ["apiVersion", "kind"] {
        let is_text = value.get(key).is_none_or(Value::is_string);
        if is_text {
            continue;
        }
        if malformed == Malformed::Refuse {
            let at = joined(path, key);
            return Err(Error::invalid(
                &Path::new(&at),
                &value[key],
                "must be a string",
            ));
        }
        if let Some(map) = value.as_object_mut() {
            map.remove(key);
        }
    }
    let prefix = if path.is_empty() {
        String::new()
    } else {
        format!("{path}.")
    };
    match coerce_own(value, malformed, &prefix) {
        Ok(found) => unknown.extend(found),
        Err(why) => {
            let at = joined(path, "metadata");
            return Err(Error::invalid(&Path::new(&at), &value["metadata"], why));
        }
    }
    Ok(())
}

/// Everything wrong with embedded objects: they must say what they are, and have valid metadata.
pub fn check_embedded(
    value: &Value,
    schema: &Schema,
    path: &Path<'_>,
    validate: &dyn Fn(&Value, &Path<'_>) -> ErrorList,
) -> ErrorList {
    let mut errors = ErrorList::new();
    check(&mut errors, value, schema, path, validate);
    errors
}

fn check(
    errors: &mut ErrorList,
    value: &Value,
    schema: &Schema,
    path: &Path<'_>,
    validate: &dyn Fn(&Value, &Path<'_>) -> ErrorList,
) {
    match value {
        Value::Object(map) => {
            if schema.embedded {
                check_one(errors, map, path);
                if let Some(metadata) = map.get("metadata").filter(|m| m.is_object()) {
                    errors.extend(validate(metadata, &path.child("metadata")));
                }
            }
            for (name, inner) in map {
                if let Some(property) = schema.properties.get(name) {
                    check(errors, inner, property, &path.child(name), validate);
                } else if let Some(additional) = schema.additional_schema() {
                    check(errors, inner, additional, &path.key(name), validate);
                }
            }
        }
        Value::Array(items) => {
            if let Some(inner) = &schema.items {
                for (at, item) in items.iter().enumerate() {
                    check(errors, item, inner, &path.index(at), validate);
                }
            }
        }
        _ => {}
    }
}

fn check_one(errors: &mut ErrorList, map: &Map<String, Value>, path: &Path<'_>) {
    for key in ["apiVersion", "kind"] {
        let at = path.child(key);
        match map.get(key) {
            None => errors.push(Error::required(&at, "")),
            Some(Value::String(text)) if text.is_empty() => {
                errors.push(Error::invalid(&at, text, "must not be empty"));
            }
            Some(Value::String(text)) if key == "kind" => {
                let faults = names::dns1035_label(&text.to_lowercase());
                if !faults.is_empty() {
                    let why = format!(
                        "may have mixed case, but should otherwise match: {}",
                        faults.join(",")
                    );
                    errors.push(Error::invalid(&at, text, why));
                }
            }
            Some(Value::String(text)) => {
                if text.matches('/').count() > 1 {
                    let why = format!("unexpected GroupVersion string: {text}");
                    errors.push(Error::invalid(&at, text, why));
                }
            }
            Some(other) => errors.push(Error::invalid(&at, other, "must be a string")),
        }
    }
}
