//! Client certificates: checking a chain against a CA and reading the user out of the leaf.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::user::{CREDENTIAL_ID, User};

/// A CA file or certificate that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum X509Error {
    /// The PEM file holds no usable certificate.
    #[error("CA bundle: {0}")]
    Bundle(String),
    /// The chain does not lead to the CA, is out of date or not for clients.
    #[error("client certificate: {0}")]
    Chain(#[from] rustls::Error),
    /// The leaf is no certificate.
    #[error("client certificate cannot be parsed: {0}")]
    Parse(String),
    /// The leaf names nobody.
    #[error("client certificate has no common name")]
    NoCommonName,
}

/// A leaf that led to the CA.
#[derive(Debug, Clone)]
pub struct Certified {
    /// The user in the leaf.
    pub user: Arc<User>,
    not_before: i64,
    not_after: i64,
}

impl Certified {
    /// Whether the leaf is still in date: connections outlive the check at their start.
    pub fn valid_now(&self) -> bool {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_secs().cast_signed());
        self.not_before <= now && now <= self.not_after
    }
}

/// A bundle of CAs that vouch for clients.
#[derive(Debug)]
pub struct Authority {
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Authority {
    /// Reads every certificate of a PEM bundle.
    pub fn from_pem(pem: &[u8]) -> Result<Self, X509Error> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|e| X509Error::Bundle(format!("{e:?}")))?;
            roots
                .add(certificate)
                .map_err(|e| X509Error::Bundle(e.to_string()))?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|e| X509Error::Bundle(e.to_string()))?;
        Ok(Self { verifier })
    }

    /// Checks a chain, leaf first, and reads the user: common name, organizations as groups, uid where the subject has one.
    pub fn verify(&self, chain: &[CertificateDer<'_>]) -> Result<Certified, X509Error> {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return Err(X509Error::NoCommonName);
        };
        let _: ClientCertVerified =
            self.verifier
                .verify_client_cert(leaf, intermediates, UnixTime::now())?;
        let (_, certificate) =
            X509Certificate::from_der(leaf).map_err(|e| X509Error::Parse(e.to_string()))?;
        let subject = certificate.subject();
        let name = subject
            .iter_common_name()
            .filter_map(|a| a.as_str().ok())
            .last()
            .unwrap_or_default();
        if name.is_empty() {
            return Err(X509Error::NoCommonName);
        }
        let groups = subject
            .iter_organization()
            .filter_map(|a| a.as_str().ok())
            .map(str::to_owned)
            .collect::<Vec<_>>();
        let mut user = User {
            name: name.to_owned(),
            groups,
            ..User::default()
        };
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, leaf);
        user.extra.insert(
            CREDENTIAL_ID.into(),
            vec![format!("X509SHA256={}", hex(digest.as_ref()))],
        );
        Ok(Certified {
            user: Arc::new(user),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
            // Writing to a String cannot fail.
            let _ = write!(out, "{byte:02x}");
            out
        })
}

/// A TLS verifier that asks every client for a certificate and only proves possession of its key: which CA it belongs to is
/// decided per request, so that a bad certificate is answered with 401 instead of a broken handshake, as upstream does.
#[derive(Debug)]
pub struct AskForCertificate {
    provider: Arc<rustls::crypto::CryptoProvider>,
}

impl AskForCertificate {
    /// For a crypto provider.
    pub fn new(provider: Arc<rustls::crypto::CryptoProvider>) -> Self {
        Self { provider }
    }
}

impl ClientCertVerifier for AskForCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[rustls::DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        // Trust is not established here but in `Authority::verify`, before anything uses the identity.
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
