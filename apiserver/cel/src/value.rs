//! Values while expressions are evaluated. What comes from JSON stays there and is looked at when it is asked for.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use indexmap::IndexMap;
use jiff::Timestamp;
use serde_json::{Map as JsonMap, Value as Json};

use crate::decl::{Decl, DeclKind};
use crate::error::EvalError;
use crate::functions::authorizer::Authz;
use crate::functions::quantity::Number;
use crate::functions::semver::Semver;
use crate::functions::url::Url;
use crate::functions::{format::Format, time};
use crate::names::unescape;
use crate::types::Type;

/// The result of an evaluation step.
pub(crate) type Evaluated<'a> = Result<Value<'a>, EvalError>;

/// A value.
#[derive(Clone, Default)]
pub enum Value<'a> {
    /// Null.
    #[default]
    Null,
    /// A boolean.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// An unsigned integer.
    Uint(u64),
    /// A float.
    Double(f64),
    /// Text.
    String(Text<'a>),
    /// Bytes.
    Bytes(Arc<[u8]>),
    /// A point in time.
    Timestamp(Timestamp),
    /// A span of time, in nanoseconds.
    Duration(i64),
    /// A list.
    List(List<'a>),
    /// A map, or an object.
    Map(Map<'a>),
    /// A type.
    Type(Type),
    /// A value that may be absent.
    Optional(Option<Box<Value<'a>>>),
    /// A value of one of Kubernetes' types.
    Special(Special),
    /// An object whose fields are worked out when they are asked for.
    Lazy(Arc<dyn Lazy<'a> + 'a>),
}

/// A value of one of Kubernetes' types.
#[derive(Clone)]
pub enum Special {
    /// An address.
    Ip(IpAddr),
    /// A block of addresses, with the address as it was written.
    Cidr(IpAddr, u8),
    /// A URL.
    Url(Arc<Url>),
    /// A resource quantity.
    Quantity(Arc<Number>),
    /// A semantic version.
    Semver(Arc<Semver>),
    /// A named format.
    Format(&'static Format),
    /// The authorizer, and what is built with it.
    Authz(Arc<Authz>),
}

/// An object whose fields are worked out when they are asked for.
pub trait Lazy<'a>: Send + Sync {
    /// The field's value; `None` where there is no such field.
    fn field(&self, name: &str) -> Option<Evaluated<'a>>;
}

/// Text, from JSON or made by an expression.
#[derive(Clone)]
pub enum Text<'a> {
    /// From JSON.
    Borrowed(&'a str),
    /// Made by an expression.
    Shared(Arc<str>),
}

impl std::ops::Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Text::Borrowed(text) => text,
            Text::Shared(text) => text,
        }
    }
}

/// A list, from JSON or made by an expression.
#[derive(Clone)]
pub enum List<'a> {
    /// From JSON, with the list's declared type.
    Json(&'a [Json], Arc<Decl>),
    /// Made by an expression.
    Owned(Arc<Vec<Value<'a>>>),
}

/// A map or an object, from JSON or made by an expression.
#[derive(Clone)]
pub enum Map<'a> {
    /// From JSON, with the map's or object's declared type.
    Json(&'a JsonMap<String, Json>, Arc<Decl>),
    /// Made by an expression; objects have a type's name.
    Owned(Arc<IndexMap<Key, Value<'a>>>, Option<Arc<str>>),
}

/// A map's key. Integers are one key, signed or not.
#[derive(Debug, Clone)]
pub enum Key {
    /// A boolean.
    Bool(bool),
    /// An integer.
    Number {
        /// Which.
        value: i128,
        /// Whether it was written without a sign.
        unsigned: bool,
    },
    /// Text.
    Text(Arc<str>),
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        match (self, other) {
            (Key::Bool(a), Key::Bool(b)) => a == b,
            (Key::Number { value: a, .. }, Key::Number { value: b, .. }) => a == b,
            (Key::Text(a), Key::Text(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Key::Bool(value) => value.hash(state),
            Key::Number { value, .. } => value.hash(state),
            Key::Text(text) => text.hash(state),
        }
    }
}

impl Key {
    /// The key that a value is; `None` for values that can't be keys.
    pub(crate) fn of(value: &Value<'_>) -> Option<Key> {
        Some(match value {
            Value::Bool(b) => Key::Bool(*b),
            Value::Int(n) => Key::Number {
                value: i128::from(*n),
                unsigned: false,
            },
            Value::Uint(n) => Key::Number {
                value: i128::from(*n),
                unsigned: true,
            },
            Value::Double(d) if d.fract() == 0.0 && d.abs() < 1e19 => Key::Number {
                value: *d as i128,
                unsigned: false,
            },
            Value::String(text) => Key::Text((**text).into()),
            _ => return None,
        })
    }

    /// The value that it is.
    pub(crate) fn value<'a>(&self) -> Value<'a> {
        match self {
            Key::Bool(b) => Value::Bool(*b),
            Key::Number {
                value,
                unsigned: true,
            } => Value::Uint(u64::try_from(*value).unwrap_or_default()),
            Key::Number { value, .. } => Value::Int(i64::try_from(*value).unwrap_or_default()),
            Key::Text(text) => Value::String(Text::Shared(text.clone())),
        }
    }
}

impl<'a> List<'a> {
    /// How many elements it has.
    pub(crate) fn len(&self) -> usize {
        match self {
            List::Json(list, _) => list.len(),
            List::Owned(list) => list.len(),
        }
    }

    /// The element at a place.
    pub(crate) fn get(&self, at: usize) -> Option<Value<'a>> {
        match self {
            List::Json(list, decl) => list.get(at).map(|json| match &decl.kind {
                DeclKind::List(element, _) => Value::json(json, element),
                _ => Value::json(json, decl),
            }),
            List::Owned(list) => list.get(at).cloned(),
        }
    }

    /// All elements.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Value<'a>> {
        (0..self.len()).filter_map(|at| self.get(at))
    }
}

impl<'a> Map<'a> {
    /// How many entries it has.
    pub(crate) fn len(&self) -> usize {
        match self {
            Map::Json(map, decl) => match &decl.kind {
                DeclKind::Object(_) => map.len(),
                _ => map.len(),
            },
            Map::Owned(map, _) => map.len(),
        }
    }

    /// The value of a property or key.
    pub(crate) fn get_text(&self, name: &str) -> Option<Value<'a>> {
        match self {
            Map::Json(map, decl) => match &decl.kind {
                DeclKind::Object(object) => {
                    let field = object.field(name);
                    let property = match field {
                        Some(field) => field.property.as_str().into(),
                        None => unescape(name)?,
                    };
                    let value = map.get(&*property)?;
                    let dynamic;
                    let decl = match field {
                        Some(field) => &field.decl,
                        None => {
                            dynamic = Decl::dynamic();
                            &dynamic
                        }
                    };
                    Some(Value::json(value, decl))
                }
                DeclKind::Map(value) => map.get(name).map(|json| Value::json(json, value)),
                _ => map.get(name).map(|json| Value::json(json, decl)),
            },
            Map::Owned(map, _) => map.get(&Key::Text(name.into())).cloned(),
        }
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &Value<'_>) -> Option<Value<'a>> {
        match (self, key) {
            (_, Value::String(text)) => self.get_text(text),
            (Map::Json(..), _) => None,
            (Map::Owned(map, _), key) => map.get(&Key::of(key)?).cloned(),
        }
    }

    /// All keys.
    pub(crate) fn keys(&self) -> Vec<Value<'a>> {
        match self {
            Map::Json(map, _) => map
                .keys()
                .map(|key| Value::String(Text::Borrowed(key)))
                .collect(),
            Map::Owned(map, _) => map.keys().map(Key::value).collect(),
        }
    }

    /// All keys and values.
    pub(crate) fn entries(&self) -> Vec<(Value<'a>, Value<'a>)> {
        match self {
            Map::Json(map, decl) => {
                let value_decl = match &decl.kind {
                    DeclKind::Map(value) => value.clone(),
                    _ => decl.clone(),
                };
                map.iter()
                    .map(|(key, json)| {
                        let value = match &decl.kind {
                            DeclKind::Object(object) => {
                                let field = object.fields().find(|(_, f)| f.property == *key);
                                match field {
                                    Some((_, field)) => Value::json(json, &field.decl),
                                    None => Value::json(json, &Decl::dynamic()),
                                }
                            }
                            _ => Value::json(json, &value_decl),
                        };
                        (Value::String(Text::Borrowed(key.as_str())), value)
                    })
                    .collect()
            }
            Map::Owned(map, _) => map
                .iter()
                .map(|(key, value)| (key.value(), value.clone()))
                .collect(),
        }
    }
}

impl<'a> Value<'a> {
    /// JSON, seen as its declared type.
    pub fn json(json: &'a Json, decl: &Arc<Decl>) -> Value<'a> {
        match (json, &decl.kind) {
            (Json::Null, _) => Value::Null,
            (Json::Bool(b), _) => Value::Bool(*b),
            (Json::Number(n), DeclKind::Double) => Value::Double(n.as_f64().unwrap_or_default()),
            (Json::Number(n), kind) => match (n.as_i64(), n.as_f64()) {
                (Some(n), _) => Value::Int(n),
                (None, Some(d)) if matches!(kind, DeclKind::Int) && d.fract() == 0.0 => {
                    Value::Int(d as i64)
                }
                (None, d) => Value::Double(d.unwrap_or_default()),
            },
            (Json::String(text), DeclKind::Bytes) => match STANDARD.decode(text) {
                Ok(bytes) => Value::Bytes(bytes.into()),
                Err(_) => Value::text(text),
            },
            (Json::String(text), DeclKind::Timestamp | DeclKind::Date) => {
                let parsed = time::parse_timestamp(text).or_else(|| time::parse_date(text));
                parsed.map_or_else(|| Value::text(text), Value::Timestamp)
            }
            (Json::String(text), DeclKind::Duration) => {
                time::parse_duration(text).map_or_else(|| Value::text(text), Value::Duration)
            }
            (Json::String(text), _) => Value::text(text),
            (Json::Array(list), _) => Value::List(List::Json(list, decl.clone())),
            (Json::Object(map), _) => Value::Map(Map::Json(map, decl.clone())),
        }
    }

    /// JSON of which nothing is declared.
    pub fn dynamic(json: &'a Json) -> Value<'a> {
        Value::json(json, &Decl::dynamic())
    }

    fn text(text: &'a str) -> Value<'a> {
        Value::String(Text::Borrowed(text))
    }

    /// Text that is made here.
    pub fn string(text: impl Into<Arc<str>>) -> Value<'a> {
        Value::String(Text::Shared(text.into()))
    }

    /// An optional value that is there.
    pub fn some(value: Value<'a>) -> Value<'a> {
        Value::Optional(Some(Box::new(value)))
    }

    /// An optional value that is absent.
    pub fn none() -> Value<'a> {
        Value::Optional(None)
    }

    pub(crate) fn owned(list: Vec<Value<'a>>) -> Value<'a> {
        Value::List(List::Owned(Arc::new(list)))
    }

    /// The boolean that it is.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// The text that it is.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// Whether it is null.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// The type as `type()` has it.
    pub(crate) fn type_of(&self) -> Type {
        match self {
            Value::Null => Type::Null,
            Value::Bool(_) => Type::Bool,
            Value::Int(_) => Type::Int,
            Value::Uint(_) => Type::Uint,
            Value::Double(_) => Type::Double,
            Value::String(_) => Type::String,
            Value::Bytes(_) => Type::Bytes,
            Value::Timestamp(_) => Type::Timestamp,
            Value::Duration(_) => Type::Duration,
            Value::List(_) => Type::list(Type::Dyn),
            Value::Map(Map::Owned(_, Some(name))) => Type::Object(name.clone()),
            Value::Map(Map::Json(_, decl)) if matches!(decl.kind, DeclKind::Object(_)) => {
                decl.cel_type()
            }
            Value::Map(_) => Type::map(Type::Dyn, Type::Dyn),
            Value::Type(_) => Type::Type(None),
            Value::Optional(_) => Type::optional(Type::Dyn),
            Value::Lazy(_) => Type::object("kubernetes.variables"),
            Value::Special(special) => crate::types::parse_type(match special {
                Special::Ip(_) => "net.IP",
                Special::Cidr(..) => "net.CIDR",
                Special::Url(_) => "kubernetes.URL",
                Special::Quantity(_) => "kubernetes.Quantity",
                Special::Semver(_) => "kubernetes.Semver",
                Special::Format(_) => "kubernetes.NamedFormat",
                Special::Authz(authz) => authz.type_name(),
            }),
        }
    }

    /// What `size()` says, or 1 for what has no size: the measure of costs.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Value::String(text) => text.chars().count() as u64,
            Value::Bytes(bytes) => bytes.len() as u64,
            Value::List(list) => list.len() as u64,
            Value::Map(map) => map.len() as u64,
            Value::Optional(Some(value)) => value.size(),
            Value::Special(Special::Cidr(ip, _) | Special::Ip(ip)) => match ip {
                IpAddr::V4(_) => 4,
                IpAddr::V6(_) => 16,
            },
            _ => 1,
        }
    }

    /// The value as JSON.
    pub fn to_json(&self) -> Result<Json, EvalError> {
        Ok(match self {
            Value::Null | Value::Optional(None) => Json::Null,
            Value::Bool(b) => Json::Bool(*b),
            Value::Int(n) => Json::from(*n),
            Value::Uint(n) => Json::from(*n),
            Value::Double(d) => Json::from(*d),
            Value::String(text) => Json::String(text.to_string()),
            Value::Bytes(bytes) => Json::String(STANDARD.encode(bytes)),
            Value::Timestamp(at) => Json::String(at.to_string()),
            Value::Duration(nanos) => Json::String(time::seconds(*nanos)),
            Value::Optional(Some(value)) => value.to_json()?,
            Value::List(List::Json(list, _)) => Json::Array(list.to_vec()),
            Value::Map(Map::Json(map, _)) => Json::Object((*map).clone()),
            Value::List(List::Owned(list)) => {
                Json::Array(list.iter().map(Value::to_json).collect::<Result<_, _>>()?)
            }
            Value::Map(Map::Owned(map, name)) => {
                let mut object = JsonMap::new();
                for (key, value) in map.iter() {
                    let Key::Text(key) = key else {
                        return Err(EvalError::failed("map keys must be strings"));
                    };
                    let key = match name {
                        Some(_) => unescape(key)
                            .unwrap_or_else(|| (&**key).into())
                            .into_owned(),
                        None => key.to_string(),
                    };
                    object.insert(key, value.to_json()?);
                }
                Json::Object(object)
            }
            Value::Special(Special::Quantity(number)) => Json::String(number.to_string()),
            Value::Type(_) | Value::Lazy(_) | Value::Special(_) => {
                return Err(EvalError::failed(format!(
                    "unsupported type in JSON: {}",
                    self.type_of()
                )));
            }
        })
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Int(n) => write!(f, "{n}"),
            Value::Uint(n) => write!(f, "{n}u"),
            Value::Double(d) => write!(f, "{d:?}"),
            Value::Type(ty) => write!(f, "type({ty})"),
            Value::Timestamp(at) => write!(f, "timestamp({at})"),
            Value::Duration(nanos) => write!(f, "duration({})", time::seconds(*nanos)),
            Value::Optional(None) => f.write_str("none"),
            Value::Optional(Some(value)) => write!(f, "some({value:?})"),
            other => match other.to_json() {
                Ok(json) => write!(f, "{json}"),
                Err(_) => write!(f, "{}", self.type_of()),
            },
        }
    }
}
