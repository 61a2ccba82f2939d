//! The admission chain, the allocation of Service addresses and node ports, and the objects that must exist from the first
//! start. Plugins see decoded objects and read others through `Lookup`; routing, storage and HTTP belong to the API server.

pub mod chain;
pub mod plugins;
pub mod request;

pub use chain::{Chain, Environment, Plugin, Writer};
pub use keelson_auth::{Lookup, LookupError, Status, User};
pub use request::{Kind, Operation, Request, Resource};
