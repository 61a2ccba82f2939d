//! Custom resources without I/O: what a CustomResourceDefinition may say, and what it makes of objects.
//!
//! [`check`] validates definitions; [`definition`] reads one into compiled versions, by which objects are pruned,
//! defaulted, validated, converted and shown. Serving them is the API server's.

pub mod check;
pub mod columns;
pub mod conversion;
mod correlate;
pub mod defaults;
pub mod definition;
mod formats;
pub mod internal;
pub mod jsonpath;
pub mod lists;
pub mod metadata;
pub mod names;
pub mod openapi;
pub mod prune;
pub mod rules;
pub mod schema;
pub mod types;
pub mod validate;

pub use definition::{Conversion, Definition, Names, Scale, Version};
pub use schema::Schema;
