//! The admission chain, the allocation of Service addresses and node ports, and the objects that must exist from the first
//! start. Plugins see decoded objects and read others through `Lookup`; routing, storage and HTTP belong to the API server.

mod certificates;
pub mod chain;
mod defaulting;
mod defaults;
mod edit;
mod live;
pub mod plugins;
mod pod;
mod policies;
pub mod request;
pub mod service_addresses;
pub mod startup;
#[cfg(test)]
mod testing;
pub mod webhooks;

pub use chain::{Chain, Environment, Plugin, Writer};
pub use keelson_auth::{Lookup, LookupError, Status, User};
pub use request::{Kind, Operation, Request, Resource};
