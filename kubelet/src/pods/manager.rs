//! One worker for each pod: makes them as pods appear, hands them changes, forgets them when they are done.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use keelson_runtime::recorder::Kind;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use super::memory::Verdict;
use super::mirror::{self, Mirrors};
use super::source::Change;
use super::worker::{self, Desired, Handle};
use super::{admission, containers, sysctls};
use crate::host::Host;
use crate::runtime::RuntimeEvent;

/// The manager.
pub struct Manager {
    host: Arc<Host>,
    mirrors: Arc<Mirrors>,
    workers: RwLock<HashMap<String, Arc<Handle>>>,
    ended: mpsc::UnboundedSender<String>,
    /// Static pods that wait for a predecessor of the same name to be gone.
    waiting: std::sync::Mutex<Vec<Arc<Pod>>>,
}

fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

/// Where changes come from.
pub struct Sources {
    /// The API server's, if there is one.
    pub api: Option<mpsc::Receiver<Change>>,
    /// The directory's, if there is one.
    pub files: Option<mpsc::Receiver<Change>>,
}

async fn next(source: &mut Option<mpsc::Receiver<Change>>) -> Option<Change> {
    match source {
        Some(source) => source.recv().await,
        None => std::future::pending().await,
    }
}

impl Manager {
    /// Makes the manager, and what [`Manager::run`] needs of it.
    pub fn new(
        host: Arc<Host>,
        mirrors: Arc<Mirrors>,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<String>) {
        // Unbounded, but holds at most one message a worker.
        let (ended, receiver) = mpsc::unbounded_channel();
        let manager = Self {
            host,
            mirrors,
            workers: RwLock::default(),
            ended,
            waiting: std::sync::Mutex::default(),
        };
        (Arc::new(manager), receiver)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<String, Arc<Handle>>> {
        self.workers
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn handles(&self) -> Vec<Arc<Handle>> {
        self.read().values().cloned().collect()
    }

    /// The pods of this node, with their present status.
    pub fn pods(&self) -> Vec<Pod> {
        let mut pods: Vec<Pod> = self
            .handles()
            .iter()
            .map(|handle| {
                let mut pod = (*handle.desired.borrow().pod).clone();
                pod.status = self.host.statuses.get(&handle.pod_ref.uid).or(pod.status);
                pod
            })
            .collect();
        pods.sort_by(|a, b| {
            (&a.metadata.namespace, &a.metadata.name)
                .cmp(&(&b.metadata.namespace, &b.metadata.name))
        });
        pods
    }

    /// A pod by namespace and name, and by uid if one is given (a mirror's uid stands for its static pod).
    pub fn find(&self, namespace: &str, name: &str, uid: Option<&str>) -> Option<Arc<Pod>> {
        let real = uid.map(|uid| {
            self.mirrors
                .static_uid(uid)
                .unwrap_or_else(|| uid.to_owned())
        });
        let handles = self.handles();
        let mut found = handles
            .iter()
            .filter(|h| h.pod_ref.namespace == namespace && h.pod_ref.name == name);
        let handle = match &real {
            Some(uid) => found.find(|h| h.pod_ref.uid == *uid),
            // The newest of that name: an older one may still be ending.
            None => found.max_by_key(|h| !h.desired.borrow().gone),
        }?;
        Some(handle.desired.borrow().pod.clone())
    }

    /// Serves changes until dropped.
    pub async fn run(
        self: Arc<Self>,
        mut sources: Sources,
        mut ended: mpsc::UnboundedReceiver<String>,
    ) {
        let mut events = self.host.runtime.runtime.events();
        let mut changed = self.host.objects.changed();
        let mut unsynced: HashSet<bool> = HashSet::new();
        if sources.api.is_some() {
            unsynced.insert(false);
        }
        if sources.files.is_some() {
            unsynced.insert(true);
        }
        loop {
            tokio::select! {
                Some(change) = next(&mut sources.api) => {
                    let all = matches!(change, Change::All(_));
                    self.apply(change, false);
                    if all && unsynced.remove(&false) && unsynced.is_empty() {
                        self.sweep().await;
                    }
                }
                Some(change) = next(&mut sources.files) => {
                    let all = matches!(change, Change::All(_));
                    self.apply(change, true);
                    if all && unsynced.remove(&true) && unsynced.is_empty() {
                        self.sweep().await;
                    }
                }
                event = events.recv() => self.on_event(event),
                event = changed.recv() => match event {
                    Ok(uid) => if let Some(handle) = self.read().get(&uid) {
                        handle.refresh.notify_one();
                    },
                    Err(RecvError::Lagged(_)) => self.handles().iter().for_each(|h| h.refresh.notify_one()),
                    Err(RecvError::Closed) => return,
                },
                Some(uid) = ended.recv() => self.on_ended(&uid),
            }
        }
    }

    fn on_event(&self, event: Result<RuntimeEvent, RecvError>) {
        let uid = match event {
            Ok(RuntimeEvent::ContainerChanged(container)) => container.pod_uid,
            Ok(RuntimeEvent::SandboxDied(pod)) => pod.uid,
            Err(_) => {
                self.handles().iter().for_each(|h| h.poke.notify_one());
                return;
            }
        };
        if let Some(handle) = self.read().get(&uid) {
            handle.poke.notify_one();
        }
    }

    fn on_ended(&self, uid: &str) {
        self.workers
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .remove(uid);
        let waiting = std::mem::take(
            &mut *self
                .waiting
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        );
        for pod in waiting {
            self.set(pod, true);
        }
    }

    fn apply(&self, change: Change, is_static: bool) {
        match change {
            Change::All(pods) => {
                if !is_static {
                    let mirrors: Vec<Arc<Pod>> = pods
                        .iter()
                        .filter(|p| mirror::is_mirror(p))
                        .cloned()
                        .collect();
                    self.mirrors.replace(&mirrors);
                }
                let there: HashSet<String> = pods.iter().map(|p| uid(p)).collect();
                for handle in self.handles() {
                    if handle.is_static == is_static && !there.contains(&handle.pod_ref.uid) {
                        self.gone(&handle, None);
                    }
                }
                self.waiting
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .retain(|p| !is_static || there.contains(&uid(p)));
                let mut pods = pods;
                // Who was first keeps its place when resources are short.
                pods.sort_by(|a, b| {
                    a.metadata
                        .creation_timestamp
                        .cmp(&b.metadata.creation_timestamp)
                });
                for pod in pods {
                    self.set(pod, is_static);
                }
            }
            Change::Set(pod) => self.set(pod, is_static),
            Change::Gone(pod) => {
                if mirror::is_mirror(&pod) {
                    if let Some(uid) = self.mirrors.found(&pod, false) {
                        self.host.statuses.observe(&uid, None);
                    }
                } else if let Some(handle) = self.read().get(&uid(&pod)).cloned() {
                    self.gone(&handle, Some(pod));
                }
            }
        }
    }

    fn gone(&self, handle: &Handle, last: Option<Arc<Pod>>) {
        if handle.is_static {
            self.mirrors
                .want(&handle.desired.borrow().pod.clone(), false);
        }
        handle.desired.send_modify(|desired| {
            desired.gone = true;
            // The last object says how much grace is left.
            if let Some(last) = last {
                desired.pod = last;
            }
        });
    }

    fn set(&self, pod: Arc<Pod>, is_static: bool) {
        if !is_static && mirror::is_mirror(&pod) {
            if let Some(uid) = self.mirrors.found(&pod, true) {
                self.host.statuses.observe(&uid, Some(&pod));
            }
            return;
        }
        let uid = uid(&pod);
        let existing = self.read().get(&uid).cloned();
        if let Some(handle) = existing {
            if !is_static {
                self.host.statuses.observe(&uid, Some(&pod));
            }
            handle.desired.send_if_modified(|desired| {
                let same = desired.pod.metadata.resource_version == pod.metadata.resource_version
                    && pod.metadata.resource_version.is_some();
                desired.pod = pod;
                !same
            });
            return;
        }
        let same_name = self.handles().into_iter().any(|h| {
            Some(&h.pod_ref.name) == pod.metadata.name.as_ref()
                && Some(&h.pod_ref.namespace) == pod.metadata.namespace.as_ref()
        });
        if is_static {
            self.mirrors.want(&pod, true);
            if same_name {
                self.waiting
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .push(pod);
                return;
            }
        }
        let verdict = self.admit(&pod, is_static);
        if let Some(verdict) = &verdict {
            self.host.event(
                &pod,
                None,
                Kind::Warning,
                &verdict.reason,
                verdict.message.trim_start_matches("Pod was rejected: "),
            );
        }
        if !is_static {
            self.host.statuses.observe(&uid, Some(&pod));
        } else {
            self.host.statuses.observe(&uid, None);
        }
        let (worker, handle) = worker::new(
            self.host.clone(),
            Desired {
                pod,
                gone: false,
                verdict,
            },
            is_static,
        );
        self.workers
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .insert(uid.clone(), Arc::new(handle));
        let ended = self.ended.clone();
        let work = tokio::spawn(worker.run());
        tokio::spawn(async move {
            if let Err(error) = work.await {
                tracing::error!(%error, pod = %uid, "a pod's worker failed");
            }
            // Nobody listens only when the kubelet itself ends.
            let _ = ended.send(uid);
        });
    }

    /// Whether the node takes the pod; one that already ran here is not refused after a restart of the kubelet.
    fn admit(&self, pod: &Pod, is_static: bool) -> Option<Verdict> {
        let phase = pod
            .status
            .as_ref()
            .and_then(|s| s.phase.as_deref())
            .unwrap_or("Pending");
        let started = pod.status.as_ref().is_some_and(|s| s.start_time.is_some());
        if is_static || phase != "Pending" || started || pod.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let refused = sysctls::refuse(pod, &self.host.config.allowed_unsafe_sysctls)
            .or_else(|| self.host.pressure.borrow().refuses(pod));
        if refused.is_some() {
            return refused;
        }
        let node = self.host.node.borrow().clone()?;
        let active: Vec<Arc<Pod>> = self
            .handles()
            .iter()
            .filter(|h| {
                let status = self.host.statuses.get(&h.pod_ref.uid);
                let phase = status.and_then(|s| s.phase).unwrap_or_default();
                !matches!(phase.as_str(), "Succeeded" | "Failed")
                    && h.desired.borrow().verdict.is_none()
            })
            .map(|h| {
                let held = self.host.allotments.get(&h.pod_ref.uid);
                held.unwrap_or_else(|| h.desired.borrow().pod.clone())
            })
            .collect();
        let others: Vec<&Pod> = active.iter().map(Arc::as_ref).collect();
        admission::refuse(pod, &node, &others)
    }

    /// Ends a pod for a reason of the node's (eviction, shutdown).
    pub fn evict(&self, uid: &str, verdict: Verdict) {
        if let Some(handle) = self.read().get(uid) {
            handle
                .desired
                .send_modify(|desired| desired.verdict = Some(verdict));
        }
    }

    /// Removes sandboxes and directories of pods that nobody has any more.
    async fn sweep(&self) {
        let known: HashSet<String> = self.read().keys().cloned().collect();
        match self.host.runtime.runtime.list().await {
            Ok(sandboxes) => {
                for sandbox in sandboxes
                    .into_iter()
                    .filter(|s| !known.contains(&s.pod.uid))
                {
                    tracing::info!(pod = %sandbox.pod.name, namespace = %sandbox.pod.namespace, "removing an orphaned pod");
                    let host = self.host.clone();
                    tokio::spawn(async move { remove_orphan(&host, sandbox).await });
                }
            }
            Err(error) => tracing::warn!(%error, "listing sandboxes to find orphans"),
        }
        let Ok(entries) = std::fs::read_dir(self.host.root_dir.join("pods")) else {
            return;
        };
        for entry in entries.flatten() {
            let Ok(uid) = entry.file_name().into_string() else {
                continue;
            };
            let sandbox = self.host.runtime.runtime.sandbox(&uid).await;
            if known.contains(&uid) || !matches!(sandbox, Ok(None)) {
                continue;
            }
            if let Err(error) = self.host.volumes.forget(&uid) {
                tracing::warn!(%error, pod = %uid, "removing an orphaned directory");
            }
        }
    }
}

async fn remove_orphan(host: &Host, sandbox: crate::runtime::SandboxStatus) {
    let runtime = &host.runtime.runtime;
    let stops = sandbox
        .containers
        .iter()
        .filter(|c| containers::running(c))
        .map(|c| runtime.stop_container(&c.container, Duration::from_secs(30)));
    futures::future::join_all(stops).await;
    for removed in [
        runtime.stop_sandbox(&sandbox.pod.uid).await,
        runtime.remove_sandbox(&sandbox.pod.uid).await,
    ] {
        if let Err(error) = removed {
            tracing::warn!(%error, pod = %sandbox.pod.name, "removing an orphaned pod");
        }
    }
    if let Err(error) = host.volumes.forget(&sandbox.pod.uid) {
        tracing::warn!(%error, pod = %sandbox.pod.name, "removing an orphaned pod's directory");
    }
    super::logs::remove_pod(host, &sandbox.pod);
}
