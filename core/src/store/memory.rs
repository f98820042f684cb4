//! The store that keeps everything in memory: for tests, for tools, and for buses whose events need
//! not outlive the process.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::{
    Accept, Accepted, Backlog, Capabilities, Claim, DeliveryRecord, Durability, EventRecord, Fence,
    Lease, Next, Place as Position, Settled, Settlement, Store, push_attempt,
};
use crate::delivery::{AttemptRecord, DeadReason, Decision, DeliveryId, State};
use crate::endpoint::EndpointId;
use crate::error::{Error, ErrorKind};
use crate::event::{Envelope, EventId};
use crate::time::Timestamp;

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

#[derive(Default)]
struct Inner {
    is_closed: bool,
    /// Events by place; a place is used again after its event was evicted.
    events: Vec<Option<Held>>,
    free: Vec<u32>,
    by_id: HashMap<EventId, u32>,
    /// Events with nothing owed, in the order in which that became so.
    settled: VecDeque<u32>,
    bytes: usize,
    /// Events accepted so far.
    accepted: u64,
    lanes: HashMap<EndpointId, Lane>,
    leases: HashMap<Fence, Place>,
    fence_last: u64,
    /// Endpoints to be named by `ready`.
    announced: Vec<EndpointId>,
}

/// Where a delivery is: its event's place, and its number among the event's deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    event: u32,
    delivery: u32,
}

struct Held {
    /// Rises with every event that is accepted.
    number: u64,
    event: Arc<Envelope>,
    accepted_at: Timestamp,
    endpoints: Arc<[EndpointId]>,
    deliveries: Box<[Delivery]>,
    owed: u32,
    bytes: usize,
}

struct Delivery {
    status: Status,
    attempts_made: u32,
    attempts: Vec<AttemptRecord>,
}

#[derive(Clone, Copy)]
enum Status {
    Waiting { due: Timestamp },
    Leased { until: Timestamp },
    Delivered,
    Dead(DeadReason),
    Expired,
}

/// What is owed to one endpoint.
struct Lane {
    /// Never tried, in the order in which they were accepted.
    fresh: VecDeque<Place>,
    /// Tried or given back, by due time.
    delayed: BTreeSet<(Timestamp, Place)>,
    /// By the end of their lease.
    leased: BTreeSet<(Timestamp, Fence)>,
    /// Whether the last claim found nothing more, so that new work must be announced.
    is_dry: bool,
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            fresh: VecDeque::new(),
            delayed: BTreeSet::new(),
            leased: BTreeSet::new(),
            is_dry: true,
        }
    }
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
        if !inner.make_room(events, bytes, &self.limits, batch) {
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

/// What an attempt's texts take.
fn text_bytes(attempt: &AttemptRecord) -> usize {
    attempt.message.len() + attempt.answer.len()
}

fn weight(accept: &Accept) -> usize {
    size_of::<Held>()
        + accept.event.weight()
        + accept.endpoints.len() * (size_of::<Delivery>() + size_of::<Place>())
}

impl Inner {
    fn check_open(&self) -> Result<(), Error> {
        if self.is_closed {
            Err(Error::new(ErrorKind::Closed, "use a closed store"))
        } else {
            Ok(())
        }
    }

    fn held(&mut self, place: u32) -> &mut Held {
        self.events[place as usize].as_mut().expect("an event with something owed is not evicted")
    }

    /// Drops settled events, the first settled first, until so many more fit. `false`, and nothing is
    /// dropped, where that is not enough. What `batch` repeats stays: it gets its first receipt.
    fn make_room(
        &mut self,
        events: usize,
        bytes: usize,
        limits: &MemoryStoreBuilder,
        batch: &[Accept],
    ) -> bool {
        let mut events_over = (self.by_id.len() + events).saturating_sub(limits.events_max);
        let mut bytes_over = (self.bytes + bytes).saturating_sub(limits.bytes_max);
        if events_over == 0 && bytes_over == 0 {
            return true;
        }
        let repeated: HashSet<u32> =
            batch.iter().filter_map(|accept| self.by_id.get(accept.event.id()).copied()).collect();
        let mut looked_at = 0;
        for place in &self.settled {
            if events_over == 0 && bytes_over == 0 {
                break;
            }
            looked_at += 1;
            if !repeated.contains(place) {
                let held = self.events[*place as usize].as_ref().map_or(0, |held| held.bytes);
                bytes_over = bytes_over.saturating_sub(held);
                events_over = events_over.saturating_sub(1);
            }
        }
        if events_over > 0 || bytes_over > 0 {
            return false;
        }
        let looked_at: Vec<u32> = self.settled.drain(..looked_at).collect();
        for place in looked_at.into_iter().rev() {
            if repeated.contains(&place) {
                self.settled.push_front(place);
            } else {
                self.evict(place);
            }
        }
        true
    }

    /// Drops a settled event that is no longer in the list of those.
    fn evict(&mut self, place: u32) {
        let held =
            self.events[place as usize].take().expect("a settled event is held until evicted");
        self.by_id.remove(held.event.id());
        self.bytes -= held.bytes;
        self.free.push(place);
    }

    fn insert(&mut self, accept: &Accept, now: Timestamp) -> Accepted {
        let entry = match self.by_id.entry(accept.event.id().clone()) {
            Entry::Vacant(entry) => entry,
            Entry::Occupied(entry) => {
                let place = *entry.get();
                let endpoints = Arc::clone(&self.held(place).endpoints);
                return Accepted { endpoints, duplicate: true };
            }
        };
        let endpoints = Arc::clone(&accept.endpoints);
        self.accepted += 1;
        let held = Held {
            number: self.accepted,
            event: Arc::clone(&accept.event),
            accepted_at: now,
            endpoints: Arc::clone(&endpoints),
            deliveries: endpoints
                .iter()
                .map(|_| Delivery {
                    status: Status::Waiting { due: now },
                    attempts_made: 0,
                    attempts: Vec::new(),
                })
                .collect(),
            owed: endpoints.len() as u32,
            bytes: weight(accept),
        };
        self.bytes += held.bytes;
        let place = if let Some(place) = self.free.pop() {
            self.events[place as usize] = Some(held);
            place
        } else {
            self.events.push(Some(held));
            (self.events.len() - 1) as u32
        };
        entry.insert(place);
        if endpoints.is_empty() {
            self.settled.push_back(place);
        }
        for (delivery, endpoint) in (0..).zip(&*endpoints) {
            let lane = match self.lanes.get_mut(endpoint) {
                Some(lane) => lane,
                // Asked for by reference first: an entry would clone the id on every publish.
                None => self.lanes.entry(endpoint.clone()).or_default(),
            };
            lane.fresh.push_back(Place { event: place, delivery });
            if std::mem::take(&mut lane.is_dry) {
                self.announced.push(endpoint.clone());
            }
        }
        Accepted { endpoints, duplicate: false }
    }

    /// Makes deliveries due again whose leases ran out before `now`.
    fn expire_leases(&mut self, endpoint: &EndpointId, now: Timestamp) {
        while let Some(lane) = self.lanes.get_mut(endpoint)
            && let Some(&(until, fence)) = lane.leased.first()
            && until <= now
        {
            lane.leased.pop_first();
            let place = self.leases.remove(&fence).expect("every lease of a lane is in the map");
            self.wait_until(endpoint, place, until);
        }
    }

    /// Puts a delivery among those that wait.
    fn wait_until(&mut self, endpoint: &EndpointId, place: Place, due: Timestamp) {
        self.held(place.event).deliveries[place.delivery as usize].status = Status::Waiting { due };
        let lane = self.lanes.get_mut(endpoint).expect("a lane with something owed stays");
        lane.delayed.insert((due, place));
    }

    /// Makes a delivery that was given back due at once, whatever the clock says.
    fn put_back(&mut self, endpoint: &EndpointId, place: Place) {
        let held = self.held(place.event);
        let due = held.accepted_at;
        let delivery = &mut held.deliveries[place.delivery as usize];
        delivery.status = Status::Waiting { due };
        let is_fresh = delivery.attempts_made == 0;
        let number = held.number;
        let lane = self.lanes.get_mut(endpoint).expect("a lane with something owed stays");
        if !is_fresh {
            lane.delayed.insert((Timestamp::MIN, place));
            return;
        }
        // Back to its place in the order of acceptance, which is near the front.
        let is_before = |other: &Place| {
            self.events[other.event as usize].as_ref().is_some_and(|held| held.number < number)
        };
        let at = lane.fresh.iter().take_while(|other| is_before(other)).count();
        lane.fresh.insert(at, place);
    }

    /// Ends a lease. `None` where it is not the newest.
    fn end_lease(&mut self, delivery: &DeliveryId, fence: Fence) -> Option<Place> {
        let place = *self.leases.get(&fence)?;
        let held = self.held(place.event);
        let Status::Leased { until } = held.deliveries[place.delivery as usize].status else {
            return None;
        };
        // A caller that mixes up its leases must not settle somebody else's delivery.
        if held.event.id() != delivery.event()
            || held.endpoints[place.delivery as usize] != *delivery.endpoint()
        {
            return None;
        }
        self.leases.remove(&fence);
        if let Some(lane) = self.lanes.get_mut(delivery.endpoint()) {
            lane.leased.remove(&(until, fence));
        }
        Some(place)
    }

    fn settle(&mut self, settlement: &Settlement, bytes_max: usize) -> Settled {
        let Some(place) = self.end_lease(&settlement.delivery, settlement.fence) else {
            return Settled::Stale;
        };
        if let Some(mut attempt) = settlement.attempt.clone() {
            // The bound holds for what is kept of attempts too: history goes first, then answers.
            while self.bytes + text_bytes(&attempt) > bytes_max
                && let Some(settled) = self.settled.pop_front()
            {
                self.evict(settled);
            }
            if self.bytes + text_bytes(&attempt) > bytes_max {
                attempt.answer.clear();
            }
            let held = self.held(place.event);
            let delivery = &mut held.deliveries[place.delivery as usize];
            delivery.attempts_made += 1;
            let before: usize = delivery.attempts.iter().map(text_bytes).sum();
            push_attempt(&mut delivery.attempts, attempt);
            let after: usize = delivery.attempts.iter().map(text_bytes).sum();
            held.bytes = held.bytes + after - before;
            self.bytes = self.bytes + after - before;
        }
        let held = self.held(place.event);
        let delivery = &mut held.deliveries[place.delivery as usize];
        delivery.status = match settlement.decision {
            Decision::RetryAt(due) => {
                self.wait_until(settlement.delivery.endpoint(), place, due);
                return Settled::Applied;
            }
            Decision::Delivered => Status::Delivered,
            Decision::Dead(reason) => Status::Dead(reason),
            Decision::Expired => Status::Expired,
        };
        held.owed -= 1;
        if held.owed == 0 {
            self.settled.push_back(place.event);
        }
        Settled::Applied
    }

    fn record(held: &Held, number: usize) -> DeliveryRecord {
        let delivery = &held.deliveries[number];
        DeliveryRecord {
            id: DeliveryId::new(held.endpoints[number].clone(), held.event.id().clone()),
            state: match delivery.status {
                Status::Waiting { due } => State::Waiting { due },
                Status::Leased { until } => State::Leased { until },
                Status::Delivered => State::Delivered,
                Status::Dead(reason) => State::Dead { reason },
                Status::Expired => State::Expired,
            },
            attempts_made: delivery.attempts_made,
            attempts: delivery.attempts.clone(),
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new(Durability::Memory).history(false)
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
        let mut inner = self.lock();
        inner.check_open()?;
        inner.expire_leases(endpoint, now);
        let inner = &mut *inner;
        let Some(lane) = inner.lanes.get_mut(endpoint) else {
            return Ok(Claim { leases: Vec::new(), next: Next::Announced });
        };
        let mut leases = Vec::new();
        while leases.len() < max {
            let delayed = lane.delayed.first().filter(|(due, _)| *due <= now).copied();
            let held_at = |place: &Place| inner.events[place.event as usize].as_ref();
            let fresh_since =
                lane.fresh.front().and_then(|place| held_at(place).map(|held| held.accepted_at));
            let place = match (delayed, fresh_since) {
                (Some((due, place)), since) if since.is_none_or(|since| due <= since) => {
                    lane.delayed.pop_first();
                    place
                }
                (_, Some(_)) => lane.fresh.pop_front().expect("looked at above"),
                (_, None) => break,
            };
            inner.fence_last += 1;
            let fence = Fence(inner.fence_last);
            let held = inner.events[place.event as usize]
                .as_mut()
                .expect("an event with something owed is not evicted");
            let delivery = &mut held.deliveries[place.delivery as usize];
            delivery.status = Status::Leased { until };
            leases.push(Lease {
                delivery: DeliveryId::new(endpoint.clone(), held.event.id().clone()),
                event: Arc::clone(&held.event),
                attempts: delivery.attempts_made,
                fence,
            });
            inner.leases.insert(fence, place);
            lane.leased.insert((until, fence));
        }
        let is_due = |due: Timestamp| due <= now;
        let next = if !lane.fresh.is_empty()
            || lane.delayed.first().is_some_and(|(due, _)| is_due(*due))
        {
            Next::Now
        } else {
            lane.is_dry = true;
            let delayed = lane.delayed.first().map(|(due, _)| *due);
            let leased = lane.leased.first().map(|(until, _)| *until);
            delayed.into_iter().chain(leased).min().map_or(Next::Announced, Next::At)
        };
        Ok(Claim { leases, next })
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
        Ok(held.map(|held| EventRecord {
            place: Position::new(held.number),
            event: Arc::clone(&held.event),
            accepted_at: held.accepted_at,
            deliveries: (0..held.deliveries.len())
                .map(|number| Inner::record(held, number))
                .collect(),
        }))
    }

    async fn delivery(&self, id: &DeliveryId) -> Result<Option<DeliveryRecord>, Error> {
        if id.run() != 0 {
            return Ok(None);
        }
        let inner = self.lock();
        let held =
            inner.by_id.get(id.event()).and_then(|place| inner.events[*place as usize].as_ref());
        Ok(held.and_then(|held| {
            let number = held.endpoints.iter().position(|endpoint| endpoint == id.endpoint())?;
            Some(Inner::record(held, number))
        }))
    }

    async fn close(&self) -> Result<(), Error> {
        self.lock().is_closed = true;
        // Publishers that wait for room learn that there will be none.
        self.space.notify_waiters();
        Ok(())
    }
}
