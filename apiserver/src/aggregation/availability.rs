//! Whether an aggregated server can be used: looks at its Service and asks it, at every change and now and then, since
//! a network can fail without telling anybody.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use keelson_auth::User;
use keelson_registry::rest;
use tokio::time::Instant;

use super::registration::Condition;
use super::remote::Remote;
use super::{SERVICES, resolve};
use crate::proxying::target;
use crate::server::Server;
use crate::startup::own;

/// How often a server that answers is asked again, and how often what it serves is read again.
const AGAIN: Duration = Duration::from_secs(30);
const READ_AGAIN: Duration = Duration::from_secs(60);
/// The pause after a first failure; it doubles with every further one.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often one is asked before it counts as gone: others behind the same address may answer.
const TRIES: usize = 5;

/// Looks after a remote until its APIService is gone.
pub async fn attend(server: Arc<Server>, remote: Arc<Remote>) {
    let stop = remote.stop.clone();
    let work = async {
        let mut state = State::default();
        loop {
            let pause = state.round(&server, &remote).await;
            tokio::select! {
                () = remote.woken() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    };
    tokio::select! {
        () = server.stop.cancelled() => {}
        () = stop.cancelled() => {}
        () = work => {}
    }
}

#[derive(Default)]
struct State {
    failures: u32,
    read: Option<Instant>,
}

impl State {
    /// One look; says how long to wait for the next.
    async fn round(&mut self, server: &Arc<Server>, remote: &Arc<Remote>) -> Duration {
        let registration = remote.registration();
        let condition = condition(server, remote).await;
        let failed = condition.reason == "FailedDiscoveryCheck";
        let passed = condition.is_true();
        let is_due = self.read.is_none_or(|at| at.elapsed() >= READ_AGAIN)
            || remote.found().stale
            || !remote.is_available();
        if passed && is_due {
            self.read(server, remote).await;
        }
        if !passed && remote.mark_stale() {
            server.aggregation.republish();
        }
        if condition != registration.condition {
            server
                .metrics
                .aggregation
                .changed(&registration.name, &condition);
            store(server, &registration.name, &condition).await;
        }
        server
            .metrics
            .aggregation
            .unavailable(&registration.name, !passed);
        if passed && is_due {
            match remote.specify(server).await {
                Ok(true) => server.aggregation.republish(),
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(name = registration.name, error, "no OpenAPI document");
                }
            }
        }
        if failed {
            self.failures = self.failures.saturating_add(1);
            return FIRST_PAUSE
                .saturating_mul(1 << self.failures.min(16))
                .min(LONGEST_PAUSE);
        }
        self.failures = 0;
        AGAIN
    }

    /// Reads what the remote serves, so that it is known when the condition says that it can be used.
    async fn read(&mut self, server: &Arc<Server>, remote: &Remote) {
        match remote.discover(server).await {
            Ok(is_new) => {
                self.read = Some(Instant::now());
                if is_new {
                    crate::discovery::publish(server);
                }
            }
            Err(error) => {
                tracing::warn!(
                    name = remote.registration().name,
                    error,
                    "discovery of an aggregated server failed"
                );
                if remote.mark_stale() {
                    server.aggregation.republish();
                }
            }
        }
    }
}

/// What the condition should be.
async fn condition(server: &Server, remote: &Remote) -> Condition {
    let registration = remote.registration();
    let Some(service) = &registration.service else {
        return registration.condition.clone();
    };
    if let Some(fault) = resolve::fault(server.lookup.as_ref(), service) {
        return fault;
    }
    let mut last = match ask(server, remote).await {
        Ok(()) => return Condition::passed(),
        Err(why) => why,
    };
    let others = futures::future::join_all((1..TRIES).map(|_| ask(server, remote))).await;
    for outcome in others {
        match outcome {
            Ok(()) => return Condition::passed(),
            Err(why) => last = why,
        }
    }
    Condition::failed("FailedDiscoveryCheck", last)
}

/// Asks a remote for what every server has: the resources of its group version.
async fn ask(server: &Server, remote: &Remote) -> Result<(), String> {
    let (host, port) = remote.address(server)?;
    let path = remote.registration().root();
    let url = format!("https://{}{path}", target::authority(&host, port));
    let user = User::new("system:kube-aggregator", &[keelson_auth::user::MASTERS]);
    let failed = |why: String| format!("failing or missing response from {url}: {why}");
    let answer = remote
        .get(server, &path, "", "", &user, PATIENCE)
        .await
        .map_err(failed)?;
    if answer.code.is_success() {
        return Ok(());
    }
    Err(failed(format!(
        "bad status from {url}: {}",
        answer.code.as_u16()
    )))
}

/// Stores a condition; if somebody else was quicker, that is looked at again.
async fn store(server: &Arc<Server>, name: &str, condition: &Condition) {
    let Some(object) = server.lookup.get(SERVICES, "", name) else {
        return;
    };
    let mut object = serde_json::Value::clone(&object);
    condition.put(&mut object, &rest::timestamp(Timestamp::now()));
    match own::update_status(server, SERVICES, object).await {
        Ok(_) => {
            tracing::info!(
                name,
                status = condition.status,
                reason = condition.reason,
                message = condition.message,
                "the availability of an APIService changed"
            );
        }
        Err(e) if e.is_conflict() || e.is_not_found() => {
            tracing::debug!(name, error = %e, "the condition of an APIService is set again");
        }
        Err(e) => {
            tracing::warn!(name, error = %e, "the condition of an APIService can't be stored");
        }
    }
}

/// Says of an APIService without a Service that it is available.
pub async fn set_local(server: Arc<Server>, name: String) {
    let condition = Condition {
        status: "True".into(),
        reason: "Local".into(),
        message: "Local APIServices are always available".into(),
    };
    store(&server, &name, &condition).await;
}
