//! What the memory store knows, under one lock.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::MemoryStoreBuilder;
use crate::delivery::{AttemptRecord, DeadReason, Decision, DeliveryId, State};
use crate::endpoint::EndpointId;
use crate::error::{Error, ErrorKind};
use crate::event::{Envelope, EventId};
use crate::stats::Series;
use crate::store::{
    Accept, Accepted, Claim, DeliveryRecord, EventRecord, Fence, Lease, Next, Place as Position,
    Settled, Settlement, push_attempt,
};
use crate::time::Timestamp;

#[derive(Default)]
pub(super) struct Inner {
    pub(super) is_closed: bool,
    /// Events by place; a place is used again after its event was evicted.
    pub(super) events: Vec<Option<Held>>,
    pub(super) free: Vec<u32>,
    pub(super) by_id: HashMap<EventId, u32>,
    /// Events with nothing owed, in the order in which that became so.
    pub(super) settled: VecDeque<u32>,
    pub(super) bytes: usize,
    /// Events accepted so far.
    pub(super) accepted: u64,
    /// The newest time that was passed in.
    pub(super) now: Timestamp,
    pub(super) lanes: HashMap<EndpointId, Lane>,
    pub(super) leases: HashMap<Fence, Place>,
    pub(super) fence_last: u64,
    /// Endpoints to be named by `ready`.
    pub(super) announced: Vec<EndpointId>,
    pub(super) notes: BTreeMap<Box<str>, Bytes>,
}

/// Where a delivery is: its event's place, and its number among the event's deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) event: u32,
    pub(super) delivery: u32,
}

pub(super) struct Held {
    /// Rises with every event that is accepted.
    pub(super) number: u64,
    pub(super) event: Arc<Envelope>,
    pub(super) accepted_at: Timestamp,
    /// To whom it went when it was accepted.
    pub(super) endpoints: Arc<[EndpointId]>,
    /// To whom it was sent again, and as which run.
    pub(super) replays: Vec<(EndpointId, u32)>,
    /// One for each of `endpoints`, then one for each of `replays`.
    pub(super) deliveries: Vec<Delivery>,
    pub(super) owed: u32,
    pub(super) bytes: usize,
}

pub(super) struct Delivery {
    pub(super) status: Status,
    pub(super) attempts_made: u32,
    pub(super) attempts: Vec<AttemptRecord>,
}

#[derive(Clone, Copy)]
pub(super) enum Status {
    Waiting { due: Timestamp },
    Leased { until: Timestamp },
    Delivered,
    Dead(DeadReason),
    Expired,
    Purged,
}

/// What is owed to one endpoint.
pub(super) struct Lane {
    /// Never tried, in the order in which they were accepted.
    pub(super) fresh: VecDeque<Place>,
    /// Tried or given back, by due time.
    pub(super) delayed: BTreeSet<(Timestamp, Place)>,
    /// By the end of their lease.
    pub(super) leased: BTreeSet<(Timestamp, Fence)>,
    /// Whether the last claim found nothing more, so that new work must be announced.
    pub(super) is_dry: bool,
    /// What became of attempts; `None`: there was none.
    pub(super) series: Option<Box<Series>>,
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            fresh: VecDeque::new(),
            delayed: BTreeSet::new(),
            leased: BTreeSet::new(),
            is_dry: true,
            series: None,
        }
    }
}

/// What an attempt's texts take.
pub(super) fn text_bytes(attempt: &AttemptRecord) -> usize {
    attempt.message.len() + attempt.answer.len()
}

pub(super) fn weight(accept: &Accept) -> usize {
    size_of::<Held>()
        + accept.event.weight()
        + accept.endpoints.len() * (size_of::<Delivery>() + size_of::<Place>())
}

impl Delivery {
    pub(super) fn due(due: Timestamp) -> Self {
        Self { status: Status::Waiting { due }, attempts_made: 0, attempts: Vec::new() }
    }
}

impl Held {
    /// The endpoint of a delivery, and its run.
    pub(super) fn target(&self, number: usize) -> (&EndpointId, u32) {
        match number.checked_sub(self.endpoints.len()) {
            None => (&self.endpoints[number], 0),
            Some(replay) => (&self.replays[replay].0, self.replays[replay].1),
        }
    }

    /// The newest delivery to an endpoint.
    pub(super) fn newest(&self, endpoint: &EndpointId) -> Option<usize> {
        (0..self.deliveries.len()).rev().find(|number| self.target(*number).0 == endpoint)
    }

    pub(super) fn state(&self, number: usize) -> State {
        match self.deliveries[number].status {
            Status::Waiting { due } => State::Waiting { due },
            Status::Leased { until } => State::Leased { until },
            Status::Delivered => State::Delivered,
            Status::Dead(reason) => State::Dead { reason },
            Status::Expired => State::Expired,
            Status::Purged => State::Purged,
        }
    }

    pub(super) fn delivery(&self, number: usize) -> DeliveryRecord {
        let (endpoint, run) = self.target(number);
        let delivery = &self.deliveries[number];
        DeliveryRecord {
            id: DeliveryId::new(endpoint.clone(), self.event.id().clone()).with_run(run),
            state: self.state(number),
            attempts_made: delivery.attempts_made,
            attempts: delivery.attempts.clone(),
        }
    }

    pub(super) fn record(&self) -> EventRecord {
        let mut order: Vec<usize> = (0..self.deliveries.len()).collect();
        // Runs of one endpoint follow each other; endpoints come as they first appeared.
        let first = |number: &usize| {
            let endpoint = self.target(*number).0;
            (0..self.deliveries.len()).position(|other| self.target(other).0 == endpoint)
        };
        if !self.replays.is_empty() {
            order.sort_by_key(first);
        }
        EventRecord {
            place: Position::new(self.number),
            event: Arc::clone(&self.event),
            accepted_at: self.accepted_at,
            deliveries: order.into_iter().map(|number| self.delivery(number)).collect(),
        }
    }
}

impl Inner {
    pub(super) fn check_open(&self) -> Result<(), Error> {
        if self.is_closed {
            Err(Error::new(ErrorKind::Closed, "use a closed store"))
        } else {
            Ok(())
        }
    }

    pub(super) fn held(&mut self, place: u32) -> &mut Held {
        self.events[place as usize].as_mut().expect("an event with something owed is not evicted")
    }

    /// Drops settled events, the first settled first, until so many more fit. `false`, and nothing is
    /// dropped, where that is not enough. What `keep` names stays.
    pub(super) fn make_room(
        &mut self,
        events: usize,
        bytes: usize,
        limits: &MemoryStoreBuilder,
        keep: impl FnOnce(&Self) -> HashSet<u32>,
    ) -> bool {
        let mut events_over = (self.by_id.len() + events).saturating_sub(limits.events_max);
        let mut bytes_over = (self.bytes + bytes).saturating_sub(limits.bytes_max);
        if events_over == 0 && bytes_over == 0 {
            return true;
        }
        let kept = keep(self);
        let mut looked_at = 0;
        for place in &self.settled {
            if events_over == 0 && bytes_over == 0 {
                break;
            }
            looked_at += 1;
            if !kept.contains(place) {
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
            if kept.contains(&place) {
                self.settled.push_front(place);
            } else {
                self.evict(place);
            }
        }
        true
    }

    /// Drops a settled event that is no longer in the list of those.
    pub(super) fn evict(&mut self, place: u32) {
        let held =
            self.events[place as usize].take().expect("a settled event is held until evicted");
        self.by_id.remove(held.event.id());
        self.bytes -= held.bytes;
        self.free.push(place);
    }

    pub(super) fn insert(&mut self, accept: &Accept, now: Timestamp) -> Accepted {
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
            replays: Vec::new(),
            deliveries: endpoints.iter().map(|_| Delivery::due(now)).collect(),
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
    pub(super) fn expire_leases(&mut self, endpoint: &EndpointId, now: Timestamp) {
        while let Some(lane) = self.lanes.get_mut(endpoint)
            && let Some(&(until, fence)) = lane.leased.first()
            && until <= now
        {
            lane.leased.pop_first();
            let place = self.leases.remove(&fence).expect("every lease of a lane is in the map");
            self.wait_until(endpoint, place, until);
        }
    }

    /// As [`Store::claim`](crate::store::Store::claim), or only of what was tried.
    pub(super) fn claim(
        &mut self,
        endpoint: &EndpointId,
        max: usize,
        now: Timestamp,
        until: Timestamp,
        takes_fresh: bool,
    ) -> Result<Claim, Error> {
        self.check_open()?;
        self.now = self.now.max(now);
        self.expire_leases(endpoint, now);
        let Some(lane) = self.lanes.get_mut(endpoint) else {
            return Ok(Claim { leases: Vec::new(), next: Next::Announced });
        };
        let mut leases = Vec::new();
        while leases.len() < max {
            let delayed = lane.delayed.first().filter(|(due, _)| *due <= now).copied();
            let held_at = |place: &Place| self.events[place.event as usize].as_ref();
            let fresh = lane.fresh.front().filter(|_| takes_fresh);
            let fresh_since = fresh.and_then(|place| held_at(place).map(|held| held.accepted_at));
            let place = match (delayed, fresh_since) {
                (Some((due, place)), since) if since.is_none_or(|since| due <= since) => {
                    lane.delayed.pop_first();
                    place
                }
                (_, Some(_)) => lane.fresh.pop_front().expect("looked at above"),
                (_, None) => break,
            };
            self.fence_last += 1;
            let fence = Fence(self.fence_last);
            let held = self.events[place.event as usize]
                .as_mut()
                .expect("an event with something owed is not evicted");
            let run = held.target(place.delivery as usize).1;
            let delivery = &mut held.deliveries[place.delivery as usize];
            delivery.status = Status::Leased { until };
            leases.push(Lease {
                delivery: DeliveryId::new(endpoint.clone(), held.event.id().clone()).with_run(run),
                event: Arc::clone(&held.event),
                attempts: delivery.attempts_made,
                fence,
            });
            self.leases.insert(fence, place);
            lane.leased.insert((until, fence));
        }
        let is_due = |due: Timestamp| due <= now;
        let next = if (takes_fresh && !lane.fresh.is_empty())
            || lane.delayed.first().is_some_and(|(due, _)| is_due(*due))
        {
            Next::Now
        } else {
            lane.is_dry |= takes_fresh;
            let delayed = lane.delayed.first().map(|(due, _)| *due);
            let leased = lane.leased.first().map(|(until, _)| *until);
            delayed.into_iter().chain(leased).min().map_or(Next::Announced, Next::At)
        };
        Ok(Claim { leases, next })
    }

    /// Puts a delivery among those that wait.
    pub(super) fn wait_until(&mut self, endpoint: &EndpointId, place: Place, due: Timestamp) {
        self.held(place.event).deliveries[place.delivery as usize].status = Status::Waiting { due };
        let lane = self.lanes.get_mut(endpoint).expect("a lane with something owed stays");
        lane.delayed.insert((due, place));
    }

    /// Makes a delivery that was given back due at once, whatever the clock says.
    pub(super) fn put_back(&mut self, endpoint: &EndpointId, place: Place) {
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
    pub(super) fn end_lease(&mut self, delivery: &DeliveryId, fence: Fence) -> Option<Place> {
        let place = *self.leases.get(&fence)?;
        let held = self.held(place.event);
        let Status::Leased { until } = held.deliveries[place.delivery as usize].status else {
            return None;
        };
        // A caller that mixes up its leases must not settle somebody else's delivery.
        if held.event.id() != delivery.event()
            || held.target(place.delivery as usize) != (delivery.endpoint(), delivery.run())
        {
            return None;
        }
        self.leases.remove(&fence);
        if let Some(lane) = self.lanes.get_mut(delivery.endpoint()) {
            lane.leased.remove(&(until, fence));
        }
        Some(place)
    }

    pub(super) fn settle(&mut self, settlement: &Settlement, bytes_max: usize) -> Settled {
        let Some(place) = self.end_lease(&settlement.delivery, settlement.fence) else {
            return Settled::Stale;
        };
        let lane = self.lanes.get_mut(settlement.delivery.endpoint());
        let lane = lane.expect("a lane with something owed stays");
        let series = lane.series.get_or_insert_default();
        series.record(settlement.attempt.as_ref(), settlement.decision, self.now);
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
}
