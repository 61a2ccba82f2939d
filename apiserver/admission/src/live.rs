//! Live reads of a namespace's policies for plugins that must not miss one that was just made, without a read per write.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use keelson_auth::{Lookup, LookupError};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;

/// How long an answer of the store is good for.
const AGE: Duration = Duration::from_secs(30);
/// Namespaces that are remembered at most.
const KEPT: usize = 10_000;

type Answer = (Instant, Vec<Arc<Value>>);

/// The objects of one resource in each namespace: from the cache, or, where it has none, from the store every half minute.
#[derive(Default)]
pub struct LiveLists(Mutex<HashMap<String, Answer>>);

impl LiveLists {
    /// The objects of a namespace.
    pub async fn list(
        &self,
        lookup: &dyn Lookup,
        resource: &str,
        namespace: &str,
    ) -> Result<Vec<Arc<Value>>, LookupError> {
        let cached = lookup.list(resource, namespace);
        if !cached.is_empty() {
            return Ok(cached);
        }
        let now = Instant::now();
        if let Some((read, objects)) = self.0.lock().get(namespace)
            && now.duration_since(*read) < AGE
        {
            return Ok(objects.clone());
        }
        let objects = lookup.live_list(resource, namespace).await?;
        let mut remembered = self.0.lock();
        if remembered.len() >= KEPT {
            remembered.retain(|_, (read, _)| now.duration_since(*read) < AGE);
        }
        if remembered.len() < KEPT {
            remembered.insert(namespace.to_owned(), (now, objects.clone()));
        }
        Ok(objects)
    }
}
