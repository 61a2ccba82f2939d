//! Who may do what, what the server says about itself, and what it starts with.

use http::Method;
use kube_apiserver::testing::TestServer;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn credentials_and_rights() {
    let server = TestServer::start().await.unwrap();
    let nobody = server.anonymous().unwrap();
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(nobody.get(path).await.unwrap().code, 200, "{path}");
    }
    for path in [
        "/api",
        "/apis",
        "/metrics",
        "/api/v1/namespaces",
        "/openapi/v2",
    ] {
        let answer = nobody.get(path).await.unwrap();
        assert_eq!(
            (answer.code, answer.json()["reason"].as_str()),
            (401, Some("Unauthorized")),
            "{path}"
        );
    }
    let jane = server.client("jane", &["dev"]).unwrap();
    assert_eq!(jane.get("/api").await.unwrap().code, 200);
    let refused = jane
        .get("/api/v1/namespaces/default/secrets")
        .await
        .unwrap();
    assert_eq!(
        refused.json()["message"],
        "secrets is forbidden: User \"jane\" cannot list resource \"secrets\" in API group \"\" in the namespace \"default\""
    );
    assert!(refused.headers.contains_key("audit-id"));
    let admin = server.admin().unwrap();
    let binding = json!({"metadata": {"name": "v"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "jane"}]});
    let made = admin
        .post(
            "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings",
            &binding,
        )
        .await
        .unwrap();
    assert_eq!(made.code, 201, "{}", made.json());
    let mut allowed = 403;
    for _ in 0..50 {
        allowed = jane
            .get("/api/v1/namespaces/default/configmaps")
            .await
            .unwrap()
            .code;
        if allowed == 200 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(allowed, 200);
    // Nobody grants what they don't hold.
    let edit = json!({"metadata": {"name": "up"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "jane"}]});
    assert_eq!(
        jane.post(
            "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings",
            &edit
        )
        .await
        .unwrap()
        .code,
        403
    );
    let as_jane = admin
        .call(
            Method::GET,
            "/api/v1/namespaces/default/secrets",
            &[("impersonate-user", "jane")],
            "",
        )
        .await
        .unwrap();
    assert_eq!(as_jane.code, 403);
    let upward = jane
        .call(
            Method::GET,
            "/api/v1/namespaces/default/configmaps",
            &[("impersonate-user", "admin")],
            "",
        )
        .await
        .unwrap();
    assert_eq!(upward.code, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_accounts_token_is_good_until_the_account_goes() {
    let server = TestServer::start().await.unwrap();
    let admin = server.admin().unwrap();
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    admin
        .post(accounts, &json!({"metadata": {"name": "a"}}))
        .await
        .unwrap();
    let asked = admin
        .post(&format!("{accounts}/a/token"), &json!({"spec": {}}))
        .await
        .unwrap();
    assert_eq!(asked.code, 201, "{}", asked.json());
    let token = format!(
        "Bearer {}",
        asked.json()["status"]["token"].as_str().unwrap()
    );
    let nobody = server.anonymous().unwrap();
    let who = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let ask = async || {
        nobody
            .call(
                Method::POST,
                who,
                &[
                    ("authorization", token.as_str()),
                    ("content-type", "application/json"),
                ],
                "{}",
            )
            .await
            .unwrap()
    };
    let me = ask().await;
    assert_eq!(
        me.json()["status"]["userInfo"]["username"],
        "system:serviceaccount:default:a"
    );
    admin.delete(&format!("{accounts}/a")).await.unwrap();
    let mut code = 201;
    for _ in 0..50 {
        code = ask().await.code;
        if code == 401 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(code, 401);
    let keys = admin.get("/openid/v1/jwks").await.unwrap();
    assert_eq!(keys.json()["keys"].as_array().map(Vec::len), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_in_both_forms() {
    let server = TestServer::start().await.unwrap();
    let admin = server.admin().unwrap();
    let aggregated = [(
        "accept",
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json",
    )];
    let apis = admin
        .call(Method::GET, "/apis", &aggregated, "")
        .await
        .unwrap();
    assert_eq!(
        apis.headers["content-type"],
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    );
    let tag = apis.headers["etag"].to_str().unwrap();
    let unchanged = admin
        .call(
            Method::GET,
            "/apis",
            &[aggregated[0], ("if-none-match", tag)],
            "",
        )
        .await
        .unwrap();
    assert_eq!(unchanged.code, 304);
    let groups = apis.json();
    assert!(
        groups["items"]
            .as_array()
            .unwrap()
            .iter()
            .any(|g| g["metadata"]["name"] == "apps")
    );
    let core = admin.get("/api/v1").await.unwrap().json();
    let eviction = core["resources"]
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["name"] == "pods/eviction")
        .unwrap()
        .clone();
    assert_eq!(
        (eviction["group"].as_str(), eviction["version"].as_str()),
        (Some("policy"), Some("v1"))
    );
    assert_eq!(
        admin.get("/apis/apps").await.unwrap().json()["preferredVersion"]["groupVersion"],
        "apps/v1"
    );
    assert_eq!(admin.get("/apis/nothing").await.unwrap().code, 404);
    let index = admin.get("/openapi/v3").await.unwrap().json();
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"]
        .as_str()
        .unwrap()
        .to_owned();
    let document = admin.get(&url).await.unwrap();
    assert_eq!(
        (document.code, document.json()["openapi"].as_str()),
        (200, Some("3.0.0"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_every_cluster_has() {
    let server = TestServer::start().await.unwrap();
    let c = server.admin().unwrap();
    for path in [
        "/api/v1/namespaces/kube-system",
        "/api/v1/namespaces/kube-node-lease",
        "/api/v1/namespaces/default/services/kubernetes",
        "/api/v1/namespaces/default/endpoints/kubernetes",
        "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication",
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes",
        "/apis/scheduling.k8s.io/v1/priorityclasses/system-node-critical",
        "/apis/networking.k8s.io/v1/servicecidrs/kubernetes",
        "/apis/networking.k8s.io/v1/ipaddresses/10.96.0.1",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/cluster-admin",
        "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/catch-all",
    ] {
        assert_eq!(c.get(path).await.unwrap().code, 200, "{path}");
    }
    let endpoints = c
        .get("/api/v1/namespaces/default/endpoints/kubernetes")
        .await
        .unwrap()
        .json();
    assert_eq!(endpoints["subsets"][0]["addresses"][0]["ip"], "192.0.2.10");
    let leases = c
        .get("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases")
        .await
        .unwrap()
        .json();
    assert!(
        leases["items"][0]["metadata"]["name"]
            .as_str()
            .unwrap()
            .starts_with("apiserver-")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn services_get_addresses_and_give_them_back() {
    let server = TestServer::start().await.unwrap();
    let c = server.admin().unwrap();
    let services = "/api/v1/namespaces/default/services";
    let made = c.post(services, &json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}})).await.unwrap().json();
    let address = made["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let port = made["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    assert!(address.starts_with("10.") && (30000..=32767).contains(&port));
    assert_eq!(
        c.get(&format!("/apis/networking.k8s.io/v1/ipaddresses/{address}"))
            .await
            .unwrap()
            .code,
        200
    );
    let taken =
        json!({"metadata": {"name": "t"}, "spec": {"clusterIP": address, "ports": [{"port": 80}]}});
    assert_eq!(c.post(services, &taken).await.unwrap().code, 422);
    c.delete(&format!("{services}/s")).await.unwrap();
    assert_eq!(
        c.get(&format!("/apis/networking.k8s.io/v1/ipaddresses/{address}"))
            .await
            .unwrap()
            .code,
        404
    );
    assert_eq!(c.post(services, &taken).await.unwrap().code, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn workloads_scale_and_pods_are_bound() {
    let server = TestServer::start().await.unwrap();
    let c = server.admin().unwrap();
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let made = c.post(path, &deployment).await.unwrap();
    assert_eq!(
        (made.code, made.json()["spec"]["replicas"].as_u64()),
        (201, Some(1))
    );
    let scaled = c
        .patch(
            &format!("{path}/d/scale"),
            "application/merge-patch+json",
            &json!({"spec": {"replicas": 4}}),
        )
        .await
        .unwrap();
    assert_eq!(
        (
            scaled.json()["kind"].as_str(),
            scaled.json()["spec"]["replicas"].as_u64()
        ),
        (Some("Scale"), Some(4))
    );
    let now = c.get(&format!("{path}/d")).await.unwrap().json();
    assert_eq!(
        (
            now["spec"]["replicas"].as_u64(),
            now["metadata"]["generation"].as_u64()
        ),
        (Some(4), Some(2))
    );

    c.post(
        "/api/v1/namespaces/default/serviceaccounts",
        &json!({"metadata": {"name": "default"}}),
    )
    .await
    .unwrap();
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let mut made = c
        .post("/api/v1/namespaces/default/pods", &pod)
        .await
        .unwrap();
    for _ in 0..50 {
        if made.code == 201 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        made = c
            .post("/api/v1/namespaces/default/pods", &pod)
            .await
            .unwrap();
    }
    assert_eq!(made.code, 201, "{}", made.json());
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    let bound = c
        .post("/api/v1/namespaces/default/pods/p/binding", &binding)
        .await
        .unwrap();
    assert_eq!(bound.code, 201, "{}", bound.json());
    let again = c
        .post("/api/v1/namespaces/default/pods/p/binding", &binding)
        .await
        .unwrap();
    assert_eq!(again.code, 409);
    let pod = c
        .get("/api/v1/namespaces/default/pods/p")
        .await
        .unwrap()
        .json();
    assert_eq!(pod["spec"]["nodeName"], "n1");
    // The node's kubelet isn't there, and no tunnel comes of that.
    let exec = c
        .call(
            Method::GET,
            "/api/v1/namespaces/default/pods/p/exec?command=ls",
            &[("connection", "Upgrade"), ("upgrade", "websocket")],
            "",
        )
        .await
        .unwrap();
    assert_eq!(exec.code, 404);
    let deleted = c
        .delete("/api/v1/namespaces/default/pods/p")
        .await
        .unwrap()
        .json();
    assert_eq!(deleted["metadata"]["deletionGracePeriodSeconds"], 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_read_only_what_their_writers_may() {
    const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
    let server = TestServer::start().await.unwrap();
    let admin = server.admin().unwrap();
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let role = json!({"metadata": {"name": "policies"}, "rules": [{"apiGroups": ["admissionregistration.k8s.io"], "resources": ["*"], "verbs": ["*"]}]});
    let binding = json!({"metadata": {"name": "policies"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "policies"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "jane"}]});
    admin
        .post(&format!("{rbac}/clusterroles"), &role)
        .await
        .unwrap();
    admin
        .post(&format!("{rbac}/clusterrolebindings"), &binding)
        .await
        .unwrap();
    let policy = json!({"metadata": {"name": "p"}, "spec": {"paramKind": {"apiVersion": "v1", "kind": "Secret"},
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]},
        "validations": [{"expression": "true"}]}});
    let jane = server.client("jane", &[]).unwrap();
    let mut refused = jane.post(POLICIES, &policy).await.unwrap();
    for _ in 0..100 {
        if refused.code != 403 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        refused = jane.post(POLICIES, &policy).await.unwrap();
    }
    assert_eq!(refused.code, 422, "{}", refused.json());
    assert_eq!(
        refused.json()["details"]["causes"][0]["field"],
        "spec.paramKind"
    );
    let made = admin.post(POLICIES, &policy).await.unwrap();
    assert_eq!(made.code, 201, "{}", made.json());
}
