//! A claim that a running pod uses is not deleted before the pod is gone.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use keelson_runtime::{Event, Informer, Key, Outcome, Queue, write};
use kube::api::{ListParams, PostParams};
use kube::{Api, Error};

use super::{guard, pod_claims};
use crate::context::{Context, StartError};
use crate::controllers::Task;
use crate::pod;
use crate::pod_index::Pods;

const FINALIZER: &str = "kubernetes.io/pvc-protection";

struct Controller {
    context: Context,
    claims: Informer<PersistentVolumeClaim>,
    pods: Pods,
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let queue = Queue::new("pvcprotection");
    let controller = Arc::new(Controller {
        claims: context.informers.get(),
        pods: Pods::of(&context.informers),
        context,
    });
    let wake = queue.clone();
    controller.claims.handle(move |event| {
        if let Event::Added(claim) | Event::Updated { new: claim, .. } = event
            && guard(&claim.metadata, FINALIZER, || false).is_some()
        {
            wake.add(Key::of(&**claim));
        }
    });
    let wake = queue.clone();
    controller.pods.handle(move |event| {
        let (Event::Added(pod) | Event::Updated { new: pod, .. } | Event::Deleted(pod)) = event
        else {
            return;
        };
        let gone = matches!(event, Event::Deleted(_));
        // Only one that lets go of a claim can help.
        if gone || pod::is_terminal(pod) || pod::node(pod).is_empty() {
            for claim in pod_claims::claims(pod) {
                if let Some((namespace, name)) = claim.split_once('/') {
                    wake.add(Key::new(namespace, name));
                }
            }
        }
    });
    let context = controller.context.clone();
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    };
    Ok(context.run(queue, 1, reconcile).boxed())
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let Some(claim) = self.claims.get(key) else {
            return Ok(Outcome::Done);
        };
        let mut used = self
            .pods
            .of_claim(&key.namespace, &key.name)
            .iter()
            .any(|pod| pod_claims::holds(pod, &claim));
        let deleting = claim.metadata.deletion_timestamp.is_some();
        if deleting && !used && guard(&claim.metadata, FINALIZER, || false).is_some() {
            // What is deleted is lost: the cache alone is not asked.
            used = self.is_used_live(key, &claim).await?;
        }
        let Some(guard) = guard(&claim.metadata, FINALIZER, || used) else {
            return Ok(Outcome::Done);
        };
        let mut next = (*claim).clone();
        guard.apply(&mut next.metadata, FINALIZER);
        let api =
            Api::<PersistentVolumeClaim>::namespaced(self.context.client.clone(), &key.namespace);
        let written = api.replace(&key.name, &PostParams::default(), &next).await;
        write::optional(written).map(|_| Outcome::Done)
    }

    async fn is_used_live(&self, key: &Key, claim: &PersistentVolumeClaim) -> Result<bool, Error> {
        let api = Api::<Pod>::namespaced(self.context.client.clone(), &key.namespace);
        let pods = api.list(&ListParams::default()).await?;
        Ok(pods.items.iter().any(|pod| pod_claims::holds(pod, claim)))
    }
}
