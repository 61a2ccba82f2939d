//! What certificate signing requests say.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use x509_parser::prelude::{FromDer, X509CertificationRequest};

/// A request that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not base64, or not a PEM block of a certificate request.
    #[error("PEM block type must be CERTIFICATE REQUEST")]
    Pem,
    /// The block is no certificate request.
    #[error("{0}")]
    Der(String),
}

/// Whom a request asks a certificate for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    /// The common name.
    pub common_name: String,
    /// The organizations.
    pub organizations: Vec<String>,
}

/// The subject of a request as it stands in `spec.request`: base64 over PEM.
pub fn subject(request: &str) -> Result<Subject, RequestError> {
    let pem = STANDARD.decode(request).map_err(|_| RequestError::Pem)?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).map_err(|_| RequestError::Pem)?;
    if !matches!(
        pem.label.as_str(),
        "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST"
    ) {
        return Err(RequestError::Pem);
    }
    let (_, request) = X509CertificationRequest::from_der(&pem.contents)
        .map_err(|e| RequestError::Der(e.to_string()))?;
    let name = &request.certification_request_info.subject;
    Ok(Subject {
        common_name: name
            .iter_common_name()
            .filter_map(|a| a.as_str().ok())
            .last()
            .unwrap_or_default()
            .to_owned(),
        organizations: name
            .iter_organization()
            .filter_map(|a| a.as_str().ok())
            .map(str::to_owned)
            .collect(),
    })
}
