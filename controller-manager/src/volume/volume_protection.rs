//! A volume that is bound to a claim is not deleted before the claim is gone.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::PersistentVolume;
use keelson_runtime::{Event, Informer, Key, Outcome, Queue, write};
use kube::api::PostParams;
use kube::{Api, Error};

use super::guard;
use crate::context::{Context, StartError};
use crate::controllers::Task;

const FINALIZER: &str = "kubernetes.io/pv-protection";

struct Controller {
    context: Context,
    volumes: Informer<PersistentVolume>,
}

fn is_bound(volume: &PersistentVolume) -> bool {
    volume
        .status
        .as_ref()
        .is_some_and(|status| status.phase.as_deref() == Some("Bound"))
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let queue = Queue::new("pvprotection");
    let controller = Arc::new(Controller {
        volumes: context.informers.get(),
        context,
    });
    let wake = queue.clone();
    controller.volumes.handle(move |event| {
        if let Event::Added(volume) | Event::Updated { new: volume, .. } = event
            && guard(&volume.metadata, FINALIZER, || false).is_some()
        {
            wake.add(Key::of(&**volume));
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
        let Some(volume) = self.volumes.get(key) else {
            return Ok(Outcome::Done);
        };
        let Some(guard) = guard(&volume.metadata, FINALIZER, || is_bound(&volume)) else {
            return Ok(Outcome::Done);
        };
        let mut next = (*volume).clone();
        guard.apply(&mut next.metadata, FINALIZER);
        let api = Api::<PersistentVolume>::all(self.context.client.clone());
        let written = api.replace(&key.name, &PostParams::default(), &next).await;
        write::optional(written).map(|_| Outcome::Done)
    }
}
