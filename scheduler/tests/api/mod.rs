//! As much of an API server as the scheduler sees: lists, watches, bindings, status patches, deletions, events.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::broadcast;

type Answer = UnsyncBoxBody<Bytes, std::io::Error>;

#[derive(Clone)]
pub struct Api(Arc<State>);

struct State {
    objects: Mutex<Objects>,
    changes: broadcast::Sender<(String, Value)>,
}

#[derive(Default)]
struct Objects {
    version: u64,
    /// By path: `/api/v1/namespaces/default/pods/p`.
    by_path: BTreeMap<String, Value>,
    events: Vec<String>,
    refused_bindings: usize,
}

/// The path of the collection over all namespaces, and whether it is a namespaced one.
fn collection(path: &str) -> String {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let root = if parts[0] == "api" { 2 } else { 3 };
    let rest = match parts.get(root) {
        Some(&"namespaces") if parts.len() > root + 2 => &parts[root + 2..],
        _ => &parts[root..],
    };
    format!("/{}/{}", parts[..root].join("/"), rest[0])
}

impl Api {
    pub fn new() -> Self {
        Api(Arc::new(State {
            objects: Mutex::default(),
            changes: broadcast::Sender::new(1_000),
        }))
    }

    pub fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, std::convert::Infallible>(api.answer(request).await) }
        });
        Client::new(service, "default")
    }

    pub fn put(&self, path: &str, mut object: Value) {
        let mut objects = self.0.objects.lock();
        objects.version += 1;
        object["metadata"]["resourceVersion"] = json!(objects.version.to_string());
        let kinds = [
            ("/pods/", "Pod"),
            ("/nodes/", "Node"),
            ("/persistentvolumeclaims/", "PersistentVolumeClaim"),
            ("/persistentvolumes/", "PersistentVolume"),
        ];
        let kind = kinds.iter().find(|(part, _)| path.contains(part));
        object["apiVersion"] = json!("v1");
        object["kind"] = json!(kind.expect("a known kind").1);
        let before = objects.by_path.insert(path.to_owned(), object.clone());
        let kind = if before.is_some() {
            "MODIFIED"
        } else {
            "ADDED"
        };
        self.tell(path, kind, object);
    }

    fn tell(&self, path: &str, kind: &str, object: Value) {
        let event = json!({"type": kind, "object": object});
        let _ = self.0.changes.send((collection(path), event));
    }

    pub fn delete(&self, path: &str) -> bool {
        let mut objects = self.0.objects.lock();
        let Some(mut object) = objects.by_path.remove(path) else {
            return false;
        };
        objects.version += 1;
        object["metadata"]["resourceVersion"] = json!(objects.version.to_string());
        self.tell(path, "DELETED", object);
        true
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.0.objects.lock().by_path.get(path).cloned()
    }

    pub fn refuse_bindings(&self, count: usize) {
        self.0.objects.lock().refused_bindings = count;
    }

    pub fn events(&self) -> Vec<String> {
        self.0.objects.lock().events.clone()
    }

    /// Waits until the object is as wanted.
    pub async fn wait(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..500 {
            if let Some(object) = self.get(path).filter(|object| wanted(object)) {
                return object;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!(
            "{path} did not become as wanted: {:?}, events {:?}",
            self.get(path),
            self.events()
        );
    }

    async fn answer(&self, request: Request<Body>) -> Response<Answer> {
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        let method = request.method().clone();
        let body = request.into_body().collect().await.expect("a body");
        let body: Value = serde_json::from_slice(&body.to_bytes()).unwrap_or(Value::Null);
        match method {
            Method::GET if query.contains("watch=true") => self.watch(&path),
            Method::GET => self.list(&path),
            Method::POST if path.ends_with("/binding") => self.bind(&path, &body),
            Method::POST => {
                let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
                let told = format!("{} {}: {}", text("type"), text("reason"), text("note"));
                self.0.objects.lock().events.push(told);
                respond(201, body)
            }
            Method::PATCH => self.patch(path.trim_end_matches("/status"), &body),
            Method::DELETE if self.delete(&path) => {
                respond(200, json!({"kind": "Status", "status": "Success"}))
            }
            _ => respond(404, failure(404, "NotFound")),
        }
    }

    fn list(&self, path: &str) -> Response<Answer> {
        let objects = self.0.objects.lock();
        let items: Vec<&Value> = objects
            .by_path
            .iter()
            .filter(|(own, _)| collection(own) == path)
            .map(|(_, object)| object)
            .collect();
        respond(
            200,
            json!({"metadata": {"resourceVersion": objects.version.max(1).to_string()}, "items": items}),
        )
    }

    fn watch(&self, path: &str) -> Response<Answer> {
        let path = path.to_owned();
        let changes = tokio_stream::wrappers::BroadcastStream::new(self.0.changes.subscribe());
        let frames = changes.filter_map(move |change| {
            let line = change
                .ok()
                .filter(|(collection, _)| *collection == path)
                .map(|(_, event)| Bytes::from(format!("{event}\n")));
            async move { line.map(|line| Ok::<_, std::io::Error>(Frame::data(line))) }
        });
        Response::new(BodyExt::boxed_unsync(StreamBody::new(frames)))
    }

    fn bind(&self, path: &str, body: &Value) -> Response<Answer> {
        let path = path.trim_end_matches("/binding");
        {
            let mut objects = self.0.objects.lock();
            if objects.refused_bindings > 0 {
                objects.refused_bindings -= 1;
                return respond(500, failure(500, "InternalError"));
            }
        }
        let Some(mut pod) = self.get(path) else {
            return respond(404, failure(404, "NotFound"));
        };
        pod["spec"]["nodeName"] = body["target"]["name"].clone();
        self.put(path, pod);
        respond(201, json!({"kind": "Status", "status": "Success"}))
    }

    fn patch(&self, path: &str, body: &Value) -> Response<Answer> {
        let Some(mut pod) = self.get(path) else {
            return respond(404, failure(404, "NotFound"));
        };
        for (key, value) in body["status"].as_object().into_iter().flatten() {
            pod["status"][key] = value.clone();
        }
        self.put(path, pod.clone());
        respond(200, pod)
    }
}

fn failure(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason})
}

fn respond(code: u16, body: Value) -> Response<Answer> {
    let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = http::StatusCode::from_u16(code).expect("a code");
    response
}
