//! Deleting Jobs some time after they finished, if they ask for it.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::batch::v1::Job;
use keelson_runtime::{Event, Informer, Key, Outcome, Queue, write};
use kube::api::{DeleteParams, PropagationPolicy};
use kube::{Api, Error};

use crate::context::{Context, StartError, now};
use crate::controllers::Task;
use crate::job::is_finished;

struct Controller {
    context: Context,
    jobs: Informer<Job>,
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let queue = Queue::new("ttl_jobs_to_delete");
    let controller = Arc::new(Controller {
        jobs: context.informers.get(),
        context,
    });
    let wake = queue.clone();
    controller.jobs.handle(move |event| {
        if let Event::Added(job) | Event::Updated { new: job, .. } = event
            && left(job).is_some()
        {
            wake.add(Key::of(&**job));
        }
    });
    let workers = controller.context.options.workers.ttl_after_finished;
    let context = controller.context.clone();
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    };
    Ok(context.run(queue, workers, reconcile).boxed())
}

/// How many seconds a finished Job has left, if its time is limited.
fn left(job: &Job) -> Option<i64> {
    if !is_finished(job) || job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let finished = job
        .status
        .as_ref()?
        .conditions
        .as_ref()?
        .iter()
        .find(|condition| {
            condition.status == "True" && matches!(condition.type_.as_str(), "Complete" | "Failed")
        })?;
    Some(finished.last_transition_time.as_ref()?.0.as_second() + i64::from(ttl) - now().as_second())
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let api = Api::<Job>::namespaced(self.context.client.clone(), &key.namespace);
        match self.jobs.get(key).and_then(|job| left(&job)) {
            None => return Ok(Outcome::Done),
            Some(left) if left > 0 => {
                return Ok(Outcome::After(Duration::from_secs(
                    u64::try_from(left).unwrap_or(1),
                )));
            }
            Some(_) => {}
        }
        // Its time may have been made longer just now.
        let Some(fresh) = api
            .get_opt(&key.name)
            .await?
            .filter(|job| left(job).is_some_and(|left| left <= 0))
        else {
            return Ok(Outcome::Done);
        };
        let params = DeleteParams {
            ..write::delete_params(
                fresh.metadata.uid.as_deref(),
                Some(PropagationPolicy::Foreground),
            )
        };
        write::optional(api.delete(&key.name, &params).await)?;
        Ok(Outcome::Done)
    }
}
