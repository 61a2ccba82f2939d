//! Old holes of API servers, by the numbers they were reported under: each stays closed here.

use http::Method;
use keelson_storage::MemoryStore;
use kube_apiserver::testing::TestServer;
use serde_json::json;
use std::sync::Arc;

/// Cluster-scoped objects were reachable through a namespace's path, where rights in the namespace were enough.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2019_11247_cluster_scoped_objects_have_no_namespaced_path() {
    let server = TestServer::start().await.unwrap();
    let admin = server.admin().unwrap();
    for path in [
        "/apis/rbac.authorization.k8s.io/v1/namespaces/default/clusterroles/view",
        "/apis/rbac.authorization.k8s.io/v1/namespaces/default/clusterroles",
        "/api/v1/namespaces/default/nodes",
        "/apis/storage.k8s.io/v1/namespaces/default/storageclasses",
    ] {
        assert_eq!(admin.get(path).await.unwrap().code, 404, "{path}");
    }
}

/// A small YAML or JSON text could grow to gigabytes, or to a stack too deep.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2019_11253_bombs_are_refused_in_bounded_time() {
    let server = TestServer::start().await.unwrap();
    let admin = server.admin().unwrap();
    let mut laughs = String::from("apiVersion: v1\nkind: ConfigMap\ndata:\n  a: &a lol\n");
    for (new, old) in "bcdefghijk".chars().zip("abcdefghij".chars()) {
        let nine = vec![format!("*{old}"); 9].join(",");
        laughs.push_str(&format!("  {new}: &{new} [{nine}]\n"));
    }
    let deep = format!(
        "{{\"metadata\":{}{}",
        "{\"a\":".repeat(20_000),
        "}".repeat(20_001)
    );
    let started = std::time::Instant::now();
    for (kind, body) in [("application/yaml", laughs), ("application/json", deep)] {
        let path = "/api/v1/namespaces/default/configmaps";
        let headers = [("content-type", kind)];
        let answer = admin
            .call(Method::POST, path, &headers, body)
            .await
            .unwrap();
        assert!((400..500).contains(&answer.code), "{kind}: {}", answer.code);
    }
    assert!(started.elapsed().as_secs() < 10);
}

/// A name or a continue token with `..` led out of the prefix that a caller may read.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2022_3162_no_path_leads_out_of_its_prefix() {
    use base64::Engine;
    let server = TestServer::start_on(Arc::new(MemoryStore::new()), &[])
        .await
        .unwrap();
    let admin = server.admin().unwrap();
    let path = "/api/v1/namespaces/default/secrets";
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"word": "c2VzYW1l"}});
    assert_eq!(admin.post(path, &secret).await.unwrap().code, 201);
    let token = |start: &str| {
        let text = json!({"v": "meta.k8s.io/v1", "rv": -1, "start": start}).to_string();
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text)
    };
    let mut paths = vec![
        "/api/v1/namespaces/default/configmaps/..%2F..%2Fsecrets%2Fdefault%2Fs".to_owned(),
        "/api/v1/namespaces/..%2Fdefault/configmaps/s".to_owned(),
        "/api/v1/namespaces/default/configmaps/..".to_owned(),
    ];
    for start in ["../../secrets/default/a", "../secrets"] {
        paths.push(format!(
            "/api/v1/namespaces/default/configmaps?limit=1&continue={}",
            token(start)
        ));
    }
    for path in paths {
        let answer = admin.get(&path).await.unwrap();
        assert!((400..500).contains(&answer.code), "{path}: {}", answer.code);
        assert!(!String::from_utf8_lossy(&answer.body).contains("c2VzYW1l"));
    }
}
