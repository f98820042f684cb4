//! The memory store: the contract of every store, and its own limits.

use std::sync::Arc;
use std::time::Duration;

use postrider::delivery::Decision;
use postrider::store::{Accept, MemoryStore, Settlement, Store, WhenFull};
use postrider::testing::envelope;
use postrider::{EndpointId, Timestamp};

const NOW: Timestamp = Timestamp::from_millis(1_764_513_045_123);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn passes_the_contract() {
    postrider::testing::store::contract(async || MemoryStore::default()).await;
}

fn accept(payload: &str) -> Vec<Accept> {
    let endpoints: Arc<[EndpointId]> = Arc::new(["a".parse().unwrap()]);
    vec![Accept { event: envelope("match", payload), endpoints }]
}

async fn settle_one(store: &MemoryStore) {
    let claim = store.claim(&"a".parse().unwrap(), 1, NOW, NOW).await.unwrap();
    let lease = &claim.leases[0];
    let settlement = Settlement {
        delivery: lease.delivery.clone(),
        fence: lease.fence,
        attempt: None,
        decision: Decision::Delivered,
    };
    store.settle(&[settlement]).await.unwrap();
}

/// At the limit a store full of owed events refuses; a settled event makes room.
#[tokio::test]
async fn refuses_when_full_of_owed_events() {
    let store = MemoryStore::builder().events_max(2).build();
    store.accept(accept("1"), NOW).await.unwrap();
    let second = accept("2");
    store.accept(second.clone(), NOW).await.unwrap();
    let error = store.accept(accept("3"), NOW).await.unwrap_err();
    assert!(error.is_full(), "{error:?}");
    assert!(error.to_string().contains("bus.memory.events_max = 2"), "{error}");
    assert!(store.accept(second, NOW).await.unwrap()[0].duplicate, "a duplicate needs no room");
    settle_one(&store).await;
    store.accept(accept("3"), NOW).await.unwrap();
}

/// A limit on bytes counts payloads; a batch that can never fit is told so.
#[tokio::test]
async fn counts_bytes() {
    let store = MemoryStore::builder().bytes_max(10_000).build();
    let large = format!("\"{}\"", "x".repeat(6_000));
    store.accept(accept(&large), NOW).await.unwrap();
    assert!(store.accept(accept(&large), NOW).await.unwrap_err().is_full());
    let too_large = format!("\"{}\"", "x".repeat(12_000));
    let error = store.accept(accept(&too_large), NOW).await.unwrap_err();
    assert_eq!(error.kind(), postrider::ErrorKind::TooLarge);
}

/// Set to wait, a full store lets the publisher go on when something is settled, or closes on it.
#[tokio::test(start_paused = true)]
async fn waits_for_room() {
    let store = Arc::new(MemoryStore::builder().events_max(1).when_full(WhenFull::Wait).build());
    store.accept(accept("1"), NOW).await.unwrap();
    let publisher = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.accept(accept("2"), NOW).await }
    });
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(!publisher.is_finished(), "there is no room yet");
    settle_one(&store).await;
    publisher.await.unwrap().unwrap();

    let publisher = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.accept(accept("3"), NOW).await }
    });
    tokio::time::sleep(Duration::from_mins(1)).await;
    store.close().await.unwrap();
    assert!(publisher.await.unwrap().unwrap_err().is_closed());
}
