//! The pod range: from the node object or the configuration to the container runtime, and what it means for readiness.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Node;
use tokio::sync::watch;

/// What takes the pod range: the container runtime.
#[async_trait]
pub trait PodNetwork: Send + Sync + 'static {
    /// Pods get their addresses from these ranges from now on.
    async fn assign(&self, ranges: &[String]) -> Result<(), String>;
}

/// Ranges of a node object.
pub fn ranges(node: &Node) -> Vec<String> {
    let spec = node.spec.as_ref();
    match spec
        .and_then(|s| s.pod_cidrs.clone())
        .filter(|r| !r.is_empty())
    {
        Some(ranges) => ranges,
        None => spec
            .and_then(|s| s.pod_cidr.clone())
            .filter(|r| !r.is_empty())
            .into_iter()
            .collect(),
    }
}

fn not_ready(why: &str) -> Vec<String> {
    vec![format!(
        "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: {why}"
    )]
}

/// What the rest of the kubelet sees of the network.
pub struct Readiness {
    /// Pods can be given addresses.
    pub ready: watch::Sender<bool>,
    /// Why not, for the node's Ready condition.
    pub reasons: watch::Sender<Vec<String>>,
}

impl Readiness {
    /// Not ready yet.
    pub fn new() -> Self {
        Self {
            ready: watch::Sender::new(false),
            reasons: watch::Sender::new(not_ready("pod range not assigned yet")),
        }
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

/// Hands ranges on until dropped.
pub async fn run(
    network: Arc<dyn PodNetwork>,
    configured: String,
    mut node: watch::Receiver<Option<Arc<Node>>>,
    readiness: Arc<Readiness>,
) {
    let mut assigned = Vec::new();
    loop {
        let mut wanted = node
            .borrow_and_update()
            .as_deref()
            .map(ranges)
            .unwrap_or_default();
        if wanted.is_empty() && !configured.is_empty() {
            wanted = configured.split(',').map(str::to_owned).collect();
        }
        let mut failed = false;
        if !wanted.is_empty() && wanted != assigned {
            match network.assign(&wanted).await {
                Ok(()) => {
                    tracing::info!(ranges = wanted.join(","), "pod range assigned");
                    assigned = wanted;
                    readiness.reasons.send_replace(Vec::new());
                    readiness.ready.send_replace(true);
                }
                Err(error) => {
                    tracing::warn!(%error, "assigning the pod range");
                    readiness.reasons.send_replace(not_ready(&error));
                    failed = true;
                }
            }
        }
        tokio::select! {
            changed = node.changed() => if changed.is_err() {
                // No API server: the configured range is all there is.
                std::future::pending::<()>().await;
            },
            () = tokio::time::sleep(std::time::Duration::from_secs(5)), if failed => {}
        }
    }
}
