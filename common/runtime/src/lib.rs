//! The controller runtime that every daemon builds on.
//!
//! It turns the API server's list and watch into shared in-memory stores ([`informer`]), hands changed keys to workers
//! so that equal keys never run at once ([`queue`], [`reconciler`]), elects one leader among replicas ([`leader`]),
//! records events without ever holding up its caller ([`recorder`]) and makes the client ([`client`]).
//!
//! What to do about a change is left to the daemons; nothing here knows a particular kind, but for Lease and Event.

pub mod client;
pub mod delegation;
pub mod expectations;
pub mod informer;
pub mod leader;
pub mod metrics;
pub mod owners;
pub mod queue;
pub mod reconciler;
pub mod recorder;
pub mod store;
pub mod write;

mod hostlock;
mod transport;

pub use informer::{Event, Informer, Informers};
pub use queue::Queue;
pub use reconciler::Outcome;
pub use recorder::Recorder;
pub use store::{Key, Store};
