//! A watch that outlives the server's restarts.
//!
//! Nothing in etcd or its client resumes a watch whose connection ended; this opens it again behind the last revision
//! that was delivered, so that no event is lost or seen twice.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;

use crate::error::{Result, StoreError};
use crate::store::{Event, EventStream, Revision, Store, WatchOptions};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// All changes under `prefix` with a revision greater than `after`. Goes on through outages; ends with
/// [`StoreError::Compacted`] when the history it needs is gone, or with an error that time won't mend.
pub fn resume(store: Arc<dyn Store>, prefix: String, after: Revision) -> EventStream {
    let watch = Resuming {
        store,
        prefix,
        after,
        open: None,
        pause: FIRST_PAUSE,
    };
    futures::stream::unfold(Some(watch), |watch| async {
        let mut watch = watch?;
        match watch.next().await {
            Ok(events) => Some((Ok(events), Some(watch))),
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed()
}

struct Resuming {
    store: Arc<dyn Store>,
    prefix: String,
    after: Revision,
    open: Option<EventStream>,
    pause: Duration,
}

impl Resuming {
    async fn next(&mut self) -> Result<Vec<Event>> {
        loop {
            let failure = match self.step().await {
                Ok(Some(events)) => return Ok(events),
                Ok(None) => StoreError::Unavailable("the watch's stream ended".to_owned()),
                Err(error) if error.is_transient() => error,
                Err(error) => return Err(error),
            };
            self.open = None;
            tracing::warn!(
                prefix = self.prefix,
                after = self.after,
                error = %failure,
                "store watch interrupted, opening it again"
            );
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn step(&mut self) -> Result<Option<Vec<Event>>> {
        let stream = match &mut self.open {
            Some(stream) => stream,
            None => {
                let options = WatchOptions {
                    after_revision: Some(self.after),
                    previous: false,
                };
                let stream = self.store.watch(&self.prefix, options).await?;
                self.open.insert(stream)
            }
        };
        let Some(events) = stream.next().await.transpose()? else {
            return Ok(None);
        };
        self.pause = FIRST_PAUSE;
        if let Some(last) = events.last() {
            self.after = last.revision();
        }
        Ok(Some(events))
    }
}
