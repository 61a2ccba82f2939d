//! The latest changes of one resource, numbered, so that any number of watchers read them by cursor.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use super::CacheOptions;
use super::change::Change;
use crate::store::Revision;

pub(super) struct Ring {
    changes: VecDeque<(Instant, Arc<Change>)>,
    /// The number of the first change that is kept.
    first: u64,
    /// All changes with a greater revision are kept.
    low: Revision,
    bytes: usize,
    options: CacheOptions,
}

impl Ring {
    pub(super) fn new(options: &CacheOptions) -> Self {
        Ring {
            changes: VecDeque::new(),
            first: 0,
            low: 0,
            bytes: 0,
            options: options.clone(),
        }
    }

    /// The number that the next change will get.
    pub(super) fn next(&self) -> u64 {
        self.first + self.changes.len() as u64
    }

    /// The history behind this revision is complete.
    pub(super) fn low(&self) -> Revision {
        self.low
    }

    /// Nobody may start before this revision (any more): what happened before it was not all seen.
    pub(super) fn raise_low(&mut self, low: Revision) {
        self.low = self.low.max(low);
    }

    pub(super) fn push(&mut self, change: Arc<Change>) {
        let now = Instant::now();
        self.bytes += change.bytes();
        self.changes.push_back((now, change));
        while self.changes.len() > self.options.min_ring && self.too_much(now) {
            if let Some((_, dropped)) = self.changes.pop_front() {
                self.bytes -= dropped.bytes();
                self.first += 1;
                self.raise_low(dropped.revision);
            }
        }
    }

    fn too_much(&self, now: Instant) -> bool {
        self.changes.len() > self.options.max_ring
            || self.bytes > self.options.ring_bytes
            || self
                .changes
                .front()
                .is_some_and(|(at, _)| now.duration_since(*at) > self.options.ring_age)
    }

    /// The number of the first change with a greater revision; `None` if some may be lost.
    pub(super) fn after(&self, revision: Revision) -> Option<u64> {
        if revision < self.low {
            return None;
        }
        let skip = self
            .changes
            .partition_point(|(_, change)| change.revision <= revision);
        Some(self.first + skip as u64)
    }

    /// The changes from a number on, newest last; `None` if some of them are dropped.
    pub(super) fn from(
        &self,
        number: u64,
    ) -> Option<impl DoubleEndedIterator<Item = &Arc<Change>>> {
        let skip = number.checked_sub(self.first)?;
        let skip = usize::try_from(skip).ok()?.min(self.changes.len());
        Some(self.changes.range(skip..).map(|(_, change)| change))
    }
}
