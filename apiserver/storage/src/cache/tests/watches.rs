//! WATCH: what watchers are told, and who is cut off.

use super::*;

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
