//! The deserialiser that a [`Type`] drives, for JSON and YAML alike.

use std::fmt;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use keelson_api::quantity::{ParseError, Quantity};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::TypeMeta;
use crate::time;
use crate::types::{Field, ScalarKind, SchemaOr, Struct, Type};

/// Upstream reports no more than these.
const MAX_STRICT_ERRORS: usize = 100;

/// Go reads any padding bits.
pub(crate) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// What a run over a body gathers.
pub(super) struct Context {
    collect: bool,
    budget: usize,
    /// Unknown and duplicate fields.
    pub(super) strict: Vec<String>,
    /// The first value of a wrong type; decoding goes on, since a later error may be fatal.
    pub(super) saved: Option<String>,
    /// The error that ended decoding.
    pub(super) fatal: Option<String>,
}

impl Context {
    pub(super) fn new(collect: bool, budget: usize) -> Context {
        Context {
            collect,
            budget,
            strict: Vec::new(),
            saved: None,
            fatal: None,
        }
    }

    fn save(&mut self, message: impl FnOnce() -> String) {
        if self.saved.is_none() {
            self.saved = Some(message());
        }
    }

    fn spend<E: Error>(&mut self) -> Result<(), E> {
        match self.budget.checked_sub(1) {
            Some(rest) => {
                self.budget = rest;
                Ok(())
            }
            None => Err(E::custom("document contains excessive aliasing")),
        }
    }

    fn found(&mut self, what: &str, path: Option<&Path<'_>>, name: &str) {
        if !self.collect || self.strict.len() >= MAX_STRICT_ERRORS {
            return;
        }
        let mut text = String::new();
        if let Some(path) = path {
            path.write(&mut text);
            text.push('.');
        }
        text.push_str(name);
        let message = format!("{what} field {text:?}");
        if !self.strict.contains(&message) {
            self.strict.push(message);
        }
    }
}

/// Where the deserialiser is: a list on the stack, so that no path is built before it's needed.
struct Path<'p> {
    parent: Option<&'p Path<'p>>,
    step: Step<'p>,
}

enum Step<'p> {
    Field(&'p Struct, &'p Field),
    Key(&'p str),
    Index(usize),
}

impl Path<'_> {
    fn write(&self, text: &mut String) {
        if let Some(parent) = self.parent {
            parent.write(text);
        }
        let name = match &self.step {
            Step::Field(_, field) => &field.name,
            Step::Key(key) => *key,
            Step::Index(index) => {
                text.push_str(&format!("[{index}]"));
                return;
            }
        };
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(name);
    }

    /// The innermost struct and the names of all fields on the way, as Go's error context has them.
    fn context(&self) -> Option<(&str, String)> {
        let mut owner = None;
        let mut names: Vec<&str> = Vec::new();
        let mut next = Some(self);
        while let Some(path) = next {
            if let Step::Field(ty, field) = &path.step {
                owner = owner.or(Some(ty.go_base()));
                names.push(&field.name);
                names.extend(field.embedded.as_deref());
            }
            next = path.parent;
        }
        names.reverse();
        owner.map(|owner| (owner, names.join(".")))
    }
}

fn mismatch(path: Option<&Path<'_>>, value: &str, go: &str) -> String {
    match path.and_then(Path::context) {
        Some((owner, names)) => {
            format!(
                "json: cannot unmarshal {value} into Go struct field {owner}.{names} of type {go}"
            )
        }
        None => format!("json: cannot unmarshal {value} into Go value of type {go}"),
    }
}

/// Reads one value; `None` is null, or a value that was refused.
pub(super) struct Seed<'a, 'c> {
    ty: &'a Type,
    context: &'c mut Context,
    path: Option<&'c Path<'c>>,
}

impl<'a, 'c> Seed<'a, 'c> {
    pub(super) fn new(ty: &'a Type, context: &'c mut Context) -> Seed<'a, 'c> {
        Seed {
            ty,
            context,
            path: None,
        }
    }

    /// Refuses a value of a wrong kind. Types that decode themselves end decoding, the others only remember it.
    fn refuse<E: Error>(self, value: &str) -> Result<Option<Value>, E> {
        // these decode a Go string or integer inside, and Go names that type
        let inner = match self.kind() {
            Some(ScalarKind::Time | ScalarKind::MicroTime | ScalarKind::Duration) => Some("string"),
            Some(ScalarKind::IntOrString) => Some("int32"),
            _ => None,
        };
        if let Some(go) = inner {
            let message = mismatch(self.path, value, go);
            return Err(self.fail(message));
        }
        if self.kind() == Some(ScalarKind::Quantity) {
            return Err(self.fail(ParseError::Format.to_string()));
        }
        if let Type::SchemaOr(SchemaOr::Bool, _) = self.ty {
            return Err(self.fail("boolean or JSON schema expected".to_owned()));
        }
        let (ty, path) = (self.ty, self.path);
        self.context.save(|| mismatch(path, value, &ty.go_name()));
        Ok(None)
    }

    /// Ends decoding, as Go does where a type's own decoder refuses.
    fn fail<E: Error>(self, message: String) -> E {
        self.context.fatal = Some(message);
        E::custom("refused")
    }

    fn raw(&self) -> bool {
        matches!(self.ty, Type::Scalar(scalar) if matches!(
            scalar.kind,
            ScalarKind::RawExtension | ScalarKind::Json | ScalarKind::FieldsV1
        ))
    }

    fn kind(&self) -> Option<ScalarKind> {
        match self.ty {
            Type::Scalar(scalar) => Some(scalar.kind),
            _ => None,
        }
    }

    fn integer<E: Error>(self, number: Number, as_i64: Option<i64>) -> Result<Option<Value>, E> {
        let fits = |low: i64, high: i64| as_i64.is_some_and(|n| (low..=high).contains(&n));
        let fine = match self.kind() {
            Some(ScalarKind::Int32) => fits(i32::MIN.into(), i32::MAX.into()),
            Some(ScalarKind::Int64) => as_i64.is_some(),
            Some(ScalarKind::Uint(64)) => number.is_u64(),
            Some(ScalarKind::Uint(bits)) => fits(0, (1 << bits) - 1),
            Some(ScalarKind::IntOrString) => fits(i32::MIN.into(), i32::MAX.into()),
            Some(ScalarKind::Quantity) => return Ok(Some(Value::String(number.to_string()))),
            Some(
                ScalarKind::Float64
                | ScalarKind::Untyped
                | ScalarKind::Json
                | ScalarKind::RawExtension
                | ScalarKind::FieldsV1,
            ) => true,
            _ => return self.refuse("number"),
        };
        if fine {
            Ok(Some(Value::Number(number)))
        } else {
            self.refuse(&format!("number {number}"))
        }
    }

    fn text<E: Error>(self, text: &str) -> Result<Option<Value>, E> {
        let checked = match self.kind() {
            Some(
                ScalarKind::String
                | ScalarKind::IntOrString
                | ScalarKind::Untyped
                | ScalarKind::Json
                | ScalarKind::RawExtension
                | ScalarKind::FieldsV1,
            ) => Ok(()),
            Some(ScalarKind::Quantity) => match Quantity::parse(text.trim()) {
                Ok(_) => return Ok(Some(Value::String(text.trim().to_owned()))),
                Err(error) => Err(error.to_string()),
            },
            Some(ScalarKind::Time) => time::parse(text, time::RFC3339).map(|_| ()),
            Some(ScalarKind::MicroTime) => time::parse(text, time::RFC3339_MICRO).map(|_| ()),
            Some(ScalarKind::Duration) => time::parse_duration(text).map(|_| ()),
            Some(ScalarKind::Bytes) => {
                return Ok(match decode_base64(text) {
                    Ok(bytes) => Some(Value::String(BASE64.encode(bytes))),
                    Err(message) => {
                        self.context.save(|| message);
                        None
                    }
                });
            }
            _ => return self.refuse("string"),
        };
        match checked {
            Ok(()) => Ok(Some(Value::String(text.to_owned()))),
            Err(message) => Err(self.fail(message)),
        }
    }
}

/// Base64 as Go reads it: line breaks are skipped.
pub(crate) fn decode_base64(text: &str) -> Result<Vec<u8>, String> {
    let original = text;
    let joined;
    let text = if text.contains(['\n', '\r']) {
        joined = text.replace(['\n', '\r'], "");
        &joined
    } else {
        text
    };
    BASE64
        .decode(text)
        .map_err(|_| format!("illegal base64 data at input byte {}", corrupt_at(original)))
}

/// Where Go says that base64 is corrupt.
fn corrupt_at(text: &str) -> usize {
    let alphabet = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    let mut bytes = text
        .bytes()
        .enumerate()
        .filter(|(_, byte)| !matches!(byte, b'\r' | b'\n'));
    let mut in_group = 0;
    while let Some((at, byte)) = bytes.next() {
        if alphabet(byte) {
            in_group = (in_group + 1) % 4;
            continue;
        }
        if byte != b'=' || in_group < 2 {
            return at;
        }
        if in_group == 2 {
            match bytes.next() {
                None => return text.len(),
                Some((at, byte)) if byte != b'=' => return at,
                Some(_) => {}
            }
        }
        return bytes.next().map_or(text.len(), |(at, _)| at);
    }
    text.len() - in_group
}

/// What Go's zero value of a type looks like, for nulls in lists and maps.
fn zero(ty: &Type) -> Value {
    match ty {
        Type::Scalar(scalar) => match scalar.kind {
            ScalarKind::String | ScalarKind::Bytes => Value::String(String::new()),
            ScalarKind::Bool => Value::Bool(false),
            ScalarKind::Int32
            | ScalarKind::Int64
            | ScalarKind::Uint(_)
            | ScalarKind::Float64
            | ScalarKind::IntOrString => Value::from(0),
            ScalarKind::Quantity => Value::String("0".to_owned()),
            ScalarKind::Duration => Value::String("0s".to_owned()),
            _ => Value::Null,
        },
        Type::Struct(_) => Value::Object(Map::new()),
        Type::List(_) | Type::Map(_) | Type::SchemaOr(..) => Value::Null,
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Value>, D::Error> {
        self.context.spend()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_, '_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Option<Value>, E> {
        let keeps = self.raw() || self.kind() == Some(ScalarKind::Untyped);
        Ok(keeps.then_some(Value::Null))
    }

    fn visit_none<E: Error>(self) -> Result<Option<Value>, E> {
        self.visit_unit()
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Option<Value>, E> {
        match self.ty {
            Type::SchemaOr(SchemaOr::Bool, _) => return Ok(Some(Value::Bool(value))),
            Type::Scalar(scalar) => match scalar.kind {
                ScalarKind::Bool
                | ScalarKind::Untyped
                | ScalarKind::Json
                | ScalarKind::RawExtension
                | ScalarKind::FieldsV1 => return Ok(Some(Value::Bool(value))),
                _ => {}
            },
            _ => {}
        }
        self.refuse("bool")
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Option<Value>, E> {
        self.integer(value.into(), Some(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Option<Value>, E> {
        self.integer(value.into(), i64::try_from(value).ok())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Option<Value>, E> {
        let Some(number) = Number::from_f64(value) else {
            return Err(E::custom("a number that JSON can't hold"));
        };
        let kind = self.kind();
        if matches!(kind, Some(ScalarKind::Float64 | ScalarKind::Untyped))
            && value.fract() == 0.0
            && value.abs() < 1e15
        {
            return Ok(Some(Value::from(value as i64))); // as Go writes it again
        }
        self.integer(number, None)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Option<Value>, E> {
        self.text(value)
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Option<Value>, E> {
        if let Some(ScalarKind::String | ScalarKind::Untyped) = self.kind() {
            return Ok(Some(Value::String(value)));
        }
        self.text(&value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Option<Value>, A::Error> {
        let (element, pointer) = match self.ty {
            Type::List(list) => (&list.element, list.pointer),
            Type::Scalar(scalar) if scalar.kind == ScalarKind::Untyped => (self.ty, true),
            Type::SchemaOr(SchemaOr::StringArray, _) => {
                let strings = Type::scalar(ScalarKind::String, "string");
                return self.items(items, &strings, false);
            }
            Type::SchemaOr(SchemaOr::Array, schema) => {
                let schema = Type::Struct(schema.clone());
                return self.items(items, &schema, false);
            }
            _ if self.raw() => return read_raw(items).map(Some),
            _ if self.kind() == Some(ScalarKind::Bytes) => return self.byte_items(items),
            _ => {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                return self.refuse("array");
            }
        };
        self.items(items, element, pointer)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Option<Value>, A::Error> {
        match self.ty {
            Type::Struct(ty) | Type::SchemaOr(_, ty) => self.object(entries, ty),
            Type::Map(map) => self.entries(entries, &map.value, false),
            Type::Scalar(scalar) if scalar.kind == ScalarKind::Untyped => {
                let ty = self.ty;
                self.entries(entries, ty, true)
            }
            _ if self.raw() => read_raw_map(entries).map(Some),
            _ => {
                while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                self.refuse("object")
            }
        }
    }
}

impl Seed<'_, '_> {
    /// Bytes as a list of numbers, which Go takes too.
    fn byte_items<'de, A: SeqAccess<'de>>(self, items: A) -> Result<Option<Value>, A::Error> {
        let byte = Type::scalar(ScalarKind::Uint(8), "uint8");
        let read = self.items(items, &byte, false)?;
        let numbers = read
            .as_ref()
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        let bytes: Vec<u8> = numbers
            .map(|number| number.as_u64().and_then(|n| u8::try_from(n).ok()))
            .map(Option::unwrap_or_default)
            .collect();
        Ok(Some(Value::String(BASE64.encode(bytes))))
    }

    fn items<'de, A: SeqAccess<'de>>(
        self,
        mut items: A,
        element: &Type,
        pointer: bool,
    ) -> Result<Option<Value>, A::Error> {
        let mut list = Vec::with_capacity(items.size_hint().unwrap_or(0).min(64));
        loop {
            let path = Path {
                parent: self.path,
                step: Step::Index(list.len()),
            };
            let seed = Seed {
                ty: element,
                context: &mut *self.context,
                path: Some(&path),
            };
            match items.next_element_seed(seed)? {
                Some(Some(value)) => list.push(value),
                Some(None) if pointer => list.push(Value::Null),
                Some(None) => list.push(zero(element)),
                None => return Ok(Some(Value::Array(list))),
            }
        }
    }

    fn object<'de, A: MapAccess<'de>>(
        self,
        mut entries: A,
        ty: &Struct,
    ) -> Result<Option<Value>, A::Error> {
        let mut object = Map::new();
        let mut seen: u128 = 0;
        while let Some(key) = entries.next_key_seed(FieldKey(ty))? {
            let (index, field) = match key {
                Ok(found) => found,
                Err(name) if ty.preserve_unknown => {
                    let untyped = Type::untyped();
                    let seed = Seed {
                        ty: &untyped,
                        context: &mut *self.context,
                        path: self.path,
                    };
                    let value = entries.next_value_seed(seed)?;
                    object.insert(name, value.unwrap_or(Value::Null));
                    continue;
                }
                Err(name) => {
                    self.context.found("unknown", self.path, &name);
                    entries.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            let bit = 1u128.checked_shl(index as u32).unwrap_or(0);
            if seen & bit != 0 {
                self.context.found("duplicate", self.path, &field.name);
            }
            seen |= bit;
            let path = Path {
                parent: self.path,
                step: Step::Field(ty, field),
            };
            let seed = Seed {
                ty: &field.ty,
                context: &mut *self.context,
                path: Some(&path),
            };
            match entries.next_value_seed(seed)? {
                // null in raw JSON means absent, unless the field is any JSON
                Some(Value::Null) if !keeps_null(field) => {}
                Some(value) => {
                    object.insert(field.name.to_string(), value);
                }
                None => {}
            }
        }
        Ok(Some(Value::Object(object)))
    }

    fn entries<'de, A: MapAccess<'de>>(
        self,
        mut entries: A,
        value_type: &Type,
        keeps_null: bool,
    ) -> Result<Option<Value>, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key_seed(AnyKey)? {
            if map.contains_key(&key) {
                self.context.found("duplicate", self.path, &key);
            }
            let path = Path {
                parent: self.path,
                step: Step::Key(&key),
            };
            let seed = Seed {
                ty: value_type,
                context: &mut *self.context,
                path: Some(&path),
            };
            let value = entries.next_value_seed(seed)?;
            let value = match value {
                Some(value) => value,
                None if keeps_null => Value::Null,
                None => zero(value_type),
            };
            map.insert(key, value);
        }
        Ok(Some(Value::Object(map)))
    }
}

/// Whether null is a value of its own there, as in a schema's `default: null`.
fn keeps_null(field: &Field) -> bool {
    matches!(&field.ty, Type::Scalar(scalar) if scalar.kind == ScalarKind::Json && !field.pointer)
}

fn read_raw<'de, A: SeqAccess<'de>>(items: A) -> Result<Value, A::Error> {
    serde::Deserialize::deserialize(serde::de::value::SeqAccessDeserializer::new(items))
}

fn read_raw_map<'de, A: MapAccess<'de>>(mut entries: A) -> Result<Value, A::Error> {
    let mut map = Map::new();
    while let Some(key) = entries.next_key_seed(AnyKey)? {
        map.insert(key, entries.next_value()?);
    }
    Ok(Value::Object(map))
}

/// Finds a key among a struct's fields without copying it.
struct FieldKey<'a>(&'a Struct);

impl<'de, 'a> DeserializeSeed<'de> for FieldKey<'a> {
    type Value = Result<(usize, &'a Field), String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, 'a> Visitor<'de> for FieldKey<'a> {
    type Value = Result<(usize, &'a Field), String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.position(key).ok_or_else(|| key.to_owned()))
    }

    fn visit_bool<E: Error>(self, key: bool) -> Result<Self::Value, E> {
        self.visit_str(&key.to_string())
    }

    fn visit_i64<E: Error>(self, key: i64) -> Result<Self::Value, E> {
        self.visit_str(&key.to_string())
    }

    fn visit_u64<E: Error>(self, key: u64) -> Result<Self::Value, E> {
        self.visit_str(&key.to_string())
    }

    fn visit_f64<E: Error>(self, key: f64) -> Result<Self::Value, E> {
        self.visit_str(&key.to_string())
    }
}

/// Reads a key as text; YAML has other scalars there too.
struct AnyKey;

impl<'de> DeserializeSeed<'de> for AnyKey {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AnyKey {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<String, E> {
        Ok(key.to_owned())
    }

    fn visit_string<E: Error>(self, key: String) -> Result<String, E> {
        Ok(key)
    }

    fn visit_bool<E: Error>(self, key: bool) -> Result<String, E> {
        Ok(key.to_string())
    }

    fn visit_i64<E: Error>(self, key: i64) -> Result<String, E> {
        Ok(key.to_string())
    }

    fn visit_u64<E: Error>(self, key: u64) -> Result<String, E> {
        Ok(key.to_string())
    }

    fn visit_f64<E: Error>(self, key: f64) -> Result<String, E> {
        Ok(key.to_string())
    }
}

/// Reads the two fields that say which kind a body is; the inner error is a value of a wrong type.
pub(super) struct TypeMetaVisitor;

const TYPE_META_GO: &str = r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;

impl TypeMetaVisitor {
    fn refuse<E>(value: &str) -> Result<Result<TypeMeta, String>, E> {
        Ok(Err(mismatch(None, value, TYPE_META_GO)))
    }
}

impl<'de> Visitor<'de> for TypeMetaVisitor {
    type Value = Result<TypeMeta, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut meta = TypeMeta::default();
        let mut refused = None;
        while let Some(key) = entries.next_key_seed(AnyKey)? {
            let target = match key.as_str() {
                "apiVersion" => &mut meta.api_version,
                "kind" => &mut meta.kind,
                _ => {
                    entries.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            let found = match entries.next_value::<Value>()? {
                Value::String(text) => {
                    *target = text;
                    continue;
                }
                Value::Null => continue,
                Value::Bool(_) => "bool",
                Value::Number(_) => "number",
                Value::Array(_) => "array",
                Value::Object(_) => "object",
            };
            refused.get_or_insert_with(|| {
                format!("json: cannot unmarshal {found} into Go struct field .{key} of type string")
            });
        }
        Ok(refused.map_or(Ok(meta), Err))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Self::refuse("array")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Ok(TypeMeta::default()))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
        Self::refuse("bool")
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
        Self::refuse("number")
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Self::Value, E> {
        Self::refuse("number")
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
        Self::refuse("number")
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
        Self::refuse("string")
    }
}
