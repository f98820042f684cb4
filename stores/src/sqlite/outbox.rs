//! The outbox in a SQLite file: events that commit with an application's own rows.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use postrider::clock::SystemClock;
use postrider::event::{IntoNewEvent, PAYLOAD_BYTES_MAX_DEFAULT};
use postrider::{Error, ErrorKind, EventId};
use rusqlite::{Connection, Transaction, params};
use tokio::sync::Notify;

use super::row::{self, EVENT_COLUMNS};
use super::{BUSY_TIMEOUT_DEFAULT, blocking, error, read, schema};
use crate::outbox::{Outbox, Pending};

/// How often a commit of another connection is looked for, unless built otherwise.
pub(super) const OUTBOX_POLL: Duration = Duration::from_millis(100);

/// Publishes an event with a transaction of the application: it exists when that transaction commits,
/// and never does when it is rolled back. A running [`relay`](crate::outbox::relay) then brings it to
/// a bus, which routes and delivers it.
///
/// The file needs the tables: open a [`SqliteOutbox`] or a [`SqliteStore`](super::SqliteStore) on it
/// once before. Nothing here waits or syncs; the application's own commit does, as its connection is
/// set. Returns the event's id, made here unless the event brings one; an id that is in the outbox
/// already is not written again.
///
/// # Errors
/// `Invalid` where the event breaks a rule; `TooLarge` for a payload above 1 MiB; `Store` where it
/// cannot be written. After an error nothing was written, and the transaction may go on or be rolled
/// back as the application likes.
pub fn publish_in(
    transaction: &Transaction<'_>,
    event: impl IntoNewEvent,
) -> Result<EventId, Error> {
    let new = event.into_new_event()?;
    // Everything that can be checked is checked here, where the application can still say no.
    if new.event_type().is_reserved() {
        let what = format!(
            "publish a {:?} event: names under \"postrider\" belong to the bus",
            new.event_type()
        );
        return Err(Error::new(ErrorKind::Invalid, what));
    }
    let event = new.seal(&SystemClock, PAYLOAD_BYTES_MAX_DEFAULT)?;
    let written = transaction
        .prepare_cached(
            "INSERT INTO postrider_outbox (id, type, key, time, expires_at, attributes, payload) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (id) DO NOTHING",
        )
        .and_then(|mut insert| {
            insert.execute(params![
                event.id().encode(&mut [0; 36]),
                event.event_type().as_str(),
                event.key(),
                event.time().as_millis(),
                event.expires_at().map(postrider::Timestamp::as_millis),
                row::attributes(&event),
                &event.payload()[..],
            ])
        });
    match written {
        Ok(_) => Ok(event.id().clone()),
        Err(error) => {
            let what = if error.to_string().contains("no such table") {
                "publish an event in a transaction: its database has no outbox, open a \
                 SqliteOutbox or a SqliteStore on the file first"
            } else {
                "publish an event in a transaction"
            };
            Err(error::store(what, BUSY_TIMEOUT_DEFAULT, &error))
        }
    }
}

/// An event that the bus refused; it stays in the outbox until somebody decides.
#[derive(Clone, Debug)]
pub struct RefusedEvent {
    /// The event.
    pub id: EventId,
    /// Why, as the bus said.
    pub reason: String,
}

/// The outbox of a SQLite file, for a [`relay`](crate::outbox::relay).
pub struct SqliteOutbox {
    path: PathBuf,
    inner: Arc<Mutex<Inner>>,
    woken: Notify,
}

struct Inner {
    connection: Connection,
    /// The version of the database at the last look.
    seen: Option<i64>,
}

impl SqliteOutbox {
    /// Opens the outbox in the file `path`; both are made where they are missing.
    ///
    /// # Errors
    /// Those of [`SqliteStoreBuilder::open`](super::SqliteStoreBuilder::open).
    ///
    /// # Cancel safety
    /// Safe: what was made is an empty outbox.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        blocking(move || {
            let connection = schema::open(&path, BUSY_TIMEOUT_DEFAULT)?;
            let inner = Arc::new(Mutex::new(Inner { connection, seen: None }));
            Ok(Self { path, inner, woken: Notify::new() })
        })
        .await
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Has the relay look now instead of within 100 ms: to be called after a commit.
    pub fn wake(&self) {
        self.woken.notify_one();
    }

    /// The events that the bus refused, oldest first, at most `max`.
    ///
    /// To have one tried again, `UPDATE postrider_outbox SET refused = NULL WHERE id = …`; to give
    /// it up, delete that row.
    ///
    /// # Errors
    /// `Store`.
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn refused(&self, max: usize) -> Result<Vec<RefusedEvent>, Error> {
        let refused = self.with("look at refused events", move |inner| {
            inner
                .connection
                .prepare_cached(
                    "SELECT id, refused FROM postrider_outbox WHERE refused IS NOT NULL \
                     ORDER BY place LIMIT ?1",
                )?
                .query_map([limit(max)], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<Vec<(String, String)>>>()
        });
        let events = refused.await?.into_iter().map(|(id, reason)| {
            // Written by `publish_in`, so only a damaged row fails.
            Ok(RefusedEvent { id: parse_id(&id)?, reason })
        });
        events.collect()
    }

    async fn with<T: Send + 'static>(
        &self,
        what: &'static str,
        call: impl FnOnce(&mut Inner) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let inner = Arc::clone(&self.inner);
        let path = self.path.clone();
        blocking(move || {
            let mut inner = inner.lock().expect("no code panics while it holds this lock");
            call(&mut inner).map_err(|error| {
                let what = format!("{what} in the outbox {}", path.display());
                error::store(&what, BUSY_TIMEOUT_DEFAULT, &error)
            })
        })
        .await
    }
}

fn limit(max: usize) -> i64 {
    i64::try_from(max).unwrap_or(i64::MAX)
}

fn parse_id(id: &str) -> Result<EventId, Error> {
    id.parse().map_err(|error| {
        Error::new(ErrorKind::Store, "read an event of the outbox: its id is damaged")
            .because(error)
    })
}

#[async_trait]
impl Outbox for SqliteOutbox {
    async fn pending(&self, max: usize) -> Result<Vec<Pending>, Error> {
        self.with("read events", move |inner| {
            inner
                .connection
                .prepare_cached(&format!(
                    "SELECT {EVENT_COLUMNS}, place FROM postrider_outbox WHERE refused IS NULL \
                     ORDER BY place LIMIT ?1"
                ))?
                .query_map([limit(max)], |row| {
                    Ok(Pending { place: row.get(7)?, event: row::new_event(row)? })
                })?
                .collect()
        })
        .await
    }

    async fn done(&self, places: &[i64]) -> Result<(), Error> {
        let places = places.to_vec();
        self.with("remove accepted events", move |inner| {
            let transaction = inner.connection.transaction()?;
            for place in places {
                transaction
                    .prepare_cached("DELETE FROM postrider_outbox WHERE place = ?1")?
                    .execute([place])?;
            }
            transaction.commit()
        })
        .await
    }

    async fn refuse(&self, place: i64, reason: &str) -> Result<(), Error> {
        let reason = reason.to_owned();
        self.with("keep a refused event", move |inner| {
            inner
                .connection
                .prepare_cached("UPDATE postrider_outbox SET refused = ?2 WHERE place = ?1")?
                .execute(params![place, reason])?;
            Ok(())
        })
        .await
    }

    async fn changed(&self) {
        loop {
            tokio::select! {
                () = self.woken.notified() => return,
                () = tokio::time::sleep(OUTBOX_POLL) => {}
            }
            let look = self.with("look for events", |inner| {
                let version = read::data_version(&inner.connection)?;
                Ok(inner.seen.replace(version) != Some(version))
            });
            // A look that failed is told by the read that follows.
            if look.await.unwrap_or(true) {
                return;
            }
        }
    }
}
