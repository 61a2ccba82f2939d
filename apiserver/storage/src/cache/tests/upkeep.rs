//! What the cache does by itself: decoding, outages, compaction, resources that come and go.

use super::*;

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
