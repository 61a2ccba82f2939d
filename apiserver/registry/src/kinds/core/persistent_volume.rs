//! PersistentVolume: a piece of storage.

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use keelson_api::quantity::Quantity;
use serde_json::{Value, json};

use super::persistent_volume_claim::{access_modes, class_of, short_modes};
use super::pod::differences;
use crate::access::{Access, copy, part_mut, same, set, set_default, set_default_text};
use crate::columns::{AGE, Column, NAME, text, wide};
use crate::meta::{faults, immutable};
use crate::pod::{defaults, placement, volumes};
use crate::print;
use crate::rest::timestamp;
use crate::strategy::{Context, Strategy};
use crate::validation::{checked, one_of, quantity, required};

/// Where the bytes can be.
const SOURCES: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

/// The rules of PersistentVolume.
pub struct Rules;

impl Strategy for Rules {
    fn subresource(&self, name: &str) -> Option<&'static dyn Strategy> {
        (name == "status").then_some(&Status)
    }

    fn default(&self, volume: &mut Value) {
        set_default_text(volume, "status.phase", "Pending");
        let Some(spec) = part_mut(volume, "spec") else {
            return;
        };
        set_default_text(spec, "persistentVolumeReclaimPolicy", "Retain");
        set_default(spec, "volumeMode", "Filesystem");
        defaults::old_sources(spec);
    }

    fn prepare_for_create(&self, volume: &mut Value, context: &Context<'_>) {
        set(
            volume,
            "status",
            json!({"phase": "Pending", "lastPhaseTransitionTime": timestamp(context.now)}),
        );
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        copy(new, old, "status");
    }

    fn validate(&self, volume: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        spec(&mut errors, volume.part("spec"), &Path::new("spec"));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
        let mut errors = self.validate(new, context);
        let path = Path::new("spec");
        let source = |v: &Value| -> Vec<Value> {
            SOURCES
                .iter()
                .map(|s| v.part("spec").part(s).clone())
                .collect()
        };
        if source(new)
            .iter()
            .zip(source(old))
            .any(|(a, b)| !same(a, &b))
        {
            let (a, b) = (only_sources(new), only_sources(old));
            let mut changed = Vec::new();
            differences(&a, &b, "spec.persistentvolumesource", &mut changed);
            let detail = format!(
                "spec.persistentvolumesource is immutable after creation\n{}",
                changed.join("\n")
            );
            errors.push(Error::forbidden(
                &path.child("persistentvolumesource"),
                detail,
            ));
        }
        immutable(
            &mut errors,
            new.part("spec.volumeMode"),
            old.part("spec.volumeMode"),
            &Path::new("volumeMode"),
        );
        if old.has("spec.nodeAffinity") {
            immutable(
                &mut errors,
                new.part("spec.nodeAffinity"),
                old.part("spec.nodeAffinity"),
                &path.child("nodeAffinity"),
            );
        }
        errors
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        &["status"]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            text("Capacity", "Its size."),
            text("Access Modes", "How it may be mounted."),
            text("Reclaim Policy", "What becomes of it when its claim goes."),
            text("Status", "Whether it is claimed."),
            text("Claim", "The claim that has it."),
            text("StorageClass", "Its class."),
            text("VolumeAttributesClass", "Its class of attributes."),
            text("Reason", "Why it is as it is."),
            AGE,
            wide("VolumeMode", "Whether it is a filesystem or a device."),
        ];
        COLUMNS
    }

    fn row(&self, volume: &Value, now: Timestamp) -> Vec<Value> {
        let claim = if volume.has("spec.claimRef") {
            format!(
                "{}/{}",
                volume.text("spec.claimRef.namespace"),
                volume.text("spec.claimRef.name")
            )
        } else {
            String::new()
        };
        let phase = if volume.has("metadata.deletionTimestamp") {
            "Terminating"
        } else {
            volume.text("status.phase")
        };
        vec![
            print::name(volume),
            quantity(volume.part("spec.capacity.storage"))
                .to_string()
                .into(),
            short_modes(volume.items("spec.accessModes")).into(),
            volume.text("spec.persistentVolumeReclaimPolicy").into(),
            phase.into(),
            claim.into(),
            class_of(volume).into(),
            print::or(volume.text("spec.volumeAttributesClassName"), "<unset>").into(),
            volume.text("status.reason").into(),
            print::age(volume, now),
            print::or(volume.text("spec.volumeMode"), "<unset>").into(),
        ]
    }
}

fn only_sources(volume: &Value) -> Value {
    let spec = volume.part("spec");
    SOURCES
        .iter()
        .filter(|s| spec.has(s))
        .map(|s| ((*s).to_string(), spec.part(s).clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn spec(errors: &mut ErrorList, spec: &Value, path: &Path<'_>) {
    access_modes(
        errors,
        spec.items("accessModes"),
        "",
        &path.child("accessModes"),
    );
    capacity(errors, spec, path);
    let policy = spec.text("persistentVolumeReclaimPolicy");
    if !policy.is_empty() {
        one_of(
            errors,
            policy,
            &["Delete", "Recycle", "Retain"],
            &path.child("persistentVolumeReclaimPolicy"),
        );
    }
    if spec.has("nodeAffinity") {
        let affinity = path.child("nodeAffinity");
        if spec.has("nodeAffinity.required") {
            placement::node_selector(
                errors,
                spec.part("nodeAffinity.required"),
                &affinity.child("required"),
            );
        } else {
            errors.push(Error::required(
                &affinity.child("required"),
                "must specify required node constraints",
            ));
        }
    }
    source(errors, spec, path);
    if spec.text("hostPath.path").trim_end_matches('/').is_empty()
        && spec.has("hostPath")
        && policy == "Recycle"
    {
        let detail = "may not be 'recycle' for a hostPath mount of '/'";
        errors.push(Error::forbidden(
            &path.child("persistentVolumeReclaimPolicy"),
            detail,
        ));
    }
    checked(
        errors,
        spec,
        "storageClassName",
        path,
        names::dns1123_subdomain,
    );
    if spec.has("volumeMode") {
        one_of(
            errors,
            spec.text("volumeMode"),
            &["Block", "Filesystem"],
            &path.child("volumeMode"),
        );
    }
    if spec.has("volumeAttributesClassName") {
        let (at, class) = (
            path.child("volumeAttributesClassName"),
            spec.text("volumeAttributesClassName"),
        );
        if class.is_empty() {
            errors.push(Error::required(&at, "an empty string is disallowed"));
        } else {
            faults(errors, &at, class, names::dns1123_subdomain(class));
        }
        if !spec.has("csi") {
            errors.push(Error::required(
                &path.child("csi"),
                "has to be specified when using volumeAttributesClassName",
            ));
        }
    }
}

fn capacity(errors: &mut ErrorList, spec: &Value, path: &Path<'_>) {
    let at = path.child("capacity");
    if spec.is_blank("capacity") {
        errors.push(Error::required(&at, ""));
    }
    if spec.part("capacity").get("storage").is_none() || spec.entries("capacity").count() > 1 {
        errors.push(Error::not_supported(
            &at,
            spec.part("capacity"),
            &["storage"],
        ));
    }
    for (name, amount) in spec.entries("capacity") {
        let amount = quantity(amount);
        if amount < Quantity::ZERO {
            errors.push(Error::invalid(
                &at.key(name),
                amount.value(),
                "must be a valid resource quantity",
            ));
        }
        if amount <= Quantity::ZERO {
            errors.push(Error::invalid(
                &at.key(name),
                amount.to_string(),
                "must be greater than zero",
            ));
        }
    }
}

fn source(errors: &mut ErrorList, spec: &Value, path: &Path<'_>) {
    let mut first = true;
    for kind in SOURCES.iter().filter(|s| spec.has(s)) {
        let (found, at) = (spec.part(kind), path.child(kind));
        if !first {
            errors.push(Error::forbidden(
                &at,
                "may not specify more than 1 volume type",
            ));
            continue;
        }
        first = false;
        match *kind {
            "hostPath" => volumes::host_path(errors, found, &at),
            "local" => {
                required(errors, found, "path", &at);
                if !spec.has("nodeAffinity.required") {
                    errors.push(Error::required(
                        &path.child("nodeAffinity"),
                        "Local volume requires node affinity",
                    ));
                }
            }
            "csi" => {
                volumes::driver_name(errors, found.text("driver"), &at.child("driver"));
                required(errors, found, "volumeHandle", &at);
                let secrets = [
                    "controllerPublishSecretRef",
                    "controllerExpandSecretRef",
                    "nodePublishSecretRef",
                    "nodeExpandSecretRef",
                    "nodeStageSecretRef",
                ];
                for reference in secrets.into_iter().filter(|r| found.has(r)) {
                    required(errors, found.part(reference), "name", &at.child(reference));
                    required(
                        errors,
                        found.part(reference),
                        "namespace",
                        &at.child(reference),
                    );
                }
            }
            other => volumes::shared_source(errors, other, found, &at),
        }
    }
    if first {
        errors.push(Error::required(path, "must specify a volume type"));
    }
}

/// `persistentvolumes/status`.
struct Status;

impl Strategy for Status {
    fn default(&self, volume: &mut Value) {
        Rules.default(volume);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, context: &Context<'_>) {
        const MOVED: &str = "status.lastPhaseTransitionTime";
        copy(new, old, "spec");
        if new.text("status.phase") != old.text("status.phase")
            && (!new.has(MOVED) || same(new.part(MOVED), old.part(MOVED)))
        {
            set(new, MOVED, timestamp(context.now));
        }
    }

    fn validate_update(&self, _new: &Value, _old: &Value, _context: &Context<'_>) -> ErrorList {
        ErrorList::new()
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        &["spec"]
    }

    fn columns(&self) -> &'static [Column] {
        Rules.columns()
    }

    fn row(&self, volume: &Value, now: Timestamp) -> Vec<Value> {
        Rules.row(volume, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume() -> Value {
        let mut volume = json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}});
        Rules.default(&mut volume);
        volume
    }

    #[test]
    fn volumes_are_checked_and_stay() {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        let old = volume();
        assert_eq!(Rules.validate(&old, &context), vec![]);
        let mut new = old.clone();
        new["spec"]["hostPath"]["path"] = "/y".into();
        let errors = Rules.validate_update(&new, &old, &context);
        assert!(errors[0].to_string().starts_with("spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation"));
        let mut local = volume();
        local["spec"].as_object_mut().unwrap().remove("hostPath");
        local["spec"]["local"] = json!({"path": "/x"});
        assert_eq!(
            Rules.validate(&local, &context)[0].to_string(),
            "spec.nodeAffinity: Required value: Local volume requires node affinity"
        );
    }

    #[test]
    fn a_changed_phase_is_timed() {
        let context = Context::at(Timestamp::from_second(1).unwrap());
        let old = volume();
        let mut new = old.clone();
        new["status"]["phase"] = "Bound".into();
        Status.prepare_for_update(&mut new, &old, &context);
        assert_eq!(
            new["status"]["lastPhaseTransitionTime"],
            "1970-01-01T00:00:01Z"
        );
    }
}
