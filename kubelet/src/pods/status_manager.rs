//! Sends statuses of pods to the API server: coalesced, again after a failure, and the last word before a deletion.
//!
//! Whatever was set last for a pod is what is sent; a pod that is finished is deleted once its status has arrived.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Client, Error};
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

/// Conditions that this kubelet owns.
const OWN_CONDITIONS: &[&str] = &[
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    "PodResizePending",
    "PodResizeInProgress",
];

/// Most patches under way at once.
const PARALLEL: usize = 16;

#[derive(Debug, Clone, PartialEq)]
struct Target {
    namespace: String,
    name: String,
    uid: String,
}

struct Entry {
    /// Which API object to write; none for a static pod without its mirror.
    target: Option<Target>,
    /// What the API server has, as far as known.
    known: PodStatus,
    wanted: Option<PodStatus>,
    finished: bool,
    deleted: bool,
    failures: u32,
}

/// All statuses.
pub struct Statuses {
    client: Option<Client>,
    entries: Mutex<HashMap<String, Entry>>,
    dirty: Mutex<HashSet<String>>,
    wake: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn target(pod: &Pod) -> Target {
    let meta = &pod.metadata;
    Target {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
    }
}

/// The strategic merge patch from one status to another; `None` if nothing differs.
pub fn patch(old: &PodStatus, new: &PodStatus) -> Result<Option<Value>, serde_json::Error> {
    let (Value::Object(old), Value::Object(new)) =
        (serde_json::to_value(old)?, serde_json::to_value(new)?)
    else {
        return Ok(None);
    };
    let mut patch = Map::new();
    for (key, value) in &new {
        let before = old.get(key);
        if before == Some(value) {
            continue;
        }
        let value = match key.as_str() {
            "conditions" => {
                let changed = changed_conditions(before, value);
                if changed.is_empty() {
                    continue;
                }
                Value::Array(changed)
            }
            "podIPs" | "hostIPs" => {
                let mut list = vec![json!({"$patch": "replace"})];
                list.extend(value.as_array().into_iter().flatten().cloned());
                Value::Array(list)
            }
            _ => value.clone(),
        };
        patch.insert(key.clone(), value);
    }
    // What others write stays; what was ours and is no more goes.
    for key in [
        "reason",
        "message",
        "podIP",
        "podIPs",
        "resources",
        "allocatedResources",
    ] {
        if old.contains_key(key) && !new.contains_key(key) {
            patch.insert(key.to_owned(), Value::Null);
        }
    }
    Ok((!patch.is_empty()).then_some(Value::Object(patch)))
}

fn changed_conditions(old: Option<&Value>, new: &Value) -> Vec<Value> {
    let old: Vec<&Value> = old
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .collect();
    let mut changed = Vec::new();
    for condition in new.as_array().into_iter().flatten() {
        let type_ = condition["type"].as_str().unwrap_or_default();
        // Others write this one too; ours has a reason of our own.
        let disrupted =
            type_ == "DisruptionTarget" && condition["reason"] == "TerminationByKubelet";
        let own = disrupted || OWN_CONDITIONS.contains(&type_);
        if !own || old.contains(&condition) {
            continue;
        }
        let mut condition = condition.clone();
        let before = old.iter().find(|o| o["type"] == condition["type"]);
        // Elements are merged: what a condition no longer says has to be taken back.
        for key in ["reason", "message"] {
            if before.is_some_and(|b| b.get(key).is_some()) && condition.get(key).is_none() {
                condition[key] = Value::Null;
            }
        }
        changed.push(condition);
    }
    let gone = |o: &&&Value| {
        o["type"]
            .as_str()
            .is_some_and(|t| t.starts_with("PodResize"))
            && !new
                .as_array()
                .into_iter()
                .flatten()
                .any(|n| n["type"] == o["type"])
    };
    changed.extend(
        old.iter()
            .filter(gone)
            .map(|o| json!({"$patch": "delete", "type": o["type"]})),
    );
    changed
}

impl Statuses {
    /// None yet; without a client they are only kept.
    pub fn new(client: Option<Client>) -> Arc<Self> {
        Arc::new(Self {
            client,
            entries: Mutex::default(),
            dirty: Mutex::default(),
            wake: Notify::new(),
        })
    }

    fn mark(&self, uid: &str) {
        lock(&self.dirty).insert(uid.to_owned());
        self.wake.notify_one();
    }

    /// Makes a pod known, or notes what the API server now has of it.
    pub fn observe(&self, uid: &str, object: Option<&Pod>) {
        let mut entries = lock(&self.entries);
        let entry = entries.entry(uid.to_owned()).or_insert_with(|| Entry {
            target: None,
            known: PodStatus::default(),
            wanted: None,
            finished: false,
            deleted: false,
            failures: 0,
        });
        entry.target = object.map(target);
        if let Some(object) = object {
            entry.known = object.status.clone().unwrap_or_default();
        }
        drop(entries);
        self.mark(uid);
    }

    /// What the status of a pod is.
    pub fn set(&self, uid: &str, status: PodStatus) {
        let changed = match lock(&self.entries).get_mut(uid) {
            Some(entry) if entry.wanted.as_ref() != Some(&status) => {
                entry.wanted = Some(status);
                true
            }
            _ => false,
        };
        if changed {
            self.mark(uid);
        }
    }

    /// Nothing of the pod is left on the node: delete its object after its last status.
    pub fn finish(&self, uid: &str) {
        let found = match lock(&self.entries).get_mut(uid) {
            Some(entry) => !std::mem::replace(&mut entry.finished, true),
            None => false,
        };
        if found {
            self.mark(uid);
        }
    }

    /// The status that was set last.
    pub fn get(&self, uid: &str) -> Option<PodStatus> {
        lock(&self.entries).get(uid)?.wanted.clone()
    }

    /// The pod is gone.
    pub fn forget(&self, uid: &str) {
        lock(&self.entries).remove(uid);
        lock(&self.dirty).remove(uid);
    }

    /// Sends until dropped.
    pub async fn run(self: Arc<Self>) {
        let Some(client) = self.client.clone() else {
            return std::future::pending().await;
        };
        let mut under_way: HashSet<String> = HashSet::new();
        let mut sends = FuturesUnordered::new();
        loop {
            while sends.len() < PARALLEL {
                let next = {
                    let mut dirty = lock(&self.dirty);
                    let uid = dirty.iter().find(|uid| !under_way.contains(*uid)).cloned();
                    uid.inspect(|uid| {
                        dirty.remove(uid);
                    })
                };
                let Some(uid) = next else { break };
                under_way.insert(uid.clone());
                let (this, client) = (self.clone(), client.clone());
                sends.push(async move {
                    this.sync(&client, &uid).await;
                    uid
                });
            }
            tokio::select! {
                Some(uid) = sends.next() => {
                    under_way.remove(&uid);
                }
                () = self.wake.notified() => {}
            }
        }
    }

    async fn sync(self: &Arc<Self>, client: &Client, uid: &str) {
        let Err(error) = self.send(client, uid).await else {
            return;
        };
        let failures = match lock(&self.entries).get_mut(uid) {
            Some(entry) => {
                entry.failures += 1;
                entry.failures
            }
            None => return,
        };
        tracing::debug!(%error, pod = uid, "sending a pod's status");
        let delay = Duration::from_millis(200 << failures.min(6));
        let (this, uid) = (self.clone(), uid.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            this.mark(&uid);
        });
    }

    async fn send(&self, client: &Client, uid: &str) -> Result<(), Error> {
        let Some((target, known, wanted, finished)) = ({
            let entries = lock(&self.entries);
            entries.get(uid).filter(|e| !e.deleted).and_then(|e| {
                Some((
                    e.target.clone()?,
                    e.known.clone(),
                    e.wanted.clone(),
                    e.finished,
                ))
            })
        }) else {
            return Ok(());
        };
        let api: Api<Pod> = Api::namespaced(client.clone(), &target.namespace);
        if let Some(status) = wanted
            && let Some(change) = patch(&known, &status).map_err(Error::SerdeError)?
        {
            let body = json!({"metadata": {"uid": target.uid}, "status": change});
            match api
                .patch_status(
                    &target.name,
                    &PatchParams::default(),
                    &Patch::Strategic(body),
                )
                .await
            {
                Ok(pod) => {
                    if let Some(entry) = lock(&self.entries).get_mut(uid) {
                        entry.failures = 0;
                        entry.known = pod.status.unwrap_or_default();
                    }
                }
                Err(Error::Api(answer)) if answer.code == 404 || answer.code == 409 => {
                    tracing::debug!(pod = uid, reason = %answer.reason, "the pod is gone or another");
                    if answer.code == 404 {
                        return Ok(());
                    }
                    return Err(Error::Api(answer));
                }
                Err(error) => return Err(error),
            }
        }
        if finished {
            let params = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(Preconditions {
                    uid: Some(target.uid.clone()),
                    resource_version: None,
                }),
                ..DeleteParams::default()
            };
            match api.delete(&target.name, &params).await {
                Ok(_) => {}
                Err(Error::Api(answer)) if answer.code == 404 || answer.code == 409 => {}
                Err(error) => return Err(error),
            }
            if let Some(entry) = lock(&self.entries).get_mut(uid) {
                entry.deleted = true;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(value: Value) -> PodStatus {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn only_what_changed_and_only_ours() {
        let old = status(
            json!({"phase": "Pending", "reason": "X", "conditions": [{"type": "Ready", "status": "False", "reason": "R"}, {"type": "Other", "status": "True"}], "podIPs": [{"ip": "1.1.1.1"}]}),
        );
        let new = status(
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}], "podIPs": [{"ip": "2.2.2.2"}]}),
        );
        let patch = patch(&old, &new).unwrap().unwrap();
        assert_eq!(
            patch,
            json!({"phase": "Running", "reason": null, "conditions": [{"type": "Ready", "status": "True", "reason": null}], "podIPs": [{"$patch": "replace"}, {"ip": "2.2.2.2"}]})
        );
        assert_eq!(super::patch(&new, &new).unwrap(), None);
    }
}
