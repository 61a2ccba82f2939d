//! Claims and volumes as snapshots, and what the binder plans for them.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Value, json};

use super::plan::{self, ClaimStep, ClaimView, Holder, Reclaim, VolumeStep};

fn pvc(annotations: Value, spec: Value) -> PersistentVolumeClaim {
    let mut spec_value =
        json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    if let (Some(all), Some(more)) = (spec_value.as_object_mut(), spec.as_object()) {
        all.extend(more.clone());
    }
    serde_json::from_value(json!({"metadata": {"name": "data", "namespace": "ns", "uid": "u", "annotations": annotations},
        "spec": spec_value, "status": {"phase": "Pending"}}))
    .unwrap()
}

fn pv(annotations: Value, spec: Value) -> PersistentVolume {
    let mut spec_value = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "persistentVolumeReclaimPolicy": "Retain"});
    if let (Some(all), Some(more)) = (spec_value.as_object_mut(), spec.as_object()) {
        all.extend(more.clone());
    }
    serde_json::from_value(json!({"metadata": {"name": "v", "annotations": annotations}, "spec": spec_value, "status": {"phase": "Available"}}))
        .unwrap()
}

fn class(provisioner: &str, mode: &str) -> StorageClass {
    serde_json::from_value(
        json!({"metadata": {"name": "c"}, "provisioner": provisioner, "volumeBindingMode": mode}),
    )
    .unwrap()
}

fn decide(
    claim: &PersistentVolumeClaim,
    class: Option<&StorageClass>,
    named: Option<PersistentVolume>,
    volumes: Vec<PersistentVolume>,
    pods: &[&str],
) -> String {
    let volumes: Vec<_> = volumes.into_iter().map(Arc::new).collect();
    let pods: Vec<String> = pods.iter().map(|&pod| pod.to_owned()).collect();
    let view = ClaimView {
        claim,
        class,
        default_class: Some("standard"),
        named: named.map(Arc::new),
        volumes: &volumes,
        waiting_pods: &pods,
    };
    match plan::claim(&view) {
        ClaimStep::Bind(volume) => format!("bind {}", volume.metadata.name.clone().unwrap()),
        ClaimStep::Lose(say) => format!("lose: {}", say.message),
        ClaimStep::Wait(None) => "wait".into(),
        ClaimStep::Wait(Some(say)) => format!("wait: {}", say.message),
        ClaimStep::Classify(class) => format!("classify {class}"),
        ClaimStep::Provision(by) => format!("provision by {by}"),
        ClaimStep::Fail(say) => format!("fail: {}", say.message),
    }
}

#[test]
fn claims_are_bound_provisioned_or_wait() {
    let open = pvc(json!({}), json!({"storageClassName": "c"}));
    let fit = || pv(json!({}), json!({"storageClassName": "c"}));
    let late = class("x.example.com", "WaitForFirstConsumer");
    let selected = pvc(
        json!({"volume.kubernetes.io/selected-node": "n"}),
        json!({"storageClassName": "c"}),
    );
    let bare = pvc(json!({}), json!({"storageClassName": ""}));
    let soon = |by: &str| class(by, "Immediate");
    for (got, want) in [
        (decide(&open, None, None, vec![fit()], &[]), "bind v"),
        (
            decide(&open, Some(&soon("x.example.com")), None, vec![], &[]),
            "provision by x.example.com",
        ),
        (
            decide(
                &open,
                Some(&soon("kubernetes.io/gce-pd")),
                None,
                vec![],
                &[],
            ),
            "provision by pd.csi.storage.gke.io",
        ),
        (
            decide(
                &open,
                Some(&soon("kubernetes.io/no-provisioner")),
                None,
                vec![],
                &[],
            ),
            "fail: no volume plugin matched name: kubernetes.io/no-provisioner",
        ),
        (
            decide(&open, None, None, vec![], &[]),
            "fail: storageclass.storage.k8s.io \"c\" not found",
        ),
        (
            decide(&open, Some(&late), None, vec![fit()], &[]),
            "wait: waiting for first consumer to be created before binding",
        ),
        (
            decide(&open, Some(&late), None, vec![fit()], &["p"]),
            "wait: waiting for pod p to be scheduled",
        ),
        (
            decide(&selected, Some(&late), None, vec![fit()], &["p"]),
            "provision by x.example.com",
        ),
        (
            decide(&bare, None, None, vec![], &[]),
            "wait: no persistent volumes available for this claim and no storage class is set",
        ),
        (
            decide(&pvc(json!({}), json!({})), None, None, vec![], &[]),
            "classify standard",
        ),
    ] {
        assert_eq!(got, want);
    }
}

#[test]
fn claims_that_name_a_volume_get_it_or_hear_why_not() {
    let named = pvc(json!({}), json!({"volumeName": "v"}));
    let held = |uid: &str| {
        pv(
            json!({}),
            json!({"claimRef": {"namespace": "ns", "name": "data", "uid": uid}}),
        )
    };
    let small = pv(json!({}), json!({"capacity": {"storage": "1Mi"}}));
    let done = pvc(
        json!({"pv.kubernetes.io/bind-completed": "yes"}),
        json!({"volumeName": "v"}),
    );
    let adrift = pvc(json!({"pv.kubernetes.io/bind-completed": "yes"}), json!({}));
    for (got, want) in [
        (decide(&named, None, None, vec![], &[]), "wait"),
        (
            decide(&named, None, Some(pv(json!({}), json!({}))), vec![], &[]),
            "bind v",
        ),
        (
            decide(&named, None, Some(small), vec![], &[]),
            "wait: Cannot bind to requested volume \"v\": requested PV is too small",
        ),
        (decide(&named, None, Some(held("u")), vec![], &[]), "bind v"),
        (
            decide(&named, None, Some(held("other")), vec![], &[]),
            "wait: volume \"v\" already bound to a different claim.",
        ),
        (
            decide(&done, None, None, vec![], &[]),
            "lose: Bound claim has lost its PersistentVolume. Data on the volume is lost!",
        ),
        (
            decide(&adrift, None, None, vec![], &[]),
            "lose: Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
        ),
        (
            decide(&done, None, Some(held("other")), vec![], &[]),
            "lose: Two claims are bound to the same volume, this one is bound incorrectly",
        ),
        (decide(&done, None, Some(held("u")), vec![], &[]), "bind v"),
    ] {
        assert_eq!(got, want);
    }
}

#[test]
fn volumes_follow_their_claims() {
    let held = |annotations: Value, more: Value| {
        let mut spec = json!({"claimRef": {"namespace": "ns", "name": "data", "uid": "u"}});
        if let (Some(all), Some(more)) = (spec.as_object_mut(), more.as_object()) {
            all.extend(more.clone());
        }
        pv(annotations, spec)
    };
    let free = pvc(json!({}), json!({}));
    let mine = pvc(json!({}), json!({"volumeName": "v"}));
    let others = pvc(json!({}), json!({"volumeName": "w"}));
    let plain = held(json!({}), json!({}));
    let step = plan::volume;
    assert_eq!(
        step(&pv(json!({}), json!({})), None),
        VolumeStep::Phase("Available")
    );
    let reserved = pv(
        json!({}),
        json!({"claimRef": {"namespace": "ns", "name": "data"}}),
    );
    assert_eq!(step(&reserved, None), VolumeStep::Phase("Available"));
    assert_eq!(
        step(&plain, Some(Holder::There(&mine))),
        VolumeStep::Phase("Bound")
    );
    assert_eq!(
        step(&plain, Some(Holder::There(&free))),
        VolumeStep::WakeClaim
    );
    assert_eq!(
        step(&plain, Some(Holder::There(&others))),
        VolumeStep::Unbind
    );
    assert_eq!(
        step(&plain, Some(Holder::Gone)),
        VolumeStep::Reclaim(Reclaim::Leave)
    );
    let made = held(
        json!({"pv.kubernetes.io/provisioned-by": "x.example.com"}),
        json!({"persistentVolumeReclaimPolicy": "Delete"}),
    );
    assert_eq!(
        step(&made, Some(Holder::There(&others))),
        VolumeStep::Reclaim(Reclaim::Leave)
    );
    let delete = |more: Value| {
        let mut spec = json!({"persistentVolumeReclaimPolicy": "Delete"});
        if let (Some(all), Some(more)) = (spec.as_object_mut(), more.as_object()) {
            all.extend(more.clone());
        }
        match step(&held(json!({}), spec), Some(Holder::Gone)) {
            VolumeStep::Reclaim(Reclaim::Fail(say)) => say.message,
            other => format!("{other:?}"),
        }
    };
    assert_eq!(
        delete(json!({"hostPath": {"path": "/etc"}})),
        "host_path deleter only supports /tmp/.+ but received provided /etc"
    );
    assert!(delete(json!({"hostPath": {"path": "/tmp/../etc"}})).starts_with("host_path deleter"));
    assert_eq!(
        delete(json!({"hostPath": {"path": "/tmp/x"}})),
        "Reclaim(DeleteDirectory(\"/tmp/x\"))"
    );
    assert!(
        delete(json!({"nfs": {"server": "s", "path": "/"}}))
            .ends_with("no deletable volume plugin matched")
    );
}

#[test]
fn binding_writes_both_sides_once_and_can_be_taken_back() {
    let claim = pvc(json!({}), json!({}));
    let volume = pv(json!({}), json!({}));
    let bound = plan::volume_bound(&volume, &claim).unwrap();
    assert!(plan::volume_bound(&bound, &claim).is_none());
    assert_eq!(
        plan::volume_unbound(&bound).spec.unwrap().claim_ref,
        None,
        "a controller's binding goes wholly"
    );
    let reserved = pv(
        json!({}),
        json!({"claimRef": {"namespace": "ns", "name": "data"}}),
    );
    let kept = plan::volume_unbound(&plan::volume_bound(&reserved, &claim).unwrap());
    let holder = kept.spec.unwrap().claim_ref.unwrap();
    assert_eq!((holder.name.as_deref(), holder.uid), (Some("data"), None));

    let done = plan::claim_bound(&claim, "v").unwrap();
    assert!(plan::claim_bound(&done, "v").is_none());
    let status = plan::claim_status(&done, "Bound", Some(&volume)).unwrap();
    assert_eq!(status.capacity.as_ref().unwrap()["storage"].0, "1Gi");
    let mut after = done.clone();
    after.status = Some(status);
    assert!(plan::claim_status(&after, "Bound", Some(&volume)).is_none());
    let lost = plan::claim_status(&after, "Lost", None).unwrap();
    assert_eq!((lost.phase.as_deref(), lost.capacity), (Some("Lost"), None));
}
