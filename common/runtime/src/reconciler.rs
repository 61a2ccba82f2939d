//! Workers that take keys from a queue and reconcile them.
//!
//! An error puts the key back with backoff; a panic counts as an error, so that one bad object doesn't stop the others.

use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::queue::Queue;

/// What a reconcile asks for when it went well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing until something changes.
    Done,
    /// To be looked at again after a while.
    After(Duration),
}

/// Failures after which a key's errors are worth a warning rather than a note: conflicts are ordinary.
const QUIET_FAILURES: u32 = 5;

/// Runs `workers` workers until `stop`; returns when all have finished the key they were at. Call it once caches are synced.
pub async fn run<K, F, Fut, E>(
    queue: Arc<Queue<K>>,
    name: &str,
    workers: usize,
    stop: CancellationToken,
    reconcile: F,
) where
    K: Clone + Eq + Hash + Debug + Display + Send + Sync + 'static,
    F: Fn(K) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Outcome, E>> + Send,
    E: Display + Send,
{
    let reconcile = Arc::new(reconcile);
    let mut tasks = JoinSet::new();
    for _ in 0..workers.max(1) {
        let (queue, reconcile, name) = (queue.clone(), reconcile.clone(), name.to_owned());
        tasks.spawn(async move {
            while let Some(key) = queue.next().await {
                let result = AssertUnwindSafe(reconcile((*key).clone())).catch_unwind().await;
                match result {
                    Ok(Ok(outcome)) => {
                        queue.forget(&key);
                        if let Outcome::After(delay) = outcome {
                            queue.add_after((*key).clone(), delay);
                        }
                    }
                    Ok(Err(error)) => {
                        let error = brief(&error.to_string());
                        let delay = queue.add_rate_limited((*key).clone());
                        if queue.failures(&key) <= QUIET_FAILURES {
                            debug!(controller = %name, key = %*key, %error, ?delay, "reconcile failed; trying again");
                        } else {
                            warn!(controller = %name, key = %*key, %error, ?delay, "reconcile failed; trying again");
                        }
                    }
                    Err(_) => {
                        error!(controller = %name, key = %*key, "reconcile panicked");
                        queue.add_rate_limited((*key).clone());
                    }
                }
            }
        });
    }
    stop.cancelled().await;
    queue.shut_down();
    while tasks.join_next().await.is_some() {}
}

/// An error without the debug form that the client appends to the API server's words.
fn brief(error: &str) -> String {
    error.split(" (Status {").next().unwrap_or(error).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test(start_paused = true)]
    async fn failures_come_back_with_backoff_and_panics_stop_nobody() {
        let queue = Queue::<String>::new("test");
        queue.add("fails".into());
        queue.add("panics".into());
        queue.add("periodic".into());
        let (fails, panics, periodic) =
            <(Arc<AtomicU32>, Arc<AtomicU32>, Arc<AtomicU32>)>::default();
        let stop = CancellationToken::new();
        let counters = (fails.clone(), panics.clone(), periodic.clone());
        let running = tokio::spawn(run(
            queue.clone(),
            "test",
            2,
            stop.clone(),
            move |key: String| {
                let (fails, panics, periodic) = counters.clone();
                async move {
                    match key.as_str() {
                        "fails" if fails.fetch_add(1, Ordering::SeqCst) < 3 => Err("no"),
                        "panics" if panics.fetch_add(1, Ordering::SeqCst) < 1 => {
                            panic!("expected in this test")
                        }
                        "periodic" => {
                            periodic.fetch_add(1, Ordering::SeqCst);
                            Ok(Outcome::After(Duration::from_secs(10)))
                        }
                        _ => Ok(Outcome::Done),
                    }
                }
            },
        ));
        tokio::time::sleep(Duration::from_secs(35)).await;
        stop.cancel();
        running.await.unwrap();
        assert_eq!(fails.load(Ordering::SeqCst), 4);
        assert_eq!(panics.load(Ordering::SeqCst), 2);
        assert_eq!(periodic.load(Ordering::SeqCst), 4);
        assert_eq!(queue.failures(&"fails".to_owned()), 0);
    }
}
