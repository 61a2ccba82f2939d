//! What of a pod's requests and limits the node has accepted (allocated) and what its cgroups have been given (actuated).
//!
//! A resize changes the spec; the pod goes on with what it was allotted until the node accepts the new figures. Both
//! records are on disk, so that a restarted kubelet neither forgets a resize under way nor takes one it had put off.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::{Container, Node, Pod, ResourceRequirements};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::admission;
use super::memory::Verdict;
use crate::quantity;

/// Requests and limits of a pod and of its containers that can be resized.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Allotment {
    /// `spec.resources`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<ResourceRequirements>,
    /// By container name.
    #[serde(default)]
    pub containers: BTreeMap<String, ResourceRequirements>,
}

/// Requests and limits as the cgroups know them, in thousandths and bytes; 0 where there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// CPU request.
    pub cpu_request: i64,
    /// CPU limit.
    pub cpu_limit: i64,
    /// Memory request.
    pub memory_request: i64,
    /// Memory limit.
    pub memory_limit: i64,
}

/// The figures of a container; the pod's limits stand in for its own.
pub fn figures(pod: Option<&ResourceRequirements>, own: Option<&ResourceRequirements>) -> Figures {
    let requests = own.and_then(|r| r.requests.as_ref());
    let limits = own.and_then(|r| r.limits.as_ref());
    let whole = pod.and_then(|r| r.limits.as_ref());
    Figures {
        cpu_request: quantity::milli_value(requests, "cpu").unwrap_or(0),
        cpu_limit: quantity::milli_value(limits, "cpu")
            .or_else(|| quantity::milli_value(whole, "cpu"))
            .unwrap_or(0),
        memory_request: quantity::value(requests, "memory").unwrap_or(0),
        memory_limit: quantity::value(limits, "memory")
            .or_else(|| quantity::value(whole, "memory"))
            .unwrap_or(0),
    }
}

fn same_list(a: Option<&quantity::ResourceList>, b: Option<&quantity::ResourceList>) -> bool {
    let empty = quantity::ResourceList::new();
    let (a, b) = (a.unwrap_or(&empty), b.unwrap_or(&empty));
    a.len() == b.len()
        && a.iter().all(|(name, quantity)| {
            b.get(name).is_some_and(|other| {
                quantity == other
                    || quantity::millis(&quantity.0)
                        .is_some_and(|v| quantity::millis(&other.0) == Some(v))
            })
        })
}

/// Whether two requirements mean the same, however they are written.
pub fn same(a: &ResourceRequirements, b: &ResourceRequirements) -> bool {
    same_list(a.requests.as_ref(), b.requests.as_ref())
        && same_list(a.limits.as_ref(), b.limits.as_ref())
}

fn resizable(container: &Container, init: bool) -> bool {
    !init || container.restart_policy.as_deref() == Some("Always")
}

impl Allotment {
    /// What the spec asks for.
    pub fn of(pod: &Pod) -> Self {
        let Some(spec) = &pod.spec else {
            return Self::default();
        };
        let init = spec
            .init_containers
            .iter()
            .flatten()
            .filter(|c| resizable(c, true));
        Self {
            pod: spec.resources.clone(),
            containers: spec
                .containers
                .iter()
                .chain(init)
                .map(|c| (c.name.clone(), c.resources.clone().unwrap_or_default()))
                .collect(),
        }
    }

    /// Whether both mean the same.
    pub fn means(&self, other: &Self) -> bool {
        let pods = match (&self.pod, &other.pod) {
            (Some(a), Some(b)) => same(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        pods && self.containers.len() == other.containers.len()
            && self
                .containers
                .iter()
                .all(|(name, own)| other.containers.get(name).is_some_and(|o| same(own, o)))
    }

    /// The pod with these requests and limits in its spec.
    pub fn apply(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        if *self == Self::of(pod) {
            return pod.clone();
        }
        let mut pod = Pod::clone(pod);
        if let Some(spec) = &mut pod.spec {
            spec.resources.clone_from(&self.pod);
            let init = spec
                .init_containers
                .iter_mut()
                .flatten()
                .filter(|c| resizable(c, true));
            for container in spec.containers.iter_mut().chain(init) {
                if let Some(own) = self.containers.get(&container.name) {
                    container.resources = Some(own.clone());
                }
            }
        }
        Arc::new(pod)
    }
}

/// Both records of a pod, as they are kept on disk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Accepted by the node.
    pub allocated: Allotment,
    /// Given to the cgroups.
    pub actuated: Allotment,
}

impl Record {
    /// The record of a pod that was never resized.
    pub fn of(pod: &Pod) -> Self {
        let allotment = Allotment::of(pod);
        Self {
            allocated: allotment.clone(),
            actuated: allotment,
        }
    }

    fn path(pod_dir: &Path) -> PathBuf {
        pod_dir.join("resources.json")
    }

    /// The record on disk, if there is a whole one.
    pub fn load(pod_dir: &Path) -> Option<Self> {
        let bytes = std::fs::read(Self::path(pod_dir)).ok()?;
        serde_json::from_slice(&bytes)
            .inspect_err(|error| tracing::warn!(%error, dir = %pod_dir.display(), "unreadable record of resources"))
            .ok()
    }

    /// Writes it.
    pub fn store(&self, pod_dir: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(pod_dir)?;
        let path = Self::path(pod_dir);
        let temporary = path.with_extension("new");
        std::fs::write(&temporary, serde_json::to_vec(self)?)?;
        std::fs::rename(temporary, path)
    }
}

/// What all pods of the node have been allotted.
pub struct Allotments {
    pods: Mutex<HashMap<String, Arc<Pod>>>,
    released: watch::Sender<u64>,
}

impl Default for Allotments {
    fn default() -> Self {
        Self {
            pods: Mutex::default(),
            released: watch::Sender::new(0),
        }
    }
}

impl Allotments {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Pod>>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pods that hold something of the node.
    pub fn holders(&self) -> Vec<Arc<Pod>> {
        self.lock().values().cloned().collect()
    }

    /// What a pod holds.
    pub fn get(&self, uid: &str) -> Option<Arc<Pod>> {
        self.lock().get(uid).cloned()
    }

    /// Notes what a pod holds, with its allotted figures in its spec.
    pub fn set(&self, uid: &str, pod: Arc<Pod>) {
        self.lock().insert(uid.to_owned(), pod);
    }

    /// Takes `wanted` if it fits beside what the others hold; otherwise says why not.
    pub fn try_set(&self, uid: &str, wanted: &Arc<Pod>, node: Option<&Node>) -> Option<Verdict> {
        let mut pods = self.lock();
        if let Some(node) = node {
            let others: Vec<&Pod> = pods
                .iter()
                .filter(|(other, _)| *other != uid)
                .map(|(_, pod)| &**pod)
                .collect();
            let verdict = admission::refuse(wanted, node, &others);
            if verdict.is_some() {
                return verdict;
            }
        }
        pods.insert(uid.to_owned(), wanted.clone());
        drop(pods);
        self.released.send_modify(|n| *n += 1);
        None
    }

    /// The pod holds nothing any more.
    pub fn release(&self, uid: &str) {
        if self.lock().remove(uid).is_some() {
            self.released.send_modify(|n| *n += 1);
        }
    }

    /// Changes whenever something may have become free.
    pub fn released(&self) -> watch::Receiver<u64> {
        self.released.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(cpu: &str) -> Arc<Pod> {
        let resources = json!({"requests": {"cpu": cpu}});
        Arc::new(
            serde_json::from_value(json!({"spec": {
                "containers": [{"name": "a", "resources": resources}],
                "initContainers": [{"name": "i", "resources": resources}, {"name": "s", "restartPolicy": "Always", "resources": resources}],
            }}))
            .unwrap(),
        )
    }

    #[test]
    fn a_pod_keeps_what_it_was_allotted() {
        let (old, new) = (pod("100m"), pod("200m"));
        let allotment = Allotment::of(&old);
        let shown = allotment.apply(&new);
        let spec = shown.spec.as_ref().unwrap();
        assert_eq!(
            spec.containers[0].resources,
            old.spec.as_ref().unwrap().containers[0].resources
        );
        let init = spec.init_containers.as_ref().unwrap();
        let cpu = |c: &Container| {
            c.resources.clone().unwrap().requests.unwrap()["cpu"]
                .0
                .clone()
        };
        assert_eq!(
            (cpu(&init[0]), cpu(&init[1])),
            ("200m".into(), "100m".into())
        );
        assert!(Allotment::of(&pod("0.1")).means(&allotment));
        assert!(!Allotment::of(&new).means(&allotment));
    }

    #[test]
    fn a_resize_waits_for_room() {
        let node: Node = serde_json::from_value(
            json!({"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "1", "pods": "9"}}}),
        )
        .unwrap();
        let all = Allotments::default();
        assert_eq!(all.try_set("a", &pod("200m"), Some(&node)), None);
        assert_eq!(all.try_set("b", &pod("200m"), Some(&node)), None);
        let mut released = all.released();
        released.mark_unchanged();
        let verdict = all.try_set("a", &pod("400m"), Some(&node)).unwrap();
        assert_eq!(
            verdict.message,
            "Pod was rejected: Node didn't have enough resource: cpu, requested: 800, used: 400, capacity: 1000"
        );
        all.release("b");
        assert!(released.has_changed().unwrap());
        assert_eq!(all.try_set("a", &pod("400m"), Some(&node)), None);
    }
}
