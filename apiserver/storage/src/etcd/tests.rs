//! The suite on a real etcd, and a test for each of its pitfalls.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;

use super::process::Etcd;
use super::{CompactionClock, EtcdConfig, EtcdStore};
use crate::error::StoreError;
use crate::resume::resume;
use crate::store::{Event, ListOptions, Store, WatchOptions};
use crate::suite::{self, take, text};

#[tokio::test]
async fn passes_the_suite() {
    let Some(etcd) = Etcd::start(false).await else {
        return;
    };
    suite::run(Arc::new(etcd.store().await)).await;
}

#[tokio::test]
async fn wants_a_client_certificate() {
    let Some(etcd) = Etcd::start(true).await else {
        return;
    };
    let store = etcd.store().await;
    store.create("/tls/a", text("1"), None).await.unwrap();
    let mut without = etcd.config.clone();
    without.request_timeout = Duration::from_secs(2);
    if let Some(tls) = &mut without.tls {
        // Signed by another authority.
        let other = super::process::Etcd::start(true).await.unwrap();
        let foreign = other.config.tls.clone().unwrap();
        tls.certificate = foreign.certificate;
        tls.key = foreign.key;
    }
    let refused = EtcdStore::connect(without).await.unwrap();
    assert!(refused.get("/tls/a").await.is_err());
}

/// Pitfall 2: answers and watch messages above gRPC's 4 MiB.
#[tokio::test]
async fn large_answers_and_large_batches() {
    let Some(etcd) = Etcd::start(false).await else {
        return;
    };
    let store = etcd.store().await;
    let start = store.current_revision().await.unwrap();
    let value = Bytes::from(vec![b'x'; 1_400_000]);
    for number in 0..8 {
        store
            .create(&format!("/large/{number}"), value.clone(), None)
            .await
            .unwrap();
    }
    let listed = store.list("/large/", ListOptions::default()).await.unwrap();
    assert_eq!(listed.items.len(), 8);
    let options = WatchOptions {
        after_revision: Some(start),
        previous: true,
    };
    // A watch that catches up gets everything in one message.
    let mut stream = store.watch("/large/", options).await.unwrap();
    assert_eq!(take(&mut stream, 8).await.len(), 8);
}

/// More keys than one page of the store's own.
#[tokio::test]
async fn lists_of_several_pages_are_of_one_revision() {
    let Some(etcd) = Etcd::start(false).await else {
        return;
    };
    let store = Arc::new(etcd.store().await);
    futures::stream::iter(0..2_500)
        .for_each_concurrent(64, |number| {
            let store = store.clone();
            async move {
                let key = format!("/pages/{number:05}");
                store.create(&key, text("1"), None).await.unwrap();
            }
        })
        .await;
    let all = store.list("/pages/", ListOptions::default()).await.unwrap();
    assert_eq!((all.items.len(), all.more), (2_500, false));
    let options = ListOptions {
        limit: 1_700,
        start_after: Some("/pages/00099".to_owned()),
        at_revision: None,
    };
    let some = store.list("/pages/", options).await.unwrap();
    assert_eq!(
        (some.items.len(), some.more, some.remaining),
        (1_700, true, 700)
    );
    assert_eq!(some.items[0].key, "/pages/00100");
}

/// Pitfall 4: nothing resumes a watch but we; no event is lost or seen twice through a kill.
#[tokio::test]
async fn watches_outlive_the_server() {
    let Some(mut etcd) = Etcd::start(false).await else {
        return;
    };
    let store = Arc::new(etcd.store().await);
    let start = store.current_revision().await.unwrap();
    let mut stream = resume(store.clone(), "/restart/".to_owned(), start);
    let mut wanted = Vec::new();
    for round in 0..3 {
        for number in 0..5 {
            let key = format!("/restart/{round}-{number}");
            wanted.push(store.create(&key, text("1"), None).await.unwrap());
        }
        if round == 1 {
            // Some events are read before the kill, some after.
            let seen: Vec<u64> = take(&mut stream, 1)
                .await
                .iter()
                .map(Event::revision)
                .collect();
            assert_eq!(seen, wanted[..seen.len()]);
            wanted.drain(..seen.len());
        }
        etcd.kill();
        etcd.run();
    }
    let seen = take(&mut stream, wanted.len()).await;
    assert_eq!(seen.iter().map(Event::revision).collect::<Vec<_>>(), wanted);
}

/// While etcd is away, calls fail within their deadline, and work again afterwards.
#[tokio::test]
async fn calls_have_a_deadline() {
    let Some(mut etcd) = Etcd::start(false).await else {
        return;
    };
    let mut config = etcd.config.clone();
    config.request_timeout = Duration::from_secs(1);
    let store = EtcdStore::connect(config).await.unwrap();
    store.create("/down/a", text("1"), None).await.unwrap();
    etcd.kill();
    let started = std::time::Instant::now();
    assert!(store.get("/down/a").await.unwrap_err().is_transient());
    assert!(
        store
            .create("/down/b", text("1"), None)
            .await
            .unwrap_err()
            .is_transient()
    );
    assert!(started.elapsed() < Duration::from_secs(4));
    etcd.run();
    for _ in 0..10 {
        if store.get("/down/a").await.is_ok() {
            return;
        }
    }
    panic!("the store did not come back");
}

/// Several endpoints, one of which is dead.
#[tokio::test]
async fn a_dead_member_does_not_stop_reads() {
    let Some(etcd) = Etcd::start(false).await else {
        return;
    };
    let mut endpoints = etcd.config.endpoints.clone();
    endpoints.push("http://127.0.0.1:1".to_owned());
    let store = EtcdStore::connect(EtcdConfig::new(endpoints))
        .await
        .unwrap();
    for _ in 0..20 {
        store.get("/any").await.unwrap();
    }
}

/// The agreement by `compact_rev_key`: two servers, one compacts, to what was read a round before.
#[tokio::test]
async fn compaction_is_agreed_upon() {
    let Some(etcd) = Etcd::start(false).await else {
        return;
    };
    let (one, two) = (etcd.store().await, etcd.store().await);
    let mut ours = one
        .compaction_round(CompactionClock::default())
        .await
        .unwrap();
    let mut theirs = two
        .compaction_round(CompactionClock::default())
        .await
        .unwrap();
    assert_eq!((ours.version, theirs.version), (1, 1));
    let old = one.create("/compact/a", text("1"), None).await.unwrap();
    let new = one
        .update("/compact/a", text("2"), old, None)
        .await
        .unwrap();
    ours = one.compaction_round(ours).await.unwrap();
    theirs = two.compaction_round(theirs).await.unwrap();
    assert_eq!((ours.version, theirs.version), (2, 2));
    let at = |revision| ListOptions {
        at_revision: Some(revision),
        ..ListOptions::default()
    };
    assert!(one.list("/compact/", at(old)).await.is_ok());
    ours = one.compaction_round(ours).await.unwrap();
    assert_eq!(ours.version, 3);
    assert!(matches!(
        two.list("/compact/", at(old)).await,
        Err(StoreError::Compacted { .. })
    ));
    assert!(two.list("/compact/", at(theirs.revision)).await.is_ok());
    assert!(theirs.revision > new);
    let key = one.get(super::compaction::KEY).await.unwrap().unwrap();
    assert!(
        std::str::from_utf8(&key.value)
            .unwrap()
            .parse::<u64>()
            .is_ok()
    );
}

/// Many keys, few leases.
#[tokio::test]
async fn leases_are_shared() {
    let Some(etcd) = Etcd::start(false).await else {
        return;
    };
    let store = etcd.store().await;
    let hour = Duration::from_secs(3_600);
    let first = store.leases.lease(hour).await.unwrap();
    assert_eq!(store.leases.lease(hour).await.unwrap(), first);
    let other = store.leases.lease(Duration::from_secs(60)).await.unwrap();
    assert_ne!(other, first);
}
