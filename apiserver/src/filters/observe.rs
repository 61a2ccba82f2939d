//! What is said about every request: its `Audit-ID`, its warnings, its metrics, and a line in the log for who wants it.

use std::sync::Arc;

use http::HeaderValue;
use tokio::time::Instant;

use super::Next;
use crate::request::Request;
use crate::response::{Response, add_warnings};
use crate::server::Server;

pub(super) async fn run(server: &Arc<Server>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let labels = server.metrics.labels(
        &request.info,
        is_apply(&request),
        request.query.has("dryRun"),
    );
    let warnings = request.warnings.clone();
    let audit_id = request.audit_id.clone();
    let (method, uri) = (request.method.clone(), request.uri.clone());

    let mut response = next.call(server, request).await;

    if let Ok(value) = HeaderValue::from_str(&audit_id) {
        response.headers_mut().insert("audit-id", value);
    }
    add_warnings(&mut response, &warnings.take());
    let code = response.status().as_u16();
    let took = start.elapsed();
    server.metrics.observe(&labels, code, took);
    tracing::debug!(verb = %method, uri = %uri.path(), code, audit_id, took_ms = took.as_secs_f64() * 1e3, "request");
    response
}

fn is_apply(request: &Request) -> bool {
    request
        .header("content-type")
        .is_some_and(|t| t.starts_with("application/apply-patch"))
}
