//! The kubelet's HTTPS server on 10250, and health on 10248.
//!
//! [`auth`] says who may, [`route`] what is asked for; each thing answered has a file of its own: [`logs`], [`streams`],
//! [`stats`], [`metrics`], [`files`].

mod answer;
mod auth;
mod files;
mod logs;
mod metrics;
mod route;
mod stats;
mod streams;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use keelson_daemon::health::Health;
use keelson_daemon::metrics::Metrics;
use keelson_daemon::secure_port::{self, SecurePort};
use keelson_daemon::task::spawn_critical;
use kube::Client;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::flags::Flags;
use crate::host::Host;
use crate::pods::manager::Manager;

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A port is taken, or not to be had.
    #[error("{0}")]
    Listen(#[from] secure_port::ListenError),
    /// The serving certificate.
    #[error("serving certificate: {0}")]
    Tls(#[from] keelson_daemon::tls::TlsError),
    /// Making one.
    #[error("serving certificate: {0}")]
    Pki(#[from] keelson_pki::PkiError),
}

/// What every request is answered from.
pub(crate) struct Server {
    host: Arc<Host>,
    pods: Arc<Manager>,
    auth: auth::Auth,
    health: Health,
    metrics: Metrics,
    samples: stats::Samples,
}

/// Opens the ports and serves until `stop`.
pub async fn start(
    host: &Arc<Host>,
    pods: &Arc<Manager>,
    flags: &Flags,
    client: Option<Client>,
    stop: &CancellationToken,
) -> Result<(), ServerError> {
    let config = &host.config;
    let health = Health::new();
    health.add("log", || Ok(()));
    health.add("syncloop", || Ok(()));
    let metrics = Metrics::new();
    metrics.with(keelson_runtime::metrics::register);
    if config.healthz_port != 0 {
        let address = SocketAddr::new(config.healthz_bind_address, config.healthz_port);
        let listener = secure_port::listen(address).await?;
        let port = SecurePort {
            health: health.clone(),
            metrics: Metrics::default(),
            configz: None,
            delegate: None,
        };
        // Only health is public there: metrics of the kubelet itself are on the secure port.
        let port = SecurePort {
            delegate: Some(Arc::new(secure_port::AdministratorsOnly)),
            ..port
        };
        spawn_critical("health", stop, port.serve(listener, None, stop.clone()));
    }
    if !config.enable_server {
        return Ok(());
    }
    let server = Arc::new(Server {
        host: host.clone(),
        pods: pods.clone(),
        auth: auth::Auth::new(client, &host.node_name, config),
        health,
        metrics,
        samples: stats::Samples::default(),
    });
    let key = tls::serving_key(config, &flags.cert_dir, &host.node_name, &host.node_ips)?;
    let authorities = match config.authentication.x509.client_ca_file.as_str() {
        "" => None,
        path => Some(keelson_daemon::tls::roots(path.as_ref())?),
    };
    let mut tls = keelson_daemon::tls::server_config(key, authorities)?;
    // Exec, attach and port-forward switch protocols, which only HTTP/1.1 can.
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let listener = secure_port::listen(SocketAddr::new(config.address, config.port)).await?;
    tracing::info!(address = %config.address, port = config.port, "serving");
    spawn_critical(
        "server",
        stop,
        serve(server, listener, Arc::new(tls), stop.clone()),
    );
    Ok(())
}

/// Most connections at once.
const MAX_CONNECTIONS: usize = 2048;

async fn serve(
    server: Arc<Server>,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    stop: CancellationToken,
) {
    let acceptor = tokio_rustls::TlsAcceptor::from(tls);
    let slots = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let (server, acceptor, stop) = (server.clone(), acceptor.clone(), stop.clone());
        tokio::spawn(async move {
            let _slot = slot;
            // Small writes of a terminal should not wait for each other.
            let _ = stream.set_nodelay(true);
            let Ok(Ok(stream)) =
                tokio::time::timeout(Duration::from_secs(10), acceptor.accept(stream)).await
            else {
                return;
            };
            let certificate = stream
                .get_ref()
                .1
                .peer_certificates()
                .and_then(|chain| secure_port::subject(chain.first()?));
            let service = service_fn(move |request: hyper::Request<Incoming>| {
                let (server, certificate) = (server.clone(), certificate.clone());
                async move {
                    Ok::<_, std::convert::Infallible>(
                        route::answer(&server, request, certificate).await,
                    )
                }
            });
            let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            builder
                .http1()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(30));
            tokio::select! {
                result = builder.serve_connection_with_upgrades(TokioIo::new(stream), service) => if let Err(error) = result {
                    tracing::debug!(%error, "connection ended");
                },
                () = stop.cancelled() => {}
            }
        });
    }
}
