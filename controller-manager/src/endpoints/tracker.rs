//! Which EndpointSlices this process wrote and has not seen in its cache yet: planning from an older copy would make duplicates.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use keelson_runtime::Key;
use parking_lot::Mutex;

/// Generations by UID, by the owner's key.
#[derive(Default)]
pub struct Tracker {
    written: Mutex<HashMap<Key, HashMap<String, i64>>>,
}

impl Tracker {
    /// Notes what was written.
    pub fn wrote(&self, owner: &Key, slice: &EndpointSlice) {
        if let Some(uid) = slice.metadata.uid.clone() {
            let generation = slice.metadata.generation.unwrap_or(0);
            self.written
                .lock()
                .entry(owner.clone())
                .or_default()
                .insert(uid, generation);
        }
    }

    /// Notes that a slice is gone.
    pub fn gone(&self, owner: &Key, slice: &EndpointSlice) {
        if let (Some(written), Some(uid)) =
            (self.written.lock().get_mut(owner), &slice.metadata.uid)
        {
            written.remove(uid);
        }
    }

    /// Forgets an owner.
    pub fn forget(&self, owner: &Key) {
        self.written.lock().remove(owner);
    }

    /// Whether the cache's slices lag behind what was written.
    pub fn is_stale(&self, owner: &Key, cached: &[Arc<EndpointSlice>]) -> bool {
        let written = self.written.lock();
        written.get(owner).is_some_and(|written| {
            written.iter().any(|(uid, generation)| {
                !cached.iter().any(|slice| {
                    slice.metadata.uid.as_ref() == Some(uid)
                        && slice.metadata.generation.unwrap_or(0) >= *generation
                })
            })
        })
    }
}
