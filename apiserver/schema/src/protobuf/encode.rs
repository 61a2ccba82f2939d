//! Values as messages, field by field in the order of their numbers, as Go's generated code writes them.

use serde_json::{Map, Value};

use crate::decode::decode_base64;
use crate::time;
use crate::types::{Field, ScalarKind, SchemaOr, Struct, Type};
use crate::wire::{put_bytes, put_double, put_message, put_varint};

type Object = Map<String, Value>;

/// Appends the content of a message that holds a value.
pub(super) fn value(out: &mut Vec<u8>, value: &Value, ty: &Type) {
    match ty {
        Type::Struct(ty) => {
            if let Value::Object(object) = value {
                fields(out, object, ty, ty.by_number(), 0);
            }
        }
        Type::SchemaOr(union, ty) => schema_or(out, value, *union, ty),
        Type::List(list) => {
            // ExtraValue and Verbs: a message of items
            for item in value.as_array().into_iter().flatten() {
                element(out, 1, item, &list.element);
            }
        }
        Type::Scalar(scalar) => special(out, value, scalar.kind),
        Type::Map(_) => {} // maps are fields, never messages
    }
}

/// Appends the fields at `positions`, whose numbers agree before `depth`.
fn fields(out: &mut Vec<u8>, object: &Object, ty: &Struct, positions: &[u16], depth: usize) {
    let at = |position: &u16| &ty.fields()[usize::from(*position)];
    let mut rest = positions;
    while let Some(first) = rest.first() {
        let field_at = at(first);
        let number = field_at.numbers[depth];
        if field_at.numbers.len() == depth + 1 {
            field(out, number, object.get(&*field_at.name), field_at);
            rest = &rest[1..];
            continue;
        }
        // fields of an inlined struct stand in a message of their own
        let count = rest
            .iter()
            .take_while(|position| at(position).numbers.get(depth) == Some(&number))
            .count();
        let (inner, after) = rest.split_at(count);
        put_message(out, number, |out| fields(out, object, ty, inner, depth + 1));
        rest = after;
    }
}

fn field(out: &mut Vec<u8>, number: u32, value: Option<&Value>, field: &Field) {
    let value = value.filter(|value| !value.is_null());
    match (&field.ty, value) {
        (Type::List(list), Some(Value::Array(items))) if !field.ty.is_wrapped_list() => {
            for item in items {
                element(out, number, item, &list.element);
            }
        }
        (Type::Map(map), Some(Value::Object(entries))) => {
            for (key, value) in entries {
                put_message(out, number, |out| {
                    put_bytes(out, 1, key.as_bytes());
                    element(out, 2, value, &map.value);
                });
            }
        }
        (_, Some(value)) => element(out, number, value, &field.ty),
        // Go writes the zero of what is neither pointer, slice nor map
        (Type::Struct(_), None) if !field.pointer => {
            element(out, number, &Value::Object(Map::new()), &field.ty);
        }
        (Type::Scalar(scalar), None) if !field.pointer && scalar.kind != ScalarKind::Bytes => {
            element(out, number, &Value::Null, &field.ty);
        }
        _ => {}
    }
}

/// Appends one value as a field of its own.
fn element(out: &mut Vec<u8>, number: u32, item: &Value, ty: &Type) {
    let Type::Scalar(scalar) = ty else {
        return put_message(out, number, |out| value(out, item, ty));
    };
    match scalar.kind {
        ScalarKind::String => put_bytes(out, number, item.as_str().unwrap_or_default().as_bytes()),
        ScalarKind::Bool => put_varint(out, number, u64::from(item.as_bool().unwrap_or_default())),
        ScalarKind::Int32 | ScalarKind::Int64 | ScalarKind::Uint(_) => {
            put_varint(out, number, integer(item));
        }
        ScalarKind::Float64 => put_double(out, number, item.as_f64().unwrap_or_default()),
        ScalarKind::Bytes => {
            let bytes = decode_base64(item.as_str().unwrap_or_default()).unwrap_or_default();
            put_bytes(out, number, &bytes);
        }
        _ => put_message(out, number, |out| special(out, item, scalar.kind)),
    }
}

/// A number's bits: negative ones are written as 64 bits.
fn integer(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| value.as_i64().unwrap_or_default().cast_unsigned())
}

/// Appends the content of a message for a value with an encoding of its own.
fn special(out: &mut Vec<u8>, value: &Value, kind: ScalarKind) {
    let text = value.as_str();
    match kind {
        ScalarKind::Quantity => put_bytes(out, 1, text.unwrap_or("0").as_bytes()),
        ScalarKind::IntOrString => {
            put_varint(out, 1, u64::from(text.is_some()));
            put_varint(out, 2, integer(value));
            put_bytes(out, 3, text.unwrap_or_default().as_bytes());
        }
        ScalarKind::Time | ScalarKind::MicroTime => {
            let parsed = text.and_then(|text| time::parse(text, time::RFC3339).ok());
            if let Some(time) = parsed {
                let nanos = match kind {
                    ScalarKind::MicroTime => time.subsec_nanosecond() / 1000 * 1000,
                    _ => 0,
                };
                put_varint(out, 1, time.as_second().cast_unsigned());
                put_varint(out, 2, i64::from(nanos).cast_unsigned());
            }
        }
        ScalarKind::Duration => {
            let nanos = text.and_then(|text| time::parse_duration(text).ok());
            put_varint(out, 1, nanos.unwrap_or_default().cast_unsigned());
        }
        ScalarKind::FieldsV1
        | ScalarKind::RawExtension
        | ScalarKind::Json
        | ScalarKind::Untyped
            if !value.is_null() =>
        {
            put_bytes(out, 1, value.to_string().as_bytes());
        }
        _ => {}
    }
}

/// Appends one of apiextensions' unions.
fn schema_or(out: &mut Vec<u8>, value: &Value, union: SchemaOr, ty: &Struct) {
    let object = |out: &mut Vec<u8>, number: u32, value: &Value| {
        if let Value::Object(object) = value {
            put_message(out, number, |out| {
                fields(out, object, ty, ty.by_number(), 0)
            });
        }
    };
    match (union, value) {
        (SchemaOr::Bool, value) => {
            let allows = value.is_object() || value == &Value::Bool(true);
            put_varint(out, 1, u64::from(allows));
            object(out, 2, value);
        }
        (SchemaOr::Array, Value::Array(items)) => {
            for item in items {
                object(out, 2, item);
            }
        }
        (SchemaOr::StringArray, Value::Array(items)) => {
            for item in items {
                put_bytes(out, 2, item.as_str().unwrap_or_default().as_bytes());
            }
        }
        (_, value) => object(out, 1, value),
    }
}
