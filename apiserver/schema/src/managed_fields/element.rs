//! One step of a field path: a field, a list element by its keys or value, or an index.

use std::cmp::Ordering;
use std::fmt;

use serde_json::{Map, Value};

use crate::types::Name;

/// A scalar that identifies a list element, ordered as upstream orders values.
#[derive(Clone, Debug)]
pub enum Scalar {
    /// An integer.
    Int(i64),
    /// A float.
    Float(f64),
    /// A string.
    String(Name),
    /// A boolean.
    Bool(bool),
    /// Null.
    Null,
}

impl Scalar {
    pub(super) fn from_value(value: &Value) -> Option<Scalar> {
        Some(match value {
            Value::Null => Scalar::Null,
            Value::Bool(value) => Scalar::Bool(*value),
            Value::Number(number) => match number.as_i64() {
                Some(number) => Scalar::Int(number),
                None => Scalar::Float(number.as_f64()?),
            },
            Value::String(text) => Scalar::String(Name::from(text.as_str())),
            Value::Array(_) | Value::Object(_) => return None,
        })
    }

    fn to_value(&self) -> Value {
        match self {
            Scalar::Int(number) => Value::from(*number),
            Scalar::Float(number) => Value::from(*number),
            Scalar::String(text) => Value::String(text.to_string()),
            Scalar::Bool(value) => Value::Bool(*value),
            Scalar::Null => Value::Null,
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Scalar::Int(_) | Scalar::Float(_) => 0,
            Scalar::String(_) => 1,
            Scalar::Bool(_) => 2,
            Scalar::Null => 3,
        }
    }
}

impl Ord for Scalar {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Scalar::Int(a), Scalar::Int(b)) => a.cmp(b),
            (Scalar::Int(a), Scalar::Float(b)) => (*a as f64).total_cmp(b),
            (Scalar::Float(a), Scalar::Int(b)) => a.total_cmp(&(*b as f64)),
            (Scalar::Float(a), Scalar::Float(b)) => a.total_cmp(b),
            (Scalar::String(a), Scalar::String(b)) => a.cmp(b),
            (Scalar::Bool(a), Scalar::Bool(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Scalar {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scalar {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scalar {}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::String(text) => write!(f, "{text:?}"),
            other => write!(f, "{}", other.to_value()),
        }
    }
}

/// One step of a path. The order is upstream's: fields, keys, values, indices.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathElement {
    /// A field of a struct or a key of a map.
    Field(Name),
    /// A list element by its keys, sorted by name.
    Key(Vec<(Name, Scalar)>),
    /// A list element by its value.
    Value(Scalar),
    /// A list element by its place.
    Index(i64),
}

impl PathElement {
    /// Reads `f:name`, `k:{…}`, `v:…` or `i:…`; `Ok(None)` is a kind that's unknown, which upstream skips.
    pub(super) fn parse(text: &str) -> Result<Option<PathElement>, String> {
        let (kind, rest) = text
            .split_once(':')
            .filter(|(kind, _)| kind.len() == 1)
            .ok_or_else(|| format!("missing colon: {text}"))?;
        let json = || serde_json::from_str::<Value>(rest).map_err(|error| error.to_string());
        Ok(Some(match kind {
            "f" => PathElement::Field(Name::from(rest)),
            "v" => PathElement::Value(
                Scalar::from_value(&json()?).ok_or_else(|| format!("not a scalar: {text}"))?,
            ),
            "k" => {
                let Value::Object(fields) = json()? else {
                    return Err(format!("not an object: {text}"));
                };
                let mut keys = Vec::with_capacity(fields.len());
                for (name, value) in &fields {
                    let value =
                        Scalar::from_value(value).ok_or_else(|| format!("not a scalar: {text}"))?;
                    keys.push((Name::from(name.as_str()), value));
                }
                keys.sort();
                PathElement::Key(keys)
            }
            "i" => PathElement::Index(rest.parse().map_err(|_| format!("not an index: {text}"))?),
            _ => return Ok(None),
        }))
    }

    /// The key of this element in FieldsV1.
    pub(super) fn encode(&self) -> String {
        match self {
            PathElement::Field(name) => format!("f:{name}"),
            PathElement::Key(keys) => {
                let fields: Map<String, Value> = keys
                    .iter()
                    .map(|(name, value)| (name.to_string(), value.to_value()))
                    .collect();
                format!("k:{}", Value::Object(fields))
            }
            PathElement::Value(value) => format!("v:{}", value.to_value()),
            PathElement::Index(index) => format!("i:{index}"),
        }
    }
}

impl fmt::Display for PathElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathElement::Field(name) => write!(f, ".{name}"),
            PathElement::Key(keys) => {
                f.write_str("[")?;
                for (at, (name, value)) in keys.iter().enumerate() {
                    let comma = if at == 0 { "" } else { "," };
                    write!(f, "{comma}{name}={value}")?;
                }
                f.write_str("]")
            }
            PathElement::Value(value) => write!(f, "[={value}]"),
            PathElement::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// A path as messages have it: `.spec.containers[name="a"].image`.
pub(super) fn path_text(path: &[PathElement]) -> String {
    path.iter().map(PathElement::to_string).collect()
}
