//! All controllers against a whole API server on a memory store, each as its own service account.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod harness;
mod scaling;
mod volumes;
mod workloads;

use std::time::Duration;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{
    ConfigMap, ReplicationController, ResourceQuota, Secret, ServiceAccount,
};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;

use harness::{create, start, until};

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
