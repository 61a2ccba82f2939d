//! Leases shared by many keys: an Event an hour, ten thousand Events, a few dozen leases.
//!
//! A lease is taken again for a key as long as it outlives the key's time and by not more than a twentieth of it, and
//! holds no more than a thousand keys (expiring more at once would hold up etcd).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::LeaseClient;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::deadline;
use crate::error::Result;

const MAX_KEYS: usize = 1_000;
const LONGEST_REUSE: Duration = Duration::from_secs(60);

#[derive(Clone)]
pub(super) struct Leases {
    client: LeaseClient,
    timeout: Duration,
    /// The newest lease for each time to live. The lock is held while one is granted: who comes then shares it.
    newest: Arc<Mutex<HashMap<Duration, Lease>>>,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    id: i64,
    expires: Instant,
    keys: usize,
}

impl Lease {
    fn fits(&self, ttl: Duration, now: Instant) -> bool {
        self.keys < MAX_KEYS && now + ttl <= self.expires
    }
}

/// How much longer than asked for a lease lives.
fn reuse(ttl: Duration) -> Duration {
    (ttl / 20).min(LONGEST_REUSE)
}

impl Leases {
    pub(super) fn new(client: LeaseClient, timeout: Duration) -> Self {
        Leases {
            client,
            timeout,
            newest: Arc::default(),
        }
    }

    /// A lease that lives for at least `ttl` from now.
    pub(super) async fn lease(&self, ttl: Duration) -> Result<i64> {
        let mut newest = self.newest.lock().await;
        let now = Instant::now();
        if let Some(lease) = newest.get_mut(&ttl)
            && lease.fits(ttl, now)
        {
            lease.keys += 1;
            return Ok(lease.id);
        }
        let lives = (ttl + reuse(ttl)).max(Duration::from_secs(1));
        let seconds = lives.as_secs() + u64::from(lives.subsec_nanos() > 0);
        let mut client = self.client.clone();
        let granted = deadline(
            self.timeout,
            "grant a lease",
            client.grant(i64::try_from(seconds).unwrap_or(i64::MAX), None),
        )
        .await?;
        newest.retain(|_, lease| lease.expires > now);
        newest.insert(
            ttl,
            Lease {
                id: granted.id(),
                expires: now + lives,
                keys: 1,
            },
        );
        Ok(granted.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_taken_again_while_it_is_long_enough_and_not_full() {
        let now = Instant::now();
        let hour = Duration::from_secs(3_600);
        assert_eq!(reuse(hour), Duration::from_secs(60));
        assert_eq!(reuse(Duration::from_secs(100)), Duration::from_secs(5));
        let lease = Lease {
            id: 1,
            expires: now + hour + reuse(hour),
            keys: 1,
        };
        assert!(lease.fits(hour, now));
        assert!(lease.fits(hour, now + Duration::from_secs(60)));
        assert!(!lease.fits(hour, now + Duration::from_secs(61)));
        let full = Lease {
            keys: MAX_KEYS,
            ..lease
        };
        assert!(!full.fits(hour, now));
    }
}
