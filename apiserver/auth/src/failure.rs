//! The refusals of authentication, authorization and admission, ready to become an API `Status`.

use serde_json::{Map, Value, json};

use crate::lookup::LookupError;

/// A refusal with everything that a `Status` shows.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The HTTP status code.
    pub code: u16,
    /// The machine-readable reason; empty where upstream gives none.
    pub reason: String,
    /// The sentence.
    pub message: String,
    /// The `details` of the Status, an object, or null.
    pub details: Value,
}

impl Failure {
    /// A refusal without details.
    pub fn new(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.to_owned(),
            message: message.into(),
            details: Value::Null,
        }
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403 on an object: `<resource> "<name>" is forbidden: <why>`. The resource carries its group after a dot.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: impl std::fmt::Display) -> Self {
        let message = if resource.is_empty() {
            format!("forbidden: {why}")
        } else if name.is_empty() {
            format!("{} is forbidden: {why}", qualified(group, resource))
        } else {
            format!(
                "{} \"{name}\" is forbidden: {why}",
                qualified(group, resource)
            )
        };
        Self {
            code: 403,
            reason: "Forbidden".into(),
            message,
            details: details(group, resource, name),
        }
    }

    /// 404 on an object.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        Self {
            code: 404,
            reason: "NotFound".into(),
            message: format!("{} \"{name}\" not found", qualified(group, resource)),
            details: details(group, resource, name),
        }
    }

    /// 409 on an object that changed meanwhile.
    pub fn conflict(group: &str, resource: &str, name: &str, why: impl std::fmt::Display) -> Self {
        Self {
            code: 409,
            reason: "Conflict".into(),
            message: format!(
                "Operation cannot be fulfilled on {} \"{name}\": {why}",
                qualified(group, resource)
            ),
            details: details(group, resource, name),
        }
    }

    /// 422 with causes.
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let sentences: Vec<String> = causes
            .iter()
            .map(|c| format!("{}: {}", c.field, c.message))
            .collect();
        let what = match sentences.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let mut details = details(group, kind, name);
        details["causes"] = causes
            .iter()
            .map(|c| json!({"reason": c.reason, "message": c.message, "field": c.field}))
            .collect::<Vec<_>>()
            .into();
        Self {
            code: 422,
            reason: "Invalid".into(),
            message: format!("{} \"{name}\" is invalid: {what}", qualified(group, kind)),
            details,
        }
    }

    /// 500.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        Self {
            code: 500,
            reason: "InternalError".into(),
            message: format!("Internal error occurred: {message}"),
            details: json!({"causes": [{"message": message.to_string()}]}),
        }
    }

    /// 503, worth trying again.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// Adds a cause to the details.
    #[must_use]
    pub fn with_cause(mut self, reason: &str, message: &str, field: &str) -> Self {
        if !self.details.is_object() {
            self.details = json!({});
        }
        let mut cause = Map::new();
        cause.insert("reason".into(), json!(reason));
        cause.insert("message".into(), json!(message));
        if !field.is_empty() {
            cause.insert("field".into(), json!(field));
        }
        match self.details.get_mut("causes").and_then(Value::as_array_mut) {
            Some(causes) => causes.push(Value::Object(cause)),
            None => self.details["causes"] = json!([cause]),
        }
        self
    }

    /// The `Status` object.
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": self.message,
        });
        if !self.reason.is_empty() {
            status["reason"] = json!(self.reason);
        }
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status["code"] = json!(self.code);
        status
    }
}

impl From<LookupError> for Failure {
    fn from(error: LookupError) -> Self {
        Self::internal(error)
    }
}

/// One field's error, as a Status lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// `FieldValueInvalid`, `FieldValueRequired`, …
    pub reason: String,
    /// The sentence after the field path.
    pub message: String,
    /// The path of the field.
    pub field: String,
}

impl Cause {
    /// `Invalid value: <value>: <why>`; the value is shown as JSON, which is how upstream quotes strings.
    pub fn invalid(field: &str, value: &Value, why: impl std::fmt::Display) -> Self {
        Self {
            reason: "FieldValueInvalid".into(),
            message: format!("Invalid value: {value}: {why}"),
            field: field.into(),
        }
    }

    /// `Required value: <why>`.
    pub fn required(field: &str, why: &str) -> Self {
        let message = if why.is_empty() {
            "Required value".to_owned()
        } else {
            format!("Required value: {why}")
        };
        Self {
            reason: "FieldValueRequired".into(),
            message,
            field: field.into(),
        }
    }

    /// `Forbidden: <why>`.
    pub fn forbidden(field: &str, why: &str) -> Self {
        Self {
            reason: "FieldValueForbidden".into(),
            message: format!("Forbidden: {why}"),
            field: field.into(),
        }
    }
}

fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() {
        resource.to_owned()
    } else {
        format!("{resource}.{group}")
    }
}

fn details(group: &str, kind: &str, name: &str) -> Value {
    let mut map = Map::new();
    for (key, value) in [("name", name), ("group", group), ("kind", kind)] {
        if !value.is_empty() {
            map.insert(key.into(), json!(value));
        }
    }
    Value::Object(map)
}
