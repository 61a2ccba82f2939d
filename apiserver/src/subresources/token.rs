//! `serviceaccounts/<name>/token`: TokenRequest.

use std::sync::Arc;

use keelson_admission::Operation;
use keelson_api::status::Status;
use keelson_schema::Schema;

use crate::negotiate::{Negotiated, Offers, View};
use crate::request::Request;
use crate::resources::Resource;
use crate::response::{self, ApiResult, Response};
use crate::server::Server;
use crate::verbs::admission::Write;
use crate::verbs::body::{self, Expected};
use crate::verbs::options::WriteOptions;

/// Answers POST of a TokenRequest.
pub async fn issue(
    server: &Arc<Server>,
    mut request: Request,
    resource: &Arc<Resource>,
) -> ApiResult<Response> {
    let agreed = request.negotiate(Offers::Objects)?;
    let options = WriteOptions::of(&request, false)?;
    let (group, version, kind) = ("authentication.k8s.io", "v1", "TokenRequest");
    let ty = Schema::builtin()
        .kind(group, version, kind)
        .ok_or_else(|| Status::internal("no type for TokenRequest"))?;
    let asked = body::read(
        &mut request,
        &Expected {
            group,
            version,
            kind,
            ty,
            custom: None,
        },
    )
    .await?;
    let (namespace, name) = (
        request.info.namespace.clone(),
        request.info.path_name().to_owned(),
    );
    let write = Write {
        server,
        request: &request,
        resource,
        kind: Some((group, version, kind)),
        namespace: &namespace,
        name: &name,
        options: options.to_value("CreateOptions"),
        dry_run: options.dry_run,
    };
    // NodeRestriction is among the plugins that admit: what kubelets may ask for is decided there.
    let mut admitted = write.admission(Operation::Create, Some(asked), None);
    write.admit(&mut admitted).await?;
    let asked = admitted.object.take().unwrap_or_default();
    let prepared = server
        .token_requests
        .prepare(server.lookup.as_ref(), &namespace, &name, asked)
        .await?;
    admitted.object = Some(prepared.request.clone());
    write.validate(&mut admitted).await?;
    let issued = server
        .token_requests
        .issue(server.lookup.as_ref(), prepared)
        .await?;
    request.warnings.extend(issued.warnings);
    tracing::debug!(
        namespace,
        name,
        credential = issued.credential_id,
        audit_id = request.audit_id,
        "token issued"
    );
    Ok(response::object(
        &Negotiated {
            view: View::Object,
            ..agreed
        },
        201,
        &issued.response,
    ))
}
