//! GET of one object, from the cache.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use keelson_api::status::Status;

use crate::error::from_cache;
use crate::negotiate::{Encoding, Offers, View};
use crate::objects;
use crate::protobuf;
use crate::request::Request;
use crate::resources::Resource;
use crate::response::{self, ApiResult, Response};
use crate::server::Server;
use crate::verbs::{options, view};

/// Answers GET.
pub async fn get(
    server: &Arc<Server>,
    request: &Request,
    resource: &Arc<Resource>,
) -> ApiResult<Response> {
    let agreed = request.negotiate(Offers::Views)?;
    let (namespace, name) = (request.info.namespace.as_str(), request.info.path_name());
    let entry = match request.query.non_empty("resourceVersion") {
        None => objects::fresh(server, resource, namespace_of(resource, namespace), name).await?,
        Some(version) => {
            let revision = options::revision(version, false)?;
            server
                .cache
                .wait_until_fresh(revision)
                .await
                .map_err(from_cache)?;
            let found = server
                .cache
                .get(&resource.id, namespace_of(resource, namespace), name)
                .map_err(from_cache)?;
            found.ok_or_else(|| Status::not_found(resource.qualified(), name))?
        }
    };
    resource.prepare(std::slice::from_ref(&entry)).await?;
    if agreed.view == View::Object && agreed.encoding == Encoding::Json && !agreed.pretty {
        return Ok(response::encoded_json(
            &agreed,
            200,
            with_type_meta(resource, &resource.json(&entry)),
        ));
    }
    if agreed.view == View::Object && agreed.encoding == Encoding::Protobuf {
        let whole = response::with_type(
            200,
            agreed.encoding.media_type(),
            protobuf::body(resource, &entry),
        );
        return Ok(response::compressed(&agreed, whole));
    }
    view::answer(
        resource,
        &agreed,
        &request.query,
        200,
        &resource.object(&entry)?,
    )
}

/// The namespace that keys have: none for cluster-scoped objects (the path of a Namespace names itself as its namespace).
pub fn namespace_of<'a>(resource: &Resource, namespace: &'a str) -> &'a str {
    if resource.kind.namespaced {
        namespace
    } else {
        ""
    }
}

/// An object's JSON with kind and apiVersion put in front.
pub fn with_type_meta(resource: &Resource, json: &Bytes) -> Bytes {
    let meta = resource.type_meta();
    let mut whole = BytesMut::with_capacity(json.len() + meta.len() + 2);
    whole.extend_from_slice(b"{");
    whole.extend_from_slice(meta.as_bytes());
    if json.len() > 2 {
        whole.extend_from_slice(b",");
    }
    whole.extend_from_slice(json.get(1..).unwrap_or(b"}"));
    whole.freeze()
}
