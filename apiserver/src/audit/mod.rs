//! Audit: who asked what and what became of it, as a policy says, to a log or a webhook.
//!
//! A [`Record`] goes with each request; filters and verbs add to it what they know, and the audit filter hands it to the
//! sinks at its stages. Without a policy all of it costs a null pointer.

pub mod event;
pub mod log;
pub mod policy;
pub mod webhook;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderMap;
use keelson_auth::{Attributes, User};
use serde_json::Value;

use crate::following::Followed;
use event::{Event, ObjectReference, UserInfo, micro_time};
use policy::{Level, Policy, Stage};

/// Longer names of clients are cut.
const USER_AGENT: usize = 1024;

/// Takes events; answers whether the request may go on.
pub trait Sink: Send + Sync {
    /// Takes one event.
    fn take(&self, event: &Event) -> bool;
}

/// The policy in force and where events go.
pub struct Auditor {
    /// The policy.
    pub policy: Arc<Followed<Policy>>,
    /// The sinks.
    pub sinks: Vec<Arc<dyn Sink>>,
}

/// What is to be audited of one request; nothing, mostly.
#[derive(Clone, Default)]
pub struct Record(Option<Arc<Inner>>);

struct Inner {
    auditor: Arc<Auditor>,
    rule: policy::Decision,
    event: Mutex<Event>,
}

/// What a record begins with.
pub struct Start<'a> {
    /// As authorizers see the request.
    pub attributes: &'a Attributes,
    /// The request's identity.
    pub audit_id: &'a str,
    /// Its URI.
    pub uri: &'a http::Uri,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// The client's address.
    pub remote: IpAddr,
    /// When it came.
    pub received: jiff::Timestamp,
}

impl Auditor {
    /// Begins the record of a request; its level may be None.
    pub fn start(self: &Arc<Self>, start: &Start<'_>) -> Record {
        let policy = self.policy.current();
        let rule = policy.decide(start.attributes);
        if rule.level == Level::None {
            return Record(None);
        }
        let attributes = start.attributes;
        let uri = start.uri.path_and_query().map_or("/", |pq| pq.as_str());
        let event = Event {
            level: rule.level,
            audit_id: start.audit_id.to_owned(),
            request_uri: uri.to_owned(),
            verb: attributes.verb.clone(),
            user: UserInfo::of(&attributes.user),
            source_ips: source_ips(start.headers, start.remote),
            user_agent: user_agent(start.headers),
            object_ref: attributes.resource_request.then(|| ObjectReference {
                resource: attributes.resource.clone(),
                namespace: attributes.namespace.clone(),
                name: attributes.name.clone(),
                api_group: attributes.api_group.clone(),
                api_version: attributes.api_version.clone(),
                subresource: attributes.subresource.clone(),
                ..ObjectReference::default()
            }),
            request_received_timestamp: micro_time(start.received),
            ..Event::default()
        };
        Record(Some(Arc::new(Inner {
            auditor: self.clone(),
            rule,
            event: Mutex::new(event),
        })))
    }
}

impl Record {
    fn visit<T>(&self, change: impl FnOnce(&mut Event, &policy::Decision) -> T) -> Option<T> {
        let inner = self.0.as_ref()?;
        let mut event: MutexGuard<'_, Event> =
            inner.event.lock().unwrap_or_else(PoisonError::into_inner);
        Some(change(&mut event, &inner.rule))
    }

    /// Whether anything is recorded.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Whether the body of the answer is recorded.
    pub fn wants_response(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|inner| inner.rule.level == Level::RequestResponse)
    }

    fn wants_request(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|inner| inner.rule.level >= Level::Request)
    }

    /// Hands the event to the sinks at a stage, unless the policy omits it.
    pub fn stage(&self, stage: Stage) -> bool {
        let Some(inner) = &self.0 else { return true };
        if inner.rule.omits(stage) {
            return true;
        }
        let event = {
            let mut event = inner.event.lock().unwrap_or_else(PoisonError::into_inner);
            event.stage = stage;
            event.stage_timestamp = micro_time(jiff::Timestamp::now());
            event.clone()
        };
        // Every sink gets it, whatever the others say.
        inner
            .auditor
            .sinks
            .iter()
            .fold(true, |all, sink| sink.take(&event) && all)
    }

    /// Adds annotations; one that is there already stays.
    pub fn annotate<'a>(&self, annotations: impl IntoIterator<Item = (&'a str, String)>) {
        self.visit(|event, _| {
            for (key, value) in annotations {
                event.annotations.entry(key.to_owned()).or_insert(value);
            }
        });
    }

    /// Who the request goes on as.
    pub fn impersonated(&self, user: &User) {
        self.visit(|event, _| event.impersonated_user = Some(UserInfo::of(user)));
    }

    /// The object of a create or update.
    pub fn request_object(&self, object: &Value) {
        if !self.is_on() {
            return;
        }
        let body = self.wants_request();
        self.visit(|event, rule| {
            let reference = event.object_ref.get_or_insert_default();
            let metadata = object.get("metadata");
            let text = |field: &str| {
                metadata
                    .and_then(|m| m.get(field))
                    .and_then(Value::as_str)
                    .unwrap_or_default()
            };
            for (slot, field) in [
                (&mut reference.namespace, "namespace"),
                (&mut reference.name, "name"),
                (&mut reference.uid, "uid"),
                (&mut reference.resource_version, "resourceVersion"),
            ] {
                if slot.is_empty() {
                    text(field).clone_into(slot);
                }
            }
            if body {
                event.request_object = Some(trimmed(object, rule.omit_managed_fields));
            }
        });
    }

    /// A body as it was sent, JSON or YAML: a patch, the options of a deletion.
    pub fn request_body(&self, patch: &[u8]) {
        if !self.wants_request() {
            return;
        }
        let parsed = serde_json::from_slice(patch)
            .ok()
            .or_else(|| serde_norway::from_slice(patch).ok());
        self.visit(|event, _| event.request_object = parsed);
    }

    /// How the request was answered; `body` is the answer where it is an object.
    pub fn response(&self, code: u16, body: Option<Value>) {
        self.visit(|event, rule| {
            let mut status = serde_json::json!({"metadata": {}, "code": code});
            if let Some(found) = &body
                && found["kind"] == "Status"
            {
                for field in ["status", "message", "reason", "details"] {
                    if let Some(value) = found.get(field) {
                        status[field] = value.clone();
                    }
                }
            }
            event.response_status = Some(status);
            if rule.level == Level::RequestResponse {
                event.response_object = body.map(|b| trimmed(&b, rule.omit_managed_fields));
            }
        });
    }

    /// A failure with words of its own.
    pub fn failed(&self, code: u16, reason: &str, message: &str) {
        self.visit(|event, _| {
            let mut status = serde_json::json!({"metadata": {}, "status": "Failure", "message": message, "code": code});
            if !reason.is_empty() {
                status["reason"] = reason.into();
            }
            event.response_status = Some(status);
        });
    }

    /// Whether an answer has been recorded.
    pub fn is_answered(&self) -> bool {
        self.visit(|event, _| event.response_status.is_some())
            .unwrap_or(true)
    }
}

/// An object, without managed fields if they are not wanted.
fn trimmed(object: &Value, omit_managed_fields: bool) -> Value {
    let mut object = object.clone();
    if omit_managed_fields {
        without_managed_fields(&mut object);
        if let Some(items) = object.get_mut("items").and_then(Value::as_array_mut) {
            items.iter_mut().for_each(without_managed_fields);
        }
        if let Some(rows) = object.get_mut("rows").and_then(Value::as_array_mut) {
            rows.iter_mut()
                .filter_map(|row| row.get_mut("object"))
                .for_each(without_managed_fields);
        }
    }
    object
}

fn without_managed_fields(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}

fn user_agent(headers: &HeaderMap) -> String {
    let given = headers
        .get(http::header::USER_AGENT)
        .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
        .unwrap_or_default();
    if given.len() <= USER_AGENT {
        return given;
    }
    let mut end = USER_AGENT;
    while !given.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}...TRUNCATED", &given[..end])
}

/// Where the request came from: what proxies say, and the connection's own address last.
fn source_ips(headers: &HeaderMap, remote: IpAddr) -> Vec<String> {
    let text = |name: &str| {
        headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or("")
    };
    let mut ips: Vec<IpAddr> = text("x-forwarded-for")
        .split(',')
        .filter_map(|part| part.trim().parse().ok())
        .collect();
    if let Ok(real) = text("x-real-ip").parse()
        && !ips.contains(&real)
    {
        ips.push(real);
    }
    let remote = remote.to_canonical();
    if ips.last() != Some(&remote) {
        ips.push(remote);
    }
    ips.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_named_before_the_connections_address() {
        let mut headers = HeaderMap::new();
        let remote: IpAddr = "10.0.0.9".parse().unwrap();
        assert_eq!(source_ips(&headers, remote), ["10.0.0.9"]);
        headers.insert(
            "x-forwarded-for",
            "1.2.3.4, nonsense, 10.0.0.9".parse().unwrap(),
        );
        headers.insert("x-real-ip", "5.6.7.8".parse().unwrap());
        assert_eq!(
            source_ips(&headers, remote),
            ["1.2.3.4", "10.0.0.9", "5.6.7.8", "10.0.0.9"]
        );
    }
}
