//! Events, deliveries and leases in a SQLite database, shared by the processes of one machine.
//!
//! - Durable: each commit is synced (WAL, `synchronous = FULL`). Calls that come while a commit is
//!   under way share the next one.
//! - Shared: any number of processes may open the file at once; each delivery is leased to one of
//!   them. SQLite tells nobody of a change, so each looks at `PRAGMA data_version` in an interval
//!   ([`POLL_DEFAULT`]) beside being woken at once by its own calls.
//! - Its tables may stand in an application's own file. With them comes the transactional
//!   [`outbox`](publish_in): an event that is published exactly when the application's transaction
//!   commits.
//!
//! The file must be on a local disk: SQLite's log needs memory shared by its users, which network
//! file systems do not give (<https://sqlite.org/wal.html>).

mod config;
mod error;
mod find;
mod lanes;
mod notes;
mod outbox;
mod read;
mod replay;
mod retention;
mod row;
mod schema;
mod settle;
mod stats;
mod tables;
mod work;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use postrider::delivery::DeliveryId;
use postrider::stats::EndpointStats;
use postrider::store::{
    Accept, Accepted, Backlog, Capabilities, Claim, DeadLetters, DeliveryRecord, Durability,
    EventRecord, Fence, Found, Note, Page, Purged, Query, Replayed, Settled, Settlement, Store,
    Target, WhenFull,
};
use postrider::{EndpointId, Error, ErrorKind, EventId, Timestamp};
use rusqlite::Connection;
use tokio::sync::watch;
use tokio::time::Instant;

pub use config::{Factory, Settings};
pub use outbox::{RefusedEvent, SqliteOutbox, publish_in};
/// The SQLite bindings of this build, for [`publish_in`]'s transaction.
pub use rusqlite;

use lanes::Lanes;
use work::Done;
use writer::Queue;

/// How often other processes' work is looked for, unless built otherwise.
pub const POLL_DEFAULT: Duration = Duration::from_millis(250);
/// How long a call waits for another's transaction, unless built otherwise.
pub const BUSY_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// How long a settled event is kept and its id known, unless built otherwise (7 days).
pub const RETENTION_DEFAULT: Duration = Duration::from_hours(7 * 24);
/// Most events held, settled ones included, unless built otherwise.
pub const EVENTS_MAX_DEFAULT: u64 = 10_000_000;
/// Most bytes held, unless built otherwise (16 GiB).
pub const BYTES_MAX_DEFAULT: u64 = 16 << 30;

#[derive(Clone, Debug)]
struct Limits {
    busy_timeout: Duration,
    poll: Duration,
    retention: Duration,
    events_max: u64,
    bytes_max: u64,
    when_full: WhenFull,
}

/// Opens a [`SqliteStore`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until opened"]
pub struct SqliteStoreBuilder {
    path: PathBuf,
    limits: Limits,
}

impl SqliteStoreBuilder {
    /// How long a call waits while somebody else's transaction holds the database, an application's
    /// for example; then it fails. Default 10 s.
    pub fn busy_timeout(mut self, wait: Duration) -> Self {
        self.limits.busy_timeout = wait;
        self
    }

    /// How often other processes' work is looked for: at least 1 ms. Default 250 ms. A look at an
    /// unchanged database takes some microseconds.
    pub fn poll(mut self, interval: Duration) -> Self {
        self.limits.poll = interval.max(Duration::from_millis(1));
        self
    }

    /// How long an event is kept after it was accepted, once nothing of it is owed; publishing its
    /// id again returns the first receipt as long. Default 7 days. Events go as new ones are
    /// accepted, in the order in which they were settled.
    pub fn retention(mut self, retention: Duration) -> Self {
        self.limits.retention = retention;
        self
    }

    /// Most events held, settled ones included: at least 1. Default 10 million. Where room is needed
    /// settled events go before their retention has passed, the first settled first; what is owed
    /// never does.
    pub fn events_max(mut self, events: u64) -> Self {
        self.limits.events_max = events.max(1);
        self
    }

    /// Most bytes held, as events weigh in memory; the file is about as large. Default 16 GiB.
    pub fn bytes_max(mut self, bytes: u64) -> Self {
        self.limits.bytes_max = bytes;
        self
    }

    /// What happens at a limit where everything held is owed. Default: refuse.
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.limits.when_full = when_full;
        self
    }

    /// Opens the database, which is made where it is missing. Everything owed is announced.
    ///
    /// Limits are this process's: all that share a file should be given the same.
    ///
    /// # Errors
    /// `Store`, naming the file and the remedy, where it cannot be opened, is no SQLite database, is
    /// damaged, locked, or was written by a newer version.
    ///
    /// # Cancel safety
    /// Safe: what was made is a database without events.
    pub async fn open(self) -> Result<SqliteStore, Error> {
        blocking(move || SqliteStore::open_now(self.path, self.limits)).await
    }
}

/// Events, deliveries and leases in one SQLite file.
///
/// Several stores, in one process or in many, may use one file at the same time.
pub struct SqliteStore {
    shared: Arc<Shared>,
    /// `None` when closed.
    queue: Mutex<Option<Queue>>,
    has_ended: watch::Receiver<bool>,
    next_look: Mutex<Instant>,
}

struct Shared {
    path: PathBuf,
    limits: Limits,
    lanes: Arc<Lanes>,
    reader: Mutex<Reader>,
}

struct Reader {
    connection: Connection,
    /// The version of the database that was last compared with what is known here.
    compared: Option<i64>,
}

impl Shared {
    fn failed(&self, what: &str, error: &rusqlite::Error) -> Error {
        let what = format!("{what} in the SQLite store {}", self.path.display());
        error::store(&what, self.limits.busy_timeout, error)
    }

    fn read<T>(
        &self,
        what: &str,
        look: impl FnOnce(&mut Connection) -> Done<T>,
    ) -> Result<T, Error> {
        let mut reader = self.reader.lock().expect("no code panics while it holds this lock");
        look(&mut reader.connection).unwrap_or_else(|error| Err(self.failed(what, &error)))
    }

    /// Announces what other processes have brought since the last look.
    fn look(&self) -> Result<(), Error> {
        let mut reader = self.reader.lock().expect("no code panics while it holds this lock");
        let mut compare = || {
            let is_unsure = self.lanes.take_unsure();
            let version = read::data_version(&reader.connection)?;
            if is_unsure || reader.compared != Some(version) {
                reader.compared = None;
                self.lanes.compare(read::earliest(&reader.connection)?);
                // Read before the comparison: what is written in between is seen by the next look.
                reader.compared = Some(version);
            }
            Ok(())
        };
        compare().map_err(|error| self.failed("look for work", &error))
    }
}

/// Runs what blocks where it stops no task.
async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(call).await {
        Ok(done) => done,
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::new(ErrorKind::Closed, "use a SQLite store: the runtime ends")),
        },
    }
}

impl SqliteStore {
    /// A builder for the store in the file `path`, with the default limits.
    pub fn builder(path: impl Into<PathBuf>) -> SqliteStoreBuilder {
        SqliteStoreBuilder {
            path: path.into(),
            limits: Limits {
                busy_timeout: BUSY_TIMEOUT_DEFAULT,
                poll: POLL_DEFAULT,
                retention: RETENTION_DEFAULT,
                events_max: EVENTS_MAX_DEFAULT,
                bytes_max: BYTES_MAX_DEFAULT,
                when_full: WhenFull::default(),
            },
        }
    }

    /// Opens the store in the file `path` with the default limits.
    ///
    /// # Errors
    /// Those of [`SqliteStoreBuilder::open`].
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        Self::builder(path).open().await
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    fn open_now(path: PathBuf, limits: Limits) -> Result<Self, Error> {
        let lanes = Arc::new(Lanes::default());
        let writer = schema::open(&path, limits.busy_timeout)?;
        let reader =
            Reader { connection: schema::open(&path, limits.busy_timeout)?, compared: None };
        let (queue, has_ended) =
            writer::start(writer, path.clone(), limits.clone(), Arc::clone(&lanes)).map_err(
                |error| {
                    let what = format!("start a thread for the SQLite store {}", path.display());
                    Error::new(ErrorKind::Store, what).because(error)
                },
            )?;
        let shared = Shared { path, limits, lanes, reader: Mutex::new(reader) };
        // Nothing is known yet, so this announces everything owed.
        shared.look()?;
        Ok(Self {
            shared: Arc::new(shared),
            queue: Mutex::new(Some(queue)),
            has_ended,
            next_look: Mutex::new(Instant::now()),
        })
    }

    fn queue(&self) -> Result<Queue, Error> {
        let queue = self.queue.lock().expect("no code panics while it holds this lock");
        queue.clone().ok_or_else(|| Error::new(ErrorKind::Closed, "use a closed SQLite store"))
    }

    async fn read<T: Send + 'static>(
        &self,
        what: &'static str,
        look: impl FnOnce(&mut Connection) -> Done<T> + Send + 'static,
    ) -> Result<T, Error> {
        let shared = Arc::clone(&self.shared);
        blocking(move || shared.read(what, look)).await
    }

    /// As [`read`](Self::read), of a store that is not closed.
    async fn look<T: Send + 'static>(
        &self,
        what: &'static str,
        look: impl FnOnce(&mut Connection) -> Done<T> + Send + 'static,
    ) -> Result<T, Error> {
        self.queue()?;
        self.read(what, look).await
    }

    async fn try_accept(
        &self,
        batch: Arc<[Accept]>,
        now: Timestamp,
    ) -> Result<Vec<Accepted>, Error> {
        self.write("accept events", move |work| work.accept(&batch, now)).await
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new(Durability::Synced).shared(true)
    }

    async fn accept(&self, batch: Vec<Accept>, now: Timestamp) -> Result<Vec<Accepted>, Error> {
        let batch: Arc<[Accept]> = batch.into();
        loop {
            // Registered before trying, so that room made in between is not missed.
            let mut space = std::pin::pin!(self.shared.lanes.space.notified());
            space.as_mut().enable();
            let done = self.try_accept(Arc::clone(&batch), now).await;
            let must_wait = self.shared.limits.when_full == WhenFull::Wait
                && done.as_ref().is_err_and(Error::is_full);
            if !must_wait {
                return done;
            }
            // Another process that makes room tells nobody, so this looks again by itself too.
            // A limit that passes is no failure: it is the time to look.
            drop(tokio::time::timeout(self.shared.limits.poll, space).await);
        }
    }

    async fn claim(
        &self,
        endpoint: &EndpointId,
        max: usize,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Claim, Error> {
        let endpoint = endpoint.clone();
        self.write("claim deliveries", move |work| work.claim(&endpoint, max, now, until)).await
    }

    async fn extend(
        &self,
        leases: &[(DeliveryId, Fence)],
        until: Timestamp,
    ) -> Result<Vec<Settled>, Error> {
        let leases = leases.to_vec();
        self.write("extend leases", move |work| work.extend(&leases, until)).await
    }

    async fn settle(&self, batch: &[Settlement]) -> Result<Vec<Settled>, Error> {
        let batch = batch.to_vec();
        self.write("settle attempts", move |work| work.settle(&batch)).await
    }

    async fn release(&self, leases: &[(DeliveryId, Fence)]) -> Result<Vec<Settled>, Error> {
        let leases = leases.to_vec();
        self.write("give leases back", move |work| work.release(&leases)).await
    }

    async fn ready(&self) -> Vec<EndpointId> {
        loop {
            let announced = self.shared.lanes.take();
            if !announced.is_empty() {
                return announced;
            }
            // Kept beyond this call: the engine drops and repeats it at every turn, and an interval
            // that began anew each time might never end.
            let next_look =
                *self.next_look.lock().expect("no code panics while it holds this lock");
            tokio::select! {
                // `notify_one` keeps a permit, so that an announcement made before counts.
                () = self.shared.lanes.work.notified() => {}
                () = tokio::time::sleep_until(next_look) => {
                    *self.next_look.lock().expect("no code panics while it holds this lock") =
                        Instant::now() + self.shared.limits.poll;
                    let shared = Arc::clone(&self.shared);
                    if let Err(error) = blocking(move || shared.look()).await {
                        tracing::warn!(error = error.chain(), "other processes' work not seen");
                    }
                }
            }
        }
    }

    async fn backlog(&self, now: Timestamp) -> Result<Vec<Backlog>, Error> {
        self.read("count what is owed", move |connection| read::backlog(connection, now)).await
    }

    async fn event(&self, id: &EventId) -> Result<Option<EventRecord>, Error> {
        let id = id.clone();
        self.read("look for an event", move |connection| read::event(connection, &id)).await
    }

    async fn delivery(&self, id: &DeliveryId) -> Result<Option<DeliveryRecord>, Error> {
        let id = id.clone();
        self.read("look for a delivery", move |connection| read::delivery(connection, &id)).await
    }

    async fn find(&self, query: &Query, page: Page) -> Result<Found, Error> {
        let query = query.clone();
        self.look("find events", move |connection| find::find(connection, &query, page)).await
    }

    async fn stats(&self) -> Result<Vec<EndpointStats>, Error> {
        self.look("tell statistics", stats::stats).await
    }

    async fn dead(&self) -> Result<Vec<DeadLetters>, Error> {
        self.look("count dead letters", find::dead).await
    }

    async fn replay(
        &self,
        targets: &[Target],
        note: Option<Note>,
        now: Timestamp,
    ) -> Result<Vec<Replayed>, Error> {
        let targets = targets.to_vec();
        self.write("replay events", move |work| work.replay(&targets, note.as_ref(), now)).await
    }

    async fn purge(&self, targets: &[Target], _now: Timestamp) -> Result<Vec<Purged>, Error> {
        let targets = targets.to_vec();
        self.write("purge deliveries", move |work| work.purge(&targets)).await
    }

    async fn keep(&self, note: Note) -> Result<(), Error> {
        self.write("keep a note", move |work| work.keep(&note)).await
    }

    async fn notes(&self) -> Result<Vec<Note>, Error> {
        self.look("read notes", notes::notes).await
    }

    async fn close(&self) -> Result<(), Error> {
        drop(self.queue.lock().expect("no code panics while it holds this lock").take());
        // Publishers that wait for room learn that there will be none.
        self.shared.lanes.space.notify_waiters();
        let mut has_ended = self.has_ended.clone();
        // Fails only where the thread has ended in a panic: an end all the same.
        drop(has_ended.wait_for(|has_ended| *has_ended).await);
        Ok(())
    }
}
