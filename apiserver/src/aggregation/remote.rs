//! A group version that another server serves: how it is reached, whether it can be, and what it says it serves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, ETAG, HOST, IF_NONE_MATCH, USER_AGENT};
use http::{HeaderValue, StatusCode};
use http_body_util::{BodyExt, Limited};
use keelson_auth::User;
use keelson_daemon::tls::ReloadingKey;
use keelson_schema::openapi::Foreign;
use serde_json::{Map, Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::proxy;
use super::registration::Registration;
use super::resolve;
use super::transport::Transport;
use crate::body::Body;
use crate::proxying::target;
use crate::server::Server;

/// Longer documents are not read.
const LONGEST: usize = 64 << 20;
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
const DISCOVERY: Duration = Duration::from_secs(5);
const SPECIFICATION: Duration = Duration::from_secs(60);

/// What is known of what a remote serves.
#[derive(Default)]
pub struct Found {
    /// Its version in aggregated discovery, without freshness; nothing before it was read.
    pub version: Option<Value>,
    /// Whether it could not be read when it was tried last.
    pub stale: bool,
    /// Its OpenAPI v3 documents: path to URL.
    pub v3: Arc<Map<String, Value>>,
    /// Its OpenAPI v2 document.
    pub v2: Option<Arc<Foreign>>,
}

type Speaking = Result<Arc<Transport>, String>;

/// A group version of another server.
pub struct Remote {
    registration: ArcSwap<Registration>,
    transport: ArcSwap<Speaking>,
    available: AtomicBool,
    found: ArcSwap<Found>,
    wake: Notify,
    /// Ends its task.
    pub stop: CancellationToken,
}

/// An answer, whole.
pub struct Answer {
    /// Its code.
    pub code: StatusCode,
    /// Its media type.
    pub content_type: String,
    /// Its ETag.
    pub etag: String,
    /// Its body.
    pub body: Bytes,
}

impl Remote {
    /// A remote that nothing is known of but its registration.
    pub fn new(
        registration: Arc<Registration>,
        certificate: Option<&Arc<ReloadingKey>>,
        stop: CancellationToken,
    ) -> Self {
        Remote {
            transport: ArcSwap::from_pointee(speaking(&registration, certificate)),
            available: AtomicBool::new(registration.condition.is_true()),
            registration: ArcSwap::new(registration),
            found: ArcSwap::from_pointee(Found {
                stale: true,
                ..Found::default()
            }),
            wake: Notify::new(),
            stop,
        }
    }

    /// Takes over what its registration says now.
    pub fn update(&self, new: Arc<Registration>, certificate: Option<&Arc<ReloadingKey>>) {
        let old = self.registration.swap(new.clone());
        let moved = !old.is_reached_like(&new);
        if moved {
            self.transport.store(Arc::new(speaking(&new, certificate)));
        }
        self.available
            .store(new.condition.is_true(), Ordering::Release);
        if moved || old.condition != new.condition {
            self.wake();
        }
    }

    /// What its APIService says.
    pub fn registration(&self) -> Arc<Registration> {
        self.registration.load_full()
    }

    /// What it serves, as far as is known.
    pub fn found(&self) -> Arc<Found> {
        self.found.load_full()
    }

    /// Whether requests may be sent to it.
    pub fn is_available(&self) -> bool {
        self.available.load(Ordering::Acquire)
    }

    /// How it is spoken to.
    pub fn transport(&self) -> Speaking {
        Speaking::clone(&self.transport.load())
    }

    /// Where it is.
    pub fn address(&self, server: &Server) -> Result<(String, u16), String> {
        let registration = self.registration.load();
        let service = registration.service.as_ref().ok_or("no service")?;
        resolve::address(
            server.lookup.as_ref(),
            service,
            server.aggregation.endpoints,
        )
    }

    /// Has its task look again.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Waits until there is a reason to look again.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Asks it for a document.
    pub async fn get(
        &self,
        server: &Server,
        path: &str,
        accept: &str,
        etag: &str,
        user: &User,
        patience: Duration,
    ) -> Result<Answer, String> {
        let transport = self.transport()?;
        let address = self.address(server)?;
        let mut request = http::Request::new(Body::Empty);
        *request.uri_mut() = path.parse().map_err(|e| format!("{path}: {e}"))?;
        let headers = request.headers_mut();
        let mut insert = |name, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        insert(HOST, &target::authority(&address.0, address.1));
        insert(USER_AGENT, "kube-aggregator");
        if !accept.is_empty() {
            insert(ACCEPT, accept);
        }
        if !etag.is_empty() {
            insert(IF_NONE_MATCH, etag);
        }
        proxy::identify(headers, user);
        let url = format!("https://{}{path}", target::authority(&address.0, address.1));
        let asked = async {
            let answer = transport
                .send(&address, request)
                .await
                .map_err(|e| e.to_string())?;
            let (parts, body) = answer.into_parts();
            let header = |name| {
                let value = parts.headers.get(name).and_then(|v| v.to_str().ok());
                value.unwrap_or_default().to_owned()
            };
            let body = Limited::new(body, LONGEST).collect().await;
            Ok(Answer {
                code: parts.status,
                content_type: header(CONTENT_TYPE),
                etag: header(ETAG),
                body: body.map_err(|e| e.to_string())?.to_bytes(),
            })
        };
        let failed = |why: String| {
            transport.hang_up();
            format!("Get {url:?}: {why}")
        };
        match tokio::time::timeout(patience, asked).await {
            Ok(answered) => answered.map_err(failed),
            Err(_) => Err(failed(
                "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".into(),
            )),
        }
    }

    /// Says in the documents that it can't be asked at the moment; whether that is news.
    pub fn mark_stale(&self) -> bool {
        let old = self.found.load();
        if old.stale {
            return false;
        }
        self.found.store(Arc::new(Found {
            version: old.version.clone(),
            stale: true,
            v3: old.v3.clone(),
            v2: old.v2.clone(),
        }));
        true
    }

    /// Learns what it serves; whether that is news.
    pub async fn discover(&self, server: &Server) -> Result<bool, String> {
        let version = self.discovered(server).await?;
        let v3 = self.documents(server).await;
        let old = self.found.load_full();
        let v3 = match v3 {
            Some(v3) if v3 != *old.v3 => Arc::new(v3),
            _ => old.v3.clone(),
        };
        let is_new =
            old.stale || old.version.as_ref() != Some(&version) || !Arc::ptr_eq(&v3, &old.v3);
        self.found.store(Arc::new(Found {
            version: Some(version),
            stale: false,
            v3,
            v2: old.v2.clone(),
        }));
        Ok(is_new)
    }

    async fn discovered(&self, server: &Server) -> Result<Value, String> {
        let registration = self.registration();
        let masters = User::new("system:kube-aggregator", &[keelson_auth::user::MASTERS]);
        let path = if registration.group.is_empty() {
            "/api"
        } else {
            "/apis"
        };
        let answer = self
            .get(server, path, AGGREGATED, "", &masters, DISCOVERY)
            .await?;
        if answer.code == StatusCode::SERVICE_UNAVAILABLE {
            return Err(format!("non-success response code: {}", answer.code));
        }
        let nothing = json!({"version": registration.version});
        if answer.code == StatusCode::OK && answer.content_type.contains("as=APIGroupDiscoveryList")
        {
            let list: Value = serde_json::from_slice(&answer.body).map_err(|e| e.to_string())?;
            return Ok(version_of(&list, &registration).unwrap_or(nothing));
        }
        // A server from before aggregated discovery.
        let user = User::new("system:kube-aggregator", &[]);
        let path = registration.root();
        let answer = self
            .get(server, &path, "application/json", "", &user, DISCOVERY)
            .await?;
        if answer.code != StatusCode::OK {
            return Err(format!(
                "failed to download legacy discovery for {path}: {}",
                answer.code
            ));
        }
        let list: Value = serde_json::from_slice(&answer.body).map_err(|e| e.to_string())?;
        Ok(
            json!({"version": registration.version, "resources": crate::discovery::legacy::aggregated(&list)}),
        )
    }

    /// The index of its OpenAPI v3 documents, if it has one.
    async fn documents(&self, server: &Server) -> Option<Map<String, Value>> {
        let user = User::new("system:aggregator", &[]);
        let answer = self
            .get(server, "/openapi/v3", "", "", &user, DISCOVERY)
            .await
            .ok()?;
        if answer.code != StatusCode::OK {
            return None;
        }
        let mut index: Value = serde_json::from_slice(&answer.body).ok()?;
        match index["paths"].take() {
            Value::Object(paths) => Some(paths),
            _ => None,
        }
    }

    /// Reads its OpenAPI v2 document; whether that is news.
    pub async fn specify(&self, server: &Server) -> Result<bool, String> {
        let user = User::new("system:aggregator", &[]);
        let old = self.found.load().v2.clone();
        let etag = old.as_ref().map_or("", |old| old.tag.as_str());
        let answer = self
            .get(
                server,
                "/openapi/v2",
                "application/json",
                etag,
                &user,
                SPECIFICATION,
            )
            .await?;
        match answer.code {
            StatusCode::NOT_MODIFIED | StatusCode::NOT_FOUND => return Ok(false),
            StatusCode::OK => {}
            code => {
                return Err(format!(
                    "failed to retrieve openAPI spec, http error: {code}"
                ));
            }
        }
        let registration = self.registration();
        let body = answer.body;
        let prefix = format!("{}/", registration.root());
        let foreign = tokio::task::spawn_blocking(move || {
            Foreign::read(&body, &prefix, answer.etag).map_err(|e| e.to_string())
        })
        .await
        .map_err(|e| e.to_string())??;
        if old.as_ref().is_some_and(|old| old.tag == foreign.tag) {
            return Ok(false);
        }
        let known = self.found.load();
        self.found.store(Arc::new(Found {
            version: known.version.clone(),
            stale: known.stale,
            v3: known.v3.clone(),
            v2: Some(Arc::new(foreign)),
        }));
        Ok(true)
    }
}

fn speaking(registration: &Registration, certificate: Option<&Arc<ReloadingKey>>) -> Speaking {
    Transport::new(registration, certificate).map(Arc::new)
}

/// The version of a registration in a list of aggregated discovery.
fn version_of(list: &Value, registration: &Registration) -> Option<Value> {
    let groups = list["items"].as_array()?;
    let group = groups
        .iter()
        .find(|g| g["metadata"]["name"].as_str().unwrap_or_default() == registration.group)?;
    let versions = group["versions"].as_array()?;
    let mut version = versions
        .iter()
        .find(|v| v["version"] == registration.version.as_str())?
        .clone();
    version.as_object_mut()?.remove("freshness");
    // Some clients count on every response kind being there.
    for resource in version["resources"].as_array_mut().into_iter().flatten() {
        ensure_kind(resource);
        for sub in resource["subresources"]
            .as_array_mut()
            .into_iter()
            .flatten()
        {
            ensure_kind(sub);
        }
        if let Some(map) = resource.as_object_mut()
            && map.get("subresources").is_some_and(Value::is_null)
        {
            map.remove("subresources");
        }
    }
    Some(version)
}

fn ensure_kind(resource: &mut Value) {
    if let Some(map) = resource.as_object_mut()
        && !map.get("responseKind").is_some_and(Value::is_object)
    {
        map.insert(
            "responseKind".into(),
            json!({"group": "", "version": "", "kind": ""}),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_in_what_a_server_says_of_all() {
        let registration = Registration::read(
            &json!({"metadata": {"name": "v1.a.example"}, "spec": {"group": "a.example", "version": "v1"}}),
        );
        let list = json!({"items": [{"metadata": {"name": "b.example"}, "versions": []},
            {"metadata": {"name": "a.example"}, "versions": [{"version": "v1", "freshness": "Current", "resources": [{"resource": "foos"}]}]}]});
        assert_eq!(
            version_of(&list, &registration),
            Some(
                json!({"version": "v1", "resources": [{"resource": "foos", "responseKind": {"group": "", "version": "", "kind": ""}}]})
            )
        );
        assert_eq!(version_of(&json!({"items": []}), &registration), None);
    }
}
