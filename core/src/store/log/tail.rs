//! The end of the log: records are encoded here, in their final order and place, and leave for the
//! disk in chunks.

use std::collections::HashMap;

use roaring::RoaringBitmap;

use super::codec::Put;
use super::format::{END_RECORD, RECORD_HEADER, SEGMENT_HEADER, Seal, SegmentHeader, kind};
use super::record::{Base, Name, Place};
use super::segment::{Segment, Segments};
use crate::event::EventType;
use crate::time::Timestamp;

/// Bytes that go to one segment in one write.
pub(super) struct Chunk {
    /// The segment to be made first.
    pub(super) opens: Option<SegmentHeader>,
    pub(super) segment: u32,
    pub(super) offset: u32,
    pub(super) bytes: Vec<u8>,
    /// Whether these bytes must be durable before any later ones are written.
    pub(super) sync_after: bool,
}

/// Where the log ends, and what is not written yet.
pub(super) struct Tail {
    pub(super) store: u64,
    /// Where the next record goes.
    pub(super) place: Place,
    /// Whether records may go there; else a segment must be begun first.
    pub(super) is_open: bool,
    /// How long a segment may get.
    pub(super) segment_bytes: u32,
    /// How long this one may get.
    pub(super) capacity: u32,
    pub(super) seal: Seal,
    pub(super) base: Base,
    /// Endpoints whose numbers this segment has defined.
    pub(super) endpoints: RoaringBitmap,
    /// Types that this segment has defined.
    pub(super) types: HashMap<EventType, u32>,
    pub(super) chunks: Vec<Chunk>,
    pub(super) buffered: usize,
    /// Up to where the log is known to be durable.
    pub(super) synced: Place,
    /// Bytes appended since the last checkpoint.
    pub(super) since_checkpoint: u64,
}

impl Tail {
    /// The end of an empty log.
    pub(super) fn new(store: u64, segment_bytes: u32) -> Self {
        let nowhere = Place { segment: 0, offset: 0 };
        Self {
            store,
            place: nowhere,
            is_open: false,
            segment_bytes,
            capacity: segment_bytes,
            seal: Seal { salt: 0, epoch: 0 },
            base: Base { event: 0, time: Timestamp::from_millis(0) },
            endpoints: RoaringBitmap::new(),
            types: HashMap::new(),
            chunks: Vec::new(),
            buffered: 0,
            synced: nowhere,
            since_checkpoint: 0,
        }
    }

    /// Most bytes of one batch of records.
    pub(super) fn batch_bytes_max(&self) -> usize {
        (self.segment_bytes - SEGMENT_HEADER - END_RECORD) as usize
    }

    /// For the first record of what is written at once: up to where its segment is known to be
    /// durable. Behind a bad record it proves that it was not a crash that tore it.
    pub(super) fn proof(&self) -> Option<u32> {
        let is_here = self.synced.segment == self.place.segment;
        let synced = if is_here { self.synced.offset } else { SEGMENT_HEADER };
        (self.buffered == 0).then_some(synced)
    }

    /// Begins another segment where `bytes` more do not fit into this one.
    pub(super) fn make_room(
        &mut self,
        bytes: usize,
        next_event: u64,
        now: Timestamp,
        segments: &mut Segments,
    ) {
        let room = self.capacity.saturating_sub(self.place.offset) as usize;
        if !self.is_open || bytes + END_RECORD as usize > room {
            self.roll(next_event, now, segments);
            // What may not fit into a small segment, such as a large note, makes this one longer.
            let least = SEGMENT_HEADER + bytes as u32 + END_RECORD;
            self.capacity = self.capacity.max(least);
        }
    }

    fn roll(&mut self, next_event: u64, now: Timestamp, segments: &mut Segments) {
        if self.is_open {
            self.append(kind::END, next_event, segments, |_, _| {});
        }
        let header = SegmentHeader {
            number: self.place.segment + 1,
            store: self.store,
            salt: fastrand::u64(..),
            base: next_event,
            base_time: now,
            recycled: false,
        };
        self.place = Place { segment: header.number, offset: SEGMENT_HEADER };
        self.is_open = true;
        self.capacity = self.segment_bytes;
        self.seal = Seal { salt: header.salt, epoch: 0 };
        self.base = Base { event: header.base, time: header.base_time };
        self.endpoints.clear();
        self.types.clear();
        self.chunks.push(Chunk {
            opens: Some(header),
            segment: header.number,
            offset: SEGMENT_HEADER,
            bytes: Vec::new(),
            sync_after: false,
        });
        segments.push(Segment::new(header, None));
    }

    /// Tells apart what follows from what a crash may have left beyond the end.
    pub(super) fn begin_epoch(&mut self, next_event: u64, segments: &mut Segments) {
        let epoch = self.seal.epoch + 1;
        self.append(kind::MARK, next_event, segments, |out, _| out.put_u32(epoch));
        self.seal.epoch = epoch;
        self.chunks.last_mut().expect("holds the mark").sync_after = true;
    }

    /// Adds a record; there must be room.
    pub(super) fn append(
        &mut self,
        kind: u8,
        next_event: u64,
        segments: &mut Segments,
        write: impl FnOnce(&mut Vec<u8>, Base),
    ) -> Place {
        let place = self.place;
        if self.chunks.last().is_none_or(|chunk| chunk.sync_after) {
            self.chunks.push(Chunk {
                opens: None,
                segment: place.segment,
                offset: place.offset,
                bytes: Vec::new(),
                sync_after: false,
            });
        }
        let bytes = &mut self.chunks.last_mut().expect("pushed above where there was none").bytes;
        let from = bytes.len();
        bytes.resize(from + RECORD_HEADER as usize, 0);
        write(bytes, self.base);
        self.seal.close(&mut bytes[from..], place.offset, kind);
        let len = bytes.len() - from;
        self.buffered += len;
        self.since_checkpoint += len as u64;
        self.place.offset += len as u32;
        let segment = segments.get_mut(place.segment).expect("the segment of the tail is listed");
        segment.touch(place.offset, self.seal.epoch, next_event);
        segment.end = self.place.offset;
        place
    }

    /// Makes sure that the segment defines an endpoint's number.
    pub(super) fn name_endpoint(
        &mut self,
        number: u32,
        id: &str,
        next_event: u64,
        segments: &mut Segments,
    ) {
        if self.endpoints.insert(number) {
            let name = Name::Endpoint(number, id);
            self.append(kind::NAME, next_event, segments, |out, _| name.put(out));
        }
    }

    /// The place of a type among those of the segment, defined where it was not.
    pub(super) fn name_type(
        &mut self,
        name: &EventType,
        next_event: u64,
        segments: &mut Segments,
    ) -> u32 {
        if let Some(place) = self.types.get(name) {
            return *place;
        }
        let place = self.types.len() as u32;
        self.append(kind::NAME, next_event, segments, |out, _| Name::Type(name.as_str()).put(out));
        self.types.insert(name.clone(), place);
        let segment =
            segments.get_mut(self.place.segment).expect("the segment of the tail is listed");
        std::sync::Arc::make_mut(&mut segment.types).push(name.clone());
        place
    }
}
