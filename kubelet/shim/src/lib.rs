//! What the kubelet and a pod's shim say to each other.
//!
//! The shim listens on a `SOCK_SEQPACKET` socket in the pod's directory ([`SOCKET`]). A client sends [`Envelope`]s and
//! gets a [`Message::Reply`] for each, with file descriptors beside it where streams are asked for; after
//! [`Request::Subscribe`] it also gets [`Message::Event`]s. What outlives the conversation is on disk: the shim writes
//! a [`Record`] into the container's bundle before it tells anybody.

mod protocol;
pub mod wire;

pub use protocol::*;
