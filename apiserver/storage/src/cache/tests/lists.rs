//! LIST and GET: consistent, in pages, of the past.

use super::*;

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
async fn what_the_store_has_forgotten_is_gone_though_the_cache_knows_it() {
    let store = MemoryStore::new();
    let cache = cache(&store, small()).await;
    let mut last = 0;
    for name in ["a", "b", "c"] {
        last = store
            .create(&key(name), pod(name, "a", ""), None)
            .await
            .unwrap();
    }
    cache.wait_until_fresh(last).await.unwrap();
    let past = |revision| ListRequest {
        version: VersionMatch::Exactly(revision),
        ..ListRequest::default()
    };
    let list = cache.list("pods", past(last - 1)).await.unwrap();
    assert_eq!(names(&list), ["a", "b"]);
    cache.forget_before(last);
    assert!(matches!(
        cache.list("pods", past(last - 1)).await,
        Err(CacheError::Gone { requested, oldest }) if requested == last - 1 && oldest == last
    ));
    let list = cache.list("pods", past(last)).await.unwrap();
    assert_eq!(names(&list), ["a", "b", "c"]);
}
