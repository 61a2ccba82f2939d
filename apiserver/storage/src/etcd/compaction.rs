//! Compaction every few minutes, agreed upon between API servers (upstream's too) by one key.
//!
//! The key's etcd version is a logical clock. Who moves it on compacts to the revision that it read one interval
//! before; who finds it moved waits for another interval. So history of at least one interval always stays.

use std::time::Duration;

use etcd_client::{Compare, CompareOp, Txn, TxnOp, TxnOpResponse};

use super::{EtcdStore, header_revision, signed};
use crate::error::{Result, StoreError};
use crate::store::{Revision, Store};

/// Outside of `/registry`, as upstream's.
pub(super) const KEY: &str = "compact_rev_key";

/// What one round learnt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactionClock {
    /// The version of the key.
    pub version: i64,
    /// The revision to compact to in the next round; 0 before the first.
    pub revision: Revision,
}

impl EtcdStore {
    /// Compacts every `interval`, for ever, and tells up to which revision (exclusively) the past has gone. Cancelled by dropping.
    pub async fn compact_every(&self, interval: Duration, gone: impl Fn(Revision) + Send) {
        let mut clock = CompactionClock::default();
        loop {
            tokio::time::sleep(interval).await;
            match self.compaction_round(clock).await {
                Ok(next) => {
                    // Whoever compacted, this server or another: what was there a round ago is the oldest state left.
                    gone(clock.revision);
                    clock = next;
                }
                Err(error) => tracing::error!(%error, "etcd compaction failed"),
            }
        }
    }

    /// One round: moves the clock on and compacts, or takes note of who did.
    pub async fn compaction_round(&self, clock: CompactionClock) -> Result<CompactionClock> {
        let txn = Txn::new()
            .when([Compare::version(KEY, CompareOp::Equal, clock.version)])
            .and_then([TxnOp::put(KEY, clock.revision.to_string(), None)])
            .or_else([TxnOp::get(KEY, None)]);
        let answer = self.txn(txn).await?;
        let revision = header_revision(answer.header())?;
        if !answer.succeeded() {
            let version = answer
                .op_responses()
                .into_iter()
                .find_map(|response| match response {
                    TxnOpResponse::Get(got) => got.kvs().first().map(|kv| kv.version()),
                    _ => None,
                })
                .unwrap_or(0);
            return Ok(CompactionClock { version, revision });
        }
        let next = CompactionClock {
            version: clock.version + 1,
            revision,
        };
        if clock.revision == 0 {
            // The first round after the start: nothing is known yet that is an interval old.
            return Ok(next);
        }
        match self.compact(clock.revision).await {
            Ok(()) => {
                tracing::debug!(revision = clock.revision, "compacted etcd");
                Ok(next)
            }
            // Somebody (etcd's own compaction, an administrator) went further already.
            Err(StoreError::Compacted { .. }) => Ok(next),
            Err(error) => {
                tracing::error!(%error, revision = signed(clock.revision), "etcd refused to compact");
                Ok(next)
            }
        }
    }
}
