//! From the API server's watches to the cache and the queue.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use keelson_runtime::informer::{Object, Options};
use keelson_runtime::{Event, Informer, Informers};
use kube::Resource;

use crate::cycle::Scheduler;
use crate::framework::{Change, Rejection};
use crate::model::{PodInfo, namespace_labels};

/// The pods that are not done yet. What the scheduler doesn't read is dropped.
pub fn pods(informers: &Informers) -> Informer<Pod> {
    informers.get_with(|| {
        Options::default()
            .fields("status.phase!=Succeeded,status.phase!=Failed")
            .project(|pod: &mut Pod| {
                let Some(spec) = &mut pod.spec else { return };
                let init = spec.init_containers.iter_mut().flatten();
                for container in init.chain(&mut spec.containers) {
                    container.env = None;
                    container.env_from = None;
                    container.volume_mounts = None;
                    container.command = None;
                    container.args = None;
                    container.liveness_probe = None;
                    container.readiness_probe = None;
                    container.startup_probe = None;
                    container.lifecycle = None;
                }
            })
    })
}

/// Starts to follow pods, nodes and namespaces.
pub fn follow(scheduler: &Scheduler) {
    let informers = &scheduler.handle.informers;
    let (nodes, namespaces) = (informers.get::<Node>(), informers.get::<Namespace>());
    nodes.handle({
        let scheduler = scheduler.clone();
        move |event| node_event(&scheduler, event)
    });
    namespaces.handle({
        let scheduler = scheduler.clone();
        move |event| namespace_event(&scheduler, event)
    });
    storage::<PersistentVolumeClaim>(scheduler);
    storage::<PersistentVolume>(scheduler);
    storage::<StorageClass>(scheduler);
    scheduler.pods.handle({
        let scheduler = scheduler.clone();
        move |event| pod_event(&scheduler, event)
    });
}

/// Anything that changes about volumes may be what a pod waits for.
fn storage<K: Object + Resource<DynamicType = ()>>(scheduler: &Scheduler) {
    let informer = scheduler.handle.informers.get::<K>();
    let queue = scheduler.queue.clone();
    informer.handle(move |_| queue.tell(&Change::StorageChanged));
}

fn node_event(scheduler: &Scheduler, event: &Event<Node>) {
    let change = match event {
        Event::Added(node) => {
            scheduler.handle.cache.lock().set_node(node.clone());
            Change::NodeAdded(node.clone())
        }
        Event::Updated { old, new } => {
            scheduler.handle.cache.lock().set_node(new.clone());
            if !matters(old, new) {
                return;
            }
            Change::NodeUpdated {
                old: old.clone(),
                new: new.clone(),
            }
        }
        Event::Deleted(node) => {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            scheduler.handle.cache.lock().remove_node(name);
            Change::NodeDeleted(node.clone())
        }
        Event::Resync => return,
    };
    scheduler.queue.tell(&change);
}

/// Whether anything changed that a pod could wait for; heartbeats don't.
fn matters(old: &Node, new: &Node) -> bool {
    let allocatable = |node: &Node| node.status.as_ref().and_then(|s| s.allocatable.clone());
    old.metadata.labels != new.metadata.labels
        || old.metadata.annotations != new.metadata.annotations
        || old.spec != new.spec
        || allocatable(old) != allocatable(new)
}

fn namespace_event(scheduler: &Scheduler, event: &Event<Namespace>) {
    let (name, labels) = match event {
        Event::Added(namespace) => {
            let (name, labels) = namespace_labels(namespace);
            (name, Some(labels))
        }
        Event::Updated { old, new } => {
            if old.metadata.labels == new.metadata.labels {
                return;
            }
            let (name, labels) = namespace_labels(new);
            (name, Some(labels))
        }
        Event::Deleted(namespace) => (namespace_labels(namespace).0, None),
        Event::Resync => return,
    };
    let mut cache = scheduler.handle.cache.lock();
    cache.set_namespace(name.clone(), labels);
    drop(cache);
    scheduler.queue.tell(&Change::NamespaceChanged(name));
}

/// Whether anything changed of a running pod that others could wait for; most updates are of its status.
fn may_help(old: &Pod, new: &Pod) -> bool {
    let given = |pod: &Pod| {
        let statuses = pod
            .status
            .as_ref()
            .and_then(|s| s.container_statuses.clone());
        let statuses = statuses.into_iter().flatten();
        statuses
            .map(|status| (status.allocated_resources, status.resources))
            .collect::<Vec<_>>()
    };
    old.metadata.labels != new.metadata.labels
        || old.metadata.deletion_timestamp.is_some() != new.metadata.deletion_timestamp.is_some()
        || old.spec != new.spec
        || given(old) != given(new)
}

fn has_node(pod: &Pod) -> bool {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.node_name.as_deref())
        .is_some_and(|node| !node.is_empty())
}

fn pod_event(scheduler: &Scheduler, event: &Event<Pod>) {
    match event {
        Event::Added(pod) if has_node(pod) => assigned(scheduler, PodInfo::new(pod.clone())),
        Event::Added(pod) => waits(scheduler, pod),
        Event::Updated { old, new } if has_node(old) && has_node(new) => {
            let info = PodInfo::new(new.clone());
            scheduler.handle.cache.lock().set_pod(info.clone());
            if may_help(old, new) {
                scheduler.queue.tell(&Change::PodUpdated {
                    old: PodInfo::new(old.clone()),
                    new: info,
                });
            }
        }
        Event::Updated { new, .. } if has_node(new) => {
            assigned(scheduler, PodInfo::new(new.clone()));
        }
        Event::Updated { new, .. } => waits(scheduler, new),
        Event::Deleted(pod) => gone(scheduler, pod),
        Event::Resync => {}
    }
}

/// A pod has a node: it takes its room, and needn't wait any more.
fn assigned(scheduler: &Scheduler, pod: Arc<PodInfo>) {
    scheduler.handle.cache.lock().set_pod(pod.clone());
    scheduler.handle.nominator.remove(&pod.uid);
    scheduler.queue.remove(&pod.uid);
    scheduler.queue.tell(&Change::PodAssigned(pod));
}

/// A pod has no node: it waits, if it is for one of our profiles and nobody asked for it to go.
fn waits(scheduler: &Scheduler, pod: &Arc<Pod>) {
    let info = PodInfo::new(pod.clone());
    if !scheduler.profiles.contains_key(info.scheduler_name()) {
        return;
    }
    if info.is_terminating() {
        scheduler.queue.remove(&info.uid);
        scheduler.handle.nominator.remove(&info.uid);
        return;
    }
    // A restart must not forget for whom room was made.
    if !info.nominated_node().is_empty() {
        scheduler
            .handle
            .nominator
            .set(info.clone(), info.nominated_node());
    }
    scheduler.queue.put(info);
}

fn gone(scheduler: &Scheduler, pod: &Arc<Pod>) {
    let info = PodInfo::new(pod.clone());
    let handle = &scheduler.handle;
    scheduler.queue.remove(&info.uid);
    // One without a node held room only if it was about to be bound, or room was being made for it.
    let mut held_room = handle.nominator.node_of(&info.uid).is_some();
    handle.nominator.remove(&info.uid);
    if has_node(pod) {
        handle.cache.lock().remove_pod(&info.uid);
        held_room = true;
    } else {
        let mut cache = handle.cache.lock();
        held_room |= cache.is_assumed(&info.uid);
        cache.forget(&info.uid);
        drop(cache);
        let rejection = Rejection::unschedulable("the pod was deleted");
        handle.waiting.reject(&info.uid, rejection);
    }
    if held_room {
        scheduler.queue.tell(&Change::PodDeleted(info));
    }
}
