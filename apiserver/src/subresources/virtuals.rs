//! Resources that aren't stored: reviews, which are questions, and the states of components.

use std::sync::Arc;

use jiff::Timestamp;
use keelson_api::status::Status;
use keelson_auth::reviews;
use keelson_registry::rest;
use serde_json::json;

use crate::field_owner::Owner;
use crate::negotiate::Offers;
use crate::request::Request;
use crate::resources::Resource;
use crate::response::{ApiResult, Response};
use crate::server::Server;
use crate::verbs::body::{self, Expected};
use crate::verbs::create::set_namespace;
use crate::verbs::options::WriteOptions;
use crate::verbs::view;

/// Serves a resource that isn't stored.
pub async fn dispatch(
    server: &Arc<Server>,
    mut request: Request,
    resource: &Arc<Resource>,
) -> ApiResult<Response> {
    let kind = &resource.kind;
    if !kind.discovery_verbs().contains(&request.info.verb.as_str()) {
        return Err(Status::method_not_allowed());
    }
    if kind.plural == "componentstatuses" {
        return component_statuses(server, &request, resource).await;
    }
    if kind.plural == "bindings" {
        return super::binding::bind(server, request, resource).await;
    }
    let agreed = request.negotiate(Offers::Objects)?;
    let expected = Expected {
        group: &kind.group,
        version: &kind.version,
        kind: &kind.kind,
        ty: &resource.ty,
        custom: None,
    };
    let mut review = body::read(&mut request, &expected).await?;
    set_namespace(&mut review, resource, &request.info.namespace)?;
    let authorizer = server.authorizer.as_ref();
    if matches!(
        &*kind.plural,
        "selfsubjectaccessreviews"
            | "subjectaccessreviews"
            | "localsubjectaccessreviews"
            | "tokenreviews"
    ) {
        let options = WriteOptions::of(&request, false)?;
        let owner = Owner {
            resource,
            strategy: &*kind.strategy,
            manager: &options.field_manager,
            subresource: "",
        };
        owner.record(None, &mut review);
    }
    let answered = match &*kind.plural {
        "selfsubjectaccessreviews" => {
            reviews::self_subject_access(authorizer, &request.user, review)?
        }
        "selfsubjectrulesreviews" => {
            reviews::self_subject_rules(authorizer, &request.user, review)?
        }
        "subjectaccessreviews" => reviews::subject_access(authorizer, review)?,
        "localsubjectaccessreviews" => {
            reviews::local_subject_access(authorizer, &request.info.namespace, review)?
        }
        "selfsubjectreviews" => {
            reviews::self_subject(&request.user, review, &rest::timestamp(Timestamp::now()))?
        }
        "tokenreviews" => {
            reviews::token(
                server.authenticator.tokens(),
                &server.options.api_audiences,
                review,
            )
            .await?
        }
        _ => return Err(Status::no_such_path()),
    };
    view::answer(resource, &agreed, &request.query, 201, &answered)
}

/// ComponentStatus, which only knows etcd here: the other daemons are asked by nobody any more.
async fn component_statuses(
    server: &Server,
    request: &Request,
    resource: &Resource,
) -> ApiResult<Response> {
    let agreed = request.negotiate(Offers::Views)?;
    let healthy = server.store.current_revision().await;
    let condition = match healthy {
        Ok(_) => json!({"type": "Healthy", "status": "True", "message": "ok"}),
        Err(e) => json!({"type": "Healthy", "status": "False", "message": e.to_string()}),
    };
    let etcd = json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": "etcd-0"}, "conditions": [condition]});
    match request.info.path_name() {
        "" => {
            let list = json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": [etcd]});
            match agreed.view {
                crate::negotiate::View::Table(version) => {
                    let items = [etcd];
                    let table = view::table(
                        &resource.kind,
                        &items,
                        json!({}),
                        version,
                        view::Include::of(&request.query)?,
                        true,
                    );
                    Ok(crate::response::object(&agreed, 200, &table))
                }
                _ => Ok(crate::response::object(&agreed, 200, &list)),
            }
        }
        "etcd-0" => view::answer(resource, &agreed, &request.query, 200, &etcd),
        other => Err(Status::not_found(resource.qualified(), other)),
    }
}
