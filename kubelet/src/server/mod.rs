//! The kubelet's HTTPS server on 10250, and health on 10248.

use std::sync::Arc;

use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::flags::Flags;
use crate::host::Host;
use crate::pods::manager::Manager;

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A port is taken, or not to be had.
    #[error("{0}")]
    Listen(#[from] keelson_daemon::secure_port::ListenError),
}

/// Starts health on its port.
pub async fn start(
    host: &Arc<Host>,
    _: &Arc<Manager>,
    _: &Flags,
    _: Option<Client>,
    stop: &CancellationToken,
) -> Result<(), ServerError> {
    let config = &host.config;
    if config.healthz_port != 0 {
        let address = std::net::SocketAddr::new(config.healthz_bind_address, config.healthz_port);
        let listener = keelson_daemon::secure_port::listen(address).await?;
        let port = keelson_daemon::secure_port::SecurePort {
            health: keelson_daemon::health::Health::new(),
            metrics: keelson_daemon::metrics::Metrics::new(),
            configz: None,
            delegate: None,
        };
        keelson_daemon::task::spawn_critical(
            "health",
            stop,
            port.serve(listener, None, stop.clone()),
        );
    }
    Ok(())
}
