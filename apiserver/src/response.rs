//! Writing answers: objects, lists of pre-encoded slices and errors in the agreed encoding.

use std::collections::VecDeque;
use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, VARY};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::Value;

use crate::body::Body;
use keelson_api::status::Status;

use crate::negotiate::{Encoding, Negotiated};

/// Result of whatever serves a request; an error is answered as it is.
pub type ApiResult<T> = Result<T, Status>;

/// An answer.
pub type Response = http::Response<Body>;

/// Answers smaller than this are sent as they are.
const GZIP_FROM: usize = 128 * 1024;

/// A status code known to be valid.
pub fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// An answer with a body of a media type.
pub fn with_type(code: u16, content_type: &str, body: impl Into<Body>) -> Response {
    let mut response = http::Response::new(body.into());
    *response.status_mut() = status(code);
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    if let Ok(value) = HeaderValue::from_str(content_type) {
        headers.insert(CONTENT_TYPE, value);
    }
    response
}

/// Plain text.
pub fn text(code: u16, body: impl Into<Body>) -> Response {
    with_type(code, "text/plain; charset=utf-8", body)
}

/// Any serialisable document as JSON, whatever was negotiated.
pub fn json(code: u16, document: &impl Serialize) -> Response {
    match serde_json::to_vec(document) {
        Ok(bytes) => with_type(code, "application/json", bytes),
        Err(e) => error(&Negotiated::JSON, &Status::internal(e)),
    }
}

/// An object in the agreed encoding.
pub fn object(agreed: &Negotiated, code: u16, object: &Value) -> Response {
    match encode(agreed, object) {
        Ok(bytes) => compressed(agreed, with_type(code, agreed.encoding.media_type(), bytes)),
        Err(e) => error(&Negotiated::JSON, &e),
    }
}

/// One object already encoded as JSON (without the final line break).
pub fn encoded_json(agreed: &Negotiated, code: u16, object: Bytes) -> Response {
    if agreed.encoding == Encoding::Json && !agreed.pretty {
        return slices(
            agreed,
            code,
            VecDeque::from([object, Bytes::from_static(b"\n")]),
        );
    }
    match serde_json::from_slice::<Value>(&object) {
        Ok(value) => self::object(agreed, code, &value),
        Err(e) => error(&Negotiated::JSON, &Status::internal(e)),
    }
}

/// JSON that lies in slices.
pub fn slices(agreed: &Negotiated, code: u16, slices: VecDeque<Bytes>) -> Response {
    compressed(
        agreed,
        with_type(code, Encoding::Json.media_type(), Body::Slices(slices)),
    )
}

/// Encodes an object, with the line break that upstream's encoders end in.
pub fn encode(agreed: &Negotiated, object: &Value) -> ApiResult<Vec<u8>> {
    match agreed.encoding {
        Encoding::Json if agreed.pretty => {
            serde_json::to_vec_pretty(object).map_err(Status::internal)
        }
        Encoding::Json => {
            let mut bytes = serde_json::to_vec(object).map_err(Status::internal)?;
            bytes.push(b'\n');
            Ok(bytes)
        }
        Encoding::Yaml => serde_norway::to_string(object)
            .map(String::into_bytes)
            .map_err(Status::internal),
        Encoding::Protobuf => crate::protobuf::encode(object),
    }
}

/// The answer for an error.
pub fn error(agreed: &Negotiated, e: &Status) -> Response {
    let value = serde_json::to_value(e).unwrap_or_default();
    let (encoding, bytes) = match encode(agreed, &value) {
        Ok(bytes) => (agreed.encoding, bytes),
        Err(_) => (Encoding::Json, value.to_string().into_bytes()),
    };
    let mut response = with_type(e.code, encoding.media_type(), bytes);
    if let Some(seconds) = e
        .details
        .as_ref()
        .map(|d| d.retry_after_seconds)
        .filter(|&s| s > 0)
    {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Adds `Warning: 299` headers.
pub fn add_warnings(response: &mut Response, warnings: &[String]) {
    let mut seen: Vec<&String> = Vec::new();
    for warning in warnings {
        if seen.contains(&warning) {
            continue;
        }
        seen.push(warning);
        let escaped: String = warning
            .chars()
            .filter(|c| !c.is_control())
            .flat_map(|c| {
                if matches!(c, '"' | '\\') {
                    vec!['\\', c]
                } else {
                    vec![c]
                }
            })
            .collect();
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{escaped}\"").as_bytes()) {
            response
                .headers_mut()
                .append(HeaderName::from_static("warning"), value);
        }
    }
}

/// Compresses a whole body that is worth it.
pub fn compressed(agreed: &Negotiated, response: Response) -> Response {
    if !agreed.gzip || response.body().len().is_none_or(|n| n < GZIP_FROM) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Body::Slices(slices) = body else {
        return http::Response::from_parts(parts, body);
    };
    let mut encoder = GzEncoder::new(Vec::with_capacity(GZIP_FROM), Compression::new(1));
    // Writing to a Vec can't fail; if it ever did the plain body still stands.
    let done = slices
        .iter()
        .try_for_each(|s| encoder.write_all(s))
        .and_then(|()| encoder.finish());
    match done {
        Ok(packed) => {
            parts
                .headers
                .insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            parts
                .headers
                .insert(VARY, HeaderValue::from_static("Accept-Encoding"));
            http::Response::from_parts(parts, packed.into())
        }
        Err(_) => http::Response::from_parts(parts, Body::Slices(slices)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_quoted_and_said_once() {
        let mut response = text(200, "x");
        add_warnings(
            &mut response,
            &["a \"b\"".into(), "a \"b\"".into(), "c\r\nd".into()],
        );
        let got: Vec<_> = response
            .headers()
            .get_all("warning")
            .iter()
            .map(|v| v.to_str().unwrap().to_owned())
            .collect();
        assert_eq!(got, [r#"299 - "a \"b\"""#, r#"299 - "cd""#]);
    }

    #[test]
    fn large_answers_are_compressed_for_those_who_take_it() {
        let body = Bytes::from(vec![b'x'; GZIP_FROM + 1]);
        let takes = Negotiated {
            gzip: true,
            ..Negotiated::JSON
        };
        let packed = slices(&takes, 200, VecDeque::from([body.clone()]));
        assert_eq!(packed.headers()[CONTENT_ENCODING], "gzip");
        assert!(packed.body().len().unwrap() < 2000);
        let plain = slices(&Negotiated::JSON, 200, VecDeque::from([body]));
        assert!(plain.headers().get(CONTENT_ENCODING).is_none());
    }
}
