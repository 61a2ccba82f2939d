//! Custom resources, from the definition to the last object, over TLS.

use http::Method;
use kube_apiserver::testing::{Client, TestServer};
use serde_json::{Value, json};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const FOOS: &str = "/apis/example.com/v1/namespaces/default/foos";

async fn start() -> (TestServer, Client) {
    let server = TestServer::start().await.expect("a server");
    let admin = server.admin().expect("a client");
    (server, admin)
}

fn schema() -> Value {
    json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "color": {"type": "string", "default": "red", "enum": ["red", "blue"]}, "replicas": {"type": "integer"}, "size": {"type": "integer", "maximum": 10},
            "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "n": {"type": "integer"}}}}}},
        "status": {"type": "object", "properties": {"replicas": {"type": "integer"}, "phase": {"type": "string"}}}}})
}

fn definition() -> Value {
    json!({"kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1", "metadata": {"name": "foos.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "foos", "kind": "Foo", "shortNames": ["fo"], "categories": ["all"]},
            "versions": [
                {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema()},
                    "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
                    "additionalPrinterColumns": [{"name": "Color", "type": "string", "jsonPath": ".spec.color"}],
                    "selectableFields": [{"jsonPath": ".spec.color"}]},
                {"name": "v1beta1", "served": true, "storage": false, "deprecated": true, "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}})
}

fn foo(name: &str, spec: Value) -> Value {
    json!({"kind": "Foo", "apiVersion": "example.com/v1", "metadata": {"name": name}, "spec": spec})
}

/// Creates a definition and waits until it is established.
async fn define(c: &Client, definition: &Value) -> Value {
    let created = c.post(CRDS, definition).await.unwrap();
    assert_eq!(created.code, 201, "{}", created.json());
    let name = definition["metadata"]["name"].as_str().unwrap();
    let mut events = c
        .watch(&format!(
            "{CRDS}?watch=1&fieldSelector=metadata.name%3D{name}"
        ))
        .await
        .unwrap();
    loop {
        let event = events.next().await.expect("an established definition");
        let conditions = event["object"]["status"]["conditions"].as_array();
        let established = |c: &Value| c["type"] == "Established" && c["status"] == "True";
        if conditions.is_some_and(|c| c.iter().any(established)) {
            return event["object"].clone();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_is_served_as_soon_as_it_says_so() {
    let (_server, c) = start().await;
    let crd = define(&c, &definition()).await;
    assert_eq!(crd["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(crd["status"]["acceptedNames"]["listKind"], "FooList");
    let discovered = c.get("/apis/example.com/v1").await.unwrap().json();
    let names: Vec<&str> = discovered["resources"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|r| r["name"].as_str())
        .collect();
    assert_eq!(names, ["foos", "foos/status", "foos/scale"]);
    assert_eq!(discovered["resources"][0]["shortNames"], json!(["fo"]));
    let groups = c.get("/apis").await.unwrap().json();
    assert_eq!(
        groups["groups"].as_array().unwrap().last().unwrap()["preferredVersion"]["version"],
        "v1"
    );
    let aggregated = c
        .call(
            Method::GET,
            "/apis",
            &[(
                "accept",
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            )],
            "",
        )
        .await
        .unwrap()
        .json();
    assert_eq!(
        aggregated["items"].as_array().unwrap().last().unwrap()["metadata"]["name"],
        "example.com"
    );
    let v3 = c
        .get("/openapi/v3/apis/example.com/v1")
        .await
        .unwrap()
        .json();
    let published = &v3["components"]["schemas"]["com.example.v1.Foo"];
    assert_eq!(
        published["properties"]["spec"]["properties"]["color"]["default"],
        "red"
    );
    assert_eq!(
        published["properties"]["metadata"]["allOf"][0]["$ref"],
        "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
    );
    let v2 = c.get("/openapi/v2").await.unwrap().json();
    assert_eq!(
        v2["definitions"]["com.example.v1beta1.Foo"]["type"],
        "object"
    );
    assert!(
        v2["definitions"]["com.example.v1beta1.Foo"]
            .get("properties")
            .is_none()
    );

    let conflict = c.post(CRDS, &json!({"kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1", "metadata": {"name": "bars.example.com"},
        "spec": {"group": "example.com", "scope": "Cluster", "names": {"plural": "bars", "kind": "Foo"}, "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}})).await.unwrap();
    assert_eq!(conflict.code, 201);
    let mut events = c
        .watch(&format!(
            "{CRDS}?watch=1&fieldSelector=metadata.name%3Dbars.example.com"
        ))
        .await
        .unwrap();
    let refused = loop {
        let event = events.next().await.unwrap();
        if let Some(found) = event["object"]["status"]["conditions"]
            .as_array()
            .and_then(|c| c.iter().find(|c| c["type"] == "NamesAccepted"))
        {
            break found.clone();
        }
    };
    assert_eq!(
        (refused["status"].as_str(), refused["reason"].as_str()),
        (Some("False"), Some("ListKindConflict"))
    );
    assert_eq!(c.get("/apis/example.com/v1/bars").await.unwrap().code, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_pruned_defaulted_validated_and_shown() {
    let (_server, c) = start().await;
    define(&c, &definition()).await;
    let created = c
        .post(FOOS, &foo("a", json!({"size": 1, "odd": true})))
        .await
        .unwrap();
    assert_eq!(created.code, 201, "{}", created.json());
    assert_eq!(
        created.headers["warning"],
        "299 - \"unknown field \\\"spec.odd\\\"\""
    );
    let object = created.json();
    assert_eq!(object["spec"], json!({"color": "red", "size": 1}));
    assert_eq!(object["metadata"]["generation"], 1);

    let strict = c
        .post(
            &format!("{FOOS}?fieldValidation=Strict"),
            &foo("b", json!({"odd": 1})),
        )
        .await
        .unwrap();
    assert_eq!(
        strict.json()["message"],
        "Foo in version \"v1\" cannot be handled as a Foo: strict decoding error: unknown field \"spec.odd\""
    );
    let invalid = c
        .post(FOOS, &foo("b", json!({"size": 11, "color": "green"})))
        .await
        .unwrap();
    assert_eq!(invalid.code, 422);
    assert_eq!(
        invalid.json()["message"],
        "Foo.example.com \"b\" is invalid: [spec.color: Unsupported value: \"green\": supported values: \"red\", \"blue\", spec.size: Invalid value: 11: spec.size in body should be less than or equal to 10]"
    );

    let unversioned = c
        .put(&format!("{FOOS}/a"), &foo("a", json!({})))
        .await
        .unwrap();
    assert_eq!(
        unversioned.json()["message"],
        "foos.example.com \"a\" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an update"
    );
    let merged = c
        .patch(
            &format!("{FOOS}/a"),
            "application/merge-patch+json",
            &json!({"spec": {"size": 2}, "status": {"phase": "x"}}),
        )
        .await
        .unwrap()
        .json();
    assert_eq!(
        (
            merged["metadata"]["generation"].as_i64(),
            merged.get("status")
        ),
        (Some(2), None)
    );
    let strategic = c
        .patch(
            &format!("{FOOS}/a"),
            "application/strategic-merge-patch+json",
            &json!({}),
        )
        .await
        .unwrap();
    assert_eq!(strategic.code, 415);
    assert_eq!(
        strategic.json()["message"],
        "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
    );

    let status = c
        .patch(
            &format!("{FOOS}/a/status"),
            "application/merge-patch+json",
            &json!({"spec": {"size": 9}, "status": {"phase": "x"}}),
        )
        .await
        .unwrap()
        .json();
    assert_eq!(
        (
            &status["spec"]["size"],
            &status["status"]["phase"],
            &status["metadata"]["generation"]
        ),
        (&json!(2), &json!("x"), &json!(2))
    );

    let table = c
        .call(
            Method::GET,
            FOOS,
            &[("accept", "application/json;as=Table;g=meta.k8s.io;v=v1")],
            "",
        )
        .await
        .unwrap()
        .json();
    assert_eq!(table["rows"][0]["cells"], json!(["a", "red"]));
    let selected = c
        .get(&format!("{FOOS}?fieldSelector=spec.color%3Dblue"))
        .await
        .unwrap()
        .json();
    assert_eq!(
        (
            selected["kind"].as_str(),
            selected["items"].as_array().map(Vec::len)
        ),
        (Some("FooList"), Some(0))
    );
    assert_eq!(
        c.get(&format!("{FOOS}?fieldSelector=spec.size%3D1"))
            .await
            .unwrap()
            .json()["message"],
        "field label not supported: spec.size"
    );
    let protobuf = c
        .call(
            Method::GET,
            FOOS,
            &[("accept", "application/vnd.kubernetes.protobuf")],
            "",
        )
        .await
        .unwrap();
    assert_eq!(protobuf.code, 406);
    let partial = c.call(Method::GET, FOOS, &[("accept", "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")], "").await.unwrap();
    assert_eq!((partial.code, &partial.body[..4]), (200, &b"k8s\0"[..]));

    let old = c
        .get("/apis/example.com/v1beta1/namespaces/default/foos/a")
        .await
        .unwrap();
    assert_eq!(
        old.headers["warning"],
        "299 - \"example.com/v1beta1 Foo is deprecated\""
    );
    assert_eq!(
        (
            old.json()["apiVersion"].as_str(),
            &old.json()["spec"]["size"]
        ),
        (Some("example.com/v1beta1"), &json!(2))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn scale_and_apply_know_the_schema() {
    let (_server, c) = start().await;
    define(&c, &definition()).await;
    let apply = |manager: &str| format!("{FOOS}/a?fieldManager={manager}");
    let one = c
        .patch(
            &apply("one"),
            "application/apply-patch+yaml",
            &foo(
                "a",
                json!({"replicas": 1, "parts": [{"name": "x", "n": 1}]}),
            ),
        )
        .await
        .unwrap();
    assert_eq!(one.code, 201, "{}", one.json());
    let two = c
        .patch(
            &apply("two"),
            "application/apply-patch+yaml",
            &foo("a", json!({"parts": [{"name": "y", "n": 2}]})),
        )
        .await
        .unwrap()
        .json();
    assert_eq!(
        two["spec"]["parts"],
        json!([{"name": "x", "n": 1}, {"name": "y", "n": 2}])
    );
    let conflict = c
        .patch(
            &apply("two"),
            "application/apply-patch+yaml",
            &foo("a", json!({"replicas": 5})),
        )
        .await
        .unwrap();
    assert_eq!(
        (conflict.code, conflict.json()["message"].as_str()),
        (
            409,
            Some("Apply failed with 1 conflict: conflict with \"one\": .spec.replicas")
        )
    );
    let scale = c.get(&format!("{FOOS}/a/scale")).await.unwrap().json();
    assert_eq!(
        (scale["kind"].as_str(), &scale["spec"]["replicas"]),
        (Some("Scale"), &json!(1))
    );
    let scaled = c
        .patch(
            &format!("{FOOS}/a/scale"),
            "application/merge-patch+json",
            &json!({"spec": {"replicas": 7}}),
        )
        .await
        .unwrap();
    assert_eq!(
        (scaled.code, &scaled.json()["spec"]["replicas"]),
        (200, &json!(7))
    );
    assert_eq!(
        c.get(&format!("{FOOS}/a")).await.unwrap().json()["spec"]["replicas"],
        7
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_schema_counts_for_what_is_stored() {
    let (server, c) = start().await;
    let mut crd = define(&c, &definition()).await;
    c.post(FOOS, &foo("a", json!({}))).await.unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["shape"] =
        json!({"type": "string", "default": "round"});
    let path = format!("{CRDS}/foos.example.com");
    assert_eq!(c.put(&path, &crd).await.unwrap().code, 200);
    for _ in 0..100 {
        if c.get(&format!("{FOOS}/a")).await.unwrap().json()["spec"]["shape"] == "round" {
            let stored = server
                .server
                .store
                .get("/registry/example.com/foos/default/a")
                .await
                .unwrap()
                .unwrap();
            let stored: Value = serde_json::from_slice(&stored.value).unwrap();
            assert_eq!(
                (stored["apiVersion"].as_str(), stored["spec"].get("shape")),
                (Some("example.com/v1"), None)
            );
            let stored = server
                .server
                .store
                .get("/registry/apiextensions.k8s.io/customresourcedefinitions/foos.example.com")
                .await
                .unwrap()
                .unwrap();
            let stored: Value = serde_json::from_slice(&stored.value).unwrap();
            assert_eq!(
                (
                    stored["apiVersion"].as_str(),
                    stored["spec"]["version"].as_str()
                ),
                (Some("apiextensions.k8s.io/v1beta1"), Some("v1"))
            );
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the new default does not show");
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_go_with_their_definition() {
    let (_server, c) = start().await;
    define(&c, &definition()).await;
    for name in ["a", "b"] {
        c.post(FOOS, &foo(name, json!({}))).await.unwrap();
    }
    let mut held = foo("c", json!({}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    c.post(FOOS, &held).await.unwrap();
    let path = format!("{CRDS}/foos.example.com");
    let mut events = c
        .watch(&format!(
            "{CRDS}?watch=1&fieldSelector=metadata.name%3Dfoos.example.com"
        ))
        .await
        .unwrap();
    let deleted = c.delete(&path).await.unwrap();
    assert_eq!(
        (deleted.code, &deleted.json()["metadata"]["finalizers"]),
        (200, &json!(["customresourcecleanup.apiextensions.k8s.io"]))
    );
    loop {
        let event = events.next().await.expect("the deletion to begin");
        let conditions = event["object"]["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        if conditions
            .iter()
            .any(|c| c["type"] == "Terminating" && c["reason"] == "InstanceDeletionInProgress")
        {
            break;
        }
    }
    let refused = c.post(FOOS, &foo("d", json!({}))).await.unwrap();
    assert_eq!(
        (refused.code, refused.json()["message"].as_str()),
        (
            403,
            Some(
                "foos.example.com \"d\" is forbidden: create not allowed while custom resource definition is terminating"
            )
        )
    );
    let freed = c
        .patch(
            &format!("{FOOS}/c"),
            "application/merge-patch+json",
            &json!({"metadata": {"finalizers": null}}),
        )
        .await
        .unwrap();
    assert_eq!(freed.code, 200, "{}", freed.json());
    loop {
        let event = events.next().await.expect("the definition to go");
        if event["type"] == "DELETED" {
            break;
        }
    }
    for _ in 0..100 {
        if c.get(FOOS).await.unwrap().code == 404
            && c.get("/apis/example.com").await.unwrap().code == 404
        {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the resource is still served");
}
