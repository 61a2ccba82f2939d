//! ReplicaSets and ReplicationControllers: so many equal pods, no more and no less.
//!
//! What to do is decided in [`plan`]; this adopts and releases pods, carries the plan out under expectations, and writes the status.

mod kinds;
mod plan;

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use keelson_runtime::expectations::Expectations;
use keelson_runtime::owners;
use keelson_runtime::recorder::reference;
use keelson_runtime::{Event, Informer, Key, Outcome, Queue, write};
use kube::{Api, Error, ResourceExt};

use crate::adoption;
use crate::context::{Context, StartError, now};
use crate::controllers::Task;
use crate::pod;
use crate::pod_control::{PodControl, all_at_once, from_template, slow_start, words};
use crate::pod_index::Pods;
use kinds::{Failure, Replicated};
use plan::{Change, Snapshot};

const SIBLINGS: &str = "controller";

struct Controller<R> {
    context: Context,
    sets: Informer<R>,
    pods: Pods,
    queue: Arc<Queue<Key>>,
    expectations: Expectations,
    control: PodControl,
}

/// Starts the controller of one of the two kinds.
pub fn start<R: Replicated>(context: Context) -> Result<Task, StartError> {
    let sets = context.informers.get::<R>();
    sets.index_by(SIBLINGS, |set| {
        owners::controller_of(set.meta())
            .map(|owner| owner.uid.clone())
            .into_iter()
            .collect()
    });
    let controller = Arc::new(Controller {
        sets,
        pods: Pods::of(&context.informers),
        queue: Queue::new(R::QUEUE),
        expectations: Expectations::default(),
        control: PodControl::new(context.client.clone(), context.recorder.clone()),
        context,
    });
    controller.listen();
    let workers = R::workers(&controller.context.options.workers);
    let (context, queue) = (controller.context.clone(), controller.queue.clone());
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    };
    Ok(context.run(queue, workers, reconcile).boxed())
}

impl<R: Replicated> Controller<R> {
    fn listen(self: &Arc<Self>) {
        let this = self.clone();
        self.sets.handle(move |event| {
            let Some(set) = event.object() else { return };
            let key = Key::of(&**set);
            if matches!(event, Event::Deleted(_)) {
                this.expectations.forget(&key);
            }
            this.queue.add(key);
        });
        let this = self.clone();
        self.pods.handle(move |event| match event {
            Event::Added(pod) if pod::is_deleting(pod) => this.pod_gone(pod),
            Event::Added(pod) => match this.owner_key(pod) {
                Some(key) => {
                    this.expectations.created(&key);
                    this.queue.add(key);
                }
                None => this.wake_matching(pod),
            },
            Event::Updated { old, new } => this.pod_changed(old, new),
            Event::Deleted(pod) => this.pod_gone(pod),
            Event::Resync => {}
        });
    }

    /// The key of the set that controls the pod, if it is of this kind and still the same one.
    fn owner_key(&self, pod: &Pod) -> Option<Key> {
        let owner = owners::controller_of(&pod.metadata)?;
        if owner.kind != R::KIND || owner.api_version != R::api_version(&()) {
            return None;
        }
        let key = Key::new(pod.metadata.namespace.clone()?, owner.name.clone());
        let set = self.sets.get(&key)?;
        (set.meta().uid.as_deref() == Some(&owner.uid)).then_some(key)
    }

    fn wake_matching(&self, pod: &Pod) {
        if owners::controller_of(&pod.metadata).is_some() {
            return;
        }
        for set in self
            .sets
            .list_namespace(pod.metadata.namespace.as_deref().unwrap_or_default())
        {
            if set
                .selector()
                .is_ok_and(|selector| selector.matches(pod.labels()))
            {
                self.queue.add(Key::of(&*set));
            }
        }
    }

    fn pod_changed(&self, old: &Pod, new: &Pod) {
        if pod::is_deleting(new) {
            self.pod_gone(new);
            return;
        }
        let (before, after) = (self.owner_key(old), self.owner_key(new));
        if before != after
            && let Some(key) = before
        {
            self.queue.add(key);
        }
        match after {
            Some(key) => self.queue.add(key),
            None if old.metadata.labels != new.metadata.labels
                || old.metadata.owner_references != new.metadata.owner_references =>
            {
                self.wake_matching(new);
            }
            None => {}
        }
    }

    fn pod_gone(&self, pod: &Pod) {
        if let Some(key) = self.owner_key(pod) {
            self.expectations.deleted(&key, pod::uid(pod));
            self.queue.add(key);
        }
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let Some(set) = self.sets.get(key) else {
            self.expectations.forget(key);
            return Ok(Outcome::Done);
        };
        let Ok(selector) = set.selector() else {
            // Validation doesn't let such a selector in; were it there, trying again would not help.
            return Ok(Outcome::Done);
        };
        let sync = self.expectations.satisfied(key);
        let candidates = self
            .pods
            .owned_by(set.meta().uid.as_deref().unwrap_or_default());
        let candidates = candidates
            .into_iter()
            .chain(self.pods.orphans(&key.namespace));
        let pods = adoption::claim(
            &self.context.client,
            &*set,
            &selector,
            candidates,
            pod::is_active,
        )
        .await?;
        let related = self.related(&set, &pods);
        let template = set.template().cloned().unwrap_or_default();
        let labels = template
            .metadata
            .as_ref()
            .and_then(|meta| meta.labels.as_ref());
        let snapshot = Snapshot {
            wanted: set.wanted(),
            min_ready_seconds: set.min_ready_seconds(),
            template_labels: labels,
            pods: &pods,
            related: &related,
            now: now(),
        };
        let mut failure = None;
        if sync && set.meta().deletion_timestamp.is_none() {
            failure = self.carry_out(key, &set, plan::plan(&snapshot)).await;
        }
        let counts = plan::count(&snapshot);
        let reported = failure.as_ref().map(|(failure, _)| failure.clone());
        let api = Api::<R>::namespaced(self.context.client.clone(), &key.namespace);
        write::update_status(&api, &set, |set| {
            set.report(&counts, reported.as_ref(), Time(snapshot.now))
        })
        .await?;
        if let Some((_, error)) = failure {
            return Err(error);
        }
        Ok(plan::next_available(&snapshot).map_or(Outcome::Done, Outcome::After))
    }

    fn related(&self, set: &R, own: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
        let Some(owner) = owners::controller_of(set.meta()) else {
            return own.to_vec();
        };
        self.sets
            .by_index(SIBLINGS, &owner.uid)
            .iter()
            .filter_map(|sibling| sibling.meta().uid.clone())
            .flat_map(|uid| self.pods.owned_by(&uid))
            .collect()
    }

    async fn carry_out(&self, key: &Key, set: &R, change: Change) -> Option<(Failure, Error)> {
        let about = reference(set);
        match change {
            Change::Nothing => None,
            Change::Create(count) => {
                self.expectations.expect(key, count, []);
                let owner: OwnerReference = owners::controller_ref(set);
                let template = set.template().cloned().unwrap_or_default();
                let pod = Arc::new(from_template(&template, &key.namespace, &key.name, owner));
                let (control, about) = (self.control.clone(), Arc::new(about));
                let (done, error) = slow_start(count, move |_| {
                    let (control, about, pod) = (control.clone(), about.clone(), pod.clone());
                    async move { control.create(&about, &pod).await.map(drop) }
                })
                .await;
                // What was not created will never be seen.
                self.expectations.created_many(key, count - done);
                match error {
                    Some(error) if write::is_namespace_terminating(&error) => None,
                    error => error.map(|error| (failure("FailedCreate", &error), error)),
                }
            }
            Change::Delete(pods) => {
                self.expectations
                    .expect(key, 0, pods.iter().map(|pod| pod::uid(pod).to_owned()));
                let (control, about) = (self.control.clone(), Arc::new(about));
                let failed = all_at_once(pods, move |pod| {
                    let (control, about) = (control.clone(), about.clone());
                    async move {
                        control
                            .delete(&about, &pod)
                            .await
                            .map_err(|error| (pod, error))
                    }
                })
                .await;
                for (pod, _) in &failed {
                    self.expectations.deleted(key, pod::uid(pod));
                }
                let (_, error) = failed.into_iter().next()?;
                Some((failure("FailedDelete", &error), error))
            }
        }
    }
}

fn failure(reason: &'static str, error: &Error) -> Failure {
    Failure {
        reason,
        message: words(error),
    }
}
