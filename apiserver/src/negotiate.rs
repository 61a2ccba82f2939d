//! Content negotiation: which encoding and which view of an object the client asked for.
//!
//! Covers `Accept` (objects, Tables, partial metadata), `Content-Type` of bodies, `pretty` and gzip.

use http::HeaderMap;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, USER_AGENT};

use keelson_api::status::{Details, Status};

use crate::query::Query;
use crate::response::ApiResult;

/// Encodings that objects can be answered in.
pub const OBJECT_TYPES: [&str; 3] = [
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];

/// An encoding of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

impl Encoding {
    /// The media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Encoding::Json => "application/json",
            Encoding::Yaml => "application/yaml",
            Encoding::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }

    /// The media type of a watch stream.
    pub fn watch_media_type(self) -> &'static str {
        match self {
            Encoding::Json => "application/json",
            Encoding::Yaml => "application/yaml;stream=watch",
            Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        }
    }
}

/// A view of objects that isn't the object itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum View {
    /// The object.
    Object,
    /// `meta.k8s.io` Table, in v1 or v1beta1.
    Table(MetaVersion),
    /// `PartialObjectMetadata` (or its list for lists).
    Partial(MetaVersion),
}

/// Version of the meta.k8s.io group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetaVersion {
    /// v1.
    V1,
    /// v1beta1.
    V1beta1,
}

impl MetaVersion {
    /// `meta.k8s.io/v1` or `meta.k8s.io/v1beta1`.
    pub fn api_version(self) -> &'static str {
        match self {
            MetaVersion::V1 => "meta.k8s.io/v1",
            MetaVersion::V1beta1 => "meta.k8s.io/v1beta1",
        }
    }
}

/// What was agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Negotiated {
    /// Encoding of the answer.
    pub encoding: Encoding,
    /// View of the object.
    pub view: View,
    /// Indented JSON.
    pub pretty: bool,
    /// The client takes gzip.
    pub gzip: bool,
}

impl Negotiated {
    /// Plain JSON, for answers before negotiation.
    pub const JSON: Negotiated = Negotiated {
        encoding: Encoding::Json,
        view: View::Object,
        pretty: false,
        gzip: false,
    };
}

/// Which views a request can be answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offers {
    /// Objects only (writes of virtual kinds, discovery, Status).
    Objects,
    /// Objects, Tables and metadata.
    Views,
}

/// One clause of an Accept header.
struct Clause<'a> {
    media: (&'a str, &'a str),
    params: Vec<(&'a str, &'a str)>,
    q: f32,
}

impl<'a> Clause<'a> {
    fn param(&self, key: &str) -> Option<&'a str> {
        self.params
            .iter()
            .find(|(k, _)| k.eq_ignore_ascii_case(key))
            .map(|(_, v)| *v)
    }
}

/// Splits an Accept header, best first.
fn clauses(header: &str) -> Vec<Clause<'_>> {
    let mut clauses: Vec<Clause<'_>> = header
        .split(',')
        .filter_map(|part| {
            let mut pieces = part.trim().split(';');
            let media = pieces.next()?.trim();
            let media = if media == "*" {
                ("*", "*")
            } else {
                media.split_once('/')?
            };
            let mut q = 1.0;
            let mut params = Vec::new();
            for piece in pieces {
                let (key, value) = piece.trim().split_once('=').unwrap_or((piece.trim(), ""));
                let value = value.trim_matches('"');
                if key == "q" {
                    q = value.parse().unwrap_or(1.0);
                } else {
                    params.push((key, value));
                }
            }
            Some(Clause { media, params, q })
        })
        .collect();
    let specificity = |c: &Clause<'_>| (c.media.0 != "*") as u8 + (c.media.1 != "*") as u8;
    clauses.sort_by(|a, b| {
        b.q.total_cmp(&a.q)
            .then_with(|| specificity(b).cmp(&specificity(a)))
    });
    clauses
}

/// Joined values of a header that may be repeated.
pub fn joined(headers: &HeaderMap, name: http::header::HeaderName) -> String {
    headers
        .get_all(name)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .collect::<Vec<_>>()
        .join(",")
}

/// Chooses encoding and view for the answer.
pub fn negotiate(headers: &HeaderMap, query: &Query, offers: Offers) -> ApiResult<Negotiated> {
    let accept = joined(headers, ACCEPT);
    let gzip = accepts_gzip(headers);
    let pretty = pretty(headers, query);
    let base = Negotiated {
        pretty,
        gzip,
        ..Negotiated::JSON
    };
    if accept.trim().is_empty() {
        return Ok(base);
    }
    for clause in clauses(&accept) {
        let Some(encoding) = encoding_of(clause.media) else {
            continue;
        };
        let view = match (clause.param("as"), offers) {
            (None, _) => View::Object,
            (Some(_), Offers::Objects) => continue,
            // A Table's cells have no protobuf.
            (Some("Table"), _) if encoding == Encoding::Protobuf => continue,
            (Some(kind), Offers::Views) => {
                match view_of(kind, clause.param("g"), clause.param("v")) {
                    Some(view) => view,
                    None => continue,
                }
            }
        };
        return Ok(Negotiated {
            encoding,
            view,
            ..base
        });
    }
    Err(not_acceptable())
}

/// 406, in the words of upstream's router.
fn not_acceptable() -> Status {
    let mut status = Status::failure(
        406,
        "NotAcceptable",
        format!(
            "406: Not Acceptable\n\nAvailable representations: {}",
            OBJECT_TYPES.join(", ")
        ),
    );
    status.details = Some(Details::default());
    status
}

fn encoding_of(media: (&str, &str)) -> Option<Encoding> {
    match media {
        ("*", "*") | ("application", "*") | ("application", "json") => Some(Encoding::Json),
        ("application", "yaml") => Some(Encoding::Yaml),
        ("application", "vnd.kubernetes.protobuf") => Some(Encoding::Protobuf),
        _ => None,
    }
}

fn view_of(kind: &str, group: Option<&str>, version: Option<&str>) -> Option<View> {
    if group != Some("meta.k8s.io") {
        return None;
    }
    let version = match version? {
        "v1" => MetaVersion::V1,
        "v1beta1" => MetaVersion::V1beta1,
        _ => return None,
    };
    match kind {
        "Table" => Some(View::Table(version)),
        "PartialObjectMetadata" | "PartialObjectMetadataList" => Some(View::Partial(version)),
        _ => None,
    }
}

/// What a discovery client accepts, best first: `Some(version)` for aggregated discovery, `None` for the plain lists.
pub fn aggregated_discovery(headers: &HeaderMap) -> ApiResult<Option<&'static str>> {
    let accept = joined(headers, ACCEPT);
    if accept.trim().is_empty() {
        return Ok(None);
    }
    for clause in clauses(&accept) {
        if encoding_of(clause.media).is_none() {
            continue;
        }
        match (clause.param("as"), clause.param("g"), clause.param("v")) {
            (None, _, _) => return Ok(None),
            (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2")) => {
                return Ok(Some("v2"));
            }
            _ => continue,
        }
    }
    Err(not_acceptable())
}

/// Whether `pretty` was asked for, by query or by a person's client.
pub fn pretty(headers: &HeaderMap, query: &Query) -> bool {
    match query.get("pretty") {
        Some(v) => v.is_empty() || v == "1" || v == "true",
        None => {
            let agent = headers
                .get(USER_AGENT)
                .and_then(|v| v.to_str().ok())
                .unwrap_or_default();
            ["curl", "Wget", "Mozilla/5.0"]
                .iter()
                .any(|p| agent.starts_with(p))
        }
    }
}

/// Whether the answer may be compressed.
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    joined(headers, ACCEPT_ENCODING)
        .split(',')
        .any(|e| e.split(';').next().is_some_and(|e| e.trim() == "gzip"))
}

/// Encoding of a request body; JSON when none is named.
pub fn body_encoding(headers: &HeaderMap) -> ApiResult<Encoding> {
    let given = headers
        .get(CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    match media_type(given) {
        "" | "application/json" => Ok(Encoding::Json),
        "application/yaml" => Ok(Encoding::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(Encoding::Protobuf),
        _ => Err(Status::unsupported_media_type(&OBJECT_TYPES)),
    }
}

/// A media type without its parameters.
pub fn media_type(header: &str) -> &str {
    header.split(';').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(ACCEPT, http::HeaderValue::from_static(value))])
    }

    fn agreed(value: &'static str, offers: Offers) -> ApiResult<(Encoding, View)> {
        negotiate(&accept(value), &Query::default(), offers).map(|n| (n.encoding, n.view))
    }

    #[test]
    fn kubectl_get_asks_for_a_table_first() {
        let header = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(
            agreed(header, Offers::Views).unwrap(),
            (Encoding::Json, View::Table(MetaVersion::V1))
        );
        assert_eq!(
            agreed(header, Offers::Objects).unwrap(),
            (Encoding::Json, View::Object)
        );
    }

    #[test]
    fn quality_orders_clauses_and_wildcards_come_last() {
        assert_eq!(
            agreed("application/json;q=0.5,application/yaml", Offers::Views)
                .unwrap()
                .0,
            Encoding::Yaml
        );
        assert_eq!(
            agreed("*/*,application/yaml", Offers::Views).unwrap().0,
            Encoding::Yaml
        );
        assert_eq!(
            agreed("text/html,*/*;q=0.1", Offers::Views).unwrap().0,
            Encoding::Json
        );
    }

    #[test]
    fn what_cannot_be_had_is_406() {
        assert_eq!(agreed("text/html", Offers::Views).unwrap_err().code, 406);
        assert_eq!(
            agreed(
                "application/json;as=Table;v=v2;g=meta.k8s.io",
                Offers::Views
            )
            .unwrap_err()
            .code,
            406
        );
    }

    #[test]
    fn discovery_versions() {
        let got = |v| aggregated_discovery(&accept(v));
        let kubectl = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert_eq!(got(kubectl).unwrap(), Some("v2"));
        assert_eq!(got("application/json").unwrap(), None);
        assert_eq!(
            got("application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList")
                .unwrap_err()
                .code,
            406
        );
    }
}
