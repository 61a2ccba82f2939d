//! Claims, volumes and nodes in small scenes: what VolumeBinding says of each.

use serde_json::json;

use super::*;

fn claim(more: &[(&str, Value)]) -> PersistentVolumeClaim {
    let mut value = json!({
        "metadata": {"name": "data", "namespace": "default", "uid": "claim"},
        "spec": {
            "storageClassName": "local", "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    });
    for (pointer, part) in more {
        set(&mut value, pointer, part.clone());
    }
    serde_json::from_value(value).unwrap()
}

fn volume(more: &[(&str, Value)]) -> PersistentVolume {
    let mut value = json!({
        "metadata": {"name": "disk"},
        "spec": {
            "storageClassName": "local", "accessModes": ["ReadWriteOnce", "ReadOnlyMany"],
            "capacity": {"storage": "2Gi"},
        },
        "status": {"phase": "Available"},
    });
    for (pointer, part) in more {
        set(&mut value, pointer, part.clone());
    }
    serde_json::from_value(value).unwrap()
}

fn set(value: &mut Value, pointer: &str, part: Value) {
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    value.pointer_mut(parent).unwrap()[last] = part;
}

#[track_caller]
fn check(wants: &[(&str, Value)], has: &[(&str, Value)], fits: bool) {
    assert_eq!(matching::fits(&claim(wants), &volume(has)), fits);
}

#[test]
fn a_volume_does_for_a_claim() {
    check(&[], &[], true);
    check(
        &[("/spec/resources/requests/storage", json!("3Gi"))],
        &[],
        false,
    );
    check(
        &[("/spec/accessModes", json!(["ReadWriteMany"]))],
        &[],
        false,
    );
    check(&[("/spec/storageClassName", json!("fast"))], &[], false);
    check(&[("/spec/volumeMode", json!("Block"))], &[], false);
    check(&[], &[("/status/phase", json!("Released"))], false);
    let selector = json!({"matchLabels": {"disk": "ssd"}});
    check(&[("/spec/selector", selector.clone())], &[], false);
    let labels = ("/metadata/labels", json!({"disk": "ssd"}));
    check(&[("/spec/selector", selector)], &[labels], true);
    let held = |name, uid| {
        (
            "/spec/claimRef",
            json!({"namespace": "default", "name": name, "uid": uid}),
        )
    };
    check(&[], &[held("other", "")], false);
    check(&[], &[held("data", "")], true);
    check(&[], &[held("data", "claim")], true);
    check(&[], &[held("data", "an earlier one")], false);
}

#[test]
fn volumes_and_classes_are_where_they_say() {
    let near = NodeInfo::new(crate::build::node("near").label("zone", "x").done());
    let far = NodeInfo::new(crate::build::node("far").done());
    let terms = json!([{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["x"]}]}]);
    let affinity = json!({"required": {"nodeSelectorTerms": terms}});
    let local = volume(&[("/spec/nodeAffinity", affinity)]);
    assert!(on_node(&local, &near) && !on_node(&local, &far));
    assert!(on_node(&volume(&[]), &far));
    let class = |value: Value| serde_json::from_value::<StorageClass>(value).unwrap();
    let none = class(json!({"metadata": {}, "provisioner": "kubernetes.io/no-provisioner"}));
    assert!(!can_provision(&none, &near));
    let zonal = class(json!({
        "metadata": {}, "provisioner": "example.com/disk",
        "allowedTopologies": [{"matchLabelExpressions": [{"key": "zone", "values": ["x"]}]}],
    }));
    assert!(can_provision(&zonal, &near) && !can_provision(&zonal, &far));
}
