//! The memory store: the contract of every store, and its own limits.

use std::sync::Arc;
use std::time::Duration;

use postrider::delivery::{AttemptRecord, Cause, Decision};
use postrider::event::NewEvent;
use postrider::store::{Accept, MemoryStore, Settlement, Store, WhenFull};
use postrider::testing::{envelope, sealed};
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

async fn settle_first(store: &MemoryStore) {
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
    settle_first(&store).await;
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
    settle_first(&store).await;
    publisher.await.unwrap().unwrap();

    let publisher = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.accept(accept("3"), NOW).await }
    });
    tokio::time::sleep(Duration::from_mins(1)).await;
    store.close().await.unwrap();
    assert!(publisher.await.unwrap().unwrap_err().is_closed());
}

fn named(id: &str) -> Accept {
    let event = NewEvent::raw("match", "1").unwrap().id(id.parse().unwrap());
    let endpoints: Arc<[EndpointId]> = Arc::new(["a".parse().unwrap()]);
    Accept { event: sealed(event), endpoints }
}

async fn settle_one(store: &MemoryStore, decision: Decision, answer: usize) {
    let claim = store.claim(&"a".parse().unwrap(), 1, NOW, NOW).await.unwrap();
    let lease = &claim.leases[0];
    let attempt = AttemptRecord {
        number: lease.attempts + 1,
        at: NOW,
        took_ms: 1,
        cause: Some(Cause::Status),
        message: String::new(),
        status: Some(500),
        answer: "x".repeat(answer),
    };
    let settlement = Settlement {
        delivery: lease.delivery.clone(),
        fence: lease.fence,
        attempt: Some(attempt),
        decision,
    };
    store.settle(&[settlement]).await.unwrap();
}

/// A batch that makes room by evicting the very event that one of its members repeats: the repeat
/// was accepted as new, and delivered a second time.
#[tokio::test]
async fn a_batch_does_not_evict_what_it_repeats() {
    let store = MemoryStore::builder().events_max(2).build();
    store.accept(vec![named("old")], NOW).await.unwrap();
    settle_one(&store, Decision::Delivered, 0).await;
    store.accept(vec![named("owed")], NOW).await.unwrap();
    let accepted = store.accept(vec![named("new"), named("old")], NOW).await;
    match accepted {
        Ok(accepted) => assert!(accepted[1].duplicate, "it was held when the batch came"),
        Err(error) => assert!(error.is_full(), "{error}"),
    }
}

/// A publish that is refused in the end must not have thrown the history (and with it the dedup
/// window) away.
#[tokio::test]
async fn a_refused_batch_evicts_nothing() {
    let store = MemoryStore::builder().events_max(3).build();
    store.accept(vec![named("old")], NOW).await.unwrap();
    settle_one(&store, Decision::Delivered, 0).await;
    store.accept(vec![named("owed-1"), named("owed-2")], NOW).await.unwrap();
    let error = store.accept(vec![named("x"), named("y")], NOW).await.unwrap_err();
    assert!(error.is_full(), "{error}");
    assert!(store.event(&"old".parse().unwrap()).await.unwrap().is_some(), "nothing was accepted");
    assert!(store.accept(vec![named("old")], NOW).await.unwrap()[0].duplicate);
}

/// Of a delivery's attempts 16 are kept; those that were dropped must not count for ever.
#[tokio::test]
async fn attempts_that_were_dropped_do_not_count() {
    // Room for the 16 attempts that are kept (4 KiB each) and more.
    let store = MemoryStore::builder().bytes_max(128 << 10).build();
    store.accept(vec![named("failing")], NOW).await.unwrap();
    for _ in 0..90 {
        settle_one(&store, Decision::RetryAt(NOW), 4096).await;
    }
    store.accept(vec![named("next")], NOW).await.expect("64 KiB are held of 128");
}

/// `bytes_max` is a bound on what is held: attempts of what is owed count too.
#[tokio::test]
async fn owed_deliveries_with_long_answers_stay_within_the_bound() {
    let store = MemoryStore::builder().bytes_max(64 << 10).build();
    for number in 0..50 {
        store.accept(vec![named(&format!("e{number}"))], NOW).await.unwrap();
    }
    for _ in 0..50 {
        settle_one(&store, Decision::RetryAt(NOW.after(std::time::Duration::from_secs(9))), 4096)
            .await;
    }
    let mut held = 0;
    for number in 0..50 {
        let id = format!("e{number}").parse().unwrap();
        let event = store.event(&id).await.unwrap().unwrap();
        held += event.deliveries[0].attempts.iter().map(|it| it.answer.len()).sum::<usize>();
    }
    assert!(held <= 64 << 10, "{held} bytes of answers are held, the bound is {}", 64 << 10);
}

/// An event whose payload has so many bytes.
fn payload_of(id: &str, bytes: usize) -> Accept {
    let payload = format!("\"{}\"", "x".repeat(bytes));
    let event = NewEvent::raw("match", payload).unwrap().id(id.parse().unwrap());
    let endpoints: Arc<[EndpointId]> = Arc::new(["a".parse().unwrap()]);
    Accept { event: sealed(event), endpoints }
}

/// A settlement that evicts one event and settles another left as many settled as before, so that
/// nobody was woken.
#[tokio::test(start_paused = true)]
async fn a_settlement_that_evicts_still_wakes_who_waits() {
    let store =
        Arc::new(MemoryStore::builder().bytes_max(32 << 10).when_full(WhenFull::Wait).build());
    store.accept(vec![payload_of("settled", 8 << 10)], NOW).await.unwrap();
    settle_one(&store, Decision::Delivered, 0).await;
    store.accept(vec![payload_of("owed", 20 << 10)], NOW).await.unwrap();
    let publisher = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.accept(vec![payload_of("waits", 26 << 10)], NOW).await }
    });
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(!publisher.is_finished(), "there is no room yet");
    settle_one(&store, Decision::Delivered, 4096).await;
    tokio::time::timeout(Duration::from_mins(1), publisher)
        .await
        .expect("everything is settled: there is room")
        .unwrap()
        .unwrap();
}
