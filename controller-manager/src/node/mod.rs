//! Nodes: their health and taints, the pods that must leave them, and their ranges of pod addresses.

mod cidrs;
pub mod eviction;
pub(crate) mod fit;
pub mod ipam;
pub mod lifecycle;
pub(crate) mod taints;
mod zones;
