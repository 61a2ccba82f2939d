//! Mirror pods: what the API server shows of static pods. Deleting one changes nothing; it is made again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use kube::{Client, Error, ResourceExt};
use tokio::sync::{Notify, watch};

use super::static_pods::annotation;

type FullName = (String, String);

/// Whether an object of the API is a mirror.
pub fn is_mirror(pod: &Pod) -> bool {
    pod.annotations().contains_key(annotation::MIRROR)
}

/// Static pods and their mirrors by namespace and name.
#[derive(Default)]
struct State {
    wanted: HashMap<FullName, Arc<Pod>>,
    found: HashMap<FullName, Arc<Pod>>,
    synced: bool,
}

/// Keeps mirrors as static pods are.
pub struct Mirrors {
    client: Option<Client>,
    node: watch::Receiver<Option<Arc<Node>>>,
    state: Mutex<State>,
    wake: Notify,
}

fn name(pod: &Pod) -> FullName {
    (pod.namespace().unwrap_or_default(), pod.name_any())
}

fn hash(pod: &Pod, key: &str) -> Option<String> {
    pod.annotations().get(key).cloned()
}

impl Mirrors {
    /// None yet.
    pub fn new(client: Option<Client>, node: watch::Receiver<Option<Arc<Node>>>) -> Arc<Self> {
        Arc::new(Self {
            client,
            node,
            state: Mutex::default(),
            wake: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A static pod is there, or not any more.
    pub fn want(&self, pod: &Arc<Pod>, there: bool) {
        let mut state = self.lock();
        if there {
            state.wanted.insert(name(pod), pod.clone());
        } else if state
            .wanted
            .get(&name(pod))
            .is_some_and(|p| p.uid() == pod.uid())
        {
            state.wanted.remove(&name(pod));
        }
        drop(state);
        self.wake.notify_one();
    }

    /// The API server has this mirror, or no longer. Returns the uid of the static pod it shows.
    pub fn found(&self, mirror: &Arc<Pod>, there: bool) -> Option<String> {
        let mut state = self.lock();
        if there {
            state.found.insert(name(mirror), mirror.clone());
        } else {
            state.found.remove(&name(mirror));
        }
        drop(state);
        self.wake.notify_one();
        hash(mirror, annotation::MIRROR)
    }

    /// The API server's pods are all known now; `mirrors` are the mirrors among them.
    pub fn replace(&self, mirrors: &[Arc<Pod>]) {
        let mut state = self.lock();
        state.found = mirrors.iter().map(|m| (name(m), m.clone())).collect();
        state.synced = true;
        drop(state);
        self.wake.notify_one();
    }

    /// The static pod behind a mirror's uid.
    pub fn static_uid(&self, mirror_uid: &str) -> Option<String> {
        let state = self.lock();
        let mirror = state
            .found
            .values()
            .find(|m| m.metadata.uid.as_deref() == Some(mirror_uid))?;
        hash(mirror, annotation::MIRROR)
    }

    fn mirror(&self, pod: &Pod) -> Option<Pod> {
        let node = self.node.borrow().clone()?;
        let mut mirror = pod.clone();
        let meta = &mut mirror.metadata;
        meta.uid = None;
        let uid = hash(pod, annotation::HASH)?;
        meta.annotations
            .get_or_insert_default()
            .insert(annotation::MIRROR.into(), uid);
        meta.owner_references = Some(vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: node.name_any(),
            uid: node.uid()?,
            controller: Some(true),
            block_owner_deletion: None,
        }]);
        // A static pod has no service account: it is not the API server's to give it one.
        if let Some(spec) = &mut mirror.spec {
            spec.automount_service_account_token = None;
        }
        Some(mirror)
    }

    /// Creates and deletes mirrors until dropped.
    pub async fn run(self: Arc<Self>) {
        let Some(client) = self.client.clone() else {
            return std::future::pending().await;
        };
        let mut node = self.node.clone();
        loop {
            let failed = self.sync(&client).await;
            tokio::select! {
                () = self.wake.notified() => {}
                Ok(()) = node.changed() => {}
                () = tokio::time::sleep(Duration::from_secs(2)), if failed => {}
            }
            node.borrow_and_update();
        }
    }

    async fn sync(&self, client: &Client) -> bool {
        let (delete, create) = {
            let state = self.lock();
            if !state.synced {
                return false;
            }
            let outdated = |m: &&Arc<Pod>| {
                state
                    .wanted
                    .get(&name(m))
                    .is_none_or(|p| hash(p, annotation::HASH) != hash(m, annotation::MIRROR))
            };
            let delete: Vec<Arc<Pod>> = state.found.values().filter(outdated).cloned().collect();
            let create: Vec<Arc<Pod>> = state
                .wanted
                .iter()
                .filter(|(n, _)| !state.found.contains_key(*n))
                .map(|(_, p)| p.clone())
                .collect();
            (delete, create)
        };
        let mut failed = false;
        for mirror in delete {
            let api: Api<Pod> =
                Api::namespaced(client.clone(), &mirror.namespace().unwrap_or_default());
            let params = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: mirror.uid().map(|uid| Preconditions {
                    uid: Some(uid),
                    resource_version: None,
                }),
                ..DeleteParams::default()
            };
            match api.delete(&mirror.name_any(), &params).await {
                Ok(_) => {}
                Err(Error::Api(status)) if status.code == 404 || status.code == 409 => {}
                Err(error) => {
                    tracing::warn!(%error, pod = %mirror.name_any(), "deleting a mirror pod");
                    failed = true;
                }
            }
        }
        for pod in create {
            let Some(mirror) = self.mirror(&pod) else {
                continue;
            };
            let api: Api<Pod> =
                Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
            match api.create(&PostParams::default(), &mirror).await {
                Ok(_) => {}
                Err(Error::Api(status)) if status.code == 409 => {}
                Err(error) => {
                    tracing::warn!(%error, pod = %pod.name_any(), "creating a mirror pod");
                    failed = true;
                }
            }
        }
        failed
    }
}
