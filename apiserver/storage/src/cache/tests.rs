//! The cache, on both stores.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

mod lists;
mod upkeep;
mod watches;

use super::*;
use crate::entry::{ExtractError, Extracted};
use crate::etcd::process::Etcd;
use crate::memory::MemoryStore;
use crate::store::ListOptions;

/// Objects as the tests store them: labels, and `spec.nodeName` as a field.
fn extract(_: &str, value: &Bytes, _: Revision) -> Result<Extracted, ExtractError> {
    let object: serde_json::Value =
        serde_json::from_slice(value).map_err(|e| ExtractError(e.to_string()))?;
    let text = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(|v| v.as_str())
            .unwrap_or_default()
            .to_owned()
    };
    let labels = object
        .pointer("/metadata/labels")
        .and_then(|v| v.as_object());
    Ok(Extracted {
        namespace: text("/metadata/namespace"),
        name: text("/metadata/name"),
        json: value.clone(),
        labels: labels
            .into_iter()
            .flatten()
            .map(|(k, v)| (k.as_str(), v.as_str().unwrap_or_default()))
            .collect(),
        fields: [
            ("metadata.name", text("/metadata/name")),
            ("spec.nodeName", text("/spec/nodeName")),
        ]
        .into_iter()
        .collect(),
    })
}

fn pods() -> ResourceConfig {
    ResourceConfig {
        id: "pods".to_owned(),
        prefix: "/registry/pods/".to_owned(),
        namespaced: true,
        extract: Arc::new(extract),
        index_fields: vec!["spec.nodeName".to_owned()],
    }
}

fn nodes() -> ResourceConfig {
    ResourceConfig {
        id: "nodes".to_owned(),
        prefix: "/registry/minions/".to_owned(),
        namespaced: false,
        extract: Arc::new(extract),
        index_fields: vec![],
    }
}

fn pod(name: &str, app: &str, node: &str) -> Bytes {
    let object = json!({
        "metadata": {"name": name, "namespace": "default", "labels": {"app": app}},
        "spec": {"nodeName": node},
    });
    Bytes::from(object.to_string())
}

fn key(name: &str) -> String {
    format!("/registry/pods/default/{name}")
}

fn small() -> CacheOptions {
    CacheOptions {
        min_ring: 8,
        max_ring: 16,
        queue: 4,
        fresh_timeout: Duration::from_secs(2),
        ..CacheOptions::default()
    }
}

async fn cache(store: &MemoryStore, options: CacheOptions) -> Cache {
    let cache = Cache::start(Arc::new(store.clone()), options, vec![pods(), nodes()]);
    cache.ready().await;
    cache
}

fn with_app(app: &'static str) -> Option<Predicate> {
    Some(Arc::new(move |entry: &Entry| {
        entry.labels().get("app") == Some(app)
    }))
}

/// `ADDED a@3`, and so on.
fn told(events: &[WatchEvent]) -> Vec<String> {
    events
        .iter()
        .map(|event| match event {
            WatchEvent::Object { kind, entry, .. } => {
                let object = entry.value().unwrap();
                assert_eq!(
                    object["metadata"]["resourceVersion"],
                    entry.revision().to_string()
                );
                format!("{} {}@{}", kind.as_str(), entry.name(), entry.revision())
            }
            WatchEvent::Bookmark {
                revision,
                initial_events_end,
            } => format!("BOOKMARK {revision} {initial_events_end}"),
        })
        .collect()
}

async fn next(watcher: &mut Watcher, wanted: usize) -> Vec<WatchEvent> {
    let mut events = Vec::new();
    while events.len() < wanted {
        let batch = tokio::time::timeout(Duration::from_secs(5), watcher.next())
            .await
            .expect("events in time")
            .expect("the watch goes on")
            .expect("no error");
        events.extend(batch);
    }
    events
}

async fn is_quiet(watcher: &mut Watcher) {
    let more = tokio::time::timeout(Duration::from_millis(100), watcher.next()).await;
    assert!(more.is_err(), "nothing was to come, got {more:?}");
}

fn names(list: &ListResult) -> Vec<&str> {
    list.entries.iter().map(|e| e.name()).collect()
}
