//! PATCH in its four forms: JSON patch, merge patch, strategic merge patch and apply.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use keelson_api::field::{Error, Path};
use keelson_api::status::{Details, Qualified, Status};
use keelson_registry::Strategy;
use keelson_schema::patch::{self, PatchError};
use keelson_schema::{
    DecodeError, FieldValidation, MediaType, Schema, Type, decode_untyped, decode_value,
};
use serde_json::Value;

use crate::custom::Custom;
use crate::field_owner;
use crate::negotiate::{Offers, media_type};
use crate::objects::{self, Change, Current, Step, text};
use crate::request::{Request, Warnings};
use crate::resources::Resource;
use crate::response::{ApiResult, Response};
use crate::server::Server;
use crate::verbs::body;
use crate::verbs::create::{set_namespace, store_new};
use crate::verbs::get::namespace_of;
use crate::verbs::options::WriteOptions;
use crate::verbs::update::Replacing;
use crate::verbs::view;

/// The forms of a patch, as media types.
pub const PATCH_TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// A form of patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Upstream's, by the schema's merge keys.
    Strategic,
    /// Server-side apply.
    Apply,
}

impl Form {
    /// The form of a request's patch.
    pub fn of(request: &Request) -> ApiResult<Self> {
        let given = request
            .headers
            .get(CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .map(media_type)
            .unwrap_or_default();
        match given {
            "application/json-patch+json" => Ok(Form::Json),
            "application/merge-patch+json" => Ok(Form::Merge),
            "application/strategic-merge-patch+json" => Ok(Form::Strategic),
            "application/apply-patch+yaml" => Ok(Form::Apply),
            _ => {
                let mut status =
                    Status::failure(415, "UnsupportedMediaType", "415: Unsupported Media Type");
                status.details = Some(Details::default());
                Err(status)
            }
        }
    }
}

/// A patch as it was sent.
pub struct Patch {
    /// Its form.
    pub form: Form,
    bytes: Bytes,
    validation: FieldValidation,
}

impl Patch {
    /// Reads the patch of a request.
    pub async fn read(request: &mut Request) -> ApiResult<Self> {
        let form = Form::of(request)?;
        let validation = body::field_validation(request)?;
        let bytes = request.read_body().await?;
        request.audit.request_body(&bytes);
        Ok(Patch {
            form,
            validation,
            bytes,
        })
    }

    /// The object after the patch, decoded against its type again. Not for apply, which needs ownership.
    pub fn apply(&self, current: &Value, ty: &Type, warnings: &Warnings) -> ApiResult<Value> {
        let value = self.patched(current, ty)?;
        let shown = value.to_string();
        if let Some(why) = other_kind(&value, current) {
            return Err(undecodable(shown, &DecodeError::Value(why)));
        }
        let decoded =
            decode_value(value, ty, self.validation).map_err(|e| undecodable(shown, &e))?;
        warnings.extend(decoded.warnings);
        let mut object = decoded.object;
        for key in ["kind", "apiVersion"] {
            object[key] = current.get(key).cloned().unwrap_or_default();
        }
        Ok(object)
    }

    /// The same for a custom object, brought into form by its schema.
    fn apply_custom(
        &self,
        current: &Value,
        custom: &Custom,
        warnings: &Warnings,
    ) -> ApiResult<Value> {
        let mut object = self.patched(current, &Type::untyped())?;
        let shown = object.to_string();
        for key in ["kind", "apiVersion"] {
            object[key] = current.get(key).cloned().unwrap_or_default();
        }
        let odd = body::accepted(&mut object, custom, self.validation)
            .map_err(|e| undecodable(shown.clone(), &e))?;
        if self.validation == FieldValidation::Strict && !odd.is_empty() {
            return Err(undecodable(shown, &DecodeError::Strict(odd)));
        }
        warnings.extend(odd);
        Ok(object)
    }

    fn patched(&self, current: &Value, ty: &Type) -> ApiResult<Value> {
        let value = match self.form {
            Form::Json => patch::json(current, &self.bytes).map_err(|e| refused(&e))?,
            Form::Merge => {
                let mut value = current.clone();
                patch::merge(&mut value, &self.object()?);
                value
            }
            Form::Strategic => {
                patch::strategic(current, &self.object()?, ty).map_err(|e| refused(&e))?
            }
            Form::Apply => return Err(Status::unsupported_media_type(&PATCH_TYPES[..3])),
        };
        Ok(value)
    }

    fn object(&self) -> ApiResult<Value> {
        let bad = |why: String| Status::bad_request(format!("error decoding patch: {why}"));
        let decoded = decode_untyped(&self.bytes, MediaType::Json, FieldValidation::Ignore)
            .map_err(|e| match e {
                DecodeError::Json(why) => bad(why),
                other => bad(other.to_string()),
            })?;
        match decoded.object {
            object @ Value::Object(_) => Ok(object),
            Value::Array(_) => Err(bad(
                "json: cannot unmarshal array into Go value of type map[string]interface {}"
                    .to_owned(),
            )),
            _ => Err(bad("the patch is not an object".to_owned())),
        }
    }
}

/// A patch can't make a built-in object one of another kind: upstream's scheme doesn't know that either, as a rule.
fn other_kind(patched: &Value, current: &Value) -> Option<String> {
    let field = |object: &Value, key: &str| {
        let text = object.get(key).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    let (kind, version) = (field(patched, "kind"), field(patched, "apiVersion"));
    let (old_kind, old_version) = (field(current, "kind"), field(current, "apiVersion"));
    let (group, bare) = old_version.split_once('/').unwrap_or(("", &old_version));
    let builtin = Schema::builtin().kind(group, bare, &old_kind).is_some();
    let same = |new: &str, old: &str| new.is_empty() || new == old;
    if !builtin || (same(&kind, &old_kind) && same(&version, &old_version)) {
        return None;
    }
    let kind = if kind.is_empty() { old_kind } else { kind };
    Some(format!(
        r#"no kind {kind:?} is registered for version {version:?} in scheme "pkg/api/legacyscheme/scheme.go:30""#
    ))
}

fn undecodable(patched: String, error: &DecodeError) -> Status {
    Status::invalid(
        Qualified::new("", ""),
        "",
        &[Error::invalid(
            &Path::new("patch"),
            patched,
            error.to_string(),
        )],
    )
}

fn refused(error: &PatchError) -> Status {
    match error {
        PatchError::Invalid(why) => Status::bad_request(why.clone()),
        PatchError::TooManyOperations(_) => Status::request_entity_too_large(error),
        PatchError::NotApplicable(why) | PatchError::TestFailed(why) => {
            tracing::debug!(why, "a patch can't be applied");
            let mut status = Status::failure(
                422,
                "Invalid",
                "the server rejected our request due to an error in our request",
            );
            status.details = Some(Details::default());
            status
        }
        PatchError::Internal(why) => Status::failure(500, "", why.clone()),
    }
}

/// Answers PATCH. `strategy` is the kind's own or that of the subresource.
pub async fn patch(
    server: &Arc<Server>,
    mut request: Request,
    resource: &Arc<Resource>,
    strategy: &dyn Strategy,
) -> ApiResult<Response> {
    let agreed = request.negotiate(Offers::Views)?;
    if resource.custom.is_some() && matches!(Form::of(&request), Err(_) | Ok(Form::Strategic)) {
        let others = [PATCH_TYPES[0], PATCH_TYPES[1], PATCH_TYPES[3]];
        return Err(Status::unsupported_media_type(&others));
    }
    let patch = Patch::read(&mut request).await?;
    let apply = patch.form == Form::Apply;
    let options = WriteOptions::of(&request, apply)?;
    let name = request.info.path_name().to_owned();
    let namespace = namespace_of(resource, &request.info.namespace).to_owned();
    let replacing = Replacing {
        server,
        request: &request,
        resource,
        strategy,
        options: &options,
        options_kind: "PatchOptions",
        reserved: None,
    };
    let mut patching = Patching { replacing, patch };
    match objects::modify(
        server,
        resource,
        &namespace,
        &name,
        options.dry_run,
        &mut patching,
    )
    .await
    {
        // Apply makes what isn't there.
        Err(e) if e.is_not_found() && apply && request.info.subresource.is_empty() => {
            server.authorize(&request, "create")?;
            let object = patching.applied_to_nothing(&namespace, &name)?;
            let stored = store_new(server, &request, resource, object, &options).await?;
            view::answer(resource, &agreed, &request.query, 201, &stored)
        }
        changed => view::answer(resource, &agreed, &request.query, 200, &changed?.object),
    }
}

struct Patching<'a> {
    replacing: Replacing<'a>,
    patch: Patch,
}

impl Patching<'_> {
    fn applied(&self, live: Option<&Value>) -> ApiResult<Value> {
        let Replacing {
            resource,
            request,
            strategy,
            options,
            ..
        } = self.replacing;
        let config = field_owner::configuration(
            resource,
            &self.patch.bytes,
            self.patch.validation,
            request,
        )?;
        let mut object =
            self.replacing
                .owner()
                .apply(live, &config, field_owner::force(options))?;
        resource.fill_structs(&mut object);
        strategy.default(&mut object);
        Ok(object)
    }

    /// The object that apply makes where there is none.
    fn applied_to_nothing(&self, namespace: &str, name: &str) -> ApiResult<Value> {
        let resource = self.replacing.resource;
        let mut object = self.applied(None)?;
        if !text(&object, "uid").is_empty() {
            let why =
                "uid mismatch: the provided object specified uid, and no existing object was found";
            return Err(Status::conflict(resource.qualified(), name, why));
        }
        set_namespace(&mut object, resource, namespace)?;
        if !text(&object, "name").is_empty() {
            check_names(&object, name)?;
        }
        object["metadata"]["name"] = name.into();
        Ok(object)
    }
}

/// A patch can't rename the object.
fn check_names(object: &Value, name: &str) -> ApiResult<()> {
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

#[async_trait]
impl Step for Patching<'_> {
    async fn next(&mut self, current: &Current) -> ApiResult<Change> {
        let old = &current.object;
        let new = if self.patch.form == Form::Apply {
            self.applied(Some(old))?
        } else {
            let Replacing {
                resource,
                request,
                strategy,
                ..
            } = self.replacing;
            let mut new = match &resource.custom {
                Some(custom) => self.patch.apply_custom(old, custom, &request.warnings)?,
                None => self.patch.apply(old, &resource.ty, &request.warnings)?,
            };
            resource.fill_structs(&mut new);
            strategy.default(&mut new);
            self.replacing.owner().record(Some(old), &mut new);
            new
        };
        check_names(&new, text(old, "name"))?;
        if text(&new, "namespace") != text(old, "namespace") {
            return Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        self.replacing.change(current, new).await
    }

    async fn settled(&mut self, stored: bool) {
        self.replacing.settle(stored).await;
    }
}
