//! What is to become of a claim and of a volume. No I/O.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use keelson_api::quantity::Quantity;

use super::matching;
use crate::volume::{annotation, capacity, class_of_claim, csi_driver_of};

/// The claim's binding was completed once.
pub const COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// A controller made the binding, not the user.
pub const BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// The node that the scheduler wants the volume for.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Who is to make the claim's volume.
pub const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// The same under its old name.
pub const PROVISIONER_BETA: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// Who made the volume.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const MIGRATED_TO: &str = "pv.kubernetes.io/migrated-to";
const PRE_RESIZE: &str = "volume.alpha.kubernetes.io/pre-resize-capacity";

/// What a claim's plan is made from.
pub struct ClaimView<'a> {
    /// The claim.
    pub claim: &'a PersistentVolumeClaim,
    /// Its class, if there is one of that name.
    pub class: Option<&'a StorageClass>,
    /// The cluster's default class.
    pub default_class: Option<&'a str>,
    /// The volume that the claim names.
    pub named: Option<Arc<PersistentVolume>>,
    /// All volumes.
    pub volumes: &'a [Arc<PersistentVolume>],
    /// Pods with this claim that are on no node yet.
    pub waiting_pods: &'a [String],
}

/// An event to record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Say {
    /// Whether it is a warning.
    pub warning: bool,
    /// The reason.
    pub reason: &'static str,
    /// The message.
    pub message: String,
}

fn say(reason: &'static str, message: impl Into<String>) -> Say {
    Say {
        warning: false,
        reason,
        message: message.into(),
    }
}

fn warn(reason: &'static str, message: impl Into<String>) -> Say {
    Say {
        warning: true,
        reason,
        message: message.into(),
    }
}

/// What to do about a claim.
#[derive(Clone, Debug)]
pub enum ClaimStep {
    /// Bind it to this volume, on both sides.
    Bind(Arc<PersistentVolume>),
    /// Its volume is lost; say so once.
    Lose(Say),
    /// It has to wait.
    Wait(Option<Say>),
    /// Give it the default class.
    Classify(String),
    /// Ask this provisioner for a volume.
    Provision(String),
    /// It can't go on as it is; say so and try again.
    Fail(Say),
}

/// Decides about a claim.
pub fn claim(view: &ClaimView<'_>) -> ClaimStep {
    if annotation(&view.claim.metadata, COMPLETED).is_some() {
        bound_claim(view)
    } else if volume_name(view.claim).is_empty() {
        open_claim(view)
    } else {
        choosy_claim(view)
    }
}

fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim
        .spec
        .as_ref()
        .and_then(|spec| spec.volume_name.as_deref())
        .unwrap_or("")
}

/// A claim that takes any volume that fits.
fn open_claim(view: &ClaimView<'_>) -> ClaimStep {
    let waits = view
        .class
        .is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
    if let Some(volume) = matching::best(view.claim, view.volumes, waits) {
        return ClaimStep::Bind(volume);
    }
    let has_class = annotation(
        &view.claim.metadata,
        "volume.beta.kubernetes.io/storage-class",
    )
    .is_some()
        || view
            .claim
            .spec
            .as_ref()
            .is_some_and(|spec| spec.storage_class_name.is_some());
    if !has_class && let Some(default) = view.default_class {
        return ClaimStep::Classify(default.to_owned());
    }
    if waits && annotation(&view.claim.metadata, SELECTED_NODE).is_none() {
        return ClaimStep::Wait(Some(waiting(view.waiting_pods)));
    }
    let name = class_of_claim(view.claim);
    if name.is_empty() {
        return ClaimStep::Wait(Some(say(
            "FailedBinding",
            "no persistent volumes available for this claim and no storage class is set",
        )));
    }
    let Some(class) = view.class else {
        return ClaimStep::Fail(warn(
            "ProvisioningFailed",
            format!("storageclass.storage.k8s.io \"{name}\" not found"),
        ));
    };
    match csi_driver_of(&class.provisioner) {
        Some(driver) => ClaimStep::Provision(driver.to_owned()),
        None if class.provisioner.starts_with("kubernetes.io/") => ClaimStep::Fail(warn(
            "ProvisioningFailed",
            format!("no volume plugin matched name: {}", class.provisioner),
        )),
        None => ClaimStep::Provision(class.provisioner.clone()),
    }
}

fn waiting(pods: &[String]) -> Say {
    match pods {
        [] => say(
            "WaitForFirstConsumer",
            "waiting for first consumer to be created before binding",
        ),
        [pod] => say(
            "WaitForPodScheduled",
            format!("waiting for pod {pod} to be scheduled"),
        ),
        pods => say(
            "WaitForPodScheduled",
            format!("waiting for pods {} to be scheduled", pods.join(",")),
        ),
    }
}

/// A claim that names its volume.
fn choosy_claim(view: &ClaimView<'_>) -> ClaimStep {
    let Some(volume) = &view.named else {
        return ClaimStep::Wait(None);
    };
    let name = volume_name(view.claim);
    let held = volume
        .spec
        .as_ref()
        .is_some_and(|spec| spec.claim_ref.is_some());
    if !held {
        return match matching::mismatch(volume, view.claim) {
            Some(why) => ClaimStep::Wait(Some(warn(
                "VolumeMismatch",
                format!("Cannot bind to requested volume \"{name}\": {why}"),
            ))),
            None => ClaimStep::Bind(volume.clone()),
        };
    }
    if matching::names(volume, view.claim) {
        return ClaimStep::Bind(volume.clone());
    }
    let event = warn(
        "FailedBinding",
        format!("volume \"{name}\" already bound to a different claim."),
    );
    if annotation(&view.claim.metadata, BY_CONTROLLER).is_some() {
        ClaimStep::Fail(event)
    } else {
        ClaimStep::Wait(Some(event))
    }
}

/// A claim that was bound.
fn bound_claim(view: &ClaimView<'_>) -> ClaimStep {
    if volume_name(view.claim).is_empty() {
        return ClaimStep::Lose(warn(
            "ClaimLost",
            "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
        ));
    }
    let Some(volume) = &view.named else {
        return ClaimStep::Lose(warn(
            "ClaimLost",
            "Bound claim has lost its PersistentVolume. Data on the volume is lost!",
        ));
    };
    let holder = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.claim_ref.as_ref());
    if holder.is_none_or(|holder| holder.uid == view.claim.metadata.uid) {
        ClaimStep::Bind(volume.clone())
    } else {
        ClaimStep::Lose(warn(
            "ClaimMisbound",
            "Two claims are bound to the same volume, this one is bound incorrectly",
        ))
    }
}

/// How a volume's holder was found.
pub enum Holder<'a> {
    /// It is there, with the UID that the volume names.
    There(&'a PersistentVolumeClaim),
    /// It is gone, or another of its name is there.
    Gone,
}

/// What to do about a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeStep {
    /// Nothing, but this is its phase.
    Phase(&'static str),
    /// Its claim is to finish the binding.
    WakeClaim,
    /// Claim and volume can never be bound; say so on both.
    Mismatch { volume: Say, claim: Say },
    /// Let the claim go: wholly, or (if the user reserved it) its UID only.
    Unbind,
    /// The claim is gone.
    Reclaim(Reclaim),
}

/// What becomes of a volume whose claim is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reclaim {
    /// Somebody outside, or an administrator, takes care of it.
    Leave,
    /// Delete this directory of this host, then the volume.
    DeleteDirectory(String),
    /// It can't be reclaimed.
    Fail(Say),
}

/// Decides about a volume. `holder` is asked for only if the volume names a claim by UID.
pub fn volume(volume: &PersistentVolume, holder: Option<Holder<'_>>) -> VolumeStep {
    let claim_ref = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.claim_ref.as_ref());
    let reserved =
        claim_ref.is_none_or(|holder| holder.uid.as_deref().unwrap_or_default().is_empty());
    let claim = match holder {
        _ if reserved => return VolumeStep::Phase("Available"),
        None | Some(Holder::Gone) => return VolumeStep::Reclaim(reclaim(volume)),
        Some(Holder::There(claim)) => claim,
    };
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let bound_to = volume_name(claim);
    if bound_to.is_empty() {
        if !matching::modes_differ(claim, volume) {
            return VolumeStep::WakeClaim;
        }
        return VolumeStep::Mismatch {
            volume: warn(
                "VolumeMismatch",
                format!(
                    "Cannot bind PersistentVolume to requested PersistentVolumeClaim \"{}\" due to incompatible volumeMode.",
                    claim.metadata.name.as_deref().unwrap_or_default()
                ),
            ),
            claim: warn(
                "VolumeMismatch",
                format!(
                    "Cannot bind PersistentVolume \"{name}\" to requested PersistentVolumeClaim due to incompatible volumeMode."
                ),
            ),
        };
    }
    if bound_to == name {
        return VolumeStep::Phase("Bound");
    }
    if annotation(&volume.metadata, PROVISIONED_BY).is_some() && policy(volume) == "Delete" {
        return VolumeStep::Reclaim(reclaim(volume));
    }
    VolumeStep::Unbind
}

fn policy(volume: &PersistentVolume) -> &str {
    volume
        .spec
        .as_ref()
        .and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref())
        .unwrap_or("Retain")
}

fn reclaim(volume: &PersistentVolume) -> Reclaim {
    if annotation(&volume.metadata, MIGRATED_TO).is_some_and(|driver| !driver.is_empty()) {
        return Reclaim::Leave;
    }
    match policy(volume) {
        "Retain" => Reclaim::Leave,
        "Recycle" => Reclaim::Fail(warn(
            "VolumeFailedRecycle",
            "No recycler plugin found for the volume!",
        )),
        "Delete" => delete(volume),
        _ => Reclaim::Fail(warn(
            "VolumeUnknownReclaimPolicy",
            "Volume has unrecognized PersistentVolumeReclaimPolicy",
        )),
    }
}

fn delete(volume: &PersistentVolume) -> Reclaim {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let spec = volume.spec.as_ref();
    let outside = annotation(&volume.metadata, PROVISIONED_BY)
        .is_some_and(|by| !by.is_empty() && !by.starts_with("kubernetes.io/"));
    if outside || spec.is_some_and(|spec| spec.csi.is_some()) {
        return Reclaim::Leave;
    }
    match spec.and_then(|spec| spec.host_path.as_ref()) {
        Some(source) => {
            let inside = std::path::Path::new(&source.path)
                .components()
                .all(|part| !matches!(part, std::path::Component::ParentDir));
            if inside && source.path.len() > "/tmp/".len() && source.path.starts_with("/tmp/") {
                Reclaim::DeleteDirectory(source.path.clone())
            } else {
                Reclaim::Fail(warn(
                    "VolumeFailedDelete",
                    format!(
                        "host_path deleter only supports /tmp/.+ but received provided {}",
                        source.path
                    ),
                ))
            }
        }
        None => Reclaim::Fail(warn(
            "VolumeFailedDelete",
            format!(
                "error getting deleter volume plugin for volume \"{name}\": no deletable volume plugin matched"
            ),
        )),
    }
}

/// The volume with its claim written in, if it isn't already.
pub fn volume_bound(
    volume: &PersistentVolume,
    claim: &PersistentVolumeClaim,
) -> Option<PersistentVolume> {
    let by_controller = !matching::names(volume, claim);
    let holder = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.claim_ref.as_ref());
    let same = holder.is_some_and(|holder| {
        holder.name == claim.metadata.name
            && holder.namespace == claim.metadata.namespace
            && holder.uid == claim.metadata.uid
    });
    let annotate = by_controller && annotation(&volume.metadata, BY_CONTROLLER).is_none();
    if same && !annotate {
        return None;
    }
    let mut next = volume.clone();
    if !same {
        next.spec.get_or_insert_default().claim_ref = Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("PersistentVolumeClaim".to_owned()),
            name: claim.metadata.name.clone(),
            namespace: claim.metadata.namespace.clone(),
            uid: claim.metadata.uid.clone(),
            resource_version: claim.metadata.resource_version.clone(),
            field_path: None,
        });
    }
    if annotate {
        next.metadata
            .annotations
            .get_or_insert_default()
            .insert(BY_CONTROLLER.to_owned(), "yes".to_owned());
    }
    Some(next)
}

/// The claim with its volume written in, if it isn't already.
pub fn claim_bound(claim: &PersistentVolumeClaim, volume: &str) -> Option<PersistentVolumeClaim> {
    let mut next = claim.clone();
    let annotations = next.metadata.annotations.get_or_insert_default();
    if volume_name(claim) != volume {
        annotations
            .entry(BY_CONTROLLER.to_owned())
            .or_insert_with(|| "yes".to_owned());
    } else if annotations.contains_key(COMPLETED) {
        return None;
    }
    annotations
        .entry(COMPLETED.to_owned())
        .or_insert_with(|| "yes".to_owned());
    next.spec.get_or_insert_default().volume_name = Some(volume.to_owned());
    Some(next)
}

/// The claim's status in this phase, with what it has of its volume; `None` if it says so already.
pub fn claim_status(
    claim: &PersistentVolumeClaim,
    phase: &str,
    volume: Option<&PersistentVolume>,
) -> Option<PersistentVolumeClaimStatus> {
    let before = claim.status.clone().unwrap_or_default();
    let mut next = before.clone();
    let was = before.phase.as_deref().unwrap_or("Pending");
    next.phase = Some(phase.to_owned());
    match volume {
        None => {
            next.access_modes = None;
            next.capacity = None;
            next.current_volume_attributes_class_name = None;
        }
        Some(volume) => {
            let spec = volume.spec.as_ref();
            next.access_modes = spec.and_then(|spec| spec.access_modes.clone());
            // One that was bound already may have another size than its volume while it is resized.
            if was != phase || before.phase.is_none() {
                let resized = annotation(&volume.metadata, PRE_RESIZE)
                    .and_then(|text| Quantity::parse(text).ok());
                let has = before
                    .capacity
                    .as_ref()
                    .and_then(|capacity| capacity.get("storage"))
                    .and_then(|text| Quantity::parse(&text.0).ok());
                if let Some(size) = resized {
                    next.capacity
                        .get_or_insert_default()
                        .insert("storage".to_owned(), Text(size.to_string()));
                } else if has != Some(capacity(volume)) {
                    next.capacity = spec.and_then(|spec| spec.capacity.clone());
                }
            }
            if was == "Pending" && phase == "Bound" {
                next.current_volume_attributes_class_name =
                    spec.and_then(|spec| spec.volume_attributes_class_name.clone());
            }
        }
    }
    (next != before).then_some(next)
}

/// The volume with its claim taken out: all of it if a controller wrote it, else the UID only.
pub fn volume_unbound(volume: &PersistentVolume) -> PersistentVolume {
    let mut next = volume.clone();
    let Some(spec) = &mut next.spec else {
        return next;
    };
    if annotation(&volume.metadata, BY_CONTROLLER).is_none() {
        if let Some(holder) = &mut spec.claim_ref {
            holder.uid = None;
        }
        return next;
    }
    spec.claim_ref = None;
    if let Some(annotations) = &mut next.metadata.annotations {
        annotations.remove(BY_CONTROLLER);
        if annotations.is_empty() {
            next.metadata.annotations = None;
        }
    }
    next
}
