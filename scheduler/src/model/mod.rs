//! What the scheduler knows of pods and nodes, worked out once when they arrive.

mod affinity;
mod cache;
mod node;
mod node_selector;
mod pod;
mod resources;

pub(crate) use affinity::namespace_labels;
pub use affinity::{Term, WeightedTerm};
pub use cache::{Cache, Snapshot};
pub use node::{HostPort, NodeInfo};
pub use node_selector::{NodeMatcher, NodeTerm};
pub use pod::PodInfo;
pub use resources::{DEFAULT_MEMORY, DEFAULT_MILLI_CPU, Resources, pod_requests};
