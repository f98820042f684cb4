//! The [`Store`] over the log.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use async_trait::async_trait;

use super::cache::Cached;
use super::files::{Files, folder_path};
use super::history::{Change, Known as KnownTarget};
use super::look::{self, Look, Runs};
use super::moved::MovedDelivery;
use super::read::{self, ReadEvent};
use super::recovery::{self, Recovery};
use super::segment::Segment;
use super::state::{Limits, State as Known, Try};
use super::writer::{Core, Writer, wake};
use super::{LogStoreBuilder, Options, Sync, index};
use crate::delivery::DeliveryId;
use crate::endpoint::EndpointId;
use crate::error::{Error, ErrorKind};
use crate::event::{Envelope, EventId};
use crate::stats::EndpointStats;
use crate::store::{
    Accept, Accepted, Backlog, Capabilities, Claim, DeadLetters, DeliveryRecord, Durability,
    EventRecord, Fence, Found as FoundPage, Lease, Note, Page, Purged, Query, Replayed, Settled,
    Settlement, Store, Target, WhenFull,
};
use crate::time::Timestamp;

/// Encoded bytes that may wait for the disk; beyond it callers wait.
const BUFFER_BYTES_MAX: usize = 32 << 20;

/// Events, deliveries and leases in a log on the local disk.
///
/// One process at a time opens a folder; a lock keeps others out. An event is acknowledged, seen and
/// delivered only once it is as durable as [`Sync`] says; settlements are written within 50 ms and
/// synced within a second or with the next event, so that a crash may repeat an attempt but loses no
/// event. Leases end with the process.
///
/// After one failed write or sync everything is refused until the store is opened again: what the
/// disk then holds is known by reading it, not by hoping.
///
/// Dropping the store closes it, waiting for the disk; [`close`](Store::close) does so without
/// blocking the thread.
pub struct LogStore {
    pub(super) core: Arc<Core>,
    recovery: Recovery,
    store: u64,
    /// `None` once closed.
    thread: tokio::sync::Mutex<Option<JoinHandle<()>>>,
    /// Who writes where there is no thread.
    manual: Option<std::sync::Mutex<Writer>>,
}

impl fmt::Debug for LogStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogStore").field("folder", &self.folder()).finish_non_exhaustive()
    }
}

impl LogStore {
    /// A builder for the log in `folder`, with the default limits.
    pub fn builder(folder: impl Into<PathBuf>) -> LogStoreBuilder {
        LogStoreBuilder::new(folder.into())
    }

    /// What opening found: whether a torn end was cut, and what is damaged.
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// Batches that were written and synced since it was opened: publishes divided by it is how
    /// many share a sync.
    pub fn syncs(&self) -> u64 {
        self.core.syncs.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// The folder.
    pub fn folder(&self) -> PathBuf {
        folder_path(&*self.core.files)
    }

    /// Writes and syncs what was accepted and settled so far, in a store built
    /// [`manual`](LogStoreBuilder::manual).
    #[cfg(feature = "test-util")]
    pub fn step(&self, sync: bool) {
        if let Some(writer) = &self.manual {
            writer.lock().expect("no code panics while it holds this lock").cycle(sync);
        }
    }

    pub(super) fn open(files: &Arc<dyn Files>, options: Options) -> Result<Self, Error> {
        let failed = |error: io::Error| {
            let folder = folder_path(&**files);
            let what = format!("open the log in {}", folder.display());
            Error::new(ErrorKind::Store, what).because(error)
        };
        let lock = files.lock().map_err(failed)?;
        let (state, recovery) =
            recovery::open(&**files, options.segment_bytes, options.cache_bytes)?;
        if let Some(cut) = &recovery.cut {
            let (file, offset, bytes) = (cut.file.display(), cut.offset, cut.bytes);
            tracing::warn!(%file, offset, bytes, "{}", cut.what);
        }
        for damage in &recovery.damaged {
            let (file, offset, bytes) = (damage.file.display(), damage.offset, damage.bytes);
            tracing::error!(%file, offset, bytes, "the log is damaged: {}", damage.what);
        }
        let store = state.tail.store;
        let core = Arc::new(Core::new(Arc::clone(files), options, state));
        let writer = Writer::new(&core, lock).map_err(failed)?;
        let (thread, manual) = if options.manual {
            (None, Some(std::sync::Mutex::new(writer)))
        } else {
            let thread = std::thread::Builder::new().name("postrider-log".to_owned());
            (Some(thread.spawn(|| writer.run()).map_err(failed)?), None)
        };
        Ok(Self { core, recovery, store, thread: tokio::sync::Mutex::new(thread), manual })
    }

    fn limits(&self) -> Limits {
        let options = &self.core.options;
        Limits {
            events: options.backlog_events_max,
            bytes: options.backlog_bytes_max,
            buffer: BUFFER_BYTES_MAX,
            dedup_window: options.dedup_window,
        }
    }

    /// Runs `use_disk` where it may block; at once in a manual store, whose tests decide the order of
    /// things.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        what: &'static str,
        use_disk: impl FnOnce(&Core) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let core = Arc::clone(&self.core);
        let failed = |error: Box<dyn std::error::Error + Send + std::marker::Sync>| {
            let what = format!("{what} in {}", self.folder().display());
            Error::new(ErrorKind::Store, what).because(error)
        };
        if self.manual.is_some() {
            return use_disk(&core).map_err(|error| failed(error.into()));
        }
        match tokio::task::spawn_blocking(move || use_disk(&core)).await {
            Ok(done) => done.map_err(|error| failed(error.into())),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Reads events back. `None`: damaged or gone.
    pub(super) async fn read(
        &self,
        mut events: Vec<u64>,
    ) -> Result<HashMap<u64, Option<Found>>, Error> {
        events.sort_unstable();
        events.dedup();
        let mut found = self.read_once(&events).await?;
        // One that was copied forward just now may not be written yet.
        events.retain(|event| {
            found.get(event).is_none_or(Option::is_none)
                && self.core.lock().segments.is_moved(*event)
        });
        if !events.is_empty() {
            self.written().await?;
            found.extend(self.read_once(&events).await?);
        }
        Ok(found)
    }

    /// Reads events that are in ascending order.
    async fn read_once(&self, events: &[u64]) -> Result<HashMap<u64, Option<Found>>, Error> {
        let mut found: HashMap<u64, Option<Found>> =
            events.iter().map(|event| (*event, None)).collect();
        let extents = self.core.lock().segments.extents_of(events);
        if extents.is_empty() {
            return Ok(found);
        }
        let read = self.blocking("read events", move |_| read::events(&extents)).await?;
        let state = self.core.lock();
        for (number, event) in read {
            found.insert(number, event.map(|event| Found::new(event, &state)));
        }
        Ok(found)
    }

    /// Waits until there is room in the buffer, so that a slow disk slows its users.
    async fn wait_for_buffer(&self) -> Result<(), Error> {
        let has_room = || {
            let state = self.core.lock();
            state.check_usable()?;
            Ok::<bool, Error>(state.tail.buffered <= BUFFER_BYTES_MAX)
        };
        while !has_room()? {
            // Registered before looking again, so that room made in between is not missed.
            let mut space = pin!(self.core.space.notified());
            space.as_mut().enable();
            if !has_room()? {
                space.await;
            }
        }
        Ok(())
    }

    /// Returns when everything encoded so far can be read from the disk.
    pub(super) async fn written(&self) -> Result<(), Error> {
        let receiver = {
            let mut state = self.core.lock();
            // After a close nobody would answer.
            state.check_usable()?;
            let (done, receiver) = tokio::sync::oneshot::channel();
            state.readers.push(done);
            wake(&self.core, state);
            receiver
        };
        #[cfg(feature = "test-util")]
        self.step(false);
        match receiver.await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.failure("read what was written")),
        }
    }

    fn failure(&self, what: &str) -> Error {
        let state = self.core.lock();
        match (&state.failed, state.check_usable()) {
            (Some(why), _) => {
                Error::new(ErrorKind::Store, format!("{what}: the log could not be written: {why}"))
            }
            (None, Err(error)) => error,
            (None, Ok(())) => Error::new(ErrorKind::Store, format!("{what}: its writer is gone")),
        }
    }

    /// Reads the events of targets.
    async fn read_targets(&self, targets: &[Target]) -> Result<HashMap<u64, Option<Found>>, Error> {
        Target::check_count(targets)?;
        let visible = {
            let state = self.core.lock();
            state.check_usable()?;
            state.visible
        };
        let events = targets.iter().map(|target| target.place.number());
        self.read(events.filter(|event| *event < visible).collect()).await
    }

    /// Changes the past as soon as there is room in the buffer; returns when it is durable.
    async fn change<T>(
        &self,
        what: &str,
        mut change: impl FnMut(&mut Known) -> Result<Change<T>, Error> + Send,
    ) -> Result<T, Error> {
        loop {
            // Registered before looking, so that room made in between is not missed.
            let mut space = pin!(self.core.space.notified());
            space.as_mut().enable();
            let tried = {
                let mut state = self.core.lock();
                let tried = change(&mut state)?;
                if matches!(tried, Change::Wait(..)) {
                    wake(&self.core, state);
                }
                tried
            };
            match tried {
                Change::Done(answer) => return Ok(answer),
                Change::Wait(answer, done) => {
                    return if done.await { Ok(answer) } else { Err(self.failure(what)) };
                }
                Change::Busy => space.await,
            }
        }
    }

    /// Finds an event by id.
    async fn locate(&self, id: &EventId) -> Result<Option<(u64, Found)>, Error> {
        let print = super::format::fingerprint(self.store, id);
        let (candidates, older) = {
            let state = self.core.lock();
            state.check_usable()?;
            let visible = state.visible;
            let mut candidates: Vec<u64> =
                state.dedup.find(print).filter(|event| *event < visible).collect();
            // Beyond the dedup window there may be several with one id: the newest counts.
            candidates.sort_unstable_by(|a, b| b.cmp(a));
            if let Some(event) = candidates.first()
                && let Some(cached) = state.cache.get(*event)
                && cached.event.id() == id
                && !state.segments.is_moved(*event)
            {
                return Ok(Some((*event, Found::cached(cached, &state))));
            }
            // What is remembered no more, or was copied forward, is in the indexes.
            let reaches_to = state.dedup.reaches_to();
            let mut older = Vec::new();
            for segment in state.segments.list().iter().rev() {
                if !segment.is_indexed {
                    let found = index::find_in(segment, print);
                    candidates.extend(found.filter(|event| *event < visible));
                } else if segment.header.base < reaches_to || segment.has_copied {
                    older.push((segment.header, segment.file.clone()));
                }
            }
            (candidates, older)
        };
        let newest = |read: HashMap<u64, Option<Found>>| {
            let found = read.into_iter().filter_map(|(event, found)| Some((event, found?)));
            found.filter(|(_, found)| found.event.id() == id).max_by_key(|(event, _)| *event)
        };
        let found = newest(self.read(candidates).await?);
        if found.is_some() || older.is_empty() {
            return Ok(found);
        }
        let older = self.blocking("look into the indexes", move |core| {
            let mut found = Vec::new();
            for (header, file) in older {
                let mut segment = Segment::new(header, file);
                found.extend(index::find(&*core.files, &mut segment, print)?);
            }
            Ok(found)
        });
        Ok(newest(self.read(older.await?).await?))
    }
}

/// Each target with its event.
fn known<'a>(
    targets: &'a [Target],
    found: &'a HashMap<u64, Option<Found>>,
) -> Vec<KnownTarget<'a>> {
    let event = |target: &Target| found.get(&target.place.number()).and_then(Option::as_ref);
    targets.iter().map(|target| (target, event(target))).collect()
}

/// An event that was looked up.
pub(super) struct Found {
    pub(super) event: Arc<Envelope>,
    pub(super) endpoints: Arc<[EndpointId]>,
    pub(super) targets: Vec<u32>,
    pub(super) accepted_at: Timestamp,
    pub(super) moved: Vec<MovedDelivery>,
}

impl Found {
    pub(super) fn new(read: ReadEvent, state: &Known) -> Self {
        let known = |target: &u32| state.lanes.get(*target as usize).map(|lane| (*target, lane));
        let (targets, endpoints): (Vec<u32>, Vec<EndpointId>) = (read.body.targets.iter())
            .filter_map(known)
            .map(|(target, lane)| (target, lane.id.clone()))
            .unzip();
        Self {
            event: read.body.event,
            endpoints: endpoints.into(),
            targets,
            accepted_at: read.body.accepted_at,
            moved: read.moved,
        }
    }

    fn cached(cached: &Cached, state: &Known) -> Self {
        Self {
            event: Arc::clone(&cached.event),
            endpoints: Arc::clone(&cached.endpoints),
            targets: cached.endpoints.iter().map(|id| state.lane_of[id]).collect(),
            accepted_at: cached.accepted_at,
            moved: Vec::new(),
        }
    }

    fn into_cached(self) -> Cached {
        let Self { event, endpoints, accepted_at, .. } = self;
        Cached { event, endpoints, accepted_at }
    }
}

impl LogStore {
    /// As [`Store::claim`], or only of what was tried.
    async fn take(
        &self,
        endpoint: &EndpointId,
        max: usize,
        now: Timestamp,
        until: Timestamp,
        takes_fresh: bool,
    ) -> Result<Claim, Error> {
        let (taken, next) = self.core.lock().claim(endpoint, max, now, until, takes_fresh)?;
        let uncached: Vec<u64> =
            taken.iter().filter(|t| t.cached.is_none()).map(|t| t.event).collect();
        let mut read = HashMap::new();
        if !uncached.is_empty() {
            match self.read(uncached).await {
                Ok(found) => read = found,
                Err(error) => {
                    let mut state = self.core.lock();
                    for taken in taken {
                        state.unclaim(taken.fence);
                    }
                    return Err(error);
                }
            }
        }
        let mut leases = Vec::with_capacity(taken.len());
        for taken in taken {
            let event = if let Some(cached) = taken.cached {
                cached.event
            } else if let Some(found) = read.remove(&taken.event).flatten() {
                self.core.lock().identify(taken.fence, found.event.id());
                found.event
            } else {
                self.core.lock().set_unreadable(endpoint, taken.fence);
                continue;
            };
            leases.push(Lease {
                delivery: DeliveryId::new(endpoint.clone(), event.id().clone()).with_run(taken.run),
                event,
                attempts: taken.attempts,
                fence: taken.fence,
            });
        }
        Ok(Claim { leases, next })
    }
}

#[async_trait]
impl Store for LogStore {
    fn capabilities(&self) -> Capabilities {
        let durability = match self.core.options.durability {
            Sync::Always => Durability::Synced,
            Sync::Batch(_) | Sync::Os => Durability::Os,
        };
        Capabilities::new(durability)
    }

    async fn accept(&self, batch: Vec<Accept>, now: Timestamp) -> Result<Vec<Accepted>, Error> {
        if batch.is_empty() {
            self.core.lock().check_usable()?;
            return Ok(Vec::new());
        }
        let print = |accept: &Accept| super::format::fingerprint(self.store, accept.event.id());
        // The usual batch is one event: it costs no allocation.
        let (one, many);
        let prints: &[u64] = if let [accept] = &batch[..] {
            one = [print(accept)];
            &one
        } else {
            many = batch.iter().map(print).collect::<Vec<u64>>();
            &many
        };
        let mut known: HashMap<u64, Option<Cached>> = HashMap::new();
        // Only who found no room registers for it, and then looks again: room made in between is not
        // missed, and the usual publisher pays nothing.
        let mut space = pin!(None);
        loop {
            let tried = {
                let mut state = self.core.lock();
                let tried = state.accept(&batch, prints, now, &known, self.limits());
                if matches!(tried, Ok(Try::Wait(..))) {
                    wake(&self.core, state);
                }
                tried
            };
            let must_wait = match tried {
                Ok(Try::Done(accepted)) => return Ok(accepted),
                Ok(Try::Wait(accepted, done)) => {
                    space.set(None);
                    return if done.await {
                        Ok(accepted)
                    } else {
                        Err(self.failure("accept an event"))
                    };
                }
                Ok(Try::Read(events)) => {
                    let read = self.read(events).await?;
                    let read = read.into_iter();
                    known.extend(read.map(|(event, found)| (event, found.map(Found::into_cached))));
                    false
                }
                Ok(Try::Busy) => true,
                Err(error) if error.is_full() => {
                    if self.core.options.when_full == WhenFull::Refuse {
                        return Err(error);
                    }
                    true
                }
                Err(error) => return Err(error),
            };
            if !must_wait {
                continue;
            }
            if let Some(made) = space.as_mut().as_pin_mut() {
                made.await;
                space.set(None);
            } else {
                space.set(Some(self.core.space.notified()));
                if let Some(made) = space.as_mut().as_pin_mut() {
                    made.enable();
                }
            }
        }
    }

    async fn claim(
        &self,
        endpoint: &EndpointId,
        max: usize,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Claim, Error> {
        self.take(endpoint, max, now, until, true).await
    }

    async fn claim_tried(
        &self,
        endpoint: &EndpointId,
        max: usize,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Claim, Error> {
        self.take(endpoint, max, now, until, false).await
    }

    async fn extend(
        &self,
        leases: &[(DeliveryId, Fence)],
        until: Timestamp,
    ) -> Result<Vec<Settled>, Error> {
        let mut state = self.core.lock();
        state.check_usable()?;
        let extended = leases.iter().map(|(delivery, fence)| state.extend(delivery, *fence, until));
        Ok(extended.collect())
    }

    async fn settle(&self, batch: &[Settlement]) -> Result<Vec<Settled>, Error> {
        self.wait_for_buffer().await?;
        let mut state = self.core.lock();
        state.check_usable()?;
        let settled = batch.iter().map(|settlement| state.settle(settlement)).collect();
        if state.buffered_since.is_none() && state.tail.buffered > 0 {
            state.buffered_since = Some(Instant::now());
            // It must learn when to write.
            wake(&self.core, state);
        } else {
            drop(state);
        }
        if self.core.options.when_full == WhenFull::Wait {
            self.core.space.notify_waiters();
        }
        Ok(settled)
    }

    async fn release(&self, leases: &[(DeliveryId, Fence)]) -> Result<Vec<Settled>, Error> {
        let mut state = self.core.lock();
        state.check_usable()?;
        let released =
            leases.iter().map(|(delivery, fence)| state.release(delivery, *fence)).collect();
        let has_work = !state.announced.is_empty();
        drop(state);
        if has_work {
            self.core.work.notify_one();
        }
        Ok(released)
    }

    async fn ready(&self) -> Vec<EndpointId> {
        loop {
            let announced = std::mem::take(&mut self.core.lock().announced);
            if !announced.is_empty() {
                return announced;
            }
            // `notify_one` keeps a permit, so that an announcement made before this line counts.
            self.core.work.notified().await;
        }
    }

    async fn backlog(&self, now: Timestamp) -> Result<Vec<Backlog>, Error> {
        Ok(self.core.lock().backlog(now))
    }

    async fn event(&self, id: &EventId) -> Result<Option<EventRecord>, Error> {
        let Some((event, found)) = self.locate(id).await? else { return Ok(None) };
        let (accepted_at, moved) = (found.accepted_at, found.moved);
        let standings = self.core.lock().standings(&[(event, &found.targets)]).remove(0);
        let look = Look { event, accepted_at, standings, moved };
        self.written().await?;
        let mut seen = self
            .blocking("look at an event", move |core| look::read(core, &[look], Runs::All))
            .await?;
        let state = self.core.lock();
        let deliveries = seen.remove(0).into_iter().map(|seen| {
            let endpoint = state.lanes[seen.target as usize].id.clone();
            DeliveryRecord {
                id: DeliveryId::new(endpoint, id.clone()).with_run(seen.run),
                state: seen.state,
                attempts_made: seen.attempts_made,
                attempts: seen.attempts,
            }
        });
        let deliveries = deliveries.collect();
        let place = crate::store::Place::new(event);
        Ok(Some(EventRecord { place, event: found.event, accepted_at, deliveries }))
    }

    async fn delivery(&self, id: &DeliveryId) -> Result<Option<DeliveryRecord>, Error> {
        let event = self.event(id.event()).await?;
        Ok(event.and_then(|event| event.deliveries.into_iter().find(|found| found.id == *id)))
    }

    async fn find(&self, query: &Query, page: Page) -> Result<FoundPage, Error> {
        self.find_page(query, page).await
    }

    async fn stats(&self) -> Result<Vec<EndpointStats>, Error> {
        let state = self.core.lock();
        state.check_usable()?;
        Ok(state.stats())
    }

    async fn dead(&self) -> Result<Vec<DeadLetters>, Error> {
        let state = self.core.lock();
        state.check_usable()?;
        Ok(state.dead())
    }

    async fn replay(
        &self,
        targets: &[Target],
        note: Option<Note>,
        now: Timestamp,
    ) -> Result<Vec<Replayed>, Error> {
        let found = self.read_targets(targets).await?;
        let known = known(targets, &found);
        let limits = self.limits();
        self.change("replay deliveries", |state| state.replay(&known, note.as_ref(), now, limits))
            .await
    }

    async fn purge(&self, targets: &[Target], now: Timestamp) -> Result<Vec<Purged>, Error> {
        let found = self.read_targets(targets).await?;
        let known = known(targets, &found);
        let limits = self.limits();
        self.change("purge deliveries", |state| state.purge(&known, now, limits)).await
    }

    async fn keep(&self, note: Note) -> Result<(), Error> {
        let limits = self.limits();
        self.change("keep a note", |state| state.keep(&note, limits)).await
    }

    async fn notes(&self) -> Result<Vec<Note>, Error> {
        let state = self.core.lock();
        state.check_usable()?;
        Ok(state.notes.list())
    }

    async fn close(&self) -> Result<(), Error> {
        self.core.lock().must_close = true;
        self.core.wake.notify_one();
        // Publishers that wait for room learn that there will be none.
        self.core.space.notify_waiters();
        let mut thread = self.thread.lock().await;
        if let Some(handle) = thread.take() {
            self.blocking("close the log", move |_| {
                handle.join().map_err(|_| io::Error::other("its writer panicked"))
            })
            .await?;
        } else if let Some(writer) = &self.manual
            && !self.core.lock().is_closed
        {
            writer.lock().expect("no code panics while it holds this lock").close();
        }
        let failed = self.core.lock().failed.clone();
        match failed {
            None => Ok(()),
            Some(why) => {
                Err(Error::new(ErrorKind::Store, format!("close the log: a write failed: {why}")))
            }
        }
    }
}

impl Drop for LogStore {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.get_mut().take() {
            self.core.lock().must_close = true;
            self.core.wake.notify_one();
            // Its panic was reported by the hook; there is nobody to tell.
            let _ = thread.join();
        }
    }
}
