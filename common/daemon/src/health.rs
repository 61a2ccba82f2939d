//! `/healthz`, `/livez` and `/readyz`: named checks with upstream's output, `?verbose` and `?exclude=`.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use http::StatusCode;

type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The checks of a daemon, in the order they were added.
#[derive(Clone, Default)]
pub struct Health {
    checks: Arc<RwLock<Vec<(String, bool, Check)>>>,
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Health").finish_non_exhaustive()
    }
}

impl Health {
    /// Checks with only `ping`, which always passes.
    pub fn new() -> Self {
        let health = Self::default();
        health.add("ping", || Ok(()));
        health
    }

    /// Adds a check to all three paths. Its error is logged, and shown only in verbose output to authorized callers.
    pub fn add(&self, name: &str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.insert(name, false, Arc::new(check));
    }

    /// Adds a check to `/readyz` only.
    pub fn add_ready(
        &self,
        name: &str,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) {
        self.insert(name, true, Arc::new(check));
    }

    fn insert(&self, name: &str, ready_only: bool, check: Check) {
        self.checks
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push((name.to_owned(), ready_only, check));
    }

    /// Answers a path such as `/readyz` or `/livez/ping` with a query such as `verbose&exclude=etcd`; `None` when it is no health path.
    pub fn answer(&self, path: &str, query: Option<&str>) -> Option<(StatusCode, String)> {
        let mut parts = path.trim_start_matches('/').splitn(2, '/');
        let endpoint = parts
            .next()
            .filter(|e| matches!(*e, "healthz" | "livez" | "readyz"))?;
        let checks: Vec<_> = self
            .checks
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .filter(|(_, ready_only, _)| !ready_only || endpoint == "readyz")
            .cloned()
            .collect();
        if let Some(name) = parts.next().filter(|name| !name.is_empty()) {
            let (_, _, check) = checks.iter().find(|(n, _, _)| n == name)?;
            return Some(match check() {
                Ok(()) => (StatusCode::OK, "ok".into()),
                Err(error) => (
                    StatusCode::INTERNAL_SERVER_ERROR,
                    format!("internal server error: {error}\n"),
                ),
            });
        }
        let parameters = parse_query(query.unwrap_or_default());
        let excluded = parameters.get("exclude").cloned().unwrap_or_default();
        let mut text = String::new();
        let mut failed = Vec::new();
        for (name, _, check) in &checks {
            if excluded.contains(name) {
                text.push_str(&format!("[+]{name} excluded: ok\n"));
                continue;
            }
            match check() {
                Ok(()) => text.push_str(&format!("[+]{name} ok\n")),
                Err(error) => {
                    tracing::info!(check = name.as_str(), %error, "{endpoint} check failed");
                    text.push_str(&format!("[-]{name} failed: reason withheld\n"));
                    failed.push(name.as_str());
                }
            }
        }
        for name in excluded
            .iter()
            .filter(|name| !checks.iter().any(|(n, ..)| n == *name))
        {
            text.push_str(&format!(
                "warn: some health checks cannot be excluded: no matches for \"{name}\"\n"
            ));
        }
        Some(if failed.is_empty() {
            if parameters.contains_key("verbose") {
                (StatusCode::OK, format!("{text}{endpoint} check passed\n"))
            } else {
                (StatusCode::OK, "ok".into())
            }
        } else {
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("{text}{endpoint} check failed\n"),
            )
        })
    }
}

fn parse_query(query: &str) -> BTreeMap<String, Vec<String>> {
    let mut parameters: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        parameters
            .entry(key.to_owned())
            .or_default()
            .push(value.replace("%2F", "/").replace("%2f", "/"));
    }
    parameters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_as_upstream() {
        let health = Health::new();
        assert_eq!(
            health.answer("/healthz", None),
            Some((StatusCode::OK, "ok".into()))
        );
        assert_eq!(
            health.answer("/livez/ping", None),
            Some((StatusCode::OK, "ok".into()))
        );
        assert_eq!(health.answer("/other", None), None);
        health.add_ready("etcd", || Err("gone".into()));
        assert_eq!(
            health.answer("/livez", Some("verbose")),
            Some((StatusCode::OK, "[+]ping ok\nlivez check passed\n".into()))
        );
        let (status, text) = health.answer("/readyz", None).expect("a health path");
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(
            text,
            "[+]ping ok\n[-]etcd failed: reason withheld\nreadyz check failed\n"
        );
        assert_eq!(
            health.answer("/readyz", Some("verbose&exclude=etcd")),
            Some((
                StatusCode::OK,
                "[+]ping ok\n[+]etcd excluded: ok\nreadyz check passed\n".into()
            ))
        );
    }
}
