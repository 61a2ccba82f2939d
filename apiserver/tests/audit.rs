//! Audit through the whole server: what a policy lets into the log.

use std::path::Path;
use std::sync::Arc;

use http::Method;
use keelson_storage::MemoryStore;
use kube_apiserver::testing::TestServer;
use serde_json::{Value, json};

const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- {level: None, nonResourceURLs: ["/healthz*", "/readyz*"]}
- {level: Metadata, resources: [{group: "", resources: [secrets]}], omitStages: [RequestReceived]}
- level: RequestResponse
  resources: [{group: "", resources: [configmaps]}]
  omitStages: [RequestReceived]
  omitManagedFields: true
- {level: Metadata, userGroups: [dev, "system:unauthenticated"]}
- {level: Metadata, verbs: [watch]}
"#;

async fn start(folder: &Path) -> TestServer {
    let (policy, log) = (folder.join("policy.yaml"), folder.join("audit.log"));
    std::fs::write(&policy, POLICY).unwrap();
    let flags = [
        format!("--audit-policy-file={}", policy.display()),
        format!("--audit-log-path={}", log.display()),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    TestServer::start_on(Arc::new(MemoryStore::new()), &flags)
        .await
        .unwrap()
}

fn events(folder: &Path) -> Vec<Value> {
    std::fs::read_to_string(folder.join("audit.log"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_hold_what_the_policy_says() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path()).await;
    let admin = server.admin().unwrap();
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"word": "c2VzYW1l"}});
    let path = "/api/v1/namespaces/default/secrets";
    assert_eq!(admin.post(path, &secret).await.unwrap().code, 201);
    assert_eq!(admin.get("/healthz").await.unwrap().code, 200);
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "b"}});
    let path = "/api/v1/namespaces/default/configmaps?fieldManager=x";
    let answer = admin
        .call(
            Method::POST,
            path,
            &[
                ("content-type", "application/json"),
                ("audit-id", "chosen"),
                ("x-forwarded-for", "1.2.3.4"),
            ],
            map.to_string(),
        )
        .await
        .unwrap();
    assert_eq!(answer.headers["audit-id"], "chosen");
    let patch = json!({"data": {"a": "c"}});
    let path = "/api/v1/namespaces/default/configmaps/m";
    admin
        .patch(path, "application/merge-patch+json", &patch)
        .await
        .unwrap();

    let all = events(folder.path());
    let text = serde_json::to_string(&all).unwrap();
    assert!(!text.contains("c2VzYW1l") && !text.contains("/healthz"));
    assert!(!text.contains("managedFields"));
    let secrets: Vec<&Value> = all
        .iter()
        .filter(|e| e["objectRef"]["resource"] == "secrets" && e["verb"] == "create")
        .collect();
    let [one] = secrets[..] else {
        panic!("{secrets:?}")
    };
    assert_eq!(
        (
            one["kind"].as_str(),
            one["apiVersion"].as_str(),
            one["level"].as_str(),
            one["stage"].as_str()
        ),
        (
            Some("Event"),
            Some("audit.k8s.io/v1"),
            Some("Metadata"),
            Some("ResponseComplete")
        )
    );
    assert_eq!(one["user"]["username"], "admin");
    assert_eq!(one["objectRef"]["name"], "s");
    assert_eq!(one["responseStatus"], json!({"metadata": {}, "code": 201}));
    assert_eq!(one["annotations"]["authorization.k8s.io/decision"], "allow");
    assert_eq!(one["requestReceivedTimestamp"].as_str().unwrap().len(), 27);
    assert_eq!(one["sourceIPs"], json!(["127.0.0.1"]));

    let created = all.iter().find(|e| e["auditID"] == "chosen").unwrap();
    assert_eq!(created["sourceIPs"], json!(["1.2.3.4", "127.0.0.1"]));
    assert_eq!(
        created["requestURI"],
        "/api/v1/namespaces/default/configmaps?fieldManager=x"
    );
    assert_eq!(created["requestObject"]["data"]["a"], "b");
    assert_eq!(created["responseObject"]["data"]["a"], "b");
    let patched = all.iter().find(|e| e["verb"] == "patch").unwrap();
    assert_eq!(patched["requestObject"], patch);
    assert_eq!(patched["responseObject"]["data"]["a"], "c");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_impersonation_and_watches_are_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path()).await;
    let jane = server.client("jane", &["dev"]).unwrap();
    assert_eq!(jane.get("/api/v1/nodes").await.unwrap().code, 403);
    let nobody = server.anonymous().unwrap();
    assert_eq!(
        nobody
            .get("/api/v1/namespaces/default/secrets")
            .await
            .unwrap()
            .code,
        401
    );
    let admin = server.admin().unwrap();
    let headers = [("impersonate-user", "joe"), ("impersonate-group", "ops")];
    let path = "/api/v1/namespaces/default/configmaps";
    let answer = admin.call(Method::GET, path, &headers, "").await.unwrap();
    assert_eq!(answer.code, 403);
    drop(
        admin
            .watch("/api/v1/pods?watch=1&timeoutSeconds=1")
            .await
            .unwrap(),
    );

    let mut all = Vec::new();
    for _ in 0..50 {
        all = events(folder.path());
        if all
            .iter()
            .any(|e| e["verb"] == "watch" && e["stage"] == "ResponseComplete")
        {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let of = |check: &dyn Fn(&Value) -> bool| -> Vec<Value> {
        all.iter().filter(|e| check(e)).cloned().collect()
    };
    let refused = of(&|e| e["user"]["username"] == "jane");
    let stages: Vec<&str> = refused.iter().filter_map(|e| e["stage"].as_str()).collect();
    assert_eq!(stages, ["RequestReceived", "ResponseComplete"]);
    assert_eq!(
        refused[1]["annotations"]["authorization.k8s.io/decision"],
        "forbid"
    );
    assert_eq!(refused[1]["responseStatus"]["reason"], "Forbidden");
    let unknown = of(&|e| e["responseStatus"]["code"] == 401);
    assert_eq!(unknown.len(), 1);
    assert_eq!(unknown[0]["stage"], "ResponseStarted");
    let acted = of(&|e| e["impersonatedUser"]["username"] == "joe");
    assert_eq!(acted[0]["user"]["username"], "admin");
    assert_eq!(acted[0]["impersonatedUser"]["groups"][0], "ops");
    let watched = of(&|e| e["verb"] == "watch" && e["user"]["username"] == "admin");
    let stages: Vec<&str> = watched.iter().filter_map(|e| e["stage"].as_str()).collect();
    assert_eq!(
        stages,
        ["RequestReceived", "ResponseStarted", "ResponseComplete"]
    );
}
