//! Configuration files that are followed while the server runs: what is new and right comes into force, what is wrong is
//! reported and the old stays.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(5);

type Parse<T> = Box<dyn Fn(&[u8]) -> Result<T, String> + Send + Sync>;

/// What a file says, now.
pub struct Followed<T> {
    path: PathBuf,
    parse: Parse<T>,
    current: ArcSwap<T>,
}

impl<T: Send + Sync + 'static> Followed<T> {
    /// Reads the file, and goes on reading it until `stop`.
    pub fn start(
        path: &Path,
        stop: &CancellationToken,
        parse: impl Fn(&[u8]) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Arc<Self>, String> {
        let text = read(path)?;
        let first = parse(&text).map_err(|e| format!("{e}: from file {}", path.display()))?;
        let followed = Arc::new(Followed {
            path: path.to_owned(),
            parse: Box::new(parse),
            current: ArcSwap::from_pointee(first),
        });
        let (following, stop) = (followed.clone(), stop.clone());
        let seen = Sha256::digest(&text);
        tokio::spawn(async move {
            stop.run_until_cancelled(following.follow(seen.to_vec()))
                .await
        });
        Ok(followed)
    }

    /// What it says.
    pub fn current(&self) -> Arc<T> {
        self.current.load_full()
    }

    async fn follow(&self, mut seen: Vec<u8>) {
        loop {
            tokio::time::sleep(LOOK).await;
            let text = match read(&self.path) {
                Ok(text) => text,
                Err(error) => {
                    tracing::warn!(
                        error,
                        "a configuration file can't be read, what it said stays"
                    );
                    continue;
                }
            };
            let found = Sha256::digest(&text).to_vec();
            if found == seen {
                continue;
            }
            seen = found;
            match (self.parse)(&text) {
                Ok(new) => {
                    self.current.store(Arc::new(new));
                    tracing::info!(file = %self.path.display(), "loaded the changed file");
                }
                Err(error) => {
                    tracing::error!(file = %self.path.display(), error, "the changed file is wrong, what it said before stays");
                }
            }
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|e| format!("failed to read file path {:?}: {e}", path.display()))
}
