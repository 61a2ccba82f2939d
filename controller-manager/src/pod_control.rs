//! Creating and deleting pods for a controller, with the events that upstream records.

use std::future::Future;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use keelson_runtime::recorder::Kind;
use keelson_runtime::{Recorder, write};
use kube::api::PostParams;
use kube::{Api, Client, Error};
use tokio::task::JoinSet;

/// Creates, deletes, adopts and releases pods.
#[derive(Clone)]
pub struct PodControl {
    client: Client,
    recorder: Recorder,
}

impl PodControl {
    /// Acts with this client and reports to this recorder.
    pub fn new(client: Client, recorder: Recorder) -> Self {
        Self { client, recorder }
    }

    fn api(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Creates a pod, reporting on the object that it is for.
    pub async fn create(&self, about: &ObjectReference, pod: &Pod) -> Result<Pod, Error> {
        let namespace = about.namespace.as_deref().unwrap_or_default();
        let result = self
            .api(namespace)
            .create(&PostParams::default(), pod)
            .await;
        match &result {
            Ok(pod) => self.recorder.event(
                about,
                Kind::Normal,
                "SuccessfulCreate",
                format!(
                    "Created pod: {}",
                    pod.metadata.name.as_deref().unwrap_or_default()
                ),
            ),
            // A namespace on its way out takes no pods: that is how it should be.
            Err(error) if write::is_namespace_terminating(error) => {}
            Err(error) => self.recorder.event(
                about,
                Kind::Warning,
                "FailedCreate",
                format!("Error creating: {}", words(error)),
            ),
        }
        result
    }

    /// Deletes a pod; one that is gone already counts as deleted.
    pub async fn delete(&self, about: &ObjectReference, pod: &Pod) -> Result<(), Error> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let namespace = about.namespace.as_deref().unwrap_or_default();
        let params = write::delete_params(pod.metadata.uid.as_deref(), None);
        match self.api(namespace).delete(name, &params).await {
            Ok(_) => {
                self.recorder.event(
                    about,
                    Kind::Normal,
                    "SuccessfulDelete",
                    format!("Deleted pod: {name}"),
                );
                Ok(())
            }
            Err(error) if write::is_not_found(&error) => Ok(()),
            Err(error) => {
                let message = format!("Error deleting: {}", words(&error));
                self.recorder
                    .event(about, Kind::Warning, "FailedDelete", message);
                Err(error)
            }
        }
    }
}

/// What an error says, in the API server's own words if it is hers.
pub fn words(error: &Error) -> String {
    match error {
        Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// The pod that a template asks for. The API server completes the name from `prefix`.
pub fn from_template(
    template: &PodTemplateSpec,
    namespace: &str,
    prefix: &str,
    owner: OwnerReference,
) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_owned()),
            generate_name: Some(format!("{prefix}-")),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Runs `count` attempts in batches that double while all goes well (1, 2, 4, …), so that what can't succeed is not tried a
/// hundred times. Gives back how many succeeded, and the first error.
pub async fn slow_start<F, Fut, E>(count: usize, attempt: F) -> (usize, Option<E>)
where
    F: Fn(usize) -> Fut,
    Fut: Future<Output = Result<(), E>> + Send + 'static,
    E: Send + 'static,
{
    let (mut done, mut next, mut batch) = (0, 0, 1usize);
    while next < count {
        let size = batch.min(count - next);
        let mut tasks = JoinSet::new();
        for index in next..next + size {
            tasks.spawn(attempt(index));
        }
        next += size;
        let mut failed = None;
        while let Some(result) = tasks.join_next().await {
            match result {
                Ok(Ok(())) => done += 1,
                Ok(Err(error)) => failed = failed.or(Some(error)),
                // Tasks are neither aborted nor expected to panic; one that did counts as not done.
                Err(error) => tracing::error!(%error, "attempt panicked"),
            }
        }
        if failed.is_some() {
            return (done, failed);
        }
        batch *= 2;
    }
    (done, None)
}

/// Runs an attempt for each item at once and gives back the errors.
pub async fn all_at_once<T, F, Fut, E>(items: Vec<T>, attempt: F) -> Vec<E>
where
    F: Fn(T) -> Fut,
    Fut: Future<Output = Result<(), E>> + Send + 'static,
    E: Send + 'static,
{
    let mut tasks = JoinSet::new();
    for item in items {
        tasks.spawn(attempt(item));
    }
    let mut failed = Vec::new();
    while let Some(result) = tasks.join_next().await {
        if let Ok(Err(error)) = result {
            failed.push(error);
        }
    }
    failed
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn slow_start_stops_early_when_nothing_can_succeed() {
        let tried = Arc::new(AtomicUsize::new(0));
        let attempt = |limit: usize| {
            let tried = tried.clone();
            move |index: usize| {
                tried.fetch_add(1, Ordering::SeqCst);
                async move { if index < limit { Ok(()) } else { Err("full") } }
            }
        };
        assert_eq!(slow_start(100, attempt(0)).await, (0, Some("full")));
        assert_eq!(tried.swap(0, Ordering::SeqCst), 1);
        assert_eq!(slow_start(100, attempt(5)).await, (5, Some("full")));
        assert_eq!(tried.swap(0, Ordering::SeqCst), 7);
        assert_eq!(slow_start(10, attempt(100)).await, (10, None));
    }
}
