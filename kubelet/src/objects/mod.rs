//! ConfigMaps, Secrets and Services that pods of this node refer to, kept current by watches.
//!
//! ConfigMaps and Secrets are watched one by one, by name, for as long as a pod holds them: the Node authorizer
//! allows nothing broader. What is made of their contents is in [`crate::volumes`] and [`crate::pods`].

mod held;
mod services;

pub use held::{Held, ObjectError};
pub use services::Services;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Client;
use tokio::sync::broadcast;

/// The caches.
pub struct Objects {
    /// ConfigMaps that pods refer to.
    pub config_maps: Held<ConfigMap>,
    /// Secrets that pods refer to.
    pub secrets: Held<Secret>,
    /// All Services.
    pub services: Services,
    changed: broadcast::Sender<String>,
}

impl Objects {
    /// Empty caches; without a client nothing is ever found.
    pub fn new(client: Option<Client>) -> Self {
        let (changed, _) = broadcast::channel(1024);
        Self {
            config_maps: Held::new(client.clone(), changed.clone()),
            secrets: Held::new(client.clone(), changed.clone()),
            services: Services::new(client),
            changed,
        }
    }

    /// Uids of pods that hold an object which changed.
    pub fn changed(&self) -> broadcast::Receiver<String> {
        self.changed.subscribe()
    }

    /// A pod is gone.
    pub fn release(&self, pod_uid: &str) {
        self.config_maps.release(pod_uid);
        self.secrets.release(pod_uid);
    }
}
