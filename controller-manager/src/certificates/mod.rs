//! Certificate signing requests: approving those of kubelets, signing what was approved, clearing away what is done with.

pub mod approving;
pub mod cleaner;
mod issue;
mod request;
pub mod signing;

use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition,
};

/// The conditions of a request.
fn conditions(
    csr: &CertificateSigningRequest,
) -> impl Iterator<Item = &CertificateSigningRequestCondition> {
    csr.status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
}

/// Whether a condition is there and true. Approval counts only without a denial.
fn is(csr: &CertificateSigningRequest, kind: &str) -> bool {
    conditions(csr).any(|condition| condition.type_ == kind && condition.status != "False")
}

/// Whether the certificate is there.
fn is_issued(csr: &CertificateSigningRequest) -> bool {
    csr.status.as_ref().is_some_and(|status| {
        status
            .certificate
            .as_ref()
            .is_some_and(|pem| !pem.0.is_empty())
    })
}
