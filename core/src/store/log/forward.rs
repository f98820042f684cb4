//! Copying forward: what is still owed in the oldest segments is written again at the end of the
//! log, so that a dead endpoint does not keep their files.

use std::collections::BTreeMap;
use std::io;

use super::block::Summary;
use super::format::{RECORD_HEADER, fingerprint, kind};
use super::lane::Tried;
use super::look::{self, Look, Runs, Seen, Standing, Status};
use super::moved::{MovedDelivery, MovedState, put_moved};
use super::read;
use super::record::{self, Before, EventHead, Place};
use super::stands::Ended;
use super::state::State;
use super::store::Found;
use super::writer::Core;
use crate::delivery;
use crate::event::EventType;

/// Events that are copied before publishers are served again.
const CHUNK_EVENTS: usize = 64;

/// Newest runs of a delivery that are copied with their attempts; of older ones only how they ended.
const RUNS_WHOLE: u32 = 2;

/// What is owed in one segment, by event: the endpoint's number and where the delivery stands.
pub(super) type Owed = BTreeMap<u64, Vec<(u32, Status)>>;

/// The oldest segment, where copying it forward is worth it: what is past its retention holds more
/// that is settled than that is owed, and at least half a segment of it.
pub(super) fn choose(state: &State, keep: std::time::Duration) -> Option<u32> {
    let past = state.segments.list().iter().take_while(|segment| {
        segment.header.number < state.checkpoint.segment
            && state.now.since(segment.last_time) >= keep
    });
    let (mut all, mut owed, mut first) = (0, 0, None);
    for segment in past {
        all += u64::from(segment.end);
        owed += segment.load.owed_bytes();
        first = first.or(Some(segment.header.number));
    }
    let settled = all.saturating_sub(owed);
    first.filter(|_| settled >= owed.max(u64::from(state.tail.segment_bytes / 2)))
}

/// What is owed in a segment. Costs a look at everything that was tried, once for a segment.
pub(super) fn owed_in(state: &State, segment: u32) -> Owed {
    let segments = state.segments.list();
    let base = state.segments.get(segment).map_or(0, |segment| segment.header.base);
    let after = segments.iter().find(|later| later.header.number > segment);
    let end = after.map_or(state.next_event, |later| later.header.base);
    let is_here = |event: u64| {
        let is_home = (base..end).contains(&event) || state.segments.is_moved(event);
        is_home && state.segments.of_event(event) == Some(segment)
    };
    let runs = state.segments.moved.iter().filter(|(_, run)| run.place.segment == segment);
    let ranges: Vec<(u64, u64)> =
        runs.map(|(first, run)| (*first, run.last + 1)).chain([(base, end)]).collect();
    let mut owed = Owed::new();
    for (number, lane) in (0..).zip(&state.lanes) {
        for (from, to) in &ranges {
            let mut fresh = lane.fresh.iter();
            fresh.advance_to(*from);
            for event in fresh.take_while(|event| event < to).filter(|event| is_here(*event)) {
                owed.entry(event).or_default().push((number, Status::Fresh));
            }
        }
        for ((due, event), tried) in &lane.waiting {
            if is_here(*event) {
                let status = Status::Waiting(*due, *tried);
                owed.entry(*event).or_default().push((number, status));
            }
        }
    }
    for lease in state.leases.values().filter(|lease| is_here(lease.event)) {
        let status = Status::Leased(lease.until, lease.tried);
        owed.entry(lease.event).or_default().push((lease.lane, status));
    }
    owed
}

/// An event that is ready to be copied.
pub(super) struct Copy {
    event: u64,
    found: Found,
    /// Where its newest deliveries stood when it was read.
    standings: Vec<Standing>,
    /// How many had been made again by then, of any event.
    runs_begun: u64,
    deliveries: Vec<MovedDelivery>,
}

impl Copy {
    pub(super) fn event(&self) -> u64 {
        self.event
    }
}

/// Takes the next events out of `owed` and reads what copying them needs. `None` for one that cannot
/// be copied now, because it is under a lease or damaged. `flush` writes what is known to the disk.
pub(super) fn read_chunk(
    core: &Core,
    owed: &mut Owed,
    flush: impl FnOnce() -> Result<(), ()>,
) -> io::Result<Vec<Option<Copy>>> {
    let mut chunk = Vec::new();
    while chunk.len() < CHUNK_EVENTS
        && let Some(next) = owed.pop_first()
    {
        chunk.push(next);
    }
    let events: Vec<u64> = chunk.iter().map(|(event, _)| *event).collect();
    let extents = core.lock().segments.extents_of(&events);
    let read = read::events(&extents)?;
    let (found, standings, runs_begun) = {
        let state = core.lock();
        let read = read.into_iter().filter_map(|(event, read)| Some((event, read?)));
        let found: Vec<(u64, Found)> =
            read.map(|(event, read)| (event, Found::new(read, &state))).collect();
        let targets: Vec<(u64, &[u32])> = found.iter().map(|(e, f)| (*e, &*f.targets)).collect();
        let standings = state.standings(&targets);
        (found, standings, state.runs_begun)
    };
    // What ended by now has its attempts on the disk.
    if flush().is_err() {
        return Ok(Vec::new());
    }
    let looks: Vec<Look> = (found.iter().zip(&standings))
        .map(|((event, found), standings)| Look {
            event: *event,
            accepted_at: found.accepted_at,
            standings: standings.clone(),
            moved: found.moved.clone(),
        })
        .collect();
    let seen = look::read(core, &looks, Runs::All)?;
    let copies = found.into_iter().zip(standings).zip(seen);
    let mut copies: BTreeMap<u64, Copy> = copies
        .filter_map(|(((event, found), standings), seen)| {
            let deliveries = moved_deliveries(&standings, seen)?;
            Some((event, Copy { event, found, standings, runs_begun, deliveries }))
        })
        .collect();
    Ok(events.iter().map(|event| copies.remove(event)).collect())
}

/// What a copy says of an event's deliveries. `None` where one is under a lease.
fn moved_deliveries(standings: &[Standing], seen: Vec<Seen>) -> Option<Vec<MovedDelivery>> {
    let mut deliveries = Vec::with_capacity(seen.len());
    for seen in seen {
        let newest = standings.iter().find(|standing| standing.target == seen.target)?;
        let state = match newest.status {
            _ if seen.run < newest.run => MovedState::Ended(ended(&seen.state)?),
            Status::Fresh => MovedState::Fresh,
            Status::Waiting(due, _) => MovedState::Waiting(due),
            Status::Leased(..) => return None,
            Status::Ended(ended) => MovedState::Ended(ended),
        };
        let Seen { target, run, attempts_made, mut attempts, .. } = seen;
        if run + RUNS_WHOLE <= newest.run {
            attempts.clear();
        }
        deliveries.push(MovedDelivery { target, run, state, attempts_made, attempts });
    }
    Some(deliveries)
}

fn ended(state: &delivery::State) -> Option<Ended> {
    match state {
        delivery::State::Delivered => Some(Ended::Delivered),
        delivery::State::Expired => Some(Ended::Expired),
        delivery::State::Dead { reason } => Some(Ended::Dead(*reason)),
        delivery::State::Purged => Some(Ended::Purged),
        delivery::State::Waiting { .. } | delivery::State::Leased { .. } => None,
    }
}

impl State {
    /// Copies an event forward, unless something happened to it since it was read. `from` is its
    /// segment, `before` the event that was copied just before it. Returns whether it was copied.
    pub(super) fn copy_forward(&mut self, from: u32, before: Option<u64>, copy: &Copy) -> bool {
        let event = copy.event;
        let is_changed = self.segments.of_event(event) != Some(from)
            || self.replaying.iter().any(|(_, replayed)| *replayed == event)
            || copy.standings.iter().any(|standing| !self.still_stands(event, standing))
            // It may have been sent to others.
            || (self.runs_begun != copy.runs_begun
                && self.standings(&[(event, &copy.found.targets)])[0] != copy.standings);
        if is_changed {
            return false;
        }
        let envelope = &copy.found.event;
        let attempts: usize = (copy.deliveries.iter())
            .map(|d| {
                32 + d.attempts.iter().map(|a| record::settle_size_max(Some(a))).sum::<usize>()
            })
            .sum();
        let names = copy.standings.iter().map(|standing| &self.lanes[standing.target as usize].id);
        let names: usize = names.map(|id| id.as_str().len() + 32).sum();
        let room = RECORD_HEADER as usize
            + record::event_size_max(envelope, copy.found.targets.len())
            + attempts
            + names
            + envelope.kind.as_str().len()
            + 32;
        if room > self.tail.batch_bytes_max() {
            return false;
        }
        let place = self.append_copy(room, from, before, copy);
        for standing in &copy.standings {
            let Status::Waiting(due, _) = &standing.status else { continue };
            let lane = &mut self.lanes[standing.target as usize];
            if let Some(Tried { before: Some(before), .. }) = lane.waiting.get_mut(&(*due, event)) {
                *before = Before { last: place, first: place };
            }
        }
        true
    }

    /// Whether a delivery stands as it did. One that had ended is owed again only as another run.
    fn still_stands(&self, event: u64, standing: &Standing) -> bool {
        let lane = &self.lanes[standing.target as usize];
        lane.run(event) == standing.run
            && match &standing.status {
                Status::Fresh => lane.fresh.contains(event),
                Status::Waiting(due, tried) => lane.waiting.get(&(*due, event)) == Some(tried),
                Status::Leased(..) => false,
                Status::Ended(ended) => lane.ended(event) == *ended,
            }
    }

    fn append_copy(&mut self, room: usize, from: u32, before: Option<u64>, copy: &Copy) -> Place {
        let (next, event) = (self.next_event, copy.event);
        let envelope = &copy.found.event;
        self.tail.make_room(room, next, self.now, &mut self.segments);
        let name: &EventType = &envelope.kind;
        let kind_place = self.tail.name_type(name, next, &mut self.segments);
        for standing in &copy.standings {
            let id = self.lanes[standing.target as usize].id.clone();
            self.tail.name_endpoint(standing.target, id.as_str(), next, &mut self.segments);
        }
        let continues = before
            .is_some_and(|before| self.segments.may_continue(before, event, from, self.tail.place));
        let head = EventHead {
            number: event,
            accepted_at: copy.found.accepted_at,
            targets: &copy.found.targets,
            kind: kind_place,
            more: false,
            synced: None,
        };
        let place = self.tail.append(kind::MOVED, next, &mut self.segments, |out, base| {
            put_moved(out, base, &copy.deliveries, continues);
            record::put_event(out, base, &head, envelope);
        });
        let is_owed = |standing: &&Standing| !matches!(standing.status, Status::Ended(_));
        let owed = copy.standings.iter().filter(is_owed).count() as u64;
        for _ in 0..owed {
            self.owe_less(event);
        }
        self.segments.note_moved(place, event, continues);
        let bytes = self.tail.place.offset - place.offset;
        self.add_load(place.segment, bytes, owed, owed);
        let print = fingerprint(self.tail.store, envelope.id());
        let segment = self.segments.get_mut(place.segment).expect("it was just appended to");
        segment.note_copied(print, event);
        let summary = Summary::of(copy.found.accepted_at, kind_place, &copy.found.targets);
        segment.note_event(&summary);
        place
    }
}
