//! What a request asks for, and whether the built-in signers sign that. No I/O.

use std::collections::BTreeSet;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub const API_CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub const LEGACY: &str = "kubernetes.io/legacy-unknown";

/// What of a request the signers look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The DER of the whole request.
    pub der: Vec<u8>,
    /// The DER of the subject.
    pub subject: Vec<u8>,
    /// The subject's common name.
    pub common_name: String,
    /// The subject's organizations.
    pub organizations: Vec<String>,
    /// How many names of each kind.
    pub dns: usize,
    pub addresses: usize,
    pub emails: usize,
    pub uris: usize,
}

/// Why a request can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    #[error("PEM block type must be CERTIFICATE REQUEST")]
    Pem,
    #[error("the request is no PKCS#10 request: {0}")]
    Der(String),
}

/// Reads a request.
pub fn parse(csr: &CertificateSigningRequest) -> Result<Asked, ParseError> {
    let (_, pem) =
        x509_parser::pem::parse_x509_pem(&csr.spec.request.0).map_err(|_| ParseError::Pem)?;
    if pem.label != "CERTIFICATE REQUEST" {
        return Err(ParseError::Pem);
    }
    let (_, request) = X509CertificationRequest::from_der(&pem.contents)
        .map_err(|error| ParseError::Der(error.to_string()))?;
    let subject = &request.certification_request_info.subject;
    let mut asked = Asked {
        subject: subject.as_raw().to_vec(),
        common_name: subject
            .iter_common_name()
            .filter_map(|name| name.as_str().ok())
            .last()
            .unwrap_or_default()
            .to_owned(),
        organizations: subject
            .iter_organization()
            .filter_map(|name| name.as_str().ok().map(str::to_owned))
            .collect(),
        ..Asked::default()
    };
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else {
            continue;
        };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(_) => asked.dns += 1,
                GeneralName::IPAddress(_) => asked.addresses += 1,
                GeneralName::RFC822Name(_) => asked.emails += 1,
                GeneralName::URI(_) => asked.uris += 1,
                _ => {}
            }
        }
    }
    asked.der = pem.contents;
    Ok(asked)
}

fn usages(csr: &CertificateSigningRequest) -> BTreeSet<&str> {
    csr.spec
        .usages
        .iter()
        .flatten()
        .map(String::as_str)
        .collect()
}

fn is_node(asked: &Asked) -> Result<(), String> {
    if asked.organizations != ["system:nodes"] {
        return Err("subject organization is not system:nodes".into());
    }
    Ok(())
}

fn usages_are(csr: &CertificateSigningRequest, purpose: &str) -> Result<(), String> {
    let full = BTreeSet::from(["digital signature", "key encipherment", purpose]);
    let without_rsa = BTreeSet::from(["digital signature", purpose]);
    let given = usages(csr);
    if given == full || given == without_rsa {
        return Ok(());
    }
    let names: Vec<&str> = full.into_iter().collect();
    Err(format!("usages did not match [{}]", names.join(" ")))
}

fn is_named_as_node(asked: &Asked) -> Result<(), String> {
    if asked.common_name.starts_with("system:node:") {
        return Ok(());
    }
    Err("subject common name does not begin with system:node:".into())
}

fn none(count: usize, what: &str) -> Result<(), String> {
    if count == 0 {
        return Ok(());
    }
    Err(format!("{what} subjectAltNames are not allowed"))
}

/// Whether it is a kubelet's request for a client certificate, or why not.
pub fn kubelet_client(csr: &CertificateSigningRequest, asked: &Asked) -> Result<(), String> {
    is_node(asked)?;
    none(asked.dns, "DNS")?;
    none(asked.emails, "Email")?;
    none(asked.addresses, "IP")?;
    none(asked.uris, "URI")?;
    is_named_as_node(asked)?;
    usages_are(csr, "client auth")
}

fn kubelet_serving(csr: &CertificateSigningRequest, asked: &Asked) -> Result<(), String> {
    is_node(asked)?;
    if asked.dns == 0 && asked.addresses == 0 {
        return Err("DNS or IP subjectAltName is required".into());
    }
    none(asked.emails, "Email")?;
    none(asked.uris, "URI")?;
    usages_are(csr, "server auth")?;
    is_named_as_node(asked)
}

fn api_client(csr: &CertificateSigningRequest) -> Result<(), String> {
    let given = usages(csr);
    for usage in csr.spec.usages.iter().flatten() {
        if !matches!(
            usage.as_str(),
            "digital signature" | "key encipherment" | "client auth"
        ) {
            return Err(format!("invalid usage for client certificate: {usage}"));
        }
    }
    if !given.contains("client auth") {
        return Err("missing required usage for client certificate: client auth".into());
    }
    Ok(())
}

/// Whether the request's signer signs it, or why not; `None` if it is no signer of ours.
pub fn accepted(csr: &CertificateSigningRequest, asked: &Asked) -> Option<Result<(), String>> {
    match csr.spec.signer_name.as_str() {
        KUBELET_SERVING => Some(kubelet_serving(csr, asked)),
        KUBELET_CLIENT => Some(kubelet_client(csr, asked)),
        API_CLIENT => Some(api_client(csr)),
        LEGACY => Some(Ok(())),
        _ => None,
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};
    use serde_json::json;

    pub fn csr(
        signer: &str,
        name: &str,
        organizations: &[&str],
        names: &[&str],
        usages: &[&str],
    ) -> CertificateSigningRequest {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        for organization in organizations {
            params
                .distinguished_name
                .push(DnType::OrganizationName, *organization);
        }
        for name in names {
            params
                .subject_alt_names
                .push(SanType::DnsName((*name).try_into().unwrap()));
        }
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        let mut csr: CertificateSigningRequest = serde_json::from_value(
            json!({"metadata": {"name": "r"}, "spec": {"request": "", "signerName": signer, "usages": usages, "username": name}}),
        )
        .unwrap();
        csr.spec.request = ByteString(pem.into_bytes());
        csr
    }

    #[test]
    fn each_signer_has_its_rules() {
        let client = ["digital signature", "client auth"];
        let serving = ["digital signature", "key encipherment", "server auth"];
        let node = "system:node:n1";
        let nodes: &[&str] = &["system:nodes"];
        for (csr, want) in [
            (csr(KUBELET_CLIENT, node, nodes, &[], &client), Some(Ok(()))),
            (
                csr(KUBELET_CLIENT, node, &["x"], &[], &client),
                Some(Err("subject organization is not system:nodes")),
            ),
            (
                csr(KUBELET_CLIENT, node, nodes, &["a.b"], &client),
                Some(Err("DNS subjectAltNames are not allowed")),
            ),
            (
                csr(KUBELET_CLIENT, "n1", nodes, &[], &client),
                Some(Err("subject common name does not begin with system:node:")),
            ),
            (
                csr(KUBELET_CLIENT, node, nodes, &[], &serving),
                Some(Err(
                    "usages did not match [client auth digital signature key encipherment]",
                )),
            ),
            (
                csr(KUBELET_SERVING, node, nodes, &["a.b"], &serving),
                Some(Ok(())),
            ),
            (
                csr(KUBELET_SERVING, node, nodes, &[], &serving),
                Some(Err("DNS or IP subjectAltName is required")),
            ),
            (csr(API_CLIENT, "joe", &[], &[], &client), Some(Ok(()))),
            (
                csr(API_CLIENT, "joe", &[], &[], &serving),
                Some(Err("invalid usage for client certificate: server auth")),
            ),
            (csr(LEGACY, "x", &[], &[], &serving), Some(Ok(()))),
            (csr("example.com/x", "x", &[], &[], &serving), None),
        ] {
            let asked = parse(&csr).unwrap();
            let want = want.map(|result| result.map_err(str::to_owned));
            assert_eq!(accepted(&csr, &asked), want);
        }
    }
}
