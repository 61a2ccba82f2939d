//! Autoscaling by metrics.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::harness::{create, deployment, rolled_out, start, until};

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
