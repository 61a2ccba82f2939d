//! Claims that ask for more than they have: all plugins that can grow a volume are outside, so this says who is waited for.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use keelson_api::quantity::Quantity;
use keelson_runtime::recorder::{Kind, reference};
use keelson_runtime::{Event, Informer, Key, Outcome, Queue, write};
use kube::Api;
use serde_json::json;

use super::{annotation, csi_driver_of, requested};
use crate::context::{Context, StartError};
use crate::controllers::Task;

const BEFORE_RESIZE: &str = "volume.alpha.kubernetes.io/pre-resize-capacity";
const RESIZER: &str = "volume.kubernetes.io/storage-resizer";
const REASON: &str = "ExternalExpanding";

/// Why a claim can't be looked at now.
#[derive(Debug, thiserror::Error)]
enum ExpandError {
    #[error("failed to get PV {0:?}")]
    NoVolume(String),
    #[error("persistent Volume is not bound to PVC being updated : {0}")]
    NotBound(Key),
    #[error(transparent)]
    Api(#[from] kube::Error),
}

struct Controller {
    context: Context,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let queue: Arc<Queue<Key>> = Queue::new("volume_expand");
    let controller = Arc::new(Controller {
        claims: context.informers.get(),
        volumes: context.informers.get(),
        context,
    });
    let wake = queue.clone();
    controller.claims.handle(move |event| match event {
        Event::Added(claim) if wants_more(claim) => wake.add(Key::of(&**claim)),
        Event::Updated { old, new } if wants_more(new) && requested(new) > requested(old) => {
            wake.add(Key::of(&**new));
        }
        _ => {}
    });
    let context = controller.context.clone();
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    };
    Ok(context.run(queue, 10, reconcile).boxed())
}

/// Whether a bound claim asks for more than it has.
fn wants_more(claim: &PersistentVolumeClaim) -> bool {
    let Some(status) = &claim.status else {
        return false;
    };
    let has = status
        .capacity
        .as_ref()
        .and_then(|capacity| capacity.get("storage"))
        .and_then(|text| Quantity::parse(&text.0).ok())
        .unwrap_or(Quantity::ZERO);
    status.phase.as_deref() == Some("Bound") && requested(claim) > has
}

/// The in-tree plugin of a volume that a CSI driver stands in for.
fn migrated_plugin(volume: &PersistentVolume) -> Option<&'static str> {
    let spec = volume.spec.as_ref()?;
    [
        (
            spec.aws_elastic_block_store.is_some(),
            "kubernetes.io/aws-ebs",
        ),
        (spec.gce_persistent_disk.is_some(), "kubernetes.io/gce-pd"),
        (spec.cinder.is_some(), "kubernetes.io/cinder"),
        (spec.azure_disk.is_some(), "kubernetes.io/azure-disk"),
        (spec.azure_file.is_some(), "kubernetes.io/azure-file"),
        (
            spec.vsphere_volume.is_some(),
            "kubernetes.io/vsphere-volume",
        ),
        (
            spec.portworx_volume.is_some(),
            "kubernetes.io/portworx-volume",
        ),
    ]
    .into_iter()
    .find(|(is, _)| *is)
    .map(|(_, plugin)| plugin)
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, ExpandError> {
        let Some(claim) = self.claims.get(key) else {
            return Ok(Outcome::Done);
        };
        let name = claim
            .spec
            .as_ref()
            .and_then(|spec| spec.volume_name.clone())
            .unwrap_or_default();
        let volume = self
            .volumes
            .get(&Key::cluster(name.as_str()))
            .ok_or(ExpandError::NoVolume(name))?;
        let holder = volume
            .spec
            .as_ref()
            .and_then(|spec| spec.claim_ref.as_ref());
        if holder.is_none_or(|holder| holder.uid != claim.metadata.uid) {
            return Err(ExpandError::NotBound(key.clone()));
        }
        if !wants_more(&claim) && annotation(&volume.metadata, BEFORE_RESIZE).is_none() {
            return Ok(Outcome::Done);
        }
        let about = reference(&*claim);
        let Some(plugin) = migrated_plugin(&volume) else {
            let message = "waiting for an external controller to expand this PVC";
            // A CSI volume has its resizer outside; for any other kind nobody may ever come.
            let csi = volume.spec.as_ref().is_some_and(|spec| spec.csi.is_some());
            let kind = if csi { Kind::Normal } else { Kind::Warning };
            self.context.recorder.event(&about, kind, REASON, message);
            return Ok(Outcome::Done);
        };
        let message = format!(
            "CSI migration enabled for {plugin}; waiting for external resizer to expand the pvc"
        );
        self.context
            .recorder
            .event(&about, Kind::Normal, REASON, message);
        let driver = csi_driver_of(plugin).unwrap_or(plugin);
        if annotation(&claim.metadata, RESIZER) != Some(driver) {
            let api = Api::<PersistentVolumeClaim>::namespaced(
                self.context.client.clone(),
                &key.namespace,
            );
            // The role may change a claim only by its status, which carries annotations too.
            let patch = json!({"metadata": {"annotations": {RESIZER: driver}}});
            let patched = api
                .patch_status(
                    &key.name,
                    &kube::api::PatchParams::default(),
                    &kube::api::Patch::Merge(patch),
                )
                .await;
            write::optional(patched)?;
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bound_claims_that_ask_for_more_are_looked_at() {
        let claim = |phase: &str, asks: &str, has: &str| -> PersistentVolumeClaim {
            serde_json::from_value(
                json!({"metadata": {}, "spec": {"resources": {"requests": {"storage": asks}}},
                "status": {"phase": phase, "capacity": {"storage": has}}}),
            )
            .unwrap()
        };
        assert!(wants_more(&claim("Bound", "2Gi", "1Gi")));
        assert!(!wants_more(&claim("Bound", "1Gi", "1Gi")));
        assert!(!wants_more(&claim("Pending", "2Gi", "1Gi")));
        let volume = serde_json::from_value(
            json!({"metadata": {}, "spec": {"gcePersistentDisk": {"pdName": "x"}}}),
        )
        .unwrap();
        assert_eq!(migrated_plugin(&volume), Some("kubernetes.io/gce-pd"));
    }
}
