//! The verbs on stored objects, over TLS.

use http::Method;
use kube_apiserver::testing::{Client, TestServer};
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str, data: Value) -> Value {
    json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}, "data": data})
}

async fn start() -> (TestServer, Client) {
    let server = TestServer::start().await.expect("a server");
    let admin = server.admin().expect("a client");
    (server, admin)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_lives_from_create_to_delete() {
    let (_server, c) = start().await;
    let created = c.post(MAPS, &map("a", json!({"k": "v"}))).await.unwrap();
    assert_eq!(created.code, 201);
    let object = created.json();
    assert_eq!(object["metadata"]["namespace"], "default");
    assert_eq!(object["metadata"]["managedFields"][0]["manager"], "test");
    let again = c.post(MAPS, &map("a", json!({}))).await.unwrap();
    assert_eq!(
        (again.code, again.json()["message"].as_str()),
        (409, Some("configmaps \"a\" already exists"))
    );

    let read = c.get(&format!("{MAPS}/a")).await.unwrap();
    assert_eq!(read.json(), object);

    // A stale resourceVersion is refused, none at all is not.
    let mut stale = object.clone();
    stale["data"]["k"] = "w".into();
    assert_eq!(c.put(&format!("{MAPS}/a"), &stale).await.unwrap().code, 200);
    let conflict = c.put(&format!("{MAPS}/a"), &stale).await.unwrap();
    assert_eq!(conflict.code, 409);
    assert_eq!(
        conflict.json()["message"],
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );
    let unconditional = c
        .put(&format!("{MAPS}/a"), &map("a", json!({"k": "x"})))
        .await
        .unwrap();
    assert_eq!(unconditional.code, 200);

    // What changes nothing isn't written.
    let version = unconditional.json()["metadata"]["resourceVersion"].clone();
    let same = c
        .put(&format!("{MAPS}/a"), &map("a", json!({"k": "x"})))
        .await
        .unwrap();
    assert_eq!(same.json()["metadata"]["resourceVersion"], version);

    let deleted = c.delete(&format!("{MAPS}/a")).await.unwrap();
    assert_eq!(
        (deleted.code, deleted.json()["status"].as_str()),
        (200, Some("Success"))
    );
    let gone = c.get(&format!("{MAPS}/a")).await.unwrap();
    assert_eq!(
        (gone.code, gone.json()["reason"].as_str()),
        (404, Some("NotFound"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_of_all_forms() {
    let (_server, c) = start().await;
    let path = format!("{MAPS}/a");
    c.post(MAPS, &map("a", json!({"k": "v"}))).await.unwrap();
    let merged = c
        .patch(
            &path,
            "application/merge-patch+json",
            &json!({"data": {"k": null, "l": "1"}}),
        )
        .await
        .unwrap();
    assert_eq!(merged.json()["data"], json!({"l": "1"}));
    let strategic = c
        .patch(
            &path,
            "application/strategic-merge-patch+json",
            &json!({"metadata": {"labels": {"x": "y"}}}),
        )
        .await
        .unwrap();
    assert_eq!(strategic.json()["metadata"]["labels"]["x"], "y");
    let jsoned = c
        .patch(
            &path,
            "application/json-patch+json",
            &json!([{"op": "add", "path": "/data/m", "value": "2"}]),
        )
        .await
        .unwrap();
    assert_eq!(jsoned.json()["data"], json!({"l": "1", "m": "2"}));
    let odd = c.patch(&path, "application/odd", &json!({})).await.unwrap();
    assert_eq!(odd.code, 415);

    let apply = |manager: &str, force: bool| format!("{path}?fieldManager={manager}&force={force}");
    let conflict = c
        .patch(
            &apply("one", false),
            "application/apply-patch+yaml",
            &map("a", json!({"l": "9"})),
        )
        .await
        .unwrap();
    assert_eq!(
        (
            conflict.code,
            conflict.json()["details"]["causes"][0]["reason"].as_str()
        ),
        (409, Some("FieldManagerConflict"))
    );
    let forced = c
        .patch(
            &apply("one", true),
            "application/apply-patch+yaml",
            &map("a", json!({"l": "9"})),
        )
        .await
        .unwrap();
    assert_eq!(forced.json()["data"]["l"], "9");
    let new = c
        .patch(
            &format!("{MAPS}/b?fieldManager=one"),
            "application/apply-patch+yaml",
            &map("b", json!({"k": "v"})),
        )
        .await
        .unwrap();
    assert_eq!(new.code, 201);
    assert_eq!(
        new.json()["metadata"]["managedFields"][0]["operation"],
        "Apply"
    );
    let nameless = c
        .patch(&path, "application/apply-patch+yaml", &map("a", json!({})))
        .await
        .unwrap();
    assert_eq!(nameless.code, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages_and_selections() {
    let (_server, c) = start().await;
    for name in ["a", "b", "c", "d", "e"] {
        let mut object = map(name, json!({}));
        object["metadata"]["labels"] =
            json!({"odd": if "ace".contains(name) { "yes" } else { "no" }});
        c.post(MAPS, &object).await.unwrap();
    }
    let first = c.get(&format!("{MAPS}?limit=2")).await.unwrap().json();
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    assert_eq!(first["items"].as_array().map(Vec::len), Some(2));
    assert!(first["items"][0].get("kind").is_none());
    // Later writes don't show in later pages.
    c.post(MAPS, &map("bb", json!({}))).await.unwrap();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = c
        .get(&format!("{MAPS}?limit=10&continue={token}"))
        .await
        .unwrap()
        .json();
    let names: Vec<&str> = second["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|i| i["metadata"]["name"].as_str())
        .collect();
    assert_eq!(names, ["c", "d", "e"]);
    assert_eq!(
        second["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );

    let odd = c
        .get(&format!("{MAPS}?labelSelector=odd%3Dyes"))
        .await
        .unwrap()
        .json();
    assert_eq!(odd["items"].as_array().map(Vec::len), Some(3));
    let named = c
        .get(&format!("{MAPS}?fieldSelector=metadata.name%3Db"))
        .await
        .unwrap()
        .json();
    assert_eq!(named["items"][0]["metadata"]["name"], "b");
    let unknown = c
        .get(&format!("{MAPS}?fieldSelector=data.k%3Db"))
        .await
        .unwrap();
    assert_eq!(unknown.code, 400);

    let collection = c
        .delete(&format!("{MAPS}?labelSelector=odd%3Dyes"))
        .await
        .unwrap();
    assert_eq!(collection.json()["items"].as_array().map(Vec::len), Some(3));
    assert_eq!(
        c.get(MAPS).await.unwrap().json()["items"]
            .as_array()
            .map(Vec::len),
        Some(3)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_tell_what_happens() {
    let (_server, c) = start().await;
    c.post(MAPS, &map("before", json!({}))).await.unwrap();
    let list = c.get(MAPS).await.unwrap().json();
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut events = c
        .watch(&format!("{MAPS}?watch=1&resourceVersion={version}"))
        .await
        .unwrap();
    let mut initial =
        c.watch(&format!("{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true")).await.unwrap();
    c.post(MAPS, &map("w", json!({}))).await.unwrap();
    c.patch(
        &format!("{MAPS}/w"),
        "application/merge-patch+json",
        &json!({"data": {"k": "v"}}),
    )
    .await
    .unwrap();
    c.delete(&format!("{MAPS}/w")).await.unwrap();
    for kind in ["ADDED", "MODIFIED", "DELETED"] {
        let event = events.next().await.unwrap();
        assert_eq!(event["type"], kind);
        assert_eq!(
            (
                event["object"]["kind"].as_str(),
                event["object"]["metadata"]["name"].as_str()
            ),
            (Some("ConfigMap"), Some("w"))
        );
    }
    let first = initial.next().await.unwrap();
    assert_eq!(
        (
            first["type"].as_str(),
            first["object"]["metadata"]["name"].as_str()
        ),
        (Some("ADDED"), Some("before"))
    );
    loop {
        let event = initial.next().await.unwrap();
        if event["type"] == "BOOKMARK" {
            assert_eq!(
                event["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
                "true"
            );
            break;
        }
    }
    let mut table = c
        .send(
            Method::GET,
            &format!("{MAPS}?watch=1&timeoutSeconds=1"),
            &[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")],
            "",
        )
        .await
        .unwrap();
    let chunk = http_body_util::BodyExt::frame(table.body_mut())
        .await
        .unwrap()
        .unwrap()
        .into_data()
        .unwrap();
    let event: Value = serde_json::from_slice(&chunk).unwrap();
    assert_eq!(event["object"]["kind"], "Table");
    assert_eq!(
        event["object"]["rows"][0]["object"]["metadata"]["name"],
        "before"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn finalizers_hold_and_preconditions_bind() {
    let (_server, c) = start().await;
    let path = format!("{MAPS}/f");
    let mut object = map("f", json!({}));
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    c.post(MAPS, &object).await.unwrap();
    let wrong =
        json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "other"}})
            .to_string();
    let refused = c
        .call(
            Method::DELETE,
            &path,
            &[("content-type", "application/json")],
            wrong,
        )
        .await
        .unwrap();
    assert_eq!(refused.code, 409);
    let marked = c.delete(&path).await.unwrap();
    assert_eq!(marked.code, 200);
    assert!(marked.json()["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(c.get(&path).await.unwrap().code, 200);
    let freed = c
        .patch(
            &path,
            "application/merge-patch+json",
            &json!({"metadata": {"finalizers": null}}),
        )
        .await
        .unwrap();
    assert_eq!(freed.code, 200);
    assert_eq!(c.get(&path).await.unwrap().code, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_gets_upstreams_answers() {
    let (_server, c) = start().await;
    let json_body = [("content-type", "application/json")];
    for (body, code) in [
        ("{", 400),
        (
            r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"}}"#,
            400,
        ),
        (r#"{"metadata":{"name":"A_B"}}"#, 422),
        (r#"{"metadata":{}}"#, 422),
        (r#"{"data":{"k":1}}"#, 400),
        (r#"{"metadata":{"name":"a","namespace":"other"}}"#, 400),
    ] {
        let answer = c.call(Method::POST, MAPS, &json_body, body).await.unwrap();
        assert_eq!(answer.code, code, "{body}: {}", answer.json()["message"]);
        assert_eq!(answer.json()["kind"], "Status");
    }
    let deep = format!(
        r#"{{"metadata":{{"name":"a"}},"data":{}{}}}"#,
        "{\"a\":".repeat(10_000),
        "}".repeat(10_000)
    );
    assert_eq!(
        c.call(Method::POST, MAPS, &json_body, deep)
            .await
            .unwrap()
            .code,
        400
    );
    let huge = format!(
        r#"{{"metadata":{{"name":"a"}},"data":{{"k":"{}"}}}}"#,
        "x".repeat(3 * 1024 * 1024 + 1)
    );
    assert_eq!(
        c.call(Method::POST, MAPS, &json_body, huge)
            .await
            .unwrap()
            .code,
        413
    );
    let strict = c
        .post(
            &format!("{MAPS}?fieldValidation=Strict"),
            &json!({"metadata": {"name": "a"}, "x": 1}),
        )
        .await
        .unwrap();
    assert_eq!(
        strict.json()["message"],
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"x\""
    );
    let warned = c
        .post(
            &format!("{MAPS}?dryRun=All"),
            &json!({"metadata": {"name": "a"}, "x": 1}),
        )
        .await
        .unwrap();
    assert_eq!(
        (warned.code, warned.headers["warning"].to_str().unwrap()),
        (201, "299 - \"unknown field \\\"x\\\"\"")
    );
    assert_eq!(c.get(&format!("{MAPS}/a")).await.unwrap().code, 404);
    assert_eq!(c.get("/api/v1/nothing").await.unwrap().code, 404);
    assert_eq!(c.delete("/api/v1/namespaces").await.unwrap().code, 405);
    assert_eq!(
        c.post("/api/v1/configmaps", &map("a", json!({})))
            .await
            .unwrap()
            .code,
        405
    );
    let html = c
        .call(Method::GET, MAPS, &[("accept", "text/html")], "")
        .await
        .unwrap();
    assert_eq!(html.code, 406);
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_names_and_namespaces() {
    let (_server, c) = start().await;
    let object = json!({"metadata": {"generateName": "g-"}});
    let (one, two) = (
        c.post(MAPS, &object).await.unwrap().json(),
        c.post(MAPS, &object).await.unwrap().json(),
    );
    let name = |o: &Value| o["metadata"]["name"].as_str().unwrap().to_owned();
    assert!(name(&one).starts_with("g-") && name(&one) != name(&two));
    let missing = c
        .post("/api/v1/namespaces/none/configmaps", &map("a", json!({})))
        .await
        .unwrap();
    assert_eq!(
        (missing.code, missing.json()["message"].as_str()),
        (404, Some("namespaces \"none\" not found"))
    );

    c.post("/api/v1/namespaces", &json!({"metadata": {"name": "t"}}))
        .await
        .unwrap();
    let going = c.delete("/api/v1/namespaces/t").await.unwrap().json();
    assert_eq!(going["status"]["phase"], "Terminating");
    let refused = c
        .post("/api/v1/namespaces/t/configmaps", &map("a", json!({})))
        .await
        .unwrap();
    assert_eq!(refused.code, 403);
    let mut emptied = going.clone();
    emptied["spec"]["finalizers"] = json!([]);
    assert_eq!(
        c.put("/api/v1/namespaces/t/finalize", &emptied)
            .await
            .unwrap()
            .code,
        200
    );
    let gone = c.delete("/api/v1/namespaces/t").await.unwrap().code;
    assert!(gone == 200 || gone == 404, "{gone}");
    assert_eq!(c.get("/api/v1/namespaces/t").await.unwrap().code, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_patches_all_count() {
    let (_server, c) = start().await;
    c.post(MAPS, &map("p", json!({}))).await.unwrap();
    let patches = (0..20).map(|n| {
        let c = c.clone();
        tokio::spawn(async move {
            let patch = json!({"data": {format!("k{n}"): "v"}});
            c.patch(&format!("{MAPS}/p"), "application/merge-patch+json", &patch)
                .await
                .map(|a| a.code)
                .unwrap()
        })
    });
    for done in futures::future::join_all(patches).await {
        assert_eq!(done.unwrap(), 200);
    }
    let data = c.get(&format!("{MAPS}/p")).await.unwrap().json();
    assert_eq!(data["data"].as_object().map(serde_json::Map::len), Some(20));
}
