//! Watching the metadata of every kind that can be deleted, also those that come later.
//!
//! Kinds that another controller watches anyway are taken from there; of all others only metadata is asked for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Endpoints, Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keelson_runtime::informer::{Object, Options};
use keelson_runtime::{Event, Informer, Informers};
use kube::api::DynamicObject;
use kube::core::ApiResource;
use kube::core::metadata::PartialObjectMeta;
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::{debug, warn};

use crate::discovery::{self, Resource};
use crate::pod_index::Pods;

/// What a kind's watch showed.
pub enum Seen<'a> {
    /// An object is there, as it is now.
    There(&'a ObjectMeta),
    /// An object is gone.
    Gone(&'a ObjectMeta),
}

type Sink = Arc<dyn Fn(&Arc<ApiResource>, Seen<'_>) + Send + Sync>;

enum Monitor {
    /// Another controller's informer, which outlives this.
    Shared,
    Own(Informer<PartialObjectMeta<DynamicObject>>),
}

/// The watches, and the kinds they are of.
pub struct Monitors {
    client: Client,
    informers: Arc<Informers>,
    sink: Sink,
    kinds: Mutex<Vec<Resource>>,
    running: Mutex<HashMap<ApiResource, Monitor>>,
    stale: Arc<Notify>,
}

/// How long changes of the set of kinds are gathered.
const SETTLE: Duration = Duration::from_secs(1);

/// Groups whose objects bring and take kinds.
const KIND_GROUPS: [&str; 2] = ["apiextensions.k8s.io", "apiregistration.k8s.io"];

impl Monitors {
    /// Nothing is watched before the first [`Monitors::refresh`].
    pub fn new(client: Client, informers: Arc<Informers>, sink: Sink) -> Self {
        Self {
            client,
            informers,
            sink,
            kinds: Mutex::new(Vec::new()),
            running: Mutex::new(HashMap::new()),
            stale: Arc::new(Notify::new()),
        }
    }

    /// The resource of a kind, in its preferred version.
    pub fn resource(&self, group: &str, kind: &str) -> Option<Resource> {
        let kinds = self.kinds.lock();
        kinds
            .iter()
            .find(|resource| resource.api.group == group && resource.api.kind == kind)
            .cloned()
    }

    /// Whether a resource has a namespace.
    pub fn is_namespaced(&self, api: &ApiResource) -> bool {
        self.kinds
            .lock()
            .iter()
            .any(|resource| resource.api == *api && resource.namespaced)
    }

    /// Asks for a refresh soon.
    pub fn doubt(&self) {
        self.stale.notify_one();
    }

    /// Refreshes whenever kinds come or go; never returns.
    pub async fn follow(&self) {
        loop {
            self.stale.notified().await;
            tokio::time::sleep(SETTLE).await;
            while let Err(error) = self.refresh().await {
                warn!(%error, "cannot discover kinds; trying again");
                tokio::time::sleep(SETTLE * 5).await;
            }
        }
    }

    /// Brings the watches in line with what the API server serves.
    pub async fn refresh(&self) -> Result<(), kube::Error> {
        let found = discovery::discover(&self.client).await?;
        let wanted: Vec<Resource> = found
            .resources
            .iter()
            .filter(|resource| is_collected(resource))
            .cloned()
            .collect();
        let mut running = self.running.lock();
        let failing = found.failing;
        let stopped: Vec<ApiResource> = running
            .keys()
            // A server that doesn't answer at the moment keeps its kinds.
            .filter(|api| {
                !wanted.iter().any(|resource| resource.api == **api)
                    && !failing.contains(&api.api_version)
            })
            .cloned()
            .collect();
        for api in stopped {
            if let Some(Monitor::Own(informer)) = running.remove(&api) {
                debug!(resource = %api.plural, group = %api.group, "kind is gone");
                let api = Arc::new(api);
                for object in informer.list() {
                    (self.sink)(&api, Seen::Gone(&object.metadata));
                }
            }
        }
        *self.kinds.lock() = found.resources;
        for resource in wanted {
            running
                .entry(resource.api.clone())
                .or_insert_with(|| self.start(&resource));
        }
        Ok(())
    }

    /// Waits until every watch has its first list.
    pub async fn synced(&self) {
        let own: Vec<_> = self
            .running
            .lock()
            .values()
            .filter_map(|monitor| match monitor {
                Monitor::Own(informer) => Some(informer.clone()),
                Monitor::Shared => None,
            })
            .collect();
        for informer in own {
            // A kind whose server is away must not hold up all the others for ever.
            let _ = tokio::time::timeout(Duration::from_secs(30), informer.synced()).await;
        }
        self.informers.synced().await;
    }

    fn start(&self, resource: &Resource) -> Monitor {
        let api = Arc::new(resource.api.clone());
        match (api.group.as_str(), api.plural.as_str()) {
            ("", "pods") => self.share(&api, &Pods::of(&self.informers) as &Informer<Pod>),
            ("", "namespaces") => self.share(&api, &self.informers.get::<Namespace>()),
            ("", "nodes") => self.share(&api, &self.informers.get::<Node>()),
            ("", "services") => self.share(&api, &self.informers.get::<Service>()),
            ("", "endpoints") => self.share(&api, &self.informers.get::<Endpoints>()),
            ("", "serviceaccounts") => self.share(&api, &self.informers.get::<ServiceAccount>()),
            ("apps", "deployments") => self.share(&api, &self.informers.get::<Deployment>()),
            ("apps", "replicasets") => self.share(&api, &self.informers.get::<ReplicaSet>()),
            ("discovery.k8s.io", "endpointslices") => {
                self.share(&api, &self.informers.get::<EndpointSlice>())
            }
            _ => {
                let target =
                    Api::<PartialObjectMeta<DynamicObject>>::all_with(self.client.clone(), &api);
                let options =
                    Options::default().project(|object: &mut PartialObjectMeta<DynamicObject>| {
                        object.metadata.annotations = None;
                        object.metadata.labels = None;
                    });
                let informer = Informer::start(target, options);
                self.listen(&api, &informer);
                Monitor::Own(informer)
            }
        }
    }

    fn share<K: Object>(&self, api: &Arc<ApiResource>, informer: &Informer<K>) -> Monitor {
        self.listen(api, informer);
        Monitor::Shared
    }

    fn listen<K: Object>(&self, api: &Arc<ApiResource>, informer: &Informer<K>) {
        let (api, sink, stale) = (api.clone(), self.sink.clone(), self.stale.clone());
        informer.handle(move |event| {
            match event {
                Event::Added(object) | Event::Updated { new: object, .. } => {
                    sink(&api, Seen::There(object.meta()))
                }
                Event::Deleted(object) => sink(&api, Seen::Gone(object.meta())),
                Event::Resync => {}
            }
            if KIND_GROUPS.contains(&api.group.as_str()) {
                stale.notify_one();
            }
        });
    }
}

/// Events expire by themselves and own nothing; what can't be listed, watched and deleted can't be collected.
fn is_collected(resource: &Resource) -> bool {
    resource.api.plural != "events" && resource.supports(&["delete", "list", "watch"])
}
