//! The cache, on both stores.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

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

async fn consistent(store: Arc<dyn Store>) {
    let cache = Cache::start(
        store.clone(),
        CacheOptions::default(),
        vec![pods(), nodes()],
    );
    cache.ready().await;
    for number in 0..100 {
        let name = format!("p{number:03}");
        let revision = store
            .create(&key(&name), pod(&name, "a", ""), None)
            .await
            .unwrap();
        if number % 10 == 0 {
            // What stands outside of every resource moves the revision too.
            store
                .create(&format!("elsewhere-{number}"), Bytes::new(), None)
                .await
                .unwrap();
        }
        let list = cache.list("pods", ListRequest::default()).await.unwrap();
        assert!(list.revision >= revision);
        assert_eq!(list.entries.len(), number + 1);
        let got = cache.get_fresh("pods", "default", &name).await.unwrap();
        assert_eq!(got.unwrap().revision(), revision);
    }
}

#[tokio::test]
async fn reads_are_consistent_on_memory() {
    consistent(Arc::new(MemoryStore::new())).await;
}

#[tokio::test]
async fn reads_are_consistent_on_etcd() {
    let Some(etcd) = Etcd::start(false).await else {
        return;
    };
    consistent(Arc::new(etcd.store().await)).await;
}

#[tokio::test]
async fn a_selector_sees_objects_come_and_go() {
    let store = MemoryStore::new();
    let cache = cache(&store, CacheOptions::default()).await;
    let request = WatchRequest {
        predicate: with_app("a"),
        start: WatchStart::Now,
        ..WatchRequest::default()
    };
    let mut watcher = cache.watch("pods", request).await.unwrap();
    let one = store
        .create(&key("x"), pod("x", "a", ""), None)
        .await
        .unwrap();
    let two = store
        .update(&key("x"), pod("x", "b", ""), one, None)
        .await
        .unwrap();
    let three = store
        .update(&key("x"), pod("x", "b", "n"), two, None)
        .await
        .unwrap();
    let four = store
        .update(&key("x"), pod("x", "a", "n"), three, None)
        .await
        .unwrap();
    let five = store
        .update(&key("x"), pod("x", "a", "m"), four, None)
        .await
        .unwrap();
    let six = store.delete(&key("x"), None).await.unwrap().revision;
    let events = next(&mut watcher, 5).await;
    assert_eq!(
        told(&events),
        [
            format!("ADDED x@{one}"),
            // In the state that matched, at the revision at which it ceased to.
            format!("DELETED x@{two}"),
            format!("ADDED x@{four}"),
            format!("MODIFIED x@{five}"),
            format!("DELETED x@{six}"),
        ]
    );
    let WatchEvent::Object { entry, .. } = &events[1] else {
        panic!("no object")
    };
    assert_eq!(entry.labels().get("app"), Some("a"));
    assert_eq!(events[3].previous().unwrap().revision(), four);
    is_quiet(&mut watcher).await;
}

#[tokio::test]
async fn a_watch_starts_with_the_state_or_behind_a_revision() {
    let store = MemoryStore::new();
    let a = store
        .create(&key("a"), pod("a", "a", ""), None)
        .await
        .unwrap();
    let cache = cache(&store, small()).await;
    let b = store
        .create(&key("b"), pod("b", "a", ""), None)
        .await
        .unwrap();
    let request = WatchRequest {
        initial_events_end: true,
        bookmarks: true,
        ..WatchRequest::default()
    };
    let mut watcher = cache.watch("pods", request).await.unwrap();
    let wanted = [
        format!("ADDED a@{a}"),
        format!("ADDED b@{b}"),
        format!("BOOKMARK {b} true"),
    ];
    assert_eq!(told(&next(&mut watcher, 3).await), wanted);
    let after = |revision| WatchRequest {
        start: WatchStart::After(revision),
        ..WatchRequest::default()
    };
    let mut watcher = cache.watch("pods", after(a)).await.unwrap();
    assert_eq!(told(&next(&mut watcher, 1).await), [format!("ADDED b@{b}")]);
    // Before the first list nothing is known.
    assert!(matches!(
        cache.watch("pods", after(a - 1)).await,
        Err(CacheError::Gone { .. })
    ));
    // A revision that is still to come: nothing up to it.
    let mut watcher = cache.watch("pods", after(b + 1)).await.unwrap();
    for name in ["c", "d"] {
        store
            .create(&key(name), pod(name, "a", ""), None)
            .await
            .unwrap();
    }
    let wanted = [format!("ADDED d@{}", b + 2)];
    assert_eq!(told(&next(&mut watcher, 1).await), wanted);
    // Once the ring dropped it, it is gone.
    let mut at = b + 2;
    for _ in 0..30 {
        at = store
            .update(&key("d"), pod("d", "a", ""), at, None)
            .await
            .unwrap();
    }
    cache.wait_until_fresh(at).await.unwrap();
    assert!(matches!(
        cache.watch("pods", after(a)).await,
        Err(CacheError::Gone { .. })
    ));
    assert!(cache.watch("pods", after(at - 1)).await.is_ok());
}

#[tokio::test]
async fn a_watcher_of_one_node_gets_only_its_own() {
    let store = MemoryStore::new();
    let cache = cache(&store, CacheOptions::default()).await;
    let request = |node: &'static str| WatchRequest {
        index: Some(("spec.nodeName".to_owned(), node.to_owned())),
        predicate: Some(Arc::new(move |e: &Entry| {
            e.fields().get("spec.nodeName") == Some(node)
        })),
        start: WatchStart::Now,
        ..WatchRequest::default()
    };
    let mut one = cache.watch("pods", request("n1")).await.unwrap();
    let mut two = cache.watch("pods", request("n2")).await.unwrap();
    let a = store
        .create(&key("x"), pod("x", "a", ""), None)
        .await
        .unwrap();
    let b = store
        .update(&key("x"), pod("x", "a", "n1"), a, None)
        .await
        .unwrap();
    let c = store
        .update(&key("x"), pod("x", "a", "n2"), b, None)
        .await
        .unwrap();
    assert_eq!(
        told(&next(&mut one, 2).await),
        [format!("ADDED x@{b}"), format!("DELETED x@{c}")]
    );
    assert_eq!(told(&next(&mut two, 1).await), [format!("ADDED x@{c}")]);
    // From the past, what the ring has of it comes first.
    let mut late = request("n1");
    late.start = WatchStart::After(a);
    let mut late = cache.watch("pods", late).await.unwrap();
    assert_eq!(told(&next(&mut late, 2).await).len(), 2);
    drop((one, two, late));
    // Nothing is left of watchers that went away.
    let left = cache
        .inner
        .resource("pods")
        .unwrap()
        .read(|state| state.watchers());
    assert_eq!(left, 0);
}

#[tokio::test]
async fn slow_watchers_are_cut_off() {
    let store = MemoryStore::new();
    let cache = cache(&store, small()).await;
    let mut by_cursor = cache.watch("pods", WatchRequest::default()).await.unwrap();
    let indexed = WatchRequest {
        index: Some(("metadata.name".to_owned(), "x".to_owned())),
        ..WatchRequest::default()
    };
    let mut by_queue = cache.watch("pods", indexed).await.unwrap();
    let mut at = store
        .create(&key("x"), pod("x", "a", ""), None)
        .await
        .unwrap();
    for _ in 0..40 {
        at = store
            .update(&key("x"), pod("x", "a", ""), at, None)
            .await
            .unwrap();
    }
    cache.wait_until_fresh(at).await.unwrap();
    assert!(matches!(
        by_cursor.next().await,
        Some(Err(CacheError::TooSlow))
    ));
    // What was in the queue is told, but no bookmark claims more.
    assert!(by_queue.bookmark().is_none());
    assert_eq!(next(&mut by_queue, 4).await.len(), 4);
    assert!(matches!(
        by_queue.next().await,
        Some(Err(CacheError::TooSlow))
    ));
}

#[tokio::test]
async fn pages_are_of_one_revision() {
    let store = MemoryStore::new();
    let cache = cache(&store, small()).await;
    for name in ["a", "b", "c", "d", "e"] {
        store
            .create(&key(name), pod(name, "a", ""), None)
            .await
            .unwrap();
    }
    let first = ListRequest {
        limit: 2,
        namespace: Some("default".to_owned()),
        ..ListRequest::default()
    };
    let page = cache.list("pods", first.clone()).await.unwrap();
    assert_eq!(names(&page), ["a", "b"]);
    assert_eq!(page.remaining, Some(3));
    let second = ListRequest {
        start_after: page.continue_after.clone(),
        version: VersionMatch::Exactly(page.revision),
        ..first.clone()
    };
    // Deleted, changed and created meanwhile: the ring takes it back.
    store.delete(&key("c"), None).await.unwrap();
    let d = store.get(&key("d")).await.unwrap().unwrap();
    let d2 = store
        .update(&key("d"), pod("d", "z", ""), d.revision, None)
        .await
        .unwrap();
    store
        .create(&key("cc"), pod("cc", "a", ""), None)
        .await
        .unwrap();
    cache.wait_until_fresh(d2 + 1).await.unwrap();
    let page = cache.list("pods", second.clone()).await.unwrap();
    assert_eq!(names(&page), ["c", "d"]);
    assert_eq!(page.entries[1].revision(), d.revision);
    assert_eq!(page.remaining, Some(1));
    // Once it is older than the ring, the store's history answers the same.
    let mut at = d2;
    for _ in 0..40 {
        at = store
            .update(&key("d"), pod("d", "z", ""), at, None)
            .await
            .unwrap();
    }
    cache.wait_until_fresh(at).await.unwrap();
    cache.inner.resource("pods").unwrap().forget_past();
    let again = cache.list("pods", second.clone()).await.unwrap();
    assert_eq!(names(&again), names(&page));
    assert_eq!(
        (again.remaining, again.continue_after),
        (page.remaining, page.continue_after)
    );
    let selected = ListRequest {
        predicate: with_app("a"),
        ..second.clone()
    };
    let selected = cache.list("pods", selected).await.unwrap();
    assert_eq!(names(&selected), ["c", "d"]);
    assert_eq!(selected.remaining, None);
    assert!(selected.continue_after.is_some());
    // And once that is compacted, it is gone.
    store.compact(at).await.unwrap();
    assert!(matches!(
        cache.list("pods", second).await,
        Err(CacheError::Gone { .. })
    ));
    let too_new = ListRequest {
        version: VersionMatch::AtLeast(at + 1_000),
        ..ListRequest::default()
    };
    assert!(matches!(
        cache.list("pods", too_new).await,
        Err(CacheError::TooLarge { .. })
    ));
}

#[tokio::test]
async fn what_can_not_be_decoded_is_left_out() {
    let store = MemoryStore::new();
    store
        .create(&key("bad"), Bytes::from_static(b"\xff{"), None)
        .await
        .unwrap();
    let good = store
        .create(&key("good"), pod("good", "a", ""), None)
        .await
        .unwrap();
    let cache = cache(&store, small()).await;
    let mut watcher = cache.watch("pods", WatchRequest::default()).await.unwrap();
    next(&mut watcher, 1).await;
    // One that was good goes, and comes back.
    let bad = store
        .update(&key("good"), Bytes::from_static(b"[]"), good, None)
        .await
        .unwrap();
    let list = cache.list("pods", ListRequest::default()).await.unwrap();
    assert!(list.entries.is_empty());
    store
        .update(&key("good"), pod("good", "a", ""), bad, None)
        .await
        .unwrap();
    let events = told(&next(&mut watcher, 2).await);
    assert_eq!(
        events,
        [
            format!("DELETED good@{bad}"),
            format!("ADDED good@{}", bad + 1)
        ]
    );
}

#[tokio::test]
async fn an_outage_loses_nothing_and_a_compaction_becomes_differences() {
    let store = MemoryStore::new();
    let cache = cache(&store, small()).await;
    for name in ["stays", "changes", "goes"] {
        store
            .create(&key(name), pod(name, "a", ""), None)
            .await
            .unwrap();
    }
    let mut watcher = cache.watch("pods", WatchRequest::default()).await.unwrap();
    next(&mut watcher, 3).await;
    let before = cache.progress();
    store.set_down(true);
    assert!(matches!(
        cache.list("pods", ListRequest::default()).await,
        Err(CacheError::Store(StoreError::Unavailable(_)))
    ));
    // From memory it can still be read.
    assert!(cache.get("pods", "default", "stays").unwrap().is_some());
    store.set_down(false);
    // Done before the watch is open again, with the history in between compacted away.
    let changes = store.get(&key("changes")).await.unwrap().unwrap();
    let changed = store
        .update(
            &key("changes"),
            pod("changes", "b", ""),
            changes.revision,
            None,
        )
        .await
        .unwrap();
    store.delete(&key("goes"), None).await.unwrap();
    let come = store
        .create(&key("comes"), pod("comes", "a", ""), None)
        .await
        .unwrap();
    store.compact(come).await.unwrap();
    let events = told(&next(&mut watcher, 3).await);
    assert_eq!(
        events,
        [
            format!("MODIFIED changes@{changed}"),
            format!("ADDED comes@{come}"),
            format!("DELETED goes@{come}"),
        ]
    );
    // Who was not there may not start in the gap.
    let request = WatchRequest {
        start: WatchStart::After(before),
        ..WatchRequest::default()
    };
    assert!(matches!(
        cache.watch("pods", request).await,
        Err(CacheError::Gone { .. })
    ));
    let list = cache.list("pods", ListRequest::default()).await.unwrap();
    assert_eq!(names(&list), ["changes", "comes", "stays"]);
    // An outage alone is resumed behind the last event.
    store.set_down(true);
    tokio::time::sleep(Duration::from_millis(20)).await;
    store.set_down(false);
    store
        .create(&key("late"), pod("late", "a", ""), None)
        .await
        .unwrap();
    assert_eq!(
        told(&next(&mut watcher, 1).await),
        [format!("ADDED late@{}", come + 1)]
    );
}

#[tokio::test]
async fn resources_come_and_go_at_run_time() {
    let store = MemoryStore::new();
    let cache = cache(&store, CacheOptions::default()).await;
    let prefix = "/registry/example.com/widgets/";
    let config = ResourceConfig {
        id: "widgets.example.com".to_owned(),
        prefix: prefix.to_owned(),
        ..pods()
    };
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for number in 0..200 {
                let key = format!("{prefix}default/w{number:03}");
                store
                    .create(&key, pod(&format!("w{number:03}"), "a", ""), None)
                    .await
                    .unwrap();
                tokio::task::yield_now().await;
            }
        }
    });
    tokio::task::yield_now().await;
    cache.add_resource(config.clone()).await.unwrap();
    let mut watcher = cache
        .watch("widgets.example.com", WatchRequest::default())
        .await
        .unwrap();
    writer.await.unwrap();
    let list = cache
        .list("widgets.example.com", ListRequest::default())
        .await
        .unwrap();
    assert_eq!(list.entries.len(), 200);
    assert_eq!(next(&mut watcher, 200).await.len(), 200);
    // Again, as with a new schema: who watched the old one ends.
    cache.add_resource(config).await.unwrap();
    assert!(watcher.next().await.is_none());
    assert_eq!(cache.count("widgets.example.com").unwrap(), 200);
    let mut watcher = cache
        .watch(
            "widgets.example.com",
            WatchRequest {
                index: Some(("metadata.name".to_owned(), "w001".to_owned())),
                start: WatchStart::Now,
                ..WatchRequest::default()
            },
        )
        .await
        .unwrap();
    cache.remove_resource("widgets.example.com");
    assert!(watcher.next().await.is_none());
    assert!(matches!(
        cache
            .list("widgets.example.com", ListRequest::default())
            .await,
        Err(CacheError::UnknownResource(_))
    ));
}

#[tokio::test]
async fn bookmarks_follow_what_happens_elsewhere() {
    let store = MemoryStore::new();
    let options = CacheOptions {
        bookmark_interval: Duration::from_millis(50),
        ..CacheOptions::default()
    };
    let cache = cache(&store, options).await;
    for index in [None, Some(("metadata.name".to_owned(), "x".to_owned()))] {
        let request = WatchRequest {
            bookmarks: true,
            index,
            start: WatchStart::Now,
            ..WatchRequest::default()
        };
        let mut watcher = cache.watch("pods", request).await.unwrap();
        let elsewhere = store
            .create(
                &format!("/registry/minions/n{}", cache.progress()),
                pod("n", "a", ""),
                None,
            )
            .await
            .unwrap();
        cache.wait_until_fresh(elsewhere).await.unwrap();
        assert_eq!(
            told(&next(&mut watcher, 1).await),
            [format!("BOOKMARK {elsewhere} false")]
        );
    }
}

#[tokio::test]
async fn a_frame_is_encoded_once_for_all_watchers() {
    let store = MemoryStore::new();
    let cache = cache(&store, CacheOptions::default()).await;
    let request = WatchRequest {
        start: WatchStart::Now,
        ..WatchRequest::default()
    };
    let mut watchers = Vec::new();
    for _ in 0..10 {
        watchers.push(cache.watch("pods", request.clone()).await.unwrap());
    }
    store
        .create(&key("x"), pod("x", "a", ""), None)
        .await
        .unwrap();
    let made = AtomicUsize::new(0);
    for watcher in &mut watchers {
        let events = next(watcher, 1).await;
        for encoding in [0, 1] {
            let frame = events[0].frame(encoding, |event| {
                made.fetch_add(1, Ordering::Relaxed);
                Bytes::from(format!("{encoding} {}", event.revision()))
            });
            assert!(frame.starts_with(encoding.to_string().as_bytes()));
        }
    }
    assert_eq!(made.load(Ordering::Relaxed), 2);
}

/// Random writes; watchers that started at random moments must all know the same state in the end.
async fn model(store: Arc<dyn Store>, seed: u64) {
    let mut random = seed;
    let mut draw = move |below: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let cache = Cache::start(store.clone(), CacheOptions::default(), vec![pods()]);
    cache.ready().await;
    let mut watchers: Vec<(Watcher, BTreeMap<String, Revision>)> = Vec::new();
    for _ in 0..300 {
        let name = format!("p{}", draw(12));
        let app = ["a", "b"][draw(2) as usize];
        match store.get(&key(&name)).await.unwrap() {
            None => {
                store
                    .create(&key(&name), pod(&name, app, ""), None)
                    .await
                    .unwrap();
            }
            Some(_) if draw(3) == 0 => {
                store.delete(&key(&name), None).await.unwrap();
            }
            Some(stored) => {
                store
                    .update(&key(&name), pod(&name, app, ""), stored.revision, None)
                    .await
                    .unwrap();
            }
        }
        if draw(20) == 0 {
            let request = ListRequest {
                predicate: with_app("a"),
                version: VersionMatch::Any,
                ..ListRequest::default()
            };
            let list = cache.list("pods", request).await.unwrap();
            let known = list
                .entries
                .iter()
                .map(|e| (e.name().to_owned(), e.revision()))
                .collect();
            let request = WatchRequest {
                predicate: with_app("a"),
                start: WatchStart::After(list.revision),
                ..WatchRequest::default()
            };
            watchers.push((cache.watch("pods", request).await.unwrap(), known));
        }
    }
    let all = store
        .list("/registry/pods/", ListOptions::default())
        .await
        .unwrap();
    cache.wait_until_fresh(all.revision).await.unwrap();
    let wanted: BTreeMap<String, Revision> = all
        .items
        .iter()
        .map(|stored| {
            extract("", &stored.value, 0)
                .map(|e| (e, stored.revision))
                .unwrap()
        })
        .filter(|(e, _)| e.labels.get("app") == Some("a"))
        .map(|(e, revision)| (e.name, revision))
        .collect();
    assert!(!watchers.is_empty());
    for (mut watcher, mut known) in watchers {
        while let Ok(events) = tokio::time::timeout(Duration::from_millis(30), watcher.next()).await
        {
            for event in events.unwrap().unwrap() {
                let WatchEvent::Object { kind, entry, .. } = event else {
                    continue;
                };
                let name = entry.name().to_owned();
                match kind {
                    WatchKind::Added => assert!(known.insert(name, entry.revision()).is_none()),
                    WatchKind::Modified => assert!(known.insert(name, entry.revision()).is_some()),
                    WatchKind::Deleted => assert!(known.remove(&name).is_some()),
                }
            }
        }
        assert_eq!(known, wanted);
    }
}

#[tokio::test]
async fn list_and_watch_agree_on_memory() {
    for seed in 1..6 {
        model(Arc::new(MemoryStore::new()), seed).await;
    }
}

#[tokio::test]
async fn list_and_watch_agree_on_etcd() {
    let Some(etcd) = Etcd::start(false).await else {
        return;
    };
    model(Arc::new(etcd.store().await), 7).await;
}

/// A kill of etcd under the cache: it resumes, and reads are consistent again.
#[tokio::test]
async fn the_cache_outlives_etcd() {
    let Some(mut etcd) = Etcd::start(false).await else {
        return;
    };
    let store = Arc::new(etcd.store().await);
    let cache = Cache::start(store.clone(), CacheOptions::default(), vec![pods()]);
    cache.ready().await;
    let mut watcher = cache.watch("pods", WatchRequest::default()).await.unwrap();
    let mut wanted = Vec::new();
    for round in 0..3 {
        let name = format!("p{round}");
        let revision = store
            .create(&key(&name), pod(&name, "a", ""), None)
            .await
            .unwrap();
        wanted.push(format!("ADDED {name}@{revision}"));
        etcd.kill();
        etcd.run();
    }
    assert_eq!(told(&next(&mut watcher, 3).await), wanted);
    let mut list = cache.list("pods", ListRequest::default()).await;
    for _ in 0..20 {
        if list.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        list = cache.list("pods", ListRequest::default()).await;
    }
    assert_eq!(list.unwrap().entries.len(), 3);
}
