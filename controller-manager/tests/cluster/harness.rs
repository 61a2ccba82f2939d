//! A whole API server on a memory store, all controllers against it, and a few lines that play scheduler and kubelet.

use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use keelson_runtime::{Informers, client};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use kube_apiserver::testing::TestServer;
use kube_controller_manager::identity::Identities;
use kube_controller_manager::manager;
use kube_controller_manager::options::Options;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// What runs; it stops when this is dropped.
pub struct Cluster {
    /// Everybody's: an administrator.
    pub client: Client,
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
pub async fn start() -> Cluster {
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
        "--controllers=*,bootstrap-signer-controller,token-cleaner-controller",
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

/// Creates an object.
pub async fn create<K>(api: &Api<K>, value: Value) -> K
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
pub async fn until<T, F, Fut>(what: &str, look: F) -> T
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

/// A Deployment that never has too few pods.
pub fn deployment(replicas: i32, image: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [
            {"name": "c", "image": image, "ports": [{"name": "http", "containerPort": 8080}]}]}}}})
}

/// Waits until the Deployment of [`deployment`] is complete.
pub async fn rolled_out(client: &Client, namespace: &str, replicas: i32) {
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
