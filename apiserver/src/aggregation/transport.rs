//! Connections to an aggregated server: TLS with this server's certificate, HTTP/2 where the other side speaks it, kept open.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use keelson_daemon::tls::ReloadingKey;
use parking_lot::Mutex;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};

use super::registration::Registration;
use crate::body::Body;
use crate::proxying::dial::{self, DialError};

/// Where the system's CAs are, for servers that bring none.
const SYSTEM_CAS: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Idle HTTP/1.1 connections that are kept.
const KEPT: usize = 8;
/// How often an HTTP/2 connection is asked whether it is still alive, and how long it may take to say so.
const ALIVE_EVERY: Duration = Duration::from_secs(30);
const ALIVE_WITHIN: Duration = Duration::from_secs(15);

type Address = (String, u16);

/// How one aggregated server is spoken to.
pub struct Transport {
    server_name: ServerName<'static>,
    /// For requests.
    tls: Arc<ClientConfig>,
    /// For connections that are to be switched to another protocol.
    plain_tls: Arc<ClientConfig>,
    multiplexed: Mutex<Option<(Address, http2::SendRequest<Body>)>>,
    idle: Mutex<Vec<(Address, http1::SendRequest<Body>)>>,
}

enum Connection {
    Multiplexed(http2::SendRequest<Body>),
    Single(http1::SendRequest<Body>),
}

impl Transport {
    /// Makes ready to speak to a server as its registration says.
    pub fn new(
        registration: &Registration,
        certificate: Option<&Arc<ReloadingKey>>,
    ) -> Result<Self, String> {
        let service = registration.service.as_ref().ok_or("no service")?;
        let server_name = ServerName::try_from(service.server_name()).map_err(|e| e.to_string())?;
        let plain = client_config(registration, certificate)?;
        let mut tls = plain.clone();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Transport {
            server_name,
            tls: Arc::new(tls),
            plain_tls: Arc::new(plain),
            multiplexed: Mutex::default(),
            idle: Mutex::default(),
        })
    }

    /// Sends a request whose URI is its path and query, and waits for the answer's head.
    pub async fn send(
        self: &Arc<Self>,
        address: &Address,
        mut request: http::Request<Body>,
    ) -> Result<http::Response<Incoming>, DialError> {
        // A kept connection may have been closed meanwhile: what it didn't take goes to the next.
        while let Some(kept) = self.kept(address) {
            match self.exchange(address, kept, request).await {
                Ok(answer) => return Ok(answer),
                Err((_, Some(back))) => request = *back,
                Err((e, None)) => return Err(e),
            }
        }
        let fresh = self.connect(address).await?;
        self.exchange(address, fresh, request)
            .await
            .map_err(|(e, _)| e)
    }

    /// A connection of its own that can be switched to another protocol.
    pub async fn dedicated(
        &self,
        address: &Address,
    ) -> Result<http1::SendRequest<Body>, DialError> {
        let stream = dial::tls_stream(
            &address.0,
            address.1,
            self.server_name.clone(),
            &self.plain_tls,
        )
        .await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        dial::drive(connection.with_upgrades());
        Ok(sender)
    }

    /// Forgets the connections that are kept.
    pub fn hang_up(&self) {
        self.multiplexed.lock().take();
        self.idle.lock().clear();
    }

    fn kept(&self, address: &Address) -> Option<Connection> {
        {
            let mut multiplexed = self.multiplexed.lock();
            match &*multiplexed {
                Some((at, sender)) if at == address && !sender.is_closed() => {
                    return Some(Connection::Multiplexed(sender.clone()));
                }
                Some(_) => *multiplexed = None,
                None => {}
            }
        }
        let mut idle = self.idle.lock();
        idle.retain(|(at, sender)| at == address && !sender.is_closed());
        idle.pop().map(|(_, sender)| Connection::Single(sender))
    }

    async fn connect(&self, address: &Address) -> Result<Connection, DialError> {
        let stream =
            dial::tls_stream(&address.0, address.1, self.server_name.clone(), &self.tls).await?;
        let speaks_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let stream = TokioIo::new(stream);
        if !speaks_http2 {
            let (sender, connection) = http1::handshake(stream).await?;
            dial::drive(connection);
            return Ok(Connection::Single(sender));
        }
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(ALIVE_EVERY)
            .keep_alive_timeout(ALIVE_WITHIN)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(16 << 20)
            .handshake(stream)
            .await?;
        dial::drive(connection);
        *self.multiplexed.lock() = Some((address.clone(), sender.clone()));
        Ok(Connection::Multiplexed(sender))
    }

    /// One request by one connection; gives the request back if the connection never took it.
    async fn exchange(
        self: &Arc<Self>,
        address: &Address,
        connection: Connection,
        request: http::Request<Body>,
    ) -> Result<http::Response<Incoming>, (DialError, Option<Box<http::Request<Body>>>)> {
        match connection {
            Connection::Multiplexed(mut sender) => {
                let mut sent = request;
                if let Err(e) = absolute(&mut sent, address) {
                    return Err((e, None));
                }
                sender.try_send_request(sent).await.map_err(|mut e| {
                    let back = e.take_message().map(|mut back| {
                        relative(&mut back);
                        Box::new(back)
                    });
                    (DialError::Http(e.into_error()), back)
                })
            }
            Connection::Single(mut sender) => {
                let answer = sender.try_send_request(request).await.map_err(|mut e| {
                    let back = e.take_message().map(Box::new);
                    (DialError::Http(e.into_error()), back)
                })?;
                let (transport, address) = (self.clone(), address.clone());
                tokio::spawn(async move {
                    // Free again when the answer has been read.
                    if sender.ready().await.is_ok() {
                        let mut idle = transport.idle.lock();
                        if idle.len() < KEPT {
                            idle.push((address, sender));
                        }
                    }
                });
                Ok(answer)
            }
        }
    }
}

/// HTTP/2 says scheme and authority apart from the path.
fn absolute(request: &mut http::Request<Body>, address: &Address) -> Result<(), DialError> {
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |p| p.as_str())
        .to_owned();
    let authority = crate::proxying::target::authority(&address.0, address.1);
    let uri = http::Uri::builder()
        .scheme("https")
        .authority(authority.as_str())
        .path_and_query(path)
        .build()
        .map_err(|_| DialError::ServerName(authority))?;
    *request.uri_mut() = uri;
    *request.version_mut() = http::Version::HTTP_2;
    Ok(())
}

fn relative(request: &mut http::Request<Body>) {
    if let Some(path) = request.uri().path_and_query().cloned() {
        *request.uri_mut() = http::Uri::from(path);
    }
    *request.version_mut() = http::Version::HTTP_11;
}

fn client_config(
    registration: &Registration,
    certificate: Option<&Arc<ReloadingKey>>,
) -> Result<ClientConfig, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let builder = if registration.insecure {
        builder
            .dangerous()
            .with_custom_certificate_verifier(dial::unchecked(provider))
    } else {
        builder.with_root_certificates(roots(&registration.ca_bundle)?)
    };
    Ok(match certificate {
        Some(key) => builder.with_client_cert_resolver(key.clone()),
        None => builder.with_no_client_auth(),
    })
}

fn roots(ca_bundle: &[u8]) -> Result<RootCertStore, String> {
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
    if roots.is_empty() {
        return Err("unable to load root certificates: caBundle holds none".to_owned());
    }
    Ok(roots)
}
