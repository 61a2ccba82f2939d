//! Watching the metadata of every kind that can be deleted, also those that come later.
//!
//! Kinds that a controller watches anyway are taken from there; of all others only metadata is asked for. The garbage collector and the
//! quota controller share these watches.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{
    ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet,
};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{
    Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod,
    ReplicationController, ResourceQuota, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keelson_runtime::informer::{Object, Options};
use keelson_runtime::{Event, Informer, Informers};
use kube::api::DynamicObject;
use kube::core::ApiResource;
use kube::core::metadata::PartialObjectMeta;
use kube::{Api, Client};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
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

/// Is told what each watch shows.
pub type Sink = Box<dyn Fn(&Arc<ApiResource>, Seen<'_>) + Send + Sync>;

/// One kind's watch: what it holds, and until when.
struct Monitor {
    /// How many objects a namespace has.
    count: Box<dyn Fn(&str) -> usize + Send + Sync>,
    /// `None` if a controller's informer is looked at, which outlives this.
    own: Option<Informer<PartialObjectMeta<DynamicObject>>>,
}

/// The watches, and the kinds they are of.
pub struct Monitors {
    client: Client,
    informers: Arc<Informers>,
    sinks: Arc<RwLock<Vec<Sink>>>,
    kinds: Mutex<Vec<Resource>>,
    running: Mutex<HashMap<ApiResource, Monitor>>,
    stale: Arc<Notify>,
    ready: watch::Sender<bool>,
    changed: watch::Sender<()>,
}

/// How long changes of the set of kinds are gathered.
const SETTLE: Duration = Duration::from_secs(1);
/// How long the first list of a kind may take before nobody waits for it any more.
const FIRST_LIST: Duration = Duration::from_secs(30);

/// Groups whose objects bring and take kinds.
const KIND_GROUPS: [&str; 2] = ["apiextensions.k8s.io", "apiregistration.k8s.io"];

impl Monitors {
    /// Nothing is watched before [`Monitors::run`].
    pub fn new(client: Client, informers: Arc<Informers>) -> Self {
        Self {
            client,
            informers,
            sinks: Arc::default(),
            kinds: Mutex::new(Vec::new()),
            running: Mutex::new(HashMap::new()),
            stale: Arc::new(Notify::new()),
            ready: watch::Sender::new(false),
            changed: watch::Sender::new(()),
        }
    }

    /// The informers that controllers share.
    pub fn informers(&self) -> &Arc<Informers> {
        &self.informers
    }

    /// Tells `sink` all that is seen. Controllers say so when they start, before anything is watched.
    pub fn listen(&self, sink: Sink) {
        self.sinks.write().push(sink);
    }

    /// Whether any controller listens.
    pub fn is_wanted(&self) -> bool {
        !self.sinks.read().is_empty()
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

    /// The watched resources that have a namespace: group and plural.
    pub fn namespaced(&self) -> Vec<(String, String)> {
        let running = self.running.lock();
        self.kinds
            .lock()
            .iter()
            .filter(|resource| resource.namespaced && running.contains_key(&resource.api))
            .map(|resource| (resource.api.group.clone(), resource.api.plural.clone()))
            .collect()
    }

    /// How many objects of a resource a namespace has; `None` if it isn't watched.
    pub fn count(&self, group: &str, plural: &str, namespace: &str) -> Option<usize> {
        let running = self.running.lock();
        let (_, monitor) = running
            .iter()
            .find(|(api, _)| api.group == group && api.plural == plural)?;
        Some((monitor.count)(namespace))
    }

    /// Asks for a refresh soon.
    pub fn doubt(&self) {
        self.stale.notify_one();
    }

    /// Wakes when kinds have come or gone.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Waits until the kinds known at the start are in the stores.
    pub async fn ready(&self) {
        let mut ready = self.ready.subscribe();
        // An error means the sender is gone, but we hold it.
        let _ = ready.wait_for(|ready| *ready).await;
    }

    /// Watches, and refreshes whenever kinds come or go, until the manager stops.
    pub async fn run(&self, stop: CancellationToken) {
        let forever = async {
            while let Err(error) = self.refresh().await {
                debug!(%error, "cannot discover kinds; trying again");
                tokio::time::sleep(SETTLE).await;
            }
            self.synced().await;
            self.ready.send_replace(true);
            loop {
                self.stale.notified().await;
                tokio::time::sleep(SETTLE).await;
                while let Err(error) = self.refresh().await {
                    warn!(%error, "cannot discover kinds; trying again");
                    tokio::time::sleep(SETTLE * 5).await;
                }
            }
        };
        stop.run_until_cancelled(forever).await;
    }

    /// Brings the watches in line with what the API server serves.
    async fn refresh(&self) -> Result<(), kube::Error> {
        let found = discovery::discover(&self.client).await?;
        let wanted: Vec<Resource> = found
            .resources
            .iter()
            .filter(|resource| is_collected(resource))
            .cloned()
            .collect();
        let mut gone = Vec::new();
        let changed = {
            let mut running = self.running.lock();
            let before = running.len();
            let failing = found.failing;
            // A group whose server doesn't answer keeps its watches: its objects are not gone.
            let stopped: Vec<ApiResource> = running
                .keys()
                .filter(|api| {
                    !wanted.iter().any(|resource| resource.api == **api)
                        && !failing.contains(&api.api_version)
                })
                .cloned()
                .collect();
            for api in stopped {
                if let Some(informer) = running.remove(&api).and_then(|monitor| monitor.own) {
                    debug!(resource = %api.plural, group = %api.group, "kind is gone");
                    gone.push((Arc::new(api), informer.list()));
                }
            }
            *self.kinds.lock() = found.resources;
            for resource in wanted {
                running
                    .entry(resource.api.clone())
                    .or_insert_with(|| self.start(&resource));
            }
            !gone.is_empty() || running.len() != before
        };
        for (api, objects) in gone {
            for object in objects {
                tell(&self.sinks, &api, || Seen::Gone(&object.metadata));
            }
        }
        if changed {
            self.changed.send_replace(());
        }
        Ok(())
    }

    async fn synced(&self) {
        let own: Vec<_> = self
            .running
            .lock()
            .values()
            .filter_map(|monitor| monitor.own.clone())
            .collect();
        for informer in own {
            // One kind whose server doesn't answer must not hold up all others.
            let _ = tokio::time::timeout(FIRST_LIST, informer.synced()).await;
        }
        self.informers.synced().await;
    }

    fn start(&self, resource: &Resource) -> Monitor {
        let api = Arc::new(resource.api.clone());
        match (api.group.as_str(), api.plural.as_str()) {
            ("", "pods") => self.share(&api, &Pods::of(&self.informers) as &Informer<Pod>),
            ("", "namespaces") => self.share_cluster(&api, &self.informers.get::<Namespace>()),
            ("", "nodes") => self.share_cluster(&api, &self.informers.get::<Node>()),
            ("", "persistentvolumes") => {
                self.share_cluster(&api, &self.informers.get::<PersistentVolume>())
            }
            ("", "persistentvolumeclaims") => self.known::<PersistentVolumeClaim>(&api),
            ("", "services") => self.known::<Service>(&api),
            ("", "endpoints") => self.known::<Endpoints>(&api),
            ("", "serviceaccounts") => self.known::<ServiceAccount>(&api),
            ("", "replicationcontrollers") => self.known::<ReplicationController>(&api),
            ("", "resourcequotas") => self.known::<ResourceQuota>(&api),
            ("apps", "deployments") => self.known::<Deployment>(&api),
            ("apps", "replicasets") => self.known::<ReplicaSet>(&api),
            ("apps", "statefulsets") => self.known::<StatefulSet>(&api),
            ("apps", "daemonsets") => self.known::<DaemonSet>(&api),
            ("apps", "controllerrevisions") => self.known::<ControllerRevision>(&api),
            ("autoscaling", "horizontalpodautoscalers") => {
                self.known::<HorizontalPodAutoscaler>(&api)
            }
            ("batch", "jobs") => self.known::<Job>(&api),
            ("batch", "cronjobs") => self.known::<CronJob>(&api),
            ("policy", "poddisruptionbudgets") => self.known::<PodDisruptionBudget>(&api),
            ("discovery.k8s.io", "endpointslices") => self.known::<EndpointSlice>(&api),
            _ => {
                let target =
                    Api::<PartialObjectMeta<DynamicObject>>::all_with(self.client.clone(), &api);
                let options =
                    Options::default().project(|object: &mut PartialObjectMeta<DynamicObject>| {
                        object.metadata.annotations = None;
                        object.metadata.labels = None;
                    });
                let informer = Informer::start(target, options);
                Monitor {
                    own: Some(informer.clone()),
                    ..self.share(&api, &informer)
                }
            }
        }
    }

    fn known<K>(&self, api: &Arc<ApiResource>) -> Monitor
    where
        K: Object + kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        self.share(api, &self.informers.get::<K>())
    }

    fn share<K: Object>(&self, api: &Arc<ApiResource>, informer: &Informer<K>) -> Monitor {
        self.follow(api, informer);
        let informer = informer.clone();
        Monitor {
            count: Box::new(move |namespace| informer.count_namespace(namespace)),
            own: None,
        }
    }

    fn share_cluster<K: Object>(&self, api: &Arc<ApiResource>, informer: &Informer<K>) -> Monitor {
        self.follow(api, informer);
        Monitor {
            count: Box::new(|_| 0),
            own: None,
        }
    }

    fn follow<K: Object>(&self, api: &Arc<ApiResource>, informer: &Informer<K>) {
        let (api, sinks, stale) = (api.clone(), self.sinks.clone(), self.stale.clone());
        informer.handle(move |event| {
            match event {
                Event::Added(object) | Event::Updated { new: object, .. } => {
                    tell(&sinks, &api, || Seen::There(object.meta()));
                }
                Event::Deleted(object) => tell(&sinks, &api, || Seen::Gone(object.meta())),
                Event::Resync => {}
            }
            if KIND_GROUPS.contains(&api.group.as_str()) {
                stale.notify_one();
            }
        });
    }
}

fn tell<'a>(sinks: &RwLock<Vec<Sink>>, api: &Arc<ApiResource>, seen: impl Fn() -> Seen<'a>) {
    for sink in sinks.read().iter() {
        sink(api, seen());
    }
}

/// Events expire by themselves and own nothing; what can't be listed, watched and deleted can't be collected.
fn is_collected(resource: &Resource) -> bool {
    resource.api.plural != "events" && resource.supports(&["delete", "list", "watch"])
}
