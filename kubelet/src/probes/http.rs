//! Asking by HTTP. Any status from 200 to 399 is a yes.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;

/// Most of an answer that is read.
const MAX_BODY: usize = 10 << 10;

/// Where and how to ask.
#[derive(Debug, Clone)]
pub struct Target {
    /// Host to connect to.
    pub host: String,
    /// Port.
    pub port: u16,
    /// With TLS; certificates are not checked.
    pub tls: bool,
    /// Path and query.
    pub path: String,
    /// Headers.
    pub headers: HeaderMap,
}

/// The answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// The beginning of the body.
    pub body: String,
    /// `Location`, for redirects.
    pub location: Option<String>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Not connected.
    #[error("{0}")]
    Connect(String),
    /// Too slow.
    #[error("context deadline exceeded (Client.Timeout exceeded while awaiting headers)")]
    Timeout,
}

/// The number of a port given by number or by a container port's name.
pub fn port(value: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = container
                .ports
                .iter()
                .flatten()
                .find(|p| p.name.as_deref() == Some(name))
                .map(|p| p.container_port);
            named
                .or_else(|| name.parse().ok())
                .ok_or_else(|| format!("couldn't find port: {name:?}"))?
        }
    };
    u16::try_from(number)
        .ok()
        .filter(|p| *p > 0)
        .ok_or_else(|| format!("invalid port number: {number}"))
}

impl Target {
    /// From the API's form.
    pub fn of(
        action: &HTTPGetAction,
        container: &Container,
        ip: Option<IpAddr>,
    ) -> Result<Self, String> {
        let host = match action.host.as_deref().filter(|h| !h.is_empty()) {
            Some(host) => host.to_owned(),
            None => ip.ok_or("the pod has no address")?.to_string(),
        };
        let mut headers = HeaderMap::new();
        for pair in action.http_headers.iter().flatten() {
            let name = HeaderName::from_bytes(pair.name.as_bytes()).map_err(|e| e.to_string())?;
            headers.append(
                name,
                HeaderValue::from_str(&pair.value).map_err(|e| e.to_string())?,
            );
        }
        let path = action.path.clone().unwrap_or_default();
        Ok(Self {
            host,
            port: port(&action.port, container)?,
            tls: action.scheme.as_deref() == Some("HTTPS"),
            path: if path.starts_with('/') {
                path
            } else {
                format!("/{path}")
            },
            headers,
        })
    }

    /// As text, for messages.
    pub fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!(
            "{scheme}://{}:{}{}",
            bracketed(&self.host),
            self.port,
            self.path
        )
    }

    fn request(&self) -> Result<Request<Empty<Bytes>>, HttpError> {
        let bad = |e: String| HttpError::Connect(e);
        let mut request = Request::get(&self.path)
            .body(Empty::new())
            .map_err(|e| bad(e.to_string()))?;
        let headers = request.headers_mut();
        headers.insert(
            header::USER_AGENT,
            HeaderValue::from_static("kube-probe/1.36"),
        );
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        let authority = HeaderValue::from_str(&format!("{}:{}", bracketed(&self.host), self.port));
        headers.insert(header::HOST, authority.map_err(|e| bad(e.to_string()))?);
        for (name, value) in &self.headers {
            if value.is_empty() && (name == header::ACCEPT || name == header::USER_AGENT) {
                headers.remove(name);
            } else {
                headers.insert(name.clone(), value.clone());
            }
        }
        Ok(request)
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

/// Asks once, without following redirects.
pub async fn get(target: &Target, timeout: Duration) -> Result<Answer, HttpError> {
    tokio::time::timeout(timeout, ask(target))
        .await
        .unwrap_or(Err(HttpError::Timeout))
}

async fn ask(target: &Target) -> Result<Answer, HttpError> {
    let failed = |e: String| HttpError::Connect(format!("Get {:?}: {e}", target.url()));
    let stream = TcpStream::connect((target.host.as_str(), target.port))
        .await
        .map_err(|e| {
            failed(format!(
                "dial tcp {}:{}: connect: {}",
                bracketed(&target.host),
                target.port,
                lower(&e)
            ))
        })?;
    let request = target.request()?;
    if target.tls {
        let name = ServerName::try_from(target.host.clone()).map_err(|e| failed(e.to_string()))?;
        let connector = tokio_rustls::TlsConnector::from(unverified());
        let stream = connector
            .connect(name, stream)
            .await
            .map_err(|e| failed(e.to_string()))?;
        exchange(TokioIo::new(stream), request)
            .await
            .map_err(failed)
    } else {
        exchange(TokioIo::new(stream), request)
            .await
            .map_err(failed)
    }
}

fn lower(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".into(),
        std::io::ErrorKind::HostUnreachable => "no route to host".into(),
        _ => error.to_string(),
    }
}

async fn exchange<I>(io: I, request: Request<Empty<Bytes>>) -> Result<Answer, String>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
        .await
        .map_err(|e| e.to_string())?;
    let exchange = async move {
        let response = sender
            .send_request(request)
            .await
            .map_err(|e| e.to_string())?;
        let status = response.status().as_u16();
        let location = response
            .headers()
            .get(header::LOCATION)
            .and_then(|l| l.to_str().ok())
            .map(str::to_owned);
        let mut body = response.into_body();
        let mut text = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { break };
            if let Some(data) = frame.data_ref() {
                text.extend_from_slice(&data[..data.len().min(MAX_BODY - text.len())]);
            }
            if text.len() >= MAX_BODY {
                break;
            }
        }
        Ok(Answer {
            status,
            body: String::from_utf8_lossy(&text).into_owned(),
            location,
        })
    };
    tokio::pin!(exchange);
    let connection = async {
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = &mut exchange => answer,
        () = connection => Err("connection closed".into()),
    }
}

/// TLS that trusts everybody: a probe checks life, not identity, as upstream's.
fn unverified() -> Arc<rustls::ClientConfig> {
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{CertificateDer, UnixTime};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};

    #[derive(Debug)]
    struct Anybody(rustls::crypto::WebPkiSupportedAlgorithms);

    impl ServerCertVerifier for Anybody {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0)
        }
        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0)
        }
        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.supported_schemes()
        }
    }

    static CONFIG: std::sync::LazyLock<Arc<rustls::ClientConfig>> =
        std::sync::LazyLock::new(|| {
            keelson_daemon::install_crypto();
            let algorithms =
                rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
            let config = rustls::ClientConfig::builder()
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anybody(algorithms)))
                .with_no_client_auth();
            Arc::new(config)
        });
    CONFIG.clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn asks_and_reads() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 1024];
            let n = stream.read(&mut buffer).await.unwrap();
            let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
            assert!(
                text.starts_with("GET /h?x=1 HTTP/1.1") && text.contains("kube-probe/1.36"),
                "{text}"
            );
            stream
                .write_all(b"HTTP/1.1 503 No\r\ncontent-length: 4\r\n\r\ndown")
                .await
                .unwrap();
        });
        let target = Target {
            host: "127.0.0.1".into(),
            port,
            tls: false,
            path: "/h?x=1".into(),
            headers: HeaderMap::new(),
        };
        let answer = get(&target, Duration::from_secs(5)).await.unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (503, "down"));
        let closed = Target { port: 1, ..target };
        let error = get(&closed, Duration::from_secs(5))
            .await
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "Get \"http://127.0.0.1:1/h?x=1\": dial tcp 127.0.0.1:1: connect: connection refused"
        );
    }
}
