//! What was, and sending it again.

use std::collections::{BTreeMap, HashSet};

use super::MemoryStoreBuilder;
use super::inner::{Delivery, Held, Inner, Place, Status};
use crate::delivery::{DeliveryId, State};
use crate::endpoint::EndpointId;
use crate::error::{Error, ErrorKind};
use crate::store::{
    DeadLetters, Found, Note, Order, Page, Place as Position, Purged, Query, RUNS_MAX, Replayed,
    Target,
};
use crate::time::Timestamp;

/// Most events that one page looks at.
const LOOK_MAX: usize = 10_000;

impl Inner {
    pub(super) fn find(&self, query: &Query, page: Page) -> Result<Found, Error> {
        self.check_open()?;
        let is_after = |number: u64| match (page.order, page.after.map(Position::number)) {
            (_, None) => true,
            (Order::OldestFirst, Some(after)) => number > after,
            (Order::NewestFirst, Some(after)) => number < after,
        };
        let mut held: Vec<&Held> =
            self.events.iter().flatten().filter(|held| is_after(held.number)).collect();
        held.sort_unstable_by_key(|held| held.number);
        if page.order == Order::NewestFirst {
            held.reverse();
        }
        let mut events = Vec::new();
        for (looked_at, held) in (1..).zip(&held) {
            if query.wants_event(&held.event.kind, held.accepted_at) {
                let mut record = held.record();
                if !page.attempts {
                    record.deliveries.iter_mut().for_each(|delivery| delivery.attempts.clear());
                }
                events.extend(query.select(record));
            }
            if events.len() >= page.events_max() || looked_at >= LOOK_MAX {
                return Ok(Found::new(events, Some(Position::new(held.number))));
            }
        }
        Ok(Found::new(events, None))
    }

    pub(super) fn dead(&self) -> Result<Vec<DeadLetters>, Error> {
        self.check_open()?;
        let mut groups: BTreeMap<(EndpointId, Option<_>), DeadLetters> = BTreeMap::new();
        for held in self.events.iter().flatten() {
            for number in 0..held.deliveries.len() {
                let (endpoint, _) = held.target(number);
                let state = held.state(number);
                let reason = match state {
                    State::Dead { reason } => Some(reason),
                    State::Expired => None,
                    _ => continue,
                };
                if held.newest(endpoint) != Some(number) {
                    continue;
                }
                let at = held.accepted_at;
                let group = groups
                    .entry((endpoint.clone(), reason))
                    .or_insert_with(|| DeadLetters::new(endpoint.clone(), state, 0, at, at));
                group.count += 1;
                group.oldest = group.oldest.min(at);
                group.newest = group.newest.max(at);
            }
        }
        Ok(groups.into_values().collect())
    }

    /// The event that a target names.
    fn place_of(&self, target: &Target) -> Option<u32> {
        let place = *self.by_id.get(&target.event)?;
        let held = self.events[place as usize].as_ref()?;
        (held.number == target.place.number()).then_some(place)
    }

    pub(super) fn replay(
        &mut self,
        targets: &[Target],
        note: Option<Note>,
        now: Timestamp,
        limits: &MemoryStoreBuilder,
    ) -> Result<Vec<Replayed>, Error> {
        self.check_open()?;
        Target::check_count(targets)?;
        if let Some(note) = &note {
            self.check_note(note)?;
        }
        self.now = self.now.max(now);
        let bytes = targets.len() * REPLAY_BYTES;
        let places: HashSet<u32> =
            targets.iter().filter_map(|target| self.place_of(target)).collect();
        if !self.make_room(0, bytes, limits, |_| places.clone()) {
            let what = format!(
                "replay {} deliveries: {} bytes are held and too little of it is settled (limit \
                 bus.memory.bytes_max = {})",
                targets.len(),
                self.bytes,
                limits.bytes_max
            );
            return Err(Error::new(ErrorKind::Full, what));
        }
        let replayed: Vec<Replayed> =
            targets.iter().map(|target| self.replay_one(target, now)).collect();
        let events = &self.events;
        let is_settled =
            |place: &u32| events[*place as usize].as_ref().is_some_and(|h| h.owed == 0);
        self.settled.retain(is_settled);
        if let Some(note) = note {
            self.keep(note);
        }
        Ok(replayed)
    }

    fn replay_one(&mut self, target: &Target, now: Timestamp) -> Replayed {
        let Some(place) = self.place_of(target) else { return Replayed::Gone };
        let held = self.held(place);
        let run = match held.newest(&target.endpoint) {
            None => 0,
            Some(newest) if !held.state(newest).is_final() => return Replayed::Owed,
            Some(newest) => held.target(newest).1,
        };
        if run >= RUNS_MAX {
            return Replayed::TooOften;
        }
        let run = run + 1;
        held.replays.push((target.endpoint.clone(), run));
        let delivery = held.deliveries.len() as u32;
        held.deliveries.push(Delivery::due(now));
        held.owed += 1;
        held.bytes += REPLAY_BYTES;
        self.bytes += REPLAY_BYTES;
        let lane = self.lanes.entry(target.endpoint.clone()).or_default();
        lane.fresh.push_back(Place { event: place, delivery });
        if std::mem::take(&mut lane.is_dry) {
            self.announced.push(target.endpoint.clone());
        }
        let id = DeliveryId::new(target.endpoint.clone(), target.event.clone());
        Replayed::Made(id.with_run(run))
    }

    pub(super) fn purge(&mut self, targets: &[Target]) -> Result<Vec<Purged>, Error> {
        self.check_open()?;
        Target::check_count(targets)?;
        let purged = targets.iter().map(|target| {
            let Some(place) = self.place_of(target) else { return Purged::Gone };
            let held = self.held(place);
            let Some(newest) = held.newest(&target.endpoint) else { return Purged::Gone };
            if !matches!(held.state(newest), State::Dead { .. } | State::Expired) {
                return Purged::NotDead;
            }
            held.deliveries[newest].status = Status::Purged;
            Purged::Done
        });
        Ok(purged.collect())
    }

    pub(super) fn check_note(&self, note: &Note) -> Result<(), Error> {
        note.check(self.notes.len() - usize::from(self.notes.contains_key(&note.key)))
    }

    pub(super) fn keep(&mut self, note: Note) {
        match note.value {
            Some(value) => self.notes.insert(note.key, value),
            None => self.notes.remove(&note.key),
        };
    }
}

/// What a replayed delivery takes.
const REPLAY_BYTES: usize =
    size_of::<Delivery>() + size_of::<Place>() + size_of::<(EndpointId, u32)>();
