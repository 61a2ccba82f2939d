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
use tokio_rustls::client::TlsStream;

use super::target::authority;
use crate::body::Body;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);

/// Why a backend can't be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No connection.
    #[error("dial tcp {address}: {}", connecting(source))]
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

/// What went wrong with connecting, in the words that clients look for.
fn connecting(e: &std::io::Error) -> String {
    match e.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        _ => e.to_string(),
    }
}

/// Opens a connection that one request can be sent by.
pub async fn dial(
    host: &str,
    port: u16,
    tls: Option<&Arc<ClientConfig>>,
) -> Result<SendRequest<Body>, DialError> {
    match tls {
        None => {
            let stream = tcp_stream(host, port).await?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            drive(connection.with_upgrades());
            Ok(sender)
        }
        Some(config) => {
            let name = ServerName::try_from(host.to_owned())
                .map_err(|_| DialError::ServerName(host.to_owned()))?;
            let stream = tls_stream(host, port, name, config).await?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            drive(connection.with_upgrades());
            Ok(sender)
        }
    }
}

async fn tcp_stream(host: &str, port: u16) -> Result<TcpStream, DialError> {
    let address = authority(host, port);
    let stream = match tokio::time::timeout(CONNECT, TcpStream::connect((host, port))).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(source)) => return Err(DialError::Connect { address, source }),
        Err(_) => return Err(DialError::Timeout(address)),
    };
    match stream.set_nodelay(true) {
        Ok(()) => Ok(stream),
        Err(source) => Err(DialError::Connect { address, source }),
    }
}

/// Opens a connection to a server that has a certificate for a name of its own.
pub async fn tls_stream(
    host: &str,
    port: u16,
    name: ServerName<'static>,
    tls: &Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, DialError> {
    let stream = tcp_stream(host, port).await?;
    let connecting = TlsConnector::from(tls.clone()).connect(name, stream);
    tokio::time::timeout(CONNECT, connecting)
        .await
        .map_err(|_| DialError::Timeout(authority(host, port)))?
        .map_err(DialError::Tls)
}

/// Runs a connection until it ends; what goes wrong reaches whoever reads the answer.
pub fn drive(connection: impl Future<Output = Result<(), hyper::Error>> + Send + 'static) {
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
            .with_custom_certificate_verifier(unchecked(provider)),
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

/// Takes any certificate.
pub fn unchecked(provider: Arc<CryptoProvider>) -> Arc<dyn ServerCertVerifier> {
    Arc::new(Unchecked(provider))
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
