//! Posts to webhooks over TLS, with kept connections.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Caller, Target};

/// Longer answers are refused.
const LONGEST_ANSWER: usize = 16 << 20;
/// Idle connections that are kept for one webhook, and webhooks that some are kept for.
const KEPT_EACH: usize = 4;
const KEPT_TARGETS: usize = 128;
/// Where the system's CAs are, for webhooks that bring none.
const SYSTEM_CAS: &str = "/etc/ssl/certs/ca-certificates.crt";

type Connection = SendRequest<Full<Bytes>>;
/// Host, port, server name, CAs.
type Key = (String, u16, String, Vec<u8>);

/// The HTTPS client of the webhooks.
#[derive(Default)]
pub struct Https {
    idle: Mutex<HashMap<Key, Vec<Connection>>>,
}

/// The client that both plugins share, so that a webhook that serves both is kept one connection to.
pub fn shared() -> Arc<Https> {
    static CLIENT: LazyLock<Arc<Https>> = LazyLock::new(Arc::default);
    CLIENT.clone()
}

#[async_trait]
impl Caller for Https {
    async fn post(&self, target: &Target, body: Vec<u8>) -> Result<Vec<u8>, String> {
        let key = (
            target.host.clone(),
            target.port,
            target.server_name.clone(),
            target.ca_bundle.clone(),
        );
        let body = Bytes::from(body);
        // A kept connection may have been closed meanwhile; a review may be asked twice, so the next one is tried.
        while let Some(mut connection) = self.take(&key) {
            if connection.ready().await.is_ok()
                && let Ok(answer) = exchange(&mut connection, target, body.clone()).await
            {
                self.keep(key, connection);
                return answer;
            }
        }
        let mut connection = connect(target).await?;
        let answer = exchange(&mut connection, target, body).await?;
        self.keep(key, connection);
        answer
    }
}

impl Https {
    fn take(&self, key: &Key) -> Option<Connection> {
        self.idle.lock().get_mut(key)?.pop()
    }

    fn keep(&self, key: Key, connection: Connection) {
        if connection.is_closed() {
            return;
        }
        let mut idle = self.idle.lock();
        idle.retain(|_, connections| {
            connections.retain(|c| !c.is_closed());
            !connections.is_empty()
        });
        if idle.len() >= KEPT_TARGETS && !idle.contains_key(&key) {
            return;
        }
        let kept = idle.entry(key).or_default();
        if kept.len() < KEPT_EACH {
            kept.push(connection);
        }
    }
}

/// One request. The outer error is the connection's: another one may do better. The inner one is the webhook's.
async fn exchange(
    connection: &mut Connection,
    target: &Target,
    body: Bytes,
) -> Result<Result<Vec<u8>, String>, String> {
    let request = Request::post(&target.path)
        .header(
            header::HOST,
            format!("{}:{}", target.server_name, target.port),
        )
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, "kube-apiserver-admission")
        .body(Full::new(body))
        .map_err(|e| e.to_string())?;
    let response = connection
        .send_request(request)
        .await
        .map_err(|e| e.to_string())?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LONGEST_ANSWER)
        .collect()
        .await
        .map_err(|e| e.to_string())?
        .to_bytes();
    if status != StatusCode::OK {
        let text: String = String::from_utf8_lossy(&body).chars().take(256).collect();
        return Ok(Err(format!(
            "an error on the server ({:?}) has prevented the request from succeeding (status {})",
            text.trim(),
            status.as_u16()
        )));
    }
    Ok(Ok(body.to_vec()))
}

async fn connect(target: &Target) -> Result<Connection, String> {
    let stream = TcpStream::connect((target.host.as_str(), target.port))
        .await
        .map_err(|e| {
            // As clients that look for the words know them.
            let why = match e.kind() {
                ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
                _ => e.to_string(),
            };
            format!("dial tcp {}:{}: {why}", target.host, target.port)
        })?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    let name = match target.server_name.parse::<IpAddr>() {
        Ok(ip) => ServerName::IpAddress(ip.into()),
        Err(_) => ServerName::try_from(target.server_name.clone()).map_err(|e| e.to_string())?,
    };
    let connector = TlsConnector::from(Arc::new(tls(&target.ca_bundle)?));
    let stream = connector
        .connect(name, stream)
        .await
        .map_err(|e| format!("tls: {e}"))?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    // Ends with the connection: when the sender is dropped, or the webhook hangs up.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to a webhook ended");
        }
    });
    Ok(sender)
}

fn tls(ca_bundle: &[u8]) -> Result<ClientConfig, String> {
    let system;
    let pem = if ca_bundle.is_empty() {
        system = std::fs::read(SYSTEM_CAS)
            .map_err(|e| format!("no caBundle, and the system's CAs cannot be read: {e}"))?;
        system.as_slice()
    } else {
        ca_bundle
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|e| format!("caBundle: {e:?}"))?;
        roots
            .add(certificate)
            .map_err(|e| format!("caBundle: {e}"))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;
    use hyper::service::service_fn;
    use rustls::ServerConfig;
    use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// A webhook on loopback that echoes; its port and CA, and how many connections it took.
    async fn echo() -> (u16, Vec<u8>, Arc<Mutex<usize>>) {
        let signed = rcgen::generate_simple_self_signed(vec!["hook.ns.svc".to_owned()]).unwrap();
        let key =
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signed.signing_key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(
            rustls::crypto::aws_lc_rs::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![signed.cert.der().clone()], key)
        .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (acceptor, count) = (TlsAcceptor::from(Arc::new(config)), Arc::new(Mutex::new(0)));
        let counted = count.clone();
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                let Ok(stream) = acceptor.accept(stream).await else {
                    continue;
                };
                *counted.lock() += 1;
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(
                    TokioIo::new(stream),
                    service_fn(|request: Request<hyper::body::Incoming>| async move {
                        let fails = request.uri().path() == "/fail";
                        let body = request.into_body().collect().await?.to_bytes();
                        let mut response = http::Response::new(Full::new(body));
                        if fails {
                            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                        }
                        Ok::<_, hyper::Error>(response)
                    }),
                ));
            }
        });
        (port, signed.cert.pem().into_bytes(), count)
    }

    fn target(port: u16, path: &str, ca_bundle: Vec<u8>) -> Target {
        Target {
            host: "127.0.0.1".into(),
            port,
            server_name: "hook.ns.svc".into(),
            path: path.into(),
            ca_bundle,
        }
    }

    #[tokio::test]
    async fn connections_are_kept_and_certificates_checked() {
        let (port, ca, connections) = echo().await;
        let client = Https::default();
        for _ in 0..3 {
            assert_eq!(
                client
                    .post(&target(port, "/", ca.clone()), b"hello".to_vec())
                    .await
                    .unwrap(),
                b"hello"
            );
        }
        assert_eq!(*connections.lock(), 1);
        let failed = client
            .post(&target(port, "/fail", ca.clone()), b"oh".to_vec())
            .await
            .unwrap_err();
        assert!(failed.contains("status 500"), "{failed}");
        let (_, other, _) = echo().await;
        assert!(
            client
                .post(&target(port, "/", other), vec![])
                .await
                .unwrap_err()
                .starts_with("tls: ")
        );
        let mut wrong = target(port, "/", ca);
        wrong.server_name = "other.ns.svc".into();
        assert!(
            client
                .post(&wrong, vec![])
                .await
                .unwrap_err()
                .starts_with("tls: ")
        );
    }
}
