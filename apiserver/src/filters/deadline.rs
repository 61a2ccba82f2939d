//! Gives every request that isn't long-running a deadline, and answers 504 when it has passed.

use std::sync::Arc;
use std::time::Duration;

use keelson_api::status::Status;

use super::Next;
use crate::duration;
use crate::negotiate::Negotiated;
use crate::request::Request;
use crate::response::{self, Response};
use crate::server::Server;

pub(super) async fn run(server: &Arc<Server>, request: Request, next: Next) -> Response {
    if request.info.is_long_running() {
        return next.call(server, request).await;
    }
    let mut allowed = server.options.request_timeout;
    if let Some(asked) = request.query.non_empty("timeout") {
        match duration::parse(asked) {
            Some(asked) if asked > Duration::ZERO => allowed = allowed.min(asked),
            Some(_) => {}
            None => {
                let e = Status::bad_request(format!(
                    "invalid timeout specified in the request URL: time: invalid duration {asked:?}"
                ));
                return response::error(&Negotiated::JSON, &e);
            }
        }
    }
    match tokio::time::timeout(allowed, next.call(server, request)).await {
        Ok(response) => response,
        Err(_) => {
            let e = Status::timeout("request did not complete within the allotted timeout", 0);
            response::error(&Negotiated::JSON, &e)
        }
    }
}
