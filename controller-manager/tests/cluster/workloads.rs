//! Namespaces, and the controllers of pods.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, Node, Pod, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PropagationPolicy};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::harness::{create, deployment, rolled_out, start, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_furnished_lives_and_is_emptied() {
    let cluster = start().await;
    let client = &cluster.client;
    let namespaces = Api::<Namespace>::all(client.clone());
    create(&namespaces, json!({"metadata": {"name": "team"}})).await;
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), "team");
    until("the default service account", || async {
        accounts.get_opt("default").await.ok().flatten()
    })
    .await;
    let maps = Api::<ConfigMap>::namespaced(client.clone(), "team");
    until("the root certificates", || async {
        maps.get_opt("kube-root-ca.crt").await.ok().flatten()
    })
    .await;
    let nodes = Api::<Node>::all(client.clone());
    let cidr = until("the node's range", || async {
        nodes.get("n1").await.ok()?.spec?.pod_cidr
    })
    .await;
    assert_eq!(cidr, "10.244.0.0/24");

    create(
        &Api::<Deployment>::namespaced(client.clone(), "team"),
        deployment(3, "v1"),
    )
    .await;
    let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}});
    create(&Api::<Service>::namespaced(client.clone(), "team"), service).await;
    rolled_out(client, "team", 3).await;
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), "team");
    until("three endpoints", || async {
        let list = slices.list(&ListParams::default()).await.ok()?.items;
        let ready: Vec<_> = list
            .iter()
            .flat_map(|slice| slice.endpoints.iter().flatten())
            .collect();
        let port = list.first()?.ports.as_ref()?.first()?.port;
        (ready.len() == 3 && port == Some(8080)).then_some(())
    })
    .await;

    namespaces
        .delete("team", &DeleteParams::default())
        .await
        .unwrap();
    until("the end of the namespace", || async {
        matches!(namespaces.get_opt("team").await, Ok(None)).then_some(())
    })
    .await;
    let left = Api::<Pod>::namespaced(client.clone(), "team")
        .list(&ListParams::default())
        .await
        .unwrap();
    assert!(left.items.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn deployments_roll_and_their_dependents_go_as_asked() {
    let cluster = start().await;
    let client = &cluster.client;
    let api = Api::<Deployment>::namespaced(client.clone(), "default");
    let sets = Api::<ReplicaSet>::namespaced(client.clone(), "default");
    let pods = Api::<Pod>::namespaced(client.clone(), "default");
    create(&api, deployment(2, "v1")).await;
    rolled_out(client, "default", 2).await;
    let image =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "v2"}]}}}});
    api.patch("web", &PatchParams::default(), &Patch::Strategic(image))
        .await
        .unwrap();
    rolled_out(client, "default", 2).await;
    assert_eq!(
        api.get("web").await.unwrap().annotations()["deployment.kubernetes.io/revision"],
        "2"
    );
    assert_eq!(
        sets.list(&ListParams::default()).await.unwrap().items.len(),
        2
    );

    let orphan = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Orphan),
        ..DeleteParams::default()
    };
    api.delete("web", &orphan).await.unwrap();
    until("ReplicaSets without an owner", || async {
        let gone = api.get_opt("web").await.ok()?.is_none();
        let list = sets.list(&ListParams::default()).await.ok()?.items;
        (gone && list.len() == 2 && list.iter().all(|set| set.owner_references().is_empty()))
            .then_some(())
    })
    .await;
    create(&api, deployment(2, "v2")).await;
    until("their adoption", || async {
        let list = sets.list(&ListParams::default()).await.ok()?.items;
        (list.len() == 2 && list.iter().all(|set| !set.owner_references().is_empty())).then_some(())
    })
    .await;

    let foreground = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Foreground),
        ..DeleteParams::default()
    };
    api.delete("web", &foreground).await.unwrap();
    until("the end of the Deployment", || async {
        matches!(api.get_opt("web").await, Ok(None)).then_some(())
    })
    .await;
    assert!(
        sets.list(&ListParams::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
    assert!(
        pods.list(&ListParams::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_end_stateful_sets_count_up_and_budgets_count() {
    let cluster = start().await;
    let client = &cluster.client;
    let container = json!({"name": "c", "image": "v1"});
    let jobs = Api::<Job>::namespaced(client.clone(), "default");
    let job = json!({"metadata": {"name": "sum"}, "spec": {"completions": 3, "parallelism": 2, "completionMode": "Indexed",
        "template": {"spec": {"restartPolicy": "Never", "containers": [container]}}}});
    create(&jobs, job).await;
    let status = until("the end of the Job", || async {
        let status = jobs.get("sum").await.ok()?.status?;
        status.completion_time.is_some().then_some(status)
    })
    .await;
    assert_eq!(
        (status.succeeded, status.completed_indexes.as_deref()),
        (Some(3), Some("0-2"))
    );

    let labels = json!({"app": "db"});
    let set = json!({"metadata": {"name": "db"}, "spec": {"replicas": 2, "serviceName": "db", "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}}}});
    let api = Api::<StatefulSet>::namespaced(client.clone(), "default");
    create(&api, set).await;
    let budget = json!({"metadata": {"name": "db"}, "spec": {"maxUnavailable": 1, "selector": {"matchLabels": labels}}});
    let budgets = Api::<PodDisruptionBudget>::namespaced(client.clone(), "default");
    create(&budgets, budget).await;
    until("two pods with names", || async {
        (api.get("db").await.ok()?.status?.available_replicas == Some(2)).then_some(())
    })
    .await;
    let pods = Api::<Pod>::namespaced(client.clone(), "default");
    assert!(pods.get_opt("db-1").await.unwrap().is_some());
    until("one disruption allowed", || async {
        (budgets.get("db").await.ok()?.status?.disruptions_allowed == Some(1)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bootstrap_tokens_sign_the_clusters_description_and_end() {
    let cluster = start().await;
    let client = &cluster.client;
    let secrets = Api::<Secret>::namespaced(client.clone(), "kube-system");
    let token = |id: &str, expires: jiff::Timestamp| {
        json!({"metadata": {"name": format!("bootstrap-token-{id}")}, "type": "bootstrap.kubernetes.io/token",
            "stringData": {"token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-signing": "true",
                "expiration": expires.to_string()}})
    };
    let now = jiff::Timestamp::now();
    let later = |seconds| now + jiff::SignedDuration::from_secs(seconds);
    create(&secrets, token("abcdef", later(3600))).await;
    let maps = Api::<ConfigMap>::namespaced(client.clone(), "kube-public");
    let info = json!({"metadata": {"name": "cluster-info"}, "data": {"kubeconfig": "x"}});
    create(&maps, info).await;
    let signatures = || async {
        let data = maps.get("cluster-info").await.ok()?.data?;
        Some(
            data.into_keys()
                .filter(|k| k != "kubeconfig")
                .collect::<Vec<_>>(),
        )
    };
    until("the signature", || async {
        (signatures().await? == ["jws-kubeconfig-abcdef"]).then_some(())
    })
    .await;
    create(&secrets, token("soon12", later(2))).await;
    until("the token to be deleted", || async {
        matches!(secrets.get_opt("bootstrap-token-soon12").await, Ok(None)).then_some(())
    })
    .await;
    until("its signature to go", || async {
        (signatures().await? == ["jws-kubeconfig-abcdef"]).then_some(())
    })
    .await;
}
