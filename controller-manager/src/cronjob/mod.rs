//! CronJobs: a Job whenever the schedule says so.

mod plan;
mod schedule;

use std::sync::Arc;

use futures::FutureExt;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use keelson_runtime::recorder::{Kind, Recorder, reference};
use keelson_runtime::{Informer, Key, Outcome, Queue, owners, write};
use kube::api::{PostParams, PropagationPolicy};
use kube::{Api, Error, ResourceExt};

use crate::context::{Context, StartError, now};
use crate::controllers::Task;
use crate::job::is_finished;
use crate::pod_control::words;
use schedule::Schedule;

const BY_OWNER: &str = "controller";
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

struct Controller {
    context: Context,
    crons: Informer<CronJob>,
    jobs: Informer<Job>,
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let jobs = context.informers.get::<Job>();
    jobs.index_by(BY_OWNER, |job| {
        owners::controller_of(&job.metadata)
            .map(|owner| owner.uid.clone())
            .into_iter()
            .collect()
    });
    let queue = Queue::new("cronjob");
    let controller = Arc::new(Controller {
        crons: context.informers.get(),
        jobs,
        context,
    });
    let wake = queue.clone();
    controller.crons.handle(move |event| {
        if let Some(cron) = event.object() {
            wake.add(Key::of(&**cron));
        }
    });
    let wake = queue.clone();
    controller.jobs.handle(move |event| {
        if let Some(job) = event.object()
            && let Some(owner) =
                owners::controller_of(&job.metadata).filter(|owner| owner.kind == "CronJob")
        {
            wake.add(Key::new(
                job.namespace().unwrap_or_default(),
                owner.name.clone(),
            ));
        }
    });
    let workers = controller.context.options.workers.cron_job;
    let context = controller.context.clone();
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    };
    Ok(context.run(queue, workers, reconcile).boxed())
}

impl Controller {
    fn recorder(&self) -> &Recorder {
        &self.context.recorder
    }

    fn jobs_api(&self, key: &Key) -> Api<Job> {
        Api::namespaced(self.context.client.clone(), &key.namespace)
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let Some(cron) = self.crons.get(key) else {
            return Ok(Outcome::Done);
        };
        let spec = cron.spec.clone();
        let jobs = self
            .jobs
            .by_index(BY_OWNER, cron.metadata.uid.as_deref().unwrap_or_default());
        for job in plan::surplus(&spec, &jobs) {
            self.delete(key, &cron, &job).await?;
        }
        let mut wanted = (*cron).clone();
        self.note_finished(&cron, &mut wanted, &jobs);
        let outcome = match self.readable(&cron, &spec) {
            Some((schedule, zone))
                if cron.metadata.deletion_timestamp.is_none() && spec.suspend != Some(true) =>
            {
                self.start_due(key, &mut wanted, &spec, &jobs, (&schedule, &zone))
                    .await?
            }
            _ => Outcome::Done,
        };
        if wanted.status != cron.status {
            let api = Api::<CronJob>::namespaced(self.context.client.clone(), &key.namespace);
            write::optional(
                api.replace_status(&key.name, &PostParams::default(), &wanted)
                    .await,
            )?;
        }
        Ok(outcome)
    }

    /// The schedule and its zone; an event says what is wrong with them.
    fn readable(&self, cron: &CronJob, spec: &CronJobSpec) -> Option<(Schedule, TimeZone)> {
        let about = reference(cron);
        let zone = match spec.time_zone.as_deref().map(TimeZone::get) {
            None => TimeZone::UTC,
            Some(Ok(zone)) => zone,
            Some(Err(error)) => {
                let message = format!(
                    "invalid timeZone: {:?}: {error}",
                    spec.time_zone.as_deref().unwrap_or_default()
                );
                self.recorder()
                    .event(&about, Kind::Warning, "UnknownTimeZone", message);
                return None;
            }
        };
        match Schedule::parse(&spec.schedule) {
            Ok(schedule) => Some((schedule, zone)),
            Err(error) => {
                self.recorder().event(
                    &about,
                    Kind::Warning,
                    "UnparseableSchedule",
                    error.to_string(),
                );
                None
            }
        }
    }

    /// Brings the list of active Jobs up to date.
    fn note_finished(&self, cron: &CronJob, wanted: &mut CronJob, jobs: &[Arc<Job>]) {
        let status = wanted.status.get_or_insert_default();
        let before = status.active.clone().unwrap_or_default();
        let mut active: Vec<ObjectReference> = Vec::new();
        for job in jobs {
            let listed = before.iter().any(|own| own.uid == job.metadata.uid);
            if !is_finished(job) {
                active.push(ObjectReference {
                    resource_version: None,
                    ..reference(&**job)
                });
                continue;
            }
            let done = job
                .status
                .as_ref()
                .and_then(|status| status.completion_time.clone());
            if listed {
                let word = if done.is_some() { "Complete" } else { "Failed" };
                let message = format!("Saw completed job: {}, condition: {word}", job.name_any());
                self.recorder()
                    .event(&reference(cron), Kind::Normal, "SawCompletedJob", message);
            }
            if let Some(done) = done
                && status
                    .last_successful_time
                    .as_ref()
                    .is_none_or(|last| last.0 < done.0)
            {
                status.last_successful_time = Some(done);
            }
        }
        // One that was just created may not be in the cache yet.
        let recent = status
            .last_schedule_time
            .as_ref()
            .map(|time| job_name(cron, time.0));
        for own in before {
            let known = jobs.iter().any(|job| job.metadata.uid == own.uid);
            if !known && own.name == recent {
                active.push(own);
            }
        }
        active.sort_by(|a, b| a.name.cmp(&b.name));
        status.active = Some(active).filter(|active| !active.is_empty());
    }

    async fn start_due(
        &self,
        key: &Key,
        cron: &mut CronJob,
        spec: &CronJobSpec,
        jobs: &[Arc<Job>],
        (schedule, zone): (&Schedule, &TimeZone),
    ) -> Result<Outcome, Error> {
        let about = reference(cron);
        let due = plan::due(cron, spec, schedule, zone, now());
        let outcome = due.next.map_or(Outcome::Done, Outcome::After);
        if due.many_missed {
            let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.recorder()
                .event(&about, Kind::Warning, "TooManyMissedTimes", message);
        }
        let Some(at) = due.at else { return Ok(outcome) };
        if due.too_late {
            let message = format!("Missed scheduled time to start a job: {at}");
            self.recorder()
                .event(&about, Kind::Warning, "MissSchedule", message);
            return Ok(outcome);
        }
        let name = job_name(cron, at);
        let active: Vec<_> = jobs
            .iter()
            .filter(|job| !is_finished(job) && job.name_any() != name)
            .collect();
        let policy = spec.concurrency_policy.as_deref().unwrap_or("Allow");
        if policy == "Forbid" && !active.is_empty() {
            let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
            self.recorder()
                .event(&about, Kind::Normal, "JobAlreadyActive", message);
            return Ok(outcome);
        }
        if policy == "Replace" {
            for job in active {
                self.delete(key, cron, job).await?;
            }
        }
        let job = make(cron, spec, at, zone);
        let created = match self
            .jobs_api(key)
            .create(&PostParams::default(), &job)
            .await
        {
            Ok(job) => {
                let message = format!("Created job {name}");
                self.recorder()
                    .event(&about, Kind::Normal, "SuccessfulCreate", message);
                Some(job)
            }
            Err(error) if write::is_already_exists(&error) => None,
            Err(error) if write::is_namespace_terminating(&error) => return Ok(Outcome::Done),
            Err(error) => {
                let message = format!("Error creating job: {}", words(&error));
                self.recorder()
                    .event(&about, Kind::Warning, "FailedCreate", message);
                return Err(error);
            }
        };
        let status = cron.status.get_or_insert_default();
        if let Some(job) = created {
            let own = ObjectReference {
                resource_version: None,
                ..reference(&job)
            };
            status.active.get_or_insert_default().push(own);
        }
        status.last_schedule_time = Some(Time(at));
        Ok(outcome)
    }

    async fn delete(&self, key: &Key, cron: &CronJob, job: &Job) -> Result<(), Error> {
        let params = write::delete_params(
            job.metadata.uid.as_deref(),
            Some(PropagationPolicy::Background),
        );
        match write::optional(self.jobs_api(key).delete(&job.name_any(), &params).await) {
            Ok(_) => {
                let message = format!("Deleted job {}", job.name_any());
                self.recorder()
                    .event(&reference(cron), Kind::Normal, "SuccessfulDelete", message);
                Ok(())
            }
            Err(error) => {
                let message = format!("Deleted job: {}", words(&error));
                self.recorder()
                    .event(&reference(cron), Kind::Warning, "FailedDelete", message);
                Err(error)
            }
        }
    }
}

/// The name of the Job for a time: always the same, so that no time is started twice.
fn job_name(cron: &CronJob, at: Timestamp) -> String {
    format!("{}-{}", cron.name_any(), at.as_second() / 60)
}

fn make(cron: &CronJob, spec: &CronJobSpec, at: Timestamp, zone: &TimeZone) -> Job {
    let template = spec.job_template.metadata.clone().unwrap_or_default();
    let mut annotations = template.annotations.unwrap_or_default();
    let local = at.to_zoned(zone.clone());
    annotations.insert(
        SCHEDULED.into(),
        local
            .strftime("%Y-%m-%dT%H:%M:%S%:z")
            .to_string()
            .replace("+00:00", "Z"),
    );
    Job {
        metadata: ObjectMeta {
            name: Some(job_name(cron, at)),
            namespace: cron.metadata.namespace.clone(),
            labels: template.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![owners::controller_ref(cron)]),
            ..ObjectMeta::default()
        },
        spec: spec.job_template.spec.clone(),
        status: None,
    }
}
