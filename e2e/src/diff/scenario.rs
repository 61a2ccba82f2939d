//! What is sent: scenarios, each a course of requests in which later ones may use what earlier ones answered.
//!
//! `${name}` in a path or body stands for a value saved from an earlier answer of the same server, `{ns}` for the scenario's namespace.

use serde_json::Value;

/// A course of requests; scenarios run beside each other, requests of one after each other.
#[derive(Debug, Clone, Default)]
pub struct Scenario {
    /// Where it comes from: `apps/v1/deployments lifecycle`.
    pub name: String,
    /// Whether it needs a namespace of its own (`{ns}`).
    pub namespaced: bool,
    /// The requests.
    pub steps: Vec<Step>,
}

/// What a request carries.
#[derive(Debug, Clone, Default)]
pub enum Body {
    /// Nothing.
    #[default]
    None,
    /// An object, sent as JSON.
    Json(Value),
    /// Text as it stands.
    Text(String),
    /// Bytes as they stand.
    Bytes(Vec<u8>),
}

/// One request.
#[derive(Debug, Clone, Default)]
pub struct Step {
    /// What it tries.
    pub name: String,
    /// HTTP method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Content-Type, if there is a body.
    pub content_type: Option<String>,
    /// Other headers.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Body,
    /// Values to keep from the answer: name, JSON pointer.
    pub save: Vec<(String, String)>,
    /// How long to wait before it, in milliseconds.
    pub pause: u64,
    /// Whether the answers are compared; false for what only prepares.
    pub quiet: bool,
}

impl Step {
    /// A request without a body.
    pub fn new(name: &str, method: &str, path: &str) -> Self {
        Self {
            name: name.into(),
            method: method.into(),
            path: path.into(),
            ..Self::default()
        }
    }

    /// The same with a JSON body.
    pub fn json(name: &str, method: &str, path: &str, body: Value) -> Self {
        Self {
            body: Body::Json(body),
            content_type: Some("application/json".into()),
            ..Self::new(name, method, path)
        }
    }

    /// A patch of a media type: `json`, `merge`, `strategic` or `apply`.
    pub fn patch(name: &str, kind: &str, path: &str, body: Value) -> Self {
        let media_type = match kind {
            "json" => "application/json-patch+json",
            "merge" => "application/merge-patch+json",
            "strategic" => "application/strategic-merge-patch+json",
            _ => "application/apply-patch+yaml",
        };
        Self {
            content_type: Some(media_type.into()),
            ..Self::json(name, "PATCH", path, body)
        }
    }

    /// Keeps a value of the answer.
    #[must_use]
    pub fn keep(mut self, name: &str, pointer: &str) -> Self {
        self.save.push((name.into(), pointer.into()));
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Not compared.
    #[must_use]
    pub fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// Waits before it.
    #[must_use]
    pub fn after(mut self, milliseconds: u64) -> Self {
        self.pause = milliseconds;
        self
    }
}
