//! Lets who may impersonate act as somebody else, as the `Impersonate-*` headers say.

use std::sync::Arc;

use keelson_auth::impersonate;

use super::Next;
use crate::negotiate::Negotiated;
use crate::request::Request;
use crate::response::{self, Response};
use crate::server::Server;

pub(super) async fn run(server: &Arc<Server>, mut request: Request, next: Next) -> Response {
    match impersonate::resolve(server.authorizer.as_ref(), &request.user, &request.headers) {
        Ok(None) => {}
        Ok(Some(user)) => {
            tracing::debug!(by = request.user.name, user = user.name, "impersonation");
            request.audit.impersonated(&user);
            request.user = user;
            impersonate::strip(&mut request.headers);
        }
        Err(e) => return response::error(&Negotiated::JSON, &e),
    }
    next.call(server, request).await
}
