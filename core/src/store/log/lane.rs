//! What is owed to one endpoint.

use std::collections::{BTreeMap, BTreeSet};

use roaring::RoaringTreemap;

use super::record::Before;
use crate::endpoint::EndpointId;
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
    /// By the end of their lease.
    pub(super) leased: BTreeSet<(Timestamp, Fence)>,
    /// Whether the last claim found nothing more, so that new work must be announced.
    pub(super) is_dry: bool,
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

impl Lane {
    pub(super) fn new(id: EndpointId) -> Self {
        Self {
            id,
            fresh: RoaringTreemap::new(),
            fresh_count: 0,
            waiting: BTreeMap::new(),
            leased: BTreeSet::new(),
            is_dry: true,
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

    /// Finds a delivery among those that wait. Costs what waits: only look-ups by people and
    /// recovery ask.
    pub(super) fn waiting_of(&self, event: u64) -> Option<(Timestamp, Tried)> {
        let found = self.waiting.iter().find(|((_, number), _)| *number == event);
        found.map(|((due, _), tried)| (*due, *tried))
    }

    pub(super) fn owes(&self) -> bool {
        self.fresh_count > 0 || !self.waiting.is_empty() || !self.leased.is_empty()
    }
}
