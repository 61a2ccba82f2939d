//! All controllers against a whole API server on a memory store, each as its own service account; a few lines play scheduler and
//! kubelet.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod,
    ReplicationController, ResourceQuota, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use keelson_runtime::{Informers, client};
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
    PostParams, PropagationPolicy,
};
use kube::{Api, Client, ResourceExt};
use kube_apiserver::testing::TestServer;
use kube_controller_manager::identity::Identities;
use kube_controller_manager::manager;
use kube_controller_manager::options::Options;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

struct Cluster {
    client: Client,
    stop: CancellationToken,
    _server: TestServer,
    _directory: tempfile::TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Starts an API server, the controllers and the fake node.
async fn start() -> Cluster {
    let server = TestServer::start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let config = |name: &str, groups: &[&str]| {
        let path = directory.path().join(format!("{name}.conf"));
        std::fs::write(&path, server.kubeconfig(name, groups).unwrap()).unwrap();
        path
    };
    let admin = config("admin", &["system:masters"]);
    let own = config("system:kube-controller-manager", &[]);
    let root = directory.path().join("ca.crt");
    std::fs::write(&root, server.ca()).unwrap();
    let (signing, key) = (
        directory.path().join("sign.crt"),
        directory.path().join("sign.key"),
    );
    let pair = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    std::fs::write(&signing, params.self_signed(&pair).unwrap().pem()).unwrap();
    std::fs::write(&key, pair.serialize_pem()).unwrap();

    let manager_client = client::from_kubeconfig(&own, "kube-controller-manager")
        .await
        .unwrap();
    let bare = client::config_from_kubeconfig(&own, "kube-controller-manager")
        .await
        .unwrap();
    let identities = Identities::separate(manager_client.clone(), bare).unwrap();
    let options = Options::try_parse_from([
        "kube-controller-manager",
        "--cluster-cidr=10.244.0.0/16",
        "--allocate-node-cidrs",
        "--root-ca-file",
        root.to_str().unwrap(),
        "--cluster-signing-cert-file",
        signing.to_str().unwrap(),
        "--cluster-signing-key-file",
        key.to_str().unwrap(),
        "--service-account-private-key-file",
        key.to_str().unwrap(),
    ])
    .unwrap();
    let stop = CancellationToken::new();
    let informers = Arc::new(Informers::new(manager_client));
    let mut tasks = manager::start_all(&identities, &informers, &Arc::new(options), &stop);
    tokio::spawn(async move { while tasks.join_next().await.is_some() {} });

    let client = client::from_kubeconfig(&admin, "test").await.unwrap();
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    create::<Node>(&Api::all(client.clone()), node).await;
    tokio::spawn({
        let (client, stop) = (client.clone(), stop.clone());
        async move { stop.run_until_cancelled(play_node(client)).await }
    });
    Cluster {
        client,
        stop,
        _server: server,
        _directory: directory,
    }
}

async fn create<K>(api: &Api<K>, value: Value) -> K
where
    K: Clone + serde::de::DeserializeOwned + serde::Serialize + std::fmt::Debug,
{
    api.create(
        &PostParams::default(),
        &serde_json::from_value(value).unwrap(),
    )
    .await
    .unwrap()
}

/// Binds every pod to the node, runs it (or ends it, if it is to end), and ends deletions.
async fn play_node(client: Client) {
    let nodes = Api::<Node>::all(client.clone());
    let mut address = 0u8;
    loop {
        let now = jiff::Timestamp::now()
            .strftime("%Y-%m-%dT%H:%M:%SZ")
            .to_string();
        let status = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": now,
            "lastTransitionTime": now, "reason": "KubeletReady", "message": ""}]}});
        let _ = nodes
            .patch_status("n1", &PatchParams::default(), &Patch::Merge(status))
            .await;
        let pods = Api::<Pod>::all(client.clone())
            .list(&ListParams::default())
            .await
            .map(|list| list.items)
            .unwrap_or_default();
        for pod in pods {
            let api = Api::<Pod>::namespaced(client.clone(), &pod.namespace().unwrap());
            let name = pod.name_any();
            if pod.metadata.deletion_timestamp.is_some() {
                let _ = api
                    .delete(&name, &DeleteParams::default().grace_period(0))
                    .await;
                continue;
            }
            let spec = pod.spec.clone().unwrap();
            if spec.node_name.is_none() {
                let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"kind": "Node", "name": "n1"}});
                let _: Result<Value, _> = api
                    .create_subresource("binding", &name, &PostParams::default(), &binding)
                    .await;
            }
            if pod
                .status
                .as_ref()
                .and_then(|status| status.phase.as_deref())
                == Some("Pending")
            {
                address += 1;
                let ends = spec.restart_policy.as_deref() != Some("Always");
                let ip = format!("10.244.0.{address}");
                let status = json!({"status": {"phase": if ends { "Succeeded" } else { "Running" }, "podIP": ip, "podIPs": [{"ip": ip}], "startTime": now,
                    "conditions": [{"type": "Ready", "status": if ends { "False" } else { "True" }, "lastTransitionTime": now}]}});
                let _ = api
                    .patch_status(&name, &PatchParams::default(), &Patch::Merge(status))
                    .await;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until `look` finds what it looks for.
async fn until<T, F, Fut>(what: &str, look: F) -> T
where
    F: Fn() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "still waiting: {what}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn deployment(replicas: i32, image: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [
            {"name": "c", "image": image, "ports": [{"name": "http", "containerPort": 8080}]}]}}}})
}

async fn rolled_out(client: &Client, namespace: &str, replicas: i32) {
    let api = Api::<Deployment>::namespaced(client.clone(), namespace);
    until("the rollout", || async {
        let web = api.get("web").await.ok()?;
        let status = web.status?;
        let complete = status.observed_generation == web.metadata.generation
            && status.updated_replicas == Some(replicas)
            && status.available_replicas == Some(replicas)
            && status.replicas == Some(replicas);
        complete.then_some(())
    })
    .await;
}

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
async fn quotas_are_exact_and_give_back_what_goes() {
    let cluster = start().await;
    let client = &cluster.client;
    let quotas = Api::<ResourceQuota>::namespaced(client.clone(), "default");
    let hard = json!({"count/configmaps": "4", "pods": "1", "count/deployments.apps": "2"});
    create(
        &quotas,
        json!({"metadata": {"name": "q"}, "spec": {"hard": hard}}),
    )
    .await;
    let used = |name: &'static str| {
        let quotas = quotas.clone();
        async move {
            let used = quotas.get("q").await.ok()?.status?.used?;
            Some(used.get(name)?.0.clone())
        }
    };
    until("the root certificates to be counted", || async {
        let maps = used("count/configmaps").await? == "1";
        (maps && used("count/deployments.apps").await? == "0").then_some(())
    })
    .await;
    let maps = Api::<ConfigMap>::namespaced(client.clone(), "default");
    let tries = (0..64).map(|i| {
        let maps = maps.clone();
        async move {
            let map = serde_json::from_value(json!({"metadata": {"name": format!("m{i}")}}));
            maps.create(&PostParams::default(), &map.unwrap())
                .await
                .is_ok()
        }
    });
    let made = futures::future::join_all(tries).await;
    assert_eq!(made.iter().filter(|made| **made).count(), 3);
    // A recount a moment later must not let a fifth in.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(used("count/configmaps").await.as_deref(), Some("4"));
    let one = made.iter().position(|made| *made).unwrap();
    maps.delete(&format!("m{one}"), &DeleteParams::default())
        .await
        .unwrap();
    until("the place to be free again", || async {
        (used("count/configmaps").await? == "3").then_some(())
    })
    .await;

    let controller = json!({"metadata": {"name": "rc"}, "spec": {"replicas": 2, "selector": {"a": "b"},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}}}});
    let controllers = Api::<ReplicationController>::namespaced(client.clone(), "default");
    create(&controllers, controller).await;
    until("the failure to be told", || async {
        let conditions = controllers.get("rc").await.ok()?.status?.conditions?;
        let failure = conditions.iter().find(|c| c.type_ == "ReplicaFailure")?;
        let message = failure.message.clone()?;
        message.contains("exceeded quota: q").then_some(())
    })
    .await;
}

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

/// Makes a resource of the API of metrics out of thin air: what a test puts there is what is measured.
async fn play_metrics(client: &Client) -> Api<DynamicObject> {
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let definition = json!({"metadata": {"name": "pods.metrics.k8s.io", "annotations": {"api-approved.kubernetes.io": "unapproved, a test"}},
        "spec": {"group": "metrics.k8s.io", "scope": "Namespaced", "names": {"plural": "pods", "kind": "PodMetrics"},
            "versions": [{"name": "v1beta1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
    create(
        &Api::<CustomResourceDefinition>::all(client.clone()),
        definition,
    )
    .await;
    let kind = GroupVersionKind::gvk("metrics.k8s.io", "v1beta1", "PodMetrics");
    let resource = ApiResource::from_gvk_with_plural(&kind, "pods");
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), "default", &resource);
    until("the metrics to be served", || async {
        api.list(&ListParams::default()).await.ok().map(drop)
    })
    .await;
    api
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_deployment_gets_more_pods() {
    let cluster = start().await;
    let client = &cluster.client;
    let metrics = play_metrics(client).await;
    let mut web = deployment(1, "v1");
    web["spec"]["template"]["spec"]["containers"][0]["resources"] =
        json!({"requests": {"cpu": "100m"}});
    create(
        &Api::<Deployment>::namespaced(client.clone(), "default"),
        web,
    )
    .await;
    rolled_out(client, "default", 1).await;
    let pods = Api::<Pod>::namespaced(client.clone(), "default");
    let pod = pods
        .list(&ListParams::default())
        .await
        .unwrap()
        .items
        .remove(0);
    // Samples of a pod's first minutes count only if they were taken after it became ready.
    let at = (jiff::Timestamp::now() + Duration::from_secs(60)).to_string();
    let sample: DynamicObject = serde_json::from_value(json!({"apiVersion": "metrics.k8s.io/v1beta1", "kind": "PodMetrics",
        "metadata": {"name": pod.name_any(), "labels": pod.labels()}, "timestamp": at, "window": "15s",
        "containers": [{"name": "c", "usage": {"cpu": "150m", "memory": "1Mi"}}]}))
    .unwrap();
    metrics
        .create(&PostParams::default(), &sample)
        .await
        .unwrap();
    let scalers = Api::<HorizontalPodAutoscaler>::namespaced(client.clone(), "default");
    let scaler = json!({"metadata": {"name": "web"}, "spec": {"maxReplicas": 5, "scaleTargetRef":
        {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}, "metrics": [{"type": "Resource", "resource":
            {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]}});
    create(&scalers, scaler).await;
    rolled_out(client, "default", 3).await;
    let status = until("the autoscaler's status", || async {
        let status = scalers.get("web").await.ok()?.status?;
        (status.desired_replicas == 3).then_some(status)
    })
    .await;
    let condition = |kind: &str| {
        let all = status.conditions.iter().flatten();
        let own = all.into_iter().find(|condition| condition.type_ == kind);
        own.and_then(|condition| condition.reason.clone())
    };
    assert_eq!(
        condition("AbleToScale").as_deref(),
        Some("SucceededRescale")
    );
    assert_eq!(
        condition("ScalingActive").as_deref(),
        Some("ValidMetricFound")
    );
    let measured = status.current_metrics.unwrap().remove(0).resource.unwrap();
    assert_eq!(measured.current.average_utilization, Some(150));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_signed_and_token_secrets_filled() {
    let cluster = start().await;
    let client = &cluster.client;
    let requests = Api::<CertificateSigningRequest>::all(client.clone());
    let pair = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "joe");
    let pem = params.serialize_request(&pair).unwrap().pem().unwrap();
    let mut request: CertificateSigningRequest = serde_json::from_value(json!({"metadata": {"name": "joe"}, "spec": {
        "request": "", "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"]}}))
    .unwrap();
    request.spec.request = k8s_openapi::ByteString(pem.into_bytes());
    let mut made = requests
        .create(&PostParams::default(), &request)
        .await
        .unwrap();
    made.status = Some(
        serde_json::from_value(
            json!({"conditions": [{"type": "Approved", "status": "True", "reason": "Test"}]}),
        )
        .unwrap(),
    );
    let _: CertificateSigningRequest = requests
        .replace_subresource("approval", "joe", &PostParams::default(), &made)
        .await
        .unwrap();
    until("the certificate", || async {
        let certificate = requests.get("joe").await.ok()?.status?.certificate?;
        certificate
            .0
            .starts_with(b"-----BEGIN CERTIFICATE-----")
            .then_some(())
    })
    .await;

    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), "default");
    create(&accounts, json!({"metadata": {"name": "bot"}})).await;
    let secrets = Api::<Secret>::namespaced(client.clone(), "default");
    let secret = json!({"metadata": {"name": "bot-token", "annotations": {"kubernetes.io/service-account.name": "bot"}},
        "type": "kubernetes.io/service-account-token"});
    create(&secrets, secret).await;
    until("the token", || async {
        let data = secrets.get("bot-token").await.ok()?.data?;
        (data.contains_key("token") && data.contains_key("ca.crt")).then_some(())
    })
    .await;
    accounts
        .delete("bot", &DeleteParams::default())
        .await
        .unwrap();
    until("the secret to go with its account", || async {
        matches!(secrets.get_opt("bot-token").await, Ok(None)).then_some(())
    })
    .await;
}
