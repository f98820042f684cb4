//! Segments and the sparse index into them: where an event is, and which stretches hold the
//! settlements of which events.

use std::collections::BTreeMap;
use std::sync::Arc;

use roaring::RoaringTreemap;

use super::block::{Block, Summary};
use super::codec::{Decoded, Malformed, Put, Take};
use super::files::File;
use super::format::{Frame, OFFSET_MAX, SEGMENT_HEADER, Seal, SegmentHeader};
use super::record::{Base, Place, TYPE_LOST};
use crate::event::EventType;
use crate::time::Timestamp;

/// A block ends with the first record that begins this far after the block did.
const BLOCK_BYTES: u32 = 16 << 10;
/// Most bytes that are read at once for a run of adjacent blocks.
const EXTENT_BYTES_MAX: u32 = 1 << 20;

/// Most types whose definitions may be lost in a row.
const TYPES_LOST_MAX: usize = 1 << 12;

/// One segment as it is kept in memory.
pub(super) struct Segment {
    pub(super) header: SegmentHeader,
    /// `None` until its file is made.
    pub(super) file: Option<Arc<dyn File>>,
    /// Where its records end.
    pub(super) end: u32,
    pub(super) blocks: Vec<Block>,
    /// Of all its blocks.
    pub(super) summary: Summary,
    /// The lowest and highest event that a record in it settles for good; lowest above highest: none.
    settled: (u64, u64),
    /// The types that its events name by place.
    pub(super) types: Arc<Vec<EventType>>,
    /// A fingerprint for each event accepted in it, in order; dropped once its index is written.
    pub(super) prints: Vec<u64>,
    /// Fingerprint and number of each event that was copied into it; dropped with them.
    pub(super) copied: Vec<(u64, u64)>,
    pub(super) has_copied: bool,
    /// Whether its fingerprints are in its index file, and not in memory.
    pub(super) is_indexed: bool,
    /// The newest time of acceptance in it.
    pub(super) last_time: Timestamp,
    /// Events with endpoints in it, their bytes and their deliveries; and how many are still owed.
    pub(super) load: Load,
}

/// How much of a segment is still owed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) events: u64,
    pub(super) bytes: u64,
    pub(super) deliveries: u64,
    pub(super) owed: u64,
}

impl Load {
    /// The share of `whole` that is owed, rounded up.
    fn share(&self, whole: u64) -> u64 {
        if self.owed == 0 {
            return 0;
        }
        // Neither is above 2^32, the size of a segment in bytes.
        (whole * self.owed).div_ceil(self.deliveries.max(1))
    }

    pub(super) fn owed_events(&self) -> u64 {
        self.share(self.events)
    }

    pub(super) fn owed_bytes(&self) -> u64 {
        self.share(self.bytes)
    }
}

impl Segment {
    pub(super) fn new(header: SegmentHeader, file: Option<Arc<dyn File>>) -> Self {
        Self {
            header,
            file,
            end: SEGMENT_HEADER,
            blocks: Vec::new(),
            summary: Summary::NONE,
            settled: (u64::MAX, 0),
            types: Arc::default(),
            prints: Vec::new(),
            copied: Vec::new(),
            has_copied: false,
            is_indexed: false,
            last_time: header.base_time,
            load: Load::default(),
        }
    }

    pub(super) fn base(&self) -> Base {
        Base { event: self.header.base, time: self.header.base_time }
    }

    /// Notes an event that was copied into this segment.
    pub(super) fn note_copied(&mut self, print: u64, event: u64) {
        self.copied.push((print, event));
        self.has_copied = true;
    }

    /// Drops what the index file holds now.
    pub(super) fn drop_prints(&mut self) {
        self.prints = Vec::new();
        self.copied = Vec::new();
        self.is_indexed = true;
    }

    /// Begins a block at `offset` where the last one has its size or another epoch.
    pub(super) fn touch(&mut self, offset: u32, epoch: u32, event: u64) -> &mut Block {
        let is_full = self
            .blocks
            .last()
            .is_none_or(|block| offset >= block.offset + BLOCK_BYTES || epoch != block.epoch);
        if is_full {
            self.blocks.push(Block::new(offset, epoch, event));
        }
        self.blocks.last_mut().expect("pushed above where there was none")
    }

    /// Notes what the event whose record was just added has.
    pub(super) fn note_event(&mut self, event: &Summary) {
        self.summary.add(event);
        if let Some(block) = self.blocks.last_mut() {
            block.summary.add(event);
        }
    }

    /// Notes that the record that was just added settles or purges a delivery of `event` for good.
    pub(super) fn note_settled(&mut self, event: u64) {
        self.settled = (self.settled.0.min(event), self.settled.1.max(event));
        if let Some(block) = self.blocks.last_mut() {
            block.settled.insert(event);
        }
    }

    /// The block that holds the record at `offset`.
    pub(super) fn block_at(&self, offset: u32) -> Option<usize> {
        self.blocks.partition_point(|block| block.offset <= offset).checked_sub(1)
    }

    fn extent(&self, from: usize, to: usize) -> Option<Extent> {
        let first = self.blocks.get(from)?;
        Some(Extent {
            segment: self.header.number,
            file: Arc::clone(self.file.as_ref()?),
            seal: Seal { salt: self.header.salt, epoch: first.epoch },
            base: self.base(),
            types: Arc::clone(&self.types),
            from: first.offset,
            to: self.blocks.get(to).map_or(self.end, |block| block.offset),
        })
    }

    /// The stretch in which the record at `offset` is.
    pub(super) fn extent_at(&self, offset: u32) -> Option<Extent> {
        let block = self.block_at(offset)?;
        self.extent(block, block + 1)
    }

    /// The stretches that may hold settlements of `events` (in ascending order), in order.
    fn extents_settling(&self, events: &[u64], extents: &mut Vec<Extent>) {
        let has_any = |low: u64, high: u64| {
            let at = events.partition_point(|event| *event < low);
            events.get(at).is_some_and(|event| *event <= high)
        };
        if !has_any(self.settled.0, self.settled.1) {
            return;
        }
        for (number, block) in self.blocks.iter().enumerate() {
            if block.settled.ranges().any(|(low, high)| has_any(low, high))
                && let Some(extent) = self.extent(number, number + 1)
            {
                join(extents, extent);
            }
        }
    }

    /// What the index file holds beside the fingerprints.
    pub(super) fn put_index(&self, out: &mut Vec<u8>) {
        out.put_var(u64::from(self.end));
        out.put_i64(self.last_time.as_millis());
        out.put_var(self.types.len() as u64);
        for kind in &*self.types {
            out.put_text(kind.as_str());
        }
        out.put_var(self.blocks.len() as u64);
        for block in &self.blocks {
            block.put(out, self.base());
        }
        out.put_var(self.prints.len() as u64);
        for print in &self.prints {
            out.put_u64(*print);
        }
        out.put_var(self.copied.len() as u64);
        for (print, event) in &self.copied {
            out.put_u64(*print);
            out.put_u64(*event);
        }
    }

    pub(super) fn take_index(&mut self, take: &mut Take<'_>) -> Decoded<()> {
        self.end = take.var_u32()?;
        if self.end > OFFSET_MAX {
            return Err(Malformed);
        }
        self.last_time = Timestamp::from_millis(take.i64()?);
        let types = (0..take.count()?)
            .map(|_| take.text()?.parse().map_err(|_| Malformed))
            .collect::<Decoded<_>>()?;
        self.types = Arc::new(types);
        let base = self.base();
        self.blocks =
            (0..take.count()?).map(|_| Block::take(take, base)).collect::<Decoded<_>>()?;
        self.summary = Summary::NONE;
        self.settled = (u64::MAX, 0);
        for block in &self.blocks {
            self.summary.add(&block.summary);
            for (low, high) in block.settled.ranges() {
                self.settled = (self.settled.0.min(low), self.settled.1.max(high));
            }
        }
        // Each follows the one before, and all lie within.
        let follows = self.blocks.is_sorted_by(|a, b| a.offset < b.offset);
        if !follows || self.blocks.last().is_some_and(|last| last.offset > self.end) {
            return Err(Malformed);
        }
        self.prints = (0..take.count()?).map(|_| take.u64()).collect::<Decoded<_>>()?;
        self.copied =
            (0..take.count()?).map(|_| Ok((take.u64()?, take.u64()?))).collect::<Decoded<_>>()?;
        self.has_copied = !self.copied.is_empty();
        Ok(())
    }
}

/// Puts the types that were just defined in the place that the event they were defined for names.
/// Where definitions before them are lost, so are the places that those had: they are kept free.
fn place_types(types: &mut Vec<EventType>, named: u32, just_defined: usize) {
    let missing = (named as usize + 1).saturating_sub(types.len());
    if (1..=TYPES_LOST_MAX).contains(&missing) {
        let at = types.len().saturating_sub(just_defined);
        types.splice(at..at, std::iter::repeat_n(TYPE_LOST, missing));
    }
}

/// Keeps the places of a segment's types right where records of it are lost: a type is defined just
/// before the first event that has it, which tells the place.
#[derive(Default)]
pub(super) struct TypesAfterLoss {
    has_loss: bool,
    just_defined: usize,
}

impl TypesAfterLoss {
    /// Records are lost here.
    pub(super) fn lose(&mut self) {
        self.has_loss = true;
        self.just_defined = 0;
    }

    /// Whether a record of this kind is to be looked at.
    pub(super) fn cares(&self, kind: u8) -> bool {
        self.has_loss || kind == super::format::kind::LOST
    }

    /// Looks at a record before it is applied; `types` are those that are defined so far.
    pub(super) fn see(&mut self, frame: &Frame<'_>, base: Base, types: &mut Vec<EventType>) {
        use super::format::kind;
        use super::moved::moved_event;
        use super::record::{Name, take_event_start};
        let event = match frame.kind {
            kind::NAME => {
                let is_type = matches!(Name::take(frame.body), Ok(Name::Type(_)));
                self.just_defined += usize::from(is_type);
                return;
            }
            kind::LOST => {
                self.lose();
                return;
            }
            kind::EVENT => Ok(frame.body),
            kind::MOVED => moved_event(frame.body),
            _ => Err(Malformed),
        };
        if let Ok(start) = event.and_then(|body| take_event_start(body, base)) {
            place_types(types, start.kind, self.just_defined);
        }
        self.just_defined = 0;
    }
}

/// A stretch of records to be read from a file.
#[derive(Clone)]
pub(super) struct Extent {
    pub(super) segment: u32,
    pub(super) file: Arc<dyn File>,
    /// Of its first record.
    pub(super) seal: Seal,
    pub(super) base: Base,
    pub(super) types: Arc<Vec<EventType>>,
    pub(super) from: u32,
    pub(super) to: u32,
}

/// Adds a stretch; one that follows the last is joined to it, up to what is read at once.
fn join(extents: &mut Vec<Extent>, extent: Extent) {
    match extents.last_mut() {
        Some(last)
            if last.segment == extent.segment
                && last.to == extent.from
                && extent.to - last.from <= EXTENT_BYTES_MAX =>
        {
            last.to = extent.to;
        }
        _ => extents.push(extent),
    }
}

/// A stretch of moved events, in order of their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MovedRun {
    pub(super) last: u64,
    pub(super) place: Place,
}

/// All segments, oldest first.
#[derive(Default)]
pub(super) struct Segments {
    list: Vec<Segment>,
    /// Where moved events are, by the first number of a run; runs do not overlap. A run says nothing
    /// of numbers in it that are not in `copied`.
    pub(super) moved: BTreeMap<u64, MovedRun>,
    /// The events whose record is a copy.
    pub(super) copied: RoaringTreemap,
    /// The first number of the run that was noted last.
    pub(super) moved_newest: Option<u64>,
    /// Sums over all segments.
    pub(super) owed_events: u64,
    pub(super) owed_bytes: u64,
}

impl Segments {
    pub(super) fn push(&mut self, segment: Segment) {
        self.owed_events += segment.load.owed_events();
        self.owed_bytes += segment.load.owed_bytes();
        self.list.push(segment);
    }

    pub(super) fn list(&self) -> &[Segment] {
        &self.list
    }

    /// Takes the oldest segment out. With it come the stretches in which its events were: of the
    /// numbers in them, those that are not in `copied` are gone.
    pub(super) fn pop_front(&mut self) -> (Segment, Vec<(u64, u64)>) {
        let first = self.list.remove(0);
        let end = self.list.first().map_or(u64::MAX, |next| next.header.base);
        let mut gone = vec![(first.header.base, end)];
        let here = self.moved.extract_if(.., |_, run| run.place.segment == first.header.number);
        for (from, run) in here {
            self.copied.remove_range(from..=run.last);
            gone.push((from, run.last + 1));
        }
        (first, gone)
    }

    pub(super) fn last(&self) -> Option<&Segment> {
        self.list.last()
    }

    fn position(&self, number: u32) -> Option<usize> {
        // Nearly always the last, to which records are added.
        if self.list.last().is_some_and(|last| last.header.number == number) {
            return Some(self.list.len() - 1);
        }
        self.list.binary_search_by_key(&number, |segment| segment.header.number).ok()
    }

    pub(super) fn get(&self, number: u32) -> Option<&Segment> {
        self.position(number).map(|at| &self.list[at])
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut Segment> {
        self.position(number).map(|at| &mut self.list[at])
    }

    /// Changes how much of a segment is owed.
    pub(super) fn change_load(&mut self, number: u32, change: impl FnOnce(&mut Load)) {
        let Some(at) = self.position(number) else { return };
        let load = &mut self.list[at].load;
        self.owed_events -= load.owed_events();
        self.owed_bytes -= load.owed_bytes();
        change(load);
        self.owed_events += load.owed_events();
        self.owed_bytes += load.owed_bytes();
    }

    /// Whether the record of `event`, about to be written at `place`, may continue the run that ends
    /// with `before`: it must be in the same block, and no event between may be elsewhere than in
    /// `from`, the segment that is being copied.
    pub(super) fn may_continue(&self, before: u64, event: u64, from: u32, place: Place) -> bool {
        let newest = self.moved_newest.and_then(|first| self.moved.get(&first));
        let Some(run) = newest else { return false };
        let same_block = self.get(place.segment).and_then(|segment| segment.blocks.last());
        let is_near = same_block.is_some_and(|block| {
            run.place.segment == place.segment
                && run.place.offset >= block.offset
                && place.offset < block.offset + BLOCK_BYTES
        });
        let mut between = self.moved.range(before + 1..=event);
        // A copy with a number between would be looked for in the wrong place.
        let mut copies = self.copied.iter();
        copies.advance_to(before + 1);
        run.last == before
            && before < event
            && is_near
            && between.all(|(_, run)| run.place.segment == from)
            && copies.next().is_none_or(|copied| copied >= event)
    }

    /// Notes that an event's record is now at `place`. One that `continues` is in the same block as
    /// the one noted before, and no copy has a number between.
    pub(super) fn note_moved(&mut self, place: Place, event: u64, continues: bool) {
        let newest = self.moved_newest.filter(|first| continues && *first < event);
        let first = newest.unwrap_or(event);
        self.copied.insert(event);
        // What else was known of this stretch is outdated; what lies around it is not.
        let cut: Vec<(u64, MovedRun)> = (self.moved.range(..=event).rev())
            .take_while(|(_, run)| run.last >= first)
            .map(|(from, run)| (*from, *run))
            .collect();
        for (from, run) in cut {
            self.moved.remove(&from);
            if from < first {
                self.moved.insert(from, MovedRun { last: first - 1, ..run });
            }
            if run.last > event {
                self.moved.insert(event + 1, run);
            }
            if from == first && newest.is_some() {
                self.moved.insert(first, MovedRun { last: event, ..run });
            }
        }
        self.moved.entry(first).or_insert(MovedRun { last: event, place });
        self.moved_newest = Some(first);
    }

    pub(super) fn is_moved(&self, event: u64) -> bool {
        self.copied.contains(event)
    }

    fn moved_run(&self, event: u64) -> Option<&MovedRun> {
        if !self.copied.contains(event) {
            return None;
        }
        self.moved.range(..=event).next_back().map(|(_, run)| run).filter(|run| run.last >= event)
    }

    /// The block that holds an event's record, with its segment.
    pub(super) fn block_of(&self, event: u64) -> Option<(&Segment, usize)> {
        let segment = self.get(self.of_event(event)?)?;
        let block = match self.moved_run(event) {
            Some(run) => segment.block_at(run.place.offset)?,
            // Blocks without an event of their own name the same next one: the last is the one.
            None => segment.blocks.partition_point(|block| block.event <= event).checked_sub(1)?,
        };
        Some((segment, block))
    }

    /// Stretches that may hold settlements of `events` (in ascending order), in order.
    pub(super) fn extents_settling(&self, events: &[u64]) -> Vec<Extent> {
        let mut extents = Vec::new();
        for segment in &self.list {
            segment.extents_settling(events, &mut extents);
        }
        extents
    }

    /// The segment that holds an event's record.
    pub(super) fn of_event(&self, event: u64) -> Option<u32> {
        if let Some(run) = self.moved_run(event) {
            return Some(run.place.segment);
        }
        let at = self.list.partition_point(|segment| segment.header.base <= event);
        self.list[..at].last().map(|segment| segment.header.number)
    }

    /// Stretches that hold these events (in ascending order), each with the events that are in it.
    pub(super) fn extents_of(&self, events: &[u64]) -> Vec<(Extent, Vec<u64>)> {
        let mut extents: Vec<(Extent, Vec<u64>)> = Vec::new();
        for &event in events {
            if let Some((extent, inside)) = extents.last_mut()
                && self.covers(extent, event)
            {
                inside.push(event);
                continue;
            }
            let Some(extent) = self.extent_of(event) else { continue };
            if let Some((last, inside)) = extents.last_mut()
                && last.segment == extent.segment
                && last.to == extent.from
                && extent.to - last.from <= EXTENT_BYTES_MAX
            {
                last.to = extent.to;
                inside.push(event);
            } else {
                extents.push((extent, vec![event]));
            }
        }
        extents
    }

    fn covers(&self, extent: &Extent, event: u64) -> bool {
        self.extent_of(event).is_some_and(|other| {
            other.segment == extent.segment && extent.from <= other.from && other.to <= extent.to
        })
    }

    pub(super) fn extent_of(&self, event: u64) -> Option<Extent> {
        let (segment, block) = self.block_of(event)?;
        segment.extent(block, block + 1)
    }

    /// When the event was accepted, or a little earlier.
    pub(super) fn time_of(&self, event: u64) -> Timestamp {
        self.block_of(event).map_or(Timestamp::MIN, |(segment, block)| {
            let summary = segment.blocks[block].summary;
            if summary.is_none() { segment.header.base_time } else { summary.oldest }
        })
    }
}

/// Walks over records one after the other.
#[derive(Clone)]
pub(super) struct Walk<'a> {
    bytes: &'a [u8],
    /// Where `bytes` begins in the segment.
    start: u32,
    at: usize,
    pub(super) seal: Seal,
}

impl<'a> Walk<'a> {
    pub(super) fn new(bytes: &'a [u8], start: u32, seal: Seal) -> Self {
        Self { bytes, start, at: 0, seal }
    }

    /// Where the next record is expected.
    pub(super) fn offset(&self) -> u32 {
        self.start + self.at as u32
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// The record here, with its offset; `None` where there is no valid one.
    pub(super) fn next(&mut self) -> Option<(u32, Frame<'a>)> {
        let offset = self.offset();
        let frame = self.seal.open(&self.bytes[self.at..], offset)?;
        self.at += frame.len() as usize;
        if frame.kind == super::format::kind::MARK
            && let Ok(epoch) = Take::new(frame.body).u32()
        {
            self.seal.epoch = epoch;
        }
        Some((offset, frame))
    }

    /// Goes on at the next valid record, searching at most `bytes_max`; `false` where there is none.
    /// A mark may be among what is skipped, so later epochs are tried too.
    pub(super) fn skip(&mut self, bytes_max: usize) -> bool {
        /// Openings of one segment whose marks may all be lost.
        const EPOCHS: u32 = 16;
        let end = self.bytes.len().min(self.at.saturating_add(bytes_max));
        let mut at = self.at + 1;
        while at < end {
            // A header has its kind at byte 8, never zero; most of what is skipped is zeros.
            let Some(kind_at) = self.bytes.get(at + 8..) else { return false };
            match kind_at.iter().position(|byte| *byte != 0) {
                None => return false,
                Some(zeros) => at += zeros,
            }
            let offset = self.start + at as u32;
            if at < end && self.seal.begins(&self.bytes[at..], offset) {
                for epoch in self.seal.epoch..=self.seal.epoch.saturating_add(EPOCHS) {
                    let seal = Seal { epoch, ..self.seal };
                    if seal.open(&self.bytes[at..], offset).is_some() {
                        self.at = at;
                        self.seal = seal;
                        return true;
                    }
                }
            }
            at += 1;
        }
        false
    }
}
