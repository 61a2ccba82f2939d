//! `application/vnd.kubernetes.protobuf`: objects of the built-in kinds, from and to values.
//!
//! A body is `k8s\0` and a `runtime.Unknown` around the message; a watch stream has frames of a length and a bare
//! `WatchEvent`. Custom resources have no protobuf; which encoding is answered is the server's choice.

mod decode;
mod encode;

use serde_json::Value;

use crate::decode::{DecodeError, TypeMeta};
use crate::types::Type;
use crate::wire::{Reader, put_bytes, put_message};

/// What every body begins with.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// An object as a whole body.
pub fn encode(object: &Value, ty: &Type) -> Vec<u8> {
    let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    envelope(text("apiVersion"), text("kind"), &message(object, ty))
}

/// An object's bare message, as it stands in lists.
pub fn message(object: &Value, ty: &Type) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    encode::value(&mut out, object, ty);
    out
}

/// A body around a bare message.
pub fn envelope(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 64);
    out.extend_from_slice(MAGIC);
    put_message(&mut out, 1, |out| {
        put_bytes(out, 1, api_version.as_bytes());
        put_bytes(out, 2, kind.as_bytes());
    });
    put_bytes(&mut out, 2, message);
    put_bytes(&mut out, 3, b"");
    put_bytes(&mut out, 4, b"");
    out
}

/// A list's body around its items' bare messages; `metadata` is its ListMeta.
pub fn list<'m>(
    api_version: &str,
    kind: &str,
    metadata: &Value,
    items: impl IntoIterator<Item = &'m [u8]>,
) -> Vec<u8> {
    let list_meta = crate::Schema::builtin().named("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta");
    let mut out = Vec::new();
    if let Some(ty) = list_meta {
        put_message(&mut out, 1, |out| encode::value(out, metadata, ty));
    }
    for item in items {
        put_bytes(&mut out, 2, item);
    }
    envelope(api_version, kind, &out)
}

/// A frame of a watch stream around an object's whole body.
pub fn watch_frame(event: &str, body: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 4];
    put_bytes(&mut out, 1, event.as_bytes());
    put_message(&mut out, 2, |out| put_bytes(out, 1, body));
    let length = u32::try_from(out.len() - 4).unwrap_or(u32::MAX);
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

/// Reads the kind a body says it has.
pub fn type_meta(bytes: &[u8]) -> Result<TypeMeta, DecodeError> {
    open(bytes).map(|(meta, _)| meta)
}

/// Reads a body as `ty`. Fields that are unknown are dropped without a word, as upstream does.
pub fn decode(bytes: &[u8], ty: &Type) -> Result<Value, DecodeError> {
    let (meta, message) = open(bytes)?;
    let mut object = decode::message(message, ty).map_err(DecodeError::Value)?;
    if let Value::Object(object) = &mut object {
        let mut put = |name: &str, text: String| {
            if !text.is_empty() {
                object.insert(name.to_owned(), Value::String(text));
            }
        };
        put("apiVersion", meta.api_version);
        put("kind", meta.kind);
    }
    Ok(object)
}

/// The kind and the message in a body.
fn open(bytes: &[u8]) -> Result<(TypeMeta, &[u8]), DecodeError> {
    let Some(unknown) = bytes.strip_prefix(MAGIC) else {
        return Err(DecodeError::Value(
            "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]".to_owned(),
        ));
    };
    read_envelope(unknown).map_err(DecodeError::Value)
}

fn read_envelope(unknown: &[u8]) -> Result<(TypeMeta, &[u8]), String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut meta = TypeMeta::default();
    let mut message: &[u8] = &[];
    let mut fields = Reader::new(unknown);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => {
                let mut parts = Reader::new(field.bytes);
                while let Some(part) = parts.next()? {
                    match part.number {
                        1 => meta.api_version = text(part.bytes),
                        2 => meta.kind = text(part.bytes),
                        _ => {}
                    }
                }
            }
            2 => message = field.bytes,
            _ => {}
        }
    }
    Ok((meta, message))
}

#[cfg(test)]
mod tests;
