//! Events that commit with an application's own rows, and processes killed between any two steps.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use postrider::event::NewEvent;
use postrider::testing::RecordingSink;
use postrider::{Bus, Endpoint, Error, ErrorKind};
use postrider_stores::outbox::{Outbox, Pending, relay};
use postrider_stores::sqlite::{SqliteOutbox, SqliteStore, publish_in, rusqlite};
use rusqlite::Connection;

use crate::support::{DEADLINE, Process, child, hear, rounds, say, seed};

fn order(number: usize) -> NewEvent {
    let event = NewEvent::raw("order", format!(r#"{{"number":{number}}}"#)).unwrap();
    event.id(format!("order-{number}").parse().unwrap()).key("orders").attribute("source", "test")
}

fn application(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(DEADLINE).unwrap();
    connection
        .execute_batch("CREATE TABLE IF NOT EXISTS orders (number INTEGER PRIMARY KEY) STRICT")
        .unwrap();
    connection
}

/// Writes an order and its event in one transaction.
fn place_order(connection: &mut Connection, number: usize) -> rusqlite::Transaction<'_> {
    let transaction = connection.transaction().unwrap();
    transaction.execute("INSERT INTO orders VALUES (?1)", [number as i64]).unwrap();
    publish_in(&transaction, order(number)).unwrap();
    transaction
}

async fn bus(store: &Path, sink: &RecordingSink, enabled: bool) -> Bus {
    let endpoint = Endpoint::builder("shop", sink.clone()).events(["order"]).unwrap();
    Bus::builder()
        .store(SqliteStore::builder(store).poll(Duration::from_millis(5)).open().await.unwrap())
        .endpoint(endpoint.enabled(enabled).build())
        .payload_bytes_max(100)
        .open()
        .await
        .unwrap()
}

/// Runs a bus and a relay until the outbox holds nothing pending and nothing is owed; the ids that
/// were delivered, in order.
async fn drain(outbox: &SqliteOutbox, store: &Path) -> Vec<String> {
    let sink = RecordingSink::default();
    let bus = bus(store, &sink, true).await;
    let emptied = async {
        while !outbox.pending(1).await.unwrap().is_empty() {
            // tidy: allow(sleep): polls a condition with a deadline
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let work = async {
        tokio::select! {
            () = relay(outbox, &bus) => panic!("the bus is not shut down"),
            () = emptied => {}
        }
    };
    tokio::time::timeout(DEADLINE, work).await.expect("the outbox is emptied");
    let left = bus.flush(DEADLINE).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
    bus.shutdown(DEADLINE).await.unwrap();
    sink.events().iter().map(|event| event.id().to_string()).collect()
}

fn numbers(delivered: &[String]) -> Vec<usize> {
    let mut numbers: Vec<_> =
        delivered.iter().map(|id| id.strip_prefix("order-").unwrap().parse().unwrap()).collect();
    numbers.sort_unstable();
    numbers
}

/// Delivered exactly when the transaction commits, as it was published; in the bus's file and in one
/// of its own.
#[tokio::test(flavor = "multi_thread")]
async fn commits_and_rolls_back_with_the_application() {
    let folder = tempfile::tempdir().unwrap();
    for store in ["shop.db", "store.db"] {
        let path = folder.path().join("shop.db");
        let outbox = SqliteOutbox::open(&path).await.unwrap();
        let mut connection = application(&path);
        connection.execute("DELETE FROM orders", []).unwrap();
        let from = if store == "shop.db" { 0 } else { 100 };
        place_order(&mut connection, from).commit().unwrap();
        place_order(&mut connection, from + 1).rollback().unwrap();
        drop(place_order(&mut connection, from + 2));
        place_order(&mut connection, from + 3).commit().unwrap();
        let delivered = drain(&outbox, &folder.path().join(store)).await;
        assert_eq!(numbers(&delivered), [from, from + 3]);
        assert!(outbox.pending(9).await.unwrap().is_empty());
    }
    let store = SqliteStore::open(folder.path().join("shop.db")).await.unwrap();
    let found = postrider::store::Store::event(&store, &"order-0".parse().unwrap()).await.unwrap();
    let event = found.unwrap().event;
    assert_eq!((event.key(), &event.attributes()["source"][..]), (Some("orders"), "test"));
    assert_eq!(event.payload_str(), r#"{"number":0}"#);
}

/// What the bus can never take is refused in the transaction where that can be known; otherwise it is
/// set aside with its reason, and does not stop the others.
#[tokio::test(flavor = "multi_thread")]
async fn refuses() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.db");
    let mut connection = application(&path);
    let without = connection.transaction().unwrap();
    let error = publish_in(&without, order(1)).unwrap_err();
    assert!(error.to_string().contains("open a SqliteOutbox"), "{error}");
    drop(without);

    let outbox = SqliteOutbox::open(&path).await.unwrap();
    let transaction = connection.transaction().unwrap();
    let reserved = NewEvent::raw("postrider.x", "1").unwrap();
    assert_eq!(publish_in(&transaction, reserved).unwrap_err().kind(), ErrorKind::Invalid);
    let large = NewEvent::raw("order", format!("\"{}\"", "x".repeat(2 << 20))).unwrap();
    assert_eq!(publish_in(&transaction, large).unwrap_err().kind(), ErrorKind::TooLarge);
    publish_in(&transaction, order(1)).unwrap();
    // This bus takes 100 bytes.
    let large = NewEvent::raw("order", format!("\"{}\"", "x".repeat(200))).unwrap();
    let large = publish_in(&transaction, large).unwrap();
    publish_in(&transaction, order(2)).unwrap();
    publish_in(&transaction, order(2)).unwrap();
    transaction.commit().unwrap();
    assert_eq!(numbers(&drain(&outbox, &path).await), [1, 2], "an id counts once");
    let refused = outbox.refused(9).await.unwrap();
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].id, large);
    assert!(refused[0].reason.contains("at most 100"), "{}", refused[0].reason);
}

/// A relay ends with its bus.
#[tokio::test(flavor = "multi_thread")]
async fn ends_with_the_bus() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.db");
    let outbox = SqliteOutbox::open(&path).await.unwrap();
    let bus = bus(&path, &RecordingSink::default(), true).await;
    let task = tokio::spawn({
        let bus = bus.clone();
        async move { relay(&outbox, &bus).await }
    });
    bus.shutdown(DEADLINE).await.unwrap();
    tokio::time::timeout(DEADLINE, task).await.unwrap().unwrap();
}

/// Stops for good at one step of the relay, and says so.
struct Stopping {
    outbox: SqliteOutbox,
    at: &'static str,
}

impl Stopping {
    async fn stop(&self, step: &str) {
        if self.at == step {
            say(step);
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl Outbox for Stopping {
    async fn pending(&self, max: usize) -> Result<Vec<Pending>, Error> {
        let pending = self.outbox.pending(max).await;
        self.stop("read").await;
        pending
    }

    async fn done(&self, places: &[i64]) -> Result<(), Error> {
        self.stop("accepted").await;
        self.outbox.done(places).await?;
        self.stop("removed").await;
        Ok(())
    }

    async fn refuse(&self, place: i64, reason: &str) -> Result<(), Error> {
        self.outbox.refuse(place, reason).await
    }

    async fn changed(&self) {
        self.outbox.changed().await;
    }
}

/// `kill -9` between each two steps, with the bus in the application's file and in one of its own:
/// every committed order is delivered once, and no other.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_each_step() {
    const THIS: &str = "outbox::killed_at_each_step";
    let steps = ["written", "committed", "read", "accepted", "removed"];
    if let Some((role, folder)) = child() {
        let (step, store) = role.split_once(' ').unwrap();
        let step = steps.into_iter().find(|at| *at == step).unwrap();
        let shop = folder.join("shop.db");
        if step == "written" || step == "committed" {
            let mut connection = application(&shop);
            let transaction = place_order(&mut connection, 2);
            if step == "committed" {
                transaction.commit().unwrap();
            }
            say(step);
            return hear();
        }
        let outbox = Stopping { outbox: SqliteOutbox::open(&shop).await.unwrap(), at: step };
        // A disabled endpoint: what is accepted is held for the bus that follows.
        let bus = bus(&folder.join(store), &RecordingSink::default(), false).await;
        return relay(&outbox, &bus).await;
    }
    for store in ["shop.db", "store.db"] {
        for step in steps {
            let folder = tempfile::tempdir().unwrap();
            let shop = folder.path().join("shop.db");
            let outbox = SqliteOutbox::open(&shop).await.unwrap();
            let mut connection = application(&shop);
            place_order(&mut connection, 1).commit().unwrap();
            let mut process = Process::start(THIS, &format!("{step} {store}"), folder.path());
            process.expect(step);
            process.kill();
            let pending = outbox.pending(9).await.unwrap().len();
            let expect_pending = match step {
                "written" | "read" => 1,
                "committed" => 2,
                // In one file, the commit that accepts it removes it.
                "accepted" => usize::from(store == "store.db"),
                _ => 0,
            };
            assert_eq!(pending, expect_pending, "killed when {step}, bus in {store}");
            let delivered = drain(&outbox, &folder.path().join(store)).await;
            let expect: &[usize] = if step == "committed" { &[1, 2] } else { &[1] };
            assert_eq!(numbers(&delivered), expect, "killed when {step}, bus in {store}");
        }
    }
}

/// An application and a relay in processes of their own, each killed at random moments, again and
/// again: orders and accepted events are the same in the end.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random() {
    const THIS: &str = "outbox::killed_at_random";
    if let Some((role, folder)) = child() {
        let shop = folder.join("shop.db");
        if let Some(from) = role.strip_prefix("orders from ") {
            let mut connection = application(&shop);
            for number in from.parse::<usize>().unwrap().. {
                let transaction = place_order(&mut connection, number);
                if number % 3 == 0 {
                    transaction.rollback().unwrap();
                } else {
                    transaction.commit().unwrap();
                    say(&number.to_string());
                }
            }
        }
        let outbox = SqliteOutbox::open(&shop).await.unwrap();
        let bus = bus(&folder.join("store.db"), &RecordingSink::default(), false).await;
        say("runs");
        return relay(&outbox, &bus).await;
    }
    let mut random = fastrand::Rng::with_seed(seed());
    let folder = tempfile::tempdir().unwrap();
    let shop = folder.path().join("shop.db");
    let outbox = SqliteOutbox::open(&shop).await.unwrap();
    let mut connection = application(&shop);
    let mut acknowledged = Vec::new();
    for round in 0..rounds(4, 50) {
        let mut relays = Process::start(THIS, "relay", folder.path());
        relays.expect("runs");
        let role = format!("orders from {}", round * 1_000_000);
        let mut orders = Process::start(THIS, &role, folder.path());
        let mut said: Vec<_> = (0..random.usize(1..60)).map_while(|_| orders.hear()).collect();
        relays.kill();
        said.extend((0..random.usize(0..20)).map_while(|_| orders.hear()));
        said.extend(orders.kill());
        acknowledged.extend(said.iter().map(|number| number.parse::<usize>().unwrap()));
    }
    let delivered = numbers(&drain(&outbox, &folder.path().join("store.db")).await);
    let transaction = connection.transaction().unwrap();
    let committed: Vec<usize> = transaction
        .prepare("SELECT number FROM orders ORDER BY number")
        .unwrap()
        .query_map([], |row| row.get::<_, i64>(0))
        .unwrap()
        .map(|number| number.unwrap() as usize)
        .collect();
    assert_eq!(delivered, committed, "each committed order is delivered once, and no other");
    assert!(acknowledged.iter().all(|number| committed.contains(number)));
    println!("{} orders committed and delivered", committed.len());
}
