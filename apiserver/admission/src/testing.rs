//! What the plugins' tests share: requests, and an environment of objects that a test names.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use keelson_auth::lookup::testing::Objects;
use keelson_auth::rbac::Index;
use keelson_auth::{Status, User};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::chain::{Environment, Plugin, Writer};
use crate::request::{Kind, Operation, Request, Resource};

/// A create as an ordinary user in the object's namespace, or in `ns` for objects without one.
pub fn create(group: &str, resource: &str, mut object: Value) -> Request {
    if object["metadata"]["namespace"].is_null() {
        object["metadata"]["namespace"] = json!("ns");
    }
    let text = |p: &str| {
        object
            .pointer(p)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    Request {
        operation: Operation::Create,
        kind: Kind {
            group: group.into(),
            version: "v1".into(),
            kind: text("/kind"),
        },
        resource: Resource {
            group: group.into(),
            version: "v1".into(),
            resource: resource.into(),
        },
        subresource: String::new(),
        namespace: text("/metadata/namespace"),
        name: text("/metadata/name"),
        object: Some(object),
        old_object: None,
        options: json!({}),
        user: Arc::new(User::new("jane", &["system:authenticated"])),
        dry_run: false,
        warnings: vec![],
        audit_annotations: BTreeMap::new(),
    }
}

/// An update from one object to another.
pub fn update(group: &str, resource: &str, old: Value, new: Value) -> Request {
    Request {
        operation: Operation::Update,
        old_object: Some(Arc::new(old)),
        ..create(group, resource, new)
    }
}

/// A deletion.
pub fn delete(group: &str, resource: &str, old: Value) -> Request {
    Request {
        operation: Operation::Delete,
        old_object: Some(Arc::new(old.clone())),
        object: None,
        ..create(group, resource, old)
    }
}

/// The same request by somebody else.
pub fn by(user: User, request: Request) -> Request {
    Request {
        user: Arc::new(user),
        ..request
    }
}

/// An environment with objects; the authorizer grants nothing.
pub fn environment(objects: &[(&str, Value)]) -> Environment {
    environment_with(objects, Arc::new(Index::new()))
}

/// An environment with objects and rights.
pub fn environment_with(objects: &[(&str, Value)], index: Arc<Index>) -> Environment {
    let store = Arc::new(Objects::default());
    for (resource, object) in objects {
        store.put(resource, object);
    }
    Environment {
        lookup: store.clone(),
        writer: Arc::new(Store {
            objects: store,
            versions: Mutex::new(0),
        }),
        authorizer: index,
    }
}

/// Runs a plugin as the chain does: admit, then validate.
pub async fn admit(
    plugin: &dyn Plugin,
    request: &mut Request,
    objects: &[(&str, Value)],
) -> Result<(), Status> {
    run(plugin, request, &environment(objects)).await
}

/// Runs a plugin in an environment.
pub async fn run(
    plugin: &dyn Plugin,
    request: &mut Request,
    environment: &Environment,
) -> Result<(), Status> {
    if plugin.handles(request) {
        plugin.admit(request, environment).await?;
        plugin.validate(request, environment).await?;
    }
    Ok(())
}

struct Store {
    objects: Arc<Objects>,
    versions: Mutex<u64>,
}

#[async_trait]
impl Writer for Store {
    async fn update_status(&self, resource: &str, mut object: Value) -> Result<Value, Status> {
        use keelson_auth::{Lookup, Qualified};
        let text = |p: &str| {
            object
                .pointer(p)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
        // Other writers get a turn between the read and the write, so that tests of conflicts see some.
        tokio::task::yield_now().await;
        let mut version = self.versions.lock();
        let current = self.objects.get(resource, &namespace, &name);
        let current =
            current.ok_or_else(|| Status::not_found(Qualified::new("", resource), &name))?;
        if current.pointer("/metadata/resourceVersion")
            != object.pointer("/metadata/resourceVersion")
        {
            return Err(Status::modified(Qualified::new("", resource), &name));
        }
        *version += 1;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        self.objects.put(resource, &object);
        Ok(object)
    }
}
