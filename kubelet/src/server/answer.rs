//! Answers: bodies and the few forms that all handlers use.

use bytes::Bytes;
use futures::Stream;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;

/// A body of any kind.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// A whole body.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A body that comes bit by bit.
pub fn streamed(
    stream: impl Stream<Item = std::io::Result<Frame<Bytes>>> + Send + 'static,
) -> Body {
    StreamBody::new(stream).boxed_unsync()
}

fn with_type(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Plain text.
pub fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    with_type(status, "text/plain; charset=utf-8", full(text))
}

/// Plain text as it comes.
pub fn text_stream(body: Body) -> Response<Body> {
    with_type(StatusCode::OK, "text/plain", body)
}

/// JSON.
pub fn json(value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(bytes) => with_type(StatusCode::OK, "application/json", full(bytes)),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// Prometheus text.
pub fn prometheus(body: String) -> Response<Body> {
    with_type(
        StatusCode::OK,
        "text/plain; version=0.0.4; charset=utf-8",
        full(body),
    )
}

/// A page.
pub fn html(body: String) -> Response<Body> {
    with_type(StatusCode::OK, "text/html; charset=utf-8", full(body))
}

/// Nothing there.
pub fn not_found() -> Response<Body> {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}
