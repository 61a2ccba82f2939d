//! The secure port: accepts connections, speaks TLS and HTTP/1.1 or HTTP/2, and hands requests to the filter chain.

pub mod tls;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::filters;
use crate::request::{Peer, Request};
use crate::server::Server;

/// How long a client may take over its handshake, and over a request's headers.
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEADERS: Duration = Duration::from_secs(32);
/// Streams of one HTTP/2 connection, as upstream bounds them.
const MAX_STREAMS: u32 = 100;

/// Serves until `stop`, then lets open requests end, but no longer than `grace`.
pub async fn serve(
    server: Arc<Server>,
    listener: TcpListener,
    tls: Arc<ArcSwap<ServerConfig>>,
    stop: CancellationToken,
    grace: Duration,
) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                connections.spawn(connection(
                    server.clone(),
                    // As it is now: certificates and CAs may have changed.
                    TlsAcceptor::from(tls.load_full()),
                    stream,
                    address,
                    stop.clone(),
                ));
            }
            Err(e) => {
                // Out of file descriptors, mostly: serving goes on when some are free again.
                tracing::warn!(error = %e, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(grace, connections.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            open = connections.len(),
            "connections still open after the grace period are cut"
        );
    }
}

async fn connection(
    server: Arc<Server>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    address: SocketAddr,
    stop: CancellationToken,
) {
    if let Err(e) = stream.set_nodelay(true) {
        tracing::debug!(error = %e, "TCP_NODELAY");
    }
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(e)) => {
            tracing::debug!(%address, error = %e, "TLS handshake failed");
            return;
        }
        Err(_) => return,
    };
    let identity = server
        .authenticator
        .peer(stream.get_ref().1.peer_certificates().unwrap_or_default());
    let peer = Arc::new(Peer { address, identity });
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (server, peer) = (server.clone(), peer.clone());
        async move {
            let request = Request::new(request, peer);
            Ok::<_, Infallible>(filters::handle(&server, request).await)
        }
    });

    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(20))
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(25 * 1024 * 1024);
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(e) = ended {
        tracing::debug!(%address, error = %e, "connection ended");
    }
}
