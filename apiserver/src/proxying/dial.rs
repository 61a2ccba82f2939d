//! Connections to kubelets and other backends.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use keelson_daemon::tls::{self, ReloadingKey, TlsError};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::body::Body;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);

/// Why a backend can't be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No connection.
    #[error("dial tcp {address}: {source}")]
    Connect {
        /// host:port.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// No connection in time.
    #[error("dial tcp {0}: i/o timeout")]
    Timeout(String),
    /// A host that can't be a TLS server's name.
    #[error("{0:?} is not a server name")]
    ServerName(String),
    /// The TLS handshake failed.
    #[error("tls: {0}")]
    Tls(std::io::Error),
    /// The HTTP handshake or exchange failed.
    #[error("http: {0}")]
    Http(#[from] hyper::Error),
}

/// Opens a connection that one request can be sent by.
pub async fn dial(
    host: &str,
    port: u16,
    tls: Option<&Arc<ClientConfig>>,
) -> Result<SendRequest<Body>, DialError> {
    let address = if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    let stream = match tokio::time::timeout(CONNECT, TcpStream::connect((host, port))).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(source)) => return Err(DialError::Connect { address, source }),
        Err(_) => return Err(DialError::Timeout(address)),
    };
    stream
        .set_nodelay(true)
        .map_err(|source| DialError::Connect {
            address: address.clone(),
            source,
        })?;
    match tls {
        None => {
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            drive(connection.with_upgrades());
            Ok(sender)
        }
        Some(config) => {
            let name = ServerName::try_from(host.to_owned())
                .map_err(|_| DialError::ServerName(host.to_owned()))?;
            let connecting = TlsConnector::from(config.clone()).connect(name, stream);
            let stream = tokio::time::timeout(CONNECT, connecting)
                .await
                .map_err(|_| DialError::Timeout(address))?
                .map_err(DialError::Tls)?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            drive(connection.with_upgrades());
            Ok(sender)
        }
    }
}

/// Runs a connection until it ends; what goes wrong reaches whoever reads the answer.
fn drive(connection: impl Future<Output = Result<(), hyper::Error>> + Send + 'static) {
    tokio::spawn(async move {
        if let Err(e) = connection.await {
            tracing::debug!(error = %e, "backend connection ended");
        }
    });
}

/// TLS towards kubelets: our client certificate, and their CA. Without a CA their certificates aren't checked, as upstream does.
pub fn kubelet_tls(
    ca: Option<&Path>,
    certificate: Option<(&Path, &Path)>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let builder = match ca {
        Some(ca) => builder.with_root_certificates(tls::roots(ca)?),
        None => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unchecked(provider))),
    };
    Ok(Arc::new(match certificate {
        Some((cert, key)) => builder.with_client_cert_resolver(ReloadingKey::load(cert, key)?),
        None => builder.with_no_client_auth(),
    }))
}

/// TLS towards pods and Services, whose certificates nobody vouches for.
pub fn unchecked_tls() -> Result<Arc<ClientConfig>, TlsError> {
    kubelet_tls(None, None)
}

/// Takes any certificate, but checks that the server holds its key.
#[derive(Debug)]
struct Unchecked(Arc<CryptoProvider>);

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
