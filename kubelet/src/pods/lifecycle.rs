//! Hooks, and stopping a container with its preStop hook inside the grace period.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{LifecycleHandler, Pod};
use keelson_runtime::recorder::Kind;
use tokio::time::Instant;

use super::containers::Item;
use crate::exec;
use crate::host::Host;
use crate::probes::http;
use crate::runtime::{ContainerRef, RuntimeError};

/// Least time that a container has to end, whatever is left of the grace period.
const MINIMUM_GRACE: Duration = Duration::from_secs(2);

/// Why a hook failed.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// The command failed or could not be run.
    #[error("{0}")]
    Exec(#[from] exec::ExecError),
    /// The command ran and failed.
    #[error("command '{command}' exited with {code}: {output}")]
    Exit {
        /// The command.
        command: String,
        /// Exit code.
        code: i32,
        /// What it said.
        output: String,
    },
    /// The request failed.
    #[error("{0}")]
    Http(String),
}

/// Where a hook runs.
pub struct Place<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its container's spec.
    pub item: &'a Item,
    /// The running attempt.
    pub container: &'a ContainerRef,
    /// Address of the pod.
    pub ip: Option<IpAddr>,
}

/// Runs a hook to its end.
pub async fn run_hook(
    host: &Host,
    place: &Place<'_>,
    hook: &LifecycleHandler,
) -> Result<(), HookError> {
    if let Some(action) = &hook.exec {
        let command = action.command.clone().unwrap_or_default();
        let outcome = exec::run(
            &*host.runtime.runtime,
            place.container,
            &command,
            None,
            10 << 10,
        )
        .await?;
        return match outcome.code {
            0 => Ok(()),
            code => Err(HookError::Exit {
                command: command.join(" "),
                code,
                output: outcome.output,
            }),
        };
    }
    if let Some(action) = &hook.http_get {
        let target =
            http::Target::of(action, &place.item.container, place.ip).map_err(HookError::Http)?;
        let answer = http::get(&target, Duration::from_secs(30))
            .await
            .map_err(|e| HookError::Http(e.to_string()))?;
        return match answer.status {
            200..400 => Ok(()),
            status => Err(HookError::Http(format!(
                "HTTP hook failed with statuscode: {status}"
            ))),
        };
    }
    if let Some(action) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(
            u64::try_from(action.seconds).unwrap_or(0),
        ))
        .await;
    }
    Ok(())
}

/// Stops a container: event, preStop hook, stop signal, and the end when the grace is over.
pub async fn stop(
    host: &Host,
    place: &Place<'_>,
    grace: Duration,
    message: &str,
) -> Result<(), RuntimeError> {
    let path = Some(place.item.field_path.as_str());
    host.event(place.pod, path, Kind::Normal, "Killing", message);
    let started = Instant::now();
    let hook = place
        .item
        .container
        .lifecycle
        .as_ref()
        .and_then(|l| l.pre_stop.as_ref());
    if let Some(hook) = hook.filter(|_| !grace.is_zero()) {
        match tokio::time::timeout(grace, run_hook(host, place, hook)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, container = place.item.name(), "preStop hook failed");
                host.event(
                    place.pod,
                    path,
                    Kind::Warning,
                    "FailedPreStopHook",
                    "PreStopHook failed",
                );
            }
            Err(_) => tracing::debug!(
                container = place.item.name(),
                "preStop hook not ended within the grace period"
            ),
        }
    }
    let left = grace.saturating_sub(started.elapsed()).max(MINIMUM_GRACE);
    host.runtime
        .runtime
        .stop_container(place.container, left)
        .await
}
