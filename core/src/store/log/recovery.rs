//! Opening a log: the newest checkpoint, then every record after it.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::checkpoint::{self, Checkpoint};
use super::codec::{Decoded, Malformed};
use super::dedup::DEDUP_IDS_MAX;
use super::facts::{self, PurgeBody, ReplayBody};
use super::files::{File, Files, folder_path, read_range, read_whole};
use super::format::{
    self, CHECKPOINT, CHECKPOINT_NEW, Frame, RECORD_HEADER, SEGMENT_HEADER, SEGMENT_NEW, SPARE_NEW,
    Seal, SegmentHeader, kind,
};
use super::index;
use super::lane::{Lane, Tried};
use super::moved::take_moved;
use super::record::{self, Base, Name, Place, TYPE_LOST};
use super::segment::{Load, Segment, TypesAfterLoss, Walk};
use super::state::State;
use crate::endpoint::EndpointId;
use crate::error::{Error, ErrorKind};
use crate::event::EventType;
use crate::time::Timestamp;

/// How far beyond the end of the last segment whole records are searched for.
const TAIL_SEARCH_BYTES: usize = 4 << 20;

/// What opening a log found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Recovery {
    /// Whether a valid checkpoint was there; without one the whole log was read.
    pub checkpoint: bool,
    /// Segments of the log.
    pub segments: usize,
    /// Records that were read.
    pub records: u64,
    /// Deliveries owed.
    pub owed: u64,
    /// The end of the log that a crash had torn, and that was cut: nothing in it was acknowledged.
    pub cut: Option<Damage>,
    /// What is damaged elsewhere: skipped, and left in its file.
    pub damaged: Vec<Damage>,
}

/// A stretch of a file that holds no valid records.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is.
    pub bytes: u64,
    /// What is wrong, in words.
    pub what: String,
}

/// Reads the log in a folder that is locked.
///
/// # Errors
/// `Store` where the disk cannot be read, or the log has a newer format.
pub(super) fn open(
    files: &dyn Files,
    segment_bytes: u32,
    cache_bytes: usize,
) -> Result<(State, Recovery), Error> {
    let failed = |error: io::Error| {
        Error::new(ErrorKind::Store, format!("open the log in {}", folder_path(files).display()))
            .because(error)
    };
    let mut names = files.list().map_err(failed)?;
    names.sort();
    for name in &names {
        if [CHECKPOINT_NEW, SEGMENT_NEW, SPARE_NEW].contains(&&**name) {
            files.remove(name).map_err(failed)?;
        }
    }
    let numbers: Vec<u32> = names.iter().filter_map(|name| format::segment_number(name)).collect();
    let mut recovery = Recovery::default();
    let headers = read_headers(files, &numbers, &mut recovery)?;
    let checkpoint = read_checkpoint(files, &headers, &mut recovery).map_err(failed)?;
    let store = headers.first().map(|(header, _)| header.store);
    let store = store.unwrap_or_else(|| {
        checkpoint.as_ref().map_or_else(|| fastrand::u64(..), |checkpoint| checkpoint.store)
    });
    let mut replay = Replay::new(files, store, segment_bytes, cache_bytes, recovery);
    replay
        .run(headers, checkpoint.as_ref(), numbers.last().copied().unwrap_or(0))
        .map_err(failed)?;
    Ok(replay.finish())
}

type Headers = Vec<(SegmentHeader, Arc<dyn File>)>;

fn read_headers(
    files: &dyn Files,
    numbers: &[u32],
    recovery: &mut Recovery,
) -> Result<Headers, Error> {
    let mut headers: Headers = Vec::new();
    for &number in numbers {
        let name = format::segment_name(number);
        let read = || {
            let file = files.open(&name, false)?;
            let bytes = read_range(&*file, 0, u64::from(SEGMENT_HEADER))?;
            let size = file.size()?;
            Ok::<_, io::Error>((file, bytes, size))
        };
        let (file, bytes, size) = read().map_err(|error| {
            let what = format!("open the log: read {}", files.path(&name).display());
            Error::new(ErrorKind::Store, what).because(error)
        })?;
        let what = match SegmentHeader::decode(&bytes) {
            Ok(header) if header.number != number => {
                format!("its header says that it is segment {}", header.number)
            }
            Ok(header) if headers.first().is_some_and(|(h, _)| h.store != header.store) => {
                "it belongs to another store".to_owned()
            }
            Ok(header) if headers.last().is_some_and(|(h, _)| h.base > header.base) => {
                format!(
                    "its header says that it begins with event {}, before an earlier segment does",
                    header.base
                )
            }
            Ok(header) => {
                headers.push((header, file));
                continue;
            }
            Err(what) => what,
        };
        if what.contains("this program reads") {
            let path = files.path(&name);
            let what = format!("open the log: {}: {what}; use a newer program", path.display());
            return Err(Error::new(ErrorKind::Store, what));
        }
        recovery.damage(files, number, 0, size, what);
    }
    Ok(headers)
}

fn read_checkpoint(
    files: &dyn Files,
    headers: &Headers,
    recovery: &mut Recovery,
) -> io::Result<Option<Checkpoint>> {
    let Some(bytes) = read_whole(files, CHECKPOINT)? else { return Ok(None) };
    let mut refuse = |what: &str| {
        recovery.damaged.push(Damage {
            file: files.path(CHECKPOINT),
            offset: 0,
            bytes: bytes.len() as u64,
            what: format!("{what}; the whole log was read instead"),
        });
        Ok(None)
    };
    let checkpoint = match checkpoint::decode(&bytes) {
        Ok(Some(checkpoint)) => checkpoint,
        Ok(None) => return Ok(None),
        Err(Malformed) => return refuse("the checkpoint is damaged"),
    };
    if headers.first().is_some_and(|(header, _)| header.store != checkpoint.store) {
        return refuse("the checkpoint belongs to another store");
    }
    let number = checkpoint.place.segment;
    let Some((header, file)) = headers.iter().find(|(header, _)| header.number == number) else {
        return refuse("the checkpoint names a segment that is not there");
    };
    let places = u64::from(SEGMENT_HEADER)..=file.size()?;
    if !places.contains(&u64::from(checkpoint.place.offset)) {
        return refuse("the checkpoint tells of more than its segment holds");
    }
    if !checkpoint.fits(*header) {
        return refuse("the checkpoint counts events in another way than its segment does");
    }
    recovery.checkpoint = true;
    Ok(Some(checkpoint))
}

impl Recovery {
    fn damage(&mut self, files: &dyn Files, segment: u32, offset: u32, bytes: u64, what: String) {
        self.damaged.push(Damage {
            file: files.path(&format::segment_name(segment)),
            offset: u64::from(offset),
            bytes,
            what,
        });
    }
}

/// An event that was read but not applied.
struct Batched {
    number: u64,
    targets: Vec<u32>,
    bytes: u32,
}

pub(super) struct Replay<'a> {
    files: &'a dyn Files,
    pub(super) state: State,
    recovery: Recovery,
    /// By endpoint number; `None` where its definition was not read (yet).
    endpoints: Vec<Option<EndpointId>>,
    /// How many of them are known.
    named: u32,
    /// Deliveries that were tried. By event here, as settlements name them; by time afterwards.
    pub(super) waiting: HashMap<(u32, u64), (Timestamp, Tried)>,
    /// The first event of the last segment.
    newest_base: u64,
    /// Ids of events below it are too many to be remembered.
    remember_from: u64,
    /// The first event of the next segment: those of the one that is scanned are below it.
    events_end: u64,
    /// The events of a batch whose last one was not read yet.
    batch: Vec<Batched>,
    /// Where that batch began.
    start: Option<Start>,
}

/// A place in a scan to go back to.
struct Start {
    offset: u32,
    next_event: u64,
    blocks: usize,
    types: usize,
    prints: usize,
    last_time: Timestamp,
    /// Endpoints that the segment defined since.
    defined: Vec<u32>,
}

/// Most endpoints whose names may be lost.
const ENDPOINTS_LOST_MAX: u32 = 1 << 16;

impl<'a> Replay<'a> {
    fn new(
        files: &'a dyn Files,
        store: u64,
        segment_bytes: u32,
        cache_bytes: usize,
        recovery: Recovery,
    ) -> Self {
        Self {
            files,
            state: State::new(store, segment_bytes, cache_bytes),
            recovery,
            endpoints: Vec::new(),
            named: 0,
            waiting: HashMap::new(),
            newest_base: 0,
            remember_from: 0,
            events_end: u64::MAX,
            batch: Vec::new(),
            start: None,
        }
    }

    fn run(
        &mut self,
        headers: Headers,
        checkpoint: Option<&Checkpoint>,
        last_number: u32,
    ) -> io::Result<()> {
        self.recovery.segments = headers.len();
        self.newest_base = headers.last().map_or(0, |(header, _)| header.base);
        self.remember_from = self.newest_base.saturating_sub(DEDUP_IDS_MAX as u64);
        self.state.tail.place.segment = last_number;
        let loads: HashMap<u32, Load> = checkpoint
            .iter()
            .flat_map(|checkpoint| &checkpoint.segments)
            .map(|segment| (segment.number, segment.load))
            .collect();
        let from = checkpoint.map(|checkpoint| checkpoint.place.segment);
        let mut expect = None;
        let bases: Vec<u64> = headers.iter().map(|(header, _)| header.base).collect();
        for (at, (header, file)) in headers.into_iter().enumerate() {
            let number = header.number;
            self.events_end = bases.get(at + 1).copied().unwrap_or(u64::MAX);
            if let Some(expect) = expect.filter(|expect| *expect != number) {
                let what = format!("{} segment files are missing from here on", number - expect);
                self.recovery.damage(self.files, expect, 0, 0, what);
            }
            expect = Some(number + 1);
            let mut segment = Segment::new(header, Some(file));
            segment.load = loads.get(&number).copied().unwrap_or_default();
            match checkpoint {
                Some(_) if Some(number) < from => {
                    index::load(self.files, &mut segment)?;
                    self.state.segments.push(segment);
                    self.remember(number, true);
                    continue;
                }
                Some(checkpoint) if Some(number) == from => {
                    if checkpoint.take_tail_index(&mut segment).is_err() {
                        index::load(self.files, &mut segment)?;
                    }
                    self.state.segments.push(segment);
                    self.restore(checkpoint);
                    let place = checkpoint.place.offset;
                    self.scan(header, place, checkpoint.epoch, number == last_number)?;
                }
                _ => {
                    self.state.segments.push(segment);
                    self.scan(header, SEGMENT_HEADER, 0, number == last_number)?;
                }
            }
            let is_whole = !(self.state.tail.is_open && number == last_number);
            if is_whole {
                index::save(self.files, self.segment(number));
            }
            self.remember(number, is_whole);
        }
        Ok(())
    }

    pub(super) fn segment(&mut self, number: u32) -> &mut Segment {
        self.state.segments.get_mut(number).expect("a segment that is scanned is listed")
    }

    /// Adds the fingerprints of a segment to those that are remembered.
    fn remember(&mut self, number: u32, is_whole: bool) {
        let segment = self.segment(number);
        let base = segment.header.base;
        let prints = std::mem::take(&mut segment.prints);
        if is_whole {
            segment.drop_prints();
        }
        let end = base + prints.len() as u64;
        if end > self.remember_from {
            let more = self.newest_base.saturating_sub(end).min(DEDUP_IDS_MAX as u64) as usize;
            self.state.dedup.extend(base, &prints, more);
        }
        if !is_whole {
            self.segment(number).prints = prints;
        }
    }

    fn restore(&mut self, checkpoint: &Checkpoint) {
        let state = &mut self.state;
        state.next_event = checkpoint.next_event;
        state.now = checkpoint.now;
        state.checkpoint = checkpoint.place;
        state.segments.moved.clone_from(&checkpoint.moved);
        state.segments.copied.clone_from(&checkpoint.copied);
        state.notes.clone_from(&checkpoint.notes);
        for (number, lane) in checkpoint.lanes.iter().enumerate() {
            let mut owed = Lane::new(lane.id.clone());
            owed.fresh.clone_from(&lane.fresh);
            owed.fresh_count = owed.fresh.len();
            owed.stands.clone_from(&lane.stands);
            owed.series.clone_from(&lane.series);
            owed.totals_from = lane.totals_from;
            state.lanes.push(owed);
            self.endpoints.push(Some(lane.id.clone()));
            for (event, due, tried) in &lane.waiting {
                self.waiting.insert((number as u32, *event), (*due, *tried));
            }
        }
        self.named = checkpoint.lanes.len() as u32;
        state.forget_freed();
        state.tail.endpoints.extend(checkpoint.defined.iter().copied());
    }

    /// Applies the records of a segment from `from` on; where the log may end in it, it does so at
    /// the first record that is not valid.
    fn scan(
        &mut self,
        header: SegmentHeader,
        from: u32,
        epoch: u32,
        is_last: bool,
    ) -> io::Result<()> {
        self.state.next_event = self.state.next_event.max(header.base);
        if from == SEGMENT_HEADER {
            self.state.tail.endpoints.clear();
            self.state.tail.types.clear();
        }
        let file = self.segment(header.number).file.clone().expect("it was opened");
        let bytes = read_range(&*file, u64::from(from), u64::MAX)?;
        let mut walk = Walk::new(&bytes, from, Seal { salt: header.salt, epoch });
        let mut types = TypesAfterLoss::default();
        loop {
            let epoch = walk.seal.epoch;
            if let Some((offset, frame)) = walk.next() {
                self.recovery.records += 1;
                if types.cares(frame.kind) {
                    let segment = self.segment(header.number);
                    let base = segment.base();
                    types.see(&frame, base, Arc::make_mut(&mut segment.types));
                }
                if frame.kind == kind::END {
                    self.segment(header.number).end = walk.offset();
                    self.commit(header.number);
                    return Ok(());
                }
                let place = Place { segment: header.number, offset };
                if self.apply(place, epoch, frame).is_err() {
                    let what = "a whole record makes no sense".to_owned();
                    let len = u64::from(frame.len());
                    self.recovery.damage(self.files, header.number, offset, len, what);
                }
                continue;
            }
            let offset = walk.offset();
            if is_last && !is_followed_by_proof(&walk) {
                self.end_log(header, &walk);
                return Ok(());
            }
            self.commit(header.number);
            types.lose();
            // What continued a run may be among what is lost.
            self.state.segments.moved_newest = None;
            let left = walk.rest().len() as u64;
            let found = walk.skip(usize::MAX);
            let bytes = if found { u64::from(walk.offset() - offset) } else { left };
            let what = if found { "no valid record" } else { "no valid record up to the end" };
            self.recovery.damage(self.files, header.number, offset, bytes, what.to_owned());
            if !found {
                return Ok(());
            }
        }
    }

    /// The log ends here: what a crash left beyond is cut.
    fn end_log(&mut self, header: SegmentHeader, walk: &Walk<'_>) {
        let rest = walk.rest();
        let segment = self.state.segments.get(header.number);
        let types = segment.iter().flat_map(|segment| segment.types.iter().cloned()).zip(0..);
        self.state.tail.types = types.filter(|(name, _)| *name != TYPE_LOST).collect();
        let is_torn = if header.recycled {
            walk.seal.begins(rest, walk.offset())
        } else {
            rest.iter().any(|byte| *byte != 0)
        };
        let mut end = walk.offset();
        self.batch.clear();
        let start = self.start.take();
        let is_cut = is_torn || start.is_some();
        if let Some(start) = start {
            end = start.offset;
            self.state.next_event = start.next_event;
            for number in start.defined {
                self.state.tail.endpoints.remove(number);
            }
            self.state.tail.types.retain(|_, place| (*place as usize) < start.types);
            let segment = self.segment(header.number);
            segment.blocks.truncate(start.blocks);
            segment.prints.truncate(start.prints);
            segment.last_time = start.last_time;
            Arc::make_mut(&mut segment.types).truncate(start.types);
        }
        if is_cut {
            let left = rest.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
            let left = if header.recycled { 0 } else { left };
            self.recovery.cut = Some(Damage {
                file: self.files.path(&format::segment_name(header.number)),
                offset: u64::from(end),
                bytes: u64::from(walk.offset() - end) + left as u64,
                what: "the end of the log was torn by a crash; it was not acknowledged".to_owned(),
            });
        }
        self.segment(header.number).end = end;
        let tail = &mut self.state.tail;
        tail.place = Place { segment: header.number, offset: end };
        tail.synced = tail.place;
        tail.is_open = true;
        // Room for the mark, and to end the segment, there must be.
        tail.capacity = tail.segment_bytes.max(end + 8 * RECORD_HEADER);
        tail.seal = walk.seal;
        tail.base = Base { event: header.base, time: header.base_time };
    }

    fn apply(&mut self, place: Place, epoch: u32, frame: Frame<'_>) -> Decoded<()> {
        let base = self.segment(place.segment).base();
        let next_event = self.state.next_event;
        let bytes = frame.len();
        if frame.kind == kind::EVENT && self.batch.is_empty() {
            let segment = self.segment(place.segment);
            self.start = Some(Start {
                offset: place.offset,
                next_event,
                blocks: segment.blocks.len(),
                types: segment.types.len(),
                prints: segment.prints.len(),
                last_time: segment.last_time,
                defined: Vec::new(),
            });
        }
        let segment = self.segment(place.segment);
        segment.touch(place.offset, epoch, next_event);
        segment.end = place.offset + bytes;
        match frame.kind {
            kind::NAME => self.apply_name(place.segment, Name::take(frame.body)?)?,
            kind::EVENT => {
                let start = record::take_event_start(frame.body, base)?;
                // An event takes more than a byte, so that its number is bounded by its place.
                let is_near = |number: u64| number - base.event <= u64::from(place.offset);
                let numbers = next_event..self.events_end;
                if !numbers.contains(&start.number) || !is_near(start.number) {
                    return Err(Malformed);
                }
                self.state.next_event = start.number + 1;
                self.state.now = start.accepted_at;
                let more = start.more();
                index::note_event(self.segment(place.segment), &start);
                self.batch.push(Batched { number: start.number, targets: start.targets, bytes });
                if !more {
                    self.commit(place.segment);
                }
            }
            kind::SETTLE => {
                let settle = record::take_settle(frame.body, base)?;
                self.apply_settle(place, &settle);
            }
            kind::MOVED => {
                let moved = take_moved(frame.body, base)?;
                let start = record::take_event_start(moved.event, base)?;
                if start.number >= next_event {
                    return Err(Malformed);
                }
                index::note_copied(self.segment(place.segment), &start);
                self.apply_moved(place, bytes, start.number, &moved);
            }
            kind::REPLAY => self.apply_replay(place, ReplayBody::take(frame.body, base)?),
            kind::PURGE => self.apply_purge(place, &PurgeBody::take(frame.body, base)?),
            kind::NOTE => {
                let note = facts::take_note(frame.body)?;
                self.state.notes.apply(note, place.segment);
            }
            kind::TOTALS => self.apply_totals(place, &facts::take_totals(frame.body)?),
            // The rest of a batch may be among what a repair has given up.
            kind::LOST => self.commit(place.segment),
            // Marks are the walk's affair. Kinds of a newer minor version are skipped.
            _ => {}
        }
        Ok(())
    }

    fn apply_name(&mut self, segment: u32, name: Name<'_>) -> Decoded<()> {
        match name {
            Name::Endpoint(number, id) => {
                let id: EndpointId = id.parse().map_err(|_| Malformed)?;
                self.lane(number).ok_or(Malformed)?;
                self.named += u32::from(self.endpoints[number as usize].is_none());
                self.endpoints[number as usize] = Some(id);
                self.state.tail.endpoints.insert(number);
                if let Some(start) = &mut self.start {
                    start.defined.push(number);
                }
            }
            Name::Type(name) => {
                let name: EventType = name.parse().map_err(|_| Malformed)?;
                Arc::make_mut(&mut self.segment(segment).types).push(name);
            }
        }
        Ok(())
    }

    /// The lane of an endpoint number, made where it is not known. `None` where more names would be
    /// lost than may be: garbage must not take memory.
    pub(super) fn lane(&mut self, number: u32) -> Option<&mut Lane> {
        if number > self.named + ENDPOINTS_LOST_MAX {
            return None;
        }
        while self.state.lanes.len() <= number as usize {
            let placeholder = "lost".parse().expect("a valid endpoint id");
            self.state.lanes.push(Lane::new(placeholder));
            self.endpoints.push(None);
        }
        Some(&mut self.state.lanes[number as usize])
    }

    /// The batch is whole.
    fn commit(&mut self, segment: u32) {
        self.start = None;
        for event in std::mem::take(&mut self.batch) {
            let mut count = 0;
            for target in event.targets {
                if let Some(lane) = self.lane(target) {
                    lane.insert_fresh(event.number);
                    count += 1;
                }
            }
            if count > 0 {
                self.state.add_load(segment, event.bytes, count, count);
            }
        }
    }

    fn finish(mut self) -> (State, Recovery) {
        let mut state = self.state;
        for ((target, event), (due, tried)) in self.waiting {
            state.lanes[target as usize].insert_waiting(due, event, tried);
        }
        for (number, id) in self.endpoints.into_iter().enumerate() {
            let lane = &mut state.lanes[number];
            if let Some(id) = id {
                lane.id = id;
            } else {
                let text = format!("lost-{number}");
                lane.id = text.parse().expect("a valid endpoint id");
                if lane.owes() {
                    self.recovery.damaged.push(Damage {
                        file: folder_path(self.files),
                        offset: 0,
                        bytes: 0,
                        what: format!(
                            "the name of an endpoint is lost; what it is owed is under {text}"
                        ),
                    });
                }
            }
            state.lane_of.insert(lane.id.clone(), number as u32);
            if lane.owes() {
                // Named by `ready`; the next news come after a claim found nothing more.
                lane.is_dry = false;
                state.announced.push(lane.id.clone());
            }
            self.recovery.owed += lane.fresh_count + lane.waiting.len() as u64;
        }
        state.visible = state.next_event;
        if state.tail.is_open {
            state.tail.begin_epoch(state.next_event, &mut state.segments);
            // Written before whatever comes next; until then there is nothing to write.
            state.tail.buffered = 0;
            state.tail.since_checkpoint = 0;
        }
        (state, self.recovery)
    }
}

/// Whether a valid record beyond this place tells that the log was synced past it: then what is
/// here was durable and is damaged now. Otherwise a crash tore it.
pub(super) fn is_followed_by_proof(walk: &Walk<'_>) -> bool {
    let place = walk.offset();
    let mut probe = walk.clone();
    while probe.skip(TAIL_SEARCH_BYTES) {
        while let Some((_, frame)) = probe.next() {
            // The base does not matter for what is asked.
            let base = Base { event: 0, time: Timestamp::from_millis(0) };
            let synced = match frame.kind {
                kind::EVENT => record::take_event_start(frame.body, base).map(|s| s.synced),
                kind::SETTLE => record::take_settle_start(frame.body, base).map(|s| s.synced),
                kind::REPLAY | kind::PURGE | kind::NOTE | kind::TOTALS => {
                    facts::take_synced(frame.body)
                }
                _ => Ok(None),
            };
            if synced.is_ok_and(|synced| synced.is_some_and(|synced| synced > place)) {
                return true;
            }
        }
    }
    false
}
