//! `application/vnd.kubernetes.protobuf`: the API server's side of it.
//!
//! The encoding itself is `keelson-schema`'s; until it has one, protobuf is neither offered nor taken.

use keelson_api::status::Status;
use serde_json::Value;

use crate::negotiate::OBJECT_TYPES;
use crate::response::ApiResult;
use crate::verbs::body::Expected;

/// Whether protobuf is offered.
pub const OFFERED: bool = false;

/// Encodes an object.
pub fn encode(_object: &Value) -> ApiResult<Vec<u8>> {
    Err(Status::not_acceptable(&OBJECT_TYPES))
}

/// Decodes a body.
pub fn decode(_bytes: &[u8], _expected: &Expected<'_>) -> ApiResult<Value> {
    Err(Status::unsupported_media_type(&OBJECT_TYPES))
}
