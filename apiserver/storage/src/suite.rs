//! The suite that every store passes: what the API server relies on, told by tests.
//!
//! Each case works under a prefix of its own, so that they can share a store.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;

use crate::error::StoreError;
use crate::store::{Event, EventStream, ListOptions, Revision, Store, WatchOptions};

/// Runs every case.
pub async fn run(store: Arc<dyn Store>) {
    writes(&*store).await;
    deletes(&*store).await;
    lists(&*store).await;
    lists_of_the_past(&*store).await;
    watches(&*store).await;
    watches_with_previous(&*store).await;
    one_of_many_writers_wins(store.clone()).await;
    keys_expire(&*store).await;
    sizes(&*store).await;
    compaction(&*store).await;
}

pub fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// The next events, as many as wanted, within a bounded time.
pub async fn take(stream: &mut EventStream, wanted: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < wanted {
        let batch = tokio::time::timeout(Duration::from_secs(10), stream.next())
            .await
            .expect("events in time")
            .expect("the stream goes on")
            .expect("no error");
        events.extend(batch);
    }
    events
}

async fn writes(store: &dyn Store) {
    let key = "/suite/writes/a";
    assert_eq!(store.get(key).await.unwrap(), None);
    let created = store.create(key, text("1"), None).await.unwrap();
    assert_eq!(store.current_revision().await.unwrap(), created);
    let got = store.get(key).await.unwrap().unwrap();
    assert_eq!(
        (got.key.as_str(), got.value, got.revision),
        (key, text("1"), created)
    );
    assert!(matches!(
        store.create(key, text("2"), None).await,
        Err(StoreError::AlreadyExists)
    ));
    let updated = store.update(key, text("2"), created, None).await.unwrap();
    assert!(updated > created);
    match store.update(key, text("3"), created, None).await {
        Err(StoreError::Conflict {
            current: Some(current),
        }) => {
            assert_eq!((current.value, current.revision), (text("2"), updated));
        }
        other => panic!("wanted a conflict, got {other:?}"),
    }
    assert!(matches!(
        store
            .update("/suite/writes/none", text("3"), created, None)
            .await,
        Err(StoreError::Conflict { current: None })
    ));
    // What was refused moved nothing.
    assert_eq!(store.current_revision().await.unwrap(), updated);
}

async fn deletes(store: &dyn Store) {
    let key = "/suite/deletes/a";
    let created = store.create(key, text("1"), None).await.unwrap();
    assert!(matches!(
        store.delete(key, Some(created + 1)).await,
        Err(StoreError::Conflict { current: Some(_) })
    ));
    let deleted = store.delete(key, Some(created)).await.unwrap();
    assert!(deleted.revision > created);
    assert_eq!(deleted.previous.value, text("1"));
    assert_eq!(deleted.previous.revision, created);
    assert_eq!(store.get(key).await.unwrap(), None);
    for expected in [None, Some(created)] {
        assert!(matches!(
            store.delete(key, expected).await,
            Err(StoreError::NotFound)
        ));
    }
    store.create(key, text("2"), None).await.unwrap();
    let deleted = store.delete(key, None).await.unwrap();
    assert_eq!(deleted.previous.value, text("2"));
}

async fn lists(store: &dyn Store) {
    let prefix = "/suite/lists/";
    for name in ["c", "a", "b", "a/x"] {
        store
            .create(&format!("{prefix}{name}"), text(name), None)
            .await
            .unwrap();
    }
    // A sibling that begins alike but for the slash.
    store
        .create("/suite/lists-not", text("no"), None)
        .await
        .unwrap();
    let all = store.list(prefix, ListOptions::default()).await.unwrap();
    let names: Vec<&str> = all.items.iter().map(|s| &s.key[prefix.len()..]).collect();
    assert_eq!(names, ["a", "a/x", "b", "c"]);
    assert_eq!((all.more, all.remaining), (false, 0));
    assert_eq!(all.revision, store.current_revision().await.unwrap());

    let mut seen = Vec::new();
    let mut options = ListOptions {
        limit: 3,
        ..ListOptions::default()
    };
    let first = store.list(prefix, options.clone()).await.unwrap();
    assert_eq!(
        (first.items.len(), first.more, first.remaining),
        (3, true, 1)
    );
    // The next page is of the same state, whatever happened meanwhile.
    store
        .create("/suite/lists/d", text("late"), None)
        .await
        .unwrap();
    options.at_revision = Some(first.revision);
    options.start_after = first.items.last().map(|s| s.key.clone());
    seen.extend(first.items);
    let second = store.list(prefix, options).await.unwrap();
    assert_eq!((second.more, second.revision), (false, first.revision));
    seen.extend(second.items);
    assert_eq!(seen, all.items);

    assert!(
        store
            .list("/suite/nothing/", ListOptions::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
    let everything = store.list("", ListOptions::default()).await.unwrap();
    assert!(everything.items.len() > seen.len());
}

async fn lists_of_the_past(store: &dyn Store) {
    let prefix = "/suite/past/";
    let a = store
        .create("/suite/past/a", text("1"), None)
        .await
        .unwrap();
    let b = store
        .create("/suite/past/b", text("1"), None)
        .await
        .unwrap();
    let a2 = store
        .update("/suite/past/a", text("2"), a, None)
        .await
        .unwrap();
    let gone = store.delete("/suite/past/b", None).await.unwrap().revision;
    let at = async |revision: Revision| {
        let options = ListOptions {
            at_revision: Some(revision),
            ..ListOptions::default()
        };
        let listed = store.list(prefix, options).await.unwrap();
        assert_eq!(listed.revision, revision);
        listed
            .items
            .iter()
            .map(|s| format!("{}={}", &s.key[prefix.len()..], s.value[0] as char))
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(at(a).await, "a=1");
    assert_eq!(at(b).await, "a=1 b=1");
    assert_eq!(at(a2).await, "a=2 b=1");
    assert_eq!(at(gone).await, "a=2");
    let future = ListOptions {
        at_revision: Some(gone + 1_000),
        ..ListOptions::default()
    };
    assert!(matches!(
        store.list(prefix, future).await,
        Err(StoreError::FutureRevision)
    ));
}

async fn watches(store: &dyn Store) {
    let prefix = "/suite/watches/";
    let start = store.current_revision().await.unwrap();
    let mut from_now = store.watch(prefix, WatchOptions::default()).await.unwrap();
    let a = store
        .create("/suite/watches/a", text("1"), None)
        .await
        .unwrap();
    store
        .create("/suite/watches-not", text("1"), None)
        .await
        .unwrap();
    let a2 = store
        .update("/suite/watches/a", text("2"), a, None)
        .await
        .unwrap();
    let gone = store
        .delete("/suite/watches/a", None)
        .await
        .unwrap()
        .revision;
    let revisions =
        |events: &[Event]| -> Vec<Revision> { events.iter().map(Event::revision).collect() };
    assert_eq!(revisions(&take(&mut from_now, 3).await), [a, a2, gone]);
    for (after, wanted) in [(start, vec![a, a2, gone]), (a2, vec![gone])] {
        let options = WatchOptions {
            after_revision: Some(after),
            previous: false,
        };
        let mut stream = store.watch(prefix, options).await.unwrap();
        let events = take(&mut stream, wanted.len()).await;
        assert_eq!(revisions(&events), wanted);
        assert!(
            matches!(events.last(), Some(Event::Delete { key, .. }) if key == "/suite/watches/a")
        );
    }
    let options = WatchOptions {
        after_revision: Some(start),
        previous: false,
    };
    let mut everything = store.watch("", options).await.unwrap();
    let events = take(&mut everything, 4).await;
    // Every revision passes by a watch of everything: the cache relies on it.
    assert_eq!(revisions(&events), (start + 1..=gone).collect::<Vec<_>>());
}

async fn watches_with_previous(store: &dyn Store) {
    let key = "/suite/previous/a";
    let start = store.current_revision().await.unwrap();
    let a = store.create(key, text("1"), None).await.unwrap();
    store.update(key, text("2"), a, None).await.unwrap();
    store.delete(key, None).await.unwrap();
    let options = WatchOptions {
        after_revision: Some(start),
        previous: true,
    };
    let mut stream = store.watch("/suite/previous/", options).await.unwrap();
    let values: Vec<Option<Bytes>> = take(&mut stream, 3)
        .await
        .into_iter()
        .map(|event| match event {
            Event::Put { previous, .. } | Event::Delete { previous, .. } => {
                previous.map(|s| s.value)
            }
        })
        .collect();
    assert_eq!(values, [None, Some(text("1")), Some(text("2"))]);
}

async fn one_of_many_writers_wins(store: Arc<dyn Store>) {
    let key = "/suite/race/a";
    let created = store.create(key, text("0"), None).await.unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..16 {
        let store = store.clone();
        writers.spawn(async move {
            store
                .update(key, text(&number.to_string()), created, None)
                .await
                .is_ok()
        });
    }
    let won = writers.join_all().await.into_iter().filter(|won| *won);
    assert_eq!(won.count(), 1);
}

async fn keys_expire(store: &dyn Store) {
    let prefix = "/suite/ttl/";
    let start = store.current_revision().await.unwrap();
    let second = Some(Duration::from_secs(1));
    store
        .create("/suite/ttl/a", text("1"), second)
        .await
        .unwrap();
    store
        .create("/suite/ttl/b", text("1"), second)
        .await
        .unwrap();
    let kept = store
        .create("/suite/ttl/c", text("1"), second)
        .await
        .unwrap();
    // Written again without a time to live, it stays.
    store
        .update("/suite/ttl/c", text("2"), kept, None)
        .await
        .unwrap();
    let options = WatchOptions {
        after_revision: Some(start),
        previous: false,
    };
    let mut stream = store.watch(prefix, options).await.unwrap();
    let events = take(&mut stream, 6).await;
    let deleted: BTreeSet<&str> = events[4..]
        .iter()
        .filter(|event| matches!(event, Event::Delete { .. }))
        .map(Event::key)
        .collect();
    assert_eq!(deleted, BTreeSet::from(["/suite/ttl/a", "/suite/ttl/b"]));
    assert!(store.get("/suite/ttl/c").await.unwrap().is_some());
}

async fn sizes(store: &dyn Store) {
    let large = Bytes::from(vec![b'x'; 1_500_000]);
    let key = "/suite/sizes/a";
    let created = store.create(key, large, None).await.unwrap();
    let too_large = Bytes::from(vec![b'x'; 1_700_000]);
    assert!(matches!(
        store.update(key, too_large.clone(), created, None).await,
        Err(StoreError::TooLarge)
    ));
    assert!(matches!(
        store.create("/suite/sizes/b", too_large, None).await,
        Err(StoreError::TooLarge)
    ));
    assert_eq!(store.get(key).await.unwrap().unwrap().revision, created);
}

async fn compaction(store: &dyn Store) {
    let key = "/suite/compaction/a";
    let first = store.create(key, text("1"), None).await.unwrap();
    let second = store.update(key, text("2"), first, None).await.unwrap();
    let third = store.update(key, text("3"), second, None).await.unwrap();
    store.compact(second).await.unwrap();
    assert!(matches!(
        store.compact(first).await,
        Err(StoreError::Compacted { .. })
    ));
    let at = |revision| ListOptions {
        at_revision: Some(revision),
        ..ListOptions::default()
    };
    assert!(matches!(
        store.list("/suite/compaction/", at(first)).await,
        Err(StoreError::Compacted { .. })
    ));
    let kept = store.list("/suite/compaction/", at(second)).await.unwrap();
    assert_eq!(kept.items[0].value, text("2"));
    let options = WatchOptions {
        after_revision: Some(second),
        previous: false,
    };
    let mut stream = store.watch("/suite/compaction/", options).await.unwrap();
    assert_eq!(take(&mut stream, 1).await[0].revision(), third);
    // A watch of what is gone says so, on opening or as its first item.
    let options = WatchOptions {
        after_revision: Some(first - 1),
        previous: false,
    };
    let refused = match store.watch("/suite/compaction/", options).await {
        Err(error) => error,
        Ok(mut stream) => stream.next().await.unwrap().unwrap_err(),
    };
    match refused {
        StoreError::Compacted { compact_revision } => assert_eq!(compact_revision, second),
        other => panic!("wanted compacted, got {other:?}"),
    }
}

#[tokio::test]
async fn memory_store_passes() {
    run(Arc::new(crate::MemoryStore::new())).await;
}
