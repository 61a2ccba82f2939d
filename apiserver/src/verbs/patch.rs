//! PATCH in its four forms: JSON patch, merge patch, strategic merge patch and apply.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use keelson_api::field::{Error, Path};
use keelson_api::status::{Qualified, Status};
use keelson_registry::Strategy;
use keelson_schema::patch::{self, PatchError};
use keelson_schema::{DecodeError, FieldValidation, decode_value};
use serde_json::Value;

use crate::field_owner;
use crate::negotiate::{Offers, media_type};
use crate::objects::{self, Change, Current, Step, text};
use crate::request::Request;
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
            _ => Err(Status::unsupported_media_type(&PATCH_TYPES)),
        }
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
    let form = Form::of(&request)?;
    let options = WriteOptions::of(&request, form == Form::Apply)?;
    let validation = body::field_validation(&request)?;
    let bytes = request.read_body().await?;
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
    let mut patching = Patching {
        replacing,
        form,
        validation,
        patch: &bytes,
    };
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
        Err(e)
            if e.is_not_found() && form == Form::Apply && request.info.subresource.is_empty() =>
        {
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
    form: Form,
    validation: FieldValidation,
    patch: &'a Bytes,
}

impl Patching<'_> {
    /// The object after the patch, decoded against its type again.
    fn patched(&self, current: &Value) -> ApiResult<Value> {
        let fail = |e: PatchError| self.refused(&e);
        let value = match self.form {
            Form::Json => patch::json(current, self.patch).map_err(fail)?,
            Form::Merge => {
                let mut value = current.clone();
                patch::merge(&mut value, &self.patch_object()?);
                value
            }
            Form::Strategic => {
                patch::strategic(current, &self.patch_object()?, self.replacing.resource.ty)
                    .map_err(fail)?
            }
            Form::Apply => return Err(Status::internal("apply is no patch of a value")),
        };
        let decoded = decode_value(value, self.replacing.resource.ty, self.validation)
            .map_err(|e| self.undecodable(&e))?;
        self.replacing.request.warnings.extend(decoded.warnings);
        let mut object = decoded.object;
        self.replacing.resource.add_type_meta(&mut object);
        self.replacing.strategy.default(&mut object);
        Ok(object)
    }

    fn patch_object(&self) -> ApiResult<Value> {
        let value: Value = serde_json::from_slice(self.patch)
            .map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))?;
        if value.is_object() {
            Ok(value)
        } else {
            Err(Status::bad_request(
                "error decoding patch: the patch is not an object",
            ))
        }
    }

    fn refused(&self, error: &PatchError) -> Status {
        match error {
            PatchError::Invalid(why) => Status::bad_request(why.clone()),
            PatchError::TooManyOperations(_) => Status::request_entity_too_large(error),
            PatchError::NotApplicable(why) => Status::failure(
                422,
                "Invalid",
                format!("the server rejected our request due to an error in our request: {why}"),
            ),
            PatchError::Internal(why) => Status::internal(why),
        }
    }

    fn undecodable(&self, error: &DecodeError) -> Status {
        let text = String::from_utf8_lossy(self.patch);
        Status::invalid(
            Qualified::new("", ""),
            "",
            &[Error::invalid(&Path::new("patch"), text, error.to_string())],
        )
    }

    /// The object that apply makes where there is none.
    fn applied_to_nothing(&self, namespace: &str, name: &str) -> ApiResult<Value> {
        let config = field_owner::configuration(
            self.replacing.resource,
            self.patch,
            self.validation,
            self.replacing.request,
        )?;
        let mut object = self.replacing.owner().apply(
            None,
            &config,
            field_owner::force(self.replacing.options),
        )?;
        if !text(&object, "uid").is_empty() {
            let why =
                "uid mismatch: the provided object specified uid, and no existing object was found";
            return Err(Status::conflict(
                self.replacing.resource.qualified(),
                name,
                why,
            ));
        }
        set_namespace(&mut object, self.replacing.resource, namespace)?;
        check_names(&object, name)?;
        object["metadata"]["name"] = name.into();
        Ok(object)
    }
}

/// A patch can't rename the object.
fn check_names(object: &Value, name: &str) -> ApiResult<()> {
    match text(object, "name") {
        "" => Ok(()),
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
        let new = if self.form == Form::Apply {
            let config = field_owner::configuration(
                self.replacing.resource,
                self.patch,
                self.validation,
                self.replacing.request,
            )?;
            let mut new = self.replacing.owner().apply(
                Some(old),
                &config,
                field_owner::force(self.replacing.options),
            )?;
            self.replacing.strategy.default(&mut new);
            new
        } else {
            let mut new = self.patched(old)?;
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
