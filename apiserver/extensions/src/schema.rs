//! A schema of custom objects, compiled once from the definition's JSON: what pruning, defaulting and validation walk.
//!
//! Whether a schema may be part of a definition at all is [`crate::check`]'s question; what is compiled here was accepted.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

/// Regular expressions that take more memory than this are refused.
const PATTERN_BYTES: usize = 1 << 20;

/// One node of a schema.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    /// The type's name; empty where any is allowed.
    pub ty: String,
    /// Whether null is a value.
    pub nullable: bool,
    /// What stands in for an absent value.
    pub default: Option<Value>,
    /// The format, if it is one that is checked.
    pub format: String,
    /// Limits of numbers.
    pub numbers: Numbers,
    /// Limits of sizes.
    pub sizes: Sizes,
    /// What strings must match.
    pub pattern: Option<(String, Regex)>,
    /// Whether items may not repeat.
    pub unique_items: bool,
    /// Properties that must be there.
    pub required: Vec<String>,
    /// The only values allowed.
    pub allowed: Option<Vec<Value>>,
    /// The schema of items.
    pub items: Option<Box<Schema>>,
    /// The schemas of properties.
    pub properties: BTreeMap<String, Schema>,
    /// The schema of all other properties.
    pub additional: Option<Additional>,
    /// All of these must hold.
    pub all_of: Vec<Schema>,
    /// At least one of these must hold.
    pub any_of: Vec<Schema>,
    /// Exactly one of these must hold.
    pub one_of: Vec<Schema>,
    /// This must not hold.
    pub not: Option<Box<Schema>>,
    /// `x-kubernetes-embedded-resource`.
    pub embedded: bool,
    /// `x-kubernetes-int-or-string`.
    pub int_or_string: bool,
    /// `x-kubernetes-preserve-unknown-fields`.
    pub preserve_unknown: bool,
    /// `x-kubernetes-list-type`.
    pub list_type: Option<String>,
    /// `x-kubernetes-list-map-keys`.
    pub map_keys: Vec<String>,
    /// `x-kubernetes-map-type`.
    pub map_type: Option<String>,
}

/// `additionalProperties`.
#[derive(Clone, Debug)]
pub enum Additional {
    /// Any, or none.
    Any(bool),
    /// Those that fit.
    Schema(Box<Schema>),
}

/// Limits of numbers.
#[derive(Clone, Debug, Default)]
pub struct Numbers {
    /// The largest.
    pub maximum: Option<f64>,
    /// Whether the largest itself is too large.
    pub exclusive_maximum: bool,
    /// The smallest.
    pub minimum: Option<f64>,
    /// Whether the smallest itself is too small.
    pub exclusive_minimum: bool,
    /// What they must be a multiple of.
    pub multiple_of: Option<f64>,
}

/// Limits of sizes.
#[derive(Clone, Debug, Default)]
pub struct Sizes {
    /// Of strings, in characters.
    pub max_length: Option<i64>,
    /// Of strings, in characters.
    pub min_length: Option<i64>,
    /// Of lists.
    pub max_items: Option<i64>,
    /// Of lists.
    pub min_items: Option<i64>,
    /// Of objects.
    pub max_properties: Option<i64>,
    /// Of objects.
    pub min_properties: Option<i64>,
}

impl Schema {
    /// Compiles a schema. The error says which pattern is no use.
    pub fn compile(json: &Value) -> Result<Schema, String> {
        let text = |key: &str| json.get(key).and_then(Value::as_str).unwrap_or_default();
        let flag = |key: &str| json.get(key).and_then(Value::as_bool).unwrap_or_default();
        let number = |key: &str| json.get(key).and_then(Value::as_f64);
        let size = |key: &str| json.get(key).and_then(Value::as_i64);
        let words = |key: &str| -> Vec<String> {
            let items = json.get(key).and_then(Value::as_array);
            let texts = items.into_iter().flatten().filter_map(Value::as_str);
            texts.map(str::to_owned).collect()
        };
        let option = |key: &str| json.get(key).and_then(Value::as_str).map(str::to_owned);
        let many = |key: &str| -> Result<Vec<Schema>, String> {
            let items = json.get(key).and_then(Value::as_array);
            items.into_iter().flatten().map(Schema::compile).collect()
        };
        let one = |key: &str| -> Result<Option<Box<Schema>>, String> {
            match json.get(key) {
                Some(inner @ Value::Object(_)) => Ok(Some(Box::new(Schema::compile(inner)?))),
                _ => Ok(None),
            }
        };
        let mut properties = BTreeMap::new();
        let declared = json.get("properties").and_then(Value::as_object);
        for (name, inner) in declared.into_iter().flatten() {
            properties.insert(name.clone(), Schema::compile(inner)?);
        }
        let pattern = match text("pattern") {
            "" => None,
            pattern => Some((pattern.to_owned(), self::pattern(pattern)?)),
        };
        Ok(Schema {
            ty: text("type").to_owned(),
            nullable: flag("nullable"),
            default: json.get("default").filter(|d| !d.is_null()).cloned(),
            format: checked_format(
                text("type"),
                flag("x-kubernetes-int-or-string"),
                text("format"),
            ),
            numbers: Numbers {
                maximum: number("maximum"),
                exclusive_maximum: flag("exclusiveMaximum"),
                minimum: number("minimum"),
                exclusive_minimum: flag("exclusiveMinimum"),
                multiple_of: number("multipleOf"),
            },
            sizes: Sizes {
                max_length: size("maxLength"),
                min_length: size("minLength"),
                max_items: size("maxItems"),
                min_items: size("minItems"),
                max_properties: size("maxProperties"),
                min_properties: size("minProperties"),
            },
            pattern,
            unique_items: flag("uniqueItems"),
            required: words("required"),
            allowed: json
                .get("enum")
                .and_then(Value::as_array)
                .filter(|a| !a.is_empty())
                .cloned(),
            items: one("items")?,
            properties,
            additional: match json.get("additionalProperties") {
                Some(Value::Bool(any)) => Some(Additional::Any(*any)),
                Some(inner @ Value::Object(_)) => {
                    Some(Additional::Schema(Box::new(Schema::compile(inner)?)))
                }
                _ => None,
            },
            all_of: many("allOf")?,
            any_of: many("anyOf")?,
            one_of: many("oneOf")?,
            not: one("not")?,
            embedded: flag("x-kubernetes-embedded-resource"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            list_type: option("x-kubernetes-list-type"),
            map_keys: words("x-kubernetes-list-map-keys"),
            map_type: option("x-kubernetes-map-type"),
        })
    }

    /// The schema of additional properties, if there is one.
    pub fn additional_schema(&self) -> Option<&Schema> {
        match &self.additional {
            Some(Additional::Schema(schema)) => Some(schema),
            _ => None,
        }
    }

    /// The schema that applies to a property.
    pub fn property(&self, name: &str) -> Option<&Schema> {
        self.properties
            .get(name)
            .or_else(|| self.additional_schema())
    }

    /// Types a value may have, as messages spell them.
    pub(crate) fn types(&self) -> Vec<&str> {
        if self.int_or_string {
            vec!["integer", "string"]
        } else if self.ty.is_empty() {
            Vec::new()
        } else {
            vec![&self.ty]
        }
    }
}

/// Compiles a regular expression within bounds.
pub(crate) fn pattern(text: &str) -> Result<Regex, String> {
    regex::RegexBuilder::new(text)
        .size_limit(PATTERN_BYTES)
        .dfa_size_limit(PATTERN_BYTES)
        .build()
        .map_err(|e| match e {
            regex::Error::CompiledTooBig(_) => {
                "error parsing regexp: expression too large".to_owned()
            }
            other => {
                let text = other.to_string();
                let last = text.lines().last().unwrap_or_default();
                format!(
                    "error parsing regexp: {}",
                    last.trim_start_matches("error: ")
                )
            }
        })
}

/// Formats of strings that are checked.
pub(crate) const STRING_FORMATS: [&str; 26] = [
    "bsonobjectid",
    "uri",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "cidr",
    "mac",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
    "isbn",
    "isbn10",
    "isbn13",
    "creditcard",
    "ssn",
    "hexcolor",
    "rgbcolor",
    "byte",
    "password",
    "date",
    "duration",
    "datetime",
    "k8sshortname",
    "k8slongname",
];

/// Whether a format means something for a type.
pub(crate) fn known_format(ty: &str, format: &str) -> bool {
    match ty {
        "" | "string" => {
            let normal = format.replace('-', "");
            !normal.is_empty() && STRING_FORMATS.contains(&normal.as_str())
        }
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        _ => false,
    }
}

fn checked_format(ty: &str, int_or_string: bool, format: &str) -> String {
    let ty = if int_or_string { "" } else { ty };
    if known_format(ty, format) {
        format.to_owned()
    } else {
        String::new()
    }
}
