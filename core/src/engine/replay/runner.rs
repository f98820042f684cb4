//! Runs one replay job, write by write.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Notes, STORE_WAIT_MAX, STORE_WAIT_MIN, Shared, TAKE_WAIT};
use crate::error::{Error, ErrorKind};
use crate::replay::{JobState, Record, Runner, Step};
use crate::store::{Note, PAGE_EVENTS_MAX, Page};

/// How often a job that finds nothing notes how far it is.
const NOTE_EVERY: Duration = Duration::from_secs(5);

/// Runs a job to its end, or until the engine stops or another process has taken it over.
pub(super) async fn run(shared: Arc<Shared>, mut record: Record, cancel: CancellationToken) {
    record.resume();
    let runner = JobRunner {
        shared,
        record,
        cancel,
        ending: None,
        at_once: PAGE_EVENTS_MAX,
        noted: Instant::now(),
        is_unsure: false,
        store_wait: STORE_WAIT_MIN,
    };
    runner.serve().await;
}

struct JobRunner {
    shared: Arc<Shared>,
    /// As the store has it, but for the answers to its last write.
    record: Record,
    cancel: CancellationToken,
    /// How the job ends, once that is decided; it is over when the store knows.
    ending: Option<JobState>,
    /// Most deliveries of one write: halved while the backlog is full, so that one that is smaller
    /// than a page takes them all the same.
    at_once: usize,
    /// When the note was written last.
    noted: Instant,
    /// Whether the last write failed, so that the store may be further than `record` after all.
    is_unsure: bool,
    store_wait: Duration,
}

impl JobRunner {
    async fn serve(mut self) {
        let mut wait = self.begin();
        loop {
            tokio::select! {
                biased;
                () = self.shared.replays.stop.cancelled() => return self.leave().await,
                () = self.cancel.cancelled(), if self.ending.is_none() => {
                    self.ending = Some(JobState::Cancelled);
                }
                () = tokio::time::sleep(wait) => {}
            }
            let was_ending = self.ending.clone();
            let done = match &was_ending {
                Some(state) => self.end(state.clone()).await,
                None => self.step().await,
            };
            wait = match done {
                Ok(Some(wait)) => wait,
                Ok(None) => return,
                Err(error) if error.is_closed() => return,
                Err(error) if was_ending.is_some() || may_pass(&error) => self.failed(&error),
                Err(error) => {
                    self.ending = Some(JobState::Failed { reason: error.chain() });
                    Duration::ZERO
                }
            };
        }
    }

    /// How long the first write has to wait.
    fn begin(&mut self) -> Duration {
        let now = self.shared.clock.now();
        let job = &mut self.record.job;
        if job.started_at.is_none() {
            job.started_at = Some(now);
            tracing::info!(replay = %job.id, "replay started");
        }
        let Some((rate, not_before)) = job.request.rate.zip(self.record.not_before) else {
            return Duration::ZERO;
        };
        // At most what one write stands for: the clock may have jumped back.
        not_before.since(now).min(rate.time_of(rate.at_once()))
    }

    /// Makes the next deliveries. Returns how long the write after it has to wait; `None` where there
    /// is nothing more for this process to do.
    async fn step(&mut self) -> Result<Option<Duration>, Error> {
        let shared = Arc::clone(&self.shared);
        if self.shared.has_peers || self.is_unsure {
            if !self.look().await? {
                return Ok(None);
            }
            if self.ending.is_some() {
                return Ok(Some(Duration::ZERO));
            }
            if self.record.runner.as_ref().is_none_or(|it| it.name != shared.replays.name) {
                return self.take().await.map(Some);
            }
        }
        let request = &self.record.job.request;
        let max = request.rate.map_or(self.at_once, |rate| rate.at_once().min(self.at_once));
        let after = self.record.job.cursor.as_ref().and_then(|cursor| cursor.after);
        let page = Page::oldest().after(after).limit(max).without_attempts();
        let found = shared.store.find(&request.query, page).await?;
        let now = shared.clock.now();
        let Step { targets, job, is_last } =
            self.record.job.plan(&found, max, |endpoint| shared.lane(endpoint).is_some());
        let rate = job.request.rate;
        let wait = rate.map_or(Duration::ZERO, |rate| rate.time_of(targets.len()));
        let mut next = self.record.clone();
        next.job = job;
        next.runner = Some(shared.replays.runner(now, wait));
        if !targets.is_empty() {
            next.pending = targets.len() as u64;
            next.not_before = rate.map(|_| now.after(wait));
            let answers = shared.store.replay(&targets, Some(next.note()?), now).await?;
            next.pending = 0;
            next.job.counts.add_all(&answers);
            self.noted = Instant::now();
        } else if self.noted.elapsed() >= NOTE_EVERY {
            shared.store.keep(next.note()?).await?;
            self.noted = Instant::now();
        }
        self.record = next;
        self.well();
        self.at_once = (self.at_once * 2).min(PAGE_EVENTS_MAX);
        if is_last {
            self.ending = Some(JobState::Done);
            return Ok(Some(Duration::ZERO));
        }
        // A store in memory never waits; others are to have their turn all the same.
        tokio::task::yield_now().await;
        Ok(Some(wait))
    }

    /// Reads how the store has the job. `false` where it is not this process's any more.
    async fn look(&mut self) -> Result<bool, Error> {
        let mut notes = Notes::load(&self.shared).await?;
        let id = self.record.job.id;
        let is_cancelled = notes.cancelled.contains(&id);
        let Some(stored) = notes.take(id) else { return Ok(false) };
        if stored.job.state.is_over() {
            return Ok(false);
        }
        if self.shared.has_peers {
            let now = self.shared.clock.now();
            let is_others = |it: &Runner| it.name != self.shared.replays.name && it.until > now;
            if stored.runner.as_ref().is_some_and(is_others) {
                return Ok(false);
            }
            self.record.runner.clone_from(&stored.runner);
        }
        if is_cancelled {
            self.ending = Some(JobState::Cancelled);
        }
        let is_further = |stored: &Record| {
            let (theirs, ours) = (stored.job.looked_at(), self.record.job.looked_at());
            let part = |record: &Record| record.job.cursor.as_ref().and_then(|it| it.part.clone());
            theirs > ours || (theirs == ours && part(stored) > part(&self.record))
        };
        if is_further(&stored) {
            self.record = stored;
            self.record.resume();
        }
        self.is_unsure = false;
        Ok(true)
    }

    /// Takes over a job that another process ran. Whether it has is found out after the wait.
    async fn take(&mut self) -> Result<Duration, Error> {
        let now = self.shared.clock.now();
        let mut next = self.record.clone();
        next.runner = Some(self.shared.replays.runner(now, TAKE_WAIT));
        self.shared.store.keep(next.note()?).await?;
        Ok(TAKE_WAIT)
    }

    async fn end(&mut self, state: JobState) -> Result<Option<Duration>, Error> {
        let id = self.record.job.id;
        let mut ended = self.record.clone();
        ended.end(state, self.shared.clock.now());
        self.shared.store.keep(ended.note()?).await?;
        self.well();
        let counts = &ended.job.counts;
        tracing::info!(
            replay = %id, state = ?ended.job.state, made = counts.made, skipped = counts.skipped(),
            "replay ended"
        );
        if self.shared.has_peers {
            // The job is over, so what this asks for is done, whether it can be removed or not.
            let asked = Note::removed(Record::cancel_key(id));
            if let Err(error) = self.shared.store.keep(asked).await {
                tracing::warn!(replay = %id, error = error.chain(), "a note was not removed");
            }
        }
        Ok(None)
    }

    /// The engine stops. Notes exactly how far the job is, and that nobody runs it.
    async fn leave(self) {
        // Without a shutdown nobody waits for this, and somebody else may go on already. A write that
        // failed may have reached the store: what is there then is right, and this is not.
        if self.shared.abort.is_cancelled() || self.is_unsure {
            return;
        }
        let id = self.record.job.id;
        let noted = async {
            if self.shared.has_peers {
                let mut notes = Notes::load(&self.shared).await?;
                let runner = notes.take(id).and_then(|record| record.runner);
                if runner.is_none_or(|runner| runner.name != self.shared.replays.name) {
                    return Ok(());
                }
            }
            let mut left = self.record.clone();
            left.runner = None;
            self.shared.store.keep(left.note()?).await
        };
        if let Err(error) = noted.await {
            tracing::warn!(replay = %id, error = error.chain(), "how far the replay is was not noted");
        }
    }

    fn well(&mut self) {
        self.store_wait = STORE_WAIT_MIN;
        self.shared.replays.tell(&self.record.job, None, false);
        self.shared.tick();
    }

    /// Returns how long to wait after a failure that may pass.
    fn failed(&mut self, error: &Error) -> Duration {
        let id = self.record.job.id;
        let wait = self.store_wait;
        self.store_wait = (wait * 2).min(STORE_WAIT_MAX);
        let reason = if error.is_full() {
            self.at_once = (self.at_once / 2).max(1);
            tracing::debug!(replay = %id, ?wait, "replay waits: the backlog is full");
            "the backlog is full".to_owned()
        } else {
            self.is_unsure = true;
            tracing::error!(replay = %id, error = error.chain(), ?wait, "replay waits: the store failed");
            format!("failed to {}", error.chain())
        };
        self.shared.replays.tell(&self.record.job, Some(reason), self.ending.is_some());
        self.shared.tick();
        wait
    }
}

/// Whether the same write may succeed later.
fn may_pass(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Full | ErrorKind::Store)
}
