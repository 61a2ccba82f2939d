//! One kind of object, watched by name while a pod holds it.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;

/// How long a first look-up may take.
const FIRST: Duration = Duration::from_secs(10);

/// Why an object can't be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// There is none of that name.
    #[error("{resource} {name:?} not found")]
    NotFound {
        /// `configmap` or `secret`.
        resource: String,
        /// Name.
        name: String,
    },
    /// Not known yet: the API server has not answered.
    #[error("failed to sync {resource} cache: timed out waiting for the condition")]
    NotSynced {
        /// `configmap` or `secret`.
        resource: String,
    },
    /// The kubelet runs without an API server.
    #[error("{resource} {name:?}: this kubelet has no API server")]
    Standalone {
        /// `configmap` or `secret`.
        resource: String,
        /// Name.
        name: String,
    },
}

type Value<K> = Option<Option<Arc<K>>>;

struct Entry<K> {
    holders: Arc<Mutex<BTreeSet<String>>>,
    value: watch::Receiver<Value<K>>,
    task: JoinHandle<()>,
}

impl<K> Drop for Entry<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The cache of one kind.
pub struct Held<K> {
    client: Option<Client>,
    entries: Mutex<HashMap<(String, String), Entry<K>>>,
    changed: broadcast::Sender<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K> Held<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + PartialEq
        + 'static,
{
    pub(super) fn new(client: Option<Client>, changed: broadcast::Sender<String>) -> Self {
        Self {
            client,
            entries: Mutex::new(HashMap::new()),
            changed,
        }
    }

    fn resource() -> String {
        K::kind(&()).to_lowercase()
    }

    /// The object, watched from now on until the pod is released.
    pub async fn get(
        &self,
        pod_uid: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<K>, ObjectError> {
        let missing = || ObjectError::NotFound {
            resource: Self::resource(),
            name: name.to_owned(),
        };
        let Some(client) = &self.client else {
            return Err(ObjectError::Standalone {
                resource: Self::resource(),
                name: name.to_owned(),
            });
        };
        let mut value = {
            let mut entries = lock(&self.entries);
            let entry = entries
                .entry((namespace.to_owned(), name.to_owned()))
                .or_insert_with(|| self.watch(client.clone(), namespace, name));
            lock(&entry.holders).insert(pod_uid.to_owned());
            entry.value.clone()
        };
        let known = tokio::time::timeout(FIRST, value.wait_for(Option::is_some)).await;
        match known {
            Ok(Ok(value)) => value.clone().flatten().ok_or_else(missing),
            _ => Err(ObjectError::NotSynced {
                resource: Self::resource(),
            }),
        }
    }

    fn watch(&self, client: Client, namespace: &str, name: &str) -> Entry<K> {
        let api: Api<K> = Api::namespaced(client, namespace);
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let (sender, value) = watch::channel(None);
        let holders = Arc::new(Mutex::new(BTreeSet::<String>::new()));
        let (told, changed) = (holders.clone(), self.changed.clone());
        let task = tokio::spawn(async move {
            let mut stream = watcher::watcher(api, config).default_backoff().boxed();
            let mut listed = None;
            while let Some(event) = stream.next().await {
                let new = match event {
                    Ok(Event::Init) => {
                        listed = None;
                        continue;
                    }
                    Ok(Event::InitApply(object)) => {
                        listed = Some(Arc::new(object));
                        continue;
                    }
                    Ok(Event::InitDone) => listed.take(),
                    Ok(Event::Apply(object)) => Some(Arc::new(object)),
                    Ok(Event::Delete(_)) => None,
                    Err(error) => {
                        tracing::debug!(%error, "watching a {}", K::kind(&()));
                        continue;
                    }
                };
                let version = |v: &Value<K>| {
                    v.as_ref()
                        .map(|o| o.as_ref().and_then(|o| o.resource_version()))
                };
                let new = Some(new);
                let moved = version(&sender.borrow()) != version(&new);
                sender.send_replace(new);
                if moved {
                    for uid in lock(&told).iter() {
                        // Nobody listening is fine: the next look finds the new value.
                        let _ = changed.send(uid.clone());
                    }
                }
            }
        });
        Entry {
            holders,
            value,
            task,
        }
    }

    pub(super) fn release(&self, pod_uid: &str) {
        lock(&self.entries).retain(|_, entry| {
            let mut holders = lock(&entry.holders);
            holders.remove(pod_uid);
            !holders.is_empty()
        });
    }
}
