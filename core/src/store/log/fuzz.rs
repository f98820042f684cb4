//! What fuzzing needs of the inside of the log (feature `test-util`): decoding single pieces, and
//! making checksums right, so that what is behind them is reached.

use super::checkpoint;
use super::codec::Take;
use super::facts::{self, PurgeBody, ReplayBody};
use super::format::{
    CHECKPOINT, RECORD_HEADER, SEGMENT_HEADER, Seal, SegmentHeader, kind, segment_number,
};
use super::index;
use super::moved::take_moved;
use super::record::{self, Base, Name};
use super::segment::{Segment, TypesAfterLoss, Walk};
use crate::event::EventType;
use crate::time::Timestamp;

/// Reads `bytes` as each thing that a log holds. None of it may panic or take memory without bound.
pub fn decode(bytes: &[u8]) {
    let base = Base { event: 5, time: Timestamp::from_millis(1_764_513_045_123) };
    let types = [EventType::from_static("match"), EventType::from_static("model.uploaded")];
    let _ = Name::take(bytes);
    let _ = record::take_event(bytes, base, &types);
    let _ = record::take_settle(bytes, base);
    let _ = ReplayBody::take(bytes, base);
    let _ = PurgeBody::take(bytes, base);
    let _ = facts::take_note(bytes);
    let _ = facts::take_totals(bytes);
    if let Ok(moved) = take_moved(bytes, base) {
        let _ = record::take_event(moved.event, base, &types);
    }
    let mut walk = Walk::new(bytes, SEGMENT_HEADER, Seal { salt: 0, epoch: 0 });
    let (mut places, mut placed) = (TypesAfterLoss::default(), Vec::new());
    loop {
        while let Some((_, frame)) = walk.next() {
            places.see(&frame, base, &mut placed);
        }
        places.lose();
        if !walk.skip(usize::MAX) {
            break;
        }
    }
    let Ok(header) = SegmentHeader::decode(bytes) else { return };
    let rest = &bytes[SEGMENT_HEADER as usize..];
    let _ = index::decode(rest, &mut Segment::new(header, None));
    if let Ok(Some(checkpoint)) = checkpoint::decode(rest) {
        let _ = checkpoint.take_tail_index(&mut Segment::new(header, None));
    }
}

/// Makes the checksums in a file of a log right, whatever its bytes are.
pub fn seal(name: &str, bytes: &mut [u8]) {
    if segment_number(name).is_some() {
        seal_segment(bytes);
    } else if (name == CHECKPOINT || name.strip_suffix(".idx").is_some())
        && let Some((rest, crc)) = bytes.split_last_chunk_mut::<4>()
    {
        *crc = crc32c::crc32c(rest).to_le_bytes();
    }
}

fn seal_segment(bytes: &mut [u8]) {
    let end = SEGMENT_HEADER as usize - 4;
    if bytes.len() < SEGMENT_HEADER as usize {
        return;
    }
    let crc = crc32c::crc32c(&bytes[..end]);
    bytes[end..][..4].copy_from_slice(&crc.to_le_bytes());
    let Ok(header) = SegmentHeader::decode(bytes) else { return };
    let mut seal = Seal { salt: header.salt, epoch: 0 };
    let mut at = SEGMENT_HEADER as usize;
    while let Some(record) = bytes.get_mut(at..)
        && let Some(head) = record.first_chunk::<{ RECORD_HEADER as usize }>()
    {
        let kind = head[8];
        let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let Some(record) = record.get_mut(..RECORD_HEADER as usize + len) else { return };
        if !(1..=kind::LAST).contains(&kind) {
            return;
        }
        seal.close(record, at as u32, kind);
        if kind == kind::MARK
            && let Ok(epoch) = Take::new(&record[RECORD_HEADER as usize..]).u32()
        {
            seal.epoch = epoch;
        }
        at += record.len();
    }
}
