//! The kinds of admissionregistration.k8s.io.

pub mod webhook_configuration;
