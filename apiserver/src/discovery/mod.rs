//! What the server says about itself: groups, versions and resources, aggregated or plain.
//!
//! The documents follow from the kinds table, the custom resources and what other servers say of themselves; they are
//! built anew when one of them changes.

pub mod legacy;
pub mod paths;
pub mod schemas;

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, HashMap};
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

use crate::aggregation::priorities::{self, rank};
use crate::aggregation::registration::Registration;
use crate::aggregation::{self, Shown};
use crate::negotiate::{Negotiated, Offers, aggregated_discovery};
use crate::options::Options;
use crate::request::Request;
use crate::resources::Resource;
use crate::response::{self, ApiResult, Response};
use crate::server::Server;

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
    /// Group versions of other servers.
    elsewhere: Vec<String>,
    openapi: openapi::Documents,
    /// OpenAPI v3 documents of other servers: by path, their URL and the group version of who has them.
    foreign: BTreeMap<String, (Value, (String, String))>,
}

/// A version of a group, with its place.
struct Version {
    group: String,
    version: String,
    group_priority: i64,
    version_priority: i64,
    /// As aggregated discovery has it.
    item: Value,
}

impl Version {
    /// The order of versions in a group.
    fn before(&self, other: &Version) -> Ordering {
        let place = |v: &Version| Reverse((v.version_priority, rank(&v.version)));
        place(self)
            .cmp(&place(other))
            .then_with(|| self.version.cmp(&other.version))
    }
}

impl Documents {
    /// Builds the documents of these resources and of what other servers serve; what stays is taken over from the old ones.
    pub fn new(
        old: Option<&Documents>,
        resources: &[Arc<Resource>],
        registered: &[Arc<Registration>],
        shown: &[Shown],
        options: &Options,
    ) -> Self {
        let local = by_version(resources);
        let versions = versions(&local, registered, shown);
        let address = match options.advertise_address {
            std::net::IpAddr::V6(ip) => format!("[{ip}]:{}", options.secure_port),
            ip => format!("{ip}:{}", options.secure_port),
        };
        let lists = local
            .iter()
            .map(|((group, version), kinds)| {
                let name = group_version(group, version);
                let resources: Vec<Value> = kinds.iter().copied().flat_map(plain_resources).collect();
                let mut list = json!({"kind": "APIResourceList", "groupVersion": name, "resources": resources});
                if !group.is_empty() {
                    // The oldest version's list never said its own.
                    list["apiVersion"] = "v1".into();
                }
                (name, list)
            })
            .collect();
        let mut specifications: Vec<&Shown> = shown.iter().collect();
        specifications.sort_by_key(|s| Reverse(s.registration.group_priority));
        let specifications = specifications.iter().filter_map(|s| s.found.v2.clone());
        Documents {
            versions: json!({
                "kind": "APIVersions",
                "versions": ["v1"],
                "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
            }),
            aggregated_core: aggregated(&versions, true),
            aggregated_groups: aggregated(&versions, false),
            groups: groups(&versions),
            lists,
            elsewhere: shown
                .iter()
                .map(|s| group_version(&s.registration.group, &s.registration.version))
                .collect(),
            openapi: openapi::Documents::after(
                old.map(|old| &old.openapi),
                GIT_VERSION,
                resources.iter().map(|r| {
                    let publish = || Arc::new(schemas::resource(r));
                    r.published.get_or_init(publish).clone()
                }),
            )
            .with_foreign(specifications.collect()),
            foreign: foreign(shown),
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
        paths.extend(self.elsewhere.iter().map(|name| format!("/apis/{name}")));
        paths.sort();
        paths.dedup();
        paths
    }

    fn plain(&self, request: &Request, document: &Value) -> ApiResult<Response> {
        let agreed: Negotiated = request.negotiate(Offers::Objects)?;
        Ok(response::object(&agreed, 200, document))
    }
}

/// Makes the documents anew.
pub fn publish(server: &Server) {
    // One at a time, so that the newest state is what stays.
    let _publishing = server.aggregation.publishing.lock();
    let old = server.documents.load_full();
    let documents = Documents::new(
        Some(&old),
        &server.resources.all(),
        &server.aggregation.registered(),
        &server.aggregation.shown(),
        &server.options,
    );
    server.documents.store(Arc::new(documents));
}

/// Answers `/openapi/…`; documents of other servers are fetched from there.
pub async fn openapi(server: &Arc<Server>, request: Request, rest: &[&str]) -> ApiResult<Response> {
    let documents = server.documents.load_full();
    match rest {
        ["v3"] => {
            let mut index = documents.openapi.v3_index();
            for (path, (url, _)) in &documents.foreign {
                if index["paths"].get(path).is_none() {
                    index["paths"][path] = url.clone();
                }
            }
            Ok(response::json(200, &index))
        }
        ["v3", path @ ..] => {
            let path = path.join("/");
            let elsewhere = documents.foreign.get(&path);
            if let Some((_, (group, version))) = elsewhere
                && !documents.openapi.has_v3(&path)
                && let Some(remote) = server.aggregation.remote(group, version)
            {
                return Ok(aggregation::proxy::serve(server, request, &remote).await);
            }
            schemas::answer(&documents.openapi, &request, rest)
        }
        _ => schemas::answer(&documents.openapi, &request, rest),
    }
}

/// The resources by group and version, in the order they are served in.
fn by_version(resources: &[Arc<Resource>]) -> Vec<((&str, &str), Vec<&Kind>)> {
    let mut found: Vec<((&str, &str), Vec<&Kind>)> = Vec::new();
    let mut at: HashMap<(&str, &str), usize> = HashMap::new();
    for resource in resources {
        let kind = &*resource.kind;
        let key = (&*kind.group, &*kind.version);
        let at = *at.entry(key).or_insert_with(|| {
            found.push((key, Vec::new()));
            found.len() - 1
        });
        found[at].1.push(kind);
    }
    for (_, kinds) in &mut found {
        kinds.sort_by(|a, b| a.plural.cmp(&b.plural));
    }
    found
}

/// Every version of every group: this server's own, unless another one is to serve them, and other servers'.
fn versions(
    local: &[((&str, &str), Vec<&Kind>)],
    registered: &[Arc<Registration>],
    shown: &[Shown],
) -> Vec<Version> {
    let known: HashMap<(&str, &str), &Registration> = registered
        .iter()
        .map(|r| ((r.group.as_str(), r.version.as_str()), &**r))
        .collect();
    let mut all: Vec<Version> = local
        .iter()
        .filter(|(key, _)| known.get(key).is_none_or(|r| r.service.is_none()))
        .map(|((group, version), kinds)| {
            let (group_priority, version_priority) = known.get(&(*group, *version)).map_or_else(
                || priorities::of(group, version),
                |r| (r.group_priority, r.version_priority),
            );
            let resources: Vec<Value> = kinds.iter().copied().map(aggregated_resource).collect();
            Version {
                group: (*group).to_owned(),
                version: (*version).to_owned(),
                group_priority,
                version_priority,
                item: json!({"version": version, "resources": resources, "freshness": "Current"}),
            }
        })
        .collect();
    all.extend(shown.iter().map(|shown| {
        let registration = &shown.registration;
        let freshness = if shown.found.stale {
            "Stale"
        } else {
            "Current"
        };
        let version = shown.found.version.clone();
        let mut item = version.unwrap_or_else(|| json!({"version": registration.version}));
        item["freshness"] = freshness.into();
        Version {
            group: registration.group.clone(),
            version: registration.version.clone(),
            group_priority: registration.group_priority,
            version_priority: registration.version_priority,
            item,
        }
    }));
    all
}

/// The list of aggregated discovery, of the core group or of all others.
fn aggregated(versions: &[Version], core: bool) -> (Vec<u8>, String) {
    let mut groups: BTreeMap<&str, Vec<&Version>> = BTreeMap::new();
    for version in versions.iter().filter(|v| v.group.is_empty() == core) {
        groups.entry(&version.group).or_default().push(version);
    }
    let mut groups: Vec<(&str, Vec<&Version>)> = groups.into_iter().collect();
    groups.sort_by_key(|(_, versions)| Reverse(versions.iter().map(|v| v.group_priority).max()));
    let items: Vec<Value> = groups
        .into_iter()
        .map(|(group, mut versions)| {
            versions.sort_by(|a, b| a.before(b));
            let metadata = if core {
                json!({})
            } else {
                json!({"name": group})
            };
            let versions: Vec<&Value> = versions.iter().map(|v| &v.item).collect();
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    with_etag(
        &json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items}),
    )
}

/// `APIGroup`s in their order.
fn groups(versions: &[Version]) -> Vec<Value> {
    let mut versions: Vec<&Version> = versions.iter().filter(|v| !v.group.is_empty()).collect();
    versions.sort_by(|a, b| {
        let place = |v: &Version| {
            (
                Reverse(v.group_priority),
                format!("{}.{}", v.version, v.group),
            )
        };
        place(a).cmp(&place(b))
    });
    let mut groups: Vec<(&str, Vec<&Version>)> = Vec::new();
    for version in versions {
        match groups.iter_mut().find(|(group, _)| *group == version.group) {
            Some((_, versions)) => versions.push(version),
            None => groups.push((&version.group, vec![version])),
        }
    }
    groups
        .into_iter()
        .map(|(group, mut versions)| {
            versions.sort_by(|a, b| a.before(b));
            let versions: Vec<&str> = versions.iter().map(|v| v.version.as_str()).collect();
            group_value(group, &versions)
        })
        .collect()
}

/// OpenAPI v3 documents of other servers.
fn foreign(shown: &[Shown]) -> BTreeMap<String, (Value, (String, String))> {
    let mut found = BTreeMap::new();
    for shown in shown {
        let registration = &shown.registration;
        let owner = (registration.group.clone(), registration.version.clone());
        let own = registration.root();
        for (path, url) in shown.found.v3.iter() {
            let is_own = path == own.trim_start_matches('/');
            if is_own || !found.contains_key(path) {
                found.insert(path.clone(), (url.clone(), owner.clone()));
            }
        }
    }
    found
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
