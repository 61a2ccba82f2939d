//! Requests that belong to no kind: paths, discovery, OpenAPI, health, impersonation.

use serde_json::json;

use super::resources::Resource;
use super::scenario::{Body, Scenario, Step};

/// Every scenario of the surface.
pub fn scenarios(resources: &[Resource]) -> Vec<Scenario> {
    vec![
        discovery(resources),
        openapi(resources),
        paths(),
        health(),
        impersonation(),
        reading_everything(resources),
    ]
}

fn scenario(name: &str, namespaced: bool, steps: Vec<Step>) -> Scenario {
    Scenario {
        name: format!("surface {name}"),
        namespaced,
        steps,
    }
}

fn get(path: &str) -> Step {
    Step::new(path, "GET", path)
}

fn versions(resources: &[Resource]) -> Vec<String> {
    let mut all: Vec<String> = resources.iter().map(|r| r.group_version.clone()).collect();
    all.dedup();
    all.sort();
    all.dedup();
    all
}

fn discovery(resources: &[Resource]) -> Scenario {
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let old = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
    let mut steps = Vec::new();
    for path in ["/api", "/apis"] {
        steps.extend([
            get(path),
            get(path).header("accept", aggregated),
            get(path).header("accept", &format!("{aggregated},{old},application/json")),
            get(path).header("accept", old),
            get(path).header("accept", "application/yaml"),
            get(path).header("accept", "application/vnd.kubernetes.protobuf"),
        ]);
    }
    for version in versions(resources) {
        let path = if version.contains('/') {
            format!("/apis/{version}")
        } else {
            format!("/api/{version}")
        };
        steps.push(get(&path));
        steps.push(get(&path).header("accept", "application/yaml"));
        if let Some((group, _)) = version.split_once('/') {
            steps.push(get(&format!("/apis/{group}")));
        }
    }
    steps.extend([
        get("/version"),
        get("/api/"),
        get("/apis/"),
        get("/api/v2"),
        get("/apis/none"),
        get("/apis/apps/v9"),
        get("/apis/apps/v1/"),
    ]);
    scenario("discovery", false, steps)
}

fn openapi(resources: &[Resource]) -> Scenario {
    let mut steps = vec![
        get("/openapi/v2"),
        get("/openapi/v3"),
        get("/openapi/v3/version"),
        get("/openapi/v3/api"),
        get("/openapi/v3/apis"),
        get("/openapi/v3/none"),
    ];
    for version in versions(resources) {
        let root = if version.contains('/') { "apis" } else { "api" };
        steps.push(get(&format!("/openapi/v3/{root}/{version}")));
        if let Some((group, _)) = version.split_once('/') {
            steps.push(get(&format!("/openapi/v3/apis/{group}")));
        }
    }
    scenario("openapi", false, steps)
}

fn paths() -> Scenario {
    let mut steps: Vec<Step> = [
        "/",
        "/nothing",
        "/api/v1/nothing",
        "/api/v1/namespaces/default/nothing",
        "/api/v1/namespaces/default/pods/",
        "/api/v1/pods/x",
        "/api/v1/namespaces//pods",
        "/api/v1//pods",
        "/api/v1/namespaces/default/pods/a/b/c",
        "/api/v1/namespaces/none/pods",
        "/api/v1/namespaces/none/pods/x",
        "/apis/apps/v1/deployments",
        "/apis/apps/v1/namespaces/default/deployments/x/scale",
        "/api/v1/watch/pods?timeoutSeconds=1",
        "/api/v1/watch/namespaces/none/pods?timeoutSeconds=1&resourceVersion=0",
        "/api/v1/watch/namespaces/none/pods/x?timeoutSeconds=1",
        "/logs",
        "/logs/",
        "/swagger.json",
        "/api/v1/nodes/none/proxy/",
        "/api/v1/namespaces/default/services/none/proxy/x",
        "/api/v1/namespaces/default/pods/none/log",
        "/api/v1/namespaces/default/pods/none/proxy",
        "/api/v1/namespaces/default/pods/none/exec?command=x",
        "/api/v1/namespaces/default/pods/none/portforward",
        "/api/v1/namespaces/Upper/pods",
        "/api/v1/namespaces/default/pods/Upper_",
        "/.well-known/openid-configuration",
        "/openid/v1/jwks",
        "/api/v1/namespaces/default/pods?watch=yes",
        "/api/v1/namespaces/default/pods?watch=1&timeoutSeconds=1&resourceVersion=99999999",
        "/api/v1/componentstatuses/none",
        "/api/v1/bindings",
        "/api/v1/namespaces/default/bindings",
        "/apis/authorization.k8s.io/v1/subjectaccessreviews",
        "/apis/authentication.k8s.io/v1/tokenreviews",
        "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication",
        "/api/v1/namespaces/default/services/kubernetes",
        "/api/v1/namespaces/default/endpoints/kubernetes",
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes",
        "/apis/networking.k8s.io/v1/servicecidrs/kubernetes",
        "/api/v1/namespaces/kube-system",
    ]
    .iter()
    .map(|path| get(path))
    .collect();
    for method in [
        "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE", "BREW", "POST",
    ] {
        steps.push(Step::new(
            &format!("{method} on a collection"),
            method,
            "/api/v1/namespaces/default/pods/none",
        ));
        steps.push(Step::new(
            &format!("{method} on discovery"),
            method,
            "/api/v1",
        ));
        steps.push(Step::new(
            &format!("{method} on nothing"),
            method,
            "/nothing",
        ));
    }
    scenario("paths", false, steps)
}

fn health() -> Scenario {
    let steps = [
        "/healthz",
        "/livez",
        "/readyz",
        "/healthz/ping",
        "/livez/ping",
        "/readyz/ping",
        "/healthz/etcd",
        "/readyz/etcd",
        "/readyz/informer-sync",
        "/livez/none",
        "/healthz?verbose",
        "/livez?verbose",
        "/readyz?verbose",
        "/readyz?verbose&exclude=etcd",
        "/readyz?exclude=none",
        "/livez?exclude=ping&verbose",
        "/healthz/poststarthook/rbac/bootstrap-roles",
        "/readyz/poststarthook/start-kube-aggregator-informers",
    ]
    .iter()
    .map(|path| get(path))
    .collect();
    scenario("health", false, steps)
}

fn impersonation() -> Scenario {
    let pod = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}});
    let asking = |step: Step, user: &str| step.header("impersonate-user", user);
    let review = |attributes: serde_json::Value| {
        Step::json(
            "self review",
            "POST",
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": attributes}),
        )
    };
    let steps = vec![
        asking(get("/api/v1/namespaces/default/pods"), "nobody"),
        asking(get("/api/v1/pods"), "nobody"),
        asking(get("/api/v1/namespaces/default/pods/x"), "nobody"),
        asking(get("/api/v1/namespaces/default/pods/x/log"), "nobody"),
        asking(get("/api/v1/nodes"), "nobody"),
        asking(
            get("/apis/apps/v1/namespaces/default/deployments"),
            "nobody",
        ),
        asking(get("/apis/none/v1/things"), "nobody"),
        asking(get("/metrics"), "nobody"),
        asking(get("/healthz"), "nobody"),
        asking(get("/version"), "nobody"),
        asking(get("/api"), "nobody"),
        asking(get("/nothing"), "nobody"),
        asking(
            Step::json(
                "create",
                "POST",
                "/api/v1/namespaces/default/configmaps",
                pod.clone(),
            ),
            "nobody",
        ),
        asking(
            Step::new(
                "delete",
                "DELETE",
                "/api/v1/namespaces/default/configmaps/x",
            ),
            "nobody",
        ),
        asking(
            Step::new(
                "delete all",
                "DELETE",
                "/api/v1/namespaces/default/configmaps",
            ),
            "nobody",
        ),
        asking(
            Step::patch(
                "patch",
                "merge",
                "/api/v1/namespaces/default/configmaps/x",
                json!({}),
            ),
            "nobody",
        ),
        asking(
            get("/api/v1/namespaces/default/configmaps?watch=true"),
            "nobody",
        ),
        asking(get("/api/v1/nodes"), "system:node:n1").header("impersonate-group", "system:nodes"),
        asking(get("/api/v1/nodes/n2"), "system:node:n1")
            .header("impersonate-group", "system:nodes"),
        asking(
            get("/api/v1/namespaces/default/secrets/s"),
            "system:node:n1",
        )
        .header("impersonate-group", "system:nodes"),
        asking(
            get("/api/v1/namespaces/default/configmaps/s"),
            "system:node:n1",
        )
        .header("impersonate-group", "system:nodes"),
        asking(get("/api/v1/namespaces/default/secrets"), "system:node:n1")
            .header("impersonate-group", "system:nodes"),
        asking(
            get("/api/v1/namespaces/default/pods"),
            "system:serviceaccount:default:default",
        ),
        asking(
            get("/api/v1/namespaces/default/pods"),
            "system:kube-scheduler",
        ),
        asking(
            get("/api/v1/namespaces/default/secrets"),
            "system:kube-scheduler",
        ),
        asking(
            get("/api/v1/namespaces/default/pods"),
            "system:kube-controller-manager",
        ),
        asking(
            review(
                json!({"resourceAttributes": {"namespace": "default", "verb": "list", "resource": "pods"}}),
            ),
            "nobody",
        ),
        asking(
            review(json!({"resourceAttributes": {"verb": "list", "resource": "pods"}})),
            "system:kube-scheduler",
        ),
        review(
            json!({"resourceAttributes": {"namespace": "default", "verb": "list", "resource": "pods"}}),
        ),
        review(json!({"nonResourceAttributes": {"path": "/metrics", "verb": "get"}})),
        review(json!({})),
        review(json!({"resourceAttributes": {}, "nonResourceAttributes": {}})),
        get("/api/v1/namespaces/default/pods").header("impersonate-group", "x"),
        get("/api/v1/namespaces/default/pods").header("impersonate-uid", "x"),
        get("/api/v1/namespaces/default/pods").header("impersonate-extra-scopes", "x"),
        Step {
            body: Body::None,
            ..asking(
                Step::new(
                    "who am I",
                    "GET",
                    "/apis/authentication.k8s.io/v1/selfsubjectreviews",
                ),
                "nobody",
            )
        },
        asking(
            Step::json(
                "who am I",
                "POST",
                "/apis/authentication.k8s.io/v1/selfsubjectreviews",
                json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}),
            ),
            "jane",
        )
        .header("impersonate-group", "g1")
        .header("impersonate-uid", "u1")
        .header("impersonate-extra-scopes", "view"),
    ];
    scenario("impersonation", false, steps)
}

/// Each resource listed and described as it is after the start, whether or not the corpus writes it.
fn reading_everything(resources: &[Resource]) -> Scenario {
    let mut steps = Vec::new();
    for resource in resources {
        let path = resource.path();
        for verb in ["list", "get", "create"] {
            let (method, path) = match verb {
                "list" => ("GET", format!("{path}?labelSelector=diff%3Dnone")),
                "get" => ("GET", format!("{path}/none")),
                _ => ("POST", path.clone()),
            };
            steps.push(Step::new(
                &format!("{} {verb}", resource.title()),
                method,
                &path,
            ));
        }
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        let list = format!("{path}?labelSelector=diff%3Dnone");
        steps.push(
            Step::new(&format!("{} table", resource.title()), "GET", &list).header("accept", table),
        );
        steps.push(
            Step::new(&format!("{} protobuf", resource.title()), "GET", &list)
                .header("accept", "application/vnd.kubernetes.protobuf"),
        );
        steps.push(Step::json(
            &format!("{} create of nothing", resource.title()),
            "POST",
            &path,
            json!({}),
        ));
        for subresource in resource.subresources.keys() {
            for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
                if subresource == "proxy" {
                    continue;
                }
                let path = format!("{path}/none/{subresource}");
                steps.push(Step::new(
                    &format!("{} {subresource}", resource.title()),
                    method,
                    &path,
                ));
            }
        }
    }
    for list in [
        "clusterroles",
        "clusterrolebindings",
        "roles",
        "rolebindings",
    ] {
        steps.push(get(&format!("/apis/rbac.authorization.k8s.io/v1/{list}?labelSelector=kubernetes.io%2Fbootstrapping%3Drbac-defaults")));
    }
    steps.push(get(
        "/apis/scheduling.k8s.io/v1/priorityclasses/system-node-critical",
    ));
    steps.push(get(
        "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas?fieldSelector=metadata.name%21%3Dx",
    ));
    steps.push(get("/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations?fieldSelector=metadata.name%21%3Dx"));
    steps.push(get("/apis/apiregistration.k8s.io/v1/apiservices"));
    scenario("everything", true, steps)
}
