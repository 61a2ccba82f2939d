//! What the server says about itself: groups, versions and resources, aggregated or plain.
//!
//! The documents follow from the kinds table and are built once.

pub mod paths;
pub mod schemas;

use std::fmt::Write;
use std::sync::Arc;

use http::HeaderValue;
use http::header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH, VARY};
use keelson_api::status::Status;
use keelson_daemon::version::GIT_VERSION;
use keelson_registry::kinds::Kind;
use keelson_schema::openapi;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha512};

use crate::negotiate::{Negotiated, Offers, aggregated_discovery};
use crate::options::Options;
use crate::request::Request;
use crate::resources::Resource;
use crate::response::{self, ApiResult, Response};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// The documents.
pub struct Documents {
    /// `/api`, plain.
    versions: Value,
    /// `/api` and `/apis`, aggregated, with their ETags.
    aggregated_core: (Vec<u8>, String),
    aggregated_groups: (Vec<u8>, String),
    /// `APIGroup`s in order.
    groups: Vec<Value>,
    /// `APIResourceList`s by `group/version`.
    lists: Vec<(String, Value)>,
    openapi: openapi::Documents,
}

impl Documents {
    /// Builds the documents of these resources.
    pub fn new(resources: &[Arc<Resource>], options: &Options) -> Self {
        let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
        for resource in resources {
            let kind = &resource.kind;
            match groups.iter_mut().find(|(g, _)| *g == kind.group) {
                Some((_, versions)) if versions.contains(&&*kind.version) => {}
                Some((_, versions)) => versions.push(&kind.version),
                None => groups.push((&kind.group, vec![&kind.version])),
            }
        }
        let of = |group: &str, version: &str| -> Vec<&Kind> {
            let mut kinds: Vec<&Kind> = resources
                .iter()
                .map(|r| &*r.kind)
                .filter(|k| k.group == group && k.version == version)
                .collect();
            kinds.sort_by(|a, b| a.plural.cmp(&b.plural));
            kinds
        };
        let aggregate = |core: bool| {
            let items: Vec<Value> = groups
                .iter()
                .filter(|(g, _)| g.is_empty() == core)
                .map(|(group, versions)| {
                    let metadata = if core { json!({}) } else { json!({"name": group}) };
                    let versions: Vec<Value> = versions
                        .iter()
                        .map(|version| {
                            let resources: Vec<Value> = of(group, version).into_iter().map(aggregated_resource).collect();
                            json!({"version": version, "resources": resources, "freshness": "Current"})
                        })
                        .collect();
                    json!({"metadata": metadata, "versions": versions})
                })
                .collect();
            with_etag(
                &json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items}),
            )
        };
        let address = match options.advertise_address {
            std::net::IpAddr::V6(ip) => format!("[{ip}]:{}", options.secure_port),
            ip => format!("{ip}:{}", options.secure_port),
        };
        let lists = groups
            .iter()
            .flat_map(|(group, versions)| versions.iter().map(move |v| (*group, *v)))
            .map(|(group, version)| {
                let name = group_version(group, version);
                let resources: Vec<Value> = of(group, version).into_iter().flat_map(plain_resources).collect();
                let mut list = json!({"kind": "APIResourceList", "groupVersion": name, "resources": resources});
                if !group.is_empty() {
                    // The oldest version's list never said its own.
                    list["apiVersion"] = "v1".into();
                }
                (name, list)
            })
            .collect();
        Documents {
            versions: json!({
                "kind": "APIVersions",
                "versions": ["v1"],
                "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
            }),
            aggregated_core: aggregate(true),
            aggregated_groups: aggregate(false),
            groups: groups
                .iter()
                .filter(|(g, _)| !g.is_empty())
                .map(|(g, v)| group_value(g, v))
                .collect(),
            lists,
            openapi: openapi::Documents::new(
                GIT_VERSION,
                resources.iter().map(|r| schemas::resource(r)).collect(),
            ),
        }
    }

    /// `/api`.
    pub fn core(&self, request: &Request) -> ApiResult<Response> {
        match aggregated_discovery(&request.headers)? {
            Some(_) => Ok(conditional(request, &self.aggregated_core)),
            None => self.plain(request, &self.versions),
        }
    }

    /// `/apis`.
    pub fn groups(&self, request: &Request) -> ApiResult<Response> {
        match aggregated_discovery(&request.headers)? {
            Some(_) => Ok(conditional(request, &self.aggregated_groups)),
            None => self.plain(
                request,
                &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": self.groups}),
            ),
        }
    }

    /// `/apis/<group>`.
    pub fn group(&self, request: &Request, group: &str) -> ApiResult<Response> {
        let mut found = self
            .groups
            .iter()
            .find(|g| g["name"] == group)
            .cloned()
            .ok_or_else(Status::no_such_path)?;
        found["kind"] = "APIGroup".into();
        found["apiVersion"] = "v1".into();
        self.plain(request, &found)
    }

    /// `/apis/<group>/<version>` and `/api/v1`.
    pub fn resources(&self, request: &Request, group: &str, version: &str) -> ApiResult<Response> {
        let name = group_version(group, version);
        let list = self
            .lists
            .iter()
            .find(|(n, _)| *n == name)
            .ok_or_else(Status::no_such_path)?;
        self.plain(request, &list.1)
    }

    /// `/openapi/…`.
    pub fn openapi(&self, request: &Request, rest: &[&str]) -> ApiResult<Response> {
        schemas::answer(&self.openapi, request, rest)
    }

    /// The paths of all groups and versions, for the index.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = vec!["/api".to_owned(), "/apis".to_owned()];
        for group in &self.groups {
            paths.push(format!(
                "/apis/{}",
                group["name"].as_str().unwrap_or_default()
            ));
        }
        paths.extend(self.lists.iter().map(|(name, _)| {
            if name.contains('/') {
                format!("/apis/{name}")
            } else {
                format!("/api/{name}")
            }
        }));
        paths
    }

    fn plain(&self, request: &Request, document: &Value) -> ApiResult<Response> {
        let agreed: Negotiated = request.negotiate(Offers::Objects)?;
        Ok(response::object(&agreed, 200, document))
    }
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

fn group_value(group: &str, versions: &[&str]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|v| json!({"groupVersion": group_version(group, v), "version": v}))
        .collect();
    json!({"name": group, "preferredVersion": versions.first(), "versions": versions})
}

/// A resource and its subresources in an `APIResourceList`.
fn plain_resources(kind: &Kind) -> Vec<Value> {
    let mut own = Map::new();
    own.insert("name".into(), kind.plural.as_ref().into());
    own.insert("singularName".into(), kind.singular.as_ref().into());
    own.insert("namespaced".into(), kind.namespaced.into());
    own.insert("kind".into(), kind.kind.as_ref().into());
    own.insert("verbs".into(), json!(kind.discovery_verbs()));
    if !kind.short_names.is_empty() {
        own.insert("shortNames".into(), json!(kind.short_names));
    }
    if !kind.categories.is_empty() {
        own.insert("categories".into(), json!(kind.categories));
    }
    if !kind.storage_version_hash.is_empty() {
        own.insert(
            "storageVersionHash".into(),
            kind.storage_version_hash.as_ref().into(),
        );
    }
    let mut all = vec![Value::Object(own)];
    for sub in kind.subresources {
        let ((group, version), sub_kind) = sub
            .kind
            .unwrap_or(((&kind.group, &kind.version), &kind.kind));
        let mut row = Map::new();
        row.insert(
            "name".into(),
            format!("{}/{}", kind.plural, sub.name).into(),
        );
        row.insert("singularName".into(), "".into());
        row.insert("namespaced".into(), kind.namespaced.into());
        if (group, version) != (&*kind.group, &*kind.version) {
            row.insert("group".into(), group.into());
            row.insert("version".into(), version.into());
        }
        row.insert("kind".into(), sub_kind.into());
        row.insert("verbs".into(), json!(kind.subresource_verbs(sub)));
        all.push(Value::Object(row));
    }
    all
}

/// A resource in aggregated discovery.
fn aggregated_resource(kind: &Kind) -> Value {
    // What is of the resource's own group and version goes without saying.
    let response_kind = |group: &str, version: &str, name: &str| {
        let own = (group, version) == (&*kind.group, &*kind.version);
        let (group, version) = if own { ("", "") } else { (group, version) };
        json!({"group": group, "version": version, "kind": name})
    };
    let mut row = Map::new();
    row.insert("resource".into(), kind.plural.as_ref().into());
    row.insert(
        "responseKind".into(),
        response_kind(&kind.group, &kind.version, &kind.kind),
    );
    row.insert(
        "scope".into(),
        if kind.namespaced {
            "Namespaced"
        } else {
            "Cluster"
        }
        .into(),
    );
    row.insert("singularResource".into(), kind.singular.as_ref().into());
    row.insert("verbs".into(), json!(kind.discovery_verbs()));
    if !kind.short_names.is_empty() {
        row.insert("shortNames".into(), json!(kind.short_names));
    }
    if !kind.categories.is_empty() {
        row.insert("categories".into(), json!(kind.categories));
    }
    let subs: Vec<Value> = kind
        .subresources
        .iter()
        .map(|sub| {
            let ((group, version), sub_kind) = sub.kind.unwrap_or(((&kind.group, &kind.version), &kind.kind));
            json!({"subresource": sub.name, "responseKind": response_kind(group, version, sub_kind), "verbs": kind.subresource_verbs(sub)})
        })
        .collect();
    if !subs.is_empty() {
        row.insert("subresources".into(), subs.into());
    }
    Value::Object(row)
}

fn with_etag(document: &Value) -> (Vec<u8>, String) {
    let mut bytes = document.to_string().into_bytes();
    bytes.push(b'\n');
    let mut tag = String::from("\"");
    for byte in Sha512::digest(&bytes) {
        // Writing to a String can't fail.
        let _ = write!(tag, "{byte:02X}");
    }
    tag.push('"');
    (bytes, tag)
}

/// A document with its ETag, or 304 for who has it already.
fn conditional(request: &Request, (bytes, tag): &(Vec<u8>, String)) -> Response {
    let has = request
        .headers
        .get(IF_NONE_MATCH)
        .is_some_and(|v| v.as_bytes() == tag.as_bytes());
    let mut answer = if has {
        response::with_type(304, AGGREGATED, crate::body::Body::Empty)
    } else {
        response::with_type(200, AGGREGATED, bytes.clone())
    };
    if let Ok(tag) = HeaderValue::from_str(tag) {
        answer.headers_mut().insert(ETAG, tag);
    }
    answer
        .headers_mut()
        .insert(VARY, HeaderValue::from_static("Accept"));
    answer
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("public"));
    answer
}
