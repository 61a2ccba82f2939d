//! From pods to the Services that select them and back, without walking through either.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use keelson_runtime::{Informer, Key};
use kube::ResourceExt;

use super::service;
use crate::pod_index::Pods;

const BY_PAIR: &str = "selector-pair";

/// The Services and pods of the cluster, indexed for each other.
#[derive(Clone)]
pub struct Backends {
    /// The Services.
    pub services: Informer<Service>,
    /// The pods.
    pub pods: Pods,
}

impl Backends {
    /// Adds the indexes.
    pub fn new(services: Informer<Service>, pods: Pods) -> Self {
        // One pair of the selector is enough to find a Service by a pod's labels.
        services.index_by(BY_PAIR, |candidate| {
            let namespace = candidate.metadata.namespace.as_deref().unwrap_or_default();
            let pair = service::selector(candidate).and_then(BTreeMap::first_key_value);
            pair.map(|(key, value)| pair_key(namespace, key, value))
                .into_iter()
                .collect()
        });
        pods.index_by(BY_PAIR, |pod| {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            pod.labels()
                .iter()
                .map(|(key, value)| pair_key(namespace, key, value))
                .collect()
        });
        Self { services, pods }
    }

    /// The Services that select a pod with these labels.
    pub fn services_of(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Vec<Arc<Service>> {
        labels
            .iter()
            .flat_map(|(key, value)| {
                self.services
                    .by_index(BY_PAIR, &pair_key(namespace, key, value))
            })
            .filter(|candidate| service::selects(candidate, labels))
            .collect()
    }

    /// The pods that a Service selects, by name.
    pub fn pods_of(&self, service: &Service) -> Vec<Arc<Pod>> {
        let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
        let Some((key, value)) = service::selector(service).and_then(BTreeMap::first_key_value)
        else {
            return Vec::new();
        };
        let mut pods = self
            .pods
            .by_index(BY_PAIR, &pair_key(namespace, key, value));
        pods.retain(|pod| service::selects(service, pod.labels()));
        pods
    }

    /// Whether anything that endpoints show of a pod changed.
    pub fn matters(old: &Pod, new: &Pod) -> bool {
        let facts = |pod: &Pod| {
            let status = pod.status.as_ref();
            let spec = pod.spec.as_ref();
            (
                status.and_then(|status| status.pod_ips.clone()),
                status.and_then(|status| status.pod_ip.clone()),
                crate::pod::is_ready(pod),
                crate::pod::is_terminal(pod),
                crate::pod::is_deleting(pod),
                spec.and_then(|spec| spec.node_name.clone()),
                spec.and_then(|spec| spec.hostname.clone()),
                pod.metadata.labels.clone(),
            )
        };
        facts(old) != facts(new)
    }

    /// The keys of the Services that select the pod, before or after a change.
    pub fn touched(&self, pods: &[&Pod]) -> Vec<Key> {
        let mut keys: Vec<_> = pods
            .iter()
            .flat_map(|pod| {
                self.services_of(
                    pod.metadata.namespace.as_deref().unwrap_or_default(),
                    pod.labels(),
                )
            })
            .map(|service| Key::of(&*service))
            .collect();
        keys.sort();
        keys.dedup();
        keys
    }
}

fn pair_key(namespace: &str, key: &str, value: &str) -> String {
    format!("{namespace} {key}={value}")
}
