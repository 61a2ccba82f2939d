//! Follows the configuration's file: what is new and healthy comes into force, what is wrong is reported and left alone.

use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::providers::{Encryption, Providers, hash, read};

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// A new configuration's plugins get at least so long to become healthy.
const LEAST_PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) async fn follow(encryption: Encryption, path: PathBuf, stop: CancellationToken) {
    let mut seen = encryption.current().hash().to_vec();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let found = match read(&path) {
            Ok(text) => hash(&text),
            Err(error) => {
                tracing::error!(%error, "error processing encryption config file");
                continue;
            }
        };
        if found == seen || found == encryption.current().hash() {
            continue;
        }
        match load(&path).await {
            Ok(providers) => {
                seen = providers.hash().to_vec();
                encryption.replace(providers);
                tracing::info!(file = %path.display(), "loaded the new encryption configuration");
            }
            Err(Failure::Config(error)) => {
                // It won't get better by trying again: wait for the next change.
                seen = found;
                tracing::error!(file = %path.display(), error, "error processing encryption config file");
            }
            Err(Failure::Health(error)) => {
                tracing::error!(file = %path.display(), error, "health check for new transformers failed");
            }
        }
    }
}

enum Failure {
    Config(String),
    Health(String),
}

async fn load(path: &std::path::Path) -> Result<Providers, Failure> {
    let providers = Providers::load(path)
        .await
        .map_err(|e| Failure::Config(e.to_string()))?;
    let patience = providers.patience().max(LEAST_PATIENCE);
    let started = tokio::time::Instant::now();
    loop {
        match providers.check().await {
            Ok(()) => return Ok(providers),
            Err(error) if started.elapsed() > patience => return Err(Failure::Health(error)),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
