//! The HTTPS (or plain loopback) port of a daemon that is no API server: health, metrics, `/configz`.
//!
//! Health paths answer everyone. All else needs a caller whom [`Delegate`] lets in: who it is (client certificate or
//! bearer token) and whether it may, as upstream asks the API server by TokenReview and SubjectAccessReview.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::health::Health;
use crate::metrics::Metrics;

/// Who calls, before anybody has been asked about it.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// Subject of a verified client certificate: common name and organizations.
    pub certificate: Option<(String, Vec<String>)>,
    /// Bearer token, not verified.
    pub token: Option<String>,
}

/// What a delegated decision says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Let in.
    Allowed,
    /// Known, without the right: 403.
    Forbidden,
    /// Not known: 401.
    Unauthenticated,
}

/// Asks the API server who a caller is and what it may do.
#[async_trait]
pub trait Delegate: Send + Sync + 'static {
    /// May this caller do `verb` (lower case HTTP method) on a non-resource path?
    async fn allow(&self, caller: &Caller, verb: &str, path: &str) -> Access;
}

/// Lets in only administrators' certificates; for daemons that have no API server to ask.
#[derive(Debug, Clone, Copy)]
pub struct AdministratorsOnly;

#[async_trait]
impl Delegate for AdministratorsOnly {
    async fn allow(&self, caller: &Caller, _verb: &str, _path: &str) -> Access {
        match &caller.certificate {
            Some((_, groups))
                if groups
                    .iter()
                    .any(|g| g == "system:masters" || g == "kubeadm:cluster-admins") =>
            {
                Access::Allowed
            }
            Some(_) => Access::Forbidden,
            None => Access::Unauthenticated,
        }
    }
}

/// What the port serves.
#[derive(Clone)]
pub struct SecurePort {
    /// `/healthz`, `/livez`, `/readyz`.
    pub health: Health,
    /// `/metrics`.
    pub metrics: Metrics,
    /// `/configz`: the configuration in force, as JSON.
    pub configz: Option<Arc<serde_json::Value>>,
    /// Who may see metrics and configz; `None` (loopback ports without TLS) lets everybody.
    pub delegate: Option<Arc<dyn Delegate>>,
}

impl std::fmt::Debug for SecurePort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecurePort").finish_non_exhaustive()
    }
}

/// What can go wrong when the port is opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {address}: {source}; free the port or choose another with --secure-port (see: ss -ltnp)"
)]
pub struct ListenError {
    address: SocketAddr,
    source: std::io::Error,
}

/// Opens a listening socket.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ListenError { address, source })
}

impl SecurePort {
    /// Serves until `stop`; with `tls` over TLS.
    pub async fn serve(
        self,
        listener: TcpListener,
        tls: Option<Arc<rustls::ServerConfig>>,
        stop: CancellationToken,
    ) {
        let acceptor = tls.map(tokio_rustls::TlsAcceptor::from);
        loop {
            let stream = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        // Out of file descriptors or a connection reset before it was accepted: neither may end the daemon.
                        tracing::warn!(%error, "accept failed");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let (port, acceptor, stop) = (self.clone(), acceptor.clone(), stop.clone());
            tokio::spawn(async move {
                let Some(acceptor) = acceptor else {
                    return port.connection(TokioIo::new(stream), None, stop).await;
                };
                let Ok(Ok(stream)) =
                    tokio::time::timeout(Duration::from_secs(10), acceptor.accept(stream)).await
                else {
                    return;
                };
                let subject = stream
                    .get_ref()
                    .1
                    .peer_certificates()
                    .and_then(|chain| subject(chain.first()?));
                port.connection(TokioIo::new(stream), subject, stop).await;
            });
        }
    }

    async fn connection<I>(
        self,
        io: TokioIo<I>,
        certificate: Option<(String, Vec<String>)>,
        stop: CancellationToken,
    ) where
        I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(move |request: Request<Incoming>| {
            let (port, certificate) = (self.clone(), certificate.clone());
            async move { Ok::<_, std::convert::Infallible>(port.answer(&request, certificate).await) }
        });
        let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(30));
        tokio::select! {
            result = builder.serve_connection(io, service) => {
                if let Err(error) = result {
                    tracing::debug!(%error, "connection ended");
                }
            }
            () = stop.cancelled() => {}
        }
    }

    async fn answer(
        &self,
        request: &Request<Incoming>,
        certificate: Option<(String, Vec<String>)>,
    ) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed\n");
        }
        if let Some((status, body)) = self.health.answer(path, request.uri().query()) {
            return text(status, body);
        }
        if let Some(delegate) = &self.delegate {
            let caller = Caller {
                certificate,
                token: bearer(request.headers()),
            };
            match delegate.allow(&caller, "get", path).await {
                Access::Allowed => {}
                Access::Forbidden => return text(StatusCode::FORBIDDEN, "Forbidden\n"),
                Access::Unauthenticated => return text(StatusCode::UNAUTHORIZED, "Unauthorized\n"),
            }
        }
        match (path, &self.configz) {
            ("/metrics", _) => {
                let mut response = text(StatusCode::OK, self.metrics.encode());
                response.headers_mut().insert(
                    header::CONTENT_TYPE,
                    header::HeaderValue::from_static(
                        "application/openmetrics-text; version=1.0.0; charset=utf-8",
                    ),
                );
                response
            }
            ("/configz", Some(configuration)) => {
                let mut response = text(StatusCode::OK, configuration.to_string());
                response.headers_mut().insert(
                    header::CONTENT_TYPE,
                    header::HeaderValue::from_static("application/json"),
                );
                response
            }
            _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }
}

/// Common name and organizations of a certificate.
pub fn subject(
    certificate: &rustls::pki_types::CertificateDer<'_>,
) -> Option<(String, Vec<String>)> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = parsed
        .subject()
        .iter_common_name()
        .next()?
        .as_str()
        .ok()?
        .to_owned();
    let groups = parsed
        .subject()
        .iter_organization()
        .filter_map(|o| o.as_str().ok())
        .map(str::to_owned)
        .collect();
    Some((name, groups))
}

/// The bearer token of a request, if it has one.
pub fn bearer(headers: &http::HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty())
        .then(|| token.trim().to_owned())
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response.headers_mut().insert(
        header::X_CONTENT_TYPE_OPTIONS,
        header::HeaderValue::from_static("nosniff"),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address)
            .await
            .expect("connect");
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("write");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("read");
        answer
    }

    #[tokio::test]
    async fn health_is_open_and_metrics_are_not() {
        let listener = listen(([127, 0, 0, 1], 0).into()).await.expect("listen");
        let address = listener.local_addr().expect("address");
        let port = SecurePort {
            health: Health::new(),
            metrics: Metrics::new(),
            configz: None,
            delegate: Some(Arc::new(AdministratorsOnly)),
        };
        let stop = CancellationToken::new();
        let server = tokio::spawn(port.serve(listener, None, stop.clone()));
        assert!(get(address, "/healthz").await.ends_with("\r\n\r\nok"));
        assert!(get(address, "/metrics").await.starts_with("HTTP/1.1 401"));
        stop.cancel();
        server.await.expect("server ends");
    }
}
