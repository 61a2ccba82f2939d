//! All Services of the cluster, for the environment variables that name them.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Client, ResourceExt};
use tokio::sync::watch;

type Map = HashMap<(String, String), Arc<Service>>;

/// The cache; it fills while [`Services::run`] runs.
pub struct Services {
    client: Option<Client>,
    services: Arc<RwLock<Map>>,
    synced: watch::Sender<bool>,
}

impl Services {
    pub(super) fn new(client: Option<Client>) -> Self {
        let synced = client.is_none();
        Self {
            client,
            services: Arc::default(),
            synced: watch::Sender::new(synced),
        }
    }

    /// Watches until dropped.
    pub async fn run(&self) {
        let Some(client) = &self.client else { return };
        let api: Api<Service> = Api::all(client.clone());
        let mut stream = watcher::watcher(api, watcher::Config::default())
            .default_backoff()
            .boxed();
        let mut listing = Map::new();
        let key = |s: &Service| (s.namespace().unwrap_or_default(), s.name_any());
        while let Some(event) = stream.next().await {
            let write = || {
                self.services
                    .write()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
            };
            match event {
                Ok(Event::Init) => listing.clear(),
                Ok(Event::InitApply(service)) => {
                    listing.insert(key(&service), Arc::new(service));
                }
                Ok(Event::InitDone) => {
                    *write() = std::mem::take(&mut listing);
                    self.synced.send_replace(true);
                }
                Ok(Event::Apply(service)) => {
                    write().insert(key(&service), Arc::new(service));
                }
                Ok(Event::Delete(service)) => {
                    write().remove(&key(&service));
                }
                Err(error) => tracing::debug!(%error, "watching services"),
            }
        }
    }

    /// Services of a namespace in the order of their names, once they are known; `None` if that takes too long.
    pub async fn of(&self, namespace: &str) -> Option<Vec<Arc<Service>>> {
        let mut synced = self.synced.subscribe();
        tokio::time::timeout(Duration::from_secs(10), synced.wait_for(|s| *s))
            .await
            .ok()?
            .ok()?;
        let services = self
            .services
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut list: Vec<_> = services
            .iter()
            .filter(|((ns, _), _)| ns == namespace)
            .map(|(_, s)| s.clone())
            .collect();
        list.sort_by_key(|s| s.name_any());
        Some(list)
    }
}
