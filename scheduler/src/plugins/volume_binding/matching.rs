//! Whether a volume that is there does for a claim: pure decisions. The node is the caller's question.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use keelson_api::quantity::Quantity;
use keelson_api::selector::Selector;

/// How many bytes a volume has.
pub(super) fn capacity(volume: &PersistentVolume) -> i64 {
    let capacity = volume.spec.as_ref().and_then(|s| s.capacity.as_ref());
    capacity
        .and_then(|list| list.get("storage"))
        .and_then(|quantity| Quantity::parse(&quantity.0).ok())
        .map_or(0, |quantity| quantity.value())
}

fn wanted(claim: &PersistentVolumeClaim) -> i64 {
    let resources = claim.spec.as_ref().and_then(|s| s.resources.as_ref());
    resources
        .and_then(|resources| resources.requests.as_ref())
        .and_then(|requests| requests.get("storage"))
        .and_then(|quantity| Quantity::parse(&quantity.0).ok())
        .map_or(0, |quantity| quantity.value())
}

/// Whether the volume is the claim's already, or nobody's.
fn is_free_for(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let spec = volume.spec.as_ref();
    let Some(holder) = spec.and_then(|spec| spec.claim_ref.as_ref()) else {
        let phase = volume.status.as_ref().and_then(|s| s.phase.as_deref());
        return phase == Some("Available");
    };
    holder.name == claim.metadata.name
        && holder.namespace == claim.metadata.namespace
        && holder
            .uid
            .as_ref()
            .is_none_or(|uid| uid.is_empty() || claim.metadata.uid.as_ref() == Some(uid))
}

/// Whether the volume does for the claim.
pub(super) fn fits(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let (Some(wants), Some(has)) = (&claim.spec, &volume.spec) else {
        return false;
    };
    let class = |name: &Option<String>| name.clone().unwrap_or_default();
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".to_owned());
    let offered = has.access_modes.as_deref().unwrap_or_default();
    let mut asked = wants.access_modes.iter().flatten();
    let selected = match &wants.selector {
        None => true,
        given => Selector::from_label_selector(given.as_ref())
            .is_ok_and(|selector| selector.matches(&volume.metadata.labels)),
    };
    volume.metadata.deletion_timestamp.is_none()
        && class(&wants.storage_class_name) == class(&has.storage_class_name)
        && mode(&wants.volume_mode) == mode(&has.volume_mode)
        && asked.all(|mode| offered.contains(mode))
        && capacity(volume) >= wanted(claim)
        && selected
        && is_free_for(claim, volume)
}
