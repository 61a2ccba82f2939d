//! PUT of an object or of one of the subresources that are views of the whole object (`status` and its like).

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use keelson_admission::Operation;
use keelson_api::status::Status;
use keelson_registry::access::same;
use keelson_registry::{Context, Strategy, rest};
use keelson_schema::managed_fields;
use serde_json::Value;

use crate::addresses::Reserved;
use crate::context;
use crate::field_owner::Owner;
use crate::negotiate::Offers;
use crate::objects::{self, Change, Current, Step, text};
use crate::request::Request;
use crate::resources::Resource;
use crate::response::{ApiResult, Response};
use crate::server::Server;
use crate::verbs::admission::Write;
use crate::verbs::body::{self, Expected};
use crate::verbs::create::{set_namespace, store_new};
use crate::verbs::get::namespace_of;
use crate::verbs::guard;
use crate::verbs::options::{self, WriteOptions};
use crate::verbs::view;

/// Answers PUT. `strategy` is the kind's own or that of the subresource.
pub async fn update(
    server: &Arc<Server>,
    mut request: Request,
    resource: &Arc<Resource>,
    strategy: &dyn Strategy,
) -> ApiResult<Response> {
    let agreed = request.negotiate(Offers::Views)?;
    let options = WriteOptions::of(&request, false)?;
    let expected = Expected::of(resource);
    let mut object = body::read(&mut request, &expected).await?;
    let name = request.info.path_name().to_owned();
    check_name(&object, &name)?;
    set_namespace(&mut object, resource, &request.info.namespace)?;
    object["metadata"]["name"] = name.clone().into();
    resource.fill_structs(&mut object);
    strategy.default(&mut object);

    let namespace = namespace_of(resource, &request.info.namespace).to_owned();
    let replacing = Replacing {
        server,
        request: &request,
        resource,
        strategy,
        options: &options,
        options_kind: "UpdateOptions",
        reserved: None,
    };
    let mut put = Put {
        replacing,
        object: &object,
    };
    let changed = objects::modify(
        server,
        resource,
        &namespace,
        &name,
        options.dry_run,
        &mut put,
    )
    .await;
    match changed {
        Err(e)
            if e.is_not_found()
                && strategy.allow_create_on_update()
                && request.info.subresource.is_empty()
                && may_create(&object) =>
        {
            let mut fresh = object.clone();
            if let Some(metadata) = fresh.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("resourceVersion");
            }
            server.authorize(&request, "create")?;
            let stored = store_new(server, &request, resource, fresh, &options).await?;
            view::answer(resource, &agreed, &request.query, 201, &stored)
        }
        changed => view::answer(resource, &agreed, &request.query, 200, &changed?.object),
    }
}

fn may_create(object: &Value) -> bool {
    text(object, "uid").is_empty() && text(object, "resourceVersion").is_empty()
}

/// The name in the path and the one in the object must be the same.
fn check_name(object: &Value, name: &str) -> ApiResult<()> {
    match text(object, "name") {
        "" => Err(Status::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        ))),
        given if given == name => Ok(()),
        given => Err(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        ))),
    }
}

struct Put<'a> {
    replacing: Replacing<'a>,
    object: &'a Value,
}

#[async_trait]
impl Step for Put<'_> {
    async fn next(&mut self, current: &Current) -> ApiResult<Change> {
        let mut new = self.object.clone();
        self.replacing
            .owner()
            .record(Some(&current.object), &mut new);
        self.replacing.change(current, new).await
    }

    async fn settled(&mut self, stored: bool) {
        self.replacing.settle(stored).await;
    }
}

/// The way of a changed object from its decoded form to what is to be stored; shared by PUT and PATCH.
pub struct Replacing<'a> {
    /// The server.
    pub server: &'a Arc<Server>,
    /// The request.
    pub request: &'a Request,
    /// The resource.
    pub resource: &'a Resource,
    /// The kind's strategy or the subresource's.
    pub strategy: &'a dyn Strategy,
    /// The write's options.
    pub options: &'a WriteOptions,
    /// The kind of the options, for admission.
    pub options_kind: &'static str,
    /// What is reserved for the change that was decided last.
    pub reserved: Option<Reserved>,
}

impl Replacing<'_> {
    /// Who owns what the write sets.
    pub fn owner(&self) -> Owner<'_> {
        let subresource = self.request.info.subresource.as_str();
        Owner {
            resource: self.resource,
            strategy: self.strategy,
            manager: &self.options.field_manager,
            subresource,
        }
    }

    /// Decides what becomes of `current` when it is to be replaced by `new`.
    pub async fn change(&mut self, current: &Current, new: Value) -> ApiResult<Change> {
        let Replacing {
            server,
            request,
            resource,
            options,
            ..
        } = *self;
        let old = &current.object;
        let name = text(old, "name");
        let mut new = self.checked_version(current, new)?;
        let namespace = if resource.kind.is_namespace() {
            name
        } else {
            text(old, "namespace")
        };
        let write = Write {
            server,
            request,
            resource,
            kind: None,
            namespace,
            name,
            options: options.to_value(self.options_kind),
            dry_run: options.dry_run,
        };
        keelson_schema::normalise(&mut new, &resource.ty);
        let mut admitted = write.admission(Operation::Update, Some(new), Some(old.clone()));
        write.admit(&mut admitted).await?;
        let mut new = admitted.object.take().unwrap_or_default();
        let subresource = request.info.subresource.as_str();
        let reserved = server
            .addresses
            .update(resource, &mut new, old, subresource, options.dry_run)
            .await?;
        admitted.object = Some(new);
        let decided = self.finish(&write, &mut admitted, old).await;
        match decided {
            Ok(_) => self.reserved = Some(reserved),
            Err(_) => server.addresses.settle(reserved, false).await,
        }
        decided
    }

    /// The last steps of a changed object: strategy and validation.
    async fn finish(
        &self,
        write: &Write<'_>,
        admitted: &mut keelson_admission::Request,
        old: &Value,
    ) -> ApiResult<Change> {
        let Replacing {
            server,
            request,
            resource,
            strategy,
            ..
        } = *self;
        let mut new = admitted.object.take().unwrap_or_default();
        let context = Context {
            now: Timestamp::now(),
            user: context::user(&request.user),
            families: &server.options.service_families,
        };
        let warnings = rest::before_update(&resource.kind, strategy, &mut new, old, &context)?;
        request.warnings.extend(warnings);
        keelson_schema::normalise(&mut new, &resource.ty);
        guard::rights(server, request, resource, &new, Some(old))?;
        admitted.object = Some(new);
        write.validate(admitted).await?;
        let mut new = admitted.object.take().unwrap_or_default();
        if rest::deletion_complete(&resource.kind, &new, old) {
            return Ok(Change::Remove(new));
        }
        managed_fields::keep_times(old, &mut new);
        if same(&new, old) {
            Ok(Change::Keep(old.clone()))
        } else {
            Ok(Change::Write(new))
        }
    }

    /// Keeps or gives back what was reserved for the last change.
    pub async fn settle(&mut self, stored: bool) {
        if let Some(reserved) = self.reserved.take() {
            self.server.addresses.settle(reserved, stored).await;
        }
    }

    /// Checks uid and resourceVersion; without one the current is meant, where the kind allows that.
    fn checked_version(&self, current: &Current, mut new: Value) -> ApiResult<Value> {
        let (resource, old) = (self.resource, &current.object);
        let name = text(old, "name");
        let uid = text(&new, "uid");
        // A patch that changes the uid is invalid; only a replacement means it as a precondition.
        let replaces = self.options_kind != "PatchOptions";
        if replaces && !uid.is_empty() && uid != text(old, "uid") {
            let why = format!(
                "StorageError: invalid object, Code: 4, Key: {}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                resource.key(text(old, "namespace"), name),
                text(old, "uid")
            );
            return Err(Status::conflict(resource.qualified(), name, why));
        }
        match text(&new, "resourceVersion") {
            "" | "0" => {
                if !self.strategy.allow_unconditional_update() {
                    return Err(rest::resource_version_required(&resource.kind, name));
                }
                new["metadata"]["resourceVersion"] = current.revision.to_string().into();
            }
            given => {
                given
                    .parse::<u64>()
                    .map_err(|_| Status::failure(500, "", options::bad_number(given)))?;
                if given != text(old, "resourceVersion") {
                    return Err(Status::modified(resource.qualified(), name));
                }
            }
        }
        Ok(new)
    }
}
