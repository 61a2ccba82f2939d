//! Emptying namespaces that are being deleted: pods first, then everything else, then the namespace's own finalizer.

mod conditions;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use keelson_runtime::{Event, Informer, Key, Outcome, Queue, write};
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams, PropagationPolicy};
use kube::core::metadata::PartialObjectMeta;
use kube::{Api, Error, ResourceExt};

use crate::context::{Context, StartError, now};
use crate::controllers::Task;
use crate::discovery::{self, Discovered, Resource};
use crate::pod_control::words;
use crate::pod_index::Pods;
use conditions::Progress;

/// The finalizer that this controller takes off when the namespace is empty.
const FINALIZER: &str = "kubernetes";

struct Controller {
    context: Context,
    namespaces: Informer<Namespace>,
    queue: Arc<Queue<Key>>,
}

/// Why a namespace is not finished yet.
#[derive(Debug, thiserror::Error)]
enum NamespaceError {
    #[error("some content remains in the namespace")]
    Remaining,
    #[error(transparent)]
    Api(#[from] Error),
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let controller = Arc::new(Controller {
        namespaces: context.informers.get(),
        queue: Queue::with_backoff(
            "namespace",
            Duration::from_millis(5),
            Duration::from_secs(15),
        ),
        context,
    });
    let this = controller.clone();
    controller.namespaces.handle(move |event| {
        if let Some(namespace) = event
            .object()
            .filter(|namespace| namespace.metadata.deletion_timestamp.is_some())
        {
            this.queue.add(Key::of(&**namespace));
        }
    });
    // The end of a pod is what such a namespace waits for most.
    let this = controller.clone();
    Pods::of(&controller.context.informers).handle(move |event| {
        if let Event::Deleted(pod) = event
            && let Some(name) = pod.metadata.namespace.as_deref()
            && this
                .namespaces
                .find("", name)
                .is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some())
        {
            this.queue.add(Key::cluster(name));
        }
    });
    let workers = controller.context.options.workers.namespace;
    let (context, queue) = (controller.context.clone(), controller.queue.clone());
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    };
    Ok(context.run(queue, workers, reconcile).boxed())
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, NamespaceError> {
        let Some(namespace) = self.namespaces.get(key) else {
            return Ok(Outcome::Done);
        };
        if namespace.metadata.deletion_timestamp.is_none() || !has_finalizer(&namespace) {
            return Ok(Outcome::Done);
        }
        let api = Api::<Namespace>::all(self.context.client.clone());
        let progress = self.empty(&key.name).await?;
        let at = Time(now());
        let Some(namespace) = write::update_status(&api, &*namespace, |namespace| {
            conditions::report(namespace, &progress, &at)
        })
        .await?
        else {
            return Ok(Outcome::Done);
        };
        if progress.is_done() {
            self.finalize(&api, namespace).await?;
            return Ok(Outcome::Done);
        }
        if progress.estimate > 0 {
            let wait = u64::try_from(progress.estimate / 2 + 1).unwrap_or(1);
            return Ok(Outcome::After(Duration::from_secs(wait)));
        }
        Err(NamespaceError::Remaining)
    }

    /// Takes this controller's finalizer off, with which the namespace goes.
    async fn finalize(&self, api: &Api<Namespace>, mut namespace: Namespace) -> Result<(), Error> {
        if let Some(finalizers) = namespace
            .spec
            .as_mut()
            .and_then(|spec| spec.finalizers.as_mut())
        {
            finalizers.retain(|finalizer| finalizer != FINALIZER);
        }
        let result: Result<Namespace, Error> = api
            .replace_subresource(
                "finalize",
                &namespace.name_any(),
                &PostParams::default(),
                &namespace,
            )
            .await;
        write::optional(result).map(drop)
    }

    /// One round over everything in the namespace.
    async fn empty(&self, namespace: &str) -> Result<Progress, Error> {
        let Discovered { resources, failing } = discovery::discover(&self.context.client).await?;
        let mut progress = Progress {
            undiscovered: failing,
            ..Progress::default()
        };
        let (pods, others): (Vec<_>, Vec<_>) = resources
            .into_iter()
            .filter(|resource| resource.namespaced && resource.supports(&["delete"]))
            .partition(|resource| resource.api.group.is_empty() && resource.api.plural == "pods");
        for resource in pods {
            self.empty_of(namespace, &resource, &mut progress).await;
        }
        // What pods may still use stays until they are gone.
        if progress.remaining.is_empty() && progress.errors.is_empty() {
            for resource in others {
                self.empty_of(namespace, &resource, &mut progress).await;
            }
        }
        Ok(progress)
    }

    async fn empty_of(&self, namespace: &str, resource: &Resource, progress: &mut Progress) {
        let left = match self.delete_all(namespace, resource).await {
            Ok(left) => left,
            // The kind went away, or its server doesn't know the verb after all.
            Err(Error::Api(status)) if matches!(status.code, 404 | 405) => return,
            Err(error) => {
                progress.errors.push(format!(
                    "unexpected items still remain for {}: {}",
                    resource.group_resource(),
                    words(&error)
                ));
                return;
            }
        };
        if left.is_empty() {
            return;
        }
        let name = format!("{}.{}", resource.api.plural, resource.api.group);
        progress.remaining.insert(name, left.len());
        for object in &left {
            for finalizer in object.metadata.finalizers.iter().flatten() {
                *progress.finalizers.entry(finalizer.clone()).or_default() += 1;
            }
            if resource.api.plural == "pods" && resource.api.group.is_empty() {
                let grace = object.metadata.deletion_grace_period_seconds.unwrap_or(0);
                progress.estimate = progress.estimate.max(grace);
            }
        }
    }

    /// Deletes a resource's objects and lists those that are left.
    async fn delete_all(
        &self,
        namespace: &str,
        resource: &Resource,
    ) -> Result<Vec<PartialObjectMeta<DynamicObject>>, Error> {
        let client = self.context.client.clone();
        let metadata = Api::<PartialObjectMeta<DynamicObject>>::namespaced_with(
            client.clone(),
            namespace,
            &resource.api,
        );
        let objects = Api::<DynamicObject>::namespaced_with(client, namespace, &resource.api);
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            ..DeleteParams::default()
        };
        if !resource.supports(&["list"]) {
            objects
                .delete_collection(&params, &ListParams::default())
                .await?;
            return Ok(Vec::new());
        }
        let present = metadata.list(&ListParams::default()).await?.items;
        if present.is_empty() {
            return Ok(present);
        }
        if resource.supports(&["deletecollection"]) {
            objects
                .delete_collection(&params, &ListParams::default())
                .await?;
        } else {
            for object in present
                .iter()
                .filter(|object| object.metadata.deletion_timestamp.is_none())
            {
                write::optional(objects.delete(&object.name_any(), &params).await)?;
            }
        }
        Ok(metadata.list(&ListParams::default()).await?.items)
    }
}

fn has_finalizer(namespace: &Namespace) -> bool {
    namespace.spec.as_ref().is_some_and(|spec| {
        spec.finalizers
            .iter()
            .flatten()
            .any(|finalizer| finalizer == FINALIZER)
    })
}
