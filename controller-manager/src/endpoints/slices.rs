//! The EndpointSlices of Services with a selector.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keelson_runtime::recorder::{Kind, reference};
use keelson_runtime::{Event, Informer, Key, Outcome, Queue, owners};
use kube::{Error, ResourceExt};

use super::index::Backends;
use super::service;
use super::slice_plan;
use super::slice_write::{self, MANAGED_BY, SERVICE_NAME, SliceError};
use super::tracker::Tracker;
use crate::context::{Context, StartError};
use crate::controllers::Task;
use crate::pod_control::words;
use crate::pod_index::Pods;

const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";

struct Controller {
    context: Context,
    backends: Backends,
    nodes: Informer<Node>,
    slices: Informer<EndpointSlice>,
    tracker: Tracker,
    queue: Arc<Queue<Key>>,
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let slices = slice_write::informer(&context.informers);
    let controller = Arc::new(Controller {
        backends: Backends::new(context.informers.get(), Pods::of(&context.informers)),
        nodes: context.informers.get(),
        slices,
        tracker: Tracker::default(),
        queue: Queue::with_backoff(
            "endpoint_slice",
            std::time::Duration::from_millis(20),
            std::time::Duration::from_secs(100),
        ),
        context,
    });
    controller.listen();
    let workers = controller.context.options.workers.endpoint_slice;
    let (context, queue) = (controller.context.clone(), controller.queue.clone());
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    };
    Ok(context.run(queue, workers, reconcile).boxed())
}

impl Controller {
    fn listen(self: &Arc<Self>) {
        let this = self.clone();
        self.backends.services.handle(move |event| {
            if let Some(service) = event.object() {
                this.queue.add(Key::of(&**service));
            }
        });
        let this = self.clone();
        self.backends.pods.handle(move |event| {
            let keys = match event {
                Event::Added(pod) | Event::Deleted(pod) => this.backends.touched(&[pod]),
                Event::Updated { old, new } if Backends::matters(old, new) => {
                    this.backends.touched(&[old, new])
                }
                _ => Vec::new(),
            };
            for key in keys {
                this.queue
                    .add_after(key, this.context.options.endpointslice_updates_batch_period);
            }
        });
        let this = self.clone();
        self.nodes.handle(move |event| {
            let zone = |node: &Node| node.labels().get(service::ZONE).cloned();
            let node = match event {
                Event::Updated { old, new } if zone(old) != zone(new) => new,
                Event::Added(node) if zone(node).is_some() => node,
                _ => return,
            };
            let pods = this.backends.pods.on_node(&node.name_any());
            let pods: Vec<_> = pods.iter().map(|pod| &**pod).collect();
            for key in this.backends.touched(&pods) {
                this.queue.add(key);
            }
        });
        let this = self.clone();
        self.slices.handle(move |event| {
            let Some(slice) = event
                .object()
                .filter(|slice| slice_write::is_managed_by(slice, MANAGER))
            else {
                return;
            };
            let Some(key) = slice_write::service_key(slice) else {
                return;
            };
            if matches!(event, Event::Deleted(_)) {
                this.tracker.gone(&key, slice);
            }
            // Somebody else's hand, or our own write coming back: either way the plan says whether there is anything to do.
            this.queue.add(key);
        });
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, SliceError> {
        let Some(service) = self.backends.services.get(key) else {
            // The garbage collector takes the slices.
            self.tracker.forget(key);
            return Ok(Outcome::Done);
        };
        if service::selector(&service).is_none() || service.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::Done);
        }
        let existing = slice_write::slices_of(&self.slices, key, MANAGER);
        if self.tracker.is_stale(key, &existing) {
            return Err(SliceError::Stale);
        }
        let pods = self.backends.pods_of(&service);
        let groups = service::groups(&service, pods.iter().map(|pod| &**pod), |name| {
            self.nodes.find("", name)
        });
        let most = self.context.options.max_endpoints_per_slice.max(1);
        let make = |address_type: &str| blank(&service, address_type);
        let changes = slice_plan::plan(
            &existing,
            groups,
            &service::address_types(&service),
            most,
            make,
        );
        let result =
            slice_write::carry_out(&self.context.client, &self.tracker, key, changes).await;
        if let Err(error) = &result {
            self.report(&service, error);
        }
        result.map(|()| Outcome::Done).map_err(SliceError::from)
    }

    fn report(&self, service: &Service, error: &Error) {
        if keelson_runtime::write::is_namespace_terminating(error) {
            return;
        }
        let message = format!(
            "Error updating Endpoint Slices for Service {}/{}: {}",
            service.metadata.namespace.as_deref().unwrap_or_default(),
            service.name_any(),
            words(error)
        );
        self.context.recorder.event(
            &reference(service),
            Kind::Warning,
            "FailedToUpdateEndpointSlices",
            message,
        );
    }
}

/// An empty slice of the Service.
fn blank(service: &Service, address_type: &str) -> EndpointSlice {
    let mut labels: BTreeMap<String, String> = service.labels().clone();
    labels.remove(HEADLESS);
    if service::is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(SERVICE_NAME.into(), service.name_any());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", service.name_any())),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![owners::controller_ref(service)]),
            ..ObjectMeta::default()
        },
        address_type: address_type.to_owned(),
        endpoints: Some(Vec::new()),
        ports: None,
    }
}
