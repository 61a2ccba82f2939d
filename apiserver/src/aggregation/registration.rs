//! An APIService, read once.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keelson_registry::access::Access;
use serde_json::{Value, json};

/// The Service that serves a group version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its port.
    pub port: u16,
}

impl ServiceRef {
    /// The name that its certificate must be for.
    pub fn server_name(&self) -> String {
        format!("{}.{}.svc", self.name, self.namespace)
    }
}

/// The condition `Available`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Condition {
    /// `True`, `False` or `Unknown`; empty if there is none yet.
    pub status: String,
    /// Why, in a word.
    pub reason: String,
    /// Why, in a sentence.
    pub message: String,
}

impl Condition {
    /// A condition that something is the matter with.
    pub fn failed(reason: &str, message: String) -> Self {
        Condition {
            status: "False".into(),
            reason: reason.into(),
            message,
        }
    }

    /// The condition of a server that answers.
    pub fn passed() -> Self {
        Condition {
            status: "True".into(),
            reason: "Passed".into(),
            message: "all checks passed".into(),
        }
    }

    /// Whether requests may be sent.
    pub fn is_true(&self) -> bool {
        self.status == "True"
    }

    /// Puts it into an APIService; the time of transition moves with the status.
    pub fn put(&self, object: &mut Value, now: &str) {
        if !object["status"]["conditions"].is_array() {
            object["status"] = json!({"conditions": []});
        }
        let Some(list) = object["status"]["conditions"].as_array_mut() else {
            return;
        };
        let old = list.iter_mut().find(|c| c["type"] == "Available");
        let since = match &old {
            Some(old) if old["status"] == self.status.as_str() => old["lastTransitionTime"].clone(),
            _ => now.into(),
        };
        let new = json!({"type": "Available", "status": self.status, "lastTransitionTime": since,
            "reason": self.reason, "message": self.message});
        match old {
            Some(old) => *old = new,
            None => list.push(new),
        }
    }
}

/// What an APIService says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// `version.group`.
    pub name: String,
    /// The group; empty for the core group.
    pub group: String,
    /// The version.
    pub version: String,
    /// How far in front the group stands.
    pub group_priority: i64,
    /// How far in front the version stands within the group.
    pub version_priority: i64,
    /// Who serves it; nobody else if there is none.
    pub service: Option<ServiceRef>,
    /// The CAs of its certificate, PEM; empty means the system's.
    pub ca_bundle: Vec<u8>,
    /// Whether its certificate is not to be checked.
    pub insecure: bool,
    /// Whether it can be used.
    pub condition: Condition,
}

impl Registration {
    /// Reads an APIService.
    pub fn read(object: &Value) -> Self {
        let spec = object.part("spec");
        let service = object.has("spec.service").then(|| {
            let service = spec.part("service");
            ServiceRef {
                namespace: service.text("namespace").to_owned(),
                name: service.text("name").to_owned(),
                port: u16::try_from(service.number("port")).unwrap_or(443),
            }
        });
        let condition = object
            .items("status.conditions")
            .iter()
            .find(|c| c.text("type") == "Available")
            .map(|c| Condition {
                status: c.text("status").to_owned(),
                reason: c.text("reason").to_owned(),
                message: c.text("message").to_owned(),
            });
        Registration {
            name: object.text("metadata.name").to_owned(),
            group: spec.text("group").to_owned(),
            version: spec.text("version").to_owned(),
            group_priority: spec.number("groupPriorityMinimum"),
            version_priority: spec.number("versionPriority"),
            service,
            // It was checked when it was stored; what isn't base64 is a bundle without certificates.
            ca_bundle: STANDARD.decode(spec.text("caBundle")).unwrap_or_default(),
            insecure: spec.flag("insecureSkipTLSVerify"),
            condition: condition.unwrap_or_default(),
        }
    }

    /// The path that all its requests begin with.
    pub fn root(&self) -> String {
        if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        }
    }

    /// Whether it is spoken to in the same way as another.
    pub fn is_reached_like(&self, other: &Registration) -> bool {
        self.service == other.service
            && self.ca_bundle == other.ca_bundle
            && self.insecure == other.insecure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_keep_the_time_of_their_transition() {
        let mut object = json!({"status": {"conditions": [
            {"type": "Other", "status": "True"},
            {"type": "Available", "status": "False", "lastTransitionTime": "then", "reason": "A", "message": "a"}]}});
        Condition::failed("B", "b".into()).put(&mut object, "now");
        assert_eq!(
            object["status"]["conditions"][1],
            json!({"type": "Available", "status": "False", "lastTransitionTime": "then", "reason": "B", "message": "b"})
        );
        Condition::passed().put(&mut object, "now");
        assert_eq!(
            object["status"]["conditions"][1]["lastTransitionTime"],
            "now"
        );
        let mut new = json!({});
        Condition::passed().put(&mut new, "now");
        assert_eq!(Registration::read(&new).condition, Condition::passed());
    }
}
