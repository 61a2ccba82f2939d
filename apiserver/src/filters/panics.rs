//! Turns a panic in a handler into a 500, so that neither the connection nor the process falls with it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use keelson_api::status::Status;

use super::Next;
use crate::negotiate::Negotiated;
use crate::request::Request;
use crate::response::{self, Response};
use crate::server::Server;

pub(super) async fn run(server: &Arc<Server>, request: Request, next: Next) -> Response {
    let what = format!("{} {}", request.method, request.uri.path());
    match AssertUnwindSafe(next.call(server, request))
        .catch_unwind()
        .await
    {
        Ok(response) => response,
        Err(_) => {
            // The panic hook has logged message and place.
            tracing::error!(request = what, "a handler panicked");
            let e = Status::internal(
                "this request caused apiserver to panic. Look in the logs for details",
            );
            response::error(&Negotiated::JSON, &e)
        }
    }
}
