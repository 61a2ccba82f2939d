//! A VolumeAttributesClass that a volume or claim names is not deleted.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use keelson_runtime::{Event, Informer, Key, Outcome, Queue, write};
use kube::api::PostParams;
use kube::{Api, Error};

use super::guard;
use crate::context::{Context, StartError};
use crate::controllers::Task;

const FINALIZER: &str = "kubernetes.io/vac-protection";
const BY_CLASS: &str = "volumeattributesclass";

struct Controller {
    context: Context,
    classes: Informer<VolumeAttributesClass>,
    volumes: Informer<PersistentVolume>,
    claims: Informer<PersistentVolumeClaim>,
}

fn named_by_volume(volume: &PersistentVolume) -> Vec<String> {
    let spec = volume.spec.as_ref();
    spec.and_then(|spec| spec.volume_attributes_class_name.clone())
        .into_iter()
        .filter(|name| !name.is_empty())
        .collect()
}

fn named_by_claim(claim: &PersistentVolumeClaim) -> Vec<String> {
    let status = claim.status.as_ref();
    let mut names: Vec<String> = [
        claim
            .spec
            .as_ref()
            .and_then(|spec| spec.volume_attributes_class_name.clone()),
        status.and_then(|status| status.current_volume_attributes_class_name.clone()),
        status
            .and_then(|status| status.modify_volume_status.as_ref())
            .and_then(|status| status.target_volume_attributes_class_name.clone()),
    ]
    .into_iter()
    .flatten()
    .filter(|name| !name.is_empty())
    .collect();
    names.sort();
    names.dedup();
    names
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let queue: Arc<Queue<Key>> = Queue::new("vacprotection");
    let controller = Arc::new(Controller {
        classes: context.informers.get(),
        volumes: context.informers.get(),
        claims: context.informers.get(),
        context,
    });
    controller.volumes.index_by(BY_CLASS, named_by_volume);
    controller.claims.index_by(BY_CLASS, named_by_claim);
    let wake = queue.clone();
    controller.classes.handle(move |event| {
        if let Event::Added(class) | Event::Updated { new: class, .. } = event
            && guard(&class.metadata, FINALIZER, || false).is_some()
        {
            wake.add(Key::of(&**class));
        }
    });
    let let_go = |wake: &Queue<Key>, before: Vec<String>, after: Vec<String>| {
        for name in before {
            if !after.contains(&name) {
                wake.add(Key::cluster(name));
            }
        }
    };
    let wake = queue.clone();
    controller.volumes.handle(move |event| match event {
        Event::Updated { old, new } => let_go(&wake, named_by_volume(old), named_by_volume(new)),
        Event::Deleted(volume) => let_go(&wake, named_by_volume(volume), vec![]),
        Event::Added(_) | Event::Resync => {}
    });
    let wake = queue.clone();
    controller.claims.handle(move |event| match event {
        Event::Updated { old, new } => let_go(&wake, named_by_claim(old), named_by_claim(new)),
        Event::Deleted(claim) => let_go(&wake, named_by_claim(claim), vec![]),
        Event::Added(_) | Event::Resync => {}
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
        let Some(class) = self.classes.get(key) else {
            return Ok(Outcome::Done);
        };
        let used = || {
            self.volumes.count_by_index(BY_CLASS, &key.name) > 0
                || self.claims.count_by_index(BY_CLASS, &key.name) > 0
        };
        let Some(guard) = guard(&class.metadata, FINALIZER, used) else {
            return Ok(Outcome::Done);
        };
        let mut next = (*class).clone();
        guard.apply(&mut next.metadata, FINALIZER);
        let api = Api::<VolumeAttributesClass>::all(self.context.client.clone());
        let written = api.replace(&key.name, &PostParams::default(), &next).await;
        write::optional(written).map(|_| Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_claim_names_what_it_has_asks_for_and_is_moving_to() {
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({"metadata": {}, "spec": {"volumeAttributesClassName": "b"},
            "status": {"currentVolumeAttributesClassName": "a", "modifyVolumeStatus": {"status": "InProgress", "targetVolumeAttributesClassName": "b"}}}))
        .unwrap();
        assert_eq!(named_by_claim(&claim), ["a", "b"]);
    }
}
