//! The store that keeps everything in memory: for tests, for tools, and for buses whose events need
//! not outlive the process.

mod history;
mod inner;

use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::{
    Accept, Accepted, Backlog, Capabilities, Claim, DeadLetters, DeliveryRecord, Durability,
    EventRecord, Fence, Found, Note, Page, Purged, Query, Replayed, Settled, Settlement, Store,
    Target,
};
use crate::delivery::{Decision, DeliveryId};
use crate::endpoint::EndpointId;
use crate::error::{Error, ErrorKind};
use crate::event::EventId;
use crate::stats::EndpointStats;
use crate::time::Timestamp;
use inner::{Held, Inner, Status, weight};

/// Most events held, settled ones included, unless built otherwise.
pub const EVENTS_MAX_DEFAULT: usize = 100_000;
/// Most bytes held (events, their attempts, and a fixed share for each), unless built otherwise.
pub const MEMORY_BYTES_MAX_DEFAULT: usize = 256 << 20;

/// What `accept` does where a limit is reached and everything held is still owed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WhenFull {
    /// Fails with [`ErrorKind::Full`].
    #[default]
    Refuse,
    /// Waits until something is settled.
    Wait,
}

/// Makes a [`MemoryStore`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until built"]
pub struct MemoryStoreBuilder {
    events_max: usize,
    bytes_max: usize,
    when_full: WhenFull,
}

impl MemoryStoreBuilder {
    /// Most events held, settled ones included: at least 1. Default 100,000.
    pub fn events_max(mut self, events: usize) -> Self {
        self.events_max = events.max(1);
        self
    }

    /// Most bytes held. Default 256 MiB.
    pub fn bytes_max(mut self, bytes: usize) -> Self {
        self.bytes_max = bytes;
        self
    }

    /// What happens at a limit. Default: refuse.
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.when_full = when_full;
        self
    }

    /// The store.
    pub fn build(self) -> MemoryStore {
        MemoryStore {
            limits: self,
            inner: Mutex::default(),
            work: Notify::new(),
            space: Notify::new(),
        }
    }
}

/// Events, deliveries and leases in memory, bounded by count and bytes.
///
/// Settled events stay to be looked at, and for dedup, until their room is needed: the first settled
/// goes first. What is owed is never dropped; where only such events are left, `accept` refuses or
/// waits as [`WhenFull`] says.
pub struct MemoryStore {
    limits: MemoryStoreBuilder,
    // A blocking mutex: it is held for map operations only, never across an await.
    inner: Mutex<Inner>,
    work: Notify,
    space: Notify,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::builder().build()
    }
}

impl MemoryStore {
    /// A builder with the default limits.
    pub fn builder() -> MemoryStoreBuilder {
        MemoryStoreBuilder {
            events_max: EVENTS_MAX_DEFAULT,
            bytes_max: MEMORY_BYTES_MAX_DEFAULT,
            when_full: WhenFull::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds this lock")
    }

    /// Accepts the batch if it fits now.
    fn try_accept(&self, batch: &[Accept], now: Timestamp) -> Result<Vec<Accepted>, Error> {
        let mut inner = self.lock();
        inner.check_open()?;
        inner.now = inner.now.max(now);
        // A duplicate takes no room: it gets its receipt from a full store too.
        let new = batch.iter().filter(|accept| !inner.by_id.contains_key(accept.event.id()));
        let (events, bytes) =
            new.fold((0, 0), |(events, bytes), accept| (events + 1, bytes + weight(accept)));
        if events > self.limits.events_max || bytes > self.limits.bytes_max {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "accept {events} events of {bytes} bytes: the memory store holds at most {} events \
                     and {} bytes (bus.memory)",
                    self.limits.events_max, self.limits.bytes_max
                ),
            ));
        }
        // What the batch repeats stays: it gets its first receipt.
        let repeated = |inner: &Inner| {
            batch.iter().filter_map(|accept| inner.by_id.get(accept.event.id()).copied()).collect()
        };
        if !inner.make_room(events, bytes, &self.limits, repeated) {
            return Err(Error::new(
                ErrorKind::Full,
                format!(
                    "accept {events} events of {bytes} bytes: {} events of {} bytes are held and too few \
                     of them are settled (limits bus.memory.events_max = {}, bus.memory.bytes_max = {})",
                    inner.by_id.len(),
                    inner.bytes,
                    self.limits.events_max,
                    self.limits.bytes_max
                ),
            ));
        }
        let accepted = batch.iter().map(|accept| inner.insert(accept, now)).collect();
        if !inner.announced.is_empty() {
            self.work.notify_one();
        }
        Ok(accepted)
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new(Durability::Memory)
    }

    async fn accept(&self, batch: Vec<Accept>, now: Timestamp) -> Result<Vec<Accepted>, Error> {
        let must_wait = |done: &Result<_, Error>| {
            self.limits.when_full == WhenFull::Wait && done.as_ref().is_err_and(Error::is_full)
        };
        let mut done = self.try_accept(&batch, now);
        while must_wait(&done) {
            // Registered before looking again, so that room made in between is not missed.
            let mut space = std::pin::pin!(self.space.notified());
            space.as_mut().enable();
            done = self.try_accept(&batch, now);
            if must_wait(&done) {
                space.await;
                done = self.try_accept(&batch, now);
            }
        }
        done
    }

    async fn claim(
        &self,
        endpoint: &EndpointId,
        max: usize,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Claim, Error> {
        self.lock().claim(endpoint, max, now, until, true)
    }

    async fn claim_tried(
        &self,
        endpoint: &EndpointId,
        max: usize,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Claim, Error> {
        self.lock().claim(endpoint, max, now, until, false)
    }

    async fn extend(
        &self,
        leases: &[(DeliveryId, Fence)],
        until: Timestamp,
    ) -> Result<Vec<Settled>, Error> {
        let mut inner = self.lock();
        inner.check_open()?;
        let extended = leases.iter().map(|(delivery, fence)| {
            let Some(place) = inner.end_lease(delivery, *fence) else { return Settled::Stale };
            inner.held(place.event).deliveries[place.delivery as usize].status =
                Status::Leased { until };
            inner.leases.insert(*fence, place);
            if let Some(lane) = inner.lanes.get_mut(delivery.endpoint()) {
                lane.leased.insert((until, *fence));
            }
            Settled::Applied
        });
        Ok(extended.collect())
    }

    async fn settle(&self, batch: &[Settlement]) -> Result<Vec<Settled>, Error> {
        let mut inner = self.lock();
        inner.check_open()?;
        let settled: Vec<Settled> = batch
            .iter()
            .map(|settlement| inner.settle(settlement, self.limits.bytes_max))
            .collect();
        drop(inner);
        let has_made_room = batch.iter().zip(&settled).any(|(settlement, settled)| {
            *settled == Settled::Applied && !matches!(settlement.decision, Decision::RetryAt(_))
        });
        if has_made_room {
            self.space.notify_waiters();
        }
        Ok(settled)
    }

    async fn release(&self, leases: &[(DeliveryId, Fence)]) -> Result<Vec<Settled>, Error> {
        let mut inner = self.lock();
        inner.check_open()?;
        let mut released = Vec::with_capacity(leases.len());
        for (delivery, fence) in leases {
            let Some(place) = inner.end_lease(delivery, *fence) else {
                released.push(Settled::Stale);
                continue;
            };
            inner.put_back(delivery.endpoint(), place);
            let lane =
                inner.lanes.get_mut(delivery.endpoint()).expect("a lane with something owed stays");
            if std::mem::take(&mut lane.is_dry) {
                inner.announced.push(delivery.endpoint().clone());
            }
            released.push(Settled::Applied);
        }
        if !inner.announced.is_empty() {
            self.work.notify_one();
        }
        Ok(released)
    }

    async fn ready(&self) -> Vec<EndpointId> {
        loop {
            let announced = std::mem::take(&mut self.lock().announced);
            if !announced.is_empty() {
                return announced;
            }
            // `notify_one` keeps a permit, so that an announcement made before this line counts.
            self.work.notified().await;
        }
    }

    async fn backlog(&self, now: Timestamp) -> Result<Vec<Backlog>, Error> {
        let inner = self.lock();
        let backlogs = inner.lanes.iter().map(|(endpoint, lane)| {
            let due = lane.delayed.iter().take_while(|(due, _)| *due <= now).count();
            Backlog {
                endpoint: endpoint.clone(),
                ready: (lane.fresh.len() + due) as u64,
                delayed: (lane.delayed.len() - due) as u64,
                leased: lane.leased.len() as u64,
            }
        });
        Ok(backlogs.filter(|backlog| backlog.owed() > 0).collect())
    }

    async fn event(&self, id: &EventId) -> Result<Option<EventRecord>, Error> {
        let inner = self.lock();
        let held = inner.by_id.get(id).and_then(|place| inner.events[*place as usize].as_ref());
        Ok(held.map(Held::record))
    }

    async fn delivery(&self, id: &DeliveryId) -> Result<Option<DeliveryRecord>, Error> {
        let inner = self.lock();
        let held =
            inner.by_id.get(id.event()).and_then(|place| inner.events[*place as usize].as_ref());
        Ok(held.and_then(|held| {
            let is_it = |number: &usize| held.target(*number) == (id.endpoint(), id.run());
            (0..held.deliveries.len()).find(is_it).map(|number| held.delivery(number))
        }))
    }

    async fn find(&self, query: &Query, page: Page) -> Result<Found, Error> {
        self.lock().find(query, page)
    }

    async fn stats(&self) -> Result<Vec<EndpointStats>, Error> {
        let inner = self.lock();
        inner.check_open()?;
        let stats = inner.lanes.iter().filter_map(|(endpoint, lane)| {
            let series = lane.series.as_deref()?.clone();
            Some(EndpointStats::new(endpoint.clone(), series))
        });
        Ok(stats.collect())
    }

    async fn dead(&self) -> Result<Vec<DeadLetters>, Error> {
        self.lock().dead()
    }

    async fn replay(
        &self,
        targets: &[Target],
        note: Option<Note>,
        now: Timestamp,
    ) -> Result<Vec<Replayed>, Error> {
        let replayed = self.lock().replay(targets, note, now, &self.limits)?;
        self.work.notify_one();
        Ok(replayed)
    }

    async fn purge(&self, targets: &[Target], _now: Timestamp) -> Result<Vec<Purged>, Error> {
        self.lock().purge(targets)
    }

    async fn keep(&self, note: Note) -> Result<(), Error> {
        let mut inner = self.lock();
        inner.check_open()?;
        inner.check_note(&note)?;
        inner.keep(note);
        Ok(())
    }

    async fn notes(&self) -> Result<Vec<Note>, Error> {
        let inner = self.lock();
        inner.check_open()?;
        let notes = inner.notes.iter();
        Ok(notes
            .map(|(key, value)| Note { key: key.clone(), value: Some(value.clone()) })
            .collect())
    }

    async fn close(&self) -> Result<(), Error> {
        self.lock().is_closed = true;
        // Publishers that wait for room learn that there will be none.
        self.space.notify_waiters();
        Ok(())
    }
}
