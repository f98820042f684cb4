//! What a database adds to the contract of history: several stores, reopening, retention and bounds.

use std::sync::Arc;
use std::time::Duration;

use postrider::delivery::{AttemptRecord, DeadReason, Decision, DeliveryId, State, StateKind};
use postrider::event::NewEvent;
use postrider::stats::Window;
use postrider::store::{
    Accept, Lease, Note, Page, Place, Purged, Query, RUNS_MAX, Replayed, Settled, Settlement,
    Store, Target,
};
use postrider::testing::sealed;
use postrider_stores::sqlite::{SqliteStore, SqliteStoreBuilder, rusqlite};

use crate::support::{
    DEADLINE, Process, accept, at, child, claim, hear, id, names, publish, say, settle,
};

const DEAD: Decision = Decision::Dead(DeadReason::Exhausted);

fn builder(folder: &tempfile::TempDir) -> SqliteStoreBuilder {
    SqliteStore::builder(folder.path().join("store.db"))
}

/// Publishes an event for `a` and brings its delivery to an end.
async fn ended(store: &SqliteStore, name: &str, decision: Decision, seconds: u64) {
    publish(store, name, &["a"], at(seconds)).await.unwrap();
    let leases = claim(store, "a", at(seconds)).await;
    assert_eq!(names(&leases), [name]);
    settle(store, &leases[0], decision).await;
}

async fn target(store: &SqliteStore, name: &str, endpoint: &str) -> Target {
    let found = store.event(&name.parse().unwrap()).await.unwrap().unwrap();
    Target::new(&found, id(endpoint))
}

async fn found(store: &SqliteStore, query: &Query) -> Vec<String> {
    let page = store.find(query, Page::oldest()).await.unwrap();
    page.events.iter().map(|event| event.event.id().to_string()).collect()
}

fn attempt(lease: &Lease, millis: u64) -> Settlement {
    let attempt = AttemptRecord {
        number: lease.attempts + 1,
        at: at(0),
        took_ms: millis,
        cause: None,
        message: String::new(),
        status: Some(200),
        answer: "answer".repeat(100),
    };
    Settlement {
        delivery: lease.delivery.clone(),
        fence: lease.fence,
        attempt: Some(attempt),
        decision: Decision::Delivered,
    }
}

/// What one process replays another delivers, soon; both count into the same statistics, and what is
/// purged or noted by one is so for the other. Replay, purge and note survive the kill that follows
/// them at once.
#[tokio::test(flavor = "multi_thread")]
async fn processes_share_replays() {
    const THIS: &str = "history::processes_share_replays";
    if let Some((_, folder)) = child() {
        let store = SqliteStore::open(folder.join("store.db")).await.unwrap();
        let targets =
            [target(&store, "replayed", "a").await, target(&store, "replayed", "new").await];
        let note = Note::new("job", "half").unwrap();
        store.replay(&targets, Some(note), at(20)).await.unwrap();
        let purged = [target(&store, "purged", "a").await];
        assert_eq!(store.purge(&purged, at(20)).await.unwrap(), [Purged::Done]);
        store.keep(Note::new("other", "whole").unwrap()).await.unwrap();
        say("done");
        hear();
        unreachable!("it is killed");
    }
    let folder = tempfile::tempdir().unwrap();
    let store = builder(&folder).poll(Duration::from_millis(5)).open().await.unwrap();
    ended(&store, "replayed", DEAD, 0).await;
    ended(&store, "purged", DEAD, 1).await;
    assert!(claim(&store, "a", at(2)).await.is_empty());
    while tokio::time::timeout(Duration::from_millis(20), store.ready()).await.is_ok() {}

    let mut process = Process::start(THIS, "replays", folder.path());
    process.expect("done");
    assert!(process.kill().is_empty());
    let mut announced = Vec::new();
    while announced.len() < 2 {
        announced.extend(tokio::time::timeout(DEADLINE, store.ready()).await.unwrap());
    }
    announced.sort();
    assert_eq!(announced, [id("a"), id("new")]);
    for endpoint in ["a", "new"] {
        let leases = claim(&store, endpoint, at(20)).await;
        assert_eq!(names(&leases), ["replayed"]);
        assert_eq!(leases[0].delivery.run(), 1);
        store.settle(&[attempt(&leases[0], 7)]).await.unwrap();
    }
    assert!(store.dead().await.unwrap().is_empty());
    assert_eq!(found(&store, &Query::new().state(StateKind::Purged)).await, ["purged"]);
    let notes = store.notes().await.unwrap();
    assert_eq!(notes, [Note::new("job", "half").unwrap(), Note::new("other", "whole").unwrap()]);
    let stats = store.stats().await.unwrap();
    let totals: Vec<_> = stats.iter().map(|stats| stats.series.totals()).collect();
    assert_eq!(stats.len(), 2);
    assert_eq!(totals.iter().map(|totals| totals.succeeded).sum::<u64>(), 2);
}

/// An event that several endpoints gave up was told once for each of them.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = builder(&folder).open().await.unwrap();
    publish(&store, "e", &["a", "b", "c"], at(0)).await.unwrap();
    for endpoint in ["a", "b", "c"] {
        settle(&store, &claim(&store, endpoint, at(0)).await[0], DEAD).await;
    }
    for query in [
        Query::new().state(StateKind::Dead),
        Query::new().reason(DeadReason::Exhausted),
        Query::new().endpoint(id("a")).endpoint(id("b")).state(StateKind::Dead),
    ] {
        let page = store.find(&query, Page::newest().limit(1)).await.unwrap();
        assert_eq!((page.events.len(), page.next), (1, None), "{query:?}");
    }
}

/// Settlements of many stores and many endpoints at once are all counted.
#[tokio::test(flavor = "multi_thread")]
async fn statistics_count_each_settlement_of_every_store_once() {
    const EVENTS: usize = 120;
    let folder = tempfile::tempdir().unwrap();
    let mut stores = Vec::new();
    for _ in 0..3 {
        stores.push(Arc::new(builder(&folder).open().await.unwrap()));
    }
    let batch = (0..EVENTS).map(|number| accept(&format!("e{number}"), &["a", "b"])).collect();
    stores[0].accept(batch, at(0)).await.unwrap();
    let settles = stores.iter().cloned().map(|store| {
        tokio::spawn(async move {
            let mut settled = 0;
            for endpoint in ["a", "b"].into_iter().cycle().take(EVENTS) {
                let claim = store.claim(&id(endpoint), 2, at(0), at(1000)).await.unwrap();
                let batch: Vec<_> = claim.leases.iter().map(|lease| attempt(lease, 3)).collect();
                let answers = store.settle(&batch).await.unwrap();
                settled += answers.iter().filter(|answer| **answer == Settled::Applied).count();
                // What is settled twice counts once.
                let again = store.settle(&batch).await.unwrap();
                assert!(again.iter().all(|answer| *answer == Settled::Stale));
            }
            settled
        })
    });
    let settles: Vec<_> = settles.collect();
    let mut settled = 0;
    for settles in settles {
        settled += settles.await.unwrap();
    }
    assert_eq!(settled, 2 * EVENTS);
    for stats in stores[1].stats().await.unwrap() {
        let counts = stats.series.window(Window::Hour, at(60));
        assert_eq!((counts.succeeded, counts.latency.count()), (EVENTS as u64, EVENTS as u64));
    }
}

/// Runs and attempts go with their event, what is replayed stays until it has been delivered again,
/// and statistics outlive both.
#[tokio::test(flavor = "multi_thread")]
async fn retention() {
    let folder = tempfile::tempdir().unwrap();
    let store = builder(&folder).retention(Duration::from_secs(100)).open().await.unwrap();
    ended(&store, "again", DEAD, 0).await;
    ended(&store, "goes", DEAD, 1).await;
    publish(&store, "unmatched", &[], at(1)).await.unwrap();
    let again = [target(&store, "again", "a").await, target(&store, "again", "new").await];
    store.replay(&again, None, at(50)).await.unwrap();
    let is_known = async |name: &str| store.event(&name.parse().unwrap()).await.unwrap().is_some();
    publish(&store, "late", &["b"], at(200)).await.unwrap();
    assert!(is_known("again").await, "it is owed");
    assert!(!is_known("goes").await && !is_known("unmatched").await);
    assert!(store.dead().await.unwrap().is_empty(), "the dead go with their event");
    assert!(found(&store, &Query::new().state(StateKind::Unmatched)).await.is_empty());

    for endpoint in ["a", "new"] {
        let leases = claim(&store, endpoint, at(210)).await;
        store.settle(&[attempt(&leases[0], 1)]).await.unwrap();
    }
    publish(&store, "later", &["b"], at(220)).await.unwrap();
    assert!(!is_known("again").await, "nothing of it is owed any more");
    for lease in claim(&store, "b", at(220)).await {
        settle(&store, &lease, Decision::Delivered).await;
    }
    publish(&store, "last", &[], at(400)).await.unwrap();
    assert_eq!(found(&store, &Query::new()).await, ["last"]);
    let replayed = store.replay(&again, None, at(401)).await.unwrap();
    assert_eq!(replayed, [Replayed::Gone, Replayed::Gone]);

    let stats = store.stats().await.unwrap();
    let of_a = stats.iter().find(|stats| stats.endpoint == id("a")).unwrap();
    assert_eq!((of_a.series.totals().dead, of_a.series.totals().succeeded), (2, 1));
    store.close().await.unwrap();

    // Nothing is left over: neither rows nor what they are counted as.
    let connection = rusqlite::Connection::open(store.path()).unwrap();
    let count = |table: &str| {
        let sql = format!("SELECT count(*) FROM postrider_{table}");
        connection.query_row(&sql, [], |row| row.get::<_, i64>(0)).unwrap()
    };
    let left = ["events", "deliveries", "attempts", "unmatched", "settled", "spans"].map(count);
    assert_eq!(left, [1, 0, 0, 1, 1, 1]);
    let held: (i64, i64, i64) = connection
        .query_row(
            "SELECT t.events, t.bytes, e.bytes FROM postrider_totals t, postrider_events e",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .unwrap();
    assert_eq!((held.0, held.1), (1, held.2));
}

/// A replay takes room like a publish: it evicts what is settled, but not what it asks for, and is
/// refused where that is not enough; then nothing of it is done. It is refused even where a publisher
/// would wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_needs_room() {
    let folder = tempfile::tempdir().unwrap();
    let open = async |bytes| {
        let builder = builder(&folder).when_full(postrider::store::WhenFull::Wait);
        builder.bytes_max(bytes).open().await.unwrap()
    };
    let store = open(100_000).await;
    for number in 0..3 {
        ended(&store, &format!("e{number}"), DEAD, 0).await;
    }
    let bytes: u64 = rusqlite::Connection::open(store.path())
        .unwrap()
        .query_row("SELECT bytes FROM postrider_totals", [], |row| row.get::<_, i64>(0))
        .unwrap()
        .cast_unsigned();
    let all = [
        target(&store, "e0", "a").await,
        target(&store, "e1", "a").await,
        target(&store, "e2", "a").await,
    ];
    let small = open(bytes).await;
    let note = Note::new("job", "1").unwrap();
    let full = small.replay(&all, Some(note.clone()), at(1)).await.unwrap_err();
    assert!(full.is_full(), "{full:?}");
    assert!(full.to_string().contains(&format!("bytes_max = {bytes}")), "{full}");
    assert!(small.notes().await.unwrap().is_empty(), "nothing was done");
    assert!(small.backlog(at(1)).await.unwrap().is_empty());
    assert_eq!(found(&small, &Query::new()).await, ["e0", "e1", "e2"], "nothing was evicted");

    let replayed = small.replay(&all[1..2], Some(note), at(1)).await.unwrap();
    let made = DeliveryId::new(id("a"), "e1".parse().unwrap()).with_run(1);
    assert_eq!(replayed, [Replayed::Made(made)]);
    assert_eq!(found(&small, &Query::new()).await, ["e1", "e2"], "the first settled made room");
    assert_eq!(small.notes().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let store = builder(&folder).open().await.unwrap();
    ended(&store, "e", DEAD, 0).await;
    let again = [target(&store, "e", "a").await];
    store.replay(&again, None, at(0)).await.unwrap();
    let lease = claim(&store, "a", at(0)).await.remove(0);
    settle(&store, &lease, DEAD).await;
    // As if it had been replayed a thousand times.
    let connection = rusqlite::Connection::open(store.path()).unwrap();
    let last = |run: u32| {
        let sql = "UPDATE postrider_deliveries SET run = ?1 WHERE replaced = 0";
        connection.execute(sql, [run]).unwrap();
    };
    last(RUNS_MAX);
    assert_eq!(store.replay(&again, None, at(1)).await.unwrap(), [Replayed::TooOften]);
    last(RUNS_MAX - 1);
    let made = DeliveryId::new(id("a"), "e".parse().unwrap()).with_run(RUNS_MAX);
    assert_eq!(store.replay(&again, None, at(1)).await.unwrap(), [Replayed::Made(made)]);
}

/// A place is never used twice: whoever goes on from it must not miss what came meanwhile, and what
/// was asked for must not be another event.
#[tokio::test(flavor = "multi_thread")]
async fn places_are_used_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = builder(&folder).events_max(2).open().await.unwrap();
    publish(&store, "owed", &["a"], at(0)).await.unwrap();
    publish(&store, "settled", &[], at(1)).await.unwrap();
    let page = store.find(&Query::new(), Page::oldest()).await.unwrap();
    let last: Place = page.events[1].place;
    publish(&store, "next", &[], at(2)).await.unwrap();
    let page = store.find(&Query::new(), Page::oldest().after(Some(last))).await.unwrap();
    assert_eq!(page.events.len(), 1);
    assert_eq!(page.events[0].event.id().to_string(), "next");
}

/// A page looks at a bounded number of events and holds a bounded number of bytes; the next goes on
/// where it ended.
#[tokio::test(flavor = "multi_thread")]
async fn pages_are_bounded() {
    const EVENTS: usize = 12_000;
    let folder = tempfile::tempdir().unwrap();
    let store = builder(&folder).open().await.unwrap();
    let event = |kind: &str, name: String, bytes: usize| {
        let payload = format!("\"{}\"", "x".repeat(bytes));
        let event = NewEvent::raw(kind, payload).unwrap().id(name.parse().unwrap());
        Accept { event: sealed(event), endpoints: [].into() }
    };
    let mut batch: Vec<Accept> =
        (0..EVENTS).map(|number| event("common", format!("e{number}"), 1)).collect();
    batch.insert(0, event("rare.one", "first".into(), 1));
    store.accept(batch, at(0)).await.unwrap();
    let rare = Query::new().of_type("rare.*".parse().unwrap());
    let page = store.find(&rare, Page::newest()).await.unwrap();
    assert!(page.events.is_empty() && page.next.is_some(), "10,000 were looked at");
    let page = store.find(&rare, Page::newest().after(page.next)).await.unwrap();
    assert_eq!(page.events.len(), 1);
    assert_eq!(page.next, None);
    let exact = Query::new().of_type("rare.one".parse().unwrap());
    assert_eq!(found(&store, &exact).await, ["first"], "an index leads there at once");

    let big = (0..20).map(|number| event("big", format!("big{number}"), 1_000_000)).collect();
    store.accept(big, at(1)).await.unwrap();
    let big = Query::new().of_type("big".parse().unwrap());
    let page = store.find(&big, Page::newest()).await.unwrap();
    assert_eq!(page.events.len(), 17, "16 MiB and what crosses them");
    let page = store.find(&big, Page::newest().after(page.next)).await.unwrap();
    assert_eq!((page.events.len(), page.next), (3, None));
}

/// A damaged row hides neither the others nor what comes after them.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_rows_are_passed_by() {
    let folder = tempfile::tempdir().unwrap();
    let store = builder(&folder).open().await.unwrap();
    for name in ["one", "two", "three", "four"] {
        ended(&store, name, DEAD, 0).await;
    }
    let connection = rusqlite::Connection::open(store.path()).unwrap();
    connection
        .execute_batch(
            "UPDATE postrider_events SET attributes = '{' WHERE id = 'two'; \
             UPDATE postrider_events SET type = 'no type' WHERE id = 'three'; \
             UPDATE postrider_stats SET series = x'ff'",
        )
        .unwrap();
    assert_eq!(found(&store, &Query::new()).await, ["one", "four"]);
    ended(&store, "five", Decision::Delivered, 1).await;
    let stats = store.stats().await.unwrap();
    assert_eq!(stats.len(), 1, "counting begins anew and stops no delivery");
    let state = store.delivery(&DeliveryId::new(id("a"), "five".parse().unwrap())).await.unwrap();
    assert_eq!(state.unwrap().state, State::Delivered);
}
