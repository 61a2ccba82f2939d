//! Messages as values.

use serde_json::{Map, Value};

use super::MAGIC;
use crate::Schema;
use crate::decode::encode_base64;
use crate::time;
use crate::types::{Field, ScalarKind, SchemaOr, Struct, Type};
use crate::wire::{RawField, Reader, WireType};

/// Messages nested deeper than this are refused.
const MAX_DEPTH: usize = 120;

/// Reads the content of a message.
pub(super) fn message(bytes: &[u8], ty: &Type) -> Result<Value, String> {
    read(bytes, ty, MAX_DEPTH)
}

fn read(bytes: &[u8], ty: &Type, depth: usize) -> Result<Value, String> {
    let depth = depth.checked_sub(1).ok_or("exceeded max depth")?;
    match ty {
        Type::Struct(ty) => object(bytes, ty, depth),
        Type::SchemaOr(union, ty) => schema_or(bytes, *union, ty, depth),
        Type::List(list) => {
            let mut items = Vec::new();
            let mut fields = Reader::new(bytes);
            while let Some(field) = fields.next()? {
                if field.number == 1 {
                    items.push(single(field, &list.element, depth)?);
                }
            }
            Ok(Value::Array(items))
        }
        Type::Scalar(scalar) => special(bytes, scalar.kind, depth),
        Type::Map(_) => Ok(Value::Object(Map::new())),
    }
}

fn object(bytes: &[u8], ty: &Struct, depth: usize) -> Result<Value, String> {
    let mut object = Map::new();
    read_fields(bytes, ty, ty.by_number(), 0, &mut object, depth)?;
    Ok(Value::Object(object))
}

fn read_fields(
    bytes: &[u8],
    ty: &Struct,
    positions: &[u16],
    level: usize,
    object: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), String> {
    let number_of = |position: &u16| ty.fields()[usize::from(*position)].numbers[level];
    let mut reader = Reader::new(bytes);
    while let Some(raw) = reader.next()? {
        let start = positions.partition_point(|position| number_of(position) < raw.number);
        let end = start
            + positions[start..].partition_point(|position| number_of(position) == raw.number);
        let found = &positions[start..end];
        let Some(first) = found.first() else {
            continue;
        };
        let field = &ty.fields()[usize::from(*first)];
        if field.numbers.len() == level + 1 {
            read_field(raw, field, object, depth)?;
        } else {
            let depth = depth.checked_sub(1).ok_or("exceeded max depth")?;
            read_fields(raw.bytes, ty, found, level + 1, object, depth)?;
        }
    }
    Ok(())
}

fn read_field(
    raw: RawField<'_>,
    field: &Field,
    object: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), String> {
    match &field.ty {
        Type::List(list) if !field.ty.is_wrapped_list() => {
            let items = object
                .entry(field.name.to_string())
                .or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(items) = items else {
                return Ok(());
            };
            let number = matches!(&list.element, Type::Scalar(scalar) if matches!(
                scalar.kind,
                ScalarKind::Int32 | ScalarKind::Int64 | ScalarKind::Bool | ScalarKind::Uint(_)
            ));
            if number && raw.kind == WireType::Bytes {
                let mut packed = Reader::new(raw.bytes);
                while !packed.is_empty() {
                    let bits = packed.varint()?;
                    items.push(single(RawField { bits, ..raw }, &list.element, depth)?);
                }
            } else {
                items.push(single(raw, &list.element, depth)?);
            }
        }
        Type::Map(map) => {
            let entries = object
                .entry(field.name.to_string())
                .or_insert_with(|| Value::Object(Map::new()));
            let (mut key, mut value) = (String::new(), None);
            let mut parts = Reader::new(raw.bytes);
            while let Some(part) = parts.next()? {
                match part.number {
                    1 => key = text(part.bytes),
                    2 => value = Some(single(part, &map.value, depth)?),
                    _ => {}
                }
            }
            if let (Value::Object(entries), Some(value)) = (entries, value) {
                entries.insert(key, value);
            }
        }
        ty => {
            let value = single(raw, ty, depth)?;
            // a time that isn't set is an empty message
            if !value.is_null() {
                object.insert(field.name.to_string(), value);
            }
        }
    }
    Ok(())
}

/// Reads one value out of its field.
fn single(raw: RawField<'_>, ty: &Type, depth: usize) -> Result<Value, String> {
    let Type::Scalar(scalar) = ty else {
        return read(raw.bytes, ty, depth);
    };
    let signed = raw.bits.cast_signed();
    Ok(match scalar.kind {
        ScalarKind::String => Value::String(text(raw.bytes)),
        ScalarKind::Bool => Value::Bool(raw.bits != 0),
        ScalarKind::Int32 => Value::from(truncated(signed)),
        ScalarKind::Int64 => Value::from(signed),
        ScalarKind::Uint(_) => Value::from(raw.bits),
        ScalarKind::Float64 => {
            let number = f64::from_bits(raw.bits);
            if number.fract() == 0.0 && number.abs() < 1e15 {
                Value::from(number as i64)
            } else {
                Value::from(number)
            }
        }
        ScalarKind::Bytes => Value::String(encode_base64(raw.bytes)),
        kind => special(raw.bytes, kind, depth)?,
    })
}

/// The low 32 bits, as Go keeps them.
fn truncated(number: i64) -> i64 {
    i64::from(number as i32)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn special(bytes: &[u8], kind: ScalarKind, depth: usize) -> Result<Value, String> {
    let (mut first, mut second, mut content) = (None, 0i64, None);
    let mut strings = String::new();
    let mut fields = Reader::new(bytes);
    while let Some(field) = fields.next()? {
        match (field.number, field.kind) {
            (1, WireType::Bytes) => content = Some(field.bytes),
            (1, _) => first = Some(field.bits.cast_signed()),
            (2, _) => second = field.bits.cast_signed(),
            (3, _) => strings = text(field.bytes),
            _ => {}
        }
    }
    Ok(match kind {
        ScalarKind::Quantity => {
            let text = content.map(text).unwrap_or_default();
            if text.is_empty() {
                return Ok(Value::from("0"));
            }
            keelson_api::quantity::canonical(&text)
                .map(Value::String)
                .map_err(|error| error.to_string())?
        }
        ScalarKind::IntOrString if first == Some(1) => Value::String(strings),
        ScalarKind::IntOrString => Value::from(truncated(second)),
        ScalarKind::Time | ScalarKind::MicroTime => {
            let Some(seconds) = first else {
                return Ok(Value::Null);
            };
            let nanos = i32::try_from(second).unwrap_or_default();
            let time = jiff::Timestamp::new(seconds, nanos).map_err(|error| error.to_string())?;
            Value::String(if kind == ScalarKind::Time {
                time::format(time)
            } else {
                time::format_micro(time)
            })
        }
        ScalarKind::Duration => Value::String(time::format_duration(first.unwrap_or_default())),
        _ => match content {
            None => Value::Null,
            Some(raw) => embedded(raw, depth)?,
        },
    })
}

/// Raw JSON, or an object that is protobuf itself.
fn embedded(raw: &[u8], depth: usize) -> Result<Value, String> {
    if raw.is_empty() {
        return Ok(Value::Null);
    }
    let Some(unknown) = raw.strip_prefix(MAGIC) else {
        return serde_json::from_slice(raw).map_err(|error| error.to_string());
    };
    let (meta, message) = super::read_envelope(unknown)?;
    let (group, version) = meta
        .api_version
        .split_once('/')
        .unwrap_or(("", &meta.api_version));
    let ty = Schema::builtin()
        .kind(group, version, &meta.kind)
        .ok_or_else(|| {
            format!(
                "no kind {:?} is registered for version {:?}",
                meta.kind, meta.api_version
            )
        })?;
    let mut object = read(message, ty, depth)?;
    object["apiVersion"] = Value::String(meta.api_version);
    object["kind"] = Value::String(meta.kind);
    crate::normalise(&mut object, ty);
    Ok(object)
}

fn schema_or(bytes: &[u8], union: SchemaOr, ty: &Struct, depth: usize) -> Result<Value, String> {
    let (mut allows, mut schema, mut items) = (false, None, Vec::new());
    let mut fields = Reader::new(bytes);
    while let Some(field) = fields.next()? {
        match (union, field.number) {
            (SchemaOr::Bool, 1) => allows = field.bits != 0,
            (SchemaOr::Bool, 2) | (_, 1) => schema = Some(object(field.bytes, ty, depth)?),
            (SchemaOr::Array, 2) => items.push(object(field.bytes, ty, depth)?),
            (SchemaOr::StringArray, 2) => items.push(Value::String(text(field.bytes))),
            _ => {}
        }
    }
    Ok(match (schema, union) {
        (Some(schema), _) => schema,
        (None, SchemaOr::Bool) => Value::Bool(allows),
        (None, _) => Value::Array(items),
    })
}
