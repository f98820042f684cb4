//! What the store knows, under one lock that is held for map operations and encoding only, never
//! across a read or write of the disk.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::block::Summary;
use super::cache::{Cache, Cached};
use super::dedup::Dedup;
use super::facts::Chosen;
use super::format::{RECORD_HEADER, fingerprint, kind};
use super::group::{Group, Member};
use super::lane::{Lane, Leased, Leases, Tried};
use super::notes::Notes;
use super::record::{self, Before, EventHead, Place, SettleBody};
use super::segment::{Load, Segments};
use super::stands::Ended;
use super::tail::Tail;
use crate::delivery::{ANSWER_BYTES_MAX, AttemptRecord, Decision, DeliveryId, MESSAGE_BYTES_MAX};
use crate::endpoint::EndpointId;
use crate::error::{Error, ErrorKind};
use crate::event::EventId;
use crate::store::{Accept, Accepted, Backlog, Fence, Next, Settled, Settlement};
use crate::time::Timestamp;

/// More than a record that defines a name takes beside the name.
pub(super) const NAME_FIXED_MAX: usize = RECORD_HEADER as usize + 8;

/// What the store knows.
pub(super) struct State {
    pub(super) is_closed: bool,
    /// Why nothing can be written any more.
    pub(super) failed: Option<Arc<str>>,
    pub(super) segments: Segments,
    pub(super) tail: Tail,
    /// By endpoint number.
    pub(super) lanes: Vec<Lane>,
    pub(super) lane_of: HashMap<EndpointId, u32>,
    pub(super) leases: Leases,
    pub(super) fence_last: u64,
    /// Owed, but damaged in the log.
    pub(super) unreadable: Vec<Leased>,
    /// Deliveries made again that are not visible yet, by lane and event.
    pub(super) replaying: HashSet<(u32, u64)>,
    /// Deliveries made again since the log was opened.
    pub(super) runs_begun: u64,
    pub(super) notes: Notes,
    pub(super) dedup: Dedup,
    pub(super) cache: Cache,
    /// The number of the next event.
    pub(super) next_event: u64,
    /// Events below it are as durable as promised, and may be seen and claimed.
    pub(super) visible: u64,
    /// What was encoded and is not visible yet.
    pub(super) pending: Pending,
    pub(super) pending_bytes: u64,
    /// Who waits for the next write; `None`: nobody.
    pub(super) group: Option<Group>,
    /// Who waits until what is buffered can be read back.
    pub(super) readers: Vec<oneshot::Sender<()>>,
    pub(super) announced: Vec<EndpointId>,
    /// The time that was passed in last. Not the newest: after a clock that was ahead for a while,
    /// retention would take everything for old.
    pub(super) now: Timestamp,
    /// Set while a checkpoint waits for what is pending: nothing new is accepted.
    pub(super) is_paused: bool,
    /// When the oldest byte was buffered; `None`: nothing is.
    pub(super) buffered_since: Option<Instant>,
    /// When the oldest byte was written that is not synced.
    pub(super) unsynced_since: Option<Instant>,
    /// Where the newest checkpoint ends.
    pub(super) checkpoint: Place,
    pub(super) checkpoint_bytes: u64,
    pub(super) must_close: bool,
    /// Whether the writer waits to be woken: waking one that does not costs a system call for nothing.
    pub(super) is_writer_asleep: bool,
}

/// What waits to become durable.
#[derive(Default)]
pub(super) struct Pending {
    events: Vec<PendingEvent>,
    /// The endpoints of each in turn.
    targets: Vec<u32>,
    /// Deliveries made again.
    pub(super) runs: Vec<Chosen>,
}

struct PendingEvent {
    number: u64,
    segment: u32,
    bytes: u32,
    targets: usize,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty() && self.runs.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.events.clear();
        self.targets.clear();
        self.runs.clear();
    }
}

/// What a publish may not exceed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) events: u64,
    pub(super) bytes: u64,
    pub(super) buffer: usize,
    pub(super) dedup_window: std::time::Duration,
}

/// What became of a try to accept.
pub(super) enum Try {
    /// Encoded; accepted once the write is done.
    Wait(Vec<Accepted>, Member),
    /// Nothing to be written.
    Done(Vec<Accepted>),
    /// These events must be read back first, to compare their ids.
    Read(Vec<u64>),
    /// Try again when there is room.
    Busy,
}

/// A delivery that was claimed.
pub(super) struct Taken {
    pub(super) fence: Fence,
    pub(super) event: u64,
    pub(super) run: u32,
    pub(super) attempts: u32,
    pub(super) cached: Option<Cached>,
}

impl State {
    /// An empty store.
    pub(super) fn new(store: u64, segment_bytes: u32, cache_bytes: usize) -> Self {
        let nowhere = Place { segment: 0, offset: 0 };
        Self {
            is_closed: false,
            failed: None,
            segments: Segments::default(),
            tail: Tail::new(store, segment_bytes),
            lanes: Vec::new(),
            lane_of: HashMap::new(),
            leases: Leases::default(),
            // Leases of an earlier opening must never fit: its fences are elsewhere.
            fence_last: fastrand::u64(..) >> 2,
            unreadable: Vec::new(),
            replaying: HashSet::new(),
            runs_begun: 0,
            notes: Notes::default(),
            dedup: Dedup::default(),
            cache: Cache::new(cache_bytes),
            next_event: 0,
            visible: 0,
            pending: Pending::default(),
            pending_bytes: 0,
            group: None,
            readers: Vec::new(),
            announced: Vec::new(),
            now: Timestamp::MIN,
            is_paused: false,
            buffered_since: None,
            unsynced_since: None,
            checkpoint: nowhere,
            checkpoint_bytes: 0,
            must_close: false,
            is_writer_asleep: false,
        }
    }

    /// # Errors
    /// `Closed`, or `Store` after a failed write.
    pub(super) fn check_usable(&self) -> Result<(), Error> {
        if self.is_closed || self.must_close {
            return Err(Error::new(ErrorKind::Closed, "use a closed store"));
        }
        match &self.failed {
            None => Ok(()),
            Some(why) => {
                let what = format!("use the store: a write failed earlier, reopen it ({why})");
                Err(Error::new(ErrorKind::Store, what))
            }
        }
    }

    pub(super) fn lane_number(&mut self, id: &EndpointId) -> u32 {
        if let Some(number) = self.lane_of.get(id) {
            return *number;
        }
        let number = self.lanes.len() as u32;
        self.lanes.push(Lane::new(id.clone()));
        self.lane_of.insert(id.clone(), number);
        number
    }

    /// Accepts a batch if that can be done now. `prints` are the fingerprints of its ids, `known`
    /// the events that were read back for it (`None`: gone).
    pub(super) fn accept(
        &mut self,
        batch: &[Accept],
        prints: &[u64],
        now: Timestamp,
        known: &HashMap<u64, Option<Cached>>,
        limits: Limits,
    ) -> Result<Try, Error> {
        self.check_usable()?;
        if self.is_paused || self.tail.buffered > limits.buffer {
            return Ok(Try::Busy);
        }
        self.now = now;
        let mut accepted = Vec::with_capacity(batch.len());
        let mut must_wait = false;
        let mut unread = Vec::new();
        // Ids of this batch: only one with several events can hold one twice.
        let mut inside: HashMap<&EventId, usize> = HashMap::new();
        for (at, (accept, print)) in batch.iter().zip(prints).enumerate() {
            let mut first = None;
            for number in self.dedup.find(*print) {
                let found = if let Some(cached) = self.cache.get(number) {
                    Some(cached)
                } else if let Some(found) = known.get(&number) {
                    found.as_ref()
                } else {
                    unread.push(number);
                    None
                };
                if let Some(found) = found
                    && found.event.id() == accept.event.id()
                    && now.since(found.accepted_at) <= limits.dedup_window
                {
                    must_wait |= number >= self.visible;
                    first = Some(Arc::clone(&found.endpoints));
                    break;
                }
            }
            if first.is_none()
                && batch.len() > 1
                && let Some(earlier) = inside.insert(accept.event.id(), at)
            {
                inside.insert(accept.event.id(), earlier);
                first = Some(Arc::clone(&batch[earlier].endpoints));
            }
            accepted.push(match first {
                Some(endpoints) => Accepted { endpoints, duplicate: true },
                None => Accepted { endpoints: Arc::clone(&accept.endpoints), duplicate: false },
            });
        }
        if !unread.is_empty() {
            return Ok(Try::Read(unread));
        }
        let new = || batch.iter().zip(prints).zip(&accepted).filter(|(_, first)| !first.duplicate);
        if new().next().is_none() && !must_wait {
            return Ok(Try::Done(accepted));
        }
        let mut targets = self.pending.targets.len();
        let room = self.check_limits(new().map(|((accept, _), _)| accept), limits);
        if room.is_err() {
            self.pending.targets.truncate(targets);
        }
        self.tail.make_room(room?, self.next_event, self.now, &mut self.segments);
        let last = new().count();
        for (at, ((accept, print), _)) in new().enumerate() {
            self.encode(accept, *print, targets, now, at + 1 < last);
            targets += accept.endpoints.len();
        }
        Ok(Try::Wait(accepted, self.group.get_or_insert_default().join()))
    }

    /// Returns the room that the events take in the log, and leaves their targets with what is
    /// pending.
    fn check_limits<'a>(
        &mut self,
        new: impl Iterator<Item = &'a Accept>,
        limits: Limits,
    ) -> Result<usize, Error> {
        let (mut events, mut bytes, mut room, mut room_max) = (0_u64, 0_u64, 0, 0);
        for accept in new {
            let size = RECORD_HEADER as usize
                + record::event_size_max(&accept.event, accept.endpoints.len());
            let name = NAME_FIXED_MAX + accept.event.kind.as_str().len();
            room += size;
            room_max += size + name;
            if !self.tail.types.contains_key(&accept.event.kind) {
                room += name;
            }
            for endpoint in &*accept.endpoints {
                let name = NAME_FIXED_MAX + endpoint.as_str().len();
                room_max += name;
                let number = self.lane_number(endpoint);
                self.pending.targets.push(number);
                if !self.tail.endpoints.contains(number) {
                    room += name;
                }
            }
            if !accept.endpoints.is_empty() {
                events += 1;
                bytes += size as u64;
            }
        }
        if room_max > self.tail.batch_bytes_max() {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "accept a batch: it takes up to {room_max} bytes in one segment, which has room for {} \
                     (LogStoreBuilder::segment_bytes)",
                    self.tail.batch_bytes_max()
                ),
            ));
        }
        if events > limits.events || bytes > limits.bytes {
            let what = format!(
                "accept a batch: {events} events of {bytes} bytes never fit into the backlog limits \
                 (bus.backlog.events_max = {}, bus.backlog.bytes_max = {})",
                limits.events, limits.bytes
            );
            return Err(Error::new(ErrorKind::TooLarge, what));
        }
        self.check_backlog("accept an event", events, bytes, limits)?;
        Ok(room)
    }

    /// Whether so much more may be owed.
    pub(super) fn check_backlog(
        &self,
        what: &str,
        events: u64,
        bytes: u64,
        limits: Limits,
    ) -> Result<(), Error> {
        let owed_events = self.segments.owed_events + self.pending.events.len() as u64;
        let owed_bytes = self.segments.owed_bytes + self.pending_bytes;
        if owed_events + events <= limits.events && owed_bytes + bytes <= limits.bytes {
            return Ok(());
        }
        let what = format!(
            "{what}: {owed_events} events of {owed_bytes} bytes are still owed (limits \
             bus.backlog.events_max = {}, bus.backlog.bytes_max = {})",
            limits.events, limits.bytes
        );
        Err(Error::new(ErrorKind::Full, what))
    }

    /// `first` is where its targets begin among those of what is pending.
    fn encode(&mut self, accept: &Accept, print: u64, first: usize, now: Timestamp, more: bool) {
        let number = self.next_event;
        let targets = &self.pending.targets[first..first + accept.endpoints.len()];
        let synced = self.tail.proof();
        let kind = self.tail.name_type(&accept.event.kind, number, &mut self.segments);
        for (target, endpoint) in targets.iter().zip(&*accept.endpoints) {
            self.tail.name_endpoint(*target, endpoint.as_str(), number, &mut self.segments);
        }
        let head = EventHead { number, accepted_at: now, targets, kind, more, synced };
        let event = &accept.event;
        let place = self.tail.append(kind::EVENT, number, &mut self.segments, |out, base| {
            record::put_event(out, base, &head, event);
        });
        self.next_event += 1;
        let segment = self.segments.get_mut(place.segment).expect("it was just appended to");
        segment.prints.push(print);
        segment.last_time = segment.last_time.max(now);
        segment.note_event(&Summary::of(now, kind, targets));
        let bytes = segment.end - place.offset;
        self.pending_bytes += u64::from(bytes);
        let targets = targets.len();
        self.pending.events.push(PendingEvent { number, segment: place.segment, bytes, targets });
        self.dedup.insert(print, number);
        let cached = Cached {
            event: Arc::clone(event),
            endpoints: Arc::clone(&accept.endpoints),
            accepted_at: now,
        };
        self.cache.push(number, cached, self.visible);
    }

    /// What was pending is durable now: it may be seen. Returns whether somebody is to be woken.
    pub(super) fn make_visible(&mut self, pending: &Pending) -> bool {
        let (mut events, mut targets) = (&pending.events[..], &pending.targets[..]);
        while let Some(first) = events.first() {
            // Neighbours nearly always go to the same endpoints: they are entered as one range.
            let of_each = first.targets;
            let to = &targets[..of_each];
            let is_alike = |(at, event): &(usize, &PendingEvent)| {
                event.segment == first.segment
                    && event.targets == of_each
                    && targets[at * of_each..][..of_each] == *to
            };
            let (alike, rest) =
                events.split_at(events.iter().enumerate().take_while(is_alike).count());
            let bytes: u64 = alike.iter().map(|event| u64::from(event.bytes)).sum();
            let last = first.number + alike.len() as u64 - 1;
            self.pending_bytes -= bytes;
            self.visible = last + 1;
            if of_each > 0 {
                self.segments.change_load(first.segment, |load| {
                    load.events += alike.len() as u64;
                    load.bytes += bytes;
                    load.deliveries += (alike.len() * of_each) as u64;
                    load.owed += (alike.len() * of_each) as u64;
                });
            }
            for target in to {
                let lane = &mut self.lanes[*target as usize];
                lane.insert_fresh_range(first.number, last);
                if std::mem::take(&mut lane.is_dry) {
                    self.announced.push(lane.id.clone());
                }
            }
            targets = &targets[alike.len() * of_each..];
            events = rest;
        }
        self.begin_runs(&pending.runs);
        !self.announced.is_empty()
    }

    /// A delivery is there to be claimed.
    pub(super) fn insert_fresh(&mut self, lane: u32, event: u64) {
        let lane = &mut self.lanes[lane as usize];
        lane.insert_fresh(event);
        if std::mem::take(&mut lane.is_dry) {
            self.announced.push(lane.id.clone());
        }
    }

    /// Makes deliveries due again whose leases ran out before `now`.
    fn expire_leases(&mut self, lane: u32, now: Timestamp) {
        let lane = &mut self.lanes[lane as usize];
        while let Some(&(until, fence)) = lane.leased.first()
            && until <= now
        {
            lane.leased.pop_first();
            let leased = self.leases.remove(&fence).expect("every lease of a lane is in the map");
            lane.insert_waiting(until, leased.event, leased.tried);
        }
    }

    pub(super) fn claim(
        &mut self,
        endpoint: &EndpointId,
        max: usize,
        now: Timestamp,
        until: Timestamp,
        takes_fresh: bool,
    ) -> Result<(Vec<Taken>, Next), Error> {
        self.check_usable()?;
        self.now = now;
        let Some(&number) = self.lane_of.get(endpoint) else {
            return Ok((Vec::new(), Next::Announced));
        };
        self.expire_leases(number, now);
        let lane = &mut self.lanes[number as usize];
        let mut taken = Vec::new();
        let fresh: Vec<u64> = lane.fresh.iter().take(if takes_fresh { max } else { 0 }).collect();
        let mut fresh = fresh.into_iter().peekable();
        while taken.len() < max {
            let waiting = lane.waiting.first_key_value().filter(|((due, _), _)| *due <= now);
            let is_waiting_first = match (waiting, fresh.peek()) {
                (None, None) => break,
                (None, Some(_)) => false,
                (Some(_), None) => true,
                (Some(((due, _), _)), Some(event)) => {
                    let since = match self.cache.get(*event) {
                        Some(cached) => cached.accepted_at,
                        None => self.segments.time_of(*event),
                    };
                    *due <= since
                }
            };
            let (event, due, tried) = if is_waiting_first {
                let (due, event, tried) = lane.pop_waiting().expect("looked at above");
                (event, Some(due), tried)
            } else {
                let event = fresh.next().expect("looked at above");
                lane.remove_fresh(event);
                (event, None, Tried::default())
            };
            self.fence_last += 1;
            let fence = Fence(self.fence_last);
            let cached = self.cache.get(event).cloned();
            let print =
                cached.as_ref().map(|cached| fingerprint(self.tail.store, cached.event.id()));
            self.leases.insert(fence, Leased { lane: number, event, until, due, tried, print });
            lane.leased.insert((until, fence));
            let run = lane.run(event);
            taken.push(Taken { fence, event, run, attempts: tried.attempts, cached });
        }
        let next_due = lane.waiting.first_key_value().map(|((due, _), _)| *due);
        let next =
            if (takes_fresh && lane.fresh_count > 0) || next_due.is_some_and(|due| due <= now) {
                Next::Now
            } else {
                lane.is_dry |= takes_fresh;
                let leased = lane.leased.first().map(|(until, _)| *until);
                next_due.into_iter().chain(leased).min().map_or(Next::Announced, Next::At)
            };
        Ok((taken, next))
    }

    /// Notes which event a lease is for, once it was read.
    pub(super) fn identify(&mut self, fence: Fence, id: &EventId) {
        let print = fingerprint(self.tail.store, id);
        if let Some(leased) = self.leases.get_mut(&fence) {
            leased.print = Some(print);
        }
    }

    /// Ends a lease. `None` where it is not the newest, or of another delivery.
    fn end_lease(&mut self, delivery: &DeliveryId, fence: Fence) -> Option<Leased> {
        let leased = *self.leases.get(&fence)?;
        // A caller that mixes up its leases must not settle somebody else's delivery.
        let lane = &self.lanes[leased.lane as usize];
        if lane.id != *delivery.endpoint()
            || delivery.run() != lane.run(leased.event)
            || leased.print != Some(fingerprint(self.tail.store, delivery.event()))
        {
            return None;
        }
        self.remove_lease(fence)
    }

    fn remove_lease(&mut self, fence: Fence) -> Option<Leased> {
        let leased = self.leases.remove(&fence)?;
        self.lanes[leased.lane as usize].leased.remove(&(leased.until, fence));
        Some(leased)
    }

    pub(super) fn extend(
        &mut self,
        delivery: &DeliveryId,
        fence: Fence,
        until: Timestamp,
    ) -> Settled {
        let Some(leased) = self.end_lease(delivery, fence) else { return Settled::Stale };
        self.leases.insert(fence, Leased { until, ..leased });
        self.lanes[leased.lane as usize].leased.insert((until, fence));
        Settled::Applied
    }

    pub(super) fn release(&mut self, delivery: &DeliveryId, fence: Fence) -> Settled {
        match self.end_lease(delivery, fence) {
            Some(leased) => {
                self.put_back(&leased);
                Settled::Applied
            }
            None => Settled::Stale,
        }
    }

    /// Gives a claimed delivery back whose event was not read.
    pub(super) fn unclaim(&mut self, fence: Fence) {
        if let Some(leased) = self.remove_lease(fence) {
            self.put_back(&leased);
        }
    }

    /// Makes a delivery that was given back due at once, whatever the clock says.
    fn put_back(&mut self, leased: &Leased) {
        let lane = &mut self.lanes[leased.lane as usize];
        if leased.tried.attempts == 0 {
            lane.insert_fresh(leased.event);
        } else {
            lane.insert_waiting(Timestamp::MIN, leased.event, leased.tried);
        }
        if std::mem::take(&mut lane.is_dry) {
            self.announced.push(lane.id.clone());
        }
    }

    /// Sets a claimed delivery aside whose event cannot be read: claiming it again would not help. It
    /// stays owed in the log, so that its segment is kept, is told as delayed, and is tried again after
    /// reopening.
    pub(super) fn set_unreadable(&mut self, endpoint: &EndpointId, fence: Fence) {
        if let Some(leased) = self.remove_lease(fence) {
            tracing::error!(
                %endpoint, event = leased.event, segment = self.segments.of_event(leased.event),
                "an event is damaged in the log and cannot be delivered"
            );
            self.lanes[leased.lane as usize].unreadable += 1;
            self.unreadable.push(leased);
        }
    }

    pub(super) fn settle(&mut self, settlement: &Settlement) -> Settled {
        let delivery = &settlement.delivery;
        let Some(leased) = self.end_lease(delivery, settlement.fence) else {
            return Settled::Stale;
        };
        let attempt = settlement.attempt.as_ref().map(bounded);
        let room = record::settle_size_max(attempt.as_ref());
        let name = NAME_FIXED_MAX + delivery.endpoint().as_str().len();
        let room = RECORD_HEADER as usize + room + name;
        self.tail.make_room(room, self.next_event, self.now, &mut self.segments);
        let next = self.next_event;
        let id = delivery.endpoint().as_str();
        let synced = self.tail.proof();
        self.tail.name_endpoint(leased.lane, id, next, &mut self.segments);
        let mut tried = leased.tried;
        tried.attempts = tried.attempts.saturating_add(settlement.attempt.is_some().into());
        let body = SettleBody {
            event: leased.event,
            target: leased.lane,
            run: delivery.run(),
            attempts: tried.attempts,
            decision: settlement.decision,
            at: attempt.is_none().then_some(self.now),
            attempt,
            before: tried.before,
            synced,
        };
        let place = self.tail.append(kind::SETTLE, next, &mut self.segments, |out, base| {
            record::put_settle(out, base, &body);
        });
        let lane = &mut self.lanes[leased.lane as usize];
        lane.count(body.attempt.as_ref(), body.decision, self.now, place.segment);
        let Some(ended) = Ended::by(settlement.decision) else {
            if let Decision::RetryAt(due) = settlement.decision {
                if settlement.attempt.is_some() {
                    let first = tried.before.map_or(place, |before| before.first);
                    tried.before = Some(Before { last: place, first });
                }
                lane.insert_waiting(due, leased.event, tried);
            }
            return Settled::Applied;
        };
        // What was owed is among none of those that ended otherwise.
        if ended != Ended::Delivered {
            lane.set_ended(leased.event, ended);
        }
        let segment = self.segments.get_mut(place.segment).expect("it was just appended to");
        segment.note_settled(leased.event);
        self.owe_less(leased.event);
        Settled::Applied
    }

    /// One delivery of `event` is owed no more.
    pub(super) fn owe_less(&mut self, event: u64) {
        if let Some(segment) = self.segments.of_event(event) {
            self.segments.change_load(segment, |load| load.owed = load.owed.saturating_sub(1));
        }
    }

    pub(super) fn backlog(&self, now: Timestamp) -> Vec<Backlog> {
        let lanes = self.lanes.iter().filter(|lane| lane.owes()).map(|lane| {
            let due = lane.waiting.keys().take_while(|(due, _)| *due <= now).count() as u64;
            Backlog {
                endpoint: lane.id.clone(),
                ready: lane.fresh_count + due,
                delayed: lane.waiting.len() as u64 - due + lane.unreadable,
                leased: lane.leased.len() as u64,
            }
        });
        lanes.collect()
    }

    /// Changes how much of the segment that holds `event` is owed.
    pub(super) fn add_load(&mut self, segment: u32, bytes: u32, deliveries: u64, owed: u64) {
        self.segments.change_load(segment, |load: &mut Load| {
            load.events += 1;
            load.bytes += u64::from(bytes);
            load.deliveries += deliveries;
            load.owed += owed;
        });
    }
}

/// An attempt whose texts are not longer than its type says, so that its record fits a segment.
fn bounded(attempt: &AttemptRecord) -> AttemptRecord {
    let mut attempt = attempt.clone();
    attempt.message.truncate(attempt.message.floor_char_boundary(MESSAGE_BYTES_MAX));
    attempt.answer.truncate(attempt.answer.floor_char_boundary(ANSWER_BYTES_MAX));
    attempt
}
