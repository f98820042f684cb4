//! Replay jobs: makes them, runs them, tells of them.
//!
//! A job is a note in the store, and each of its writes makes deliveries and moves the note on at
//! once: whoever opens the store next goes on where the last write ended. One task looks after all
//! jobs of a bus and starts one more for each that runs.
//!
//! Of the processes that share a store one runs a job: its note names the runner, until a time that
//! each write puts off. Another takes it over when that has passed: it writes its own name, waits, and
//! goes on if the name is still its own. So two would run one job only where a write takes longer than
//! that wait.

mod runner;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Engine, LEASE, STORE_WAIT_MAX, STORE_WAIT_MIN, Shared};
use crate::endpoint::EndpointId;
use crate::error::{Error, ErrorKind};
use crate::replay::{
    CANCEL_PREFIX, Counts, JOBS_ENDED_KEPT, JOBS_ENDED_MAX, JOBS_OPEN_MAX, JOBS_RUNNING_MAX, Job,
    JobId, JobState, PREFIX, Preview, Record, Request, Runner,
};
use crate::store::{Note, Order, PAGE_EVENTS_MAX, Page, Place, Query};
use crate::time::Timestamp;

/// How long whoever takes a job over waits for others that do the same.
const TAKE_WAIT: Duration = Duration::from_secs(2);

/// What the jobs of a bus share.
pub(super) struct Replays {
    /// This bus, among those that share a store.
    name: Box<str>,
    /// No further write of any job.
    stop: CancellationToken,
    has_changed: Notify,
    /// One at a time makes a job, takes one up, or ends one that does not run.
    changing: tokio::sync::Mutex<()>,
    // A blocking mutex: held for look-ups only.
    running: Mutex<HashMap<JobId, Running>>,
}

/// A job that this bus runs.
struct Running {
    cancel: CancellationToken,
    /// Why it cannot go on just now.
    waiting: Option<String>,
    /// Whether all that is left is to note how it ended.
    is_ending: bool,
    /// With the answers to its last write, which its note does not have yet.
    counts: Option<Counts>,
}

impl Replays {
    pub(super) fn new(random: u64) -> Self {
        Self {
            name: format!("{random:016x}").into(),
            stop: CancellationToken::new(),
            has_changed: Notify::new(),
            changing: tokio::sync::Mutex::new(()),
            running: Mutex::default(),
        }
    }

    fn running(&self) -> MutexGuard<'_, HashMap<JobId, Running>> {
        self.running.lock().expect("no code panics while it holds this lock")
    }

    /// A job waits for this reason, or has gone on; or it is ending and that cannot be noted.
    fn tell(&self, job: &Job, waiting: Option<String>, is_ending: bool) {
        if let Some(running) = self.running().get_mut(&job.id) {
            running.waiting = waiting;
            running.is_ending = is_ending;
            running.counts = Some(job.counts);
        }
    }

    /// This bus as the runner of a job that is written at `now` and goes on `wait` later.
    fn runner(&self, now: Timestamp, wait: Duration) -> Runner {
        Runner { name: self.name.clone(), until: now.after(wait).after(LEASE) }
    }

    pub(super) fn stop(&self) {
        self.stop.cancel();
    }
}

/// The notes of a store that are about jobs.
#[derive(Default)]
struct Notes {
    /// The oldest job first.
    records: Vec<Record>,
    /// Jobs that somebody wants to end.
    cancelled: Vec<JobId>,
}

impl Notes {
    async fn load(shared: &Shared) -> Result<Self, Error> {
        let mut notes = Self::default();
        for note in shared.store.notes().await? {
            if let Some(id) = note.key.strip_prefix(CANCEL_PREFIX) {
                notes.cancelled.extend(id.parse::<JobId>().ok());
            } else if let Some(record) = Record::read(&note) {
                notes.records.push(record);
            } else if note.key.starts_with(PREFIX) {
                tracing::warn!(note = %note.key, "the note of a replay cannot be read; it is left alone");
            }
        }
        notes.records.sort_by_key(|record| (record.job.made_at, record.job.id));
        Ok(notes)
    }

    fn take(&mut self, id: JobId) -> Option<Record> {
        let at = self.records.iter().position(|record| record.job.id == id)?;
        Some(self.records.swap_remove(at))
    }

    /// Jobs that have ended and need not be told of any more.
    fn outdated(&self, now: Timestamp) -> Vec<JobId> {
        let mut ended: Vec<(Timestamp, JobId)> = self
            .records
            .iter()
            .filter_map(|record| Some((record.job.ended_at?, record.job.id)))
            .collect();
        ended.sort_unstable_by(|a, b| b.cmp(a));
        let is_old = |at: Timestamp| now.since(at) > JOBS_ENDED_KEPT;
        let outdated = ended.into_iter().enumerate();
        outdated
            .filter(|(number, (at, _))| *number >= JOBS_ENDED_MAX || is_old(*at))
            .map(|(_, (_, id))| id)
            .collect()
    }
}

/// Runs the jobs of the store until the engine stops.
pub(super) async fn run(shared: Arc<Shared>) {
    let replays = &shared.replays;
    let mut jobs = Jobs::default();
    let mut wait = STORE_WAIT_MIN;
    while !replays.stop.is_cancelled() {
        let look_again = match jobs.start(&shared).await {
            Ok(()) => {
                wait = STORE_WAIT_MIN;
                // Of what other processes left behind nobody tells.
                shared.has_peers.then_some(LEASE)
            }
            Err(error) if error.is_closed() => break,
            Err(error) => {
                tracing::error!(error = error.chain(), ?wait, "store failed to tell of replays");
                let now = wait;
                wait = (wait * 2).min(STORE_WAIT_MAX);
                Some(now)
            }
        };
        tokio::select! {
            () = replays.stop.cancelled() => {}
            () = replays.has_changed.notified() => {}
            true = jobs.ended(&shared) => {}
            () = tokio::time::sleep(look_again.unwrap_or_default()), if look_again.is_some() => {}
        }
    }
    // Each ends after the write that it is in.
    while jobs.ended(&shared).await {}
}

/// The tasks of jobs.
#[derive(Default)]
struct Jobs {
    tasks: JoinSet<()>,
    ids: HashMap<tokio::task::Id, JobId>,
}

impl Jobs {
    /// Starts what is to run, and forgets what ended long ago.
    async fn start(&mut self, shared: &Arc<Shared>) -> Result<(), Error> {
        let replays = &shared.replays;
        let _one_at_a_time = replays.changing.lock().await;
        let notes = Notes::load(shared).await?;
        let now = shared.clock.now();
        for id in notes.outdated(now) {
            shared.store.keep(Note::removed(Record::key(id))).await?;
        }
        for record in notes.records {
            let id = record.job.id;
            let is_others = |it: &Runner| it.name != replays.name && it.until > now;
            let runs_elsewhere = shared.has_peers && record.runner.as_ref().is_some_and(is_others);
            if record.job.state.is_over() || runs_elsewhere || replays.running().contains_key(&id) {
                continue;
            }
            if replays.running().len() >= JOBS_RUNNING_MAX || replays.stop.is_cancelled() {
                break;
            }
            let cancel = CancellationToken::new();
            let running =
                Running { cancel: cancel.clone(), waiting: None, is_ending: false, counts: None };
            replays.running().insert(id, running);
            let task = self.tasks.spawn(runner::run(Arc::clone(shared), record, cancel));
            self.ids.insert(task.id(), id);
        }
        Ok(())
    }

    /// Waits until one has ended; `false` where none runs.
    ///
    /// # Cancel safety
    /// Safe, but that a job of which the task broke may be started again at once.
    async fn ended(&mut self, shared: &Shared) -> bool {
        let Some(ended) = self.tasks.join_next_with_id().await else { return false };
        let task = match &ended {
            Ok((task, ())) => *task,
            Err(error) => error.id(),
        };
        if let Some(id) = self.ids.remove(&task) {
            shared.replays.running().remove(&id);
            shared.tick();
        }
        if let Err(error) = ended {
            // A bug of ours. The job is tried again, but not at once.
            tracing::error!(%error, "the task of a replay failed");
            tokio::select! {
                () = shared.replays.stop.cancelled() => {}
                () = tokio::time::sleep(STORE_WAIT_MAX) => {}
            }
        }
        true
    }
}

impl Engine {
    /// Makes a job; it runs from now on.
    pub(crate) async fn replay(&self, request: Request) -> Result<Job, Error> {
        request.check()?;
        if let Some(endpoint) = request.endpoint() {
            self.check_served(endpoint)?;
        }
        let shared = &self.shared;
        let last = self.place(&Query::new(), Order::NewestFirst).await?;
        // Where the first is gone meanwhile, so is what was before the last: nothing is covered.
        let first = match last {
            Some(_) => {
                let since = Query { since: request.query.since, ..Query::new() };
                self.place(&since, Order::OldestFirst).await?
            }
            None => None,
        };
        let now = shared.clock.now();
        let id = JobId::new(now, [shared.clock.random(), shared.clock.random()]);
        let range = first.zip(last).filter(|(first, last)| first <= last);
        let mut record = Record::new(Job::new(id, request, now, range));
        let _one_at_a_time = shared.replays.changing.lock().await;
        let notes = Notes::load(shared).await?;
        let open = notes.records.iter().filter(|record| !record.job.state.is_over()).count();
        if open >= JOBS_OPEN_MAX {
            let what = format!(
                "replay events: {open} replays have not ended yet, which is the most; wait for them or \
                 cancel some"
            );
            return Err(Error::new(ErrorKind::Full, what));
        }
        if !record.job.state.is_over() {
            record.runner = Some(shared.replays.runner(now, Duration::ZERO));
        }
        shared.store.keep(record.note()?).await?;
        shared.replays.has_changed.notify_one();
        Ok(record.job)
    }

    fn check_served(&self, endpoint: &EndpointId) -> Result<(), Error> {
        if self.shared.lane(endpoint).is_some() {
            return Ok(());
        }
        let what = format!("replay events to endpoint {endpoint:?}: no such endpoint is served");
        Err(Error::new(ErrorKind::NotFound, what))
    }

    /// The first event of a query in an order.
    pub(crate) async fn place(&self, query: &Query, order: Order) -> Result<Option<Place>, Error> {
        let mut page = Page { order, ..Page::default() }.limit(1).without_attempts();
        loop {
            let found = self.shared.store.find(query, page).await?;
            match (found.events.first(), found.next) {
                (Some(event), _) => return Ok(Some(event.place)),
                (None, None) => return Ok(None),
                (None, next) => page = page.after(next),
            }
        }
    }

    /// Every job that is known, the oldest first.
    pub(crate) async fn replays(&self) -> Result<Vec<Job>, Error> {
        let notes = Notes::load(&self.shared).await?;
        Ok(notes.records.into_iter().map(|record| self.told(record)).collect())
    }

    pub(crate) async fn replay_job(&self, id: JobId) -> Result<Job, Error> {
        let record =
            Notes::load(&self.shared).await?.take(id).ok_or_else(|| unknown("look at", id))?;
        Ok(self.told(record))
    }

    /// The job with what only memory knows.
    fn told(&self, mut record: Record) -> Job {
        record.resume();
        let mut job = record.job;
        let running = self.shared.replays.running();
        let Some(running) = running.get(&job.id).filter(|_| !job.state.is_over()) else {
            return job;
        };
        if let Some(counts) = running.counts {
            job.counts = counts;
        }
        if let Some(reason) = &running.waiting {
            job.state = JobState::Waiting { reason: reason.clone() };
        }
        job
    }

    /// Ends a job and waits until it has ended, or until that cannot be noted.
    pub(crate) async fn cancel_replay(&self, id: JobId) -> Result<Job, Error> {
        let shared = &self.shared;
        let replays = &shared.replays;
        let mut progress = shared.progress.subscribe();
        {
            let _one_at_a_time = replays.changing.lock().await;
            let is_running = replays.running().get(&id).map(|running| running.cancel.cancel());
            if is_running.is_none() {
                let mut notes = Notes::load(shared).await?;
                let mut record = notes.take(id).ok_or_else(|| unknown("cancel", id))?;
                let now = shared.clock.now();
                let runner = record.runner.as_ref().filter(|runner| runner.name != replays.name);
                if record.job.state.is_over() {
                    return Ok(record.job);
                }
                if shared.has_peers && runner.is_some_and(|runner| runner.until > now) {
                    // Its own process finds this with its next write.
                    shared.store.keep(Note::new(Record::cancel_key(id), "")?).await?;
                    return Ok(record.job);
                }
                record.resume();
                record.end(JobState::Cancelled, now);
                shared.store.keep(record.note()?).await?;
                return Ok(record.job);
            }
        }
        loop {
            let failure = match replays.running().get(&id) {
                None => break,
                Some(running) => running.waiting.clone().filter(|_| running.is_ending),
            };
            if let Some(reason) = failure {
                let what = format!(
                    "cancel replay {id}: it makes nothing more and ends once the store works again; \
                     it {reason}"
                );
                return Err(Error::new(ErrorKind::Store, what));
            }
            // Fails only where the engine has gone, and then the job has ended too.
            if progress.changed().await.is_err() {
                break;
            }
        }
        self.replay_job(id).await
    }

    /// Counts what a job would do now.
    pub(crate) async fn preview_replay(&self, request: &Request) -> Result<Preview, Error> {
        request.check()?;
        if let Some(endpoint) = request.endpoint() {
            self.check_served(endpoint)?;
        }
        let mut preview = Preview::default();
        let Some(last) = self.place(&Query::new(), Order::NewestFirst).await? else {
            return Ok(preview);
        };
        let mut page = Page::oldest().limit(PAGE_EVENTS_MAX).without_attempts();
        loop {
            let found = self.shared.store.find(&request.query, page).await?;
            for event in found.events.iter().take_while(|event| event.place <= last) {
                preview.add(request, event, |endpoint| self.shared.lane(endpoint).is_some());
            }
            match found.next {
                Some(next) if next < last => page = page.after(Some(next)),
                _ => return Ok(preview),
            }
        }
    }

    /// Ends every job after the write that it is in; what is left of them goes on when the store is
    /// opened again.
    pub(crate) async fn stop_replays(&self) {
        let mut progress = self.shared.progress.subscribe();
        self.shared.replays.stop();
        while !self.shared.replays.running().is_empty() {
            if progress.changed().await.is_err() {
                break;
            }
        }
    }
}

fn unknown(what: &str, id: JobId) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("{what} replay {id}: there is no such replay (any more)"),
    )
}
