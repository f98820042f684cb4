//! Framing: segment headers, record headers, checksums. The bytes are described in
//! `docs/LOG_FORMAT.md`; what a record's body holds is in [`super::record`].

use super::codec::{Decoded, Malformed, Put, Take};
use crate::event::EventId;
use crate::time::Timestamp;

/// Layout that older programs cannot read.
pub(super) const MAJOR: u16 = 1;
/// Additions that older programs of the same major version skip.
pub(super) const MINOR: u16 = 1;

const MAGIC: &[u8; 8] = b"PRIDELOG";

/// No event has a higher number: sums of numbers do not overflow.
pub(super) const EVENTS_MAX: u64 = 1 << 62;
/// No place in a segment is further from its beginning.
pub(super) const OFFSET_MAX: u32 = 1 << 31;

/// Bytes of a segment's header; the first record follows it.
pub(super) const SEGMENT_HEADER: u32 = 64;
/// Bytes of a record's header.
pub(super) const RECORD_HEADER: u32 = 10;
/// Kept free at the end of a segment for the record that ends it.
pub(super) const END_RECORD: u32 = RECORD_HEADER;

/// Kinds of records; a reader skips the ones it does not know.
pub(super) mod kind {
    /// Defines the number of an endpoint or the place of a type name in this segment.
    pub(in super::super) const NAME: u8 = 1;
    /// An accepted event and the endpoints it goes to.
    pub(in super::super) const EVENT: u8 = 2;
    /// An attempt and what was decided.
    pub(in super::super) const SETTLE: u8 = 3;
    /// An event copied forward, with the state of each delivery.
    pub(in super::super) const MOVED: u8 = 4;
    /// The log was opened again: later records carry a new epoch.
    pub(in super::super) const MARK: u8 = 5;
    /// Nothing follows in this segment.
    pub(in super::super) const END: u8 = 6;
    /// Deliveries made again, and a note.
    pub(in super::super) const REPLAY: u8 = 7;
    /// Dead deliveries set aside.
    pub(in super::super) const PURGE: u8 = 8;
    /// A note kept or removed.
    pub(in super::super) const NOTE: u8 = 9;
    /// What was counted of endpoints up to here.
    pub(in super::super) const TOTALS: u8 = 10;
    /// Covers a stretch that was damaged and that a repair has given up.
    pub(in super::super) const LOST: u8 = 31;
    /// The highest kind that a reader takes for a record.
    pub(in super::super) const LAST: u8 = 31;
}

/// The beginning of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// Counts from 1, without gaps.
    pub(super) number: u32,
    /// The same in all segments of a store.
    pub(super) store: u64,
    /// Random, new each time a file is used.
    pub(super) salt: u64,
    /// The first event that this segment accepts.
    pub(super) base: u64,
    /// What the times in its records count from.
    pub(super) base_time: Timestamp,
    /// Whether the file was used before: what lies beyond its records is then old, not torn.
    pub(super) recycled: bool,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SEGMENT_HEADER as usize);
        bytes.put(MAGIC);
        bytes.put_u16(MAJOR);
        bytes.put_u16(MINOR);
        bytes.put_u32(self.number);
        bytes.put_u64(self.store);
        bytes.put_u64(self.salt);
        bytes.put_u64(self.base);
        bytes.put_i64(self.base_time.as_millis());
        bytes.put_u8(u8::from(self.recycled));
        bytes.resize(SEGMENT_HEADER as usize - 4, 0);
        bytes.put_u32(crc32c::crc32c(&bytes));
        bytes
    }

    /// Reads a header.
    ///
    /// # Errors
    /// In words: what is wrong with it.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let broken = |_: Malformed| "its header is incomplete".to_owned();
        let mut take = Take::new(bytes.get(..SEGMENT_HEADER as usize).unwrap_or_default());
        if take.bytes(8).map_err(broken)? != MAGIC {
            return Err("it is not a segment of this log".to_owned());
        }
        let major = take.u16().map_err(broken)?;
        let read = |mut take: Take<'_>| -> Decoded<Self> {
            take.u16()?;
            Ok(Self {
                number: take.u32()?,
                store: take.u64()?,
                salt: take.u64()?,
                base: take.u64()?,
                base_time: Timestamp::from_millis(take.i64()?),
                recycled: take.u8()? & 1 == 1,
            })
        };
        let end = SEGMENT_HEADER as usize - 4;
        let expect = Take::new(&bytes[end..]).u32().map_err(broken)?;
        if crc32c::crc32c(&bytes[..end]) != expect {
            return Err("the checksum of its header is wrong".to_owned());
        }
        if major != MAJOR {
            return Err(format!("it has format {major}, this program reads format {MAJOR}"));
        }
        let header = read(take).map_err(broken)?;
        if header.base > EVENTS_MAX {
            return Err("the number of its first event is too high".to_owned());
        }
        Ok(header)
    }
}

/// What the checksums of one segment's records start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seal {
    pub(super) salt: u64,
    /// How often the segment was opened to be written.
    pub(super) epoch: u32,
}

impl Seal {
    /// The checksum up to the body, without the epoch: its lowest byte is the header's own check.
    fn head(&self, offset: u32, len: u32, kind: u8) -> u32 {
        let mut head = [0; 17];
        head[..8].copy_from_slice(&self.salt.to_le_bytes());
        head[8..12].copy_from_slice(&offset.to_le_bytes());
        head[12..16].copy_from_slice(&len.to_le_bytes());
        head[16] = kind;
        crc32c::crc32c(&head)
    }

    fn whole(&self, head: u32, body: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c_append(head, &self.epoch.to_le_bytes()), body)
    }

    /// Fills in the header of a record that begins at `record[0]`, and at `offset` in its segment.
    pub(super) fn close(&self, record: &mut [u8], offset: u32, kind: u8) {
        let (header, body) = record.split_at_mut(RECORD_HEADER as usize);
        let len = body.len() as u32;
        let head = self.head(offset, len, kind);
        header[..4].copy_from_slice(&len.to_le_bytes());
        header[4..8].copy_from_slice(&self.whole(head, body).to_le_bytes());
        header[8] = kind;
        header[9] = head as u8;
    }

    /// The kind and length of the record whose header is `header`, if it can be one.
    fn peek(&self, header: &[u8; RECORD_HEADER as usize], offset: u32) -> Option<(u8, u32, u32)> {
        let [a, b, c, d, .., kind, check] = *header;
        let len = u32::from_le_bytes([a, b, c, d]);
        if kind == 0 || kind > kind::LAST {
            return None;
        }
        let head = self.head(offset, len, kind);
        (head as u8 == check).then_some((kind, len, head))
    }

    /// The record that begins at `bytes[0]`, and at `offset` in its segment; `None` where there is
    /// no whole, valid one.
    pub(super) fn open<'a>(&self, bytes: &'a [u8], offset: u32) -> Option<Frame<'a>> {
        let (header, rest) = bytes.split_first_chunk()?;
        let (kind, len, head) = self.peek(header, offset)?;
        let body = rest.get(..len as usize)?;
        let expect = Take::new(&header[4..]).u32().ok()?;
        (self.whole(head, body) == expect).then_some(Frame { kind, body })
    }

    /// Whether a record header stands at `bytes[0]`, its body whole or not.
    pub(super) fn begins(&self, bytes: &[u8], offset: u32) -> bool {
        bytes.first_chunk().is_some_and(|header| self.peek(header, offset).is_some())
    }
}

/// A record whose checksum is right.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) kind: u8,
    pub(super) body: &'a [u8],
}

impl Frame<'_> {
    /// Header and body, in bytes.
    pub(super) fn len(&self) -> u32 {
        RECORD_HEADER + self.body.len() as u32
    }
}

/// 64 bits that tell ids apart within one store. Two ids may share them: whoever finds one looks at
/// the event itself.
pub(super) fn fingerprint(store: u64, id: &EventId) -> u64 {
    let mix = |hash: u64, word: u64| {
        let hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^ (hash >> 32)
    };
    let words = |mut hash: u64, bytes: &[u8]| {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            hash = mix(hash, u64::from_le_bytes(word));
        }
        mix(hash, bytes.len() as u64)
    };
    match id.as_uuid() {
        Some(uuid) => words(store, uuid.as_bytes()),
        None => words(!store, id.encode(&mut [0; 36]).as_bytes()),
    }
}

/// The name of a segment's file.
pub(super) fn segment_name(number: u32) -> String {
    format!("{number:010}.seg")
}

/// The name of a segment's index.
pub(super) fn index_name(number: u32) -> String {
    format!("{number:010}.idx")
}

/// The number in the name of a segment's file.
pub(super) fn segment_number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".seg")?;
    let number: u32 = (digits.len() == 10).then(|| digits.parse().ok())??;
    // Behind the last number there is none for the next segment.
    (number < u32::MAX).then_some(number)
}

/// The name of the file that is locked.
pub(super) const LOCK: &str = "lock";
/// The checkpoint's name.
pub(super) const CHECKPOINT: &str = "checkpoint";
/// A checkpoint that is being written.
pub(super) const CHECKPOINT_NEW: &str = "checkpoint.new";
/// A file that becomes a segment.
pub(super) const SEGMENT_NEW: &str = "segment.new";
/// A zeroed or used file, ready to become a segment.
pub(super) const SPARE: &str = "spare.seg";
/// A file being zeroed.
pub(super) const SPARE_NEW: &str = "spare.new";

#[cfg(test)]
mod tests {
    use super::*;

    const SEAL: Seal = Seal { salt: 7, epoch: 1 };

    fn record(body: &[u8], offset: u32) -> Vec<u8> {
        let mut record = vec![0; RECORD_HEADER as usize];
        record.put(body);
        SEAL.close(&mut record, offset, kind::EVENT);
        record
    }

    #[test]
    fn a_record_is_valid_only_where_and_when_it_was_written() {
        let bytes = record(b"body", 100);
        let frame = SEAL.open(&bytes, 100).unwrap();
        assert_eq!((frame.kind, frame.body, frame.len()), (kind::EVENT, &b"body"[..], 14));
        assert!(SEAL.open(&bytes, 101).is_none(), "another offset");
        assert!(Seal { salt: 8, ..SEAL }.open(&bytes, 100).is_none(), "another salt");
        assert!(Seal { epoch: 2, ..SEAL }.open(&bytes, 100).is_none(), "another epoch");
        for end in 0..bytes.len() {
            assert!(SEAL.open(&bytes[..end], 100).is_none(), "cut at {end}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut broken = bytes.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(SEAL.open(&broken, 100).is_none(), "bit {bit} flipped");
        }
        assert!(SEAL.open(&[0; 100], 100).is_none(), "zeros are no record");
    }

    #[test]
    fn segment_headers_come_back() {
        let header = SegmentHeader {
            number: 3,
            store: 1,
            salt: 2,
            base: 99,
            base_time: Timestamp::from_millis(-5),
            recycled: true,
        };
        let bytes = header.encode();
        assert_eq!(bytes.len(), SEGMENT_HEADER as usize);
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        for at in 0..bytes.len() {
            let mut broken = bytes.clone();
            broken[at] ^= 1;
            assert!(SegmentHeader::decode(&broken).is_err(), "byte {at}");
            assert!(SegmentHeader::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn file_names() {
        assert_eq!(segment_number(&segment_name(u32::MAX - 1)), Some(u32::MAX - 1));
        assert_eq!(segment_number(&segment_name(u32::MAX)), None, "no segment could follow it");
        assert_eq!(segment_number("spare.seg"), None);
        assert_eq!(segment_number("1.seg"), None);
    }
}
