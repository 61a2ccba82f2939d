//! StatefulSets: pods with names, places and volumes of their own, which come and go in order.

mod identity;
mod plan;
mod retention;
mod writes;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use keelson_api::selector::Selector;
use keelson_runtime::{Event, Informer, Key, Outcome, Queue, owners, write};
use kube::{Api, Error, ResourceExt};

use crate::adoption;
use crate::context::{Context, StartError, now};
use crate::controllers::Task;
use crate::pod;
use crate::pod_index::Pods;
use crate::revision::{self, History, RevisionError, Subject};
use plan::{Change, Snapshot};
use writes::{WriteError, Writer};

/// Why a set is not as it should be.
#[derive(Debug, thiserror::Error)]
enum SetError {
    #[error(transparent)]
    Api(#[from] Error),
    #[error(transparent)]
    Revision(#[from] RevisionError),
    #[error(transparent)]
    Write(#[from] WriteError),
}

struct Controller {
    context: Context,
    sets: Informer<StatefulSet>,
    revisions: Informer<ControllerRevision>,
    pods: Pods,
    claims: Informer<PersistentVolumeClaim>,
    queue: Arc<Queue<Key>>,
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let controller = Arc::new(Controller {
        sets: context.informers.get(),
        revisions: revision::informer(&context.informers),
        pods: Pods::of(&context.informers),
        claims: context.informers.get(),
        queue: Queue::new("statefulset"),
        context,
    });
    controller.listen();
    let workers = controller.context.options.workers.stateful_set;
    let (context, queue) = (controller.context.clone(), controller.queue.clone());
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    };
    Ok(context.run(queue, workers, reconcile).boxed())
}

fn selector_of(set: &StatefulSet) -> Option<Selector> {
    Selector::from_label_selector(set.spec.as_ref().map(|spec| &spec.selector)).ok()
}

impl Controller {
    fn listen(self: &Arc<Self>) {
        let this = self.clone();
        self.sets.handle(move |event| {
            if let Some(set) = event.object() {
                this.queue.add(Key::of(&**set));
            }
        });
        let this = self.clone();
        self.pods.handle(move |event| {
            if let Event::Updated { old, new } = event
                && old.metadata.owner_references != new.metadata.owner_references
            {
                this.wake(old);
            }
            if let Some(pod) = event.object() {
                this.wake(pod);
            }
        });
        let this = self.clone();
        self.claims.handle(move |event| {
            if let Event::Deleted(claim) = event {
                let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
                for set in this.sets.list_namespace(namespace) {
                    if identity::may_have(&set, claim) {
                        this.queue.add(Key::of(&*set));
                    }
                }
            }
        });
    }

    fn wake(&self, pod: &Pod) {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        if let Some(owner) = owners::controller_of(&pod.metadata) {
            if owner.kind == "StatefulSet" {
                self.queue.add(Key::new(namespace, owner.name.clone()));
            }
            return;
        }
        for set in self.sets.list_namespace(namespace) {
            let own = plan::ordinal(&set, pod).is_some();
            if own && selector_of(&set).is_some_and(|selector| selector.matches(pod.labels())) {
                self.queue.add(Key::of(&*set));
            }
        }
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, SetError> {
        let Some(set) = self.sets.get(key) else {
            return Ok(Outcome::Done);
        };
        let Some(selector) = selector_of(&set).filter(|selector| !selector.is_empty()) else {
            return Ok(Outcome::Done);
        };
        let client = &self.context.client;
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        let candidates = self
            .pods
            .owned_by(uid)
            .into_iter()
            .chain(self.pods.orphans(&key.namespace));
        let candidates = candidates.filter(|pod| plan::ordinal(&set, pod).is_some());
        let pods = adoption::claim(client, &*set, &selector, candidates, |_| true).await?;
        let template = set.spec.clone().unwrap_or_default().template;
        let collisions = set
            .status
            .as_ref()
            .and_then(|status| status.collision_count);
        let subject = Subject {
            owner: &*set,
            selector: &selector,
            template: &template,
            collisions,
        };
        let history = match revision::history(client, &self.revisions, &subject).await {
            Err(RevisionError::Collision) => {
                self.count_collision(&set).await?;
                return Err(RevisionError::Collision.into());
            }
            other => other?,
        };
        let update = history.current.name_any();
        let current = current_revision(&set, &history);
        let snapshot = Snapshot {
            set: &set,
            pods: &pods,
            current: &current.name_any(),
            update: &update,
            now: now(),
        };
        let plan = plan::plan(&snapshot);
        let result = self.carry_out(&set, &pods, &history, plan.changes).await;
        let api = Api::<StatefulSet>::namespaced(client.clone(), &key.namespace);
        write::update_status(&api, &*set, |set| {
            let changed = set.status.as_ref() != Some(&plan.status);
            set.status = Some(plan.status.clone());
            changed
        })
        .await?;
        result?;
        let mut live: HashSet<String> = pods
            .iter()
            .filter_map(|pod| pod.labels().get(revision::HASH).cloned())
            .collect();
        live.insert(current.name_any());
        let limit = set
            .spec
            .as_ref()
            .and_then(|spec| spec.revision_history_limit)
            .unwrap_or(10);
        // Pods carry the revision's whole name here, and revisions only its end.
        let prefix = format!("{}-", key.name);
        revision::clean_up(client, &history, limit, |hash| {
            live.contains(&format!("{prefix}{hash}"))
        })
        .await?;
        let seconds = set
            .spec
            .as_ref()
            .and_then(|spec| spec.min_ready_seconds)
            .unwrap_or(0);
        let waiting = seconds > 0
            && plan.status.ready_replicas.unwrap_or(0)
                != plan.status.available_replicas.unwrap_or(0);
        let pause = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        Ok(if waiting {
            Outcome::After(pause)
        } else {
            Outcome::Done
        })
    }

    async fn count_collision(&self, set: &StatefulSet) -> Result<(), Error> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let api = Api::<StatefulSet>::namespaced(self.context.client.clone(), namespace);
        let count = |set: &mut StatefulSet| {
            let status = set.status.get_or_insert_default();
            status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
            true
        };
        write::update_status(&api, set, count).await.map(drop)
    }

    async fn carry_out(
        &self,
        set: &StatefulSet,
        pods: &[Arc<Pod>],
        history: &History,
        changes: Vec<Change>,
    ) -> Result<(), WriteError> {
        let context = &self.context;
        let writer = Writer::new(&context.client, &context.recorder, &self.claims, set);
        if set.metadata.deletion_timestamp.is_none() {
            for pod in pods.iter().filter(|pod| !pod::is_terminal(pod)) {
                writer.mend(pod).await?;
            }
        }
        for change in changes {
            match change {
                // The claim's end brings us back.
                Change::Create(ordinal, _) if writer.waits_for_claims(ordinal) => {}
                Change::Create(ordinal, name) => {
                    let revision = history
                        .old
                        .iter()
                        .find(|revision| revision.name_any() == name)
                        .map_or(&history.current, |revision| &**revision);
                    writer.create(ordinal, revision).await?;
                }
                Change::Delete(pod) => writer.delete(&pod).await?,
            }
        }
        Ok(())
    }
}

/// The revision that the set comes from: the one its status names, as long as that is kept.
fn current_revision(set: &StatefulSet, history: &History) -> ControllerRevision {
    let name = set
        .status
        .as_ref()
        .and_then(|status| status.current_revision.as_deref());
    history
        .old
        .iter()
        .find(|revision| revision.metadata.name.as_deref() == name)
        .map_or_else(|| history.current.clone(), |revision| (**revision).clone())
}
