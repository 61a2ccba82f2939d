//! The kinds of resource.k8s.io: devices that drivers offer, and claims on them.
//!
//! One file a kind; beside them what several kinds share: the spec of a claim, devices, names, and bounded lists.

pub mod device_class;
pub mod resource_claim;
pub mod resource_claim_template;
pub mod resource_slice;

mod allocation;
mod bounded;
mod capacity;
mod claim_spec;
mod device;
mod naming;
mod selectors;
