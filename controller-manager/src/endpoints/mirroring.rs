//! EndpointSlices for Endpoints that people write by hand, for Services without a selector.

use std::net::IpAddr;
use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keelson_runtime::{Event, Informer, Key, Outcome, Queue, owners};
use kube::ResourceExt;

use super::slice_plan::{self, Group};
use super::slice_write::{self, MANAGED_BY, SERVICE_NAME, SliceError};
use super::tracker::Tracker;
use crate::context::{Context, StartError};
use crate::controllers::Task;

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const ENDPOINTS_MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
/// Addresses of a subset that are mirrored at most, as upstream's `--mirroring-max-endpoints-per-subset`.
const MOST: usize = 1000;

struct Controller {
    context: Context,
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
    slices: Informer<EndpointSlice>,
    tracker: Tracker,
    queue: Arc<Queue<Key>>,
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let controller = Arc::new(Controller {
        services: context.informers.get(),
        endpoints: context.informers.get(),
        slices: slice_write::informer(&context.informers),
        tracker: Tracker::default(),
        queue: Queue::new("endpoint_slice_mirroring"),
        context,
    });
    controller.listen();
    let workers = controller.context.options.workers.mirroring;
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
        self.endpoints.handle(move |event| {
            if let Some(endpoints) = event.object() {
                this.queue.add(Key::of(&**endpoints));
            }
        });
        let this = self.clone();
        self.services.handle(move |event| {
            if let Some(service) = event.object() {
                this.queue.add(Key::of(&**service));
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
            this.queue.add(key);
        });
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, SliceError> {
        let existing = slice_write::slices_of(&self.slices, key, MANAGER);
        let endpoints = self
            .endpoints
            .get(key)
            .filter(|endpoints| is_mirrored(endpoints));
        let wanted = self.services.get(key).filter(|service| {
            service.spec.as_ref().is_some_and(|spec| {
                spec.selector
                    .as_ref()
                    .is_none_or(|selector| selector.is_empty())
            })
        });
        let groups = match (&endpoints, wanted) {
            (Some(endpoints), Some(_)) => groups(endpoints.subsets.as_deref().unwrap_or_default()),
            _ if existing.is_empty() => {
                self.tracker.forget(key);
                return Ok(Outcome::Done);
            }
            _ => Vec::new(),
        };
        if self.tracker.is_stale(key, &existing) {
            return Err(SliceError::Stale);
        }
        let owner = endpoints
            .map(|endpoints| (*endpoints).clone())
            .unwrap_or_default();
        let make = |address_type: &str| blank(&owner, address_type);
        let changes = slice_plan::plan(&existing, groups, &[], MOST, make);
        slice_write::carry_out(&self.context.client, &self.tracker, key, changes).await?;
        Ok(Outcome::Done)
    }
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    endpoints.metadata.deletion_timestamp.is_none()
        && endpoints
            .labels()
            .get(SKIP)
            .is_none_or(|skip| skip != "true")
        && !endpoints.labels().contains_key(ENDPOINTS_MANAGED_BY)
        && !endpoints.annotations().contains_key(LEADER)
}

fn blank(endpoints: &Endpoints, address_type: &str) -> EndpointSlice {
    let mut labels = endpoints.labels().clone();
    labels.insert(SERVICE_NAME.into(), endpoints.name_any());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    let mut annotations = endpoints.annotations().clone();
    annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    annotations.remove("endpoints.kubernetes.io/last-change-trigger-time");
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", endpoints.name_any())),
            namespace: endpoints.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations).filter(|annotations| !annotations.is_empty()),
            owner_references: Some(vec![owners::controller_ref(endpoints)]),
            ..ObjectMeta::default()
        },
        address_type: address_type.to_owned(),
        endpoints: Some(Vec::new()),
        ports: None,
    }
}

fn groups(subsets: &[EndpointSubset]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for subset in subsets {
        let ports: Vec<_> = subset
            .ports
            .iter()
            .flatten()
            .map(|port| EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(port.port),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
                app_protocol: port.app_protocol.clone(),
            })
            .collect();
        let ready = subset
            .addresses
            .iter()
            .flatten()
            .map(|address| (address, true));
        let waiting = subset
            .not_ready_addresses
            .iter()
            .flatten()
            .map(|address| (address, false));
        for (address, ready) in ready.chain(waiting).take(MOST) {
            let Ok(ip) = address.ip.parse::<IpAddr>() else {
                continue;
            };
            let address_type = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            let endpoint = mirrored(address, ready);
            match groups
                .iter_mut()
                .find(|group| group.address_type == address_type && group.ports == ports)
            {
                Some(group) => group.endpoints.push(endpoint),
                None => groups.push(Group {
                    address_type: address_type.into(),
                    ports: ports.clone(),
                    endpoints: vec![endpoint],
                }),
            }
        }
    }
    groups
}

fn mirrored(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            ..EndpointConditions::default()
        }),
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subsets_become_groups_by_family_and_ports() {
        let subsets: Vec<EndpointSubset> = serde_json::from_value(serde_json::json!([
            {"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "notReadyAddresses": [{"ip": "10.0.0.2"}], "ports": [{"port": 80}]},
            {"addresses": [{"ip": "10.0.0.3"}], "ports": [{"port": 81}]},
        ]))
        .unwrap();
        let told: Vec<_> = groups(&subsets)
            .iter()
            .map(|g| (g.address_type.clone(), g.endpoints.len()))
            .collect();
        assert_eq!(
            told,
            [("IPv4".into(), 2), ("IPv6".into(), 1), ("IPv4".into(), 1)]
        );
    }
}
