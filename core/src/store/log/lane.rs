//! What is owed to one endpoint.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use roaring::RoaringTreemap;

use super::record::Before;
use super::stands::{Ended, Stands};
use crate::delivery::{AttemptRecord, Decision};
use crate::endpoint::EndpointId;
use crate::stats::Series;
use crate::store::Fence;
use crate::time::Timestamp;

/// What is owed to one endpoint: a bit for each event that was never tried, an entry only for what
/// was.
pub(super) struct Lane {
    pub(super) id: EndpointId,
    /// Never tried, not leased.
    pub(super) fresh: RoaringTreemap,
    pub(super) fresh_count: u64,
    /// Tried, or leased and not settled in time; by due time.
    pub(super) waiting: BTreeMap<(Timestamp, u64), Tried>,
    /// The events in `waiting`: a bit for each, so that it is asked only where the answer is there.
    waiting_events: RoaringTreemap,
    /// By the end of their lease.
    pub(super) leased: BTreeSet<(Timestamp, Fence)>,
    /// Owed, but damaged in the log: set aside until the log is opened again.
    pub(super) unreadable: u64,
    /// Whether the last claim found nothing more, so that new work must be announced.
    pub(super) is_dry: bool,
    /// How its newest deliveries ended; most lanes have only what was delivered, once.
    pub(super) stands: Option<Box<Stands>>,
    /// What became of attempts; made with the first.
    pub(super) series: Option<Box<Series>>,
    /// The segment from which on records tell its totals: it has the first settlement, or the totals
    /// up to there.
    pub(super) totals_from: u32,
}

/// What is known of a delivery beside its place in the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tried {
    pub(super) attempts: u32,
    pub(super) before: Option<Before>,
}

/// A delivery under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leased {
    pub(super) lane: u32,
    pub(super) event: u64,
    pub(super) until: Timestamp,
    /// When it was due before; `None`: it was never tried.
    pub(super) due: Option<Timestamp>,
    pub(super) tried: Tried,
    /// The fingerprint of the event's id, once the event was read.
    pub(super) print: Option<u64>,
}

/// All leases.
pub(super) type Leases = HashMap<Fence, Leased, BuildHasherDefault<FenceHasher>>;

/// Spreads fences, which the store itself counts up: nobody chooses them so that they collide.
#[derive(Default)]
pub(super) struct FenceHasher(u64);

impl Hasher for FenceHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Lane {
    pub(super) fn new(id: EndpointId) -> Self {
        Self {
            id,
            fresh: RoaringTreemap::new(),
            fresh_count: 0,
            waiting: BTreeMap::new(),
            waiting_events: RoaringTreemap::new(),
            leased: BTreeSet::new(),
            unreadable: 0,
            is_dry: true,
            stands: None,
            series: None,
            totals_from: 0,
        }
    }

    pub(super) fn insert_fresh(&mut self, event: u64) {
        self.fresh_count += u64::from(self.fresh.insert(event));
    }

    pub(super) fn insert_fresh_range(&mut self, first: u64, last: u64) {
        self.fresh_count += self.fresh.insert_range(first..=last);
    }

    pub(super) fn remove_fresh(&mut self, event: u64) -> bool {
        let was_there = self.fresh.remove(event);
        self.fresh_count -= u64::from(was_there);
        was_there
    }

    pub(super) fn insert_waiting(&mut self, due: Timestamp, event: u64, tried: Tried) {
        self.waiting.insert((due, event), tried);
        self.waiting_events.insert(event);
    }

    pub(super) fn pop_waiting(&mut self) -> Option<(Timestamp, u64, Tried)> {
        let ((due, event), tried) = self.waiting.pop_first()?;
        self.waiting_events.remove(event);
        Some((due, event, tried))
    }

    /// Takes out what waits of the events that `is_lost` names.
    pub(super) fn take_waiting(&mut self, is_lost: impl Fn(u64) -> bool) -> Vec<u64> {
        let lost = self.waiting.extract_if(.., |(_, event), _| is_lost(*event));
        let lost: Vec<u64> = lost.map(|((_, event), _)| event).collect();
        for event in &lost {
            self.waiting_events.remove(*event);
        }
        lost
    }

    pub(super) fn waiting_events(&self) -> &RoaringTreemap {
        &self.waiting_events
    }

    /// Finds deliveries among those that wait. Costs what waits, once for all of them: only people
    /// who look ask.
    pub(super) fn find_waiting(
        &self,
        events: &BTreeSet<u64>,
    ) -> impl Iterator<Item = (u64, Timestamp, Tried)> {
        let found = self.waiting.iter().filter(|((_, event), _)| events.contains(event));
        found.map(|((due, event), tried)| (*event, *due, *tried)).take(events.len())
    }

    pub(super) fn owes(&self) -> bool {
        self.fresh_count > 0
            || !self.waiting.is_empty()
            || !self.leased.is_empty()
            || self.unreadable > 0
    }

    /// The newest run of an event.
    pub(super) fn run(&self, event: u64) -> u32 {
        self.stands.as_ref().map_or(0, |stands| stands.run(event))
    }

    /// How the newest delivery of an event ended, if it is not owed.
    pub(super) fn ended(&self, event: u64) -> Ended {
        self.stands.as_ref().map_or(Ended::Delivered, |stands| stands.ended(event))
    }

    /// The newest delivery of an event has ended.
    pub(super) fn set_ended(&mut self, event: u64, ended: Ended) {
        if ended != Ended::Delivered || self.stands.is_some() {
            self.stands.get_or_insert_default().set_ended(event, ended);
        }
    }

    /// There is a new delivery of an event, which was not owed. Others learn of it by `insert_fresh`.
    pub(super) fn begin_run(&mut self, event: u64, run: u32) {
        let stands = self.stands.get_or_insert_default();
        stands.reopen(event);
        stands.set_run(event, run);
    }

    /// The events that were sent here again.
    pub(super) fn again(&self) -> Option<&RoaringTreemap> {
        self.stands.as_ref().and_then(|stands| stands.again())
    }

    /// Counts the end of an attempt, or of a delivery without one. Its record is in `segment`.
    pub(super) fn count(
        &mut self,
        attempt: Option<&AttemptRecord>,
        decision: Decision,
        at: Timestamp,
        segment: u32,
    ) {
        let series = self.series.get_or_insert_with(|| {
            self.totals_from = segment;
            Box::default()
        });
        series.record(attempt, decision, at);
    }
}
