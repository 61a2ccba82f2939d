//! Which volume does for a claim. No I/O.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use keelson_api::selector::Selector;

use crate::volume::{capacity, class_of_claim, class_of_volume, requested};

/// Whether the volume names this claim: by its name at least, and by its UID if it has one.
pub fn names(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(holder) = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.claim_ref.as_ref())
    else {
        return false;
    };
    holder.name == claim.metadata.name
        && holder.namespace == claim.metadata.namespace
        && holder
            .uid
            .as_deref()
            .is_none_or(|uid| uid.is_empty() || claim.metadata.uid.as_deref() == Some(uid))
}

fn is_claimed(volume: &PersistentVolume) -> bool {
    volume
        .spec
        .as_ref()
        .is_some_and(|spec| spec.claim_ref.is_some())
}

/// Whether one is of blocks and the other of files.
pub fn modes_differ(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let mode = |mode: Option<&String>| mode.map_or("Filesystem", String::as_str).to_owned();
    mode(
        claim
            .spec
            .as_ref()
            .and_then(|spec| spec.volume_mode.as_ref()),
    ) != mode(
        volume
            .spec
            .as_ref()
            .and_then(|spec| spec.volume_mode.as_ref()),
    )
}

fn attributes_differ(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let asked = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.volume_attributes_class_name.as_deref());
    let has = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.volume_attributes_class_name.as_deref());
    asked.unwrap_or_default() != has.unwrap_or_default()
}

/// Whether the volume offers every access mode that the claim asks for.
fn access_fits(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let offered = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.access_modes.as_deref())
        .unwrap_or_default();
    claim
        .spec
        .iter()
        .flat_map(|spec| spec.access_modes.iter().flatten())
        .all(|mode| offered.contains(mode))
}

/// Why a volume that a claim asks for by name does not do, in upstream's words.
pub fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<String> {
    if volume.metadata.deletion_timestamp.is_some() {
        return Some(format!(
            "the volume is marked for deletion \"{}\"",
            volume.metadata.name.as_deref().unwrap_or_default()
        ));
    }
    if capacity(volume) < requested(claim) {
        return Some("requested PV is too small".to_owned());
    }
    if class_of_volume(volume) != class_of_claim(claim) {
        return Some("storageClassName does not match".to_owned());
    }
    if attributes_differ(claim, volume) {
        return Some("volumeAttributesClassName does not match".to_owned());
    }
    if modes_differ(claim, volume) {
        return Some("incompatible volumeMode".to_owned());
    }
    (!access_fits(claim, volume)).then(|| "incompatible accessMode".to_owned())
}

/// The best volume for a claim: one that names it; else the one with the fewest access modes, and of those the smallest. A claim
/// whose binding waits for a pod gets only what names it; the scheduler chooses the rest.
pub fn best(
    claim: &PersistentVolumeClaim,
    volumes: &[Arc<PersistentVolume>],
    waits: bool,
) -> Option<Arc<PersistentVolume>> {
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let selector = match selector {
        // What is no selector was refused on creation; it selects nothing here.
        Some(given) => Some(Selector::from_label_selector(Some(given)).ok()?),
        None => None,
    };
    let possible = |volume: &&Arc<PersistentVolume>| {
        (!is_claimed(volume) || names(volume, claim))
            && volume.metadata.deletion_timestamp.is_none()
            && access_fits(claim, volume)
            && capacity(volume) >= requested(claim)
            && !modes_differ(claim, volume)
            && !attributes_differ(claim, volume)
    };
    let modes = |volume: &PersistentVolume| {
        volume
            .spec
            .as_ref()
            .and_then(|spec| spec.access_modes.as_ref())
            .map_or(0, Vec::len)
    };
    let order = |volume: &&Arc<PersistentVolume>| {
        (
            modes(volume),
            capacity(volume),
            volume.metadata.name.clone(),
        )
    };
    let own = volumes
        .iter()
        .filter(possible)
        .filter(|volume| names(volume, claim))
        .min_by_key(order);
    if own.is_some() || waits {
        return own.cloned();
    }
    volumes
        .iter()
        .filter(possible)
        .filter(|volume| {
            let phase = volume
                .status
                .as_ref()
                .and_then(|status| status.phase.as_deref());
            phase == Some("Available")
                && class_of_volume(volume) == class_of_claim(claim)
                && selector
                    .as_ref()
                    .is_none_or(|selector| selector.matches(&volume.metadata.labels))
        })
        .min_by_key(order)
        .cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn volume(name: &str, size: &str, modes: &[&str], more: Value) -> Arc<PersistentVolume> {
        let mut value = json!({"metadata": {"name": name, "labels": {"tier": name}}, "status": {"phase": "Available"},
            "spec": {"capacity": {"storage": size}, "accessModes": modes, "storageClassName": "c"}});
        if let (Some(spec), Some(more)) = (value["spec"].as_object_mut(), more.as_object()) {
            spec.extend(more.clone());
        }
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn claim(more: Value) -> PersistentVolumeClaim {
        let mut value = json!({"metadata": {"name": "data", "namespace": "ns", "uid": "u"}, "spec": {"storageClassName": "c",
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}}}});
        if let (Some(spec), Some(more)) = (value["spec"].as_object_mut(), more.as_object()) {
            spec.extend(more.clone());
        }
        serde_json::from_value(value).unwrap()
    }

    fn chosen(
        claim: &PersistentVolumeClaim,
        volumes: &[Arc<PersistentVolume>],
        waits: bool,
    ) -> String {
        best(claim, volumes, waits)
            .and_then(|volume| volume.metadata.name.clone())
            .unwrap_or_default()
    }

    #[test]
    fn the_smallest_that_fits_with_the_fewest_modes_is_chosen() {
        let once = ["ReadWriteOnce"];
        let volumes = [
            volume("small", "1Gi", &once, json!({})),
            volume(
                "many",
                "5Gi",
                &["ReadWriteOnce", "ReadWriteMany"],
                json!({}),
            ),
            volume("big", "10Gi", &once, json!({})),
            volume("fit", "6Gi", &once, json!({})),
            volume("block", "5Gi", &once, json!({"volumeMode": "Block"})),
            volume("other", "5Gi", &once, json!({"storageClassName": "d"})),
            volume(
                "taken",
                "5Gi",
                &once,
                json!({"claimRef": {"name": "x", "namespace": "ns", "uid": "x"}}),
            ),
        ];
        for (more, want) in [
            (json!({}), "fit"),
            (json!({"accessModes": ["ReadWriteMany"]}), "many"),
            (json!({"accessModes": ["ReadWriteOncePod"]}), ""),
            (json!({"volumeMode": "Block"}), "block"),
            (json!({"selector": {"matchLabels": {"tier": "big"}}}), "big"),
            (json!({"storageClassName": "d"}), "other"),
            (json!({"resources": {"requests": {"storage": "20Gi"}}}), ""),
        ] {
            assert_eq!(
                chosen(&claim(more.clone()), &volumes, false),
                want,
                "{more}"
            );
        }
        assert_eq!(chosen(&claim(json!({})), &volumes, true), "");
    }

    #[test]
    fn a_volume_that_names_the_claim_comes_first() {
        let reserved = json!({"claimRef": {"name": "data", "namespace": "ns"}});
        let volumes = [
            volume("fit", "5Gi", &["ReadWriteOnce"], json!({})),
            volume("mine", "50Gi", &["ReadWriteOnce"], reserved),
        ];
        assert_eq!(chosen(&claim(json!({})), &volumes, false), "mine");
        assert_eq!(chosen(&claim(json!({})), &volumes, true), "mine");
    }

    #[test]
    fn mismatches_are_named() {
        let one = |size: &str, more| volume("v", size, &["ReadWriteOnce"], more);
        for (volume, claim, want) in [
            (
                one("1Gi", json!({})),
                json!({}),
                Some("requested PV is too small"),
            ),
            (
                one("5Gi", json!({})),
                json!({"storageClassName": "x"}),
                Some("storageClassName does not match"),
            ),
            (
                one("5Gi", json!({"volumeMode": "Block"})),
                json!({}),
                Some("incompatible volumeMode"),
            ),
            (
                one("5Gi", json!({})),
                json!({"accessModes": ["ReadWriteMany"]}),
                Some("incompatible accessMode"),
            ),
            (
                one("5Gi", json!({})),
                json!({"volumeAttributesClassName": "x"}),
                Some("volumeAttributesClassName does not match"),
            ),
            (one("5Gi", json!({})), json!({}), None),
        ] {
            assert_eq!(mismatch(&volume, &self::claim(claim)).as_deref(), want);
        }
    }
}
