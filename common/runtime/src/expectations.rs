//! What a controller has asked for and not yet seen.
//!
//! A controller that created three pods must not count again until it has seen the three, or it would create three more from a
//! cache that lags. Deletions are expected by UID-bearing key, because a deletion is seen twice: once as a timestamp, once as the end. What is not
//! seen within five minutes is given up, as upstream does, lest a lost event stop the controller for ever.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::store::Key;

/// How long an expectation is believed.
pub const TIMEOUT: Duration = Duration::from_secs(300);

struct Expected {
    creations: usize,
    deletions: HashSet<String>,
    at: Instant,
}

/// The expectations of one controller, by the key of the object it reconciles.
#[derive(Default)]
pub struct Expectations {
    by_key: Mutex<HashMap<Key, Expected>>,
}

impl Expectations {
    /// Sets what is expected for `key`: so many creations, and the deletion of these UIDs.
    pub fn expect(&self, key: &Key, creations: usize, deletions: impl IntoIterator<Item = String>) {
        let expected = Expected {
            creations,
            deletions: deletions.into_iter().collect(),
            at: Instant::now(),
        };
        self.by_key.lock().insert(key.clone(), expected);
    }

    /// A creation was seen, or failed.
    pub fn created(&self, key: &Key) {
        self.created_many(key, 1);
    }

    /// Several creations were seen, failed or were never tried.
    pub fn created_many(&self, key: &Key, count: usize) {
        if let Some(expected) = self.by_key.lock().get_mut(key) {
            expected.creations = expected.creations.saturating_sub(count);
        }
    }

    /// A deletion was seen, or failed.
    pub fn deleted(&self, key: &Key, uid: &str) {
        if let Some(expected) = self.by_key.lock().get_mut(key) {
            expected.deletions.remove(uid);
        }
    }

    /// Whether everything was seen (or nothing expected, or it has been too long).
    pub fn satisfied(&self, key: &Key) -> bool {
        self.by_key.lock().get(key).is_none_or(|expected| {
            (expected.creations == 0 && expected.deletions.is_empty())
                || expected.at.elapsed() > TIMEOUT
        })
    }

    /// Forgets `key`, whose object is gone.
    pub fn forget(&self, key: &Key) {
        self.by_key.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn expectations_hold_until_seen_or_stale() {
        let expectations = Expectations::default();
        let key = Key::new("a", "b");
        assert!(expectations.satisfied(&key));
        expectations.expect(&key, 2, ["u1".to_owned()]);
        expectations.created(&key);
        expectations.deleted(&key, "u2");
        expectations.deleted(&key, "u1");
        expectations.deleted(&key, "u1");
        assert!(!expectations.satisfied(&key));
        expectations.created(&key);
        assert!(expectations.satisfied(&key));

        expectations.expect(&key, 1, []);
        tokio::time::advance(TIMEOUT - Duration::from_secs(1)).await;
        assert!(!expectations.satisfied(&key));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(expectations.satisfied(&key));
    }
}
