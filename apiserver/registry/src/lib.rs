//! The API's kinds: one table of them all, and one strategy per kind that knows its defaults, what may be created and
//! changed, and how it is shown in a table.
//!
//! Everything here is a pure function over objects. It leaves wire formats, patches and field ownership to
//! `keelson-schema`, admission to `keelson-admission`, and storing, routing and answering to the API server.

pub mod access;
pub mod columns;
pub mod kinds;
pub mod meta;
pub mod pod;
pub mod print;
mod repeats;
pub mod rest;
pub mod scale;
pub mod strategy;
pub mod validation;

pub use columns::Column;
pub use kinds::{Kind, Subresource};
pub use strategy::{Context, Family, Strategy, UserInfo};
