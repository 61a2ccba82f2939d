//! The kubelet: runs the pods that the API server (or a directory of manifests) gives to this node.
//!
//! `pods` decides and drives, `runtime` is the trait of the container runtime, `node` writes the Node and its Lease,
//! `volumes`, `probes` and `images` serve the pods, `server` answers the API server. See ARCHITECTURE.md.

pub mod app;
pub mod clock;
pub mod config;
pub mod containers;
pub mod eviction;
pub mod exec;
pub mod fdio;
pub mod flags;
pub mod host;
pub mod images;
pub mod node;
pub mod objects;
pub mod pods;
pub mod probes;
pub mod quantity;
pub mod runtime;
pub mod server;
pub mod version;
pub mod volumes;
