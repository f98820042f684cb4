//! The one thread that writes: what queued during one commit is the next transaction.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use postrider::clock::{Clock, SystemClock};
use postrider::{EndpointId, Error, ErrorKind, Timestamp};
use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use tokio::sync::{mpsc, oneshot, watch};

use super::lanes::Lanes;
use super::work::{Done, Work};
use super::{Limits, SqliteStore, error};

/// Most calls that wait for the writer; further ones wait for a place among them.
const QUEUE_MAX: usize = 1024;
/// Most calls of one transaction.
const TRANSACTION_MAX: usize = 256;

/// The queue's end that callers hold.
pub(super) type Queue = mpsc::Sender<Box<dyn Job>>;

/// A call of the store on its way through the writer.
pub(super) trait Job: Send {
    /// Whether somebody still waits for it. One that was dropped before its turn is not done.
    fn is_wanted(&self) -> bool;

    /// Does it within a transaction; again from the start where that one was rolled back.
    fn run(&mut self, work: &mut Work<'_>) -> rusqlite::Result<()>;

    /// Tells the caller, after the commit or with the error that prevented it.
    fn answer(self: Box<Self>, failed: Option<&dyn Fn(&str) -> Error>);
}

/// A job made of a closure and its caller's ear.
pub(super) struct Call<T, F> {
    /// Reads after "failed to ".
    pub(super) what: &'static str,
    pub(super) run: F,
    pub(super) done: Option<Result<T, Error>>,
    pub(super) reply: oneshot::Sender<Result<T, Error>>,
}

impl<T, F> Job for Call<T, F>
where
    T: Send,
    F: FnMut(&mut Work<'_>) -> Done<T> + Send,
{
    fn is_wanted(&self) -> bool {
        !self.reply.is_closed()
    }

    fn run(&mut self, work: &mut Work<'_>) -> rusqlite::Result<()> {
        self.done = Some((self.run)(work)?);
        Ok(())
    }

    fn answer(self: Box<Self>, failed: Option<&dyn Fn(&str) -> Error>) {
        let answer = match (failed, self.done) {
            (Some(failed), _) => Err(failed(self.what)),
            (None, Some(done)) => done,
            (None, None) => return,
        };
        // A caller that went meanwhile learns of it by asking again, see each call's cancel safety.
        drop(self.reply.send(answer));
    }
}

struct Writer {
    connection: Connection,
    path: PathBuf,
    limits: Limits,
    lanes: Arc<Lanes>,
    endpoints: HashMap<EndpointId, i64>,
    now: Timestamp,
}

/// Starts the thread. The second value becomes `true` when it has ended: when every [`Queue`] is
/// dropped and what was in it is done.
pub(super) fn start(
    connection: Connection,
    path: PathBuf,
    limits: Limits,
    lanes: Arc<Lanes>,
) -> std::io::Result<(Queue, watch::Receiver<bool>)> {
    let (queue, mut inbox) = mpsc::channel::<Box<dyn Job>>(QUEUE_MAX);
    let (ended, has_ended) = watch::channel(false);
    let mut writer = Writer {
        connection,
        path,
        limits,
        lanes,
        endpoints: HashMap::new(),
        // Until the engine tells: what it settles first may be another process's lease.
        now: SystemClock.now(),
    };
    std::thread::Builder::new().name("postrider-sqlite".into()).spawn(move || {
        while let Some(first) = inbox.blocking_recv() {
            let mut jobs = vec![first];
            while jobs.len() < TRANSACTION_MAX
                && let Ok(next) = inbox.try_recv()
            {
                jobs.push(next);
            }
            jobs.retain(|job| job.is_wanted());
            writer.run(jobs);
        }
        writer.end();
        ended.send_replace(true);
    })?;
    Ok((queue, has_ended))
}

impl Writer {
    fn run(&mut self, mut jobs: Vec<Box<dyn Job>>) {
        let Err(error) = self.transact(&mut jobs) else {
            return jobs.into_iter().for_each(|job| job.answer(None));
        };
        if jobs.len() == 1 || error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) {
            let busy_timeout = self.limits.busy_timeout;
            let failed = |what: &str| {
                let what = format!("{what} in the SQLite store {}", self.path.display());
                error::store(&what, busy_timeout, &error)
            };
            return jobs.into_iter().for_each(|job| job.answer(Some(&failed)));
        }
        // One of them failed the transaction: each gets one of its own, so that only that one fails.
        for job in jobs {
            self.run(vec![job]);
        }
    }

    /// Runs jobs in one transaction: after an error nothing of it was written.
    fn transact(&mut self, jobs: &mut [Box<dyn Job>]) -> rusqlite::Result<()> {
        if jobs.is_empty() {
            return Ok(());
        }
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut work = Work {
            connection: &transaction,
            limits: &self.limits,
            now: self.now,
            endpoints: &mut self.endpoints,
            series: HashMap::new(),
            effects: Vec::new(),
        };
        let done = jobs
            .iter_mut()
            .try_for_each(|job| job.run(&mut work))
            .and_then(|()| work.write_series());
        let effects = std::mem::take(&mut work.effects);
        self.now = work.now;
        // A transaction that was dropped or whose commit failed is rolled back, numbers included.
        if let Err(error) = done.and_then(|()| transaction.commit()) {
            self.endpoints.clear();
            return Err(error);
        }
        self.lanes.apply(effects);
        Ok(())
    }

    /// Everything committed is durable already; this only spares the next opener a longer log.
    fn end(&mut self) {
        let checkpoint =
            self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        if let Err(error) = checkpoint {
            tracing::warn!(path = %self.path.display(), %error, "log not checkpointed on close");
        }
    }
}

impl SqliteStore {
    /// Has the writer do `run` and waits for its commit.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        what: &'static str,
        run: impl FnMut(&mut Work<'_>) -> Done<T> + Send + 'static,
    ) -> Result<T, Error> {
        let queue = self.queue()?;
        let (reply, answer) = oneshot::channel();
        let call = Box::new(Call { what, run, done: None, reply });
        let is_sent = queue.send(call).await.is_ok();
        drop(queue);
        match answer.await {
            Ok(answer) if is_sent => answer,
            _ => Err(Error::new(
                ErrorKind::Store,
                format!("{what}: the thread that writes the SQLite store has ended"),
            )),
        }
    }
}
