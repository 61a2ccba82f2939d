//! Probes: asking a container whether it has started, works and is ready.
//!
//! [`prober`] asks on its schedule and counts; the four ways of asking are in files of their own. What follows from
//! an answer is decided by the pod's worker.

pub mod counts;
pub mod grpc;
pub mod http;
pub mod prober;
pub mod tcp;
