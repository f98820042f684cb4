//! Finding events by query: which numbers may be wanted is decided without reading, by what is known
//! of blocks and by the bits of how deliveries stand; those are read and held to the query.

use std::collections::{BinaryHeap, HashMap};

use roaring::RoaringTreemap;

use super::block::{Summary, UNMATCHED_BIT, target_bit, type_bit};
use super::lane::Lane;
use super::look::{self, Look, Runs, Standing};
use super::segment::Segment;
use super::stands::Ended;
use super::state::State;
use super::store::{Found as ReadBack, LogStore};
use crate::delivery::{DeliveryId, StateKind};
use crate::error::Error;
use crate::store::{DeliveryRecord, EventRecord, Found, Order, Page, Place, Query};

/// Most events that one page looks at.
const LOOK_MAX: usize = 10_000;
/// Most bytes of events that one page reads, about.
const READ_BYTES_MAX: u64 = 16 << 20;
/// Least and most events that are read at once, and bytes of them.
const CHUNK_MIN: usize = 32;
const CHUNK_MAX: usize = 1024;
const CHUNK_BYTES: u64 = 4 << 20;
/// Steps over what is not wanted before others get the lock.
const STEPS_MAX: usize = 50_000;

/// What a query asks, in the terms of the log.
struct Plan<'a> {
    query: &'a Query,
    forward: bool,
    /// The lanes of the endpoints that are asked for; `None`: of all.
    lanes: Option<Vec<u32>>,
    /// A bit for each endpoint that a wanted event has one of; `None`: it may have any or none.
    targets: Option<u128>,
    /// The bits of wanted types, by segment.
    types: HashMap<u32, u64>,
}

/// Numbers that may be wanted, in the order of the page, and after which number to go on; `None`:
/// there are no more.
struct Candidates {
    events: Vec<u64>,
    next: Option<u64>,
}

impl<'a> Plan<'a> {
    fn new(query: &'a Query, order: Order) -> Self {
        let forward = order == Order::OldestFirst;
        Self { query, forward, lanes: None, targets: None, types: HashMap::new() }
    }

    /// Takes over what may have changed since the last look.
    fn update(&mut self, state: &State) {
        let query = self.query;
        let numbers = query.endpoints.iter().filter_map(|id| state.lane_of.get(id).copied());
        self.lanes = (!query.endpoints.is_empty()).then(|| numbers.collect());
        let is_unmatched_only =
            !query.states.is_empty() && query.states.iter().all(|s| *s == StateKind::Unmatched);
        self.targets = match &self.lanes {
            Some(lanes) => Some(lanes.iter().fold(0, |bits, lane| bits | target_bit(*lane))),
            None => is_unmatched_only.then_some(UNMATCHED_BIT),
        };
        // Types may have been added to the newest segment.
        if let Some(newest) = state.segments.last() {
            self.types.remove(&newest.header.number);
        }
    }

    fn types_in(&mut self, segment: &Segment) -> u64 {
        let query = self.query;
        if query.types.is_empty() {
            return u64::MAX;
        }
        *self.types.entry(segment.header.number).or_insert_with(|| {
            let wanted = (0..).zip(&*segment.types);
            let wanted = wanted.filter(|(_, kind)| query.types.iter().any(|p| p.matches(kind)));
            wanted.fold(0, |bits, (place, _)| bits | type_bit(place))
        })
    }

    /// Whether an event among those summed up may be wanted, by what never changes of it; and whether
    /// by whom it was for at first.
    fn wants(&mut self, segment: &Segment, summary: &Summary) -> (bool, bool) {
        let by_itself = !summary.is_none()
            && self.query.since.is_none_or(|since| summary.newest >= since)
            && self.query.until.is_none_or(|until| summary.oldest < until)
            && summary.types & self.types_in(segment) != 0;
        (by_itself, self.targets.is_none_or(|targets| summary.targets & targets != 0))
    }

    /// Whether an event may be wanted, whoever it was for.
    fn wants_event(&mut self, state: &State, event: u64) -> bool {
        state.segments.block_of(event).is_some_and(|(segment, block)| {
            let summary = segment.blocks[block].summary;
            self.wants(segment, &summary).0
        })
    }

    fn lanes_in<'s>(&self, state: &'s State) -> Vec<(u32, &'s Lane)> {
        match &self.lanes {
            None => (0..).zip(&state.lanes).collect(),
            Some(lanes) => lanes.iter().map(|at| (*at, &state.lanes[*at as usize])).collect(),
        }
    }

    /// The bits of the events that stand as asked, where bits tell; `None` where they do not.
    fn bits<'s>(
        &self,
        state: &'s State,
        leased: &'s RoaringTreemap,
    ) -> Option<Vec<&'s RoaringTreemap>> {
        let query = self.query;
        let by_bits =
            |kind: &StateKind| !matches!(kind, StateKind::Delivered | StateKind::Unmatched);
        if query.reasons.is_empty()
            && (query.states.is_empty() || !query.states.iter().all(by_bits))
        {
            return None;
        }
        // Reasons are those of dead ones only.
        let asks = |kind: StateKind| {
            let is_asked = query.states.is_empty() || query.states.contains(&kind);
            is_asked && (query.reasons.is_empty() || kind == StateKind::Dead)
        };
        let mut bits = Vec::new();
        for (_, lane) in self.lanes_in(state) {
            if asks(StateKind::Waiting) {
                bits.extend([&lane.fresh, lane.waiting_events()]);
            }
            let Some(stands) = &lane.stands else { continue };
            let ended = Ended::KEPT.into_iter().filter(|ended| {
                let is_wanted = match ended {
                    Ended::Dead(reason) => {
                        query.reasons.is_empty() || query.reasons.contains(reason)
                    }
                    _ => true,
                };
                is_wanted && asks(ended.state().kind())
            });
            bits.extend(ended.filter_map(|ended| stands.events(ended)));
        }
        if asks(StateKind::Leased) {
            bits.push(leased);
        }
        bits.retain(|events| !events.is_empty());
        Some(bits)
    }

    /// The next numbers after `cursor` that may be wanted, at most `max`.
    fn candidates(&mut self, state: &State, cursor: Option<u64>, max: usize) -> Candidates {
        self.update(state);
        let mut leased = RoaringTreemap::new();
        if self.query.states.contains(&StateKind::Leased) {
            let is_asked =
                |lane: u32| self.lanes.as_ref().is_none_or(|lanes| lanes.contains(&lane));
            let leases = state.leases.values().chain(&state.unreadable);
            leased.extend(leases.filter(|l| is_asked(l.lane)).map(|l| l.event));
        }
        let mut candidates = match self.bits(state, &leased) {
            Some(bits) => self.by_bits(state, &bits, cursor, max),
            None => self.by_blocks(state, cursor, max),
        };
        candidates.cut(state);
        candidates
    }

    /// Merges bits in the order of the page.
    fn by_bits(
        &mut self,
        state: &State,
        bits: &[&RoaringTreemap],
        cursor: Option<u64>,
        max: usize,
    ) -> Candidates {
        let forward = self.forward;
        let mut iters: Vec<_> = bits.iter().map(|events| events.iter()).collect();
        // The heap gives the greatest first.
        let key = |event: u64| if forward { u64::MAX - event } else { event };
        let mut heap = BinaryHeap::new();
        for (at, iter) in iters.iter_mut().enumerate() {
            match cursor {
                Some(cursor) if forward => iter.advance_to(cursor.saturating_add(1)),
                Some(0) => continue,
                Some(cursor) => iter.advance_back_to(cursor - 1),
                None => {}
            }
            let first = if forward { iter.next() } else { iter.next_back() };
            heap.extend(first.map(|event| (key(event), at)));
        }
        let mut events = Vec::new();
        let mut last = None;
        let mut steps = 0;
        while let Some((next, at)) = heap.pop() {
            let event = key(next);
            let follows = if forward { iters[at].next() } else { iters[at].next_back() };
            heap.extend(follows.map(|event| (key(event), at)));
            if last == Some(event) {
                continue;
            }
            if events.len() >= max || steps >= STEPS_MAX {
                return Candidates { events, next: last };
            }
            steps += 1;
            last = Some(event);
            if self.wants_event(state, event) {
                events.push(event);
            }
        }
        Candidates { events, next: None }
    }

    /// Goes over blocks, and leaves out those that hold nothing that is wanted.
    fn by_blocks(&mut self, state: &State, cursor: Option<u64>, max: usize) -> Candidates {
        let end = state.visible;
        let mut events = Vec::new();
        let start = match (cursor, self.forward) {
            (None, true) => Some(0),
            (None, false) => end.checked_sub(1),
            (Some(cursor), true) => cursor.checked_add(1),
            (Some(cursor), false) => cursor.checked_sub(1).map(|at| at.min(end.saturating_sub(1))),
        };
        let mut at = start.filter(|at| *at < end);
        for _ in 0..STEPS_MAX {
            let Some(number) = at else { return Candidates { events, next: None } };
            let stretch = self.stretch_at(state, number);
            let (from, to) =
                if self.forward { (number, stretch.to) } else { (stretch.from, number + 1) };
            let inside = self.inside(state, from, to, stretch.is_wanted);
            let room = max - events.len();
            if inside.len() > room {
                events.extend(&inside[..room]);
                return Candidates { next: events.last().copied(), events };
            }
            events.extend(inside);
            at = if self.forward { Some(to).filter(|to| *to < end) } else { from.checked_sub(1) };
            if at.is_some() && events.len() == max {
                return Candidates { next: events.last().copied(), events };
            }
        }
        // To go on where this ended.
        let next = at.map(|at| if self.forward { at.saturating_sub(1) } else { at + 1 });
        Candidates { events, next }
    }

    /// The numbers in a stretch that may be wanted, in the order of the page: all, or only those that
    /// its blocks know nothing of.
    fn inside(&mut self, state: &State, from: u64, to: u64, is_wanted: bool) -> Vec<u64> {
        let mut inside: Vec<u64> = if is_wanted {
            (from..to).collect()
        } else {
            let mut found = Vec::new();
            let mut add = |events: &RoaringTreemap| {
                let mut events = events.iter();
                events.advance_to(from);
                found.extend(events.take_while(|event| *event < to));
            };
            add(&state.segments.copied);
            if self.lanes.is_some() {
                // What was sent again was not for that endpoint at first.
                for (_, lane) in self.lanes_in(state) {
                    lane.again().into_iter().for_each(&mut add);
                }
            }
            found.sort_unstable();
            found.dedup();
            found.retain(|event| self.wants_event(state, *event));
            found
        };
        if !self.forward {
            inside.reverse();
        }
        inside
    }

    /// The stretch of numbers around `number` of which the same is known.
    fn stretch_at(&mut self, state: &State, number: u64) -> Stretch {
        let list = state.segments.list();
        let Some(at) = list.partition_point(|s| s.header.base <= number).checked_sub(1) else {
            let to = list.first().map_or(state.visible, |first| first.header.base);
            return Stretch {
                from: 0,
                to: to.min(state.visible).max(number + 1),
                is_wanted: false,
            };
        };
        let segment = &list[at];
        let end = list.get(at + 1).map_or(state.visible, |next| next.header.base);
        let end = end.min(state.visible).max(number + 1);
        let mut stretch = Stretch { from: segment.header.base, to: end, is_wanted: false };
        if self.wants(segment, &segment.summary) != (true, true) {
            return stretch;
        }
        // Blocks without an event of their own name the same next one: the last is the one.
        let after = segment.blocks.partition_point(|block| block.event <= number);
        if let Some(next) = segment.blocks.get(after) {
            stretch.to = next.event.min(end);
        }
        if let Some(block) = after.checked_sub(1).map(|at| &segment.blocks[at]) {
            stretch.from = block.event.max(segment.header.base);
            stretch.is_wanted = self.wants(segment, &block.summary) == (true, true);
        }
        stretch
    }
}

/// Numbers from one to before another.
struct Stretch {
    from: u64,
    to: u64,
    is_wanted: bool,
}

impl Candidates {
    /// Leaves so many that reading them is bounded.
    fn cut(&mut self, state: &State) {
        let (mut bytes, mut before) = (0, None);
        for at in 0..self.events.len() {
            let Some((segment, block)) = state.segments.block_of(self.events[at]) else { continue };
            let place = (segment.header.number, block);
            if before.replace(place) != Some(place) {
                let end = segment.blocks.get(block + 1).map_or(segment.end, |next| next.offset);
                bytes += u64::from(end - segment.blocks[block].offset);
            }
            if bytes > CHUNK_BYTES && at > 0 {
                self.events.truncate(at);
                self.next = self.events.last().copied();
                return;
            }
        }
    }
}

/// An event that a query finds, and what its attempts are read by.
struct Selected {
    record: EventRecord,
    look: Look,
}

/// Holds an event to the query.
fn select(
    query: &Query,
    state: &State,
    event: u64,
    found: ReadBack,
    standings: Vec<Standing>,
) -> Option<Selected> {
    let id = found.event.id();
    let deliveries = standings.iter().map(|standing| {
        let endpoint = state.lanes[standing.target as usize].id.clone();
        let (state, attempts_made) = standing.shown(found.accepted_at);
        DeliveryRecord {
            id: DeliveryId::new(endpoint, id.clone()).with_run(standing.run),
            state,
            attempts_made,
            attempts: Vec::new(),
        }
    });
    let record = EventRecord {
        place: Place::new(event),
        event: found.event.clone(),
        accepted_at: found.accepted_at,
        deliveries: deliveries.collect(),
    };
    let record = query.select(record)?;
    let is_told = |standing: &Standing| {
        let id = &state.lanes[standing.target as usize].id;
        record.deliveries.iter().any(|delivery| delivery.id.endpoint() == id)
    };
    let standings = standings.into_iter().filter(is_told).collect();
    let (accepted_at, moved) = (found.accepted_at, found.moved);
    Some(Selected { record, look: Look { event, accepted_at, standings, moved } })
}

impl LogStore {
    /// A page of what a query finds.
    pub(super) async fn find_page(&self, query: &Query, page: Page) -> Result<Found, Error> {
        let mut cursor = page.after.map(Place::number);
        let mut records = Vec::new();
        let (mut looked_at, mut bytes, mut chunk) = (0, 0, page.events_max().max(CHUNK_MIN));
        loop {
            let left = chunk.min(LOOK_MAX - looked_at).min(CHUNK_MAX);
            let candidates = {
                let state = self.core.lock();
                state.check_usable()?;
                Plan::new(query, page.order).candidates(&state, cursor, left)
            };
            looked_at += candidates.events.len();
            let mut found = self.read(candidates.events.clone()).await?;
            bytes += found.values().flatten().map(|found| found.event.weight() as u64).sum::<u64>();
            let mut selected = self.select(query, &candidates.events, &mut found);
            let room = page.events_max() - records.len();
            let is_full = selected.len() >= room;
            selected.truncate(room);
            let last = selected.last().map(|selected| selected.look.event);
            if page.attempts {
                self.add_attempts(&mut selected).await?;
            }
            records.extend(selected.into_iter().map(|selected| selected.record));
            if is_full {
                let has_more =
                    candidates.next.is_some() || candidates.events.last() != last.as_ref();
                let next = if has_more { last.or(candidates.next) } else { None };
                return Ok(Found::new(records, next.map(Place::new)));
            }
            let Some(next) = candidates.next else { return Ok(Found::new(records, None)) };
            if looked_at >= LOOK_MAX || bytes >= READ_BYTES_MAX {
                return Ok(Found::new(records, Some(Place::new(next))));
            }
            cursor = Some(next);
            chunk *= 2;
        }
    }

    fn select(
        &self,
        query: &Query,
        events: &[u64],
        found: &mut HashMap<u64, Option<ReadBack>>,
    ) -> Vec<Selected> {
        let mut wanted: Vec<(u64, ReadBack)> = Vec::new();
        for event in events {
            if let Some(found) = found.get_mut(event).and_then(Option::take)
                && query.wants_event(&found.event.kind, found.accepted_at)
            {
                wanted.push((*event, found));
            }
        }
        let state = self.core.lock();
        let targets: Vec<(u64, &[u32])> =
            wanted.iter().map(|(event, found)| (*event, &*found.targets)).collect();
        let standings = state.standings(&targets);
        let selected = wanted.into_iter().zip(standings);
        selected
            .filter_map(|((event, found), standings)| {
                select(query, &state, event, found, standings)
            })
            .collect()
    }

    async fn add_attempts(&self, selected: &mut [Selected]) -> Result<(), Error> {
        let none = |selected: &mut Selected| Look {
            event: selected.look.event,
            accepted_at: selected.look.accepted_at,
            standings: std::mem::take(&mut selected.look.standings),
            moved: std::mem::take(&mut selected.look.moved),
        };
        let looks: Vec<Look> = selected.iter_mut().map(none).collect();
        if looks.iter().all(|look| look.standings.is_empty()) {
            return Ok(());
        }
        self.written().await?;
        let seen =
            self.blocking("read attempts", move |core| look::read(core, &looks, Runs::Newest));
        for (selected, seen) in selected.iter_mut().zip(seen.await?) {
            // Both are in the order of the event's endpoints.
            for (delivery, seen) in selected.record.deliveries.iter_mut().zip(seen) {
                delivery.attempts_made = seen.attempts_made;
                delivery.attempts = seen.attempts;
            }
        }
        Ok(())
    }
}
