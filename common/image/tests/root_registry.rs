//! Pulls from a small registry on the loopback: indexes, tokens, mirrors, and content that is not what it says.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use keelson_image::{Credentials, Error, Limits, Registries, Store};
use serde_json::json;
use sha2::{Digest, Sha256};

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

#[derive(Default)]
struct Content {
    /// Path below /v2/ → media type and bytes.
    files: HashMap<String, (String, Vec<u8>)>,
    /// Paths asked for.
    asked: Vec<String>,
    /// Ask for a token got with these credentials (`user:password` in base64).
    secret: Option<String>,
}

struct Registry {
    address: String,
    content: Arc<Mutex<Content>>,
}

impl Registry {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let content = Arc::new(Mutex::new(Content::default()));
        let (shared, own) = (Arc::clone(&content), address.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (content, address) = (Arc::clone(&shared), own.clone());
                std::thread::spawn(move || serve(stream.unwrap(), &content, &address));
            }
        });
        Self { address, content }
    }

    fn put(&self, path: &str, kind: &str, bytes: &[u8]) {
        self.content
            .lock()
            .unwrap()
            .files
            .insert(path.to_owned(), (kind.to_owned(), bytes.to_owned()));
    }

    /// An image behind an index, with one layer.
    fn image(&self, repository: &str, tag: &str, file: &str) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(file.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, "file", file.as_bytes())
            .unwrap();
        let layer = tar.into_inner().unwrap();
        let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        zipped.write_all(&layer).unwrap();
        let zipped = zipped.finish().unwrap();
        let config = json!({"os": "linux", "config": {"User": "7"}, "rootfs": {"diff_ids": [digest(&layer)]}}).to_string();
        let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {"digest": digest(config.as_bytes()), "size": config.len()},
            "layers": [{"digest": digest(&zipped), "size": zipped.len()}]})
        .to_string();
        let architecture = if cfg!(target_arch = "aarch64") {
            "arm64"
        } else {
            "amd64"
        };
        let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [
            {"digest": digest(b"other"), "size": 5, "platform": {"os": "linux", "architecture": "s390x"}},
            {"digest": digest(manifest.as_bytes()), "size": manifest.len(), "platform": {"os": "linux", "architecture": architecture}}]})
        .to_string();
        self.put(
            &format!("{repository}/manifests/{tag}"),
            "application/vnd.oci.image.index.v1+json",
            index.as_bytes(),
        );
        self.put(
            &format!("{repository}/manifests/{}", digest(manifest.as_bytes())),
            "application/vnd.docker.distribution.manifest.v2+json",
            manifest.as_bytes(),
        );
        for blob in [config.as_bytes(), &zipped] {
            self.put(
                &format!("{repository}/blobs/{}", digest(blob)),
                "application/octet-stream",
                blob,
            );
        }
        zipped
    }
}

fn serve(mut stream: TcpStream, content: &Mutex<Content>, address: &str) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request).unwrap_or(0) == 0 {
            return;
        }
        let mut authorization = String::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if line.trim().is_empty() {
                break;
            }
            if let Some((key, value)) = line.split_once(':')
                && key.eq_ignore_ascii_case("authorization")
            {
                authorization = value.trim().to_owned();
            }
        }
        let path = request.split(' ').nth(1).unwrap().to_owned();
        let mut content = content.lock().unwrap();
        content.asked.push(path.clone());
        let (status, extra, kind, body) = answer(&content, address, &path, &authorization);
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{extra}Content-Length: {}\r\n\r\n",
            body.len()
        );
        if stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(&body))
            .is_err()
        {
            return;
        }
    }
}

fn answer(
    content: &Content,
    address: &str,
    path: &str,
    authorization: &str,
) -> (&'static str, String, String, Vec<u8>) {
    let json = "application/json".to_owned();
    if path.starts_with("/token") {
        return match &content.secret {
            Some(secret) if authorization == format!("Basic {secret}") => (
                "200 OK",
                String::new(),
                json,
                br#"{"token":"t0k3n"}"#.to_vec(),
            ),
            _ => ("401 Unauthorized", String::new(), json, b"{}".to_vec()),
        };
    }
    if content.secret.is_some() && authorization != "Bearer t0k3n" {
        let challenge = format!(
            "Www-Authenticate: Bearer realm=\"http://{address}/token\",service=\"test\"\r\n"
        );
        return (
            "401 Unauthorized",
            challenge,
            json,
            br#"{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}"#.to_vec(),
        );
    }
    match content.files.get(path.trim_start_matches("/v2/")) {
        _ if path == "/v2/" => ("200 OK", String::new(), json, b"{}".to_vec()),
        Some((kind, bytes)) => ("200 OK", String::new(), kind.clone(), bytes.clone()),
        None => (
            "404 Not Found",
            String::new(),
            json,
            br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"unknown"}]}"#.to_vec(),
        ),
    }
}

fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: needs root");
    }
    root
}

#[tokio::test]
async fn indexes_and_shared_layers() {
    if !root() {
        return;
    }
    let registry = Registry::start();
    registry.image("team/app", "1", "content");
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let name = format!("{}/team/app:1", registry.address);
    let image = store.pull(&name, &[]).await.unwrap();
    assert_eq!(
        (image.tags.as_slice(), image.size),
        ([name.clone()].as_slice(), 7)
    );
    assert!(image.digests[0].starts_with(&format!("{}/team/app@sha256:", registry.address)));
    assert_eq!(store.config(&image.id).unwrap().config.user, "7");
    let lower = store.root().join(&store.lower_directories(&image)[0]);
    assert_eq!(
        std::fs::read_to_string(lower.join("file")).unwrap(),
        "content"
    );
    // By digest, and by a second name with the same layer: no blob is fetched again.
    assert_eq!(store.find(&image.digests[0]).unwrap().unwrap().id, image.id);
    registry.content.lock().unwrap().asked.clear();
    let again = store.pull(&name, &[]).await.unwrap();
    assert_eq!(again, image);
    let blobs = registry
        .content
        .lock()
        .unwrap()
        .asked
        .iter()
        .filter(|path| path.contains("/blobs/"))
        .count();
    assert_eq!(blobs, 1, "only the configuration");
    // In use it stays; then it goes with its layers.
    let witness = directory.path().join("witness");
    std::fs::write(&witness, "").unwrap();
    store.hold(&image.id, "c1", &witness).unwrap();
    assert!(matches!(store.remove(&name), Err(Error::InUse { .. })));
    std::fs::remove_file(&witness).unwrap();
    store.remove(&name).unwrap();
    assert!(store.list().unwrap().is_empty() && !lower.exists());
    assert!(
        std::fs::read_dir(directory.path().join("layers"))
            .unwrap()
            .next()
            .is_none()
    );
    assert!(
        std::fs::read_dir(directory.path().join("tmp"))
            .unwrap()
            .next()
            .is_none()
    );
}

#[tokio::test]
async fn tokens_by_credentials() {
    if !root() {
        return;
    }
    let registry = Registry::start();
    registry.image("private/app", "1", "secret");
    registry.content.lock().unwrap().secret = Some("dTpw".into()); // u:p
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let name = format!("{}/private/app:1", registry.address);
    let credentials = |password: &str| Credentials {
        registry: registry.address.clone(),
        username: "u".into(),
        password: password.into(),
    };
    let error = store.pull(&name, &[]).await.unwrap_err().to_string();
    assert!(
        error
            .contains("pull access denied, repository does not exist or may require authorization"),
        "{error}"
    );
    assert!(store.pull(&name, &[credentials("wrong")]).await.is_err());
    store
        .pull(&name, &[credentials("wrong"), credentials("p")])
        .await
        .unwrap();
}

#[tokio::test]
async fn mirrors_and_missing_images() {
    if !root() {
        return;
    }
    let registry = Registry::start();
    registry.image("hub/library/busybox", "latest", "mirrored");
    let directory = tempfile::tempdir().unwrap();
    let mirrors = [(
        "docker.io".to_owned(),
        vec![
            "http://127.0.0.1:1".to_owned(),
            format!("http://{}/hub", registry.address),
        ],
    )]
    .into();
    let store = Store::with(directory.path(), Registries { mirrors }, Limits::default()).unwrap();
    let image = store.pull("busybox", &[]).await.unwrap();
    assert_eq!(image.tags, ["docker.io/library/busybox:latest"]);
    assert!(store.find("busybox").unwrap().is_some() && store.find("busybox:2").unwrap().is_none());
    let error = store
        .pull(&format!("{}/no/such:1", registry.address), &[])
        .await
        .unwrap_err()
        .to_string();
    let want = format!(
        "failed to resolve reference \"{0}/no/such:1\": {0}/no/such:1: not found",
        registry.address
    );
    assert!(error.contains(&want), "{error}");
    let error = store
        .pull("127.0.0.1:1/x", &[])
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("failed to do request") && error.to_lowercase().contains("refused"),
        "{error}"
    );
}

#[tokio::test]
async fn content_is_checked() {
    if !root() {
        return;
    }
    let registry = Registry::start();
    let layer = registry.image("bad/app", "1", "content");
    let mut forged = layer.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    registry.put(
        &format!("bad/app/blobs/{}", digest(&layer)),
        "application/octet-stream",
        &forged,
    );
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let name = format!("{}/bad/app:1", registry.address);
    assert!(store.pull(&name, &[]).await.is_err());
    forged.extend_from_slice(b"more");
    registry.put(
        &format!("bad/app/blobs/{}", digest(&layer)),
        "application/octet-stream",
        &forged,
    );
    assert!(store.pull(&name, &[]).await.is_err());
    assert!(store.list().unwrap().is_empty());
    assert!(
        std::fs::read_dir(directory.path().join("layers"))
            .unwrap()
            .next()
            .is_none()
    );
    // A small bound refuses what is fine otherwise.
    registry.put(
        &format!("bad/app/blobs/{}", digest(&layer)),
        "application/octet-stream",
        &layer,
    );
    let small = Store::with(
        directory.path(),
        Registries::default(),
        Limits {
            blob: 10,
            ..Limits::default()
        },
    )
    .unwrap();
    assert!(matches!(
        small.pull(&name, &[]).await,
        Err(Error::TooLarge { .. })
    ));
    store.pull(&name, &[]).await.unwrap();
}
