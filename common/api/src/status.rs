//! The API's answer to what went wrong: `metav1.Status` with upstream's code, reason, message and details.
//!
//! Every error that leaves the API server is one of these; daemons use the same type to tell errors apart.
//! Which error a request deserves is left to whoever answers it.

use std::fmt;
use std::ops::{Deref, DerefMut};

use serde::{Deserialize, Serialize};

use crate::field;

/// A resource or kind with its group, written `deployments.apps`, or `pods` in the core group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Qualified<'a> {
    /// The API group; empty for the core group.
    pub group: &'a str,
    /// The resource's plural, or the kind.
    pub name: &'a str,
}

impl<'a> Qualified<'a> {
    /// `name` of `group`.
    #[must_use]
    pub const fn new(group: &'a str, name: &'a str) -> Qualified<'a> {
        Qualified { group, name }
    }
}

impl fmt::Display for Qualified<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() {
            f.write_str(self.name)
        } else {
            write!(f, "{}.{}", self.name, self.group)
        }
    }
}

/// A `metav1.Status`, boxed because it travels in every `Result` of the API server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Status(Box<Body>);

/// The fields of a [`Status`], in the order upstream writes them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Body {
    /// Always `Status`.
    pub kind: String,
    /// Always `v1`.
    pub api_version: String,
    /// Always empty, but for the continue token of an expired list.
    #[serde(default)]
    pub metadata: ListMeta,
    /// `Failure` or `Success`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// What went wrong, for a human.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What went wrong, for a program.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// More about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
    /// The HTTP status code.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub code: u16,
}

/// The list metadata that a Status carries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListMeta {
    /// A token with which an expired list can be continued inconsistently.
    #[serde(default, rename = "continue", skip_serializing_if = "String::is_empty")]
    pub continue_token: String,
}

/// What a [`Status`] is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    /// The object's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The API group.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// The resource, or for invalid objects the kind.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The object's UID.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The single causes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// After how many seconds to try again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u16,
}

/// One cause of a [`Status`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// A machine-readable reason.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The reason in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The field that caused it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(n: &u16) -> bool {
    *n == 0
}

impl Deref for Status {
    type Target = Body;
    fn deref(&self) -> &Body {
        &self.0
    }
}

impl DerefMut for Status {
    fn deref_mut(&mut self) -> &mut Body {
        &mut self.0
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Status {}

impl Status {
    /// A failure with a code, a reason and a message, and no details.
    pub fn failure(code: u16, reason: &str, message: impl Into<String>) -> Status {
        Status(Box::new(Body {
            kind: "Status".into(),
            api_version: "v1".into(),
            metadata: ListMeta::default(),
            status: "Failure".into(),
            message: message.into(),
            reason: reason.into(),
            details: None,
            code,
        }))
    }

    /// What a deletion answers where it has no object to return: `Success`, with what was deleted.
    #[must_use]
    pub fn deleted(resource: Qualified<'_>, name: &str, uid: &str) -> Status {
        let mut status = Status::failure(0, "", "");
        status.status = "Success".into();
        status.details = Some(Details {
            uid: uid.into(),
            ..about(resource, name)
        });
        status
    }

    /// A bare `Success` with a code, as the binding subresource answers.
    #[must_use]
    pub fn success(code: u16) -> Status {
        let mut status = Status::failure(code, "", "");
        status.status = "Success".into();
        status
    }

    fn with_details(mut self, details: Details) -> Status {
        self.details = Some(details);
        self
    }

    /// 404: no such object.
    #[must_use]
    pub fn not_found(resource: Qualified<'_>, name: &str) -> Status {
        Status::failure(
            404,
            "NotFound",
            format!("{resource} {} not found", field::quote(name)),
        )
        .with_details(about(resource, name))
    }

    /// 404: no such path at all.
    #[must_use]
    pub fn no_such_path() -> Status {
        Status::failure(
            404,
            "NotFound",
            "the server could not find the requested resource",
        )
        .with_details(Details::default())
    }

    /// 409: the name is taken.
    #[must_use]
    pub fn already_exists(resource: Qualified<'_>, name: &str) -> Status {
        Status::failure(
            409,
            "AlreadyExists",
            format!("{resource} {} already exists", field::quote(name)),
        )
        .with_details(about(resource, name))
    }

    /// 409: every name generated was taken.
    #[must_use]
    pub fn generate_name_conflict(resource: Qualified<'_>, name: &str, retry_after: u16) -> Status {
        let message = format!(
            "{resource} {} already exists, the server was not able to generate a unique name for the object",
            field::quote(name)
        );
        Status::failure(409, "AlreadyExists", message).with_details(Details {
            retry_after_seconds: retry_after,
            ..about(resource, name)
        })
    }

    /// 409: the object is not as the client thinks it is.
    pub fn conflict(resource: Qualified<'_>, name: &str, why: impl fmt::Display) -> Status {
        Status::failure(
            409,
            "Conflict",
            format!(
                "Operation cannot be fulfilled on {resource} {}: {why}",
                field::quote(name)
            ),
        )
        .with_details(about(resource, name))
    }

    /// 409: an update of an object that has changed since it was read.
    #[must_use]
    pub fn modified(resource: Qualified<'_>, name: &str) -> Status {
        Status::conflict(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 409: other managers own fields that an apply would change.
    pub fn apply_conflict(message: impl Into<String>, causes: Vec<Cause>) -> Status {
        Status::failure(409, "Conflict", message).with_details(Details {
            causes,
            ..Details::default()
        })
    }

    /// 422: the object breaks rules; a cause a field.
    #[must_use]
    pub fn invalid(kind: Qualified<'_>, name: &str, errors: &[field::Error]) -> Status {
        let quoted = field::quote(name);
        let message = if errors.is_empty() {
            format!("{kind} {quoted} is invalid")
        } else {
            format!("{kind} {quoted} is invalid: {}", field::aggregate(errors))
        };
        let causes = errors
            .iter()
            .map(|e| Cause {
                reason: e.kind.reason().into(),
                message: e.body(),
                field: e.field.clone(),
            })
            .collect();
        Status::failure(422, "Invalid", message).with_details(Details {
            causes,
            ..about(kind, name)
        })
    }

    /// 403: not allowed; `why` ends the sentence.
    pub fn forbidden(resource: Qualified<'_>, name: &str, why: impl fmt::Display) -> Status {
        let message = if resource.name.is_empty() && resource.group.is_empty() {
            format!("forbidden: {why}")
        } else if name.is_empty() {
            format!("{resource} is forbidden: {why}")
        } else {
            format!("{resource} {} is forbidden: {why}", field::quote(name))
        };
        Status::failure(403, "Forbidden", message).with_details(about(resource, name))
    }

    /// 401: who is asking is not known.
    #[must_use]
    pub fn unauthorized() -> Status {
        Status::failure(401, "Unauthorized", "Unauthorized")
    }

    /// 400: the request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Status {
        Status::failure(400, "BadRequest", message)
    }

    /// 405: this resource does not know the verb.
    #[must_use]
    pub fn method_not_supported(resource: Qualified<'_>, verb: &str) -> Status {
        Status::failure(
            405,
            "MethodNotAllowed",
            format!(
                "{verb} is not supported on resources of kind {}",
                field::quote(&resource.to_string())
            ),
        )
        .with_details(about(resource, ""))
    }

    /// 405: nothing at this path knows the method.
    #[must_use]
    pub fn method_not_allowed() -> Status {
        Status::failure(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
        .with_details(Details::default())
    }

    /// 406: none of the media types the client accepts can be had.
    #[must_use]
    pub fn not_acceptable(accepted: &[&str]) -> Status {
        Status::failure(
            406,
            "NotAcceptable",
            format!(
                "only the following media types are accepted: {}",
                accepted.join(", ")
            ),
        )
    }

    /// 415: the body's media type is not known here.
    #[must_use]
    pub fn unsupported_media_type(accepted: &[&str]) -> Status {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Status::failure(415, "UnsupportedMediaType", message)
    }

    /// 410: the revision asked for is no longer known.
    pub fn expired(message: impl Into<String>) -> Status {
        Status::failure(410, "Expired", message)
    }

    /// 410 of a watch that can't begin where it was asked to.
    #[must_use]
    pub fn too_old(requested: u64, oldest: u64) -> Status {
        Status::expired(format!("too old resource version: {requested} ({oldest})"))
    }

    /// 410 in the older form, as a watch event of an expired resource version has it.
    pub fn gone(message: impl Into<String>) -> Status {
        Status::failure(410, "Gone", message)
    }

    /// 504: a revision that is in the future.
    #[must_use]
    pub fn too_large_resource_version(requested: u64, current: u64, retry_after: u16) -> Status {
        let mut status = Status::timeout(
            format!("Too large resource version: {requested}, current: {current}"),
            retry_after,
        );
        if let Some(details) = &mut status.details {
            details.causes.push(Cause {
                reason: "ResourceVersionTooLarge".into(),
                message: "Too large resource version".into(),
                field: String::new(),
            });
        }
        status
    }

    /// 504: no answer in time; the request may still be carried out.
    pub fn timeout(message: impl fmt::Display, retry_after: u16) -> Status {
        Status::failure(504, "Timeout", format!("Timeout: {message}")).with_details(Details {
            retry_after_seconds: retry_after,
            ..Details::default()
        })
    }

    /// 500 that a client may try again.
    #[must_use]
    pub fn server_timeout(resource: Qualified<'_>, operation: &str, retry_after: u16) -> Status {
        let message = format!(
            "The {operation} operation against {resource} could not be completed at this time, please try again."
        );
        Status::failure(500, "ServerTimeout", message).with_details(Details {
            retry_after_seconds: retry_after,
            ..about(resource, operation)
        })
    }

    /// 429: try again later.
    pub fn too_many_requests(message: impl Into<String>, retry_after: u16) -> Status {
        Status::failure(429, "TooManyRequests", message).with_details(Details {
            retry_after_seconds: retry_after,
            ..Details::default()
        })
    }

    /// 503: not serving now.
    pub fn service_unavailable(message: impl Into<String>) -> Status {
        Status::failure(503, "ServiceUnavailable", message)
    }

    /// 500: a failure of ours.
    pub fn internal(why: impl fmt::Display) -> Status {
        let why = why.to_string();
        let cause = Cause {
            message: why.clone(),
            ..Cause::default()
        };
        Status::failure(
            500,
            "InternalError",
            format!("Internal error occurred: {why}"),
        )
        .with_details(Details {
            causes: vec![cause],
            ..Details::default()
        })
    }

    /// 413: the body is over the limit.
    pub fn request_entity_too_large(message: impl fmt::Display) -> Status {
        Status::failure(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: {message}"),
        )
    }

    /// Whether this says that an object does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.reason == "NotFound"
    }

    /// Whether this says that an object exists already.
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        self.reason == "AlreadyExists"
    }

    /// Whether this says that an object changed meanwhile.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.reason == "Conflict"
    }

    /// Adds a cause.
    #[must_use]
    pub fn with_cause(mut self, reason: &str, message: impl Into<String>, field: &str) -> Status {
        let cause = Cause {
            reason: reason.into(),
            message: message.into(),
            field: field.into(),
        };
        self.details
            .get_or_insert_with(Details::default)
            .causes
            .push(cause);
        self
    }
}

fn about(what: Qualified<'_>, name: &str) -> Details {
    Details {
        name: name.into(),
        group: what.group.into(),
        kind: what.name.into(),
        ..Details::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::{Error, Path};

    #[test]
    fn not_found_is_written_as_upstream_does() {
        let status = Status::not_found(Qualified::new("apps", "deployments"), "web");
        assert_eq!(
            serde_json::to_string(&status).unwrap(),
            concat!(
                r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"deployments.apps \"web\" not found","#,
                r#""reason":"NotFound","details":{"name":"web","group":"apps","kind":"deployments"},"code":404}"#
            )
        );
    }

    #[test]
    fn invalid_lists_a_cause_a_field() {
        let path = Path::new("spec");
        let status = Status::invalid(
            Qualified::new("", "Pod"),
            "p",
            &[Error::required(&path.child("containers"), "")],
        );
        assert_eq!(
            status.message,
            "Pod \"p\" is invalid: spec.containers: Required value"
        );
        let details = status.details.as_ref().unwrap();
        assert_eq!(details.causes[0].reason, "FieldValueRequired");
        assert_eq!(details.causes[0].field, "spec.containers");
        assert_eq!(status.code, 422);
    }

    #[test]
    fn forbidden_has_three_sentences() {
        assert_eq!(
            Status::forbidden(Qualified::new("", "pods"), "x", "no").message,
            "pods \"x\" is forbidden: no"
        );
        assert_eq!(
            Status::forbidden(Qualified::new("", "pods"), "", "no").message,
            "pods is forbidden: no"
        );
        assert_eq!(
            Status::forbidden(Qualified::new("", ""), "", "no").message,
            "forbidden: no"
        );
    }
}
