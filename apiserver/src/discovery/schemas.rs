//! `/openapi/v2` and `/openapi/v3`: the documents of `keelson-schema`, with their encodings and ETags.

use http::HeaderValue;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_ENCODING, ETAG, EXPIRES, IF_NONE_MATCH, VARY};
use keelson_api::status::Status;
use keelson_schema::openapi::{Document, Documents, Resource, Subresource};

use std::sync::Arc;

use crate::body::Body;
use crate::negotiate::{accepts_gzip, joined};
use crate::request::Request;
use crate::resources::Resource as Served;
use crate::response::{self, ApiResult, Response};

const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// A row of the kinds table as the documents need it.
pub fn resource(of: &Served) -> Resource {
    let kind = &*of.kind;
    let schema = |v2: bool| {
        let custom = of.custom.as_ref()?;
        let preserves = custom.definition.preserve_unknown;
        let published = keelson_extensions::openapi::published(&custom.version, preserves, v2);
        Some(Arc::new(published))
    };
    let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect();
    let subresources = kind
        .subresources
        .iter()
        .map(|sub| {
            let ((group, version), sub_kind) = sub
                .kind
                .unwrap_or(((&kind.group, &kind.version), &kind.kind));
            Subresource {
                name: sub.name.to_owned(),
                group: group.to_owned(),
                version: version.to_owned(),
                kind: sub_kind.to_owned(),
                verbs: words(kind.subresource_verbs(sub)),
            }
        })
        .collect();
    Resource {
        group: kind.group.to_string(),
        version: kind.version.to_string(),
        kind: kind.kind.to_string(),
        plural: kind.plural.to_string(),
        namespaced: kind.namespaced,
        verbs: words(kind.discovery_verbs()),
        subresources,
        custom: schema(false),
        custom_v2: schema(true),
    }
}

/// Answers a path below `/openapi`.
pub fn answer(documents: &Documents, request: &Request, rest: &[&str]) -> ApiResult<Response> {
    match rest {
        ["v2"] => {
            let accept = joined(&request.headers, ACCEPT);
            let protobuf = accept
                .split(',')
                .map(|clause| clause.split(';').next().unwrap_or_default().trim())
                .find_map(|media| match media {
                    V2_PROTOBUF | "application/com.github.proto-openapi.spec.v2.v1.0+protobuf" => {
                        Some(true)
                    }
                    "application/json" | "application/*" | "*/*" => Some(false),
                    _ => None,
                });
            match protobuf {
                Some(true) => Ok(document(
                    request,
                    &documents.v2_protobuf(),
                    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
                )),
                None if !accept.trim().is_empty() => {
                    Err(Status::not_acceptable(&["application/json", V2_PROTOBUF]))
                }
                _ => Ok(document(request, &documents.v2_json(), "application/json")),
            }
        }
        ["v3"] => Ok(response::json(200, &documents.v3_index())),
        ["v3", path @ ..] => {
            let found = documents
                .v3(&path.join("/"))
                .ok_or_else(Status::no_such_path)?;
            match request.query.non_empty("hash") {
                Some(hash) if hash == found.hash => {
                    // What is asked for by its hash never changes.
                    let mut answer = document(request, &found, "application/json");
                    let headers = answer.headers_mut();
                    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
                    let next_year =
                        jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * 365);
                    if let Ok(value) = HeaderValue::from_str(
                        &next_year.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string(),
                    ) {
                        headers.insert(EXPIRES, value);
                    }
                    Ok(answer)
                }
                Some(_) => {
                    let mut answer =
                        response::with_type(301, "text/plain; charset=utf-8", Body::Empty);
                    let location = format!("{}?hash={}", request.uri.path(), found.hash);
                    if let Ok(value) = HeaderValue::from_str(&location) {
                        answer.headers_mut().insert(http::header::LOCATION, value);
                    }
                    Ok(answer)
                }
                None => Ok(document(request, &found, "application/json")),
            }
        }
        _ => Err(Status::no_such_path()),
    }
}

/// A document, compressed where the client takes that; 304 for who has it.
fn document(request: &Request, document: &Document, media_type: &str) -> Response {
    let tag = format!("\"{}\"", document.hash);
    let has = request
        .headers
        .get(IF_NONE_MATCH)
        .is_some_and(|v| v.as_bytes() == tag.as_bytes());
    let mut answer = if has {
        response::with_type(304, media_type, Body::Empty)
    } else if accepts_gzip(&request.headers) {
        let mut answer = response::with_type(200, media_type, document.gzip().to_vec());
        answer
            .headers_mut()
            .insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        answer
    } else {
        response::with_type(200, media_type, document.bytes())
    };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        answer.headers_mut().insert(ETAG, tag);
    }
    answer
        .headers_mut()
        .insert(VARY, HeaderValue::from_static("Accept-Encoding, Accept"));
    answer
}
