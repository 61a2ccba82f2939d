//! The container runtime: shims, root filesystems, cgroups, the pod network and the image store behind
//! [`crate::runtime`]'s traits.
//!
//! What a pod should look like is decided by `crate::pods`. The processes themselves belong to the shims
//! (`kubelet/shim`), which outlive the kubelet; everything here can be built anew from [`Config::state_dir`].

mod cgroup;
mod client;
mod config;
mod host;
mod images;
mod layout;
mod make;
mod network;
mod pods;
mod runtime;
mod sandbox;
mod seccomp;
mod signal;
mod spawn;
mod spec;

pub use config::Config;
pub use runtime::KeelsonRuntime;
