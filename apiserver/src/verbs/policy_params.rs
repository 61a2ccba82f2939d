//! Who may let admission policies read parameters: their writer must be able to read all objects of the kind that is named, or the
//! policy would read them on the writer's behalf.

use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::status::{Qualified, Status};
use keelson_auth::Attributes;
use keelson_registry::access::{Access, same};
use serde_json::Value;

use crate::request::Request;
use crate::resources::Resource;
use crate::response::ApiResult;
use crate::server::Server;

/// Stands for every name, namespace and resource.
const ALL: &str = "*";

/// Checks a write of a policy; other resources of the group pass.
pub fn rights(
    server: &Server,
    request: &Request,
    resource: &Resource,
    object: &Value,
    old: Option<&Value>,
) -> ApiResult<()> {
    let policies = ["validatingadmissionpolicies", "mutatingadmissionpolicies"];
    let path = "spec.paramKind";
    if !policies.contains(&&*resource.kind.plural)
        || !request.info.subresource.is_empty()
        || !object.has(path)
        || old.is_some_and(|old| same(old.part(path), object.part(path)))
    {
        return Ok(());
    }
    let (api_version, kind) = (
        object.text("spec.paramKind.apiVersion"),
        object.text("spec.paramKind.kind"),
    );
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let attributes = Attributes {
        user: request.user.clone(),
        verb: "get".into(),
        api_group: group.into(),
        api_version: version.into(),
        resource: plural(server, group, version, kind),
        namespace: ALL.into(),
        name: ALL.into(),
        path: request.info.path.clone(),
        resource_request: true,
        ..Attributes::default()
    };
    if server.authorizer.authorize(&attributes).allowed() {
        return Ok(());
    }
    let mut errors = ErrorList::new();
    errors.push(Error::forbidden(
        &Path::new(path),
        format!(
            "user {} must have \"get\" permission on all objects of the referenced paramKind (kind={kind}, apiVersion={api_version})",
            request.user.name
        ),
    ));
    Err(Status::invalid(
        Qualified::new(&resource.kind.group, &resource.kind.kind),
        object.text("metadata.name"),
        &errors,
    ))
}

/// The resource of a kind; all of the group's where none is known.
fn plural(server: &Server, group: &str, version: &str, kind: &str) -> String {
    let built_in = keelson_registry::kinds::ALL
        .iter()
        .find(|k| {
            k.group == group
                && k.kind == kind
                && server.resources.get(group, version, &k.plural).is_some()
        })
        .map(|k| k.plural.to_string());
    built_in.unwrap_or_else(|| {
        server
            .lookup
            .list("customresourcedefinitions.apiextensions.k8s.io", "")
            .iter()
            .find(|d| d.text("spec.group") == group && d.text("spec.names.kind") == kind)
            .map_or_else(
                || ALL.to_owned(),
                |d| d.text("spec.names.plural").to_owned(),
            )
    })
}
