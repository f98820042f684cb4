//! The neighbour: the same events and deliveries in `SQLite`, one transaction for each batch, without
//! a thread to hand them to.

use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, params};

use super::raw::Plan;
use crate::Failure;
use crate::measure::{Side, Stopwatch, Took};
use crate::payload::{Match, envelopes, matches_of_400};

const SCHEMA: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    CREATE TABLE event (
        number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, type TEXT NOT NULL,
        accepted INTEGER NOT NULL, payload BLOB NOT NULL
    );
    CREATE TABLE delivery (
        endpoint INTEGER NOT NULL, due INTEGER NOT NULL, event INTEGER NOT NULL,
        PRIMARY KEY (endpoint, due, event)
    ) WITHOUT ROWID;
";

/// Takes the batches that the store wrote last.
pub(crate) struct Sqlite {
    connection: Connection,
    events: Vec<Match>,
    plan: Arc<Plan>,
}

impl Sqlite {
    pub(crate) fn open(path: &Path, seed: u64, plan: &Arc<Plan>) -> Result<Self, Failure> {
        let connection = Connection::open(path)?;
        connection.execute_batch(SCHEMA)?;
        Ok(Self { connection, events: matches_of_400(1_000, seed), plan: Arc::clone(plan) })
    }
}

impl Side for Sqlite {
    async fn slice(&mut self) -> Result<Took, Failure> {
        let count: usize = self.plan.batches().sum();
        let mut events = Vec::with_capacity(count);
        while events.len() < count {
            let more = self.events.len().min(count - events.len());
            events.extend(envelopes(&self.events[..more])?);
        }
        let ids: Vec<String> = events.iter().map(|event| event.id().to_string()).collect();
        let watch = Stopwatch::start();
        let mut events = events.iter().zip(&ids);
        for batch in self.plan.batches() {
            let transaction = self.connection.transaction()?;
            {
                let mut event = transaction.prepare_cached(
                    "INSERT INTO event (id, type, accepted, payload) VALUES (?1, ?2, ?3, ?4)",
                )?;
                let mut delivery = transaction.prepare_cached(
                    "INSERT INTO delivery (endpoint, due, event) VALUES (?1, ?2, ?3)",
                )?;
                for (envelope, id) in events.by_ref().take(batch) {
                    let accepted = envelope.time().as_millis();
                    let (kind, payload) = (envelope.event_type().as_str(), envelope.payload());
                    let number = event.insert(params![id, kind, accepted, &payload[..]])?;
                    for endpoint in 0..2 {
                        delivery.execute(params![endpoint, accepted, number])?;
                    }
                }
            }
            transaction.commit()?;
        }
        Ok(watch.stop())
    }
}
