//! `sd_notify`: readiness, stopping and the watchdog. Does nothing where systemd did not start the process.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

/// Tells systemd that the daemon serves.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// Tells systemd that the daemon is about to end.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "could not notify systemd");
    }
}

/// Feeds systemd's watchdog, at half its interval, for as long as the async runtime makes progress.
pub fn watchdog(stop: CancellationToken) {
    let Some(interval) = watchdog_interval(|name| std::env::var(name).ok()) else {
        return;
    };
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(interval / 2);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => notify(&[NotifyState::Watchdog]),
            }
        }
    });
}

/// `WATCHDOG_USEC`, when it is meant for this process.
fn watchdog_interval(env: impl Fn(&str) -> Option<String>) -> Option<Duration> {
    let micros: u64 = env("WATCHDOG_USEC")?.parse().ok()?;
    if let Some(pid) = env("WATCHDOG_PID")
        && pid.parse() != Ok(std::process::id())
    {
        return None;
    }
    (micros > 0).then(|| Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watchdog_is_only_ours() {
        let env = |pid: String| {
            move |name: &str| {
                if name == "WATCHDOG_USEC" {
                    Some("2000000".into())
                } else {
                    Some(pid.clone())
                }
            }
        };
        assert_eq!(
            watchdog_interval(env(std::process::id().to_string())),
            Some(Duration::from_secs(2))
        );
        assert_eq!(watchdog_interval(env("1".into())), None);
        assert_eq!(watchdog_interval(|_| None), None);
    }
}
