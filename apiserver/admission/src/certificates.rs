//! What certificate signing requests say.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keelson_auth::{Attributes, Authorizer, User};
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

/// Whether a user holds a verb on a signer, by its full name or by `<domain>/*`.
pub fn may_use_signer(
    authorizer: &dyn Authorizer,
    user: &Arc<User>,
    verb: &str,
    signer: &str,
) -> bool {
    let may = |name: &str| {
        authorizer
            .authorize(&Attributes {
                user: user.clone(),
                verb: verb.into(),
                api_group: "certificates.k8s.io".into(),
                api_version: "*".into(),
                resource: "signers".into(),
                name: name.into(),
                resource_request: true,
                ..Attributes::default()
            })
            .allowed()
    };
    may(signer)
        || signer
            .split_once('/')
            .is_some_and(|(domain, _)| may(&format!("{domain}/*")))
}
