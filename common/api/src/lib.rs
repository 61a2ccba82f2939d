//! What the kinds of the API mean to every daemon, without I/O: field errors, the API `Status`, names, selectors,
//! quantities, conditions, owner references and what a pod asks of a node.
//!
//! It leaves defaulting, validation and printing of the kinds to `keelson-registry`, and the wire formats to `keelson-schema`.

pub mod conditions;
pub mod field;
pub mod names;
pub mod owner;
pub mod pod;
pub mod quantity;
pub mod quota;
pub mod selector;
pub mod status;
