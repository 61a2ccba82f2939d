//! Claims of volumes and of devices, and attaching volumes.

use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimTemplate};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::harness::{create, start, until};

#[tokio::test(flavor = "multi_thread")]
async fn claims_are_bound_protected_and_let_go() {
    let cluster = start().await;
    let client = &cluster.client;
    let volumes = Api::<PersistentVolume>::all(client.clone());
    let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), "default");
    let size = |size: &str| json!({"storage": size});
    for (name, capacity) in [("big", "10Gi"), ("fit", "2Gi")] {
        let volume = json!({"metadata": {"name": name}, "spec": {"capacity": size(capacity), "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": "/data"}, "storageClassName": "manual"}});
        create(&volumes, volume).await;
    }
    let phase = |name: &'static str| {
        let volumes = volumes.clone();
        async move { volumes.get(name).await.ok()?.status?.phase }
    };
    // Only available volumes are chosen from: with one of them the claim would get that one, fitting or not.
    until("both volumes to be available", || async {
        let available = phase("big").await? == "Available" && phase("fit").await? == "Available";
        available.then_some(())
    })
    .await;
    let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "manual",
        "resources": {"requests": size("1Gi")}}});
    create(&claims, claim).await;
    until("the binding", || async {
        let claim = claims.get("data").await.ok()?;
        let bound = claim.status?.phase? == "Bound" && claim.spec?.volume_name? == "fit";
        (bound && phase("fit").await? == "Bound").then_some(())
    })
    .await;
    let pods = Api::<Pod>::namespaced(client.clone(), "default");
    let pod = json!({"metadata": {"name": "user"}, "spec": {"containers": [{"name": "c", "image": "v1"}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "e", "ephemeral": {"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "manual",
                "resources": {"requests": size("5Gi")}}}}}]}});
    create(&pods, pod).await;
    until("the pod to run", || async {
        (pods.get("user").await.ok()?.status?.phase? == "Running").then_some(())
    })
    .await;
    until("the ephemeral volume's claim", || async {
        let claim = claims.get("user-e").await.ok()?;
        (claim.status?.phase? == "Bound").then_some(())
    })
    .await;
    claims
        .delete("data", &DeleteParams::default())
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(
        claims
            .get("data")
            .await
            .unwrap()
            .metadata
            .deletion_timestamp
            .is_some(),
        "held by the pod"
    );
    pods.delete("user", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    until("the claims to go", || async {
        let gone = matches!(claims.get_opt("data").await, Ok(None));
        (gone && matches!(claims.get_opt("user-e").await, Ok(None))).then_some(())
    })
    .await;
    until("the volume to be released", || async {
        (phase("fit").await? == "Released").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_of_a_stateful_set_go_as_its_policy_says() {
    let cluster = start().await;
    let client = &cluster.client;
    let labels = json!({"app": "db"});
    let set = json!({"metadata": {"name": "db"}, "spec": {"replicas": 2, "serviceName": "db", "selector": {"matchLabels": labels},
        "persistentVolumeClaimRetentionPolicy": {"whenScaled": "Delete", "whenDeleted": "Delete"}, "ordinals": {"start": 4},
        "template": {"metadata": {"labels": labels}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "v1"}]}},
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}}]}});
    let api = Api::<StatefulSet>::namespaced(client.clone(), "default");
    let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), "default");
    create(&api, set).await;
    until("claims that the set owns", || async {
        let mut owned = true;
        for name in ["data-db-4", "data-db-5"] {
            let owners = claims.get(name).await.ok()?.metadata.owner_references?;
            owned &= owners.len() == 1 && owners[0].kind == "StatefulSet";
        }
        owned.then_some(())
    })
    .await;
    let pods = Api::<Pod>::namespaced(client.clone(), "default");
    let evicted = pods.get("db-4").await.unwrap().metadata.uid;
    let failed = json!({"status": {"phase": "Failed", "reason": "Evicted"}});
    pods.patch_status("db-4", &PatchParams::default(), &Patch::Merge(failed))
        .await
        .unwrap();
    until("the evicted pod's successor", || async {
        let pod = pods.get("db-4").await.ok()?;
        (pod.metadata.uid != evicted && pod.status?.phase? == "Running").then_some(())
    })
    .await;
    let one = json!({"spec": {"replicas": 1}});
    api.patch("db", &PatchParams::default(), &Patch::Merge(one))
        .await
        .unwrap();
    until("the claim of the last pod to go", || async {
        matches!(claims.get_opt("data-db-5").await, Ok(None)).then_some(())
    })
    .await;
    assert!(claims.get_opt("data-db-4").await.unwrap().is_some());
    api.delete("db", &DeleteParams::default()).await.unwrap();
    until("the other claim to go", || async {
        matches!(claims.get_opt("data-db-4").await, Ok(None)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_are_attached_where_pods_need_them() {
    let cluster = start().await;
    let client = &cluster.client;
    let nodes = Api::<Node>::all(client.clone());
    let managed = json!({"metadata": {"annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}}});
    nodes
        .patch("n1", &PatchParams::default(), &Patch::Merge(managed))
        .await
        .unwrap();
    let size = json!({"storage": "1Gi"});
    let volume = json!({"metadata": {"name": "disk"}, "spec": {"capacity": size, "accessModes": ["ReadWriteOnce"],
        "csi": {"driver": "d.example.com", "volumeHandle": "h"}, "storageClassName": "c"}});
    create(&Api::<PersistentVolume>::all(client.clone()), volume).await;
    let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "c",
        "volumeName": "disk", "resources": {"requests": size}}});
    create(
        &Api::<PersistentVolumeClaim>::namespaced(client.clone(), "default"),
        claim,
    )
    .await;
    let pods = Api::<Pod>::namespaced(client.clone(), "default");
    let pod = json!({"metadata": {"name": "user"}, "spec": {"containers": [{"name": "c", "image": "v1"}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}});
    create(&pods, pod).await;
    let attachments = Api::<VolumeAttachment>::all(client.clone());
    let name = until("the attachment", || async {
        let list = attachments.list(&ListParams::default()).await.ok()?;
        Some(list.items.first()?.name_any())
    })
    .await;
    let attached = json!({"status": {"attached": true}});
    attachments
        .patch_status(&name, &PatchParams::default(), &Patch::Merge(attached))
        .await
        .unwrap();
    let reported = || async {
        let volumes = nodes.get("n1").await.ok()?.status?.volumes_attached;
        Some(
            volumes
                .unwrap_or_default()
                .into_iter()
                .map(|volume| volume.name)
                .collect::<Vec<_>>(),
        )
    };
    until("the node's status", || async {
        (reported().await? == ["kubernetes.io/csi/d.example.com^h"]).then_some(())
    })
    .await;
    pods.delete("user", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    until("the attachment to go", || async {
        matches!(attachments.get_opt(&name).await, Ok(None)).then_some(())
    })
    .await;
    assert!(reported().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_get_claims_from_templates() {
    let cluster = start().await;
    let client = &cluster.client;
    let template = json!({"metadata": {"name": "t"}, "spec": {"spec": {}}});
    create(
        &Api::<ResourceClaimTemplate>::namespaced(client.clone(), "default"),
        template,
    )
    .await;
    let pods = Api::<Pod>::namespaced(client.clone(), "default");
    let pod = json!({"metadata": {"name": "user"}, "spec": {"containers": [{"name": "c", "image": "v1"}],
        "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "t"}]}});
    create(&pods, pod).await;
    let name = until("the claim's name in the pod's status", || async {
        let statuses = pods
            .get("user")
            .await
            .ok()?
            .status?
            .resource_claim_statuses?;
        statuses.into_iter().next()?.resource_claim_name
    })
    .await;
    assert!(name.starts_with("user-gpu-"), "{name}");
    let claims = Api::<ResourceClaim>::namespaced(client.clone(), "default");
    let allocated = json!({"status": {"allocation": {}}});
    claims
        .patch_status(&name, &PatchParams::default(), &Patch::Merge(allocated))
        .await
        .unwrap();
    until("the pod to be noted with its claim", || async {
        let consumers = claims.get(&name).await.ok()?.status?.reserved_for?;
        (consumers.first()?.name == "user").then_some(())
    })
    .await;
    let ended = json!({"status": {"phase": "Succeeded"}});
    pods.patch_status("user", &PatchParams::default(), &Patch::Merge(ended))
        .await
        .unwrap();
    until("the claim to go with the end of its pod", || async {
        matches!(claims.get_opt(&name).await, Ok(None)).then_some(())
    })
    .await;
    assert!(pods.get_opt("user").await.unwrap().is_some());
}
