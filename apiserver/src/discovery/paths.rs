//! Small documents: the index of paths, the version, metrics, and what verifies service-account tokens elsewhere.

use keelson_auth::service_account::discovery;
use keelson_daemon::version::{GIT_VERSION, MAJOR, MINOR, go_arch};
use serde_json::json;

use crate::response::{self, Response};
use crate::server::Server;

/// `/`.
pub fn index(server: &Server) -> Response {
    let mut paths = server.documents.load().paths();
    for path in [
        "/.well-known/openid-configuration",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
    ] {
        paths.push(path.to_owned());
    }
    paths.sort();
    response::json(200, &json!({"paths": paths}))
}

/// `/version`.
pub fn version() -> Response {
    response::json(
        200,
        &json!({
            "major": MAJOR,
            "minor": MINOR,
            "emulationMajor": MAJOR,
            "emulationMinor": MINOR,
            "minCompatibilityMajor": MAJOR,
            "minCompatibilityMinor": "35",
            "gitVersion": GIT_VERSION,
            "gitCommit": option_env!("KEELSON_GIT_COMMIT").unwrap_or_default(),
            "gitTreeState": "clean",
            "buildDate": option_env!("KEELSON_BUILD_DATE").unwrap_or("1970-01-01T00:00:00Z"),
            "goVersion": "",
            "compiler": "rustc",
            "platform": format!("{}/{}", std::env::consts::OS, go_arch()),
        }),
    )
}

/// `/metrics`.
pub fn metrics(server: &Server) -> Response {
    let objects: Vec<(String, usize)> = server
        .resources
        .all()
        .iter()
        .filter(|r| r.kind.is_stored() && r.cached_as.is_none())
        .filter_map(|r| Some((r.id.clone(), server.cache.count(&r.id).ok()?)))
        .collect();
    let mut text = server.metrics.render(&objects);
    if server.options.priority_and_fairness {
        crate::fairness::metrics::render(&server.fairness, &mut text);
    }
    response::with_type(200, "text/plain; version=0.0.4; charset=utf-8", text)
}

/// `/.well-known/openid-configuration`.
pub fn openid_configuration(server: &Server) -> Response {
    let options = &server.options;
    let uri = options.jwks_uri.clone().unwrap_or_else(|| {
        let host = match options.advertise_address {
            std::net::IpAddr::V6(ip) => format!("[{ip}]"),
            ip => ip.to_string(),
        };
        format!("https://{host}:{}/openid/v1/jwks", options.secure_port)
    });
    cached(response::json(
        200,
        &discovery::configuration(&server.issuer, &uri),
    ))
}

/// `/openid/v1/jwks`.
pub fn json_web_keys(server: &Server) -> Response {
    let mut answer = cached(response::json(200, &discovery::keys(&server.issuer)));
    answer.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/jwk-set+json"),
    );
    answer
}

fn cached(mut answer: Response) -> Response {
    if let Ok(value) =
        http::HeaderValue::from_str(&format!("public, max-age={}", discovery::MAX_AGE))
    {
        answer
            .headers_mut()
            .insert(http::header::CACHE_CONTROL, value);
    }
    answer
}
