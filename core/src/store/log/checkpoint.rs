//! The checkpoint: what is owed, as of one place in the log, so that reopening reads only what
//! follows.

use std::collections::BTreeMap;

use roaring::RoaringTreemap;

use super::codec::{Decoded, Malformed, Put, Take};
use super::format::{EVENTS_MAX, MAJOR, MINOR, SegmentHeader};
use super::lane::Tried;
use super::notes::Notes;
use super::record::{Before, Place};
use super::segment::{Load, MovedRun, Segment};
use super::stands::{Stands, put_events, take_events};
use super::state::State;
use crate::endpoint::EndpointId;
use crate::stats::Series;
use crate::store::Note;
use crate::time::Timestamp;

const MAGIC: &[u8; 8] = b"PRIDECHK";

/// A checkpoint that was read.
pub(super) struct Checkpoint {
    pub(super) store: u64,
    /// All before it is in the checkpoint.
    pub(super) place: Place,
    pub(super) epoch: u32,
    pub(super) next_event: u64,
    pub(super) now: Timestamp,
    pub(super) lanes: Vec<CheckpointLane>,
    pub(super) segments: Vec<CheckpointSegment>,
    pub(super) moved: BTreeMap<u64, MovedRun>,
    pub(super) copied: RoaringTreemap,
    pub(super) notes: Notes,
    /// Endpoints that the tail's segment has defined.
    pub(super) defined: Vec<u32>,
    /// The index of the tail's segment.
    index: Vec<u8>,
}

pub(super) struct CheckpointLane {
    pub(super) id: EndpointId,
    pub(super) fresh: RoaringTreemap,
    pub(super) waiting: Vec<(u64, Timestamp, Tried)>,
    pub(super) stands: Option<Box<Stands>>,
    pub(super) series: Option<Box<Series>>,
    pub(super) totals_from: u32,
}

pub(super) struct CheckpointSegment {
    pub(super) number: u32,
    pub(super) load: Load,
}

fn put_place(out: &mut Vec<u8>, place: Place) {
    out.put_u32(place.segment);
    out.put_u32(place.offset);
}

fn take_place(take: &mut Take<'_>) -> Decoded<Place> {
    Ok(Place { segment: take.u32()?, offset: take.u32()? })
}

/// Encodes what `state` knows; nothing may be pending.
pub(super) fn encode(state: &State) -> Vec<u8> {
    let mut out = Vec::new();
    out.put(MAGIC);
    out.put_u16(MAJOR);
    out.put_u16(MINOR);
    out.put_u64(state.tail.store);
    put_place(&mut out, state.tail.place);
    out.put_u32(state.tail.seal.epoch);
    out.put_u64(state.next_event);
    out.put_i64(state.now.as_millis());

    // A lease ends with the process: what is leased is owed as it was before.
    let mut leased: Vec<Vec<&super::lane::Leased>> = vec![Vec::new(); state.lanes.len()];
    for lease in state.leases.values().chain(&state.unreadable) {
        leased[lease.lane as usize].push(lease);
    }
    out.put_var(state.lanes.len() as u64);
    for (lane, leased) in state.lanes.iter().zip(leased) {
        out.put_text(lane.id.as_str());
        let mut fresh = lane.fresh.clone();
        fresh.extend(leased.iter().filter(|lease| lease.due.is_none()).map(|lease| lease.event));
        fresh.optimize();
        put_events(&mut out, &fresh);
        let due = leased.iter().filter_map(|lease| Some((lease.event, lease.due?, lease.tried)));
        let waiting = lane.waiting.iter().map(|((due, event), tried)| (*event, *due, *tried));
        out.put_var((due.clone().count() + lane.waiting.len()) as u64);
        for (event, due, tried) in waiting.chain(due) {
            out.put_var(event);
            out.put_i64(due.as_millis());
            out.put_var(u64::from(tried.attempts));
            out.put_u8(u8::from(tried.before.is_some()));
            if let Some(before) = tried.before {
                put_place(&mut out, before.last);
                put_place(&mut out, before.first);
            }
        }
        let has_later = lane.stands.as_ref().is_some_and(|stands| stands.has_later());
        let flags = [lane.stands.is_some(), lane.series.is_some(), has_later];
        out.put_u8((0..).zip(flags).map(|(bit, is_set)| u8::from(is_set) << bit).sum());
        if let Some(stands) = &lane.stands {
            stands.encode(&mut out);
        }
        if let Some(series) = &lane.series {
            out.put_u32(lane.totals_from);
            series.encode(&mut out);
        }
    }
    out.put_var(state.segments.list().len() as u64);
    for segment in state.segments.list() {
        out.put_u32(segment.header.number);
        let Load { events, bytes, deliveries, owed } = segment.load;
        for number in [events, bytes, deliveries, owed] {
            out.put_var(number);
        }
    }
    out.put_var(state.segments.moved.len() as u64);
    for (first, run) in &state.segments.moved {
        out.put_var(*first);
        out.put_var(run.last - first);
        put_place(&mut out, run.place);
    }
    put_events(&mut out, &state.segments.copied);
    out.put_var(state.notes.iter().len() as u64);
    for (key, kept) in state.notes.iter() {
        out.put_text(key);
        out.put_u32(kept.segment);
        out.put_var(kept.value.len() as u64);
        out.put(&kept.value);
    }
    out.put_var(state.tail.endpoints.len());
    for number in &state.tail.endpoints {
        out.put_var(u64::from(number));
    }
    let mut index = Vec::new();
    if let Some(segment) = state.segments.last() {
        segment.put_index(&mut index);
    }
    out.put_var(index.len() as u64);
    out.put(&index);
    out.put_u32(crc32c::crc32c(&out));
    out
}

/// Reads a checkpoint; `Malformed` where any byte of it is wrong, `None` where another version wrote
/// it.
pub(super) fn decode(bytes: &[u8]) -> Decoded<Option<Checkpoint>> {
    let (bytes, crc) = bytes.split_last_chunk::<4>().ok_or(Malformed)?;
    if crc32c::crc32c(bytes) != u32::from_le_bytes(*crc) {
        return Err(Malformed);
    }
    let mut take = Take::new(bytes);
    if take.bytes(8)? != MAGIC {
        return Err(Malformed);
    }
    if (take.u16()?, take.u16()?) != (MAJOR, MINOR) {
        return Ok(None);
    }
    let store = take.u64()?;
    let place = take_place(&mut take)?;
    let epoch = take.u32()?;
    let next_event = take.u64()?;
    if next_event > EVENTS_MAX {
        return Err(Malformed);
    }
    let now = Timestamp::from_millis(take.i64()?);
    let lanes = (0..take.count()?).map(|_| take_lane(&mut take)).collect::<Decoded<_>>()?;
    let segments = (0..take.count()?)
        .map(|_| {
            let number = take.u32()?;
            let load = Load {
                events: take.var_u32()?.into(),
                bytes: take.var_u32()?.into(),
                deliveries: take.var_u32()?.into(),
                owed: take.var_u32()?.into(),
            };
            Ok(CheckpointSegment { number, load })
        })
        .collect::<Decoded<_>>()?;
    let moved = (0..take.count()?)
        .map(|_| {
            let first = take.var()?;
            let last = first.checked_add(take.var()?).filter(|last| *last < EVENTS_MAX);
            let last = last.ok_or(Malformed)?;
            Ok((first, MovedRun { last, place: take_place(&mut take)? }))
        })
        .collect::<Decoded<_>>()?;
    let copied = take_events(&mut take)?;
    let mut notes = Notes::default();
    for _ in 0..take.count()? {
        let (key, segment) = (take.text()?.into(), take.u32()?);
        let count = take.count()?;
        let value = Some(take.bytes(count)?.to_vec().into());
        notes.apply(Note { key, value }, segment);
    }
    let defined = (0..take.count()?).map(|_| take.var_u32()).collect::<Decoded<_>>()?;
    let count = take.count()?;
    let index = take.bytes(count)?.to_vec();
    Ok(Some(Checkpoint {
        store,
        place,
        epoch,
        next_event,
        now,
        lanes,
        segments,
        moved,
        copied,
        notes,
        defined,
        index,
    }))
}

fn take_lane(take: &mut Take<'_>) -> Decoded<CheckpointLane> {
    let id = take.text()?.parse().map_err(|_| Malformed)?;
    let fresh = take_events(take)?;
    let waiting = (0..take.count()?)
        .map(|_| {
            let event = take.var()?;
            let due = Timestamp::from_millis(take.i64()?);
            let attempts = take.var_u32()?;
            let before = if take.u8()? == 0 {
                None
            } else {
                Some(Before { last: take_place(take)?, first: take_place(take)? })
            };
            Ok((event, due, Tried { attempts, before }))
        })
        .collect::<Decoded<_>>()?;
    let flags = take.u8()?;
    let has_later = flags & 4 != 0;
    let stands = if flags & 1 == 0 { None } else { Some(Box::new(Stands::take(take, has_later)?)) };
    let (mut series, mut totals_from) = (None, 0);
    if flags & 2 != 0 {
        totals_from = take.u32()?;
        series = Some(Box::new(Series::take(take)?));
    }
    Ok(CheckpointLane { id, fresh, waiting, stands, series, totals_from })
}

impl CheckpointLane {
    /// The newest event it tells of.
    fn newest(&self) -> Option<u64> {
        let waiting = self.waiting.iter().map(|(event, ..)| *event).max();
        let stands = self.stands.as_ref().and_then(|stands| stands.newest());
        self.fresh.max().into_iter().chain(waiting).chain(stands).max()
    }
}

impl Checkpoint {
    /// Fills in the index of the segment that the checkpoint ends in.
    pub(super) fn take_tail_index(&self, segment: &mut Segment) -> Decoded<()> {
        segment.take_index(&mut Take::new(&self.index))?;
        segment.end = self.place.offset;
        Ok(())
    }

    /// Whether it counts the events as the segment does that it ends in, and tells of none that is
    /// still to come: the next event gets a number that means nothing else yet.
    pub(super) fn fits(&self, header: SegmentHeader) -> bool {
        let mut segment = Segment::new(header, None);
        let lanes = self.lanes.iter().filter_map(CheckpointLane::newest);
        let moved = self.moved.values().map(|run| run.last).max();
        let newest = lanes.chain(moved).chain(self.copied.max()).max();
        self.take_tail_index(&mut segment).is_ok()
            && self.next_event == header.base + segment.prints.len() as u64
            && newest.is_none_or(|newest| newest < self.next_event)
    }
}
