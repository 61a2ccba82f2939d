//! `/healthz`, `/livez` and `/readyz`: named checks, each on its own path too, some left out on request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::BoxFuture;
use keelson_api::status::Status;

use crate::query::Query;
use crate::response::{self, ApiResult, Response};

/// One check: what is wrong, if anything.
pub type Check = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// Which of the three paths a check belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Groups {
    /// All of them.
    All,
    /// `/readyz` only.
    Ready,
}

struct Named {
    name: &'static str,
    groups: Groups,
    check: Check,
}

/// A start-up step that is done or not.
#[derive(Debug, Clone, Default)]
pub struct Step(Arc<AtomicBool>);

impl Step {
    /// Marks the step as done.
    pub fn done(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it is done.
    pub fn is_done(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The server's checks, in their order.
#[derive(Default)]
pub struct Health(Vec<Named>);

impl Health {
    /// Adds a check.
    pub fn add(&mut self, name: &'static str, groups: Groups, check: Check) {
        self.0.push(Named {
            name,
            groups,
            check,
        });
    }

    /// Adds a start-up step as a check.
    pub fn add_step(&mut self, name: &'static str, groups: Groups) -> Step {
        let step = Step::default();
        let seen = step.clone();
        self.add(
            name,
            groups,
            Arc::new(move || {
                let done = seen.is_done();
                Box::pin(async move {
                    if done {
                        Ok(())
                    } else {
                        Err("not finished".to_owned())
                    }
                })
            }),
        );
        step
    }

    /// Answers `/healthz…`, `/livez…` or `/readyz…`.
    pub async fn answer(&self, path: &str, query: &Query) -> ApiResult<Response> {
        let path = path.trim_matches('/');
        let (endpoint, single) = path.split_once('/').unwrap_or((path, ""));
        let in_group = |n: &&Named| endpoint == "readyz" || n.groups == Groups::All;
        if !single.is_empty() {
            let named = self
                .0
                .iter()
                .filter(in_group)
                .find(|n| n.name == single)
                .ok_or_else(Status::no_such_path)?;
            return Ok(match (named.check)().await {
                Ok(()) => response::text(200, "ok"),
                Err(e) => response::text(500, format!("internal server error: {e}\n")),
            });
        }
        let excluded: Vec<&str> = query.all("exclude").collect();
        let mut lines = String::new();
        let mut failed = Vec::new();
        for named in self.0.iter().filter(in_group) {
            if excluded.contains(&named.name) {
                lines.push_str(&format!("[+]{} excluded: ok\n", named.name));
                continue;
            }
            match (named.check)().await {
                Ok(()) => lines.push_str(&format!("[+]{} ok\n", named.name)),
                Err(e) => {
                    tracing::debug!(check = named.name, error = e, "health check failed");
                    lines.push_str(&format!("[-]{} failed: reason withheld\n", named.name));
                    failed.push(named.name);
                }
            }
        }
        let unknown: Vec<String> = excluded
            .iter()
            .filter(|e| !self.0.iter().any(|n| n.name == **e))
            .map(|e| format!("{e:?}"))
            .collect();
        if !unknown.is_empty() {
            lines.push_str(&format!(
                "warn: some health checks cannot be excluded: no matches for {}\n",
                unknown.join(",")
            ));
        }
        if !failed.is_empty() {
            tracing::debug!(endpoint, ?failed, "not healthy");
            return Ok(response::text(
                500,
                format!("{lines}{endpoint} check failed\n"),
            ));
        }
        if query.has("verbose") {
            return Ok(response::text(
                200,
                format!("{lines}{endpoint} check passed\n"),
            ));
        }
        Ok(response::text(200, "ok"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn failing_steps_fail_only_their_endpoints_and_can_be_excluded() {
        let mut health = Health::default();
        health.add("ping", Groups::All, Arc::new(|| Box::pin(async { Ok(()) })));
        let step = health.add_step("poststarthook/x", Groups::Ready);
        let code = |path: &'static str, query: &'static str| {
            let health = &health;
            async move {
                health
                    .answer(path, &Query::parse(query))
                    .await
                    .map(|r| r.status().as_u16())
            }
        };
        assert_eq!(code("/livez", "").await.unwrap(), 200);
        assert_eq!(code("/readyz", "").await.unwrap(), 500);
        assert_eq!(
            code("/readyz", "exclude=poststarthook/x").await.unwrap(),
            200
        );
        assert_eq!(code("/readyz/ping", "").await.unwrap(), 200);
        assert_eq!(code("/readyz/poststarthook/x", "").await.unwrap(), 500);
        assert_eq!(code("/livez/none", "").await.unwrap_err().code, 404);
        step.done();
        assert_eq!(code("/readyz", "verbose").await.unwrap(), 200);
    }
}
