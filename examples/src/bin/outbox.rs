//! An event that exists exactly when the application's own transaction commits.
//!
//! A shop keeps its orders in a database file. Writing an order and publishing an event are two steps:
//! a crash between them sells without telling, or tells of what was never sold. Here the event is
//! written by the order's own transaction; a relay then brings it to the bus, which keeps its
//! deliveries in the same file.
//!
//! The program places two orders, takes one back, and shows what a receiver got.

use std::time::Duration;

use mock_receiver::Receiver;
use postrider::config::{Config, Format};
use postrider::{Bus, Event};
use postrider_stores::outbox::relay;
use postrider_stores::sqlite::rusqlite::Connection;
use postrider_stores::sqlite::{SqliteOutbox, SqliteStore, publish_in};
use serde::Serialize;

/// Somebody bought something.
#[derive(Serialize, Event)]
#[event(type = "order.placed", key = "item")]
struct OrderPlaced {
    /// What.
    item: String,
}

/// Writes an order and its event; both or neither are there afterwards.
fn place(
    connection: &mut Connection,
    item: &str,
    is_paid: bool,
) -> Result<(), Box<dyn std::error::Error>> {
    let transaction = connection.transaction()?;
    transaction.execute("INSERT INTO orders (item) VALUES (?1)", [item])?;
    let event = publish_in(&transaction, &OrderPlaced { item: item.to_owned() })?;
    if is_paid {
        transaction.commit()?;
        println!("{item}: committed, with event {event}");
    } else {
        transaction.rollback()?;
        println!("{item}: rolled back, and event {event} never was");
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("shop.db");
    let receiver = Receiver::start().await?;
    let config = Config::loader()
        .registry(&postrider_sinks::registry())
        .text(
            Format::Toml,
            format!(
                "[[endpoints]]\n\
                 name = 'Warehouse'\n\
                 url = '{}'\n\
                 events = ['order.*']\n\
                 [network]\n\
                 allow = ['127.0.0.0/8']  # The receiver stands on this machine.\n",
                receiver.url("warehouse")
            ),
        )
        .load()?;
    let bus = Bus::builder().config(config).store(SqliteStore::open(&file).await?).open().await?;

    // The application's own part: one connection, one table, ordinary transactions.
    let mut connection = Connection::open(&file)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.execute_batch("CREATE TABLE orders (item TEXT NOT NULL)")?;
    place(&mut connection, "round glasses", true)?;
    place(&mut connection, "cracked glasses", false)?;
    place(&mut connection, "square glasses", true)?;

    // Usually started with the bus; here it finds what was committed before, as after a crash.
    let outbox = SqliteOutbox::open(&file).await?;
    let moving = tokio::spawn({
        let bus = bus.clone();
        async move { relay(&outbox, &bus).await }
    });
    let got = receiver.wait("warehouse").count(2).within(Duration::from_secs(20)).await?;
    for request in &got {
        println!("the warehouse got {}", request.text().unwrap_or("(binary)"));
    }
    bus.shutdown(Duration::from_secs(5)).await?;
    moving.await?; // It ends with its bus.
    if receiver.requests("warehouse").len() != 2 {
        return Err("expected the two committed orders, each once".into());
    }
    Ok(())
}
