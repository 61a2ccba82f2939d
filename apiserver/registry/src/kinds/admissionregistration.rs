//! The kinds of admissionregistration.k8s.io.

mod expressions;
mod matching;
pub mod mutating_policy;
pub mod policy_binding;
pub mod validating_policy;
pub mod webhook_configuration;
