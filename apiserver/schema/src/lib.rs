//! Types as data over `serde_json::Value`: decoding, normalising, patching, field ownership, OpenAPI and protobuf.
//!
//! Nothing here knows which resources are served, what a field's default is or what is valid: that's
//! `keelson-registry`. Nothing here does I/O.

pub mod builtin;
pub mod decode;
pub mod managed_fields;
pub mod normalise;
pub mod openapi;
pub mod patch;
pub mod protobuf;
mod time;
pub mod types;
mod wire;

pub use builtin::Schema;
pub use decode::{
    DecodeError, Decoded, FieldValidation, MediaType, TypeMeta, decode, decode_untyped,
    decode_value, type_meta,
};
pub use normalise::{fill_structs, normalise};
pub use types::Type;
