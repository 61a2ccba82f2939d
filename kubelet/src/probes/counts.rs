//! How often probes said what, for `/metrics/probes`.

use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// Which counter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// `Liveness`, `Readiness` or `Startup`.
    pub kind: &'static str,
    /// `successful` or `failed`.
    pub result: &'static str,
    /// Container.
    pub container: String,
    /// Pod.
    pub pod: String,
    /// Its namespace.
    pub namespace: String,
    /// Its uid.
    pub pod_uid: String,
}

static COUNTS: LazyLock<Mutex<BTreeMap<Key, u64>>> = LazyLock::new(Mutex::default);

fn lock() -> MutexGuard<'static, BTreeMap<Key, u64>> {
    COUNTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One more.
pub fn add(key: Key) {
    *lock().entry(key).or_insert(0) += 1;
}

/// All of them.
pub fn all() -> Vec<(Key, u64)> {
    lock().iter().map(|(k, v)| (k.clone(), *v)).collect()
}

/// A pod is gone.
pub fn forget(pod_uid: &str) {
    lock().retain(|key, _| key.pod_uid != pod_uid);
}
