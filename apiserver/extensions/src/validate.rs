//! Values against a schema, in upstream's words.
//!
//! On updates, errors of parts that did not change and can be found in the old object are let pass (ratcheting).

use keelson_api::field::{Error, ErrorList, ErrorType, Path};
use serde_json::{Map, Number, Value};

use crate::correlate;
use crate::formats;
use crate::schema::{Additional, Schema};

/// So many errors are told at most: what is wrong everywhere needn't be told everywhere.
const MOST: usize = 1_000;

/// Everything wrong with a new value below `path` ("" for a whole object).
pub fn validate(value: &Value, schema: &Schema, path: &str) -> ErrorList {
    let mut outcome = Outcome::default();
    node(&mut outcome, value, None, schema, "", true);
    outcome.into_fields(path)
}

/// Everything wrong with a changed value that wasn't there before.
pub fn validate_update(new: &Value, old: &Value, schema: &Schema, path: &str) -> ErrorList {
    let mut outcome = Outcome::default();
    node(&mut outcome, new, Some(old), schema, "", true);
    outcome.into_fields(path)
}

/// One error, with the path inside the value.
struct Fault {
    path: String,
    kind: ErrorType,
    value: Option<Value>,
    detail: String,
    /// Upstream's errors of whole schemas name no field.
    nowhere: bool,
}

#[derive(Default)]
struct Outcome {
    faults: Vec<Fault>,
    /// How many checks were passed: the best alternative is told of.
    matches: usize,
}

impl Outcome {
    fn into_fields(self, path: &str) -> ErrorList {
        self.faults
            .into_iter()
            .take(MOST)
            .map(|fault| {
                let inner = fault.path.trim_start_matches('.');
                let field = match (fault.nowhere, path.is_empty(), inner.is_empty()) {
                    (true, true, _) | (false, true, true) => "<nil>".to_owned(),
                    (true, false, _) | (false, false, true) => path.to_owned(),
                    (false, true, false) => inner.to_owned(),
                    (false, false, false) => format!("{path}.{inner}"),
                };
                let mut error = Error::invalid(&Path::new(&field), "", fault.detail);
                error.kind = fault.kind;
                error.bad_value = fault.value;
                error
            })
            .collect()
    }

    fn merge(&mut self, other: Outcome) {
        self.faults.extend(other.faults);
        self.matches += other.matches;
    }

    fn add(&mut self, path: &str, kind: ErrorType, value: impl Into<Value>, detail: String) {
        if self.faults.len() <= MOST {
            self.faults.push(Fault {
                path: path.to_owned(),
                kind,
                value: Some(value.into()),
                detail,
                nowhere: false,
            });
        }
    }

    fn whole(&mut self, detail: String) {
        if self.faults.len() <= MOST {
            self.faults.push(Fault {
                path: String::new(),
                kind: ErrorType::Invalid,
                value: Some("".into()),
                detail,
                nowhere: true,
            });
        }
    }
}

/// Checks one node; `old` is there where ratcheting may forgive.
fn node(
    outcome: &mut Outcome,
    value: &Value,
    old: Option<&Value>,
    schema: &Schema,
    path: &str,
    root: bool,
) {
    let mut own = Outcome::default();
    check(&mut own, value, old, schema, path, root);
    if !own.faults.is_empty() && old.is_some_and(|old| old == value) {
        own.faults.clear();
    }
    outcome.merge(own);
}

fn check(
    outcome: &mut Outcome,
    value: &Value,
    old: Option<&Value>,
    schema: &Schema,
    path: &str,
    root: bool,
) {
    let typed = type_matches(outcome, value, schema, path);
    if value.is_null() {
        allowed(outcome, value, schema, path);
        return;
    }
    alternatives(outcome, value, old, schema, path);
    match value {
        Value::String(text) => string(outcome, text, schema, path),
        Value::Number(number) => numbers(outcome, number, schema, path),
        Value::Array(items) => list(outcome, items, old, schema, path),
        Value::Object(map) => {
            allowed(outcome, value, schema, path);
            object(outcome, map, old, schema, path, root);
            return;
        }
        _ => {}
    }
    allowed(outcome, value, schema, path);
    outcome.matches += usize::from(typed) + 1;
}

/// The type of a value, as schemas name it.
fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn type_matches(outcome: &mut Outcome, value: &Value, schema: &Schema, path: &str) -> bool {
    let types = schema.types();
    let refuse = |outcome: &mut Outcome, wanted: &str, got: &str| {
        let detail = format!("{} in body must be of type {wanted}: {got:?}", path);
        outcome.add(path, ErrorType::TypeInvalid, got, detail);
        false
    };
    if types.is_empty() && schema.format.is_empty() {
        return true;
    }
    let got = type_of(value);
    if value.is_null() {
        if types.is_empty() || schema.nullable {
            return true;
        }
        return refuse(outcome, &types.join(","), "null");
    }
    let float_is_whole = got == "number"
        && value.as_f64().is_some_and(|f| f.fract() == 0.0)
        && types.contains(&"integer");
    let fits =
        types.contains(&got) || float_is_whole || (got == "integer" && types.contains(&"number"));
    if !schema.format.is_empty() && !value.is_string() && !value.is_array() && !fits {
        let format = match got {
            "integer" => "int64",
            "number" => "float64",
            _ => "",
        };
        return refuse(outcome, &schema.format, format);
    }
    let numeric = types.contains(&"number") || types.contains(&"integer");
    if !numeric && !schema.format.is_empty() && (value.is_string() || value.is_array()) {
        return true;
    }
    if types.is_empty() || fits {
        return true;
    }
    refuse(outcome, &types.join(","), got)
}

/// anyOf, oneOf, allOf and not.
fn alternatives(
    outcome: &mut Outcome,
    value: &Value,
    old: Option<&Value>,
    schema: &Schema,
    path: &str,
) {
    let shown = keelson_api::field::quote(path);
    let tried = |schema: &Schema| {
        let mut tried = Outcome::default();
        check(&mut tried, value, old, schema, path, false);
        tried
    };
    if !schema.any_of.is_empty() {
        let mut best: Option<Outcome> = None;
        let mut passed = false;
        for alternative in &schema.any_of {
            let tried = tried(alternative);
            if tried.faults.is_empty() {
                best = Some(tried);
                passed = true;
                break;
            }
            if best.as_ref().is_none_or(|b| tried.matches > b.matches) {
                best = Some(tried);
            }
        }
        if !passed {
            outcome.whole(format!("{shown} must validate at least one schema (anyOf)"));
        }
        outcome.merge(best.unwrap_or_default());
    }
    if !schema.one_of.is_empty() {
        let (mut best, mut first): (Option<Outcome>, Option<Outcome>) = (None, None);
        let mut valid = 0;
        for alternative in &schema.one_of {
            let tried = tried(alternative);
            if tried.faults.is_empty() {
                valid += 1;
                best = None;
                first.get_or_insert(tried);
            } else if valid == 0 && best.as_ref().is_none_or(|b| tried.matches > b.matches) {
                best = Some(tried);
            }
        }
        if valid == 1 {
            outcome.merge(first.unwrap_or_default());
        } else {
            let found = match valid {
                0 => "Found none valid".to_owned(),
                n => format!("Found {n} valid alternatives"),
            };
            outcome.whole(format!(
                "{shown} must validate one and only one schema (oneOf). {found}"
            ));
            outcome.merge(best.unwrap_or_default());
        }
    }
    if !schema.all_of.is_empty() {
        let mut valid = 0;
        for alternative in &schema.all_of {
            let tried = tried(alternative);
            valid += usize::from(tried.faults.is_empty());
            outcome.merge(tried);
        }
        if valid != schema.all_of.len() {
            let none = if valid == 0 { ". None validated" } else { "" };
            outcome.whole(format!(
                "{shown} must validate all the schemas (allOf){none}"
            ));
        }
    }
    if let Some(not) = &schema.not
        && tried(not).faults.is_empty()
    {
        outcome.whole(format!("{shown} must not validate the schema (not)"));
    }
}

fn allowed(outcome: &mut Outcome, value: &Value, schema: &Schema, path: &str) {
    let Some(allowed) = &schema.allowed else {
        return;
    };
    let same = |a: &Value| match (a, value) {
        (Value::Number(x), Value::Number(y)) => x.as_f64() == y.as_f64(),
        _ => a == value,
    };
    if allowed.iter().any(same) {
        return;
    }
    let quoted: Vec<String> = allowed
        .iter()
        .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
        .map(|v| keelson_api::field::quote(&v))
        .collect();
    let detail = format!("supported values: {}", quoted.join(", "));
    outcome.add(path, ErrorType::NotSupported, value.clone(), detail);
}

fn string(outcome: &mut Outcome, text: &str, schema: &Schema, path: &str) {
    let length = || i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    if let Some(max) = schema.sizes.max_length
        && length() > max
    {
        let unit = if max == 1 { "byte" } else { "bytes" };
        outcome.add(
            path,
            ErrorType::TooLong,
            text,
            format!("may not be more than {max} {unit}"),
        );
    }
    if let Some(min) = schema.sizes.min_length
        && length() < min
    {
        let detail = format!("{path} in body should be at least {min} chars long");
        outcome.add(path, ErrorType::Invalid, text, detail);
    }
    if let Some((pattern, regex)) = &schema.pattern
        && !regex.is_match(text)
    {
        let detail = format!("{path} in body should match '{pattern}'");
        outcome.add(path, ErrorType::Invalid, text, detail);
    }
    let for_strings = schema.ty.is_empty() || schema.ty == "string";
    if for_strings && !schema.format.is_empty() && !formats::matches(&schema.format, text) {
        let detail = format!("{path} in body must be of type {}: {text:?}", schema.format);
        outcome.add(path, ErrorType::TypeInvalid, text, detail);
    }
}

/// A float as Go's `%v` shows it.
pub(crate) fn shown(number: f64) -> String {
    if number.fract() == 0.0 && number.abs() < 1e21 {
        format!("{number:.0}")
    } else {
        number.to_string()
    }
}

fn numbers(outcome: &mut Outcome, number: &Number, schema: &Schema, path: &str) {
    let limits = &schema.numbers;
    let value = number.as_f64().unwrap_or_default();
    let invalid = |outcome: &mut Outcome, detail: String| {
        outcome.add(
            path,
            ErrorType::Invalid,
            Value::Number(number.clone()),
            detail,
        );
    };
    if let Some(of) = limits.multiple_of {
        if of <= 0.0 {
            invalid(
                outcome,
                format!(
                    "factor MultipleOf declared for {path} must be positive: {}",
                    shown(of)
                ),
            );
        } else {
            let quotient = value / of;
            if (quotient - quotient.round()).abs() > 1e-9 * quotient.abs().max(1.0) {
                invalid(
                    outcome,
                    format!("{path} in body should be a multiple of {}", shown(of)),
                );
            }
        }
    }
    if let Some(max) = limits.maximum
        && (value > max || (limits.exclusive_maximum && value >= max))
    {
        let words = if limits.exclusive_maximum {
            "less than"
        } else {
            "less than or equal to"
        };
        invalid(
            outcome,
            format!("{path} in body should be {words} {}", shown(max)),
        );
    }
    if let Some(min) = limits.minimum
        && (value < min || (limits.exclusive_minimum && value <= min))
    {
        let words = if limits.exclusive_minimum {
            "greater than"
        } else {
            "greater than or equal to"
        };
        invalid(
            outcome,
            format!("{path} in body should be {words} {}", shown(min)),
        );
    }
    let overflows = match (schema.ty.as_str(), schema.format.as_str()) {
        ("integer", "int32") => {
            number.as_i64().is_none_or(|n| i32::try_from(n).is_err()) && value.fract() == 0.0
        }
        ("number", "float") => value.abs() > f64::from(f32::MAX),
        _ => false,
    };
    if overflows {
        let (ty, format) = (&schema.ty, &schema.format);
        let detail = format!("Checked value must be of type {ty} with format {format} in {path}");
        outcome.whole(detail);
    }
}

fn list(outcome: &mut Outcome, items: &[Value], old: Option<&Value>, schema: &Schema, path: &str) {
    if let Some(inner) = &schema.items {
        let finder = old.map(|old| correlate::Items::new(old, schema));
        for (at, item) in items.iter().enumerate() {
            let old = finder.as_ref().and_then(|f| f.of(item));
            node(outcome, item, old, inner, &format!("{path}[{at}]"), false);
        }
    }
    let count = i64::try_from(items.len()).unwrap_or(i64::MAX);
    if let Some(min) = schema.sizes.min_items
        && count < min
    {
        let detail = format!("{path} in body should have at least {min} items");
        outcome.add(path, ErrorType::Invalid, count, detail);
    }
    if let Some(max) = schema.sizes.max_items
        && count > max
    {
        let unit = if max == 1 { "item" } else { "items" };
        outcome.add(
            path,
            ErrorType::TooMany,
            count,
            format!("must have at most {max} {unit}"),
        );
    }
    if schema.unique_items {
        let mut seen = std::collections::HashSet::new();
        if !items.iter().all(|item| seen.insert(item.to_string())) {
            let detail = format!("{path} in body shouldn't contain duplicates");
            outcome.add(path, ErrorType::Invalid, "", detail);
        }
    }
}

fn object(
    outcome: &mut Outcome,
    map: &Map<String, Value>,
    old: Option<&Value>,
    schema: &Schema,
    path: &str,
    root: bool,
) {
    let count = i64::try_from(map.len()).unwrap_or(i64::MAX);
    if let Some(min) = schema.sizes.min_properties
        && count < min
    {
        let detail = format!("{path} in body should have at least {min} properties");
        outcome.add(path, ErrorType::Invalid, count, detail);
    }
    if let Some(max) = schema.sizes.max_properties
        && count > max
    {
        let unit = if max == 1 { "item" } else { "items" };
        outcome.add(
            path,
            ErrorType::TooMany,
            count,
            format!("must have at most {max} {unit}"),
        );
    }
    // Atomic maps are one value: their entries have no old ones.
    let old = old.filter(|_| correlate::map_is_granular(schema));
    let before = |name: &str| {
        let changes_unseen = root && matches!(name, "kind" | "apiVersion");
        old.filter(|_| !changes_unseen)
            .and_then(|old| old.get(name))
    };
    for (name, value) in map {
        if schema.properties.contains_key(name) {
            continue;
        }
        match &schema.additional {
            Some(Additional::Any(false)) => {
                let detail = format!("{path}.{name} in body is a forbidden property");
                outcome.add(path, ErrorType::Invalid, name.as_str(), detail);
            }
            Some(Additional::Schema(inner)) => {
                node(
                    outcome,
                    value,
                    before(name),
                    inner,
                    &format!("{path}.{name}"),
                    false,
                );
            }
            _ => {}
        }
    }
    for (name, inner) in &schema.properties {
        if let Some(value) = map.get(name) {
            let at = if path.is_empty() {
                name.clone()
            } else {
                format!("{path}.{name}")
            };
            node(outcome, value, before(name), inner, &at, false);
        }
    }
    for name in &schema.required {
        if !map.contains_key(name) {
            outcome.add(
                &format!("{path}.{name}"),
                ErrorType::Required,
                Value::Null,
                String::new(),
            );
        }
    }
    outcome.matches += 1;
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(schema: Value, value: Value) -> Vec<String> {
        let schema = Schema::compile(&schema).unwrap();
        validate(&value, &schema, "")
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn upstreams_sentences() {
        let schema = json!({"type": "object", "required": ["spec"], "properties": {"spec": {"type": "object", "required": ["a"], "properties": {
            "a": {"type": "integer", "maximum": 10}, "s": {"type": "string", "pattern": "^a+$", "maxLength": 3}, "e": {"type": "string", "enum": ["x", "y"]},
            "l": {"type": "array", "maxItems": 1, "items": {"type": "string"}}, "m": {"type": "object", "additionalProperties": {"type": "boolean"}},
            "p": {"x-kubernetes-int-or-string": true}}}}});
        assert_eq!(told(schema.clone(), json!({})), ["spec: Required value"]);
        assert_eq!(
            told(schema.clone(), json!({"spec": {"a": "x"}})),
            [
                "spec.a: Invalid value: \"string\": spec.a in body must be of type integer: \"string\""
            ]
        );
        assert_eq!(
            told(
                schema.clone(),
                json!({"spec": {"a": 11, "s": "bbbb", "e": "z", "l": ["1", "2"], "m": {"k": 1}, "p": true}})
            ),
            [
                "spec.a: Invalid value: 11: spec.a in body should be less than or equal to 10",
                "spec.e: Unsupported value: \"z\": supported values: \"x\", \"y\"",
                "spec.l: Too many: 2: must have at most 1 item",
                "spec.m.k: Invalid value: \"integer\": spec.m.k in body must be of type boolean: \"integer\"",
                "spec.p: Invalid value: \"boolean\": spec.p in body must be of type integer,string: \"boolean\"",
                "spec.s: Too long: may not be more than 3 bytes",
                "spec.s: Invalid value: \"bbbb\": spec.s in body should match '^a+$'",
            ]
        );
        assert!(told(schema, json!({"spec": {"a": 3.0, "p": "5%", "l": ["1"]}})).is_empty());
    }

    #[test]
    fn alternatives_tell_of_the_best() {
        let schema = json!({"type": "object", "properties": {"s": {"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}], "properties": {"a": {"type": "string"}, "b": {"type": "string"}}}}});
        assert_eq!(
            told(schema.clone(), json!({"s": {"a": "1", "b": "2"}})),
            [
                "<nil>: Invalid value: \"\": \"s\" must validate one and only one schema (oneOf). Found 2 valid alternatives"
            ]
        );
        assert!(told(schema.clone(), json!({"s": {"a": "1"}})).is_empty());
        assert_eq!(told(schema, json!({"s": {}})).len(), 2);
    }

    #[test]
    fn what_did_not_change_may_stay_wrong() {
        let schema = Schema::compile(&json!({"type": "object", "properties": {"a": {"type": "string", "maxLength": 1}, "b": {"type": "string"},
            "l": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "string", "maxLength": 1}}}}}})).unwrap();
        let old = json!({"a": "long", "b": "1", "l": [{"k": "1", "v": "long"}]});
        let new =
            json!({"a": "long", "b": "2", "l": [{"k": "0", "v": "x"}, {"k": "1", "v": "long"}]});
        assert!(validate_update(&new, &old, &schema, "").is_empty());
        let worse = json!({"a": "longer", "l": [{"k": "2", "v": "long"}]});
        assert_eq!(validate_update(&worse, &old, &schema, "").len(), 2);
    }
}
