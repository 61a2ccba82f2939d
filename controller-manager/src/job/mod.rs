//! Jobs: pods that run to their end, each counted exactly once.
//!
//! A pod that ended keeps a finalizer until its UID is in the Job's status; when the finalizer is off, the count goes up and the UID
//! goes. A crash in between loses nothing and counts nothing twice.

mod failure;
mod indexes;
mod plan;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use keelson_api::selector::Selector;
use keelson_runtime::expectations::Expectations;
use keelson_runtime::recorder::{Kind, reference};
use keelson_runtime::{Event, Informer, Key, Outcome, Queue, owners, write};
use kube::api::PostParams;
use kube::{Api, Error, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

pub(crate) use plan::is_finished;

use crate::adoption;
use crate::context::{Context, StartError, now};
use crate::controllers::Task;
use crate::pod;
use crate::pod_control::{PodControl, all_at_once, from_template, slow_start};
use crate::pod_index::Pods;
use plan::{FINALIZER, INDEX, INDEX_FAILURES, Plan, Snapshot};

/// The value of `managedBy` that means this controller.
const MANAGER: &str = "kubernetes.io/job-controller";

struct Controller {
    context: Context,
    jobs: Informer<Job>,
    pods: Pods,
    queue: Arc<Queue<Key>>,
    expectations: Expectations,
    control: PodControl,
    released: Mutex<HashSet<String>>,
    /// Failures in a row, and when the last was seen.
    failures: Mutex<HashMap<Key, (u32, Instant)>>,
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let controller = Arc::new(Controller {
        jobs: context.informers.get(),
        pods: Pods::of(&context.informers),
        queue: Queue::new("job"),
        expectations: Expectations::default(),
        control: PodControl::new(context.client.clone(), context.recorder.clone()),
        released: Mutex::new(HashSet::new()),
        failures: Mutex::new(HashMap::new()),
        context,
    });
    controller.listen();
    let workers = controller.context.options.workers.job;
    let (context, queue) = (controller.context.clone(), controller.queue.clone());
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    };
    Ok(context.run(queue, workers, reconcile).boxed())
}

fn job_of(pod: &Pod) -> Option<&OwnerReference> {
    owners::controller_of(&pod.metadata)
        .filter(|owner| owner.kind == "Job" && owner.api_version.starts_with("batch/"))
}

fn is_held(pod: &Pod) -> bool {
    pod.finalizers()
        .iter()
        .any(|finalizer| finalizer == FINALIZER)
}

impl Controller {
    fn listen(self: &Arc<Self>) {
        let this = self.clone();
        self.jobs.handle(move |event| {
            let Some(job) = event.object() else { return };
            let key = Key::of(&**job);
            if matches!(event, Event::Deleted(_)) {
                this.expectations.forget(&key);
                this.failures.lock().remove(&key);
                // Its pods must not be held by a finalizer that nobody takes off any more.
                for pod in this
                    .pods
                    .owned_by(job.metadata.uid.as_deref().unwrap_or_default())
                {
                    this.queue.add(Key::of(&*pod));
                }
            }
            this.queue.add(key);
        });
        let this = self.clone();
        self.pods.handle(move |event| {
            let Some(pod) = event.object() else { return };
            let Some(owner) = job_of(pod) else {
                // Let go by its Job: nobody else takes the finalizer off.
                if is_held(pod) {
                    this.queue.add(Key::of(&**pod));
                }
                if let Event::Updated { old, .. } = event
                    && let Some(owner) = job_of(old)
                {
                    let namespace = old.metadata.namespace.as_deref().unwrap_or_default();
                    this.queue.add(Key::new(namespace, owner.name.clone()));
                }
                this.wake_matching(pod);
                return;
            };
            let key = Key::new(
                pod.metadata.namespace.as_deref().unwrap_or_default(),
                owner.name.clone(),
            );
            match event {
                Event::Added(pod) if !pod::is_deleting(pod) => this.expectations.created(&key),
                Event::Deleted(pod) => this.expectations.deleted(&key, pod::uid(pod)),
                _ if pod::is_deleting(pod) => this.expectations.deleted(&key, pod::uid(pod)),
                _ => {}
            }
            if matches!(event, Event::Deleted(_)) || !is_held(pod) {
                this.released.lock().remove(pod::uid(pod));
            }
            let alone = self::is_held(pod)
                && this
                    .jobs
                    .get(&key)
                    .is_none_or(|job| job.metadata.uid.as_deref() != Some(&owner.uid));
            this.queue.add(if alone { Key::of(&**pod) } else { key });
        });
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        if let Some(pod) = self.pods.get(key)
            && self.is_abandoned(&pod)
        {
            self.release(&pod).await?;
        }
        let Some(job) = self.jobs.get(key) else {
            return Ok(Outcome::Done);
        };
        let spec = plan::spec(&job);
        if spec
            .managed_by
            .as_deref()
            .is_some_and(|manager| manager != MANAGER)
        {
            return Ok(Outcome::Done);
        }
        let Ok(selector) = Selector::from_label_selector(spec.selector.as_ref()) else {
            return Ok(Outcome::Done);
        };
        let uid = job.metadata.uid.as_deref().unwrap_or_default();
        let candidates = self
            .pods
            .owned_by(uid)
            .into_iter()
            .chain(self.pods.orphans(&key.namespace));
        let pods = adoption::claim_with(
            &self.context.client,
            &*job,
            &selector,
            candidates,
            pod::is_active,
            &[FINALIZER],
        )
        .await?;
        let sync = self.expectations.satisfied(key);
        let released = self.released.lock().clone();
        let mut plan = plan::plan(&Snapshot {
            job: &job,
            pods: &pods,
            released: &released,
            now: now(),
        });
        if !sync {
            // What was created or deleted before is still to be seen.
            plan.create.clear();
            plan.delete.clear();
        }
        // Indexes that are retried one by one wait one by one, which the plan sees to.
        let pause = if spec.backoff_limit_per_index.is_some() {
            None
        } else {
            self.back_off(key, &pods, &released, &mut plan)
        };
        self.settle(&job, &mut plan).await?;
        let active_before = plan.counted.active;
        self.carry_out(key, &job, &plan).await?;
        if !plan.create.is_empty() && active_before.is_none() {
            tracing::debug!(job = %key, "started");
        }
        let again = [plan.again, pause].into_iter().flatten().min();
        Ok(again.map_or(Outcome::Done, Outcome::After))
    }

    /// A pod without a controller may be one for a Job to take.
    fn wake_matching(&self, pod: &Pod) {
        if owners::controller_of(&pod.metadata).is_some() || !pod::is_active(pod) {
            return;
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        for job in self.jobs.list_namespace(namespace) {
            let selector = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            if selector.is_some()
                && Selector::from_label_selector(selector)
                    .is_ok_and(|selector| selector.matches(pod.labels()))
            {
                self.queue.add(Key::of(&*job));
            }
        }
    }

    /// Whether the pod has no Job, or one that is gone.
    fn is_abandoned(&self, pod: &Pod) -> bool {
        let Some(owner) = job_of(pod) else {
            return is_held(pod);
        };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        is_held(pod)
            && self
                .jobs
                .find(namespace, &owner.name)
                .is_none_or(|job| job.metadata.uid.as_deref() != Some(&owner.uid))
    }

    /// After failures new pods wait, longer each time; a success starts over.
    fn back_off(
        &self,
        key: &Key,
        pods: &[Arc<Pod>],
        released: &HashSet<String>,
        plan: &mut Plan,
    ) -> Option<Duration> {
        let fresh = |phase: &str| {
            pods.iter()
                .filter(|pod| {
                    pod::phase(pod) == phase && is_held(pod) && !released.contains(pod::uid(pod))
                })
                .count()
        };
        let mut failures = self.failures.lock();
        if fresh("Succeeded") > 0 {
            failures.remove(key);
        }
        let failed = u32::try_from(fresh("Failed")).unwrap_or(u32::MAX);
        if failed > 0 {
            let entry = failures.entry(key.clone()).or_insert((0, Instant::now()));
            *entry = (entry.0.saturating_add(failed), Instant::now());
        }
        let (count, since) = failures.get(key).copied()?;
        let delay = plan::retry_pause(i32::try_from(count).unwrap_or(i32::MAX));
        let left = delay.saturating_sub(since.elapsed());
        if left.is_zero() || plan.create.is_empty() {
            return None;
        }
        plan.create.clear();
        Some(left)
    }

    /// Notes what ended, takes the finalizers off, and counts.
    async fn settle(&self, job: &Job, plan: &mut Plan) -> Result<(), Error> {
        let mut current = job.clone();
        if !plan.release.is_empty() {
            current = self.write(current, &plan.noted).await?;
            let mut result = Ok(());
            for pod in &plan.release {
                result = result.and(self.release(pod).await);
            }
            // Those that lost theirs are known, and the rest is tried again before anything is counted.
            result?;
        }
        self.write(current, &plan.counted).await?;
        if let Some((reason, kind, message)) = plan.over.take() {
            let about = reference(job);
            let recorder = &self.context.recorder;
            match kind.as_str() {
                "Complete" => recorder.event(&about, Kind::Normal, "Completed", message),
                "Failed" => recorder.event(&about, Kind::Warning, reason, message),
                _ => recorder.event(&about, Kind::Normal, reason, message),
            }
        }
        Ok(())
    }

    /// A conflict means that the plan was made from an old copy; the newer one is on its way.
    async fn write(&self, mut job: Job, status: &JobStatus) -> Result<Job, Error> {
        if job.status.as_ref() == Some(status) {
            return Ok(job);
        }
        job.status = Some(status.clone());
        let api = Api::<Job>::namespaced(
            self.context.client.clone(),
            &job.namespace().unwrap_or_default(),
        );
        api.replace_status(&job.name_any(), &PostParams::default(), &job)
            .await
    }

    async fn release(&self, pod: &Pod) -> Result<(), Error> {
        let api = Api::<Pod>::namespaced(
            self.context.client.clone(),
            &pod.namespace().unwrap_or_default(),
        );
        let patch = json!({"metadata": {"uid": pod.metadata.uid, "$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
        match write::patch_strategic(&api, &pod.name_any(), &patch).await {
            Ok(_) => {
                self.released.lock().insert(pod::uid(pod).to_owned());
                Ok(())
            }
            Err(error) if write::is_not_found(&error) || write::is_conflict(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn carry_out(&self, key: &Key, job: &Job, plan: &Plan) -> Result<(), Error> {
        if plan.create.is_empty() && plan.delete.is_empty() {
            return Ok(());
        }
        let about = Arc::new(reference(job));
        let count = plan.create.len();
        self.expectations.expect(
            key,
            count,
            plan.delete.iter().map(|pod| pod::uid(pod).to_owned()),
        );
        let (control, subject) = (self.control.clone(), about.clone());
        let undeleted = all_at_once(plan.delete.clone(), move |pod| {
            let (control, subject) = (control.clone(), subject.clone());
            async move {
                control
                    .delete(&subject, &pod)
                    .await
                    .map_err(|error| (pod, error))
            }
        })
        .await;
        for (pod, _) in &undeleted {
            self.expectations.deleted(key, pod::uid(pod));
        }
        let pods: Arc<Vec<Pod>> = Arc::new(
            plan.create
                .iter()
                .map(|(index, failures)| make(job, *index, *failures))
                .collect(),
        );
        let control = self.control.clone();
        let (done, failed) = slow_start(count, move |index| {
            let (control, about, pods) = (control.clone(), about.clone(), pods.clone());
            async move { control.create(&about, &pods[index]).await.map(drop) }
        })
        .await;
        self.expectations.created_many(key, count - done);
        match failed
            .filter(|error| !write::is_namespace_terminating(error))
            .or(undeleted.into_iter().next().map(|(_, error)| error))
        {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

/// A pod of the Job.
fn make(job: &Job, index: Option<i32>, failures: i32) -> Pod {
    let spec = plan::spec(job);
    let name = job.name_any();
    let prefix = index.map_or_else(|| name.clone(), |index| format!("{name}-{index}"));
    let mut pod = from_template(
        &spec.template,
        &job.namespace().unwrap_or_default(),
        &prefix,
        owners::controller_ref(job),
    );
    pod.finalizers_mut().push(FINALIZER.into());
    let Some(index) = index else { return pod };
    pod.annotations_mut()
        .insert(INDEX.into(), index.to_string());
    pod.labels_mut().insert(INDEX.into(), index.to_string());
    if spec.backoff_limit_per_index.is_some() {
        pod.annotations_mut()
            .insert(INDEX_FAILURES.into(), failures.to_string());
    }
    let pod_spec = pod.spec.get_or_insert_default();
    pod_spec.hostname = Some(prefix);
    let variable = EnvVar {
        name: "JOB_COMPLETION_INDEX".into(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: None,
                field_path: format!("metadata.labels['{INDEX}']"),
            }),
            ..EnvVarSource::default()
        }),
    };
    for container in pod_spec
        .init_containers
        .iter_mut()
        .flatten()
        .chain(&mut pod_spec.containers)
    {
        let env = container.env.get_or_insert_default();
        if !env.iter().any(|own| own.name == variable.name) {
            env.push(variable.clone());
        }
    }
    pod
}
