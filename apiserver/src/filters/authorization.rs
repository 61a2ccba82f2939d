//! Asks the authorizers whether the request may go on.

use std::sync::Arc;

use http::HeaderValue;
use keelson_api::status::{Qualified, Status};
use keelson_auth::{Attributes, Decision};

use super::Next;
use crate::negotiate::{Negotiated, Offers};
use crate::request::Request;
use crate::response::{self, Response};
use crate::server::Server;

/// Paths that everybody may read, even before there are any roles.
const ALWAYS_ALLOWED: [&str; 3] = ["/healthz", "/livez", "/readyz"];

pub(super) async fn run(server: &Arc<Server>, request: Request, next: Next) -> Response {
    if ALWAYS_ALLOWED.contains(&request.uri.path()) {
        note(&request, "allow", "");
        return next.call(server, request).await;
    }
    let attributes = attributes(&request);
    let answer = server.authorizer.authorize(&attributes);
    // Connecting to a pod changes it, whatever the method: a WebSocket begins with GET.
    let connects = !answer.allowed() || !is_connect_by_get(&request) || {
        let create = Attributes {
            verb: "create".into(),
            ..attributes.clone()
        };
        let allowed = server.authorizer.authorize(&create).allowed();
        if !allowed {
            return refuse(&request, &create, "");
        }
        allowed
    };
    if answer.decision == Decision::Allow && connects {
        note(&request, "allow", &answer.reason);
        return next.call(server, request).await;
    }
    refuse(&request, &attributes, &answer.reason)
}

/// What the authorizers are asked.
pub(crate) fn attributes(request: &Request) -> Attributes {
    let info = &request.info;
    if !info.is_resource {
        return Attributes {
            user: request.user.clone(),
            verb: info.verb.clone(),
            path: info.path.clone(),
            ..Attributes::default()
        };
    }
    let field_requirements = match info.verb.as_str() {
        "list" | "watch" | "deletecollection" => request
            .query
            .get("fieldSelector")
            .map(equalities)
            .unwrap_or_default(),
        _ => Vec::new(),
    };
    Attributes {
        user: request.user.clone(),
        verb: info.verb.clone(),
        api_group: info.group.clone(),
        api_version: info.version.clone(),
        resource: info.resource.clone(),
        subresource: info.subresource.clone(),
        namespace: info.namespace.clone(),
        name: info.name.clone(),
        path: info.path.clone(),
        resource_request: true,
        field_requirements,
    }
}

/// The equality terms of a field selector.
fn equalities(selector: &str) -> Vec<(String, String)> {
    selector
        .split(',')
        .filter(|term| !term.contains("!="))
        .filter_map(|term| term.split_once('='))
        .map(|(field, value)| {
            (
                field.trim().to_owned(),
                value.strip_prefix('=').unwrap_or(value).to_owned(),
            )
        })
        .collect()
}

fn is_connect_by_get(request: &Request) -> bool {
    let info = &request.info;
    info.is_resource
        && info.verb == "get"
        && info.group.is_empty()
        && info.resource == "pods"
        && matches!(info.subresource.as_str(), "exec" | "attach" | "portforward")
}

/// Says in the audit record what was decided.
fn note(request: &Request, decision: &str, reason: &str) {
    if request.audit.is_on() {
        request.audit.annotate([
            ("authorization.k8s.io/decision", decision.to_owned()),
            ("authorization.k8s.io/reason", reason.to_owned()),
        ]);
    }
}

fn refuse(request: &Request, attributes: &Attributes, reason: &str) -> Response {
    note(request, "forbid", reason);
    let sentence = attributes.forbidden_sentence(reason);
    let status = Status::forbidden(
        Qualified::new(&attributes.api_group, &attributes.resource),
        &attributes.name,
        sentence,
    );
    let agreed = request
        .negotiate(Offers::Objects)
        .unwrap_or(Negotiated::JSON);
    let mut response = response::error(&agreed, &status);
    response.headers_mut().insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_equalities_are_handed_to_authorizers() {
        assert_eq!(
            equalities("spec.nodeName=a,status.phase!=Running,metadata.name==b"),
            [
                ("spec.nodeName".to_owned(), "a".to_owned()),
                ("metadata.name".to_owned(), "b".to_owned())
            ]
        );
    }
}
