//! The Endpoints object of Services with a selector, which some clients still read.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keelson_runtime::recorder::{Kind, reference};
use keelson_runtime::{Event, Informer, Key, Outcome, Queue, write};
use kube::api::PostParams;
use kube::{Api, Error, ResourceExt};

use super::index::Backends;
use super::service;
use crate::context::{Context, StartError};
use crate::controllers::Task;
use crate::pod;
use crate::pod_control::words;
use crate::pod_index::Pods;

const HEADLESS: &str = "service.kubernetes.io/headless";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// More addresses than this are left out.
const MOST: usize = 1000;

struct Controller {
    context: Context,
    backends: Backends,
    endpoints: Informer<Endpoints>,
    queue: Arc<Queue<Key>>,
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let controller = Arc::new(Controller {
        backends: Backends::new(context.informers.get(), Pods::of(&context.informers)),
        endpoints: context.informers.get(),
        queue: Queue::new("endpoint"),
        context,
    });
    controller.listen();
    let workers = controller.context.options.workers.endpoint;
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
                this.queue.add(key);
            }
        });
        let this = self.clone();
        self.endpoints.handle(move |event| {
            if let Event::Deleted(endpoints) = event {
                this.queue.add(Key::of(&**endpoints));
            }
        });
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let api = Api::<Endpoints>::namespaced(self.context.client.clone(), &key.namespace);
        let current = self.endpoints.get(key);
        let Some(service) = self.backends.services.get(key) else {
            // Endpoints that were written by hand, without a Service, are not ours to delete.
            if current.is_some_and(|endpoints| endpoints.labels().contains_key(MANAGED_BY)) {
                write::optional(
                    api.delete(&key.name, &write::delete_params(None, None))
                        .await,
                )?;
            }
            return Ok(Outcome::Done);
        };
        if service::selector(&service).is_none() {
            return Ok(Outcome::Done);
        }
        let pods = self.backends.pods_of(&service);
        let wanted = endpoints(&service, &pods, current.as_deref());
        let result = match &current {
            Some(current) if same(current, &wanted) => return Ok(Outcome::Done),
            Some(_) => {
                api.replace(&key.name, &PostParams::default(), &wanted)
                    .await
            }
            None => api.create(&PostParams::default(), &wanted).await,
        };
        match result {
            Ok(_) => Ok(Outcome::Done),
            Err(error) if write::is_namespace_terminating(&error) => Ok(Outcome::Done),
            Err(error) => {
                let (reason, verb) = match &current {
                    Some(_) => ("FailedToUpdateEndpoint", "update"),
                    None => ("FailedToCreateEndpoint", "create"),
                };
                let message = format!("Failed to {verb} endpoint {key}: {}", words(&error));
                self.context
                    .recorder
                    .event(&reference(&wanted), Kind::Warning, reason, message);
                Err(error)
            }
        }
    }
}

fn same(a: &Endpoints, b: &Endpoints) -> bool {
    a.subsets.as_deref().unwrap_or_default() == b.subsets.as_deref().unwrap_or_default()
        && a.metadata.labels == b.metadata.labels
        && a.metadata.annotations.clone().unwrap_or_default()
            == b.metadata.annotations.clone().unwrap_or_default()
}

/// The Endpoints that a Service should have.
fn endpoints(service: &Service, pods: &[Arc<Pod>], current: Option<&Endpoints>) -> Endpoints {
    let mut meta = current
        .map(|current| current.metadata.clone())
        .unwrap_or_else(|| ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        });
    let mut labels = service.labels().clone();
    if service::is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    } else {
        labels.remove(HEADLESS);
    }
    labels.insert(MANAGED_BY.into(), "endpoint-controller".into());
    meta.labels = Some(labels);
    let (subsets, truncated) = subsets(service, pods);
    let annotations = meta.annotations.get_or_insert_default();
    if truncated {
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    if annotations.is_empty() {
        meta.annotations = None;
    }
    Endpoints {
        metadata: meta,
        subsets: Some(subsets).filter(|subsets| !subsets.is_empty()),
    }
}

type PortKey = (String, i32, String, Option<String>);

/// The subsets, in which ports that the same addresses have stand together.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let publish = service
        .spec
        .as_ref()
        .and_then(|spec| spec.publish_not_ready_addresses)
        == Some(true);
    let address_type = service::address_types(service)
        .into_iter()
        .next()
        .unwrap_or_default();
    // For each port, who has it; `None` stands for a headless Service without ports.
    let mut by_port: BTreeMap<Option<PortKey>, Vec<(String, bool, usize)>> = BTreeMap::new();
    let mut order: Vec<usize> = (0..pods.len()).collect();
    // Should some have to be left out, those that are ready stay.
    order.sort_by_key(|index| !pod::is_ready(&pods[*index]));
    let mut taken = 0;
    for index in order {
        let pod = &pods[index];
        let Some(ip) =
            service::address(pod, &address_type).filter(|_| service::is_endpoint(pod, publish))
        else {
            continue;
        };
        let ports = service::ports(service, pod);
        let portless = service
            .spec
            .as_ref()
            .is_none_or(|spec| spec.ports.as_ref().is_none_or(Vec::is_empty));
        if ports.is_empty() && !(portless && service::is_headless(service)) {
            continue;
        }
        taken += 1;
        if taken > MOST {
            continue;
        }
        let entry = (ip.to_owned(), publish || pod::is_ready(pod), index);
        if portless {
            by_port.entry(None).or_default().push(entry.clone());
        }
        for port in ports {
            let key = (
                port.name.unwrap_or_default(),
                port.port.unwrap_or(0),
                port.protocol.unwrap_or_default(),
                port.app_protocol,
            );
            by_port.entry(Some(key)).or_default().push(entry.clone());
        }
    }
    let mut by_addresses: BTreeMap<Vec<(String, bool, usize)>, Vec<EndpointPort>> = BTreeMap::new();
    for (port, mut addresses) in by_port {
        addresses.sort();
        let ports = by_addresses.entry(addresses).or_default();
        if let Some((name, port, protocol, app_protocol)) = port {
            let name = Some(name).filter(|name| !name.is_empty());
            ports.push(EndpointPort {
                name,
                port,
                protocol: Some(protocol),
                app_protocol,
            });
        }
    }
    let subsets = by_addresses.into_iter().map(|(addresses, ports)| {
        let (ready, waiting): (Vec<_>, Vec<_>) =
            addresses.into_iter().partition(|(_, ready, _)| *ready);
        let list = |entries: Vec<(String, bool, usize)>| {
            let list: Vec<_> = entries
                .into_iter()
                .map(|(ip, _, index)| address(service, &pods[index], ip))
                .collect();
            Some(list).filter(|list| !list.is_empty())
        };
        EndpointSubset {
            addresses: list(ready),
            not_ready_addresses: list(waiting),
            ports: Some(ports).filter(|ports| !ports.is_empty()),
        }
    });
    (subsets.collect(), taken > MOST)
}

fn address(service: &Service, pod: &Pod, ip: String) -> EndpointAddress {
    EndpointAddress {
        ip,
        hostname: service::hostname(service, pod),
        node_name: Some(pod::node(pod).to_owned()).filter(|node| !node.is_empty()),
        target_ref: Some(service::target(pod)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::service::tests::{backend, service};
    use super::*;
    use serde_json::json;

    fn told(subsets: &[EndpointSubset]) -> Vec<String> {
        let ips = |list: &Option<Vec<EndpointAddress>>| {
            list.iter()
                .flatten()
                .map(|a| a.ip.clone())
                .collect::<Vec<_>>()
                .join(",")
        };
        subsets
            .iter()
            .map(|s| {
                let ports: Vec<_> = s
                    .ports
                    .iter()
                    .flatten()
                    .map(|p| p.port.to_string())
                    .collect();
                format!(
                    "{} !{} :{}",
                    ips(&s.addresses),
                    ips(&s.not_ready_addresses),
                    ports.join(",")
                )
            })
            .collect()
    }

    #[test]
    fn ports_of_the_same_addresses_stand_together() {
        let service = service(json!({"spec": {"ports": [
            {"name": "a", "port": 80, "targetPort": 8080}, {"name": "b", "port": 81, "targetPort": "http"}]}}));
        let pods = [
            Arc::new(backend("x", "10.0.0.2", true, json!({}))),
            Arc::new(backend("y", "10.0.0.1", false, json!({}))),
            Arc::new(backend(
                "z",
                "10.0.0.3",
                true,
                json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
            )),
        ];
        let (subsets, truncated) = subsets(&service, &pods);
        assert_eq!(told(&subsets), ["10.0.0.2 !10.0.0.1 :8080,8080"]);
        assert!(!truncated);
    }

    #[test]
    fn a_headless_service_needs_no_ports() {
        let headless = service(json!({"spec": {"clusterIP": "None", "ports": null}}));
        let pods = [Arc::new(backend("x", "10.0.0.2", true, json!({})))];
        assert_eq!(told(&subsets(&headless, &pods).0), ["10.0.0.2 ! :"]);
        let wanted = endpoints(&headless, &pods, None);
        assert!(wanted.labels().contains_key(HEADLESS));
        assert!(same(&wanted, &endpoints(&headless, &pods, Some(&wanted))));
    }
}
