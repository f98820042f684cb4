//! The whole bus over the embedded store, across restarts.

use std::collections::BTreeMap;
use std::time::Duration;

use postrider::delivery::State;
use postrider::retry::Policy;
use postrider::store::Durability;
use postrider::store::LogStore;
use postrider::testing::{RecordingSink, Step};
use postrider::{Bus, Endpoint, EventId, NewEvent};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(20);

async fn bus(folder: &TempDir, sink: &RecordingSink) -> Bus {
    let store = LogStore::builder(folder.path()).segment_bytes(64 << 10).cache_bytes(10_000);
    let retry = Policy::new(vec![Duration::from_millis(5); 5], 0.0).unwrap();
    Bus::builder()
        .store(store.open().await.unwrap())
        .endpoint(Endpoint::builder("a", sink.clone()).retry(retry).breaker(None).build())
        .open()
        .await
        .unwrap()
}

/// Events published before a restart are delivered after it, each once, with what its attempts said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_owed_is_delivered_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let down = RecordingSink::scripted(vec![Step::Hang; 10_000]);
    let first = bus(&folder, &down).await;
    let mut expect: BTreeMap<EventId, String> = BTreeMap::new();
    for batch in 0..20 {
        let events = (0..25).map(|n| NewEvent::raw("match", format!("[{batch},{n}]")).unwrap());
        for (receipt, n) in first.publish_all(events).await.unwrap().iter().zip(0..) {
            assert_eq!(receipt.durability(), Durability::Synced);
            expect.insert(receipt.event().clone(), format!("[{batch},{n}]"));
        }
    }
    let left = first.shutdown(Duration::ZERO).await.unwrap();
    assert_eq!(left.total(), 500, "nothing was delivered: {left:?}");
    drop(first);

    let flaky = RecordingSink::scripted(vec![Step::fail(); 40]);
    let second = bus(&folder, &flaky).await;
    let left = second.flush(SOON).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
    let found: BTreeMap<EventId, String> = flaky
        .events()
        .iter()
        .map(|event| (event.id().clone(), event.payload_str().to_owned()))
        .collect();
    assert_eq!(flaky.events().len(), 500, "each once");
    assert_eq!(found, expect, "the same ids and bytes");
    second.shutdown(SOON).await.unwrap();
    drop(second);

    let third = bus(&folder, &RecordingSink::default()).await;
    assert!(third.flush(Duration::ZERO).await.unwrap().is_empty(), "nothing is owed twice");
    for id in expect.keys() {
        let event = third.event(id).await.unwrap().unwrap();
        assert_eq!(event.deliveries[0].state, State::Delivered);
        assert_eq!(event.deliveries[0].attempts.len(), event.deliveries[0].attempts_made as usize);
    }
    let again = NewEvent::raw("match", "[]").unwrap().id(expect.keys().next().unwrap().clone());
    assert!(third.publish(again).await.unwrap().is_duplicate(), "ids are known after a restart");
}
