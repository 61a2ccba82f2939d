//! What a controller is given when it starts.

use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::sync::Arc;

use keelson_runtime::{Informers, Outcome, Queue, Recorder, reconciler};
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::monitors::Monitors;
use crate::options::Options;

/// The surroundings of one controller.
#[derive(Clone)]
pub struct Context {
    /// The controller's name, as `--controllers` has it.
    pub name: &'static str,
    /// A client with the controller's own identity.
    pub client: Client,
    /// The informers that all controllers share, with the manager's identity.
    pub informers: Arc<Informers>,
    /// The watches of all kinds' metadata.
    pub monitors: Arc<Monitors>,
    /// Records events in the controller's name.
    pub recorder: Recorder,
    /// The command line.
    pub options: Arc<Options>,
    /// Cancelled when the manager stops.
    pub stop: CancellationToken,
}

impl Context {
    /// Waits for the informers asked for so far, then works on the queue's keys until the manager stops.
    pub async fn run<K, F, Fut, E>(self, queue: Arc<Queue<K>>, workers: usize, reconcile: F)
    where
        K: Clone + Eq + Hash + Debug + Display + Send + Sync + 'static,
        F: Fn(K) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Outcome, E>> + Send,
        E: Display + Send,
    {
        if self
            .stop
            .run_until_cancelled(self.informers.synced())
            .await
            .is_none()
        {
            return;
        }
        reconciler::run(queue, self.name, workers, self.stop, reconcile).await;
    }
}

/// What ends a controller that can't start; the others go on.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A flag it needs is missing or wrong.
    #[error("{0}")]
    Options(String),
    /// A file it needs can't be read.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The API server refused.
    #[error(transparent)]
    Api(#[from] kube::Error),
}

/// The time now, in whole seconds as the API keeps it.
pub fn now() -> jiff::Timestamp {
    jiff::Timestamp::from_second(jiff::Timestamp::now().as_second())
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}
