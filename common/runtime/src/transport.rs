//! The connections to the API server: HTTP/2, so that all watches of a daemon share one connection.
//!
//! A connection carries a bounded number of streams, and a watch holds one for minutes. So that watches never use up the streams that other requests
//! need, each further group of them gets a connection of its own.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response, Uri};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kube::client::{Body, ConfigExt};
use kube::{Client, Config};
use parking_lot::Mutex;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::{BoxError, Service, ServiceBuilder};

/// How often a silent connection is asked whether it still lives, and how long the answer may take.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Watches on one connection at most: fewer than the streams that any API server allows (upstream 250, hyper 200).
const WATCHES: usize = 100;

/// A client for the server of a configuration. A plain HTTP server gets kube's own transport.
pub(crate) fn client(config: Config) -> Result<Client, kube::Error> {
    if config.cluster_url.scheme() != Some(&http::uri::Scheme::HTTPS) || config.proxy_url.is_some()
    {
        return Client::try_from(config);
    }
    let mut tls = config.rustls_client_config()?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let connector = Connector {
        tls: Arc::new(tls),
        name: config.tls_server_name.clone(),
    };
    let lanes = Arc::new(Lanes {
        connector,
        open: Mutex::new(Vec::new()),
    });
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(tower::service_fn(move |request| {
            lanes.clone().send(request)
        }));
    Ok(Client::new(service, config.default_namespace))
}

/// Whether a request holds its stream until the server or the client has had enough.
pub(crate) fn is_watch<B>(request: &Request<B>) -> bool {
    let holds = ["watch=true", "watch=1", "follow=true"];
    request
        .uri()
        .query()
        .is_some_and(|query| query.split('&').any(|part| holds.contains(&part)))
}

struct Lane {
    client: HttpClient<Connector, Body>,
    /// A clone lives as long as each watch of the lane.
    watches: Arc<()>,
}

struct Lanes {
    connector: Connector,
    open: Mutex<Vec<Lane>>,
}

impl Lanes {
    async fn send(
        self: Arc<Self>,
        request: Request<Body>,
    ) -> Result<Response<UnsyncBoxBody<Bytes, BoxError>>, BoxError> {
        let (client, guard) = self.pick(is_watch(&request));
        let answer = client.request(request).await?;
        Ok(answer.map(|body| {
            let body = body.map_err(move |error| {
                let _held = &guard;
                BoxError::from(error)
            });
            body.boxed_unsync()
        }))
    }

    /// The first lane with room; requests other than watches all go by the first one.
    fn pick(&self, watch: bool) -> (HttpClient<Connector, Body>, Option<Arc<()>>) {
        let mut open = self.open.lock();
        let room = |lane: &Lane| !watch || Arc::strong_count(&lane.watches) <= WATCHES;
        let place = open.iter().position(room).unwrap_or_else(|| {
            open.push(self.lane());
            open.len() - 1
        });
        let lane = &open[place];
        (lane.client.clone(), watch.then(|| lane.watches.clone()))
    }

    fn lane(&self) -> Lane {
        let client = HttpClient::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .http2_keep_alive_interval(PING_EVERY)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .http2_keep_alive_while_idle(true)
            .http2_adaptive_window(true)
            .build(self.connector.clone());
        Lane {
            client,
            watches: Arc::new(()),
        }
    }
}

#[derive(Clone)]
struct Connector {
    tls: Arc<rustls::ClientConfig>,
    name: Option<String>,
}

impl Connector {
    async fn connect(self, uri: Uri) -> Result<Stream, BoxError> {
        let host = uri
            .host()
            .ok_or("the server's address has no host")?
            .trim_matches(['[', ']'])
            .to_owned();
        let port = uri.port_u16().unwrap_or(443);
        let name = ServerName::try_from(self.name.unwrap_or_else(|| host.clone()))?;
        let connected = async {
            let stream = TcpStream::connect((host.as_str(), port)).await?;
            stream.set_nodelay(true)?;
            TlsConnector::from(self.tls).connect(name, stream).await
        };
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connected)
            .await
            .map_err(|_| {
                format!(
                    "no connection to {host}:{port} within {} s",
                    CONNECT_TIMEOUT.as_secs()
                )
            })??;
        Ok(Stream(TokioIo::new(stream)))
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Stream, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        self.clone().connect(uri).boxed()
    }
}

/// A TLS connection that says which protocol was agreed on.
struct Stream(TokioIo<TlsStream<TcpStream>>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        let (_, session) = self.0.inner().get_ref();
        let connected = Connected::new();
        if session.alpn_protocol() == Some(b"h2") {
            connected.negotiated_h2()
        } else {
            connected
        }
    }
}

impl hyper::rt::Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_are_told_from_other_requests() {
        for (uri, watch) in [
            ("https://a/api/v1/pods?limit=5&watch=true", true),
            ("https://a/api/v1/pods?watch=1", true),
            ("https://a/api/v1/pods?fieldSelector=watch%3Dtrue", false),
            ("https://a/api/v1/pods", false),
        ] {
            assert_eq!(
                is_watch(&Request::builder().uri(uri).body(()).unwrap()),
                watch,
                "{uri}"
            );
        }
    }

    #[tokio::test]
    async fn many_watches_spread_over_connections() {
        keelson_daemon::install_crypto();
        let tls = rustls::ClientConfig::builder()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let lanes = Lanes {
            connector: Connector {
                tls: Arc::new(tls),
                name: None,
            },
            open: Mutex::new(Vec::new()),
        };
        let mut guards: Vec<_> = (0..WATCHES + 1).map(|_| lanes.pick(true).1).collect();
        assert_eq!(lanes.open.lock().len(), 2);
        guards.clear();
        assert!(lanes.pick(false).1.is_none());
        let _guard = lanes.pick(true);
        assert_eq!(lanes.open.lock().len(), 2);
        assert_eq!(Arc::strong_count(&lanes.open.lock()[0].watches), 2);
    }
}
