//! The v2 document in protobuf, as gnostic's `openapi.v2.Document`: what kubectl asks for.
//!
//! The numbers are those of the messages' fields. Extensions (`x-…`) and free values travel as YAML, of which JSON
//! is a part.

use serde_json::{Map, Value};

use crate::wire::{put_bytes, put_varint};

type Message = Vec<u8>;

/// Encodes a v2 document.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let mut out = Message::new();
    put_text(&mut out, 1, document.get("swagger"));
    if let Some(info) = document.get("info") {
        let mut message = Message::new();
        put_text(&mut message, 1, info.get("title"));
        put_text(&mut message, 2, info.get("version"));
        put_bytes(&mut out, 2, &message);
    }
    let mut paths = Message::new();
    for (path, item) in entries(document.get("paths")) {
        put_named(&mut paths, 2, path, &path_item(item));
    }
    put_bytes(&mut out, 8, &paths);
    let mut definitions = Message::new();
    for (name, definition) in entries(document.get("definitions")) {
        put_named(&mut definitions, 1, name, &schema(definition));
    }
    put_bytes(&mut out, 9, &definitions);
    out
}

fn path_item(item: &Value) -> Message {
    let mut out = Message::new();
    let methods = [
        (2, "get"),
        (3, "put"),
        (4, "post"),
        (5, "delete"),
        (8, "patch"),
    ];
    for (number, method) in methods {
        if let Some(value) = item.get(method) {
            put_bytes(&mut out, number, &operation(value));
        }
    }
    put_each(&mut out, 9, item.get("parameters"), parameters_item);
    out
}

fn operation(value: &Value) -> Message {
    let mut out = Message::new();
    put_texts(&mut out, 1, value.get("tags"));
    put_text(&mut out, 3, value.get("description"));
    put_text(&mut out, 5, value.get("operationId"));
    put_texts(&mut out, 6, value.get("produces"));
    put_texts(&mut out, 7, value.get("consumes"));
    put_each(&mut out, 8, value.get("parameters"), parameters_item);
    let mut responses = Message::new();
    for (code, value) in entries(value.get("responses")) {
        let mut response = Message::new();
        put_text(&mut response, 1, value.get("description"));
        if let Some(value) = value.get("schema") {
            let mut item = Message::new();
            put_bytes(&mut item, 1, &schema(value));
            put_bytes(&mut response, 2, &item);
        }
        let mut choice = Message::new();
        put_bytes(&mut choice, 1, &response);
        put_named(&mut responses, 1, code, &choice);
    }
    put_bytes(&mut out, 9, &responses);
    put_texts(&mut out, 10, value.get("schemes"));
    put_extensions(&mut out, 13, value);
    out
}

fn parameters_item(value: &Value) -> Message {
    let mut parameter = Message::new();
    if value.get("in").and_then(Value::as_str) == Some("body") {
        let mut body = Message::new();
        put_text(&mut body, 2, value.get("name"));
        put_text(&mut body, 3, value.get("in"));
        put_bool(&mut body, 4, value.get("required"));
        if let Some(value) = value.get("schema") {
            put_bytes(&mut body, 5, &schema(value));
        }
        put_bytes(&mut parameter, 1, &body);
    } else {
        let is_path = value.get("in").and_then(Value::as_str) == Some("path");
        // a path's sub-schema lacks the query's allow_empty_value, so its type stands one number earlier
        let (choice, kind, unique) = if is_path { (4, 5, 19) } else { (3, 6, 20) };
        let mut sub = Message::new();
        put_bool(&mut sub, 1, value.get("required"));
        put_text(&mut sub, 2, value.get("in"));
        put_text(&mut sub, 3, value.get("description"));
        put_text(&mut sub, 4, value.get("name"));
        put_text(&mut sub, kind, value.get("type"));
        put_bool(&mut sub, unique, value.get("uniqueItems"));
        let mut non_body = Message::new();
        put_bytes(&mut non_body, choice, &sub);
        put_bytes(&mut parameter, 2, &non_body);
    }
    let mut item = Message::new();
    put_bytes(&mut item, 1, &parameter);
    item
}

fn schema(value: &Value) -> Message {
    let mut out = Message::new();
    put_text(&mut out, 1, value.get("$ref"));
    put_text(&mut out, 2, value.get("format"));
    put_text(&mut out, 4, value.get("description"));
    if let Some(default) = value.get("default") {
        put_bytes(&mut out, 5, &any(default));
    }
    put_texts(&mut out, 19, value.get("required"));
    put_each(&mut out, 20, value.get("enum"), any);
    if let Some(values) = value.get("additionalProperties") {
        let mut item = Message::new();
        match values {
            Value::Bool(allowed) => put_varint(&mut item, 2, u64::from(*allowed)),
            values => put_bytes(&mut item, 1, &schema(values)),
        }
        put_bytes(&mut out, 21, &item);
    }
    if let Some(kind) = value.get("type") {
        let mut item = Message::new();
        put_text(&mut item, 1, Some(kind));
        put_bytes(&mut out, 22, &item);
    }
    if let Some(items) = value.get("items") {
        let mut item = Message::new();
        put_bytes(&mut item, 1, &schema(items));
        put_bytes(&mut out, 23, &item);
    }
    put_each(&mut out, 24, value.get("allOf"), schema);
    if let Some(properties) = value.get("properties") {
        let mut message = Message::new();
        for (name, property) in entries(Some(properties)) {
            put_named(&mut message, 1, name, &schema(property));
        }
        put_bytes(&mut out, 25, &message);
    }
    put_extensions(&mut out, 31, value);
    out
}

/// A free value, as YAML.
fn any(value: &Value) -> Message {
    let mut out = Message::new();
    put_bytes(&mut out, 2, format!("{value}\n").as_bytes());
    out
}

fn put_extensions(out: &mut Message, number: u32, value: &Value) {
    for (name, extension) in entries(Some(value)) {
        if name.starts_with("x-") {
            put_named(out, number, name, &any(extension));
        }
    }
}

/// A message of a name and a value.
fn put_named(out: &mut Message, number: u32, name: &str, value: &[u8]) {
    let mut named = Message::new();
    put_bytes(&mut named, 1, name.as_bytes());
    put_bytes(&mut named, 2, value);
    put_bytes(out, number, &named);
}

fn put_text(out: &mut Message, number: u32, value: Option<&Value>) {
    if let Some(text) = value.and_then(Value::as_str)
        && !text.is_empty()
    {
        put_bytes(out, number, text.as_bytes());
    }
}

fn put_texts(out: &mut Message, number: u32, values: Option<&Value>) {
    for text in values.and_then(Value::as_array).into_iter().flatten() {
        put_bytes(out, number, text.as_str().unwrap_or_default().as_bytes());
    }
}

fn put_bool(out: &mut Message, number: u32, value: Option<&Value>) {
    if value == Some(&Value::Bool(true)) {
        put_varint(out, number, 1);
    }
}

fn put_each(out: &mut Message, number: u32, values: Option<&Value>, encode: fn(&Value) -> Message) {
    for value in values.and_then(Value::as_array).into_iter().flatten() {
        put_bytes(out, number, &encode(value));
    }
}

fn entries(value: Option<&Value>) -> impl Iterator<Item = (&String, &Value)> {
    value
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(Map::iter)
}
