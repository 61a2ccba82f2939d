//! Who is who by tokens of files, bootstrap tokens and JWT issuers; files followed while the server runs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Method;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use keelson_pki::{Authority, Identity};
use keelson_storage::MemoryStore;
use kube_apiserver::testing::{Client, TestServer};
use serde_json::{Value, json};
use tokio::net::TcpListener;

async fn start(flags: &[String]) -> TestServer {
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    TestServer::start_on(Arc::new(MemoryStore::new()), &flags)
        .await
        .unwrap()
}

async fn whoami(client: &Client, token: &str) -> Option<Value> {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let bearer = format!("Bearer {token}");
    let headers = [
        ("content-type", "application/json"),
        ("authorization", bearer.as_str()),
    ];
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let answer = client
        .call(Method::POST, path, &headers, review.to_string())
        .await
        .unwrap();
    (answer.code == 201).then(|| answer.json()["status"]["userInfo"].clone())
}

async fn until(what: &str, mut check: impl AsyncFnMut() -> bool) {
    for _ in 0..100 {
        if check().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("{what} did not come");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_a_file_follow_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.csv");
    std::fs::write(&file, "one,jane,7,\"dev,ops\"\n").unwrap();
    let server = start(&[format!("--token-auth-file={}", file.display())]).await;
    let nobody = server.anonymous().unwrap();
    let jane = whoami(&nobody, "one").await.unwrap();
    assert_eq!(jane["username"], "jane");
    assert_eq!(
        jane["groups"],
        json!(["dev", "ops", "system:authenticated"])
    );
    assert!(whoami(&nobody, "two").await.is_none());
    std::fs::write(&file, "two,joe,8\n").unwrap();
    until("the new file", async || {
        whoami(&nobody, "two").await.is_some()
    })
    .await;
    assert!(whoami(&nobody, "one").await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn bootstrap_tokens_are_secrets() {
    let server = start(&["--enable-bootstrap-token-auth=true".to_owned()]).await;
    let code = |text: &str| STANDARD.encode(text);
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": "bootstrap-token-abcdef"},
        "data": {
            "token-id": code("abcdef"), "token-secret": code("0123456789abcdef"),
            "usage-bootstrap-authentication": code("true"),
        },
    });
    let admin = server.admin().unwrap();
    let path = "/api/v1/namespaces/kube-system/secrets";
    assert_eq!(admin.post(path, &secret).await.unwrap().code, 201);
    let nobody = server.anonymous().unwrap();
    until("the token", async || {
        whoami(&nobody, "abcdef.0123456789abcdef").await.is_some()
    })
    .await;
    let user = whoami(&nobody, "abcdef.0123456789abcdef").await.unwrap();
    assert_eq!(user["username"], "system:bootstrap:abcdef");
    assert!(whoami(&nobody, "abcdef.0123456789abcdeX").await.is_none());
}

struct IssuerServer {
    url: String,
    ca: String,
    key: EncodingKey,
}

/// An OpenID issuer on loopback: its document, and one key.
async fn issuer(folder: &Path) -> IssuerServer {
    keelson_daemon::install_crypto();
    let authority = Authority::ensure(folder, "issuer-ca", "issuer").unwrap();
    let loopback = "127.0.0.1".parse().unwrap();
    let (certificate, key) = authority
        .issue(&Identity::server("issuer", &["localhost"], &[loopback]))
        .unwrap();
    std::fs::write(folder.join("i.crt"), certificate).unwrap();
    std::fs::write(folder.join("i.key"), key).unwrap();
    let pair =
        keelson_daemon::tls::ReloadingKey::load(&folder.join("i.crt"), &folder.join("i.key"));
    let tls = keelson_daemon::tls::server_config(pair.unwrap(), None).unwrap();
    let mut tls = tls;
    tls.alpn_protocols.clear();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());

    let account = keelson_pki::service_account::ensure(folder).unwrap();
    let pem = std::fs::read(&account.private).unwrap();
    let key = EncodingKey::from_ec_pem(&pem).unwrap();
    let mut jwk = Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap();
    jwk.common.key_id = Some("k1".to_owned());
    let keys = serde_json::to_string(&JwkSet { keys: vec![jwk] }).unwrap();
    let document = json!({"issuer": url, "jwks_uri": format!("{url}/keys")}).to_string();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else {
                continue;
            };
            let (keys, document) = (keys.clone(), document.clone());
            let serve = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let body = if request.uri().path() == "/keys" {
                    keys.clone()
                } else {
                    document.clone()
                };
                async move {
                    Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(Bytes::from(
                        body,
                    ))))
                }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), serve),
            );
        }
    });
    IssuerServer {
        url,
        ca: authority.certificate_pem().to_owned(),
        key,
    }
}

impl IssuerServer {
    fn token(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = json!({
            "iss": self.url, "aud": ["cluster"], "sub": "jane", "exp": 4_000_000_000_u64,
            "team": ["dev", "ops"], "tenant": "x",
        });
        change(&mut claims);
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some("k1".to_owned());
        jsonwebtoken::encode(&header, &claims, &self.key).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_an_issuer_and_anonymous_paths_follow_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let issuer = issuer(folder.path()).await;
    let file = folder.path().join("authentication.json");
    let mut document = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
        "jwt": [{
            "issuer": {"url": issuer.url, "certificateAuthority": issuer.ca, "audiences": ["cluster"]},
            "claimValidationRules": [{"claim": "tenant", "requiredValue": "x"}],
            "claimMappings": {
                "username": {"claim": "sub", "prefix": "oidc:"},
                "groups": {"claim": "team", "prefix": "team:"},
            },
        }],
        "anonymous": {"enabled": true, "conditions": [{"path": "/livez"}]},
    });
    std::fs::write(&file, document.to_string()).unwrap();
    let server = start(&[format!("--authentication-config={}", file.display())]).await;
    let nobody = server.anonymous().unwrap();
    let jane = whoami(&nobody, &issuer.token(|_| {})).await.unwrap();
    assert_eq!(jane["username"], "oidc:jane");
    assert_eq!(
        jane["groups"],
        json!(["team:dev", "team:ops", "system:authenticated"])
    );
    let changes: [fn(&mut Value); 5] = [
        |c| c["exp"] = 1_000_000_000.into(),
        |c| c["nbf"] = 3_900_000_000_u64.into(),
        |c| c["aud"] = "other".into(),
        |c| c["tenant"] = "y".into(),
        |c| c["iss"] = "https://elsewhere".into(),
    ];
    for change in changes {
        assert!(whoami(&nobody, &issuer.token(change)).await.is_none());
    }
    let good = issuer.token(|_| {});
    let (rest, _) = good.rsplit_once('.').unwrap();
    let forged = format!("{rest}.{}", "A".repeat(86));
    assert!(whoami(&nobody, &forged).await.is_none());
    assert_eq!(nobody.get("/livez").await.unwrap().code, 200);
    assert_eq!(nobody.get("/version").await.unwrap().code, 401);

    document["anonymous"] = json!({"enabled": true});
    document["jwt"] = json!([]);
    std::fs::write(&file, document.to_string()).unwrap();
    until("the new configuration", async || {
        nobody.get("/version").await.unwrap().code == 200
    })
    .await;
    // Known now, but allowed nothing.
    assert_eq!(nobody.get("/api/v1/pods").await.unwrap().code, 403);
    assert!(whoami(&nobody, &good).await.is_none());
}
