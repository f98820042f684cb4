//! Over a real folder: the contract, reopening, limits, the lock, dedup.

use std::sync::Arc;
use std::time::Duration;

use postrider::delivery::{AttemptRecord, Cause, DeadReason, Decision, State};
use postrider::store::log::Sync;
use postrider::store::{
    Accept, Durability, Lease, LogStore, LogStoreBuilder, Settled, Settlement, Store, WhenFull,
};
use postrider::testing::envelope;
use postrider::{EndpointId, Timestamp};
use tempfile::TempDir;

const NOW: Timestamp = Timestamp::from_millis(1_764_513_045_123);

fn at(seconds: u64) -> Timestamp {
    NOW.after(Duration::from_secs(seconds))
}

fn builder(folder: &TempDir) -> LogStoreBuilder {
    LogStore::builder(folder.path().join("data")).segment_bytes(1 << 20)
}

async fn open(folder: &TempDir) -> LogStore {
    builder(folder).open().await.unwrap()
}

fn id(text: &str) -> EndpointId {
    text.parse().unwrap()
}

fn accept(payload: &str, endpoints: &[&str]) -> Accept {
    Accept {
        event: envelope("match", payload),
        endpoints: endpoints.iter().map(|endpoint| id(endpoint)).collect(),
    }
}

async fn claim(store: &LogStore, endpoint: &str, max: usize, now: Timestamp) -> Vec<Lease> {
    store.claim(&id(endpoint), max, now, now.after(Duration::from_secs(30))).await.unwrap().leases
}

fn settlement(lease: &Lease, decision: Decision) -> Settlement {
    let number = lease.attempts + 1;
    let attempt = AttemptRecord {
        number,
        at: NOW,
        took_ms: 5,
        cause: (decision != Decision::Delivered).then_some(Cause::Status),
        message: format!("failure {number}"),
        status: Some(500),
        answer: "no".to_owned(),
    };
    Settlement {
        delivery: lease.delivery.clone(),
        fence: lease.fence,
        attempt: Some(attempt),
        decision,
    }
}

async fn settle(store: &LogStore, lease: &Lease, decision: Decision) {
    let settled = store.settle(&[settlement(lease, decision)]).await.unwrap();
    assert_eq!(settled, [Settled::Applied]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn passes_the_contract() {
    let folders = std::sync::Mutex::new(Vec::new());
    postrider::testing::store::contract(async || {
        let folder = TempDir::new().unwrap();
        let store = open(&folder).await;
        folders.lock().unwrap().push(folder);
        store
    })
    .await;
}

/// The contract without a cache, in the smallest segments: every event is read back from disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn passes_the_contract_from_disk() {
    let folders = std::sync::Mutex::new(Vec::new());
    postrider::testing::store::contract(async || {
        let folder = TempDir::new().unwrap();
        let store = builder(&folder).segment_bytes(16 << 10).cache_bytes(0).open().await.unwrap();
        folders.lock().unwrap().push(folder);
        store
    })
    .await;
}

/// Every state survives a restart, with attempts and times; leases end with the process, and its
/// fences are refused by the next.
#[tokio::test]
async fn everything_survives_reopening() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder).await;
    let events: Vec<Accept> =
        (0..6).map(|n| accept(&format!(r#"{{"n":{n}}}"#), &["a", "b"])).collect();
    store.accept(events.clone(), at(0)).await.unwrap();
    let leases = claim(&store, "a", 5, at(1)).await;
    settle(&store, &leases[0], Decision::Delivered).await;
    settle(&store, &leases[1], Decision::Dead(DeadReason::Rejected)).await;
    settle(&store, &leases[2], Decision::RetryAt(at(600))).await;
    settle(&store, &leases[3], Decision::Expired).await;
    store.close().await.unwrap();

    let mut old = leases[4].clone();
    for round in 0..3 {
        let store = open(&folder).await;
        assert!(store.recovery().checkpoint, "a close writes a checkpoint");
        assert!(store.recovery().damaged.is_empty() && store.recovery().cut.is_none());
        assert_eq!(store.recovery().owed, 3 + 6);
        let states = [
            State::Delivered,
            State::Dead { reason: DeadReason::Rejected },
            State::Waiting { due: at(600) },
            State::Expired,
            State::Waiting { due: at(0) },
            State::Waiting { due: at(0) },
        ];
        for (event, expect) in events.iter().zip(states) {
            let found = store.event(event.event.id()).await.unwrap().unwrap();
            assert_eq!(found.event, event.event);
            assert_eq!(found.accepted_at, at(0));
            assert_eq!(found.deliveries[0].state, expect, "round {round}");
            let tries = found.deliveries[0].attempts_made as usize;
            assert_eq!(found.deliveries[0].attempts.len(), tries);
            assert_eq!(found.deliveries[1].state, State::Waiting { due: at(0) });
        }
        let ready = store.ready().await;
        assert_eq!(ready.len(), 2, "what is owed is announced: {ready:?}");
        let stale = store.settle(&[settlement(&old, Decision::Delivered)]).await.unwrap();
        assert_eq!(stale, [Settled::Stale], "a lease of the last process");
        let again = claim(&store, "a", 9, at(1)).await;
        let found: Vec<_> = again.iter().map(|lease| lease.event.id()).collect();
        assert_eq!(found, [events[4].event.id(), events[5].event.id()]);
        old = again[0].clone();
        assert_eq!(claim(&store, "a", 9, at(600)).await[2].attempts, 1);
        let duplicate = store.accept(vec![events[0].clone()], at(5)).await.unwrap();
        assert!(duplicate[0].duplicate);
        assert_eq!(duplicate[0].endpoints, events[0].endpoints);
        // Dropped in two rounds of three, closed in one.
        if round == 1 {
            store.close().await.unwrap();
        }
    }
}

/// Many segments, most events settled: the old ones are freed, what is owed is not.
#[tokio::test]
async fn frees_segments_and_keeps_what_is_owed() {
    let folder = TempDir::new().unwrap();
    let tiny = |folder: &TempDir| {
        let builder = builder(folder).segment_bytes(16 << 10).cache_bytes(0);
        builder.retention(Duration::ZERO).dedup_window(Duration::ZERO)
    };
    let store = tiny(&folder).open().await.unwrap();
    let payload = |n: u64| format!(r#"{{"n":{n},"fill":"{}"}}"#, "x".repeat(1000));
    for n in 0..400 {
        store.accept(vec![accept(&payload(n), &["a"])], at(n)).await.unwrap();
        for lease in claim(&store, "a", 9, at(n)).await {
            settle(&store, &lease, Decision::Delivered).await;
        }
    }
    store.close().await.unwrap();
    let bytes = |folder: &TempDir| -> u64 {
        let files = std::fs::read_dir(folder.path().join("data")).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
    };
    assert!(bytes(&folder) < 100_000, "400 kB were written: {}", bytes(&folder));
    let store = tiny(&folder).open().await.unwrap();
    assert_eq!(store.recovery().owed, 0);
    assert!(store.recovery().damaged.is_empty(), "{:?}", store.recovery());
    for n in 0..100 {
        store.accept(vec![accept(&payload(n), &["a", "b"])], at(1000)).await.unwrap();
    }
    drop(store);
    let store = tiny(&folder).open().await.unwrap();
    assert_eq!(store.recovery().owed, 200);
    let leases = claim(&store, "b", 1000, at(2000)).await;
    assert_eq!(leases.len(), 100);
    for (n, lease) in leases.iter().enumerate() {
        assert_eq!(lease.event.payload_str(), payload(n as u64), "read back in order");
    }
}

/// A dead endpoint with an event in each segment does not keep them all: what it is owed is copied
/// forward, in order, with the attempts and with what became of the other deliveries.
#[tokio::test]
async fn a_dead_endpoint_does_not_pin_the_disk() {
    let folder = TempDir::new().unwrap();
    let tiny = |folder: &TempDir| {
        let builder = builder(folder).segment_bytes(16 << 10).cache_bytes(0);
        builder.retention(Duration::ZERO).dedup_window(Duration::ZERO)
    };
    let mut store = tiny(&folder).open().await.unwrap();
    let fill = "x".repeat(1000);
    let mut owed = Vec::new();
    for n in 0..2000 {
        let for_dead = n % 50 < 2;
        let event =
            accept(&format!("[{n},\"{fill}\"]"), if for_dead { &["a", "dead"] } else { &["a"] });
        if for_dead {
            owed.push(event.event.clone());
        }
        store.accept(vec![event], at(n)).await.unwrap();
        for lease in claim(&store, "a", 9, at(n)).await {
            settle(&store, &lease, Decision::Delivered).await;
        }
        if n == 60 {
            // Three were tried, two of them twice.
            for tried in [3, 2] {
                for lease in claim(&store, "dead", tried, at(n)).await {
                    settle(&store, &lease, Decision::RetryAt(at(0))).await;
                }
            }
        }
        if n % 500 == 499 {
            store.close().await.unwrap();
            store = tiny(&folder).open().await.unwrap();
            assert!(store.recovery().damaged.is_empty(), "{:?}", store.recovery());
        }
    }
    store.close().await.unwrap();
    let files = std::fs::read_dir(folder.path().join("data")).unwrap();
    let bytes: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes < 400_000, "2 MB were written, 80 kB are owed: {bytes}");

    for checkpoint in [true, false] {
        if !checkpoint {
            std::fs::remove_file(folder.path().join("data/checkpoint")).unwrap();
        }
        let store = tiny(&folder).open().await.unwrap();
        assert_eq!(store.recovery().owed, owed.len() as u64);
        for (number, event) in owed.iter().enumerate() {
            let found = store.event(event.id()).await.unwrap().unwrap();
            assert_eq!(found.event, *event);
            assert_eq!(found.deliveries[0].state, State::Delivered, "{number}");
            assert_eq!(found.deliveries[0].attempts.len(), 1);
            let tries = [2, 2, 1].get(number).copied().unwrap_or(0);
            let numbers: Vec<u32> =
                found.deliveries[1].attempts.iter().map(|attempt| attempt.number).collect();
            assert_eq!(numbers, (1..=tries).collect::<Vec<_>>(), "{number}");
        }
        let leases = claim(&store, "dead", 1000, at(9000)).await;
        let untried = leases.iter().filter(|lease| lease.attempts == 0);
        let untried: Vec<_> = untried.map(|lease| lease.event.id()).collect();
        let expect: Vec<_> = owed[3..].iter().map(|event| event.id()).collect();
        assert_eq!(untried, expect, "in the order of acceptance");
    }
}

/// A second opening is refused and told who holds the folder; closing lets go of it.
#[tokio::test]
async fn one_process_at_a_time() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder).await;
    let error = builder(&folder).open().await.unwrap_err();
    let holder = format!("process {}", std::process::id());
    assert!(error.chain().contains(&holder), "{}", error.chain());
    assert!(error.chain().contains("data"), "{}", error.chain());
    store.close().await.unwrap();
    assert!(store.accept(vec![accept("1", &["a"])], NOW).await.unwrap_err().is_closed());
    open(&folder).await;
}

/// At the backlog limits a publisher is refused, or waits, by choice; what never fits is told so.
#[tokio::test]
async fn limits() {
    let folder = TempDir::new().unwrap();
    let store = builder(&folder).backlog_events_max(2).open().await.unwrap();
    let never = (0..3).map(|_| accept("1", &["a"])).collect();
    let error = store.accept(never, NOW).await.unwrap_err();
    assert_eq!(error.kind(), postrider::ErrorKind::TooLarge, "{error}");
    let thrice = vec![accept("1", &["a", "b"]); 3];
    store.accept(thrice, NOW).await.expect("one event three times is one event");
    store.accept(vec![accept("1", &["a", "b"])], NOW).await.unwrap();
    let error = store.accept(vec![accept("1", &["a"])], NOW).await.unwrap_err();
    assert!(error.is_full(), "{error}");
    assert!(error.to_string().contains("backlog.events_max = 2"), "{error}");
    store.accept(vec![accept("1", &[])], NOW).await.expect("an unmatched event is owed to nobody");
    drop(store);

    let store = builder(&folder).backlog_events_max(2).when_full(WhenFull::Wait);
    let store = Arc::new(store.open().await.unwrap());
    let publisher = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.accept(vec![accept("1", &["a"])], NOW).await }
    });
    // tidy: allow(sleep): that nothing happens has no sign to wait for
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!publisher.is_finished(), "still full");
    for lease in claim(&store, "a", 9, NOW).await {
        settle(&store, &lease, Decision::Delivered).await;
    }
    publisher.await.unwrap().unwrap();
    drop(store);

    let folder = TempDir::new().unwrap();
    let store = builder(&folder).backlog_bytes_max(3_000).open().await.unwrap();
    let large = format!("\"{}\"", "x".repeat(1_500));
    let error = store.accept((0..2).map(|_| accept(&large, &["a"])).collect(), NOW).await;
    assert_eq!(error.unwrap_err().kind(), postrider::ErrorKind::TooLarge);
    store.accept(vec![accept(&large, &["a"])], NOW).await.unwrap();
    assert!(store.accept(vec![accept(&large, &["a"])], NOW).await.unwrap_err().is_full());
    let huge = format!("\"{}\"", "x".repeat(2 << 20));
    drop(store);
    let error = open(&folder).await.accept(vec![accept(&huge, &["a"])], NOW).await.unwrap_err();
    assert_eq!(error.kind(), postrider::ErrorKind::TooLarge);
    assert!(error.to_string().contains("segment_bytes"), "{error}");
}

/// An id is known for the window and no longer.
#[tokio::test]
async fn dedup_has_a_window() {
    let folder = TempDir::new().unwrap();
    let store = builder(&folder).dedup_window(Duration::from_mins(1)).open().await.unwrap();
    let event = accept("1", &["a"]);
    let publish =
        async |seconds| store.accept(vec![event.clone()], at(seconds)).await.unwrap()[0].duplicate;
    assert!(!publish(0).await);
    assert!(publish(60).await);
    assert!(!publish(61).await);
    assert!(publish(100).await);
}

/// What a store promises is what it is set to.
#[tokio::test]
async fn durability_is_told() {
    let check = async |durability, expect| {
        let folder = TempDir::new().unwrap();
        let store = builder(&folder).durability(durability).open().await.unwrap();
        assert_eq!(store.capabilities().durability, expect);
        store.accept(vec![accept("1", &["a"])], NOW).await.unwrap();
        drop(store);
        assert_eq!(open(&folder).await.recovery().owed, 1);
    };
    check(Sync::Always, Durability::Synced).await;
    check(Sync::Batch(Duration::from_millis(10)), Durability::Os).await;
    check(Sync::Os, Durability::Os).await;
}
