//! Pods on this node: where they come from, what has to happen next, and doing it.
//!
//! [`manager`] keeps one [`worker`] a pod. A worker looks at what is desired (API object), what is (the runtime's
//! answer and its own memory), asks [`plan`] for the next steps, does them and publishes what [`status`] makes of it.
//! [`plan`] and [`status`] are pure. Volumes, probes, images and the HTTP server have folders of their own.

pub mod admission;
pub mod allotment;
pub mod backoff;
pub mod containers;
pub mod downward;
pub mod env;
pub mod hosts;
pub mod lifecycle;
pub mod logs;
pub mod lost;
pub mod manager;
pub mod memory;
pub mod mirror;
pub mod plan;
pub mod resources;
pub mod sandbox;
pub mod security;
pub mod source;
pub mod start;
pub mod static_pods;
pub mod status;
pub mod status_manager;
pub mod sysctls;
pub mod termination;
pub mod worker;

#[cfg(test)]
mod worker_tests;
