//! A process under load is killed; its parent keeps the ledger.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;

use postrider::delivery::{Decision, DeliveryId, State};
use postrider::store::Store;
use postrider_stores::sqlite::{SqliteStore, rusqlite};

use crate::support::{Process, at, child, claim, id, publish, rounds, say, seed, settle};

/// How many publish at once in a child.
const HANDS: usize = 8;

/// Nothing acknowledged is lost, published or settled; nothing appears beyond what was under way;
/// the database is sound.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost() {
    const THIS: &str = "kill::nothing_acknowledged_is_lost";
    if let Some((round, folder)) = child() {
        return load(&round, &folder.join("store.db")).await;
    }
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let (mut accepted, mut settled) = (BTreeSet::new(), BTreeSet::new());
    for round in 0..rounds(8, 200) {
        let mut process = Process::start(THIS, &round.to_string(), folder.path());
        let lines = random.usize(1..120);
        let mut said: Vec<_> = (0..lines).map_while(|_| process.hear()).collect();
        said.extend(process.kill());
        for line in said {
            match line.split_once(' ').unwrap() {
                ("accepted", id) => accepted.insert(id.to_owned()),
                ("settled", id) => settled.insert(id.to_owned()),
                other => panic!("{other:?}"),
            };
        }
        let store = SqliteStore::open(&path).await.unwrap();
        for name in &accepted {
            let found = store.event(&name.parse().unwrap()).await.unwrap();
            let found = found.unwrap_or_else(|| panic!("{name} was acknowledged and is lost"));
            assert_eq!(found.deliveries.len(), 2, "{name}: with all its deliveries");
        }
        for name in &settled {
            let delivery = DeliveryId::new(id("a"), name.parse().unwrap());
            let found = store.delivery(&delivery).await.unwrap().unwrap();
            assert_eq!(found.state, State::Delivered, "{name}");
        }
        store.close().await.unwrap();
    }
    assert!(!accepted.is_empty() && !settled.is_empty(), "the children did something");
    let connection = rusqlite::Connection::open(&path).unwrap();
    let check: String =
        connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    // Totals and what they count were written together, at whatever moment the kill came.
    let (events, counted): (i64, i64) = connection
        .query_row(
            "SELECT events, (SELECT count(*) FROM postrider_events) FROM postrider_totals",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .unwrap();
    assert_eq!(events, counted);
    // What was found and not heard of was under way when its process was killed: one for each hand.
    let under_way = events as usize - accepted.len();
    assert!(under_way <= HANDS * rounds(8, 200), "{under_way} more than were acknowledged");
    println!(
        "{} accepted and {} settled before a kill, {events} events found",
        accepted.len(),
        settled.len()
    );
}

/// Publishes with eight hands and delivers with one, and says what was acknowledged, until killed.
async fn load(round: &str, path: &std::path::Path) {
    let store = Arc::new(SqliteStore::open(path).await.unwrap());
    for hand in 0..HANDS {
        let store = Arc::clone(&store);
        let round = round.to_owned();
        tokio::spawn(async move {
            for number in 0.. {
                let name = format!("r{round}-{hand}-{number}");
                publish(&*store, &name, &["a", "b"], at(0)).await.unwrap();
                say(&format!("accepted {name}"));
            }
        });
    }
    loop {
        for lease in claim(&*store, "a", at(0)).await {
            settle(&*store, &lease, Decision::Delivered).await;
            say(&format!("settled {}", lease.event.id()));
        }
        std::io::stdout().flush().unwrap();
    }
}
