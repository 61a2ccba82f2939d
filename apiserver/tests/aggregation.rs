//! API aggregation, over TLS: what the server registers itself, and a small aggregated server that it sends requests to.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use keelson_pki::{Authority, Identity};
use keelson_storage::MemoryStore;
use kube_apiserver::testing::{Client, TestServer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

const APISERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WARDLE: &str = "/apis/wardle.example.com/v1";
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Asks until the answer is as wanted.
async fn until(c: &Client, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    for _ in 0..500 {
        last = c.get(path).await.unwrap().json();
        if wanted(&last) {
            return last;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{path} stays {last}");
}

fn reason(object: &Value) -> &str {
    object["status"]["conditions"][0]["reason"]
        .as_str()
        .unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_serves_is_registered() {
    let server = TestServer::start().await.expect("a server");
    let c = server.admin().expect("a client");
    let all = c.get(APISERVICES).await.unwrap().json();
    let items = all["items"].as_array().unwrap();
    assert_eq!(items.len(), 21);
    let core = items
        .iter()
        .find(|i| i["metadata"]["name"] == "v1.")
        .unwrap();
    assert_eq!(
        core["spec"],
        json!({"version": "v1", "groupPriorityMinimum": 18000, "versionPriority": 1})
    );
    assert_eq!(
        core["metadata"]["labels"],
        json!({"kube-aggregator.kubernetes.io/automanaged": "onstart"})
    );
    assert_eq!(
        (reason(core), &core["status"]["conditions"][0]["message"]),
        ("Local", &json!("Local APIServices are always available"))
    );
    let table = c
        .call(
            Method::GET,
            &format!("{APISERVICES}/v1.apps"),
            &[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")],
            "",
        )
        .await
        .unwrap()
        .json();
    let cells = &table["rows"][0]["cells"];
    assert_eq!((&cells[1], &cells[2]), (&json!("Local"), &json!("True")));
    // What was made at the start is not made again.
    assert_eq!(
        c.delete(&format!("{APISERVICES}/v1.apps"))
            .await
            .unwrap()
            .code,
        200
    );

    let crd = json!({"kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1", "metadata": {"name": "foos.example.com"},
        "spec": {"group": "example.com", "scope": "Cluster", "names": {"plural": "foos", "kind": "Foo"}, "versions": [
            {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}},
            {"name": "v1beta1", "served": false, "storage": false, "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    assert_eq!(c.post(CRDS, &crd).await.unwrap().code, 201);
    let path = format!("{APISERVICES}/v1.example.com");
    let registered = until(&c, &path, |o| reason(o) == "Local").await;
    assert_eq!(
        registered["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"],
        "true"
    );
    assert_eq!(
        registered["spec"],
        json!({"group": "example.com", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 100})
    );
    let first = registered["metadata"]["uid"].clone();
    assert_eq!(c.delete(&path).await.unwrap().code, 200);
    until(&c, &path, |o| {
        o["metadata"]["uid"].is_string() && o["metadata"]["uid"] != first
    })
    .await;
    assert_eq!(
        c.get(&format!("{APISERVICES}/v1beta1.example.com"))
            .await
            .unwrap()
            .code,
        404
    );
    assert_eq!(
        c.get(&format!("{APISERVICES}/v1.apps")).await.unwrap().code,
        404
    );
    assert_eq!(
        c.delete(&format!("{CRDS}/foos.example.com"))
            .await
            .unwrap()
            .code,
        200
    );
    until(&c, &path, |o| o["code"] == 404).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_are_checked() {
    let server = TestServer::start().await.expect("a server");
    let c = server.admin().expect("a client");
    let mut wrong = registration(443, "");
    wrong["metadata"]["name"] = "v2.wardle.example.com".into();
    wrong["spec"]["groupPriorityMinimum"] = 0.into();
    let refused = c.post(APISERVICES, &wrong).await.unwrap();
    assert_eq!(refused.code, 422);
    assert_eq!(
        refused.json()["message"],
        "APIService.apiregistration.k8s.io \"v2.wardle.example.com\" is invalid: [metadata.name: Invalid value: \"v2.wardle.example.com\": must be `spec.version+\".\"+spec.group`: \"v1.wardle.example.com\", spec.groupPriorityMinimum: Invalid value: 0: must be positive and less than 20000]"
    );
    let patched = c
        .patch(
            &format!("{APISERVICES}/v1.batch"),
            "application/merge-patch+json",
            &json!({"spec": {"versionPriority": 400}}),
        )
        .await
        .unwrap();
    assert_eq!(patched.json()["spec"]["versionPriority"], 400);
    let status = c
        .patch(
            &format!("{APISERVICES}/v1.batch/status"),
            "application/merge-patch+json",
            &json!({"spec": {"versionPriority": 1}, "status": {"conditions": [{"type": "Odd", "status": "Perhaps"}]}}),
        )
        .await
        .unwrap();
    assert_eq!(status.code, 422, "{}", status.json());
}

fn registration(port: u16, ca: &str) -> Value {
    let bundle = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, ca);
    json!({"kind": "APIService", "apiVersion": "apiregistration.k8s.io/v1", "metadata": {"name": "v1.wardle.example.com"},
        "spec": {"group": "wardle.example.com", "version": "v1", "groupPriorityMinimum": 2000, "versionPriority": 200,
            "caBundle": bundle, "service": {"namespace": "default", "name": "sample-api", "port": port}}})
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

fn answer(code: u16, content_type: &str, body: &str) -> Answer {
    Response::builder()
        .status(code)
        .header(header::CONTENT_TYPE, content_type)
        .body(Full::new(Bytes::from(body.to_owned())).boxed())
        .unwrap()
}

fn discovery() -> Value {
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": [
        {"metadata": {"name": "wardle.example.com"}, "versions": [{"version": "v1", "freshness": "Current", "resources": [
            {"resource": "flunders", "responseKind": {"group": "wardle.example.com", "version": "v1", "kind": "Flunder"}, "scope": "Namespaced", "singularResource": "flunder", "verbs": ["get", "list"]}]}]}]})
}

fn told(headers: &HeaderMap) -> Value {
    let all = |name: &str| -> Vec<&str> {
        let values = headers.get_all(name).iter();
        values.filter_map(|v| v.to_str().ok()).collect()
    };
    json!({"user": all("x-remote-user"), "groups": all("x-remote-group"), "scopes": all("x-remote-extra-scopes"),
        "authorization": all("authorization"), "forwarded": !all("x-forwarded-for").is_empty(), "audit": all("audit-id")})
}

/// The aggregated server.
async fn aggregated(mut request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    let watches = request.uri().query().is_some_and(|q| q.contains("watch=1"));
    match path.strip_prefix(WARDLE) {
        Some("") => answer(
            200,
            "application/json",
            r#"{"kind":"APIResourceList","groupVersion":"wardle.example.com/v1","resources":[]}"#,
        ),
        Some("/namespaces/default/flunders") if watches => {
            let events = futures::stream::iter(0..2).then(|n| async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let line = format!("{}\n", json!({"type": "ADDED", "object": {"n": n}}));
                Ok::<_, Infallible>(Frame::data(Bytes::from(line)))
            });
            let endless = events.chain(futures::stream::pending());
            Response::new(BodyExt::boxed(StreamBody::new(Box::pin(endless))))
        }
        Some("/away") => {
            let mut away = answer(302, "text/plain", "");
            away.headers_mut().insert(
                header::LOCATION,
                "https://elsewhere.example".parse().unwrap(),
            );
            away
        }
        Some("/switch") => {
            let switching = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut stream = TokioIo::new(switching.await.unwrap());
                let mut four = [0; 4];
                stream.read_exact(&mut four).await.unwrap();
                stream.write_all(&four).await.unwrap();
            });
            let mut switched = answer(101, "text/plain", "");
            let headers = switched.headers_mut();
            headers.insert(header::UPGRADE, "echo".parse().unwrap());
            headers.insert(header::CONNECTION, "Upgrade".parse().unwrap());
            switched
        }
        Some(_) => {
            let method = request.method().to_string();
            let mut told = told(request.headers());
            let version = format!("{:?}", request.version());
            let body = request.into_body().collect().await.unwrap().to_bytes();
            told["method"] = method.into();
            told["version"] = version.into();
            told["body"] = String::from_utf8_lossy(&body).into();
            answer(200, "application/json", &told.to_string())
        }
        None => match path.as_str() {
            "/apis" => answer(200, AGGREGATED, &discovery().to_string()),
            "/openapi/v3" => answer(
                200,
                "application/json",
                r#"{"paths":{"apis/wardle.example.com/v1":{"serverRelativeURL":"/openapi/v3/apis/wardle.example.com/v1?hash=A1"}}}"#,
            ),
            "/openapi/v3/apis/wardle.example.com/v1" => answer(
                200,
                "application/json",
                r#"{"openapi":"3.0.0","info":{"title":"wardle"}}"#,
            ),
            "/openapi/v2" => answer(
                200,
                "application/json",
                r##"{"swagger":"2.0","paths":{"/apis/wardle.example.com/v1/flunders":{"get":{"responses":{"200":{"schema":{"$ref":"#/definitions/com.example.Flunder"}}}}},"/version":{}},"definitions":{"com.example.Flunder":{"type":"object"}}}"##,
            ),
            _ => answer(404, "text/plain", "404 page not found"),
        },
    }
}

struct Double {
    port: u16,
    stop: CancellationToken,
}

/// Starts the aggregated server; it takes only clients with a certificate of the authority.
async fn double(authority: &Authority) -> Double {
    let names = ["sample-api.default.svc"];
    let (certificate, key) = authority
        .issue(&Identity::server("sample-api", &names, &[]))
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let roots = keelson_daemon::tls::roots(authority.certificate_path()).unwrap();
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots),
        provider.clone(),
    )
    .build()
    .unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            CertificateDer::pem_slice_iter(certificate.as_bytes())
                .collect::<Result<_, _>>()
                .unwrap(),
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = stopped.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else { return };
            let (acceptor, stopped) = (acceptor.clone(), stopped.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let service =
                    service_fn(|r| async move { Ok::<_, Infallible>(aggregated(r).await) });
                let builder = auto::Builder::new(TokioExecutor::new());
                let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
                tokio::select! {
                    () = stopped.cancelled() => {}
                    _ = serving => {}
                }
            });
        }
    });
    Double { port, stop }
}

struct World {
    server: TestServer,
    c: Client,
    double: Double,
    authority: Authority,
    _directory: tempfile::TempDir,
}

/// A server that shows a certificate to aggregated servers, and one of those, not yet registered.
async fn world() -> World {
    keelson_daemon::install_crypto();
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let authority = Authority::ensure(directory.path(), "front", "front-proxy-ca").unwrap();
    let (certificate, key) = authority
        .issue(&Identity::client("front-proxy-client", &[]))
        .unwrap();
    std::fs::write(at("proxy.crt"), certificate).unwrap();
    std::fs::write(at("proxy.key"), key).unwrap();
    let flag = |name: &str, path: &Path| format!("--{name}={}", path.display());
    let flags = [
        flag("proxy-client-cert-file", &at("proxy.crt")),
        flag("proxy-client-key-file", &at("proxy.key")),
        flag("requestheader-client-ca-file", authority.certificate_path()),
        "--requestheader-allowed-names=front-proxy-client".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let server = TestServer::start_on(Arc::new(MemoryStore::new()), &flags)
        .await
        .expect("a server");
    let c = server.admin().unwrap();
    let double = double(&authority).await;
    World {
        server,
        c,
        double,
        authority,
        _directory: directory,
    }
}

impl World {
    /// Registers the aggregated server, at an address outside of the cluster, and waits until it is available.
    async fn register(&self) {
        let service = json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": "sample-api"},
            "spec": {"type": "ExternalName", "externalName": "localhost"}});
        let made = self
            .c
            .post("/api/v1/namespaces/default/services", &service)
            .await
            .unwrap();
        assert_eq!(made.code, 201, "{}", made.json());
        let object = registration(self.double.port, self.authority.certificate_pem());
        let made = self.c.post(APISERVICES, &object).await.unwrap();
        assert_eq!(made.code, 201, "{}", made.json());
        let path = format!("{APISERVICES}/v1.wardle.example.com");
        let passed = until(&self.c, &path, |o| reason(o) == "Passed").await;
        assert_eq!(
            passed["status"]["conditions"][0]["message"],
            "all checks passed"
        );
    }

    async fn groups(&self) -> Vec<Value> {
        let accept = [("accept", AGGREGATED)];
        let list = self.c.call(Method::GET, "/apis", &accept, "").await;
        list.unwrap().json()["items"].as_array().unwrap().clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_reach_the_other_server_in_their_callers_name() {
    let w = world().await;
    w.register().await;
    let path = format!("{WARDLE}/namespaces/default/flunders");
    let told =
        w.c.call(
            Method::POST,
            &path,
            &[
                ("x-remote-user", "root"),
                ("x-remote-extra-scopes", "all"),
                ("content-type", "application/json"),
                ("audit-id", "a-b-c"),
            ],
            r#"{"kind":"Flunder"}"#,
        )
        .await
        .unwrap();
    assert_eq!(told.code, 200);
    assert_eq!(told.headers.get_all("audit-id").iter().count(), 1);
    assert_eq!(
        told.json(),
        json!({"user": ["admin"], "groups": ["system:masters", "system:authenticated"], "scopes": [], "authorization": [],
            "forwarded": true, "audit": ["a-b-c"], "method": "POST", "version": "HTTP/2.0", "body": "{\"kind\":\"Flunder\"}"})
    );
    // Who may do nothing here does not get there.
    let nobody = w.server.client("nobody", &[]).unwrap();
    assert_eq!(nobody.get(&path).await.unwrap().code, 403);
    let mut events = w.c.watch(&format!("{path}?watch=1")).await.unwrap();
    for n in 0..2 {
        assert_eq!(events.next().await.unwrap()["object"]["n"], n);
    }
    let away = w.c.get(&format!("{WARDLE}/away")).await.unwrap();
    assert_eq!(
        (away.code, away.body),
        (
            502,
            "the backend attempted to redirect this request, which is not permitted".into()
        )
    );
    let mut switched =
        w.c.send(
            Method::GET,
            &format!("{WARDLE}/switch"),
            &[("connection", "Upgrade"), ("upgrade", "echo")],
            "",
        )
        .await
        .unwrap();
    assert_eq!(switched.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut stream = TokioIo::new(hyper::upgrade::on(&mut switched).await.unwrap());
    stream.write_all(b"ping").await.unwrap();
    let mut four = [0; 4];
    stream.read_exact(&mut four).await.unwrap();
    assert_eq!(&four, b"ping");
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_and_openapi_are_one_document() {
    let w = world().await;
    w.register().await;
    let groups = w.groups().await;
    let wardle = groups.last().unwrap();
    assert_eq!(wardle["metadata"]["name"], "wardle.example.com");
    assert_eq!(wardle["versions"][0]["freshness"], "Current");
    assert_eq!(
        wardle["versions"][0]["resources"],
        discovery()["items"][0]["versions"][0]["resources"]
    );
    let plain = w.c.get("/apis").await.unwrap().json();
    assert_eq!(
        plain["groups"].as_array().unwrap().last().unwrap()["preferredVersion"]["groupVersion"],
        "wardle.example.com/v1"
    );
    let group = w.c.get("/apis/wardle.example.com").await.unwrap().json();
    assert_eq!(group["kind"], "APIGroup");
    let index = w.c.get("/openapi/v3").await.unwrap().json();
    assert_eq!(
        index["paths"]["apis/wardle.example.com/v1"]["serverRelativeURL"],
        "/openapi/v3/apis/wardle.example.com/v1?hash=A1"
    );
    assert!(index["paths"]["apis/apps/v1"].is_object());
    let document =
        w.c.get("/openapi/v3/apis/wardle.example.com/v1?hash=A1")
            .await
            .unwrap()
            .json();
    assert_eq!(document["info"]["title"], "wardle");
    let merged = until(&w.c, "/openapi/v2", |o| {
        o["definitions"]["com.example.Flunder"].is_object()
    })
    .await;
    assert!(merged["paths"]["/apis/wardle.example.com/v1/flunders"].is_object());
    assert!(merged["paths"]["/apis/apps/v1/deployments"].is_object());

    // Gone for a while.
    w.double.stop.cancel();
    let patch = json!({"spec": {"versionPriority": 201}, "metadata": {"labels": {"a": "b"}}});
    let path = format!("{APISERVICES}/v1.wardle.example.com");
    let service = "/api/v1/namespaces/default/services/sample-api";
    let merge = "application/merge-patch+json";
    let touch = json!({"metadata": {"labels": {"x": "y"}}});
    for (path, patch) in [(path.as_str(), &patch), (service, &touch)] {
        assert_eq!(w.c.patch(path, merge, patch).await.unwrap().code, 200);
    }
    let failed = until(&w.c, &path, |o| reason(o) == "FailedDiscoveryCheck").await;
    let message = failed["status"]["conditions"][0]["message"]
        .as_str()
        .unwrap();
    let start = format!(
        "failing or missing response from https://localhost:{}{WARDLE}: Get ",
        w.double.port
    );
    assert!(message.starts_with(&start), "{message}");
    assert!(
        message.ends_with("connect: connection refused"),
        "{message}"
    );
    let refused = w.c.get(&format!("{WARDLE}/flunders")).await.unwrap();
    assert_eq!(
        (refused.code, refused.body),
        (503, "service unavailable\n".into())
    );
    for _ in 0..100 {
        let groups = w.groups().await;
        if groups.last().unwrap()["versions"][0]["freshness"] == "Stale" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let version = w.groups().await.last().unwrap()["versions"][0].clone();
    assert_eq!(version["freshness"], "Stale");
    assert_eq!(version["resources"][0]["resource"], "flunders");

    // Gone for good.
    assert_eq!(w.c.delete(&path).await.unwrap().code, 200);
    until(&w.c, "/apis/wardle.example.com", |o| o.is_null()).await;
    assert_eq!(
        w.groups().await.last().unwrap()["metadata"]["name"],
        "flowcontrol.apiserver.k8s.io"
    );
    assert_eq!(
        w.c.get(&format!("{WARDLE}/flunders")).await.unwrap().code,
        404
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_service_is_said() {
    let w = world().await;
    let mut object = registration(443, "");
    object["spec"]["insecureSkipTLSVerify"] = true.into();
    assert_eq!(w.c.post(APISERVICES, &object).await.unwrap().code, 201);
    let path = format!("{APISERVICES}/v1.wardle.example.com");
    let message = |o: &Value| o["status"]["conditions"][0]["message"].clone();
    let missing = until(&w.c, &path, |o| reason(o) == "ServiceNotFound").await;
    assert_eq!(
        message(&missing),
        "service/sample-api in \"default\" is not present"
    );
    assert_eq!(missing["status"]["conditions"][0]["status"], "False");
    let services = "/api/v1/namespaces/default/services";
    let service = json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": "sample-api"},
        "spec": {"ports": [{"port": 80}]}});
    assert_eq!(w.c.post(services, &service).await.unwrap().code, 201);
    let other = until(&w.c, &path, |o| reason(o) == "ServicePortError").await;
    assert_eq!(
        message(&other),
        "service/sample-api in \"default\" is not listening on port 443"
    );
    let ports = json!({"spec": {"ports": [{"port": 443}]}});
    let merge = "application/merge-patch+json";
    let at = format!("{services}/sample-api");
    assert_eq!(w.c.patch(&at, merge, &ports).await.unwrap().code, 200);
    let without = until(&w.c, &path, |o| reason(o) == "EndpointsNotFound").await;
    assert_eq!(
        message(&without),
        "cannot find endpointslices for service/sample-api in \"default\""
    );
    let slice = json!({"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": "IPv4",
        "metadata": {"name": "a", "labels": {"kubernetes.io/service-name": "sample-api"}},
        "ports": [{"name": "", "port": 443}], "endpoints": [{"addresses": ["10.1.2.3"], "conditions": {"ready": false}}]});
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    assert_eq!(w.c.post(slices, &slice).await.unwrap().code, 201);
    let waiting = until(&w.c, &path, |o| reason(o) == "MissingEndpoints").await;
    assert_eq!(
        message(&waiting),
        "endpointslices for service/sample-api in \"default\" have no addresses with port name \"\""
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_to_serve_itself_is_left_alone() {
    let w = world().await;
    let service = json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": "sample-api"},
        "spec": {"type": "ExternalName", "externalName": "localhost"}});
    let services = "/api/v1/namespaces/default/services";
    assert_eq!(w.c.post(services, &service).await.unwrap().code, 201);
    let mut object = registration(w.server.address.port(), "");
    object["spec"]["insecureSkipTLSVerify"] = true.into();
    assert_eq!(w.c.post(APISERVICES, &object).await.unwrap().code, 201);
    let path = format!("{APISERVICES}/v1.wardle.example.com");
    until(&w.c, &path, |o| reason(o) == "FailedDiscoveryCheck").await;
    // Even if somebody says that it can be used.
    let status = json!({"status": {"conditions": [{"type": "Available", "status": "True"}]}});
    let merge = "application/merge-patch+json";
    w.c.patch(&format!("{path}/status"), merge, &status)
        .await
        .unwrap();
    let looped = w.c.get(&format!("{WARDLE}/flunders")).await.unwrap();
    assert_eq!(looped.code, 503);
}
