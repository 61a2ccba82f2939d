//! `audit.k8s.io/v1` Event, as it is written.

use std::collections::BTreeMap;

use keelson_auth::User;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::policy::{Level, Stage};

/// A moment as a MicroTime.
pub fn micro_time(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// One event.
#[derive(Debug, Clone, Default)]
pub struct Event {
    /// How much is recorded.
    pub level: Level,
    /// The request's identity.
    pub audit_id: String,
    /// How far the request has come.
    pub stage: Stage,
    /// Path and query.
    pub request_uri: String,
    /// The verb.
    pub verb: String,
    /// Who asked.
    pub user: UserInfo,
    /// Whom they acted as.
    pub impersonated_user: Option<UserInfo>,
    /// Where from.
    pub source_ips: Vec<String>,
    /// With what.
    pub user_agent: String,
    /// For which object.
    pub object_ref: Option<ObjectReference>,
    /// What came of it.
    pub response_status: Option<Value>,
    /// The request's body.
    pub request_object: Option<Value>,
    /// The answer's.
    pub response_object: Option<Value>,
    /// When it came.
    pub request_received_timestamp: String,
    /// When it got to the stage.
    pub stage_timestamp: String,
    /// What others had to say.
    pub annotations: BTreeMap<String, String>,
}

/// `authentication.k8s.io/v1` UserInfo.
#[derive(Debug, Clone, Default, Serialize)]
pub struct UserInfo {
    #[serde(skip_serializing_if = "String::is_empty")]
    username: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// Of a user.
    pub fn of(user: &User) -> Self {
        UserInfo {
            username: user.name.clone(),
            uid: user.uid.clone(),
            groups: user.groups.clone(),
            extra: user
                .extra
                .iter()
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
        }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.username
    }

    /// The groups.
    pub fn groups(&self) -> &[String] {
        &self.groups
    }
}

/// The object that a request is about.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectReference {
    /// The resource.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource: String,
    /// The namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// The name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The UID.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_group: String,
    /// The version.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_version: String,
    /// The resourceVersion that was sent.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    /// The subresource.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subresource: String,
}

/// The members in upstream's order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    kind: &'static str,
    api_version: &'static str,
    level: Level,
    #[serde(rename = "auditID")]
    audit_id: &'a str,
    stage: Stage,
    #[serde(rename = "requestURI")]
    request_uri: &'a str,
    verb: &'a str,
    user: &'a UserInfo,
    #[serde(skip_serializing_if = "Option::is_none")]
    impersonated_user: &'a Option<UserInfo>,
    #[serde(rename = "sourceIPs", skip_serializing_if = "<[_]>::is_empty")]
    source_ips: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    user_agent: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    object_ref: &'a Option<ObjectReference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_status: &'a Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_object: &'a Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_object: &'a Option<Value>,
    request_received_timestamp: &'a str,
    stage_timestamp: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Written {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level: self.level,
            audit_id: &self.audit_id,
            stage: self.stage,
            request_uri: &self.request_uri,
            verb: &self.verb,
            user: &self.user,
            impersonated_user: &self.impersonated_user,
            source_ips: &self.source_ips,
            user_agent: &self.user_agent,
            object_ref: &self.object_ref,
            response_status: &self.response_status,
            request_object: &self.request_object,
            response_object: &self.response_object,
            request_received_timestamp: &self.request_received_timestamp,
            stage_timestamp: &self.stage_timestamp,
            annotations: &self.annotations,
        }
        .serialize(serializer)
    }
}

impl Event {
    /// The line of the `legacy` format.
    pub fn legacy(&self) -> String {
        let listed = |groups: &[String]| {
            let quoted: Vec<String> = groups.iter().map(|g| format!("{g:?}")).collect();
            quoted.join(",")
        };
        let (mut user, mut groups) = ("<none>", "<none>".to_owned());
        if !self.user.username.is_empty() {
            user = &self.user.username;
            if !self.user.groups.is_empty() {
                groups = listed(&self.user.groups);
            }
        }
        let (mut as_user, mut as_groups) = ("<self>", "<lookup>".to_owned());
        if let Some(other) = &self.impersonated_user {
            as_user = &other.username;
            if !other.groups.is_empty() {
                as_groups = listed(&other.groups);
            }
        }
        let namespace = self
            .object_ref
            .as_ref()
            .map(|o| o.namespace.as_str())
            .filter(|n| !n.is_empty())
            .unwrap_or("<none>");
        let response = self
            .response_status
            .as_ref()
            .and_then(|s| s["code"].as_u64())
            .map_or("<deferred>".to_owned(), |code| code.to_string());
        let ip = self.source_ips.first().map_or("<unknown>", String::as_str);
        format!(
            "{} AUDIT: id={:?} stage={:?} ip={ip:?} method={:?} user={user:?} groups={groups:?} as={as_user:?} asgroups={as_groups:?} user-agent={:?} namespace={namespace:?} uri={:?} response=\"{response}\"",
            self.request_received_timestamp,
            self.audit_id,
            self.stage.as_str(),
            self.verb,
            self.user_agent,
            self.request_uri,
        )
    }
}
