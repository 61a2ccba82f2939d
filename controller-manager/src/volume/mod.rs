//! Persistent volumes: binding them to claims, attaching them to nodes, protecting both while they are used, claims of ephemeral volumes, growing.
//!
//! Making and deleting volumes is left to provisioners outside, which watch the annotations that the binder sets.

pub mod attach;
pub mod attributes_class;
pub mod binder;
pub mod claim_protection;
pub mod ephemeral;
pub mod expander;
pub mod pod_claims;
pub mod volume_protection;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keelson_api::quantity::Quantity;

/// In-tree volume plugins that CSI drivers stand in for.
const MIGRATED: [(&str, &str); 7] = [
    ("kubernetes.io/aws-ebs", "ebs.csi.aws.com"),
    ("kubernetes.io/gce-pd", "pd.csi.storage.gke.io"),
    ("kubernetes.io/cinder", "cinder.csi.openstack.org"),
    ("kubernetes.io/azure-disk", "disk.csi.azure.com"),
    ("kubernetes.io/azure-file", "file.csi.azure.com"),
    ("kubernetes.io/vsphere-volume", "csi.vsphere.vmware.com"),
    ("kubernetes.io/portworx-volume", "pxd.portworx.com"),
];

/// The CSI driver that stands in for an in-tree plugin.
pub fn csi_driver_of(plugin: &str) -> Option<&'static str> {
    MIGRATED
        .iter()
        .find(|(name, _)| *name == plugin)
        .map(|(_, driver)| *driver)
}

/// The class a claim asks for; the old annotation counts before the field.
pub fn class_of_claim(claim: &PersistentVolumeClaim) -> &str {
    class_annotation(&claim.metadata).unwrap_or_else(|| {
        claim
            .spec
            .as_ref()
            .and_then(|spec| spec.storage_class_name.as_deref())
            .unwrap_or("")
    })
}

/// The class a volume is of.
pub fn class_of_volume(volume: &PersistentVolume) -> &str {
    class_annotation(&volume.metadata).unwrap_or_else(|| {
        volume
            .spec
            .as_ref()
            .and_then(|spec| spec.storage_class_name.as_deref())
            .unwrap_or("")
    })
}

fn class_annotation(meta: &ObjectMeta) -> Option<&str> {
    annotation(meta, "volume.beta.kubernetes.io/storage-class")
}

/// An annotation's value.
pub fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}

/// How much storage a claim asks for.
pub fn requested(claim: &PersistentVolumeClaim) -> Quantity {
    claim
        .spec
        .as_ref()
        .and_then(|spec| spec.resources.as_ref())
        .and_then(|resources| resources.requests.as_ref())
        .and_then(|requests| requests.get("storage"))
        .and_then(|text| Quantity::parse(&text.0).ok())
        .unwrap_or(Quantity::ZERO)
}

/// How much storage a volume has.
pub fn capacity(volume: &PersistentVolume) -> Quantity {
    volume
        .spec
        .as_ref()
        .and_then(|spec| spec.capacity.as_ref())
        .and_then(|capacity| capacity.get("storage"))
        .and_then(|text| Quantity::parse(&text.0).ok())
        .unwrap_or(Quantity::ZERO)
}

/// Adds the finalizer that keeps an object while it is used, or takes it away from one that is on its way out and not used any more.
/// `None` if the object is as it should be.
pub fn guard(meta: &ObjectMeta, finalizer: &str, used: impl FnOnce() -> bool) -> Option<Guard> {
    let guarded = meta.finalizers.iter().flatten().any(|own| own == finalizer);
    match (meta.deletion_timestamp.is_some(), guarded) {
        (true, true) if !used() => Some(Guard::Release),
        (false, false) => Some(Guard::Add),
        _ => None,
    }
}

/// What to do about an object's finalizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// It lacks it.
    Add,
    /// Nothing holds it back any more.
    Release,
}

impl Guard {
    /// Carries it out on the metadata.
    pub fn apply(self, meta: &mut ObjectMeta, finalizer: &str) {
        let finalizers = meta.finalizers.get_or_insert_default();
        match self {
            Self::Add => finalizers.push(finalizer.to_owned()),
            Self::Release => finalizers.retain(|own| own != finalizer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    #[test]
    fn finalizers_come_at_once_and_go_with_the_last_user() {
        let mut meta = ObjectMeta::default();
        assert_eq!(guard(&meta, "f", || false), Some(Guard::Add));
        Guard::Add.apply(&mut meta, "f");
        assert_eq!(guard(&meta, "f", || false), None);
        meta.deletion_timestamp = Some(Time(jiff::Timestamp::UNIX_EPOCH));
        assert_eq!(guard(&meta, "f", || true), None);
        assert_eq!(guard(&meta, "f", || false), Some(Guard::Release));
        Guard::Release.apply(&mut meta, "f");
        assert_eq!(guard(&meta, "f", || false), None);
        assert_eq!(
            csi_driver_of("kubernetes.io/gce-pd"),
            Some("pd.csi.storage.gke.io")
        );
    }
}
