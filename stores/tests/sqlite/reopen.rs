//! What is there after the store was closed, or dropped, and opened again.

use std::collections::BTreeSet;
use std::time::Duration;

use postrider::delivery::{Decision, State};
use postrider::store::{Settled, Store, WhenFull};
use postrider_stores::sqlite::SqliteStore;

use crate::support::{DEADLINE, at, claim, id, names, publish, settle};

/// Owed, settled, due times, leases, fences and receipts are those from before; everything owed is
/// announced, what is due later too.
#[tokio::test(flavor = "multi_thread")]
async fn keeps_everything() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    for closes in [true, false] {
        let prefix = if closes { "closed" } else { "dropped" };
        let name = |number: usize| format!("{prefix}-{number}");
        let store = SqliteStore::open(&path).await.unwrap();
        for number in 0..4 {
            publish(&store, &name(number), &["a"], at(0)).await.unwrap();
        }
        publish(&store, &name(4), &["b"], at(0)).await.unwrap();
        let leases = claim(&store, "a", at(0)).await;
        settle(&store, &leases[0], Decision::Delivered).await;
        settle(&store, &leases[1], Decision::RetryAt(at(100))).await;
        store.release(&[(leases[2].delivery.clone(), leases[2].fence)]).await.unwrap();
        let held = &leases[3];
        let other = claim(&store, "b", at(0)).await;
        settle(&store, &other[0], Decision::RetryAt(at(1000))).await;
        let before = store.backlog(at(0)).await.unwrap();
        if closes {
            store.close().await.unwrap();
        }
        drop(store);

        let store = SqliteStore::open(&path).await.unwrap();
        let mut announced = BTreeSet::new();
        while announced.len() < 2 {
            announced.extend(tokio::time::timeout(DEADLINE, store.ready()).await.unwrap());
        }
        assert_eq!(announced, [id("a"), id("b")].into());
        let sorted = |mut backlog: Vec<postrider::store::Backlog>| {
            backlog.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
            backlog
        };
        assert_eq!(sorted(store.backlog(at(0)).await.unwrap()), sorted(before));
        let state = async |number: usize| {
            store.delivery(&leases[number].delivery).await.unwrap().unwrap().state
        };
        assert_eq!(state(0).await, State::Delivered);
        assert_eq!(state(1).await, State::Waiting { due: at(100) });
        assert_eq!(state(3).await, State::Leased { until: at(30) });
        assert!(publish(&store, &name(0), &["a", "b"], at(1)).await.unwrap().duplicate);

        let due = claim(&store, "a", at(1)).await;
        assert_eq!(names(&due), [name(2)], "only what was given back is due");
        assert!(due[0].fence > held.fence, "fences rise beyond the end of a process");
        let again = claim(&store, "a", at(30)).await;
        assert_eq!(names(&again), [name(3)], "the lease ran out");
        assert_eq!(settle(&store, held, Decision::Delivered).await, Settled::Stale);
        for lease in due.iter().chain(&again) {
            assert_eq!(settle(&store, lease, Decision::Delivered).await, Settled::Applied);
        }
        for lease in claim(&store, "a", at(100)).await {
            assert_eq!(settle(&store, &lease, Decision::Delivered).await, Settled::Applied);
        }
        for lease in claim(&store, "b", at(1000)).await {
            settle(&store, &lease, Decision::Delivered).await;
        }
        assert!(store.backlog(at(2000)).await.unwrap().is_empty());
    }
}

/// Settled events go after their retention, the owed never; with them goes the memory of their ids.
#[tokio::test(flavor = "multi_thread")]
async fn retention() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::builder(folder.path().join("store.db"))
        .retention(Duration::from_secs(100))
        .open()
        .await
        .unwrap();
    publish(&store, "settled", &["a"], at(0)).await.unwrap();
    settle(&store, &claim(&store, "a", at(0)).await[0], Decision::Delivered).await;
    publish(&store, "owed", &["a"], at(0)).await.unwrap();
    let is_known = async |name: &str| store.event(&name.parse().unwrap()).await.unwrap().is_some();
    publish(&store, "early", &["a"], at(99)).await.unwrap();
    assert!(is_known("settled").await);
    publish(&store, "late", &["a"], at(100)).await.unwrap();
    assert!(!is_known("settled").await);
    assert!(is_known("owed").await);
    assert!(!publish(&store, "settled", &["a"], at(101)).await.unwrap().duplicate);
    assert_eq!(names(&claim(&store, "a", at(101)).await), ["owed", "early", "late", "settled"]);
}

/// At a limit settled events make room; where all are owed, a publisher is refused or waits, also
/// for another store on the same file to settle something.
#[tokio::test(flavor = "multi_thread")]
async fn limits() {
    let folder = tempfile::tempdir().unwrap();
    let builder = SqliteStore::builder(folder.path().join("store.db")).events_max(2);
    let store = builder.clone().open().await.unwrap();
    publish(&store, "one", &["a"], at(0)).await.unwrap();
    publish(&store, "two", &["a"], at(0)).await.unwrap();
    let full = publish(&store, "three", &["a"], at(0)).await.unwrap_err();
    assert!(full.is_full(), "{full:?}");
    assert!(full.to_string().contains("events_max = 2"), "{full}");
    assert!(publish(&store, "two", &["a"], at(0)).await.unwrap().duplicate);

    let waiting = builder.clone().when_full(WhenFull::Wait).open().await.unwrap();
    let waits = tokio::spawn(async move { publish(&waiting, "three", &["a"], at(0)).await });
    let lease = claim(&store, "a", at(0)).await.remove(0);
    assert!(store.event(&"three".parse().unwrap()).await.unwrap().is_none());
    settle(&store, &lease, Decision::Delivered).await;
    tokio::time::timeout(DEADLINE, waits).await.unwrap().unwrap().unwrap();
    assert!(store.event(&"one".parse().unwrap()).await.unwrap().is_none(), "it made room");

    let small = builder.bytes_max(10).open().await.unwrap();
    let error = publish(&small, "four", &["a"], at(0)).await.unwrap_err();
    assert!(error.is_invalid(), "{error:?}");
}
