//! The server's own lease in kube-system, by which others know that it is alive.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{bootstrap, own};
use crate::response::ApiResult;
use crate::server::Server;

const LEASES: &str = "leases.coordination.k8s.io";
const NAMESPACE: &str = "kube-system";
/// The label of such leases.
pub const LABEL: (&str, &str) = ("apiserver.kubernetes.io/identity", "kube-apiserver");
/// The annotation with the address that the server advertises.
pub const ADDRESS: &str = "kubernetes.io/peer-advertise-address";
/// How long a lease is good.
pub const DURATION: Duration = Duration::from_secs(3600);
const RENEW: Duration = Duration::from_secs(10);
/// A server whose lease is older than this is taken for gone.
pub const STALE: Duration = Duration::from_secs(60);

/// The lease's name: the host's, hashed.
pub fn name(server: &Server) -> String {
    let digest = Sha256::digest(format!("{}:{}", hostname(), server.options.secure_port));
    let hash: String = digest.iter().take(13).map(|b| format!("{b:02x}")).collect();
    format!("apiserver-{hash}")
}

/// The host's name.
pub fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|h| h.trim().to_owned())
        .unwrap_or_else(|_| "localhost".to_owned())
}

/// Renews the lease until that succeeds once.
pub async fn renew_once(server: &Arc<Server>) {
    own::retry(server, "own lease", async || renew(server).await).await;
}

/// Renews the lease for as long as the server runs.
pub async fn keep(server: Arc<Server>) {
    loop {
        tokio::select! {
            () = server.stop.cancelled() => return,
            () = tokio::time::sleep(RENEW) => {}
        }
        // The namespaces of the system come back, whoever deleted them.
        bootstrap::namespaces(&server).await;
        if let Err(e) = renew(&server).await {
            tracing::warn!(error = %e, "the own lease could not be renewed");
        }
    }
}

async fn renew(server: &Server) -> ApiResult<()> {
    let name = name(server);
    let now = Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
        .to_string();
    let holder = format!("{name}_{}", std::process::id());
    match own::get(server, LEASES, NAMESPACE, &name).await? {
        Some(mut lease) => {
            lease["spec"]["renewTime"] = now.into();
            lease["spec"]["holderIdentity"] = holder.into();
            set_annotation(&mut lease, server);
            own::update(server, LEASES, lease).await.map(|_| ())
        }
        None => {
            let mut lease = json!({
                "metadata": {"name": name, "namespace": NAMESPACE,
                    "labels": {LABEL.0: LABEL.1, "kubernetes.io/hostname": hostname()}},
                "spec": {"holderIdentity": holder, "leaseDurationSeconds": DURATION.as_secs(), "renewTime": now},
            });
            set_annotation(&mut lease, server);
            own::create(server, LEASES, lease).await.map(|_| ())
        }
    }
}

fn set_annotation(lease: &mut Value, server: &Server) {
    lease["metadata"]["annotations"][ADDRESS] =
        SocketAddr::new(server.options.advertise_address, server.options.secure_port)
            .to_string()
            .into();
}
