//! API priority and fairness, over TLS: who is told where a request belongs, and who has to wait or come back.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::sync::Arc;
use std::time::Duration;

use keelson_storage::MemoryStore;
use kube_apiserver::testing::{Answer, Client, TestServer};
use serde_json::{Value, json};

const GROUP: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";
const PODS: &str = "/api/v1/namespaces/default/pods";

async fn start(flags: &[&str]) -> (TestServer, Client) {
    let server = TestServer::start_on(Arc::new(MemoryStore::new()), flags)
        .await
        .expect("a server");
    let admin = server.admin().expect("a client");
    (server, admin)
}

/// Asks until the answer is as wanted.
async fn until(c: &Client, path: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
    for _ in 0..500 {
        let answer = c.get(path).await.unwrap();
        if wanted(&answer) {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{path} is never as wanted");
}

fn belongs(answer: &Answer) -> (String, String) {
    let header = |name: &str| {
        let value = answer.headers.get(name).and_then(|v| v.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    (
        header("x-kubernetes-pf-flowschema-uid"),
        header("x-kubernetes-pf-prioritylevel-uid"),
    )
}

async fn uid(c: &Client, plural: &str, name: &str) -> String {
    let object = c.get(&format!("{GROUP}/{plural}/{name}")).await.unwrap();
    object.json()["metadata"]["uid"]
        .as_str()
        .unwrap()
        .to_owned()
}

async fn uids(c: &Client, schema: &str, level: &str) -> (String, String) {
    (
        uid(c, "flowschemas", schema).await,
        uid(c, "prioritylevelconfigurations", level).await,
    )
}

fn schema(level: &str) -> Value {
    json!({"kind": "FlowSchema", "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "metadata": {"name": "tight"},
        "spec": {"matchingPrecedence": 50, "priorityLevelConfiguration": {"name": level}, "distinguisherMethod": {"type": "ByUser"},
            "rules": [{"subjects": [{"kind": "User", "user": {"name": "jane"}}],
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}]}]}})
}

fn level(limit_response: Value) -> Value {
    json!({"kind": "PriorityLevelConfiguration", "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "metadata": {"name": "tight"},
        "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 1, "lendablePercent": 0, "borrowingLimitPercent": 0,
            "limitResponse": limit_response}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_says_where_its_request_belongs() {
    let (server, c) = start(&[]).await;
    let exempt = uids(&c, "exempt", "exempt").await;
    let listed = until(&c, PODS, |a| belongs(a) == exempt).await;
    assert_eq!(listed.code, 200);
    let jane = server.client("jane", &[]).unwrap();
    let everybody = uids(&c, "global-default", "global-default").await;
    let refused = jane.get(PODS).await.unwrap();
    assert_eq!((refused.code, belongs(&refused)), (403, everybody));
    let probes = uids(&c, "probes", "exempt").await;
    let probe = server.anonymous().unwrap().get("/readyz").await.unwrap();
    assert_eq!(belongs(&probe), probes);
    let text = c.get("/metrics").await.unwrap();
    let text = String::from_utf8_lossy(&text.body).into_owned();
    for series in [
        "apiserver_flowcontrol_dispatched_requests_total{flow_schema=\"exempt\",priority_level=\"exempt\"}",
        "apiserver_flowcontrol_nominal_limit_seats{priority_level=\"global-default\"} 49",
        "apiserver_flowcontrol_request_execution_seconds_count{flow_schema=\"global-default\",priority_level=\"global-default\"} 1",
    ] {
        assert!(text.contains(series), "{series} is not in {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_without_a_level_says_so() {
    let (_server, c) = start(&[]).await;
    let path = format!("{GROUP}/flowschemas/tight");
    let made = c
        .post(&format!("{GROUP}/flowschemas"), &schema("tight"))
        .await
        .unwrap();
    assert_eq!(made.code, 201, "{}", made.json());
    let condition = |a: &Answer| a.json()["status"]["conditions"][0].clone();
    let dangling = until(&c, &path, |a| condition(a)["status"] == "True").await;
    let said = condition(&dangling);
    assert_eq!(
        (&said["type"], &said["reason"], &said["message"]),
        (
            &json!("Dangling"),
            &json!("NotFound"),
            &json!(
                "This FlowSchema references the PriorityLevelConfiguration object named \"tight\" but there is no such object"
            )
        )
    );
    let levels = format!("{GROUP}/prioritylevelconfigurations");
    let made = c.post(&levels, &level(json!({"type": "Reject"}))).await;
    assert_eq!(made.unwrap().code, 201);
    let found = until(&c, &path, |a| condition(a)["status"] == "False").await;
    assert_eq!(condition(&found)["reason"], "Found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_level_turns_requests_away_or_lets_them_wait() {
    let (server, c) = start(&[
        "--max-requests-inflight=8",
        "--max-mutating-requests-inflight=0",
    ])
    .await;
    let binding = json!({"kind": "ClusterRoleBinding", "apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "jane"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "User", "name": "jane", "apiGroup": "rbac.authorization.k8s.io"}]});
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    assert_eq!(c.post(bindings, &binding).await.unwrap().code, 201);
    let levels = format!("{GROUP}/prioritylevelconfigurations");
    let made = c.post(&levels, &level(json!({"type": "Reject"}))).await;
    assert_eq!(made.unwrap().code, 201);
    let schemas = format!("{GROUP}/flowschemas");
    assert_eq!(c.post(&schemas, &schema("tight")).await.unwrap().code, 201);
    let tight = uids(&c, "tight", "tight").await;
    let jane = server.client("jane", &[]).unwrap();
    until(&jane, PODS, |a| a.code == 200 && belongs(a) == tight).await;

    let held = jane.hold(PODS).await.unwrap();
    let refused = until(&jane, PODS, |a| a.code == 429).await;
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(refused.body, "Too many requests, please try again later.\n");
    assert_eq!(belongs(&refused), tight);
    // Others have their own seats.
    assert_eq!(c.get(PODS).await.unwrap().code, 200);
    drop(held);
    until(&jane, PODS, |a| a.code == 200).await;

    let queue =
        json!({"type": "Queue", "queuing": {"queues": 1, "handSize": 1, "queueLengthLimit": 1}});
    let patch = json!({"spec": {"limited": {"limitResponse": queue}}});
    let merge = "application/merge-patch+json";
    let patched = c.patch(&format!("{levels}/tight"), merge, &patch).await;
    assert_eq!(patched.unwrap().code, 200);
    let metric = "apiserver_flowcontrol_current_inqueue_requests{flow_schema=\"tight\",priority_level=\"tight\"} 1";
    let held = jane.hold(PODS).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let waits = tokio::spawn({
        let jane = jane.clone();
        async move { jane.get(PODS).await.map(|a| a.code) }
    });
    until(&c, "/metrics", |a| {
        String::from_utf8_lossy(&a.body).contains(metric)
    })
    .await;
    assert_eq!(jane.get(PODS).await.unwrap().code, 429);
    drop(held);
    assert_eq!(waits.await.unwrap().unwrap(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_it_only_the_bounds_count() {
    let (_server, c) = start(&["--enable-priority-and-fairness=false"]).await;
    let listed = c.get(PODS).await.unwrap();
    assert_eq!(listed.code, 200);
    assert_eq!(belongs(&listed), (String::new(), String::new()));
}
