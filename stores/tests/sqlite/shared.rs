//! Several stores on one file, in one process and in several.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use postrider::delivery::Decision;
use postrider::store::{Next, Settled, Store};
use postrider_stores::sqlite::SqliteStore;

use crate::support::{DEADLINE, Process, at, child, claim, hear, id, names, publish, say, settle};

/// One store's work is announced by the other, within its interval and once.
#[tokio::test(flavor = "multi_thread")]
async fn announces_what_another_store_brings() {
    let folder = tempfile::tempdir().unwrap();
    let builder =
        SqliteStore::builder(folder.path().join("store.db")).poll(Duration::from_millis(5));
    let one = builder.clone().open().await.unwrap();
    let two = builder.open().await.unwrap();
    let ready = async || tokio::time::timeout(DEADLINE, two.ready()).await.unwrap();
    for round in 0..20 {
        publish(&one, &format!("e{round}"), &["a"], at(round)).await.unwrap();
        assert_eq!(ready().await, [id("a")], "an accept");
        let leases = claim(&two, "a", at(round)).await;
        assert_eq!(names(&leases), [format!("e{round}")]);
        settle(&two, &leases[0], Decision::Delivered).await;
        assert_eq!(claim(&two, "a", at(round)).await.len(), 0);
    }
    // Leased by the one, the other knows when to look; given back, it is told sooner.
    publish(&one, "given-back", &["a"], at(50)).await.unwrap();
    let held = claim(&one, "a", at(50)).await;
    assert_eq!(ready().await, [id("a")]);
    let found = two.claim(&id("a"), 1, at(50), at(80)).await.unwrap();
    assert_eq!(found.next, Next::At(at(80)));
    one.release(&[(held[0].delivery.clone(), held[0].fence)]).await.unwrap();
    assert_eq!(ready().await, [id("a")], "a release");
    let taken = claim(&two, "a", at(50)).await;
    assert_eq!(names(&taken), ["given-back"]);
    assert_eq!(settle(&one, &held[0], Decision::Delivered).await, Settled::Stale);
    assert_eq!(settle(&two, &taken[0], Decision::Delivered).await, Settled::Applied);
}

/// SQLite gives the change of a new file's journal mode up at once, whatever its busy timeout.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_new_file_may_be_opened_by_many_at_once() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..30 {
        let path = folder.path().join(format!("{round}.db"));
        let opening = (0..8).map(|_| tokio::spawn(SqliteStore::open(path.clone())));
        for store in opening.collect::<Vec<_>>() {
            store.await.unwrap().unwrap().close().await.unwrap();
        }
    }
}

/// Claims and settles until nothing is owed to `a`; what it delivered.
async fn drain(store: &SqliteStore, mut delivered: impl FnMut(String)) {
    loop {
        let claim = store.claim(&id("a"), 3, at(1), at(1000)).await.unwrap();
        if claim.leases.is_empty() && claim.next == Next::Announced {
            return;
        }
        for lease in &claim.leases {
            assert_eq!(settle(store, lease, Decision::Delivered).await, Settled::Applied);
            delivered(lease.event.id().to_string());
        }
    }
}

fn each_once(delivered: impl IntoIterator<Item = String>, expect: usize) {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for name in delivered {
        *counts.entry(name).or_default() += 1;
    }
    let doubled: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
    assert!(doubled.is_empty(), "delivered more than once: {doubled:?}");
    assert_eq!(counts.len(), expect, "each is delivered");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_stores_double_nothing() {
    const EVENTS: usize = 200;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let stores = [
        Arc::new(SqliteStore::open(&path).await.unwrap()),
        Arc::new(SqliteStore::open(&path).await.unwrap()),
    ];
    for number in 0..EVENTS {
        publish(&*stores[number % 2], &format!("e{number}"), &["a"], at(0)).await.unwrap();
    }
    let drains: Vec<_> = (0..6)
        .map(|number| {
            let store = Arc::clone(&stores[number % 2]);
            tokio::spawn(async move {
                let mut delivered = Vec::new();
                drain(&store, |name| delivered.push(name)).await;
                delivered
            })
        })
        .collect();
    let mut delivered = Vec::new();
    for drain in drains {
        delivered.extend(tokio::time::timeout(DEADLINE, drain).await.unwrap().unwrap());
    }
    each_once(delivered, EVENTS);
}

/// Three processes publish to one file, then deliver from it.
#[tokio::test(flavor = "multi_thread")]
async fn processes_double_nothing() {
    const THIS: &str = "shared::processes_double_nothing";
    const EACH: usize = 60;
    if let Some((role, folder)) = child() {
        let store = SqliteStore::open(folder.join("store.db")).await.unwrap();
        for number in 0..EACH {
            publish(&store, &format!("{role}-{number}"), &["a"], at(0)).await.unwrap();
        }
        say("published");
        hear();
        drain(&store, |name| say(&name)).await;
        store.close().await.unwrap();
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut processes: Vec<_> =
        ["x", "y", "z"].iter().map(|role| Process::start(THIS, role, folder.path())).collect();
    for process in &mut processes {
        process.expect("published");
    }
    for process in &mut processes {
        process.say();
    }
    // Each by a thread: a process that is not read stops at a full pipe with leases in hand.
    let readers: Vec<_> =
        processes.into_iter().map(|process| std::thread::spawn(move || process.end())).collect();
    let delivered: Vec<_> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
    each_once(delivered.into_iter().flatten(), 3 * EACH);
}
