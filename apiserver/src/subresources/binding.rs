//! `pods/<name>/binding` and `bindings`: puts a pod on a node.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use keelson_admission::Operation;
use keelson_api::status::{Qualified, Status};
use keelson_registry::Context;
use keelson_registry::kinds::core::binding;
use keelson_schema::Schema;
use serde_json::Value;

use crate::negotiate::Offers;
use crate::objects::{self, Change, Current, Step, text};
use crate::request::Request;
use crate::resources::Resource;
use crate::response::{self, ApiResult, Response};
use crate::server::Server;
use crate::verbs::admission::Write;
use crate::verbs::body::{self, Expected};
use crate::verbs::create::set_namespace;
use crate::verbs::options::WriteOptions;

/// Answers POST of a Binding. `resource` is that of pods, or of bindings.
pub async fn bind(
    server: &Arc<Server>,
    mut request: Request,
    resource: &Arc<Resource>,
) -> ApiResult<Response> {
    let agreed = request.negotiate(Offers::Objects)?;
    let options = WriteOptions::of(&request, false)?;
    let ty = Schema::builtin()
        .kind("", "v1", "Binding")
        .ok_or_else(|| Status::internal("no type for Binding"))?;
    let mut object = body::read(
        &mut request,
        &Expected {
            group: "",
            version: "v1",
            kind: "Binding",
            ty,
            custom: None,
        },
    )
    .await?;
    set_namespace(&mut object, resource, &request.info.namespace)?;
    let name = match (request.info.path_name(), text(&object, "name")) {
        ("", given) => given.to_owned(),
        (path, given) if path == given => path.to_owned(),
        _ => {
            return Err(Status::bad_request(
                "name in URL does not match name in Binding object",
            ));
        }
    };
    object["metadata"]["name"] = name.clone().into();
    let errors = binding::validate(&object);
    if !errors.is_empty() {
        return Err(Status::invalid(
            Qualified::new("", "Binding"),
            &name,
            &errors,
        ));
    }
    let namespace = request.info.namespace.clone();
    let pods = server
        .resources
        .get("", "v1", "pods")
        .ok_or_else(Status::no_such_path)?;
    let write = Write {
        server,
        request: &request,
        resource,
        kind: Some(("", "v1", "Binding")),
        namespace: &namespace,
        name: &name,
        options: options.to_value("CreateOptions"),
        dry_run: options.dry_run,
    };
    let mut admitted = write.admission(Operation::Create, Some(object), None);
    write.admit(&mut admitted).await?;
    write.validate(&mut admitted).await?;
    let object = admitted.object.take().unwrap_or_default();
    objects::modify(
        server,
        &pods,
        &namespace,
        &name,
        options.dry_run,
        &mut Assigning { binding: &object },
    )
    .await?;
    let done = serde_json::to_value(Status::success(201)).map_err(Status::internal)?;
    Ok(response::object(&agreed, 201, &done))
}

struct Assigning<'a> {
    binding: &'a Value,
}

#[async_trait]
impl Step for Assigning<'_> {
    async fn next(&mut self, current: &Current) -> ApiResult<Change> {
        let mut pod = Value::clone(&current.object);
        binding::assign(&mut pod, self.binding, &Context::at(Timestamp::now()))?;
        Ok(Change::Write(pod))
    }
}
