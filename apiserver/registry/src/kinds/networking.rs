//! The kinds of networking.k8s.io.

pub mod ip_address;
pub mod service_cidr;
