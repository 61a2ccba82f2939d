//! POST of an object.

use std::sync::Arc;

use jiff::Timestamp;
use keelson_admission::Operation;
use keelson_api::status::Status;
use keelson_registry::{Context, rest};
use serde_json::Value;

use crate::context;
use crate::field_owner::Owner;
use crate::negotiate::Offers;
use crate::objects::{self, text};
use crate::request::Request;
use crate::resources::Resource;
use crate::response::{ApiResult, Response};
use crate::server::Server;
use crate::verbs::admission::Write;
use crate::verbs::body::{self, Expected};
use crate::verbs::guard;
use crate::verbs::options::WriteOptions;
use crate::verbs::view;

/// How often another name is generated when one is taken.
const GENERATE_TRIES: usize = 8;

/// Answers POST.
pub async fn create(
    server: &Arc<Server>,
    mut request: Request,
    resource: &Arc<Resource>,
) -> ApiResult<Response> {
    let agreed = request.negotiate(Offers::Views)?;
    let options = WriteOptions::of(&request, false)?;
    let expected = Expected::of(resource);
    let mut object = body::read(&mut request, &expected).await?;
    set_namespace(&mut object, resource, &request.info.namespace)?;
    let generates = text(&object, "name").is_empty() && !text(&object, "generateName").is_empty();
    let mut tries = if generates && !options.dry_run {
        GENERATE_TRIES
    } else {
        1
    };
    loop {
        tries -= 1;
        match store_new(server, &request, resource, object.clone(), &options).await {
            Err(e) if e.is_already_exists() && generates => {
                if tries == 0 {
                    let name = text(&object, "generateName");
                    return Err(Status::generate_name_conflict(
                        resource.qualified(),
                        name,
                        1,
                    ));
                }
            }
            done => return view::answer(resource, &agreed, &request.query, 201, &done?),
        }
    }
}

/// The namespace in the path and the one in the object must be the same.
pub fn set_namespace(object: &mut Value, resource: &Resource, namespace: &str) -> ApiResult<()> {
    if !resource.kind.namespaced {
        // Upstream forgets a namespace here instead of refusing it.
        if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
            metadata.remove("namespace");
        }
        return Ok(());
    }
    match text(object, "namespace") {
        "" => {
            object["metadata"]["namespace"] = namespace.into();
            Ok(())
        }
        given if given == namespace => Ok(()),
        _ => Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        )),
    }
}

/// Takes a decoded object through defaults, ownership, admission, strategy and validation into the store.
pub async fn store_new(
    server: &Arc<Server>,
    request: &Request,
    resource: &Resource,
    mut object: Value,
    options: &WriteOptions,
) -> ApiResult<Value> {
    if !matches!(text(&object, "resourceVersion"), "" | "0") && !options.dry_run {
        return Err(Status::failure(
            500,
            "",
            "resourceVersion should not be set on objects to be created",
        ));
    }
    let families = &server.options.service_families;
    let user = context::user(&request.user);
    let context = Context {
        now: Timestamp::now(),
        user,
        families,
    };
    let strategy = &*resource.kind.strategy;
    if let Some(custom) = &resource.custom
        && custom.definition.terminating
    {
        let why = "create not allowed while custom resource definition is terminating";
        return Err(Status::forbidden(
            resource.qualified(),
            text(&object, "name"),
            why,
        ));
    }
    resource.fill_structs(&mut object);
    strategy.default(&mut object);
    rest::fill_metadata(&mut object, &context);
    let owner = Owner {
        resource,
        strategy,
        manager: &options.field_manager,
        subresource: "",
    };
    if !options.applied {
        owner.record(None, &mut object);
    }
    let name = text(&object, "name").to_owned();
    let namespace = text(&object, "namespace").to_owned();
    let write = Write {
        server,
        request,
        resource,
        kind: None,
        namespace: if resource.kind.is_namespace() {
            &name
        } else {
            &namespace
        },
        name: &name,
        options: options.to_value("CreateOptions"),
        dry_run: options.dry_run,
    };
    let mut admitted = write.admission(Operation::Create, Some(object), None);
    write.admit(&mut admitted).await?;
    let mut object = admitted.object.take().unwrap_or_default();
    let reserved = server
        .addresses
        .create(resource, &mut object, options.dry_run)
        .await?;
    admitted.object = Some(object);
    let stored = finish(&write, &mut admitted, &context).await;
    server.addresses.settle(reserved, stored.is_ok()).await;
    stored
}

/// The last steps of a new object: strategy, validation, storing.
async fn finish(
    write: &Write<'_>,
    admitted: &mut keelson_admission::Request,
    context: &Context<'_>,
) -> ApiResult<Value> {
    let (server, resource) = (write.server, write.resource);
    let mut object = admitted.object.take().unwrap_or_default();
    let warnings = rest::before_create(&resource.kind, &mut object, context)?;
    write.request.warnings.extend(warnings);
    keelson_schema::normalise(&mut object, &resource.ty);
    guard::rights(write.server, write.request, resource, &object, None)?;
    admitted.object = Some(object);
    write.validate(admitted).await?;
    let object = admitted.object.take().unwrap_or_default();
    if !write.dry_run {
        let namespace = text(&object, "namespace").to_owned();
        return match objects::create(server, resource, object).await {
            Err(e) if e.is_already_exists() => {
                let taken = server
                    .store
                    .get(&resource.key(&namespace, write.name))
                    .await;
                let entry = taken.ok().flatten();
                Err(if_ending(e, entry.as_ref().map(|e| &*e.value)))
            }
            done => done,
        };
    }
    let key = resource.key(text(&object, "namespace"), text(&object, "name"));
    let taken = server
        .store
        .get(&key)
        .await
        .map_err(|e| crate::error::from_store(e, resource.qualified(), write.name))?;
    match taken {
        Some(entry) => Err(if_ending(
            Status::already_exists(resource.qualified(), write.name),
            Some(&*entry.value),
        )),
        None => Ok(object),
    }
}

/// Says so where the object that has the name is on its way out.
fn if_ending(mut status: Status, stored: Option<&[u8]>) -> Status {
    let object: Value = stored
        .and_then(|bytes| serde_json::from_slice(bytes).ok())
        .unwrap_or_default();
    if !text(&object, "deletionTimestamp").is_empty() {
        status.message = format!("object is being deleted: {}", status.message);
    }
    status
}
