//! A store that fails, panics or is slow: nothing is lost, doubled or stuck.

use std::sync::Arc;
use std::time::Duration;

use postrider::store::{MemoryStore, Store};
use postrider::testing::{Call, FaultyStore, RecordingSink, Step, TestClock};
use postrider::{Bus, Endpoint, NewEvent, Timestamp};

async fn bus(store: &FaultyStore<MemoryStore>, sink: &RecordingSink) -> Bus {
    Bus::builder()
        .clock(Arc::new(TestClock::following_tokio()))
        .store(store.clone())
        .endpoint(Endpoint::builder("a", sink.clone()).timeout(Duration::from_secs(300)).build())
        .open()
        .await
        .unwrap()
}

fn event(number: usize) -> NewEvent {
    NewEvent::raw("match", number.to_string()).unwrap()
}

/// Claims and settlements that fail or panic for a while delay deliveries and repeat none.
#[tokio::test(start_paused = true)]
async fn a_store_that_fails_for_a_while_loses_and_doubles_nothing() {
    let store = FaultyStore::new(MemoryStore::default());
    let sink = RecordingSink::default();
    let bus = bus(&store, &sink).await;
    for call in [Call::Claim, Call::Settle] {
        store.fail(call, 7);
        store.panic(call, 2);
    }
    bus.publish_all((0..100).map(event)).await.unwrap();
    assert!(bus.flush(Duration::from_secs(3600)).await.unwrap().is_empty());
    assert_eq!((sink.attempts().len(), sink.events().len()), (100, 100));
}

/// Leases that could not be extended, while the store fails or panics, cost nothing.
#[tokio::test(start_paused = true)]
async fn failed_extensions_double_nothing() {
    let store = FaultyStore::new(MemoryStore::default());
    let sink = RecordingSink::scripted([Step::AckAfter(Duration::from_secs(100))]);
    let bus = bus(&store, &sink).await;
    store.fail(Call::Extend, 1);
    store.panic(Call::Extend, 1);
    bus.publish(event(1)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(35)).await;
    bus.publish(event(2)).await.unwrap();
    assert!(bus.flush(Duration::from_secs(3600)).await.unwrap().is_empty());
    assert_eq!(sink.attempts().len(), 2);
}

/// `publish` had looked at the bus (open) and was on its way into the store; `shutdown` drained,
/// counted what is left, and closed. The event was accepted with a receipt, never delivered, and not
/// among what is left: nobody knew of it.
#[tokio::test(start_paused = true)]
async fn an_event_accepted_during_shutdown_is_delivered_or_told_as_left() {
    let store = FaultyStore::new(MemoryStore::default());
    let sink = RecordingSink::default();
    let bus = bus(&store, &sink).await;
    store.hold(Call::Accept);
    let publisher = tokio::spawn({
        let bus = bus.clone();
        async move { bus.publish(event(1)).await }
    });
    store.begun(Call::Accept, 1).await;
    let slow = store.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(2)).await;
        slow.go();
    });
    let left = bus.shutdown(Duration::from_secs(30)).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
    publisher.await.unwrap().unwrap();
    assert_eq!(sink.events().len(), 1);
}

/// What a claim leased before it failed comes again when its lease has run out.
#[tokio::test(start_paused = true)]
async fn what_a_failed_claim_leased_comes_again() {
    let store = FaultyStore::new(MemoryStore::default());
    let sink = RecordingSink::default();
    let bus = bus(&store, &sink).await;
    store.fail_after_claim(1);
    bus.publish(event(1)).await.unwrap();
    assert!(bus.flush(Duration::from_secs(3600)).await.unwrap().is_empty());
    assert_eq!(sink.attempts().len(), 1);
}

/// After a shutdown that broke attempts off, nothing is under a lease: it is all due.
#[tokio::test(start_paused = true)]
async fn a_shutdown_gives_leases_back() {
    let store = FaultyStore::new(MemoryStore::default());
    let sink = RecordingSink::scripted([Step::Hang]);
    let bus = bus(&store, &sink).await;
    bus.publish(event(1)).await.unwrap();
    sink.attempted(1).await;
    bus.shutdown(Duration::ZERO).await.unwrap();
    let backlog = store.backlog(Timestamp::MAX).await.unwrap();
    assert_eq!((backlog[0].ready, backlog[0].leased), (1, 0));
}
