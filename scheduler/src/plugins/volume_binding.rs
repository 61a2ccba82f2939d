//! VolumeBinding: a pod goes where its volumes are, or can be made.
//!
//! Claims that are bound restrict the nodes by their volumes' node affinity. Claims that wait for their first consumer
//! are matched with volumes ([`matching`]) or left to their provisioner once a node is chosen; the pod is bound after
//! they are. Storage capacity (CSIStorageCapacity) is not looked at.

mod matching;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Volume};
use k8s_openapi::api::storage::v1::StorageClass;
use keelson_runtime::{Informer, Key};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{PluginError, arguments};
use crate::framework::{Change, CycleState, Handle, Plugin, Point, PreFilter, Rejection};
use crate::model::{NodeInfo, NodeMatcher, PodInfo, Snapshot};

const NAME: &str = "VolumeBinding";
const CHOICES: &str = "VolumeBinding/choices";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
const NO_MATCH: &str = "node(s) didn't find available persistent volumes to bind";
const ELSEWHERE: &str = "node(s) didn't match PersistentVolume's node affinity";
const NO_VOLUME: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";

pub struct VolumeBinding {
    client: Client,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
    /// Volumes promised to claims whose binding is under way: volume name to claim uid.
    promised: Mutex<HashMap<String, String>>,
    timeout: Duration,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct VolumeBindingArgs {
    bind_timeout_seconds: Option<u64>,
}

pub fn make(given: Option<&Value>, handle: &Handle) -> Result<Arc<dyn Plugin>, PluginError> {
    let args: VolumeBindingArgs = arguments(NAME, given)?;
    let informers = &handle.informers;
    Ok(Arc::new(VolumeBinding {
        client: handle.client.clone(),
        claims: informers.get(),
        volumes: informers.get(),
        classes: informers.get(),
        promised: Mutex::default(),
        timeout: Duration::from_secs(args.bind_timeout_seconds.unwrap_or(600)),
    }))
}

/// The claims of a pod, sorted by what is to be done.
#[derive(Clone, Default)]
struct Claims {
    bound: Vec<Arc<PersistentVolumeClaim>>,
    /// To be bound when a node is chosen, with their classes.
    waiting: Vec<(Arc<PersistentVolumeClaim>, Arc<StorageClass>)>,
    /// The volumes that may be matched with them, smallest first.
    candidates: Vec<Arc<PersistentVolume>>,
}

/// What is to be done for one claim on the chosen node.
#[derive(Clone)]
enum Choice {
    Bind(Arc<PersistentVolumeClaim>, Arc<PersistentVolume>),
    Provision(Arc<PersistentVolumeClaim>),
}

fn annotation<'a>(claim: &'a PersistentVolumeClaim, key: &str) -> Option<&'a str> {
    let annotations = claim.metadata.annotations.as_ref()?;
    annotations.get(key).map(String::as_str)
}

fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    volume_name(claim).is_some() && annotation(claim, BIND_COMPLETED).is_some()
}

fn volume_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    let name = claim.spec.as_ref()?.volume_name.as_deref()?;
    (!name.is_empty()).then_some(name)
}

/// The name of the claim behind a volume, and whether a controller makes it for the pod.
fn claim_of(pod: &PodInfo, volume: &Volume) -> Option<(String, bool)> {
    if let Some(source) = &volume.persistent_volume_claim {
        return Some((source.claim_name.clone(), false));
    }
    volume.ephemeral.as_ref()?;
    Some((format!("{}-{}", pod.key.name, volume.name), true))
}

fn on_node(volume: &PersistentVolume, node: &NodeInfo) -> bool {
    let affinity = volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref());
    affinity
        .and_then(|affinity| affinity.required.as_ref())
        .is_none_or(|required| NodeMatcher::of_selector(required).matches(node.node()))
}

/// Whether the class makes volumes for this node.
fn can_provision(class: &StorageClass, node: &NodeInfo) -> bool {
    if class.provisioner == "kubernetes.io/no-provisioner" {
        return false;
    }
    let terms = class.allowed_topologies.as_deref().unwrap_or_default();
    terms.is_empty()
        || terms.iter().any(|term| {
            let wanted = term.match_label_expressions.iter().flatten();
            wanted.into_iter().all(|expression| {
                node.label(&expression.key)
                    .is_some_and(|value| expression.values.iter().any(|v| v == value))
            })
        })
}

impl VolumeBinding {
    fn class(&self, claim: &PersistentVolumeClaim) -> Option<Arc<StorageClass>> {
        let spec = claim.spec.as_ref()?;
        let name = spec.storage_class_name.as_deref()?;
        self.classes.get(&Key::cluster(name))
    }

    fn sort(&self, pod: &PodInfo) -> Result<Claims, Rejection> {
        let mut claims = Claims::default();
        let mut immediate = false;
        let volumes = pod.spec().and_then(|spec| spec.volumes.as_ref());
        for volume in volumes.into_iter().flatten() {
            let Some((name, made)) = claim_of(pod, volume) else {
                continue;
            };
            let claim = self.claims.find(pod.namespace(), &name);
            let claim = claim.ok_or_else(|| missing(&name, made))?;
            usable(&claim, &name)?;
            if is_bound(&claim) {
                claims.bound.push(claim);
                continue;
            }
            let class = self.class(&claim).filter(|class| {
                class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
            });
            match class {
                Some(class) if volume_name(&claim).is_none() => claims.waiting.push((claim, class)),
                _ => immediate = true,
            }
        }
        if immediate {
            return Err(Rejection::unresolvable(
                "pod has unbound immediate PersistentVolumeClaims",
            ));
        }
        if !claims.waiting.is_empty() {
            claims.candidates = self.volumes.list();
            claims.candidates.sort_by_key(|volume| {
                (
                    matching::capacity(volume),
                    volume.metadata.name.clone().unwrap_or_default(),
                )
            });
        }
        Ok(claims)
    }

    /// What to do for the claims that wait, on this node.
    fn choose(&self, claims: &Claims, node: &NodeInfo) -> Result<Vec<Choice>, Rejection> {
        let promised = self.promised.lock().clone();
        let mut taken: Vec<String> = Vec::new();
        let mut choices = Vec::new();
        for (claim, class) in &claims.waiting {
            if let Some(selected) = annotation(claim, SELECTED_NODE) {
                if selected != node.name() {
                    return Err(Rejection::unresolvable(NO_MATCH));
                }
                choices.push(Choice::Provision(claim.clone()));
                continue;
            }
            let uid = claim.metadata.uid.as_deref().unwrap_or_default();
            let free = |volume: &&Arc<PersistentVolume>| {
                let name = volume.metadata.name.as_deref().unwrap_or_default();
                !taken.iter().any(|t| t == name)
                    && promised.get(name).is_none_or(|other| other == uid)
                    && on_node(volume, node)
            };
            let fits = |volume: &&Arc<PersistentVolume>| matching::fits(claim, volume);
            let found = claims.candidates.iter().filter(free).find(fits);
            match found {
                Some(volume) => {
                    taken.extend(volume.metadata.name.clone());
                    choices.push(Choice::Bind(claim.clone(), volume.clone()));
                }
                None if can_provision(class, node) => {
                    choices.push(Choice::Provision(claim.clone()));
                }
                None => return Err(Rejection::unresolvable(NO_MATCH)),
            }
        }
        Ok(choices)
    }

    async fn carry_out(&self, choice: &Choice, node: &str) -> Result<(), kube::Error> {
        let params = PatchParams::default();
        match choice {
            Choice::Bind(claim, volume) => {
                let name = volume.metadata.name.as_deref().unwrap_or_default();
                let patch = json!({
                    "metadata": {
                        // Not over somebody else's claim.
                        "resourceVersion": volume.metadata.resource_version,
                        "annotations": {BY_CONTROLLER: "yes"},
                    },
                    "spec": {"claimRef": {
                        "apiVersion": "v1",
                        "kind": "PersistentVolumeClaim",
                        "namespace": claim.metadata.namespace,
                        "name": claim.metadata.name,
                        "uid": claim.metadata.uid,
                        "resourceVersion": claim.metadata.resource_version,
                    }},
                });
                let volumes = Api::<PersistentVolume>::all(self.client.clone());
                volumes.patch(name, &params, &Patch::Merge(patch)).await?;
            }
            Choice::Provision(claim) => {
                if annotation(claim, SELECTED_NODE).is_some() {
                    return Ok(());
                }
                let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
                let name = claim.metadata.name.as_deref().unwrap_or_default();
                let patch = json!({"metadata": {
                    "resourceVersion": claim.metadata.resource_version,
                    "annotations": {SELECTED_NODE: node},
                }});
                let claims =
                    Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), namespace);
                claims.patch(name, &params, &Patch::Merge(patch)).await?;
            }
        }
        Ok(())
    }

    /// Whether every claim is bound by now; an error if one never will be on this node.
    fn all_bound(&self, choices: &[Choice], node: &str) -> Result<bool, Rejection> {
        for choice in choices {
            let (Choice::Bind(claim, _) | Choice::Provision(claim)) = choice;
            let now = self.claims.get(&Key::of(claim.as_ref()));
            let now = now.filter(|now| now.metadata.uid == claim.metadata.uid);
            let Some(now) = now else {
                return Err(Rejection::unschedulable("a claim of the pod was deleted"));
            };
            if is_bound(&now) {
                continue;
            }
            let newer = now.metadata.resource_version != claim.metadata.resource_version;
            if matches!(choice, Choice::Provision(_))
                && newer
                && annotation(&now, SELECTED_NODE) != Some(node)
            {
                // The provisioner gave up on this node.
                return Err(Rejection::unschedulable(format!(
                    "provisioning failed for PVC {:?}",
                    now.metadata.name.as_deref().unwrap_or_default()
                )));
            }
            return Ok(false);
        }
        Ok(true)
    }
}

fn missing(name: &str, made: bool) -> Rejection {
    Rejection::unresolvable(if made {
        format!(
            "waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}"
        )
    } else {
        format!("persistentvolumeclaim {name:?} not found")
    })
}

fn usable(claim: &PersistentVolumeClaim, name: &str) -> Result<(), Rejection> {
    let phase = claim.status.as_ref().and_then(|s| s.phase.as_deref());
    if phase == Some("Lost") {
        let volume = volume_name(claim).unwrap_or_default();
        return Err(Rejection::unresolvable(format!(
            "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"
        )));
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Err(Rejection::unresolvable(format!(
            "persistentvolumeclaim {name:?} is being deleted"
        )));
    }
    Ok(())
}

#[async_trait]
impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        NAME
    }

    fn points(&self) -> &'static [Point] {
        &[
            Point::PreFilter,
            Point::Filter,
            Point::Reserve,
            Point::PreBind,
        ]
    }

    fn helped_by(&self, _: &PodInfo, change: &Change) -> bool {
        match change {
            Change::StorageChanged | Change::NodeAdded(_) => true,
            Change::NodeUpdated { old, new } => old.metadata.labels != new.metadata.labels,
            _ => false,
        }
    }

    fn pre_filter(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        _: &Snapshot,
    ) -> Result<PreFilter, Rejection> {
        let claims = self.sort(pod)?;
        if claims.bound.is_empty() && claims.waiting.is_empty() {
            return Ok(PreFilter::Skip);
        }
        state.put(NAME, claims);
        Ok(PreFilter::All)
    }

    fn filter(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        let Some(claims) = state.get::<Claims>(NAME) else {
            return Ok(());
        };
        for claim in &claims.bound {
            let name = volume_name(claim).unwrap_or_default();
            match self.volumes.get(&Key::cluster(name)) {
                None => return Err(Rejection::unresolvable(NO_VOLUME)),
                Some(volume) if !on_node(&volume, node) => {
                    return Err(Rejection::unresolvable(ELSEWHERE));
                }
                Some(_) => {}
            }
        }
        self.choose(claims, node).map(|_| ())
    }

    fn reserve(
        &self,
        state: &mut CycleState,
        _: &PodInfo,
        node: &NodeInfo,
    ) -> Result<(), Rejection> {
        let Some(claims) = state.get::<Claims>(NAME) else {
            return Ok(());
        };
        if claims.waiting.is_empty() {
            return Ok(());
        }
        // Another pod may have been promised a volume since Filter asked.
        let choices = self.choose(claims, node)?;
        let mut promised = self.promised.lock();
        for choice in &choices {
            if let Choice::Bind(claim, volume) = choice {
                promised.insert(
                    volume.metadata.name.clone().unwrap_or_default(),
                    claim.metadata.uid.clone().unwrap_or_default(),
                );
            }
        }
        drop(promised);
        state.put(CHOICES, choices);
        Ok(())
    }

    fn unreserve(&self, state: &CycleState, _: &PodInfo, _: &str) {
        let mut promised = self.promised.lock();
        for choice in state.get::<Vec<Choice>>(CHOICES).into_iter().flatten() {
            if let Choice::Bind(_, volume) = choice {
                promised.remove(volume.metadata.name.as_deref().unwrap_or_default());
            }
        }
    }

    async fn pre_bind(
        &self,
        state: &CycleState,
        pod: &PodInfo,
        node: &str,
    ) -> Result<(), Rejection> {
        let Some(choices) = state.get::<Vec<Choice>>(CHOICES) else {
            return Ok(());
        };
        let mut claims = self.claims.subscribe();
        for choice in choices {
            self.carry_out(choice, node)
                .await
                .map_err(Rejection::error)?;
        }
        let deadline = Instant::now() + self.timeout;
        while !self.all_bound(choices, node)? {
            // Each event is worth a look; so is the lack of any.
            if tokio::time::timeout_at(deadline, claims.next())
                .await
                .is_err()
            {
                return Err(Rejection::error(format!(
                    "binding volumes: timed out waiting for the claims of {}",
                    pod.key
                )));
            }
        }
        // What was promised is kept: the volumes say so themselves now.
        self.unreserve(state, pod, node);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
