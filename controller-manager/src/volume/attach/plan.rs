//! Which volumes are to be attached to a node and which are to go. No I/O.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeSpec};
use k8s_openapi::api::storage::v1::{
    CSIDriver, VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use sha2::{Digest, Sha256};

const MANAGED: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// A volume that a CSI driver attaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The PersistentVolume.
    pub volume: String,
    /// The driver.
    pub driver: String,
    /// What the driver calls the volume.
    pub handle: String,
    /// Whether several nodes may have it at once.
    pub shared: bool,
}

impl Disk {
    /// The disk behind a volume, if it is one of CSI.
    pub fn of(volume: &PersistentVolume) -> Option<Self> {
        let spec = volume.spec.as_ref()?;
        let csi = spec.csi.as_ref()?;
        Some(Self {
            volume: volume.name_any(),
            driver: csi.driver.clone(),
            handle: csi.volume_handle.clone(),
            shared: is_shared(spec),
        })
    }

    /// What nodes call it in their status.
    pub fn unique_name(&self) -> String {
        format!("kubernetes.io/csi/{}^{}", self.driver, self.handle)
    }

    /// The name of the VolumeAttachment that ties it to a node: everybody can work it out.
    pub fn attachment_name(&self, node: &str) -> String {
        let mut hash = Sha256::new();
        for part in [&self.handle, &self.driver, node] {
            hash.update(part.as_bytes());
        }
        let mut name = "csi-".to_owned();
        for byte in hash.finalize() {
            name.push_str(&format!("{byte:02x}"));
        }
        name
    }

    /// That VolumeAttachment.
    pub fn attachment(&self, node: &str) -> VolumeAttachment {
        VolumeAttachment {
            metadata: ObjectMeta {
                name: Some(self.attachment_name(node)),
                ..ObjectMeta::default()
            },
            spec: VolumeAttachmentSpec {
                attacher: self.driver.clone(),
                node_name: node.to_owned(),
                source: VolumeAttachmentSource {
                    persistent_volume_name: Some(self.volume.clone()),
                    inline_volume_spec: None,
                },
            },
            status: None,
        }
    }
}

/// Without modes nothing is known: the driver will say no if it has to.
fn is_shared(spec: &PersistentVolumeSpec) -> bool {
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    modes.is_empty()
        || modes
            .iter()
            .any(|mode| mode == "ReadOnlyMany" || mode == "ReadWriteMany")
}

/// Whether the driver wants volumes to be attached; one that says nothing does.
pub fn needs_attaching(driver: Option<&CSIDriver>) -> bool {
    driver
        .and_then(|driver| driver.spec.attach_required)
        .unwrap_or(true)
}

/// Whether the node leaves attaching to us.
pub fn is_managed(node: &Node) -> bool {
    node.annotations()
        .get(MANAGED)
        .is_some_and(|value| value == "true")
}

/// Whether the node is lost for good, so that nothing on it can write any more.
pub fn is_out_of_service(node: &Node) -> bool {
    node.spec
        .iter()
        .flat_map(|spec| spec.taints.iter().flatten())
        .any(|taint| taint.key == OUT_OF_SERVICE)
}

/// Whether the node says that it is well.
pub fn is_ready(node: &Node) -> bool {
    node.status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whether the node says that it still has the volume mounted.
pub fn is_in_use(node: &Node, unique_name: &str) -> bool {
    node.status
        .iter()
        .flat_map(|status| status.volumes_in_use.iter().flatten())
        .any(|name| name == unique_name)
}

/// Whether the attachment is done and stays.
pub fn is_attached(attachment: &VolumeAttachment) -> bool {
    attachment.metadata.deletion_timestamp.is_none()
        && attachment
            .status
            .as_ref()
            .is_some_and(|status| status.attached)
}

/// What the driver has against attaching.
pub fn attach_error(attachment: &VolumeAttachment) -> Option<&str> {
    attachment
        .status
        .as_ref()?
        .attach_error
        .as_ref()?
        .message
        .as_deref()
}

/// What is to be done about a disk that no pod of the node needs any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detach {
    /// Now.
    Now,
    /// Not before the node has unmounted it, or has been lost for long enough.
    Wait,
}

/// Decides about it. `waited` says whether we have waited for the node long enough.
pub fn detach(node: Option<&Node>, unique_name: &str, waited: bool) -> Detach {
    let may = match node {
        // What it had mounted is not known.
        None => waited,
        Some(node) => {
            !is_in_use(node, unique_name) || is_out_of_service(node) || (waited && !is_ready(node))
        }
    };
    if may { Detach::Now } else { Detach::Wait }
}

/// What a node's status says to be attached, by unique name.
pub fn reported(node: &Node) -> BTreeMap<String, String> {
    node.status
        .iter()
        .flat_map(|status| status.volumes_attached.iter().flatten())
        .map(|volume| (volume.name.clone(), volume.device_path.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn disk() -> Disk {
        let volume = json!({"metadata": {"name": "pv"}, "spec": {"accessModes": ["ReadWriteOnce"],
            "csi": {"driver": "d.example.com", "volumeHandle": "h"}}});
        Disk::of(&serde_json::from_value(volume).unwrap()).unwrap()
    }

    fn node(ready: &str, in_use: &[&str], taints: Value) -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": {"taints": taints},
            "status": {"volumesInUse": in_use, "conditions": [{"type": "Ready", "status": ready}]}}))
        .unwrap()
    }

    #[test]
    fn names_are_those_that_drivers_and_kubelets_work_out() {
        let disk = disk();
        assert!(!disk.shared);
        assert_eq!(disk.unique_name(), "kubernetes.io/csi/d.example.com^h");
        let attachment = disk.attachment("n");
        // printf 'hd.example.comn' | sha256sum
        assert_eq!(
            attachment.name_any(),
            "csi-6f50f41227a8b176bdb8f16917f5785c6f29d47af0c6e4fb07ef999717e5cb6d"
        );
        assert_eq!(attachment.spec.attacher, "d.example.com");
        assert!(needs_attaching(None));
    }

    #[test]
    fn nothing_is_torn_from_under_a_node_that_uses_it() {
        let name = disk().unique_name();
        let lost = json!([{"key": OUT_OF_SERVICE, "effect": "NoExecute"}]);
        for (node, waited, expected) in [
            (Some(node("True", &[], json!([]))), false, Detach::Now),
            (Some(node("True", &[&name], json!([]))), false, Detach::Wait),
            (Some(node("True", &[&name], json!([]))), true, Detach::Wait),
            (
                Some(node("Unknown", &[&name], json!([]))),
                false,
                Detach::Wait,
            ),
            (
                Some(node("Unknown", &[&name], json!([]))),
                true,
                Detach::Now,
            ),
            (Some(node("Unknown", &[&name], lost)), false, Detach::Now),
            (None, false, Detach::Wait),
            (None, true, Detach::Now),
        ] {
            assert_eq!(detach(node.as_ref(), &name, waited), expected);
        }
    }
}
