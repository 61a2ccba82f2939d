//! Encryption at rest through the whole server: what lies in the store, what comes back, what a lost key does.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keelson_storage::{MemoryStore, Store};
use kube_apiserver::testing::TestServer;
use serde_json::{Value, json};

const KEY: &str = "/registry/secrets/default/sealed";
const PATH: &str = "/api/v1/namespaces/default/secrets/sealed";
const WORD: &[u8] = b"c2Vzc21lIG9wZW4";

fn configuration(folder: &Path, providers: &Value) -> PathBuf {
    let path = folder.join("encryption.json");
    let document = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
        "resources": [{"resources": ["secrets"], "providers": providers}],
    });
    std::fs::write(&path, document.to_string()).unwrap();
    path
}

fn key(name: &str, byte: u8) -> Value {
    use base64::Engine;
    let secret = base64::engine::general_purpose::STANDARD.encode([byte; 32]);
    json!({"name": name, "secret": secret})
}

async fn start(store: &MemoryStore, file: &Path, more: &[&str]) -> TestServer {
    let flag = format!("--encryption-provider-config={}", file.display());
    let flags: Vec<&str> = std::iter::once(flag.as_str())
        .chain(more.iter().copied())
        .collect();
    TestServer::start_on(Arc::new(store.clone()), &flags)
        .await
        .unwrap()
}

async fn raw(store: &MemoryStore) -> Vec<u8> {
    store.get(KEY).await.unwrap().unwrap().value.to_vec()
}

fn secret() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "sealed"},
        "data": {"word": "c2Vzc21lIG9wZW4="},
    })
}

fn holds(value: &[u8], part: &[u8]) -> bool {
    value.windows(part.len()).any(|window| window == part)
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_lie_sealed_and_come_back_whole() {
    let folder = tempfile::tempdir().unwrap();
    let store = MemoryStore::new();
    for (provider, prefix) in [
        ("aescbc", "k8s:enc:aescbc:v1:a:"),
        ("aesgcm", "k8s:enc:aesgcm:v1:a:"),
        ("secretbox", "k8s:enc:secretbox:v1:a:"),
    ] {
        let file = configuration(
            folder.path(),
            &json!([{provider: {"keys": [key("a", 1)]}}, {"identity": {}}]),
        );
        let server = start(&store, &file, &[]).await;
        let admin = server.admin().unwrap();
        let path = "/api/v1/namespaces/default/secrets";
        assert_eq!(admin.post(path, &secret()).await.unwrap().code, 201);
        let value = raw(&store).await;
        assert!(value.starts_with(prefix.as_bytes()));
        assert!(!holds(&value, WORD) && !holds(&value, b"sesame"));
        let read = admin.get(PATH).await.unwrap().json();
        assert_eq!(read["data"]["word"], "c2Vzc21lIG9wZW4=");
        // Only Secrets were asked for.
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": provider}});
        let path = "/api/v1/namespaces/default/configmaps";
        assert_eq!(admin.post(path, &map).await.unwrap().code, 201);
        let key = format!("/registry/configmaps/default/{provider}");
        let open = store.get(&key).await.unwrap().unwrap().value;
        assert!(!open.starts_with(b"k8s:enc:"));
        assert_eq!(admin.delete(PATH).await.unwrap().code, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_changes_nothing_moves_a_value_to_the_new_key() {
    let folder = tempfile::tempdir().unwrap();
    let store = MemoryStore::new();
    let file = configuration(folder.path(), &json!([{"identity": {}}]));
    {
        let server = start(&store, &file, &[]).await;
        let admin = server.admin().unwrap();
        let path = "/api/v1/namespaces/default/secrets";
        assert_eq!(admin.post(path, &secret()).await.unwrap().code, 201);
        assert!(holds(&raw(&store).await, b"sealed"));
    }
    let file = configuration(
        folder.path(),
        &json!([{"secretbox": {"keys": [key("b", 2)]}}, {"identity": {}}]),
    );
    let server = start(&store, &file, &[]).await;
    let admin = server.admin().unwrap();
    let before = admin.get(PATH).await.unwrap().json();
    let after = admin.put(PATH, &before).await.unwrap();
    assert_eq!(after.code, 200);
    assert_ne!(
        after.json()["metadata"]["resourceVersion"],
        before["metadata"]["resourceVersion"]
    );
    assert!(raw(&store).await.starts_with(b"k8s:enc:secretbox:v1:b:"));
    // Now it lies as it should: nothing is written any more.
    let again = admin.put(PATH, &after.json()).await.unwrap().json();
    assert_eq!(
        again["metadata"]["resourceVersion"],
        after.json()["metadata"]["resourceVersion"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_key_is_said_and_a_found_one_read_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let store = MemoryStore::new();
    let file = configuration(folder.path(), &json!([{"aesgcm": {"keys": [key("a", 1)]}}]));
    {
        let server = start(&store, &file, &[]).await;
        let path = "/api/v1/namespaces/default/secrets";
        let admin = server.admin().unwrap();
        assert_eq!(admin.post(path, &secret()).await.unwrap().code, 201);
    }
    let file = configuration(folder.path(), &json!([{"aesgcm": {"keys": [key("z", 9)]}}]));
    let reload = ["--encryption-provider-config-automatic-reload=true"];
    let server = start(&store, &file, &reload).await;
    let admin = server.admin().unwrap();
    let why = "no matching key was found for the provided AES transformer";
    for _ in 0..2 {
        let answer = admin.get(PATH).await.unwrap();
        assert_eq!(answer.code, 500);
        assert_eq!(
            answer.json()["message"],
            format!("Internal error occurred: {why}")
        );
    }
    assert_eq!(admin.delete(PATH).await.unwrap().code, 500);
    let list = admin.get("/api/v1/secrets").await.unwrap();
    assert_eq!(list.code, 500);
    assert_eq!(
        list.json()["message"],
        format!("Internal error occurred: unable to transform key {KEY:?}: {why}")
    );
    // Others are not concerned.
    let others = admin.get("/api/v1/namespaces/kube-system/secrets").await;
    assert_eq!(others.unwrap().code, 200);
    let health = admin.get("/healthz/kms-providers").await.unwrap();
    assert_eq!(health.code, 200);

    configuration(
        folder.path(),
        &json!([{"aesgcm": {"keys": [key("z", 9), key("a", 1)]}}]),
    );
    for _ in 0..100 {
        if admin.get(PATH).await.unwrap().code == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("the new configuration was not taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_is_wrong_keeps_the_server_from_starting() {
    let folder = tempfile::tempdir().unwrap();
    let file = configuration(folder.path(), &json!([{"aescbc": {"keys": []}}]));
    let flag = format!("--encryption-provider-config={}", file.display());
    let error = TestServer::start_on(Arc::new(MemoryStore::new()), &[&flag])
        .await
        .err()
        .unwrap();
    assert!(
        error
            .to_string()
            .contains("resources[0].providers[0].aescbc.keys: Required value")
    );
}
