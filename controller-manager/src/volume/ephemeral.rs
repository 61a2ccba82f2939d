//! The claims of pods' generic ephemeral volumes.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keelson_runtime::owners::controller_ref;
use keelson_runtime::recorder::{Kind, reference};
use keelson_runtime::{Event, Informer, Key, Outcome, Queue};
use kube::Api;
use kube::api::PostParams;

use super::pod_claims;
use crate::context::{Context, StartError};
use crate::controllers::Task;
use crate::pod_control::words;
use crate::pod_index::Pods;

/// Why a volume has no claim yet, in upstream's words.
#[derive(Debug, thiserror::Error)]
#[error("ephemeral volume {volume}: {why}")]
struct VolumeError {
    volume: String,
    why: String,
}

struct Controller {
    context: Context,
    pods: Pods,
    claims: Informer<PersistentVolumeClaim>,
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let queue: Arc<Queue<Key>> = Queue::new("ephemeral_volume");
    let controller = Arc::new(Controller {
        pods: Pods::of(&context.informers),
        claims: context.informers.get(),
        context,
    });
    let wake = queue.clone();
    controller.pods.handle(move |event| {
        if let Event::Added(pod) = event
            && wants_claims(pod)
        {
            wake.add(Key::of(&**pod));
        }
    });
    let (wake, pods) = (queue.clone(), controller.pods.clone());
    controller.claims.handle(move |event| {
        if let Event::Deleted(claim) = event {
            let key = Key::of(&**claim);
            for pod in pods.of_claim(&key.namespace, &key.name) {
                if wants_claims(&pod) {
                    wake.add(Key::of(&*pod));
                }
            }
        }
    });
    let workers = controller.context.options.workers.ephemeral_volume;
    let context = controller.context.clone();
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    };
    Ok(context.run(queue, workers, reconcile).boxed())
}

fn wants_claims(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && pod_claims::volumes(pod).any(|volume| volume.ephemeral.is_some())
}

/// The claim of an ephemeral volume.
fn claim_for(pod: &Pod, volume: &Volume) -> Option<PersistentVolumeClaim> {
    let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
    let meta = template.metadata.clone().unwrap_or_default();
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: pod_claims::claim_name(pod, volume),
            namespace: pod.metadata.namespace.clone(),
            annotations: meta.annotations,
            labels: meta.labels,
            owner_references: Some(vec![controller_ref(pod)]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone()),
        status: None,
    })
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, VolumeError> {
        let Some(pod) = self.pods.get(key).filter(|pod| wants_claims(pod)) else {
            return Ok(Outcome::Done);
        };
        for volume in pod_claims::volumes(&pod) {
            let Some(claim) = claim_for(&pod, volume) else {
                continue;
            };
            if let Err(why) = self.provide(&pod, &claim).await {
                let error = VolumeError {
                    volume: volume.name.clone(),
                    why,
                };
                self.context.recorder.event(
                    &reference(&*pod),
                    Kind::Warning,
                    "FailedBinding",
                    error.to_string(),
                );
                return Err(error);
            }
        }
        Ok(Outcome::Done)
    }

    async fn provide(&self, pod: &Pod, claim: &PersistentVolumeClaim) -> Result<(), String> {
        let key = Key::of(claim);
        if let Some(there) = self.claims.get(&key) {
            return match pod_claims::not_for_pod(pod, &there) {
                Some(why) => Err(why),
                None => Ok(()),
            };
        }
        let api =
            Api::<PersistentVolumeClaim>::namespaced(self.context.client.clone(), &key.namespace);
        match api.create(&PostParams::default(), claim).await {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("create PVC {}: {}", key.name, words(&error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_claim_is_made_from_the_template_and_belongs_to_the_pod() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"containers": [], "volumes": [{"name": "data", "ephemeral": {"volumeClaimTemplate": {
                "metadata": {"labels": {"a": "b"}}, "spec": {"accessModes": ["ReadWriteOnce"]}}}}]}}))
        .unwrap();
        let volume = pod_claims::volumes(&pod).next().unwrap();
        let claim = claim_for(&pod, volume).unwrap();
        assert_eq!(claim.metadata.name.as_deref(), Some("p-data"));
        assert_eq!(claim.metadata.labels.as_ref().unwrap()["a"], "b");
        assert!(pod_claims::not_for_pod(&pod, &claim).is_none());
    }
}
