//! The server's own writes: through strategies and field ownership, past authorization and admission.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use keelson_api::status::Status;
use keelson_registry::{Context, rest};
use serde_json::{Value, json};

use crate::context;
use crate::error::from_store;
use crate::field_owner::Owner;
use crate::objects::{self, text};
use crate::resources::Resource;
use crate::response::ApiResult;
use crate::server::Server;
use keelson_auth::User;

/// Who owns the fields of start-up objects.
const MANAGER: &str = "kube-apiserver";
/// A pause before a write is tried again that failed for the store's sake.
const PAUSE: Duration = Duration::from_secs(1);

fn resource(server: &Server, id: &str) -> ApiResult<Arc<Resource>> {
    server
        .resources
        .cached_as(id)
        .ok_or_else(|| Status::internal(format!("no resource {id}")))
}

/// A new object, with defaults, metadata and ownership.
fn begun(resource: &Resource, mut object: Value, context: &Context<'_>) -> Value {
    resource.add_type_meta(&mut object);
    let strategy = &*resource.kind.strategy;
    strategy.default(&mut object);
    rest::fill_metadata(&mut object, context);
    Owner {
        resource,
        strategy,
        manager: MANAGER,
        subresource: "",
    }
    .record(None, &mut object);
    object
}

/// A new object, completed and checked as if a client had sent it.
pub fn completed(resource: &Resource, object: Value) -> ApiResult<Value> {
    let user = User::api_server();
    let context = Context {
        user: context::user(&user),
        ..Context::at(Timestamp::now())
    };
    let mut object = begun(resource, object, &context);
    rest::before_create(&resource.kind, &mut object, &context)?;
    keelson_schema::normalise(&mut object, &resource.ty);
    Ok(object)
}

/// Stores a new object.
pub async fn create(server: &Server, id: &str, object: Value) -> ApiResult<Value> {
    let resource = &resource(server, id)?;
    let user = User::api_server();
    let context = Context {
        now: Timestamp::now(),
        user: context::user(&user),
        families: &server.options.service_families,
    };
    let mut object = begun(resource, object, &context);
    let reserved = server
        .addresses
        .create(resource, &mut object, false)
        .await?;
    let stored = match rest::before_create(&resource.kind, &mut object, &context) {
        Ok(_) => {
            keelson_schema::normalise(&mut object, &resource.ty);
            objects::create(server, resource, object).await
        }
        Err(e) => Err(e),
    };
    server.addresses.settle(reserved, stored.is_ok()).await;
    stored
}

/// Replaces an object whose resourceVersion is still the one in `object`.
pub async fn update(server: &Server, id: &str, mut object: Value) -> ApiResult<Value> {
    let resource = &resource(server, id)?;
    let user = User::api_server();
    let context = Context {
        now: Timestamp::now(),
        user: context::user(&user),
        families: &server.options.service_families,
    };
    let (namespace, name) = (
        text(&object, "namespace").to_owned(),
        text(&object, "name").to_owned(),
    );
    let old = get(server, id, &namespace, &name)
        .await?
        .ok_or_else(|| Status::not_found(resource.qualified(), &name))?;
    if text(&old, "resourceVersion") != text(&object, "resourceVersion") {
        return Err(Status::modified(resource.qualified(), &name));
    }
    let strategy = &*resource.kind.strategy;
    strategy.default(&mut object);
    Owner {
        resource,
        strategy,
        manager: MANAGER,
        subresource: "",
    }
    .record(Some(&old), &mut object);
    rest::before_update(&resource.kind, strategy, &mut object, &old, &context)?;
    keelson_schema::normalise(&mut object, &resource.ty);
    keelson_schema::managed_fields::keep_times(&old, &mut object);
    if keelson_registry::access::same(&object, &old) {
        return Ok(old);
    }
    write(server, resource, &namespace, &name, object, &old).await
}

/// Applies a status in a manager's name, whoever else has set it.
pub async fn apply_status(
    server: &Server,
    id: &str,
    name: &str,
    manager: &str,
    status: Value,
) -> ApiResult<Value> {
    let resource = &resource(server, id)?;
    let old = get(server, id, "", name)
        .await?
        .ok_or_else(|| Status::not_found(resource.qualified(), name))?;
    let mut config = json!({"metadata": {"name": name}, "status": status});
    resource.add_type_meta(&mut config);
    let whole = &*resource.kind.strategy;
    let strategy = whole.subresource("status").unwrap_or(whole);
    let owner = Owner {
        resource,
        strategy,
        manager,
        subresource: "status",
    };
    let mut object = owner.apply(Some(&old), &config, true)?;
    let user = User::api_server();
    let context = Context {
        now: Timestamp::now(),
        user: context::user(&user),
        families: &server.options.service_families,
    };
    strategy.default(&mut object);
    rest::before_update(&resource.kind, strategy, &mut object, &old, &context)?;
    keelson_schema::normalise(&mut object, &resource.ty);
    keelson_schema::managed_fields::keep_times(&old, &mut object);
    if keelson_registry::access::same(&object, &old) {
        return Ok(old);
    }
    write(server, resource, "", name, object, &old).await
}

/// Replaces an object's status whose resourceVersion is still the one in `object`.
pub async fn update_status(server: &Server, id: &str, mut object: Value) -> ApiResult<Value> {
    let resource = &resource(server, id)?;
    let name = text(&object, "name").to_owned();
    let namespace = text(&object, "namespace").to_owned();
    let old = get(server, id, &namespace, &name)
        .await?
        .ok_or_else(|| Status::not_found(resource.qualified(), &name))?;
    if text(&old, "resourceVersion") != text(&object, "resourceVersion") {
        return Err(Status::modified(resource.qualified(), &name));
    }
    let whole = &*resource.kind.strategy;
    let strategy = whole.subresource("status").unwrap_or(whole);
    let user = User::api_server();
    let context = Context {
        now: Timestamp::now(),
        user: context::user(&user),
        families: &server.options.service_families,
    };
    strategy.default(&mut object);
    Owner {
        resource,
        strategy,
        manager: MANAGER,
        subresource: "status",
    }
    .record(Some(&old), &mut object);
    rest::before_update(&resource.kind, strategy, &mut object, &old, &context)?;
    keelson_schema::normalise(&mut object, &resource.ty);
    keelson_schema::managed_fields::keep_times(&old, &mut object);
    if keelson_registry::access::same(&object, &old) {
        return Ok(old);
    }
    write(server, resource, &namespace, &name, object, &old).await
}

async fn write(
    server: &Server,
    resource: &Resource,
    namespace: &str,
    name: &str,
    mut object: Value,
    old: &Value,
) -> ApiResult<Value> {
    let revision: u64 = text(old, "resourceVersion")
        .parse()
        .map_err(Status::internal)?;
    let bytes = resource.encode(&object).await?;
    let fail = |e| from_store(e, resource.qualified(), name);
    let revision = server
        .store
        .update(&resource.key(namespace, name), bytes, revision, None)
        .await
        .map_err(fail)?;
    object["metadata"]["resourceVersion"] = revision.to_string().into();
    Ok(object)
}

/// The object as the store has it.
pub async fn get(
    server: &Server,
    id: &str,
    namespace: &str,
    name: &str,
) -> ApiResult<Option<Value>> {
    let found = objects::live(server, &*resource(server, id)?, namespace, name).await?;
    Ok(found.map(|current| Value::clone(&current.object)))
}

/// Removes an object, if it is there.
pub async fn delete(server: &Server, id: &str, namespace: &str, name: &str) -> ApiResult<()> {
    let resource = &resource(server, id)?;
    match server
        .store
        .delete(&resource.key(namespace, name), None)
        .await
    {
        Ok(_) | Err(keelson_storage::StoreError::NotFound) => Ok(()),
        Err(e) => Err(from_store(e, resource.qualified(), name)),
    }
}

/// Creates an object unless it is there, trying again while the store is away.
pub async fn create_missing(server: &Arc<Server>, id: &str, object: Value) {
    retry(server, id, async || {
        if get(
            server,
            id,
            text(&object, "namespace"),
            text(&object, "name"),
        )
        .await?
        .is_some()
        {
            return Ok(());
        }
        match create(server, id, object.clone()).await {
            Err(e) if e.is_already_exists() => Ok(()),
            done => done.map(|_| ()),
        }
    })
    .await;
}

/// Does something until it succeeds, as start-up objects must be there in the end.
pub async fn retry<F: Future<Output = ApiResult<()>>>(
    server: &Server,
    what: &str,
    mut act: impl FnMut() -> F,
) {
    while !server.stop.is_cancelled() {
        match act().await {
            Ok(()) => return,
            Err(e) if e.code < 500 && !e.is_conflict() => {
                tracing::error!(what, error = %e, "a start-up object is refused");
                return;
            }
            Err(e) => {
                tracing::warn!(what, error = %e, "a start-up object could not be written, trying again")
            }
        }
        tokio::select! {
            () = server.stop.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}
