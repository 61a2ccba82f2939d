//! Finds out who sends the request; without valid credentials there is only 401 (but for the health paths).

use std::sync::Arc;

use super::{Next, audit};
use crate::negotiate::Negotiated;
use crate::request::Request;
use crate::response::{self, Response};
use crate::server::Server;

pub(super) async fn run(server: &Arc<Server>, mut request: Request, next: Next) -> Response {
    let asked = server
        .authenticator
        .authenticate(&request.peer.identity, &request.headers, request.uri.path())
        .await;
    match asked {
        Ok(found) => {
            request.warnings.extend(found.warning);
            request.user = found.user;
            server.authenticator.strip_credentials(&mut request.headers);
            next.call(server, request).await
        }
        Err(status) => {
            audit::refused(server, &mut request);
            response::error(&Negotiated::JSON, &status)
        }
    }
}
