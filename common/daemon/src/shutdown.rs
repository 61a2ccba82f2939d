//! SIGTERM and SIGINT become one cancellation token that the whole daemon listens to.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Starts listening for SIGTERM and SIGINT. The first cancels the token; a second ends the process at once with
/// exit code 1, as upstream's daemons do.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let cancelled = token.clone();
    tokio::spawn(async move {
        let mut first = true;
        loop {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            if !first {
                std::process::exit(1);
            }
            first = false;
            tracing::info!("received a signal to stop");
            crate::systemd::stopping();
            cancelled.cancel();
        }
    });
    Ok(token)
}
