//! TLS from PEM files: server and client configurations that follow rotated files without a restart.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;

/// What can go wrong with a certificate file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read or is not PEM.
    #[error("cannot read {path}: {message}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// The file holds nothing of the kind.
    #[error("{path} holds no {what}")]
    Empty {
        /// Which file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// rustls refuses it.
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
    /// No certificate could be made up.
    #[error("cannot make a certificate for the secure port: {0}")]
    SelfSigned(String),
    /// The client CA bundle is of no use.
    #[error("client CA: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// Reads every certificate of a PEM file.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = |e: rustls::pki_types::pem::Error| TlsError::Read {
        path: path.into(),
        message: e.to_string(),
    };
    let list: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(read)?
        .collect::<Result<_, _>>()
        .map_err(read)?;
    if list.is_empty() {
        return Err(TlsError::Empty {
            path: path.into(),
            what: "certificate",
        });
    }
    Ok(list)
}

/// Reads the private key of a PEM file.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|e| TlsError::Read {
        path: path.into(),
        message: e.to_string(),
    })
}

/// Reads a CA bundle.
pub fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store.add(certificate)?;
    }
    Ok(store)
}

/// A certificate and key on disk, read again when the certificate file changes (looked at once a second, at most, by a handshake).
#[derive(Debug)]
pub struct ReloadingKey {
    certificate: PathBuf,
    key: PathBuf,
    current: ArcSwap<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    key: Arc<CertifiedKey>,
    modified: Option<SystemTime>,
    looked: std::time::Instant,
}

impl ReloadingKey {
    /// Loads the pair; fails where it cannot be used.
    pub fn load(certificate: &Path, key: &Path) -> Result<Arc<Self>, TlsError> {
        let loaded = read_pair(certificate, key)?;
        Ok(Arc::new(Self {
            certificate: certificate.into(),
            key: key.into(),
            current: ArcSwap::from_pointee(loaded),
        }))
    }

    /// The pair in force.
    pub fn current(&self) -> Arc<CertifiedKey> {
        let loaded = self.current.load();
        if loaded.looked.elapsed() < std::time::Duration::from_secs(1) {
            return loaded.key.clone();
        }
        if modified(&self.certificate) == loaded.modified {
            self.current.store(Arc::new(Loaded {
                key: loaded.key.clone(),
                modified: loaded.modified,
                looked: std::time::Instant::now(),
            }));
            return loaded.key.clone();
        }
        match read_pair(&self.certificate, &self.key) {
            Ok(fresh) => {
                let key = fresh.key.clone();
                self.current.store(Arc::new(fresh));
                tracing::info!(file = %self.certificate.display(), "loaded the rotated certificate");
                key
            }
            Err(error) => {
                // A rotation under way has written only one of the two files: go on with the old pair and look again.
                tracing::warn!(%error, "keeping the previous certificate");
                loaded.key.clone()
            }
        }
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|m| m.modified()).ok()
}

fn read_pair(certificate: &Path, key: &Path) -> Result<Loaded, TlsError> {
    let stamp = modified(certificate);
    let pair = CertifiedKey::from_der(
        certificates(certificate)?,
        private_key(key)?,
        &rustls::crypto::aws_lc_rs::default_provider(),
    )?;
    Ok(Loaded {
        key: Arc::new(pair),
        modified: stamp,
        looked: std::time::Instant::now(),
    })
}

impl ResolvesServerCert for ReloadingKey {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl rustls::client::ResolvesClientCert for ReloadingKey {
    fn resolve(
        &self,
        _hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A server configuration that serves `key` and, given client CAs, asks for (but does not require) a client certificate;
/// who has none must authenticate otherwise. ALPN offers HTTP/2 and HTTP/1.1.
pub fn server_config(
    key: Arc<ReloadingKey>,
    client_roots: Option<RootCertStore>,
) -> Result<rustls::ServerConfig, TlsError> {
    let builder = rustls::ServerConfig::builder();
    let builder = match client_roots {
        Some(roots) => builder.with_client_cert_verifier(
            WebPkiClientVerifier::builder(Arc::new(roots))
                .allow_unauthenticated()
                .build()?,
        ),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(key);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// The configuration of a daemon's secure port, from its flags. Without a certificate one is made up for this run, as
/// upstream does: health checks that don't verify still work.
pub fn serving_config(
    certificate: Option<&Path>,
    key: Option<&Path>,
    client_ca: Option<&Path>,
    name: &str,
) -> Result<rustls::ServerConfig, TlsError> {
    let client_roots = client_ca.map(roots).transpose()?;
    if let (Some(certificate), Some(key)) = (certificate, key) {
        return server_config(ReloadingKey::load(certificate, key)?, client_roots);
    }
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), name.to_owned()])
        .map_err(|error| TlsError::SelfSigned(error.to_string()))?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())
        .map_err(|error| TlsError::SelfSigned(error.to_owned()))?;
    let builder = rustls::ServerConfig::builder();
    let builder = match client_roots {
        Some(roots) => builder.with_client_cert_verifier(
            WebPkiClientVerifier::builder(Arc::new(roots))
                .allow_unauthenticated()
                .build()?,
        ),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder
        .with_single_cert(vec![made.cert.der().clone()], key)
        .map_err(|error| TlsError::SelfSigned(error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// A client configuration that trusts `roots` and shows `key` if given.
pub fn client_config(roots: RootCertStore, key: Option<Arc<ReloadingKey>>) -> rustls::ClientConfig {
    let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
    match key {
        Some(key) => builder.with_client_cert_resolver(key),
        None => builder.with_no_client_auth(),
    }
}
