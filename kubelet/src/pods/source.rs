//! Pods from the API server: those whose `spec.nodeName` is this node.

use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use tokio::sync::mpsc;

/// A change of a source.
#[derive(Debug, Clone)]
pub enum Change {
    /// All pods of the source: what is not among them is gone.
    All(Vec<Arc<Pod>>),
    /// A pod is new or changed.
    Set(Arc<Pod>),
    /// A pod is gone.
    Gone(Arc<Pod>),
}

/// Watches until the receiver is dropped.
pub async fn watch(client: Client, node: String, changes: mpsc::Sender<Change>) {
    let api: Api<Pod> = Api::all(client);
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let mut stream = watcher::watcher(api, config).default_backoff().boxed();
    let mut listing = Vec::new();
    while let Some(event) = stream.next().await {
        let change = match event {
            Ok(Event::Init) => {
                listing.clear();
                continue;
            }
            Ok(Event::InitApply(pod)) => {
                listing.push(Arc::new(pod));
                continue;
            }
            Ok(Event::InitDone) => Change::All(std::mem::take(&mut listing)),
            Ok(Event::Apply(pod)) => Change::Set(Arc::new(pod)),
            Ok(Event::Delete(pod)) => Change::Gone(Arc::new(pod)),
            Err(error) => {
                tracing::warn!(%error, "watching this node's pods");
                continue;
            }
        };
        if changes.send(change).await.is_err() {
            return;
        }
    }
}
