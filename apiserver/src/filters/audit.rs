//! Keeps the request's audit record: begins it, and closes it with how the request was answered.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{FutureExt, StreamExt};
use http::header::{ACCEPT_ENCODING, CONTENT_TYPE};
use keelson_api::status::Status;
use serde_json::Value;

use super::{Next, attributes};
use crate::audit::policy::Stage;
use crate::audit::{Record, Start};
use crate::body::Body;
use crate::negotiate::Negotiated;
use crate::request::Request;
use crate::response::{self, Response};
use crate::server::Server;

pub(super) async fn run(server: &Arc<Server>, mut request: Request, next: Next) -> Response {
    if !begin(server, &mut request) {
        return next.call(server, request).await;
    }
    let record = request.audit.clone();
    if !record.stage(Stage::RequestReceived) {
        let e = Status::internal("failed to store audit event");
        return response::error(&Negotiated::JSON, &e);
    }
    let is_long = request.info.is_long_running();
    if record.wants_response() && !is_long {
        // The body is read once more here: packed it would have to be unpacked.
        request.headers.remove(ACCEPT_ENCODING);
    }
    // A deadline further out may drop the request.
    let mut closing = Closing {
        record: record.clone(),
        done: false,
    };
    let answered = AssertUnwindSafe(next.call(server, request))
        .catch_unwind()
        .await;
    let mut response = match answered {
        Ok(response) => response,
        Err(panic) => {
            closing.done = true;
            record.failed(500, "InternalError", "APIServer panic'd");
            record.stage(Stage::Panic);
            std::panic::resume_unwind(panic);
        }
    };
    let code = response.status().as_u16();
    let body = if is_long && code < 400 {
        None
    } else {
        document(&response)
    };
    record.response(code, body);
    if is_long {
        record.stage(Stage::ResponseStarted);
        if let Body::Stream(stream) = response.body_mut() {
            // The record is closed with the stream.
            let stream = std::mem::replace(stream, Box::pin(futures::stream::empty()));
            *response.body_mut() = Body::stream(stream.inspect(move |_| {
                let _ = &closing;
            }));
            return response;
        }
    }
    drop(closing);
    response
}

/// Records a request whose credentials were refused, as one event.
pub(super) fn refused(server: &Arc<Server>, request: &mut Request) {
    if !begin(server, request) {
        return;
    }
    let tried = if request.headers.contains_key(http::header::AUTHORIZATION) {
        "Authentication failed, attempted: bearer"
    } else {
        "Authentication failed, no credentials provided"
    };
    request.audit.failed(401, "Unauthorized", tried);
    request.audit.stage(Stage::ResponseStarted);
}

/// Begins the record; whether there is anything to record.
fn begin(server: &Arc<Server>, request: &mut Request) -> bool {
    let Some(auditor) = &server.auditor else {
        return false;
    };
    request.audit = auditor.start(&Start {
        attributes: &attributes(request),
        audit_id: &request.audit_id,
        uri: &request.uri,
        headers: &request.headers,
        remote: request.peer.address.ip(),
        received: request.received,
    });
    request.audit.is_on()
}

/// Writes the last event when the request has ended, however it did.
struct Closing {
    record: Record,
    done: bool,
}

impl Drop for Closing {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        if !self.record.is_answered() {
            self.record.failed(
                504,
                "Timeout",
                "Timeout: request did not complete within the allotted timeout",
            );
        }
        self.record.stage(Stage::ResponseComplete);
    }
}

/// The object that an answer is, if it is one.
fn document(response: &Response) -> Option<Value> {
    let Body::Slices(slices) = response.body() else {
        return None;
    };
    let content_type = response.headers().get(CONTENT_TYPE)?.to_str().ok()?;
    let whole = gathered(slices.iter());
    match content_type.split(';').next()?.trim() {
        "application/json" => serde_json::from_slice(&whole).ok(),
        "application/yaml" => serde_norway::from_slice(&whole).ok(),
        "application/vnd.kubernetes.protobuf" => crate::protobuf::decode_any(&whole),
        _ => None,
    }
    .filter(Value::is_object)
}

fn gathered<'a>(slices: impl Iterator<Item = &'a Bytes>) -> BytesMut {
    let mut whole = BytesMut::new();
    for slice in slices {
        whole.extend_from_slice(slice);
    }
    whole
}
