//! The node's own objects: registration, `status`, and the lease that says it lives.
//!
//! [`machine`] reads the host, [`status`] makes the API object from what was read (no I/O), [`agent`] writes both
//! objects to the API server. What pods do on the node is in [`crate::pods`].

pub mod agent;
pub mod machine;
pub mod network;
pub mod status;
