//! The controllers of Kubernetes: each watches some kinds and works towards what their specs ask for.
//!
//! One folder or file a controller, all listed in [`controllers`]. A controller has a pure part, which decides from a snapshot what should
//! change, and a thin part that feeds it from informers and carries the changes out as its own service account.

pub mod adoption;
pub mod bootstrap;
pub mod context;
pub mod controllers;
pub mod discovery;
pub mod identity;
pub mod manager;
pub mod monitors;
pub mod options;
pub mod pod;
pub mod pod_control;
pub mod pod_index;
pub mod policy_status;
pub mod revision;

pub mod autoscaler;
pub mod certificates;
pub mod cluster_role_aggregation;
pub mod cronjob;
pub mod daemonset;
pub mod deployment;
pub mod disruption;
pub mod endpoints;
pub mod garbage;
pub mod job;
pub mod namespace;
pub mod node;
pub mod pod_gc;
pub mod replica;
pub mod resource_claim;
pub mod resource_quota;
pub mod root_ca;
pub mod service_account;
pub mod service_cidr;
pub mod statefulset;
pub mod token;
pub mod ttl;
pub mod ttl_after_finished;
pub mod volume;
