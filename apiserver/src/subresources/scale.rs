//! `scale`: the replicas of a workload as one small object.

use std::sync::Arc;

use async_trait::async_trait;
use keelson_api::status::Status;
use keelson_registry::scale;
use keelson_schema::Schema;
use serde_json::Value;

use crate::custom;
use crate::negotiate::{Negotiated, Offers, View};
use crate::objects::{self, Change, Current, Step};
use crate::request::Request;
use crate::resources::Resource;
use crate::response::{self, ApiResult, Response};
use crate::server::Server;
use crate::verbs::body::{self, Expected};
use crate::verbs::options::WriteOptions;
use crate::verbs::patch::{Form, Patch};
use crate::verbs::update::Replacing;
use crate::verbs::view;

/// What a write does to the Scale.
enum Edit {
    Replace(Value),
    Patch(Patch),
}

/// Answers GET, PUT and PATCH.
pub async fn serve(
    server: &Arc<Server>,
    mut request: Request,
    resource: &Arc<Resource>,
) -> ApiResult<Response> {
    let agreed = request.negotiate(Offers::Views)?;
    let (namespace, name) = (
        request.info.namespace.clone(),
        request.info.path_name().to_owned(),
    );
    let ty = Schema::builtin()
        .kind("autoscaling", "v1", "Scale")
        .ok_or_else(|| Status::internal("no type for Scale"))?;
    if request.info.verb == "get" {
        let entry = objects::fresh(server, resource, &namespace, &name).await?;
        resource.prepare(std::slice::from_ref(&entry)).await?;
        return answer(&agreed, &scale_of(resource, &resource.object(&entry)?)?);
    }
    let edit = if request.info.verb == "patch" {
        Edit::Patch(Patch::read(&mut request).await?)
    } else {
        let expected = Expected {
            group: "autoscaling",
            version: "v1",
            kind: "Scale",
            ty,
            custom: None,
        };
        Edit::Replace(body::read(&mut request, &expected).await?)
    };
    let apply = matches!(&edit, Edit::Patch(p) if p.form == Form::Apply);
    let options = WriteOptions::of(&request, apply)?;
    let options_kind = if request.info.verb == "patch" {
        "PatchOptions"
    } else {
        "UpdateOptions"
    };
    let replacing = Replacing {
        server,
        request: &request,
        resource,
        strategy: &*resource.kind.strategy,
        options: &options,
        options_kind,
        reserved: None,
    };
    let mut scaling = Scaling { replacing, edit };
    let changed = objects::modify(
        server,
        resource,
        &namespace,
        &name,
        options.dry_run,
        &mut scaling,
    )
    .await?;
    answer(&agreed, &scale_of(resource, &changed.object)?)
}

/// The Scale of an object: of custom ones by the paths that their definition names.
fn scale_of(resource: &Resource, object: &Value) -> ApiResult<Value> {
    match resource
        .custom
        .as_ref()
        .and_then(|c| c.version.scale.as_ref())
    {
        Some(paths) => custom::scale::of(object, paths),
        None => Ok(scale::of(object)),
    }
}

fn answer(agreed: &Negotiated, scale: &Value) -> ApiResult<Response> {
    let shown = match agreed.view {
        View::Partial(version) => view::partial(scale, version),
        View::Object | View::Table(_) => scale.clone(),
    };
    Ok(response::object(
        &Negotiated {
            view: View::Object,
            ..*agreed
        },
        200,
        &shown,
    ))
}

struct Scaling<'a> {
    replacing: Replacing<'a>,
    edit: Edit,
}

#[async_trait]
impl Step for Scaling<'_> {
    async fn next(&mut self, current: &Current) -> ApiResult<Change> {
        let resource = self.replacing.resource;
        let wanted = match &self.edit {
            Edit::Replace(scale) => scale.clone(),
            Edit::Patch(patch) => {
                let ty = Schema::builtin()
                    .kind("autoscaling", "v1", "Scale")
                    .ok_or_else(|| Status::internal("no type for Scale"))?;
                patch.apply(
                    &scale_of(resource, &current.object)?,
                    ty,
                    &self.replacing.request.warnings,
                )?
            }
        };
        let mut new = Value::clone(&current.object);
        match resource
            .custom
            .as_ref()
            .and_then(|c| c.version.scale.as_ref())
        {
            Some(paths) => custom::scale::apply(&mut new, &wanted, paths),
            None => scale::apply(&mut new, &wanted, resource.qualified())?,
        }
        new["metadata"]["resourceVersion"] = objects::text(&wanted, "resourceVersion").into();
        self.replacing
            .owner()
            .record(Some(&current.object), &mut new);
        self.replacing.change(current, new).await
    }

    async fn settled(&mut self, stored: bool) {
        self.replacing.settle(stored).await;
    }
}
