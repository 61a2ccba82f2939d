//! What an admission plugin is told about a write.

use std::collections::BTreeMap;
use std::sync::Arc;

use keelson_auth::{Qualified, Status, User};
use serde_json::Value;

/// How many characters are added to a `generateName`.
const GENERATED: usize = 5;

/// What is done to the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A new object, or a create on a subresource.
    Create,
    /// A changed object.
    Update,
    /// An object that goes.
    Delete,
    /// A connection to a subresource such as `pods/exec`.
    Connect,
}

impl Operation {
    /// Upstream's word, as in AdmissionReview.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// A group, version and kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Kind {
    /// The API group; empty for the core group.
    pub group: String,
    /// The version.
    pub version: String,
    /// The kind.
    pub kind: String,
}

/// A group, version and resource.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Resource {
    /// The API group; empty for the core group.
    pub group: String,
    /// The version.
    pub version: String,
    /// The plural.
    pub resource: String,
}

/// One write on its way to the store.
#[derive(Debug, Clone)]
pub struct Request {
    /// What is done.
    pub operation: Operation,
    /// The kind of the object (of a subresource: its own kind, as `Scale` or `Eviction`).
    pub kind: Kind,
    /// The resource.
    pub resource: Resource,
    /// The subresource, or empty.
    pub subresource: String,
    /// The namespace, or empty.
    pub namespace: String,
    /// The name; empty while a generated name is pending.
    pub name: String,
    /// The new object; none for deletes.
    pub object: Option<Value>,
    /// The object before; none for creates and connects.
    pub old_object: Option<Arc<Value>>,
    /// The CreateOptions, UpdateOptions, PatchOptions or DeleteOptions.
    pub options: Value,
    /// The caller.
    pub user: Arc<User>,
    /// Whether nothing must be stored.
    pub dry_run: bool,
    /// Warnings for the caller.
    pub warnings: Vec<String>,
    /// Annotations for the audit log.
    pub audit_annotations: BTreeMap<String, String>,
}

impl Request {
    /// Whether this is about a resource of a group, whatever the version, and about no subresource.
    pub fn is(&self, group: &str, resource: &str) -> bool {
        self.subresource.is_empty() && self.concerns(group, resource)
    }

    /// Whether this is about a resource of a group, or about one of its subresources.
    pub fn concerns(&self, group: &str, resource: &str) -> bool {
        self.resource.resource == resource && self.resource.group == group
    }

    /// The new object's value at a JSON pointer.
    pub fn at(&self, pointer: &str) -> Option<&Value> {
        self.object.as_ref()?.pointer(pointer)
    }

    /// The new object's string at a JSON pointer, or "".
    pub fn text(&self, pointer: &str) -> &str {
        self.at(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// The old object's value at a JSON pointer.
    pub fn old_at(&self, pointer: &str) -> Option<&Value> {
        self.old_object.as_ref()?.pointer(pointer)
    }

    /// The old object's string at a JSON pointer, or "".
    pub fn old_text(&self, pointer: &str) -> &str {
        self.old_at(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// A 403 on this request's object.
    pub fn forbidden(&self, why: impl std::fmt::Display) -> Status {
        Status::forbidden(self.qualified(), self.display_name(), why)
    }

    /// The resource with its group, as errors show it.
    pub fn qualified(&self) -> Qualified<'_> {
        Qualified::new(&self.resource.group, &self.resource.resource)
    }

    /// The name that errors show: the object's; while its name is generated, what it is generated from; or upstream's word for
    /// neither.
    pub fn display_name(&self) -> &str {
        let own = if self.name.is_empty() {
            self.text("/metadata/name")
        } else {
            &self.name
        };
        let stem = self.text("/metadata/generateName");
        let generated = self.operation == Operation::Create
            && !stem.is_empty()
            && own
                .strip_prefix(stem)
                .is_some_and(|rest| rest.len() == GENERATED);
        match (own, stem) {
            ("", "") => "Unknown",
            ("", stem) => stem,
            (_, stem) if generated => stem,
            (own, _) => own,
        }
    }
}
