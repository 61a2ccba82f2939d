//! LIST: pages and selections of a snapshot, written as slices of what the cache has encoded already.

use std::collections::VecDeque;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use bytes::Bytes;
use keelson_api::status::Status;
use keelson_storage::{CacheError, ListRequest, ListResult, VersionMatch};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::from_cache;
use crate::negotiate::{Encoding, Negotiated, Offers, View};
use crate::protobuf;
use crate::request::Request;
use crate::resources::Resource;
use crate::response::{self, ApiResult, Response};
use crate::server::Server;
use crate::verbs::options::{ListOptions, revision};
use crate::verbs::view::{self, Include};

const CONTINUE_EXPIRED: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";

/// A continue token, in upstream's form.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
struct Token {
    v: String,
    rv: i64,
    start: String,
}

impl Token {
    fn new(rv: i64, after: &str) -> Self {
        Token {
            v: "meta.k8s.io/v1".to_owned(),
            rv,
            start: format!("{after}\0"),
        }
    }

    fn encode(&self) -> ApiResult<String> {
        Ok(URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).map_err(Status::internal)?))
    }

    fn decode(text: &str) -> ApiResult<Self> {
        let bad = |why: String| {
            Status::bad_request(format!(
                "invalid continue token: continue key is not valid: {why}"
            ))
        };
        let bytes = URL_SAFE_NO_PAD
            .decode(text)
            .or_else(|_| URL_SAFE.decode(text))
            .map_err(|e| bad(e.to_string()))?;
        let token: Token = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
        if token.v != "meta.k8s.io/v1" {
            return Err(bad(format!(
                "server does not recognize this encoded version {}",
                token.v
            )));
        }
        if token.rv == 0 {
            return Err(bad(
                "incorrect encoded start resourceVersion (version meta.k8s.io/v1)".to_owned(),
            ));
        }
        if token.start.is_empty() {
            return Err(bad(
                "encoded start key empty (version meta.k8s.io/v1)".to_owned()
            ));
        }
        if token.start.split('/').any(|part| part == "..") {
            return Err(bad(format!("invalid key {:?}", token.start)));
        }
        Ok(token)
    }
}

/// Answers LIST.
pub async fn list(
    server: &Arc<Server>,
    request: &Request,
    resource: &Arc<Resource>,
) -> ApiResult<Response> {
    let agreed = request.negotiate(Offers::Views)?;
    let options = ListOptions::of(&request.query, resource, false)?;
    let namespace =
        Some(request.info.namespace.clone()).filter(|n| !n.is_empty() && resource.kind.namespaced);
    let result = page(server, resource, namespace, &options).await?;
    write(resource, &agreed, request, &result)
}

/// One page of objects.
pub async fn page(
    server: &Server,
    resource: &Arc<Resource>,
    namespace: Option<String>,
    options: &ListOptions,
) -> ApiResult<ListResult> {
    let mut list = ListRequest {
        namespace: namespace.clone(),
        predicate: options.predicate(resource),
        prepare: resource.preparing(),
        limit: options.limit,
        start_after: None,
        version: VersionMatch::Consistent,
    };
    if options.continue_token.is_empty() {
        list.version = version(options)?;
        if list.version == VersionMatch::Any {
            // Upstream's cache answers any state in one piece.
            list.limit = 0;
        }
    } else {
        if !options.resource_version.is_empty() && options.resource_version != "0" {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let token = Token::decode(&options.continue_token)?;
        list.start_after = Some(format!(
            "{}{}",
            scope(resource, namespace.as_deref()),
            token.start.trim_end_matches('\0')
        ));
        list.version =
            u64::try_from(token.rv).map_or(VersionMatch::Consistent, VersionMatch::Exactly);
    }
    let start_after = list.start_after.clone();
    match server.cache.list(&resource.id, list).await {
        Ok(ListResult {
            unreadable: Some(why),
            ..
        }) => Err(Status::internal(why)),
        Ok(result) => {
            resource.prepare(&result.entries).await?;
            Ok(result)
        }
        Err(CacheError::Gone { .. }) => Err(expired(
            resource,
            namespace.as_deref(),
            start_after.as_deref(),
        )?),
        Err(e) => Err(from_cache(e)),
    }
}

/// What keys of the list begin with; continue tokens carry the rest.
fn scope(resource: &Resource, namespace: Option<&str>) -> String {
    match namespace {
        Some(namespace) => format!("{}{namespace}/", resource.prefix),
        None => resource.prefix.clone(),
    }
}

/// 410, with a token to go on inconsistently if the list had begun.
fn expired(
    resource: &Resource,
    namespace: Option<&str>,
    start_after: Option<&str>,
) -> ApiResult<Status> {
    let Some(after) = start_after else {
        return Ok(Status::expired(
            "The resourceVersion for the provided list is too old.",
        ));
    };
    let mut status = Status::expired(CONTINUE_EXPIRED);
    let scope = scope(resource, namespace);
    status.metadata.continue_token =
        Token::new(-1, after.strip_prefix(&scope).unwrap_or(after)).encode()?;
    Ok(status)
}

fn version(options: &ListOptions) -> ApiResult<VersionMatch> {
    let asked = match options.resource_version.as_str() {
        "" => return Ok(VersionMatch::Consistent),
        text => revision(text, true)?,
    };
    Ok(match (asked, options.version_match.as_str()) {
        (0, _) => VersionMatch::Any,
        (n, "Exact") => VersionMatch::Exactly(n),
        // The old reading of a page's version.
        (n, "") if options.limit > 0 => VersionMatch::Exactly(n),
        (n, _) => VersionMatch::AtLeast(n),
    })
}

/// The list's own metadata.
fn list_meta(
    resource: &Resource,
    namespace: Option<&str>,
    result: &ListResult,
) -> ApiResult<Value> {
    let mut meta = Map::new();
    meta.insert("resourceVersion".into(), result.revision.to_string().into());
    if let Some(after) = &result.continue_after {
        let scope = scope(resource, namespace);
        let rv = i64::try_from(result.revision).unwrap_or(i64::MAX);
        meta.insert(
            "continue".into(),
            Token::new(rv, after.strip_prefix(&scope).unwrap_or(after))
                .encode()?
                .into(),
        );
        if let Some(remaining) = result.remaining {
            meta.insert("remainingItemCount".into(), remaining.into());
        }
    }
    Ok(Value::Object(meta))
}

fn write(
    resource: &Arc<Resource>,
    agreed: &Negotiated,
    request: &Request,
    result: &ListResult,
) -> ApiResult<Response> {
    let namespace =
        Some(request.info.namespace.as_str()).filter(|n| !n.is_empty() && resource.kind.namespaced);
    let meta = list_meta(resource, namespace, result)?;
    match agreed.view {
        View::Object if agreed.encoding == Encoding::Json && !agreed.pretty => Ok(
            response::slices(agreed, 200, encoded(resource, &meta, result)),
        ),
        View::Object if agreed.encoding == Encoding::Protobuf => {
            let messages: Vec<Bytes> = result
                .entries
                .iter()
                .map(|e| protobuf::message(resource, e))
                .collect();
            let kind = &resource.kind;
            let whole = keelson_schema::protobuf::list(
                &kind.api_version(),
                &kind.list_kind(),
                &meta,
                messages.iter().map(|m| &m[..]),
            );
            Ok(response::compressed(
                agreed,
                response::with_type(200, agreed.encoding.media_type(), whole),
            ))
        }
        View::Object => {
            let mut items = Vec::with_capacity(result.entries.len());
            for entry in &result.entries {
                items.push(
                    serde_json::from_slice::<Value>(&resource.json(entry))
                        .map_err(Status::internal)?,
                );
            }
            let list = json!({"kind": resource.kind.list_kind(), "apiVersion": resource.kind.api_version(), "metadata": meta, "items": items});
            Ok(response::object(agreed, 200, &list))
        }
        View::Partial(version) => {
            let items = objects(resource, result)?
                .iter()
                .map(|o| view::partial(o, version))
                .collect::<Vec<_>>();
            let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": version.api_version(), "metadata": meta, "items": items});
            Ok(response::object(agreed, 200, &list))
        }
        View::Table(version) => {
            let include = Include::of(&request.query)?;
            let table = view::table(
                &resource.kind,
                &objects(resource, result)?,
                meta,
                version,
                include,
                true,
            );
            Ok(response::object(agreed, 200, &table))
        }
    }
}

fn objects(resource: &Resource, result: &ListResult) -> ApiResult<Vec<Value>> {
    result
        .entries
        .iter()
        .map(|entry| resource.object(entry))
        .collect()
}

/// The list as slices: a head, the entries' own bytes with commas between, a tail.
fn encoded(resource: &Resource, meta: &Value, result: &ListResult) -> VecDeque<Bytes> {
    const COMMA: Bytes = Bytes::from_static(b",");
    let head = format!(
        "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{meta},\"items\":[",
        resource.kind.list_kind(),
        resource.kind.api_version()
    );
    let mut slices = VecDeque::with_capacity(2 * result.entries.len() + 2);
    slices.push_back(Bytes::from(head));
    for (at, entry) in result.entries.iter().enumerate() {
        if at > 0 {
            slices.push_back(COMMA);
        }
        slices.push_back(resource.json(entry));
    }
    slices.push_back(Bytes::from_static(b"]}\n"));
    slices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_upstreams_form() {
        let token = Token::new(7, "default/a");
        let text = token.encode().unwrap();
        assert_eq!(
            URL_SAFE_NO_PAD.decode(&text).unwrap(),
            br#"{"v":"meta.k8s.io/v1","rv":7,"start":"default/a\u0000"}"#
        );
        assert_eq!(Token::decode(&text).unwrap(), token);
        for bad in ["x", "e30", ""] {
            assert_eq!(Token::decode(bad).unwrap_err().code, 400, "{bad}");
        }
    }
}
