//! Admission webhooks: which of them a request concerns, the AdmissionReview they are asked, and what they answer.
//!
//! The two plugins differ only in what they do with an answer. What is left to others: conversion for `matchPolicy: Equivalent` beyond equal group and resource.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keelson_auth::{Lookup, Status};
use keelson_registry::access::Access;
use serde_json::Value;

use crate::chain::Environment;
use crate::request::Request;

pub(crate) mod conditions;
pub mod https;
pub(crate) mod matching;
pub(crate) mod review;

pub use https::Https;

use review::Answer;
pub(crate) use review::denial;

const DEFAULT_TIMEOUT: i64 = 10;
const LONGEST_TIMEOUT: i64 = 30;

/// Where a webhook listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The host to connect to: an address, or a name to resolve.
    pub host: String,
    /// The port to connect to.
    pub port: u16,
    /// The name that the certificate must be for.
    pub server_name: String,
    /// The path, and the query if there is one.
    pub path: String,
    /// The CAs, PEM; empty means the system's.
    pub ca_bundle: Vec<u8>,
}

impl Target {
    /// The URL, as errors show it.
    pub fn url(&self) -> String {
        format!("https://{}:{}{}", self.server_name, self.port, self.path)
    }
}

/// Posts reviews.
#[async_trait]
pub trait Caller: Send + Sync {
    /// The body of a 200 answer, or a sentence that says why there is none.
    async fn post(&self, target: &Target, body: Vec<u8>) -> Result<Vec<u8>, String>;
}

/// One webhook of a configuration.
#[derive(Debug, Clone)]
pub(crate) struct Hook {
    configuration: Arc<Value>,
    index: usize,
}

/// Why a webhook did not let a request pass.
#[derive(Debug)]
pub(crate) enum HookError {
    /// It could not be asked; the failure policy decides.
    Calling(String),
    /// It said no, or something else that is final.
    Final(Status),
}

/// Every webhook of a resource of configurations, in upstream's order: by configuration, then as listed.
pub(crate) fn hooks(lookup: &dyn Lookup, resource: &str) -> Vec<Hook> {
    let mut configurations = lookup.list(resource, "");
    configurations.sort_by(|a, b| a.text("metadata.name").cmp(b.text("metadata.name")));
    configurations
        .into_iter()
        .flat_map(|configuration| {
            let count = configuration.items("webhooks").len();
            (0..count).map(move |index| Hook {
                configuration: configuration.clone(),
                index,
            })
        })
        .collect()
}

/// Whether requests for a resource are ever shown to webhooks: those for the webhooks' own configurations are not, so that a
/// broken one can be mended.
pub(crate) fn concerns(request: &Request) -> bool {
    request.resource.group != "admissionregistration.k8s.io"
}

impl Hook {
    pub(crate) fn value(&self) -> &Value {
        &self.configuration.items("webhooks")[self.index]
    }

    pub(crate) fn name(&self) -> &str {
        self.value().text("name")
    }

    /// Tells this webhook from others, for the second round.
    pub(crate) fn id(&self) -> (String, usize) {
        (
            self.configuration.text("metadata.name").to_owned(),
            self.index,
        )
    }

    pub(crate) fn ignores_failure(&self) -> bool {
        self.value().text("failurePolicy") == "Ignore"
    }

    /// Whether the webhook wants to see the request.
    pub(crate) async fn matches(
        &self,
        request: &Request,
        environment: &Environment,
    ) -> Result<bool, Status> {
        if !matching::rules(self.value(), request) {
            return Ok(false);
        }
        if !matching::object(self.value(), request)? {
            return Ok(false);
        }
        if !matching::namespace(self.value(), request, environment.lookup.as_ref()).await? {
            return Ok(false);
        }
        conditions::matched(self.value(), request, &environment.authorizer)
    }

    /// Asks the webhook.
    pub(crate) async fn ask(
        &self,
        request: &Request,
        lookup: &dyn Lookup,
        caller: &dyn Caller,
        mutating: bool,
    ) -> Result<Answer, HookError> {
        let hook = self.value();
        if request.dry_run && !matches!(hook.text("sideEffects"), "None" | "NoneOnDryRun") {
            let why = format!(
                "admission webhook {:?} does not support dry run",
                self.name()
            );
            return Err(HookError::Final(Status::bad_request(why)));
        }
        if !hook
            .items("admissionReviewVersions")
            .iter()
            .any(|v| v == "v1")
        {
            return Err(HookError::Calling(
                "could not create admission objects: webhook does not accept known AdmissionReview versions (v1)".into(),
            ));
        }
        let seconds = hook
            .int("timeoutSeconds")
            .unwrap_or(DEFAULT_TIMEOUT)
            .clamp(1, LONGEST_TIMEOUT);
        let mut target = self.target(seconds).map_err(HookError::Calling)?;
        let uid = uuid::Uuid::new_v4().to_string();
        let body = review::request(request, &uid).to_string().into_bytes();
        let url = target.url();
        let failed = |why: String| {
            HookError::Calling(format!("failed to call webhook: Post {url:?}: {why}"))
        };
        let service = hook.part("clientConfig.service");
        if !service.is_null() {
            target.host = service_host(lookup, service, target.port)
                .await
                .map_err(failed)?;
        }
        let timeout = Duration::from_secs(seconds.unsigned_abs());
        let answer = tokio::time::timeout(timeout, caller.post(&target, body))
            .await
            .map_err(|_| failed("context deadline exceeded".into()))?
            .map_err(failed)?;
        review::response(&answer, &uid, mutating)
            .map_err(|why| HookError::Calling(format!("received invalid webhook response: {why}")))
    }

    /// What the failure of a call means under `failurePolicy: Fail`.
    pub(crate) fn failure(&self, why: &str) -> Status {
        Status::internal(format!("failed calling webhook {:?}: {why}", self.name()))
    }

    fn target(&self, seconds: i64) -> Result<Target, String> {
        target(self.value().part("clientConfig"), seconds)
    }
}

/// Finds the address of a target that is a Service.
pub async fn locate(
    target: &mut Target,
    config: &Value,
    lookup: &dyn Lookup,
) -> Result<(), String> {
    let service = config.part("service");
    if !service.is_null() {
        target.host = service_host(lookup, service, target.port).await?;
    }
    Ok(())
}

/// Where a `clientConfig` leads; a Service is still to be [located](locate).
pub fn target(config: &Value, seconds: i64) -> Result<Target, String> {
    use base64::Engine;
    let ca_bundle = base64::engine::general_purpose::STANDARD
        .decode(config.text("caBundle"))
        .map_err(|e| format!("could not get REST client: caBundle: {e}"))?;
    let with_timeout = |path: &str| {
        let separator = if path.contains('?') { '&' } else { '?' };
        format!("{path}{separator}timeout={seconds}s")
    };
    if config.has("service") {
        let service = config.part("service");
        let (namespace, name) = (service.text("namespace"), service.text("name"));
        let port = service
            .int("port")
            .and_then(|p| u16::try_from(p).ok())
            .unwrap_or(443);
        let path = service.text("path");
        return Ok(Target {
            // Found when it is called.
            host: String::new(),
            port,
            server_name: format!("{name}.{namespace}.svc"),
            path: with_timeout(if path.is_empty() { "/" } else { path }),
            ca_bundle,
        });
    }
    let url = config.text("url");
    let (host, port, path) =
        split_url(url).ok_or_else(|| format!("could not get REST client: bad URL {url:?}"))?;
    Ok(Target {
        server_name: host.clone(),
        host,
        port,
        path: with_timeout(&path),
        ca_bundle,
    })
}

/// The cluster IP of a Service that serves the port.
async fn service_host(lookup: &dyn Lookup, reference: &Value, port: u16) -> Result<String, String> {
    let (namespace, name) = (reference.text("namespace"), reference.text("name"));
    let found = match lookup.get("services", namespace, name) {
        Some(service) => Some(service),
        None => lookup
            .live("services", namespace, name)
            .await
            .map_err(|e| e.to_string())?,
    };
    let service = found.ok_or_else(|| format!("service {name:?} not found"))?;
    if service.text("spec.type") == "ExternalName" {
        return Ok(service.text("spec.externalName").to_owned());
    }
    let ip = service.text("spec.clusterIP");
    if ip.is_empty() || ip == "None" {
        return Err(format!("no cluster IP for service {name:?}"));
    }
    let serves = |p: &Value| p.number("port") == i64::from(port);
    if !service.items("spec.ports").iter().any(serves) {
        return Err(format!("no service port {port} found for service {name:?}"));
    }
    Ok(ip.to_owned())
}

/// Host, port and path of an `https` URL.
fn split_url(url: &str) -> Option<(String, u16, String)> {
    let uri: http::Uri = url.parse().ok()?;
    if uri.scheme_str() != Some("https") {
        return None;
    }
    let path = uri
        .path_and_query()
        .map_or("/", http::uri::PathAndQuery::as_str);
    let host = uri
        .host()?
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    Some((host, uri.port_u16().unwrap_or(443), path.to_owned()))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use keelson_auth::lookup::testing::Objects;
    use parking_lot::Mutex;
    use serde_json::json;

    use super::*;

    type Script = Box<dyn Fn(&Value) -> Value + Send + Sync>;

    /// Webhooks that answer by functions of the request, by path.
    #[derive(Default)]
    pub struct Scripted {
        scripts: BTreeMap<String, Script>,
        pub calls: Mutex<Vec<String>>,
    }

    impl Scripted {
        pub fn with(
            mut self,
            path: &str,
            answer: impl Fn(&Value) -> Value + Send + Sync + 'static,
        ) -> Self {
            self.scripts.insert(path.to_owned(), Box::new(answer));
            self
        }
    }

    #[async_trait]
    impl Caller for Scripted {
        async fn post(&self, target: &Target, body: Vec<u8>) -> Result<Vec<u8>, String> {
            let path = target.path.split('?').next().unwrap_or_default().to_owned();
            self.calls.lock().push(path.clone());
            let review: Value = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
            let script = self.scripts.get(&path).ok_or("connection refused")?;
            let mut response = script(&review["request"]);
            if response == "hang" {
                std::future::pending::<()>().await;
            }
            response["uid"] = review["request"]["uid"].clone();
            let answer = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
            Ok(answer.to_string().into_bytes())
        }
    }

    /// A webhook on all configmaps, at a path.
    pub fn hook(path: &str, more: Value) -> Value {
        let mut hook = json!({"name": format!("{}.example.com", path.trim_start_matches('/')),
            "clientConfig": {"url": format!("https://hooks.example.com{path}")},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["configmaps"], "scope": "*"}],
            "admissionReviewVersions": ["v1"], "sideEffects": "None", "timeoutSeconds": 1, "failurePolicy": "Fail"});
        if let (Some(to), Some(from)) = (hook.as_object_mut(), more.as_object()) {
            to.extend(from.clone());
        }
        hook
    }

    #[test]
    fn urls_are_split() {
        assert_eq!(
            split_url("https://a.b:8443/x?y=1"),
            Some(("a.b".into(), 8443, "/x?y=1".into()))
        );
        assert_eq!(
            split_url("https://[::1]/"),
            Some(("::1".into(), 443, "/".into()))
        );
        assert_eq!(split_url("http://a/"), None);
    }

    #[tokio::test]
    async fn services_are_found_by_their_cluster_ip() {
        let objects = Objects::default();
        objects.put(
            "services",
            &json!({"metadata": {"namespace": "ns", "name": "hook"}, "spec": {"clusterIP": "10.96.0.9", "ports": [{"port": 443}]}}),
        );
        let named = |name: &str| json!({"namespace": "ns", "name": name});
        let found = service_host(&objects, &named("hook"), 443).await;
        assert_eq!(found.as_deref(), Ok("10.96.0.9"));
        assert!(service_host(&objects, &named("hook"), 80).await.is_err());
        let missing = service_host(&objects, &named("none"), 443).await;
        assert_eq!(missing.unwrap_err(), "service \"none\" not found");
    }
}
