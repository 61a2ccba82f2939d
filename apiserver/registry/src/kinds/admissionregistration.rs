//! The kinds of admissionregistration.k8s.io.

pub mod policy;
pub mod webhook_configuration;
