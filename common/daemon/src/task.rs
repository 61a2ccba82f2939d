//! Task kinds: what the failure of a background task means is said where it is spawned.

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Spawns a task without which the daemon is useless: when it ends before `stop` is cancelled, or panics, the
/// process stops, so that its supervisor starts it afresh.
pub fn spawn_critical<F>(name: &'static str, stop: &CancellationToken, future: F) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let stop = stop.clone();
    let task = tokio::spawn(future);
    tokio::spawn(async move {
        let outcome = task.await;
        if stop.is_cancelled() {
            return;
        }
        match outcome {
            Ok(()) => tracing::error!(task = name, "a task that must not end has ended"),
            Err(error) => {
                tracing::error!(task = name, %error, "a task that must not end has failed")
            }
        }
        stop.cancel();
    })
}

/// Spawns a task that may end; a panic in it is logged and the rest of the daemon goes on.
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let task = tokio::spawn(future);
    tokio::spawn(async move {
        if let Err(error) = task.await
            && error.is_panic()
        {
            tracing::error!(task = name, %error, "task failed");
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_a_critical_task_stops_the_daemon() {
        let stop = CancellationToken::new();
        spawn_critical("t", &stop, async {});
        stop.cancelled().await;
    }
}
