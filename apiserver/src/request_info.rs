//! What a request asks for, read off its method, path and query alone.
//!
//! Authorization, metrics and routing all work from [`RequestInfo`]; whether the resource exists is the router's question.

use http::Method;

use crate::query::Query;

/// Verbs that are part of the path, before the resource (`/api/v1/watch/pods`).
const PATH_VERBS: [&str; 2] = ["proxy", "watch"];
/// What may follow `/namespaces/<name>/` without being a resource inside the namespace.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

/// The request in the API's own terms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// Whether the path names a resource (else only `path` and `verb` count).
    pub is_resource: bool,
    /// The path as it was sent.
    pub path: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for other paths the method in lower case.
    pub verb: String,
    /// `api` or `apis`.
    pub prefix: String,
    /// API group, empty for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Namespace, empty for none or all.
    pub namespace: String,
    /// Plural name of the resource.
    pub resource: String,
    /// Subresource, or empty.
    pub subresource: String,
    /// Object's name; for lists the name that `metadata.name=` selects.
    pub name: String,
    /// Path segments from the resource on: resource, name, subresource, and what follows.
    pub parts: Vec<String>,
    /// The verb stood in the path (`/watch/`).
    pub verb_in_path: bool,
}

impl RequestInfo {
    /// Reads method, path (undecoded) and query.
    pub fn parse(method: &Method, path: &str, query: &Query) -> Self {
        let mut info = RequestInfo {
            path: path.to_owned(),
            verb: method.as_str().to_ascii_lowercase(),
            ..Default::default()
        };
        let decoded: Vec<String> = path
            .trim_matches('/')
            .split('/')
            .map(decode_segment)
            .collect();
        let mut rest: &[String] = &decoded;
        if rest.len() < 3 || (rest[0] != "api" && rest[0] != "apis") {
            return info;
        }
        let prefix = rest[0].clone();
        rest = &rest[1..];
        if prefix == "apis" {
            if rest.len() < 3 {
                return info;
            }
            info.group = rest[0].clone();
            rest = &rest[1..];
        }
        info.prefix = prefix;
        info.is_resource = true;
        info.version = rest[0].clone();
        rest = &rest[1..];

        if PATH_VERBS.contains(&rest[0].as_str()) {
            if rest.len() < 2 {
                // "/api/v1/watch" alone names nothing.
                info.is_resource = false;
                return info;
            }
            info.verb = rest[0].clone();
            info.verb_in_path = true;
            rest = &rest[1..];
        } else {
            info.verb = match *method {
                Method::POST => "create",
                Method::GET | Method::HEAD => "get",
                Method::PUT => "update",
                Method::PATCH => "patch",
                Method::DELETE => "delete",
                _ => "",
            }
            .to_owned();
        }

        if rest[0] == "namespaces" && rest.len() > 1 {
            info.namespace = rest[1].clone();
            if rest.len() > 2 && !NAMESPACE_SUBRESOURCES.contains(&rest[2].as_str()) {
                rest = &rest[2..];
            }
        }
        info.parts = rest.to_vec();
        if rest.len() >= 3 && info.verb != "proxy" {
            info.subresource = rest[2].clone();
        }
        if rest.len() >= 2 {
            info.name = rest[1].clone();
        }
        info.resource = rest[0].clone();
        if info.name.is_empty() {
            match info.verb.as_str() {
                "get" | "watch" => {
                    if let Some(name) = selected_name(query) {
                        info.name = name;
                    }
                    if info.verb == "get" {
                        info.verb = if query.flag("watch") { "watch" } else { "list" }.to_owned();
                    }
                }
                "delete" => info.verb = "deletecollection".to_owned(),
                _ => {}
            }
        }
        info
    }

    /// The name that stands in the path (not the one selected by a field selector).
    pub fn path_name(&self) -> &str {
        self.parts.get(1).map(String::as_str).unwrap_or_default()
    }

    /// Whether the request can last for long: watches, logs that follow, tunnels and proxied requests.
    pub fn is_long_running(&self) -> bool {
        matches!(self.verb.as_str(), "watch" | "proxy")
            || (self.is_resource
                && matches!(
                    self.subresource.as_str(),
                    "attach" | "exec" | "portforward" | "log" | "proxy"
                ))
    }

    /// What kind of request it is, for metrics: `resource`, `namespace`, `cluster` or empty.
    pub fn scope(&self) -> &'static str {
        if !self.is_resource {
            ""
        } else if !self.path_name().is_empty() || self.verb == "create" {
            "resource"
        } else if !self.namespace.is_empty() {
            "namespace"
        } else {
            "cluster"
        }
    }
}

/// Decodes `%XX` in one path segment; what isn't UTF-8 afterwards stays as it was.
fn decode_segment(segment: &str) -> String {
    if !segment.contains('%') {
        return segment.to_owned();
    }
    percent_decode(segment, false).unwrap_or_else(|| segment.to_owned())
}

/// Decodes percent escapes (and `+` as a space in queries).
pub(crate) fn percent_decode(text: &str, plus_is_space: bool) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i] {
            b'%' => {
                let hex = bytes
                    .get(i + 1..i + 3)
                    .and_then(|h| std::str::from_utf8(h).ok())?;
                out.push(u8::from_str_radix(hex, 16).ok()?);
                i += 3;
            }
            b'+' if plus_is_space => {
                out.push(b' ');
                i += 1;
            }
            b => {
                out.push(b);
                i += 1;
            }
        }
    }
    String::from_utf8(out).ok()
}

/// The name in a field selector that pins `metadata.name` by equality.
fn selected_name(query: &Query) -> Option<String> {
    let selector = query.get("fieldSelector")?;
    selector.split(',').find_map(|term| {
        let (field, value) = term.split_once('=')?;
        let value = value.strip_prefix('=').unwrap_or(value);
        (field.trim() == "metadata.name"
            && !value.is_empty()
            && !value.contains('/')
            && value != "."
            && value != "..")
            .then(|| value.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(method: Method, uri: &str) -> RequestInfo {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        RequestInfo::parse(&method, path, &Query::parse(query))
    }

    #[test]
    fn verbs_follow_method_name_and_query() {
        for (method, uri, verb, ns, resource, sub, name) in [
            (Method::GET, "/api/v1/pods", "list", "", "pods", "", ""),
            (
                Method::GET,
                "/api/v1/pods?watch=1",
                "watch",
                "",
                "pods",
                "",
                "",
            ),
            (
                Method::GET,
                "/api/v1/pods?watch=false",
                "list",
                "",
                "pods",
                "",
                "",
            ),
            (
                Method::GET,
                "/api/v1/watch/namespaces/a/pods",
                "watch",
                "a",
                "pods",
                "",
                "",
            ),
            (
                Method::GET,
                "/api/v1/watch/namespaces/a/pods/x",
                "watch",
                "a",
                "pods",
                "",
                "x",
            ),
            (
                Method::GET,
                "/api/v1/namespaces/a",
                "get",
                "a",
                "namespaces",
                "",
                "a",
            ),
            (
                Method::PUT,
                "/api/v1/namespaces/a/finalize",
                "update",
                "a",
                "namespaces",
                "finalize",
                "a",
            ),
            (
                Method::GET,
                "/api/v1/namespaces/a/pods/x/log",
                "get",
                "a",
                "pods",
                "log",
                "x",
            ),
            (
                Method::DELETE,
                "/apis/apps/v1/namespaces/a/deployments",
                "deletecollection",
                "a",
                "deployments",
                "",
                "",
            ),
            (
                Method::DELETE,
                "/apis/apps/v1/namespaces/a/deployments/d",
                "delete",
                "a",
                "deployments",
                "",
                "d",
            ),
            (
                Method::POST,
                "/apis/apps/v1/namespaces/a/deployments",
                "create",
                "a",
                "deployments",
                "",
                "",
            ),
            (
                Method::GET,
                "/api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Dx",
                "list",
                "a",
                "pods",
                "",
                "x",
            ),
        ] {
            let got = info(method, uri);
            assert!(got.is_resource, "{uri}");
            assert_eq!(
                (
                    got.verb.as_str(),
                    got.namespace.as_str(),
                    got.resource.as_str(),
                    got.subresource.as_str(),
                    got.name.as_str()
                ),
                (verb, ns, resource, sub, name),
                "{uri}"
            );
        }
    }

    #[test]
    fn discovery_and_health_paths_are_no_resources() {
        for uri in [
            "/",
            "/api",
            "/api/v1",
            "/apis",
            "/apis/apps",
            "/apis/apps/v1",
            "/healthz",
            "/openapi/v3/apis/apps/v1",
        ] {
            let got = info(Method::GET, uri);
            assert!(!got.is_resource, "{uri}");
            assert_eq!(got.verb, "get");
        }
    }

    #[test]
    fn proxy_keeps_its_tail() {
        let got = info(
            Method::GET,
            "/api/v1/namespaces/a/services/https:web:443/proxy/x/y",
        );
        assert_eq!(got.parts, ["services", "https:web:443", "proxy", "x", "y"]);
        assert!(got.is_long_running());
    }
}
