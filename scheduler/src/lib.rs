//! kube-scheduler: finds a node for every pod that has none.
//!
//! Pods wait in the [`queue`]; one at a time is filtered and scored over an immutable [`model::Snapshot`] by the
//! [`plugins`] of its profile, assumed to be on the best node, and bound in a task of its own. Pods that fit nowhere
//! sleep until something happens that could help them. What a pod asks of a node, and what a node has, is worked out
//! once, in [`model`]. The API server is reached only at the edges: [`intake`] and the binding and failure writers.

pub mod config;
pub mod cycle;
pub mod daemon;
pub mod framework;
pub mod intake;
pub mod metrics;
pub mod model;
pub mod options;
pub mod plugins;
pub mod queue;
mod report;

#[cfg(test)]
mod build;
