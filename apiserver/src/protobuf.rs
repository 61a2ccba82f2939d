//! `application/vnd.kubernetes.protobuf`: which type an answer has, and what entries keep encoded.
//!
//! The encoding itself is `keelson-schema`'s.

use bytes::Bytes;
use keelson_api::status::Status;
use keelson_schema::{DecodeError, Schema, Type, protobuf};
use keelson_storage::Entry;
use serde_json::Value;

use crate::negotiate::OBJECT_TYPES;
use crate::resources::Resource;
use crate::response::ApiResult;
use crate::verbs::body::Expected;

/// The number under which entries keep their bare messages.
const MESSAGE: u32 = 2;
/// Where the kinds of the API machinery are.
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// The type of an object by what it says it is.
fn type_of(object: &Value) -> Option<&'static Type> {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let schema = Schema::builtin();
    schema
        .kind(group, version, kind)
        .or_else(|| schema.named(&format!("{META}.{kind}")))
}

/// Encodes an object, or a list of objects of a kind.
pub fn encode(object: &Value) -> ApiResult<Vec<u8>> {
    if let Some(items) = object.get("items").and_then(Value::as_array)
        && let Some(encoded) = list_of(object, items)
    {
        return Ok(encoded);
    }
    let ty = type_of(object).ok_or_else(|| Status::not_acceptable(&OBJECT_TYPES[..2]))?;
    Ok(protobuf::encode(object, ty))
}

fn list_of(list: &Value, items: &[Value]) -> Option<Vec<u8>> {
    let (api_version, kind) = (
        list.get("apiVersion")?.as_str()?,
        list.get("kind")?.as_str()?,
    );
    let item = serde_json::json!({"apiVersion": api_version, "kind": kind.strip_suffix("List")?});
    let ty = type_of(&item)?;
    let messages: Vec<Vec<u8>> = items.iter().map(|i| protobuf::message(i, ty)).collect();
    let empty = Value::Object(serde_json::Map::new());
    let meta = list.get("metadata").unwrap_or(&empty);
    Some(protobuf::list(
        api_version,
        kind,
        meta,
        messages.iter().map(Vec::as_slice),
    ))
}

/// An entry's bare message in the resource's version, made once.
pub fn message(resource: &Resource, entry: &Entry) -> Bytes {
    entry.encoded(resource.number(MESSAGE), |entry| {
        match resource.object(entry) {
            Ok(object) => Bytes::from(protobuf::message(&object, &resource.ty)),
            Err(e) => {
                // It was decoded before it became an entry.
                tracing::error!(key = entry.key(), error = %e, "a cached object can't be encoded");
                Bytes::new()
            }
        }
    })
}

/// An entry as a whole body.
pub fn body(resource: &Resource, entry: &Entry) -> Vec<u8> {
    protobuf::envelope(
        &resource.kind.api_version(),
        &resource.kind.kind,
        &message(resource, entry),
    )
}

/// A frame of a watch around an object's whole body.
pub fn frame(event: &str, body: &[u8]) -> Bytes {
    Bytes::from(protobuf::watch_frame(event, body))
}

/// Decodes a body as the expected type.
pub fn decode(bytes: &[u8], expected: &Expected<'_>) -> Result<Value, DecodeError> {
    protobuf::decode(bytes, expected.ty)
}

/// A body of any kind that is known, as JSON; lists of kinds aren't types of their own and are left out.
pub fn decode_any(bytes: &[u8]) -> Option<Value> {
    let found = protobuf::type_meta(bytes).ok()?;
    let (api_version, kind) = (found.api_version, found.kind);
    let mut object = serde_json::json!({"kind": kind, "apiVersion": api_version});
    let ty = type_of(&object)?;
    let mut decoded = protobuf::decode(bytes, ty).ok()?;
    keelson_schema::normalise(&mut decoded, ty);
    object.as_object_mut()?.extend(decoded.as_object()?.clone());
    Some(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn statuses_and_lists_can_be_encoded_and_unknown_kinds_cannot() {
        let status = serde_json::to_value(Status::bad_request("x")).unwrap();
        assert!(encode(&status).unwrap().starts_with(b"k8s\0"));
        let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "5"}, "items": [{"metadata": {"name": "a"}}]});
        assert!(encode(&list).unwrap().starts_with(b"k8s\0"));
        assert_eq!(
            encode(&json!({"kind": "Odd", "apiVersion": "v1"}))
                .unwrap_err()
                .code,
            406
        );
    }
}
