//! Deployments: rolling from one ReplicaSet to the next.
//!
//! [`plan`] decides; this finds the ReplicaSets, writes what was decided and records the events.

mod plan;
mod sets;
pub(crate) use sets::hash;
mod status;

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keelson_api::selector::Selector;
use keelson_runtime::recorder::{Kind, reference};
use keelson_runtime::{Event, Informer, Key, Outcome, Queue, owners, write};
use kube::api::{PostParams, PropagationPolicy};
use kube::{Api, Error, Resource, ResourceExt};
use serde_json::json;

use crate::adoption;
use crate::context::{Context, StartError, now};
use crate::controllers::Task;
use crate::pod;
use crate::pod_control::words;
use crate::pod_index::Pods;
use plan::{Change, Snapshot};

const BY_OWNER: &str = "deployment";

struct Controller {
    context: Context,
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    pods: Pods,
    queue: Arc<Queue<Key>>,
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let sets = context.informers.get::<ReplicaSet>();
    sets.index_by(BY_OWNER, |set| {
        vec![match owners::controller_of(&set.metadata) {
            Some(owner) => owner.uid.clone(),
            None => orphans_of(set.metadata.namespace.as_deref().unwrap_or_default()),
        }]
    });
    let controller = Arc::new(Controller {
        deployments: context.informers.get(),
        sets,
        pods: Pods::of(&context.informers),
        queue: Queue::new("deployment"),
        context,
    });
    controller.listen();
    let workers = controller.context.options.workers.deployment;
    let (context, queue) = (controller.context.clone(), controller.queue.clone());
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    };
    Ok(context.run(queue, workers, reconcile).boxed())
}

fn orphans_of(namespace: &str) -> String {
    // No UID holds a slash.
    format!("/{namespace}")
}

fn selector_of(deployment: &Deployment) -> Option<Selector> {
    Selector::from_label_selector(deployment.spec.as_ref().map(|spec| &spec.selector)).ok()
}

impl Controller {
    fn listen(self: &Arc<Self>) {
        let this = self.clone();
        self.deployments.handle(move |event| {
            if let Some(deployment) = event.object() {
                this.queue.add(Key::of(&**deployment));
            }
        });
        let this = self.clone();
        self.sets.handle(move |event| {
            if let Event::Updated { old, new } = event
                && old.metadata.owner_references != new.metadata.owner_references
            {
                this.wake_for_set(old);
            }
            if let Some(set) = event.object() {
                this.wake_for_set(set);
            }
        });
        let this = self.clone();
        self.pods.handle(move |event| {
            if let Event::Deleted(pod) = event {
                this.wake_for_ended_pod(pod);
            } else if let Event::Updated { old, new } = event
                && pod::is_terminal(new)
                && !pod::is_terminal(old)
            {
                this.wake_for_ended_pod(new);
            }
        });
    }

    fn wake_for_set(&self, set: &ReplicaSet) {
        if owners::controller_of(&set.metadata).is_some() {
            if let Some(deployment) = self.owner(&set.metadata) {
                self.queue.add(Key::of(&*deployment));
            }
            return;
        }
        for deployment in self
            .deployments
            .list_namespace(set.metadata.namespace.as_deref().unwrap_or_default())
        {
            let matches = selector_of(&deployment)
                .is_some_and(|selector| !selector.is_empty() && selector.matches(set.labels()));
            if matches {
                self.queue.add(Key::of(&*deployment));
            }
        }
    }

    /// A Deployment that recreates waits for the end of its old pods.
    fn wake_for_ended_pod(&self, pod: &Pod) {
        let Some(owner) =
            owners::controller_of(&pod.metadata).filter(|owner| owner.kind == "ReplicaSet")
        else {
            return;
        };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let deployment = self
            .sets
            .find(namespace, &owner.name)
            .filter(|set| set.metadata.uid.as_deref() == Some(&owner.uid))
            .and_then(|set| self.owner(&set.metadata));
        if let Some(deployment) = deployment.filter(|deployment| !sets::is_rolling(deployment)) {
            self.queue.add(Key::of(&*deployment));
        }
    }

    fn owner(&self, meta: &ObjectMeta) -> Option<Arc<Deployment>> {
        let owner = owners::controller_of(meta).filter(|owner| owner.kind == "Deployment")?;
        let deployment = self
            .deployments
            .find(meta.namespace.as_deref()?, &owner.name)?;
        (deployment.metadata.uid.as_deref() == Some(&owner.uid)).then_some(deployment)
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let Some(deployment) = self.deployments.get(key) else {
            return Ok(Outcome::Done);
        };
        let Some(selector) = selector_of(&deployment) else {
            return Ok(Outcome::Done);
        };
        let about = reference(&*deployment);
        if selector.is_empty() {
            let message =
                "This deployment is selecting all pods. A non-empty selector is required.";
            self.context
                .recorder
                .event(&about, Kind::Warning, "SelectingAll", message);
            return Ok(Outcome::Done);
        }
        let candidates = self.sets.by_index(
            BY_OWNER,
            deployment.metadata.uid.as_deref().unwrap_or_default(),
        );
        let candidates = candidates
            .into_iter()
            .chain(self.sets.by_index(BY_OWNER, &orphans_of(&key.namespace)));
        let sets = adoption::claim(
            &self.context.client,
            &*deployment,
            &selector,
            candidates,
            |_| true,
        )
        .await?;
        let running = sets
            .iter()
            .filter_map(|set| set.metadata.uid.clone())
            .filter(|uid| {
                self.pods
                    .owned_by(uid)
                    .iter()
                    .any(|pod| !pod::is_terminal(pod))
            });
        let plan = plan::plan(Snapshot {
            running: running.collect(),
            sets: sets.iter().map(|set| (**set).clone()).collect(),
            deployment: (*deployment).clone(),
            now: now(),
        });
        for change in plan.changes {
            self.carry_out(&deployment, &about, change).await?;
        }
        self.write(&deployment, plan.deployment).await?;
        Ok(plan.again.map_or(Outcome::Done, Outcome::After))
    }

    async fn carry_out(
        &self,
        deployment: &Deployment,
        about: &ObjectReference,
        change: Change,
    ) -> Result<(), Error> {
        let namespace = deployment.metadata.namespace.as_deref().unwrap_or_default();
        let api = Api::<ReplicaSet>::namespaced(self.context.client.clone(), namespace);
        match change {
            Change::Create(set) => self.create(deployment, about, &api, &set).await,
            Change::Update {
                name,
                patch,
                scaled,
            } => {
                write::patch_merge(&api, &name, &patch).await?;
                if let Some((from, to)) = scaled {
                    let direction = if to > from { "up" } else { "down" };
                    let message =
                        format!("Scaled {direction} replica set {name} from {from} to {to}");
                    self.context
                        .recorder
                        .event(about, Kind::Normal, "ScalingReplicaSet", message);
                }
                Ok(())
            }
            Change::Delete { name, uid } => {
                let params =
                    write::delete_params(uid.as_deref(), Some(PropagationPolicy::Background));
                write::optional(api.delete(&name, &params).await).map(drop)
            }
        }
    }

    async fn create(
        &self,
        deployment: &Deployment,
        about: &ObjectReference,
        api: &Api<ReplicaSet>,
        set: &ReplicaSet,
    ) -> Result<(), Error> {
        let name = set.name_any();
        let error = match api.create(&PostParams::default(), set).await {
            Ok(_) => {
                let size = sets::size(set);
                if size > 0 {
                    let message = format!("Scaled up replica set {name} from 0 to {size}");
                    self.context
                        .recorder
                        .event(about, Kind::Normal, "ScalingReplicaSet", message);
                }
                return Ok(());
            }
            Err(error) => error,
        };
        if write::is_already_exists(&error) {
            let present = api.get_opt(&name).await?;
            let own = present.as_ref().is_some_and(|present| {
                owners::is_controlled_by(
                    &present.metadata,
                    deployment.metadata.uid.as_deref().unwrap_or_default(),
                ) && match (&present.spec, &set.spec) {
                    (Some(a), Some(b)) => sets::same(
                        &a.template.clone().unwrap_or_default(),
                        &b.template.clone().unwrap_or_default(),
                    ),
                    _ => false,
                }
            });
            if !own && present.is_some() {
                // Another template has the same hash: the next try is salted.
                self.update(deployment, |deployment| {
                    let status = deployment.status.get_or_insert_default();
                    status.collision_count =
                        Some(status.collision_count.unwrap_or(0).saturating_add(1));
                    true
                })
                .await?;
            }
            // The cache will know the set soon, and with it the rest is planned again.
            return if own { Ok(()) } else { Err(error) };
        }
        if !write::is_namespace_terminating(&error) {
            let mut message = String::new();
            self.update(deployment, |deployment| {
                message = status::note_create_failed(deployment, &name, &words(&error), now());
                true
            })
            .await?;
            self.context
                .recorder
                .event(about, Kind::Warning, "ReplicaSetCreateError", message);
        }
        Err(error)
    }

    async fn update(
        &self,
        deployment: &Deployment,
        change: impl FnMut(&mut Deployment) -> bool,
    ) -> Result<Option<Deployment>, Error> {
        let namespace = deployment.metadata.namespace.as_deref().unwrap_or_default();
        let api = Api::<Deployment>::namespaced(self.context.client.clone(), namespace);
        write::update_status(&api, deployment, change).await
    }

    /// Writes status and revision, both through the status subresource as upstream does.
    async fn write(&self, before: &Deployment, after: Deployment) -> Result<(), Error> {
        let revision = after.annotations().get(sets::REVISION).cloned();
        let same = |deployment: &Deployment| {
            deployment.status == after.status
                && deployment.annotations().get(sets::REVISION) == revision.as_ref()
        };
        if same(before) {
            return Ok(());
        }
        let namespace = before.metadata.namespace.as_deref().unwrap_or_default();
        let api = Api::<Deployment>::namespaced(self.context.client.clone(), namespace);
        let mut wanted = before.clone();
        wanted.status.clone_from(&after.status);
        wanted
            .metadata
            .annotations
            .clone_from(&after.metadata.annotations);
        // A conflict means that the plan was made from an old copy: the newer one is on its way.
        let written = write::optional(
            api.replace_status(&before.name_any(), &PostParams::default(), &wanted)
                .await,
        )?;
        if let (Some(written), Some(revision)) = (written, revision)
            && written.annotations().get(sets::REVISION) != Some(&revision)
        {
            let patch = json!({"metadata": {"uid": before.meta().uid, "annotations": {sets::REVISION: revision}}});
            write::optional(write::patch_merge(&api, &before.name_any(), &patch).await)?;
        }
        Ok(())
    }
}
