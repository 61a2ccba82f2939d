//! Pod specifications: their defaults and their validation, the same in a Pod and in every template of pods.
//!
//! What only a Pod has (status, updates, its row) stands with the kind.

pub mod containers;
pub mod defaults;
mod environment;
mod handlers;
pub mod placement;
pub mod resources;
mod security;
pub mod template;
mod validate;
pub mod volumes;

pub(crate) use handlers::port;
pub use validate::{Scope, spec};
