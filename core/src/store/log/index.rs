//! Index files: where the events of a whole segment are, and the fingerprints of their ids. Derived:
//! one that is missing or damaged is made again from its segment.

use std::io;

use super::block::Summary;
use super::codec::{Decoded, Malformed, Put, Take};
use super::facts::PurgeBody;
use super::files::{Files, read_whole};
use super::format::{MAJOR, MINOR, fingerprint, index_name, kind};
use super::moved::moved_event;
use super::record::{self, Name};
use super::segment::{Segment, Walk};
use super::stands::Ended;

const MAGIC: &[u8; 8] = b"PRIDEIDX";

/// Encodes the index of a whole segment.
pub(super) fn encode(segment: &Segment) -> Vec<u8> {
    let mut out = Vec::new();
    out.put(MAGIC);
    out.put_u16(MAJOR);
    out.put_u16(MINOR);
    // The salt tells apart the lives of one file.
    out.put_u64(segment.header.salt);
    segment.put_index(&mut out);
    out.put_u32(crc32c::crc32c(&out));
    out
}

fn decode(bytes: &[u8], segment: &mut Segment) -> Decoded<()> {
    let (bytes, crc) = bytes.split_last_chunk::<4>().ok_or(Malformed)?;
    if crc32c::crc32c(bytes) != u32::from_le_bytes(*crc) {
        return Err(Malformed);
    }
    let mut take = Take::new(bytes);
    // What another version wrote is made again.
    let is_ours = take.bytes(8)? == MAGIC && take.u16()? == MAJOR && take.u16()? == MINOR;
    if !is_ours || take.u64()? != segment.header.salt {
        return Err(Malformed);
    }
    segment.take_index(&mut take)
}

/// Writes a segment's index. Not synced: it can be made again.
pub(super) fn write(files: &dyn Files, number: u32, bytes: &[u8]) -> io::Result<()> {
    files.open(&index_name(number), true)?.write_at(bytes, 0)
}

/// Reads a segment's index, or makes it from the segment.
pub(super) fn load(files: &dyn Files, segment: &mut Segment) -> io::Result<()> {
    let bytes = read_whole(files, &index_name(segment.header.number))?;
    if bytes.is_some_and(|bytes| decode(&bytes, segment).is_ok()) {
        return Ok(());
    }
    rebuild(segment)?;
    save(files, segment);
    Ok(())
}

/// Writes a segment's index; a failure is only reported, the index would be made again.
pub(super) fn save(files: &dyn Files, segment: &Segment) {
    if let Err(error) = write(files, segment.header.number, &encode(segment)) {
        tracing::warn!(segment = segment.header.number, %error, "index not written");
    }
}

fn rebuild(segment: &mut Segment) -> io::Result<()> {
    use super::format::{SEGMENT_HEADER, Seal};
    let Some(file) = segment.file.clone() else { return Ok(()) };
    let bytes = super::files::read_range(&*file, u64::from(SEGMENT_HEADER), u64::MAX)?;
    let base = segment.base();
    *segment = Segment::new(segment.header, Some(file));
    let seal = Seal { salt: segment.header.salt, epoch: 0 };
    let mut walk = Walk::new(&bytes, SEGMENT_HEADER, seal);
    while !walk.rest().is_empty() {
        let epoch = walk.seal.epoch;
        let Some((offset, frame)) = walk.next() else {
            if walk.skip(usize::MAX) {
                continue;
            }
            break;
        };
        let next = base.event + segment.prints.len() as u64;
        segment.touch(offset, epoch, next);
        segment.end = walk.offset();
        match frame.kind {
            kind::NAME => {
                if let Ok(Name::Type(name)) = Name::take(frame.body)
                    && let Ok(name) = name.parse()
                {
                    std::sync::Arc::make_mut(&mut segment.types).push(name);
                }
            }
            kind::EVENT => {
                if let Ok(start) = record::take_event_start(frame.body, base) {
                    note_event(segment, &start);
                }
            }
            kind::SETTLE => {
                if let Ok(start) = record::take_settle_start(frame.body, base)
                    && Ended::by(start.decision).is_some()
                {
                    segment.note_settled(start.event);
                }
            }
            kind::PURGE => {
                if let Ok(purge) = PurgeBody::take(frame.body, base) {
                    purge.runs.iter().for_each(|run| segment.note_settled(run.event));
                }
            }
            kind::MOVED => {
                if let Ok(body) = moved_event(frame.body)
                    && let Ok(start) = record::take_event_start(body, base)
                {
                    note_copied(segment, &start);
                }
            }
            kind::END => break,
            _ => {}
        }
    }
    Ok(())
}

/// Notes an event that a scan found. What is missing before it leaves empty fingerprints.
pub(super) fn note_event(segment: &mut Segment, start: &record::EventStart<'_>) {
    let place = start.number.saturating_sub(segment.header.base) as usize;
    // Bounded: a segment holds fewer events than bytes.
    if place >= segment.prints.len() && place < segment.end as usize {
        segment.prints.resize(place, 0);
        segment.prints.push(fingerprint(segment.header.store, &start.id));
        segment.last_time = segment.last_time.max(start.accepted_at);
    }
    segment.note_event(&Summary::of(start.accepted_at, start.kind, &start.targets));
}

/// Notes a copied event that a scan found.
pub(super) fn note_copied(segment: &mut Segment, start: &record::EventStart<'_>) {
    let print = fingerprint(segment.header.store, &start.id);
    segment.note_copied(print, start.number);
    segment.note_event(&Summary::of(start.accepted_at, start.kind, &start.targets));
}

/// The numbers of the events in a whole segment whose id has this fingerprint.
pub(super) fn find(files: &dyn Files, segment: &mut Segment, print: u64) -> io::Result<Vec<u64>> {
    load(files, segment)?;
    Ok(find_in(segment, print).collect())
}

/// The same, in a segment whose fingerprints are in memory.
pub(super) fn find_in(segment: &Segment, print: u64) -> impl Iterator<Item = u64> + '_ {
    let accepted = segment.prints.iter().zip(segment.header.base..);
    let accepted = accepted.filter(move |(found, _)| **found == print).map(|(_, event)| event);
    let copied = segment.copied.iter().filter(move |(found, _)| *found == print);
    accepted.chain(copied.map(|(_, event)| *event))
}
