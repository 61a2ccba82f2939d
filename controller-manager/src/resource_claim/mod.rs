//! ResourceClaims: made from templates for the pods that name those, noted as used by pods that are on a node, and freed when their
//! last pod is done.
//!
//! Allocating devices is left to the scheduler.

mod plan;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimTemplate};
use keelson_runtime::recorder::{Kind, reference};
use keelson_runtime::{Event, Informer, Key, Outcome, Queue, owners, write};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Error, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;

use crate::context::{Context, StartError};
use crate::controllers::Task;
use crate::pod;
use crate::pod_control::words;
use crate::pod_index::Pods;
use plan::Named;

const BY_CLAIM: &str = "resourceclaim";
const BY_TEMPLATE: &str = "resourceclaimtemplate";
const BY_OWNER: &str = "owner";
const FIELD_MANAGER: &str = "ResourceClaimController";

/// What is to be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    Pod(Key),
    Claim(Key),
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(key) => write!(f, "pod:{key}"),
            Self::Claim(key) => write!(f, "claim:{key}"),
        }
    }
}

/// Why a claim is not as it should be.
#[derive(Debug, thiserror::Error)]
enum ClaimError {
    #[error(transparent)]
    Api(#[from] Error),
    #[error("pod {pod}, PodResourceClaim {entry}: {why}")]
    Entry {
        pod: Key,
        entry: String,
        why: String,
    },
    #[error("{0}")]
    NotOwned(String),
}

struct Controller {
    context: Context,
    pods: Pods,
    claims: Informer<ResourceClaim>,
    templates: Informer<ResourceClaimTemplate>,
    /// The claims made last, by the pod's UID and its entry: the cache may not have them yet.
    made: Mutex<HashMap<(String, String), String>>,
    queue: Arc<Queue<Work>>,
}

fn in_namespace(pod: &Pod, name: &str) -> String {
    format!("{}/{name}", pod.namespace().unwrap_or_default())
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let controller = Arc::new(Controller {
        pods: Pods::of(&context.informers),
        claims: context.informers.get(),
        templates: context.informers.get(),
        made: Mutex::default(),
        queue: Queue::new("resource_claim"),
        context,
    });
    controller.pods.index_by(BY_CLAIM, |pod| {
        let names = plan::names(pod);
        names.iter().map(|name| in_namespace(pod, name)).collect()
    });
    controller.pods.index_by(BY_TEMPLATE, |pod| {
        plan::entries(pod)
            .iter()
            .filter_map(|entry| entry.resource_claim_template_name.as_deref())
            .map(|name| in_namespace(pod, name))
            .collect()
    });
    controller.claims.index_by(BY_OWNER, |claim| {
        owners::controller_of(&claim.metadata)
            .map(|owner| owner.uid.clone())
            .into_iter()
            .collect()
    });
    controller.listen();
    let workers = controller.context.options.workers.resource_claim;
    let (context, queue) = (controller.context.clone(), controller.queue.clone());
    let reconcile = move |work: Work| {
        let controller = controller.clone();
        async move {
            match work {
                Work::Pod(key) => controller.pod(&key).await,
                Work::Claim(key) => controller.claim(&key).await,
            }
        }
    };
    Ok(context.run(queue, workers, reconcile).boxed())
}

impl Controller {
    fn listen(self: &Arc<Self>) {
        let this = self.clone();
        self.pods.handle(move |event| {
            if let Event::Deleted(pod) = event {
                let uid = pod::uid(pod);
                this.made.lock().retain(|(of, _), _| of != uid);
                this.free(pod);
            } else if let Some(pod) = event.object() {
                this.wake(pod);
            }
        });
        let this = self.clone();
        self.claims.handle(move |event| {
            let Some(claim) = event.object() else {
                return;
            };
            let key = Key::of(&**claim);
            if matches!(event, Event::Deleted(_)) {
                this.made.lock().retain(|_, name| *name != key.name);
            } else {
                this.queue.add(Work::Claim(key.clone()));
            }
            for pod in this.pods.by_index(BY_CLAIM, &key.to_string()) {
                this.wake(&pod);
            }
        });
        let this = self.clone();
        self.templates.handle(move |event| {
            if let Event::Added(template) | Event::Updated { new: template, .. } = event {
                let key = Key::of(&**template).to_string();
                for pod in this.pods.by_index(BY_TEMPLATE, &key) {
                    this.wake(&pod);
                }
            }
        });
    }

    fn wake(&self, pod: &Pod) {
        if plan::is_done(pod) {
            self.free(pod);
        }
        if !plan::entries(pod).is_empty() && !pod::is_deleting(pod) {
            self.queue.add(Work::Pod(Key::of(pod)));
        }
    }

    /// Looks at the claims that a pod uses no longer.
    fn free(&self, pod: &Pod) {
        for name in plan::names(pod) {
            let namespace = pod.namespace().unwrap_or_default();
            self.queue.add(Work::Claim(Key::new(namespace, name)));
        }
    }

    fn api(&self, namespace: &str) -> Api<ResourceClaim> {
        Api::namespaced(self.context.client.clone(), namespace)
    }

    /// Makes the claims that a pod lacks, and notes it with those that it has.
    async fn pod(&self, key: &Key) -> Result<Outcome, ClaimError> {
        let Some(pod) = self.pods.get(key).filter(|pod| !pod::is_deleting(pod)) else {
            return Ok(Outcome::Done);
        };
        let mut made = Vec::new();
        for entry in plan::entries(&pod) {
            match self.provide(key, &pod, entry).await {
                Ok(Some(name)) => {
                    made.push(json!({"name": entry.name, "resourceClaimName": name}));
                }
                Ok(None) => {}
                Err(why) => {
                    let message = format!("PodResourceClaim {}: {why}", entry.name);
                    self.context.recorder.event(
                        &reference(&*pod),
                        Kind::Warning,
                        "FailedResourceClaimCreation",
                        message,
                    );
                    return Err(ClaimError::Entry {
                        pod: key.clone(),
                        entry: entry.name.clone(),
                        why,
                    });
                }
            }
        }
        if !made.is_empty() {
            let applied = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": key.name, "namespace": key.namespace},
                "status": {"resourceClaimStatuses": made}});
            let api = Api::<Pod>::namespaced(self.context.client.clone(), &key.namespace);
            let params = PatchParams::apply(FIELD_MANAGER).force();
            let written = api
                .patch_status(&key.name, &params, &Patch::Apply(applied))
                .await;
            write::optional(written)?;
        }
        if pod::node(&pod).is_empty() {
            return Ok(Outcome::Done);
        }
        // One that the scheduler didn't place has its claims reserved here.
        for entry in plan::entries(&pod) {
            let Named::Known { name, own } = plan::named(&pod, entry) else {
                continue;
            };
            let Some(claim) = self.claims.find(&key.namespace, &name) else {
                return Ok(Outcome::Done);
            };
            if let Some(why) = plan::not_for_pod(&pod, &claim).filter(|_| own) {
                return Err(ClaimError::NotOwned(why));
            }
            if !plan::is_done(&pod) && plan::lacks_consumer(&claim, &pod) {
                let mut next = (*claim).clone();
                let status = next.status.get_or_insert_default();
                status
                    .reserved_for
                    .get_or_insert_default()
                    .push(plan::consumer(&pod));
                self.api(&key.namespace)
                    .replace_status(&name, &PostParams::default(), &next)
                    .await?;
            }
        }
        Ok(Outcome::Done)
    }

    /// The name of the entry's claim, if that has to be written into the pod's status.
    async fn provide(
        &self,
        key: &Key,
        pod: &Pod,
        entry: &PodResourceClaim,
    ) -> Result<Option<String>, String> {
        match plan::named(pod, entry) {
            Named::Unneeded => return Ok(None),
            Named::Unsupported => {
                let why = "none of the supported fields are set";
                return Err(format!(
                    "checking for claim before creating it: pod claim {}: {why}",
                    entry.name
                ));
            }
            Named::Missing => {}
            Named::Known { name, own } => {
                let there = self.claims.find(&key.namespace, &name);
                if there.is_some_and(|claim| !own || plan::not_for_pod(pod, &claim).is_none()) {
                    return Ok(None);
                }
            }
        }
        let Some(template) = entry.resource_claim_template_name.as_deref() else {
            return Ok(None);
        };
        let uid = pod::uid(pod);
        let there = self.claims.by_index(BY_OWNER, uid);
        if let Some(claim) = there.iter().find(|claim| plan::is_for_entry(claim, entry)) {
            return Ok(Some(claim.name_any()));
        }
        let place = (uid.to_owned(), entry.name.clone());
        if let Some(name) = self.made.lock().get(&place) {
            return Ok(Some(name.clone()));
        }
        let Some(found) = self.templates.find(&key.namespace, template) else {
            return Err(format!(
                "resource claim template {template:?}: resourceclaimtemplate.resource.k8s.io {template:?} not found"
            ));
        };
        let claim = plan::from_template(pod, entry, &found);
        let created = self
            .api(&key.namespace)
            .create(&PostParams::default(), &claim)
            .await
            .map_err(|error| format!("create ResourceClaim : {}", words(&error)))?;
        self.made.lock().insert(place, created.name_any());
        Ok(Some(created.name_any()))
    }

    /// Whether a pod that is noted with a claim still needs it.
    async fn still_uses(&self, namespace: &str, name: &str, uid: &str) -> Result<bool, Error> {
        if let Some(pod) = self.pods.find(namespace, name) {
            return Ok(pod::uid(&pod) == uid && !plan::is_done(&pod));
        }
        // The cache may lag behind the scheduler: only the API server can say that a pod is gone.
        let api = Api::<Pod>::namespaced(self.context.client.clone(), namespace);
        let live = api.get_opt(name).await?;
        Ok(live.is_some_and(|pod| pod::uid(&pod) == uid))
    }

    /// Strikes those who don't use the claim any more; frees it after the last, and deletes it if it was made for a pod that is done.
    async fn claim(&self, key: &Key) -> Result<Outcome, ClaimError> {
        let Some(claim) = self.claims.get(key) else {
            return Ok(Outcome::Done);
        };
        let before = plan::consumers(&claim);
        let mut remaining = Vec::new();
        for consumer in before {
            if !plan::is_pod(consumer)
                || self
                    .still_uses(&key.namespace, &consumer.name, &consumer.uid)
                    .await?
            {
                remaining.push(consumer.clone());
            }
        }
        let ours = claim.finalizers().iter().any(|own| own == plan::FINALIZER);
        let unused = remaining.is_empty();
        let deleting = claim.metadata.deletion_timestamp.is_some();
        let mut next = (*claim).clone();
        let mut written = false;
        if remaining.len() < before.len() {
            let status = next.status.get_or_insert_default();
            status.reserved_for = Some(remaining);
            written = true;
        }
        let frees = unused && ours && (written || deleting);
        if let Some(status) = next.status.as_mut()
            && frees
            && status.allocation.is_some()
        {
            status.allocation = None;
            written = true;
        }
        let api = self.api(&key.namespace);
        if written {
            next = api
                .replace_status(&key.name, &PostParams::default(), &next)
                .await?;
        }
        if frees {
            next.finalizers_mut().retain(|own| own != plan::FINALIZER);
            let replaced = api.replace(&key.name, &PostParams::default(), &next).await;
            write::optional(replaced)?;
        }
        if unused
            && !deleting
            && let Some((name, uid)) = plan::owner(&claim)
            && let Some(pod) = self.pods.find(&key.namespace, name)
            && (pod::uid(&pod) != uid || plan::is_done(&pod))
        {
            let params = write::delete_params(claim.metadata.uid.as_deref(), None);
            write::optional(api.delete(&key.name, &params).await.map(drop))?;
        }
        Ok(Outcome::Done)
    }
}
