//! Salvage: the segments are copied as they are, so that every record keeps its place, and records
//! of the kind LOST stand for what is damaged. What the checkpoint knows is kept, but for what was
//! owed of lost events.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::super::codec::Put;
use super::super::files::{File, Files, folder_path};
use super::super::format::{
    CHECKPOINT, RECORD_HEADER, SEGMENT_HEADER, Seal, SegmentHeader, kind, segment_name,
};
use super::super::record::{Name, Place};
use super::super::recovery;
use super::super::state::State;
use super::super::writer::{Core, Writer};
use super::super::{LogStoreBuilder, SEGMENT_BYTES_DEFAULT};
use super::look::{Look, look};
use super::report::{Salvage, Severity};
use super::scan::{Loss, LossKind, Scanned};
use crate::error::{Error, ErrorKind};
use crate::event::EventType;

/// Bytes that are copied at once.
const COPY_BYTES: usize = 1 << 20;
/// Most segment files that may be missing: an empty one is made for each.
const MISSING_MAX: u32 = 10_000;

/// Bytes of a record that begins an epoch.
const MARK_BYTES: usize = RECORD_HEADER as usize + 4;

/// Salvages a folder that is locked.
///
/// # Errors
/// `Store`: see [`Doctor::repair`](super::Doctor::repair).
pub(super) fn repair(files: &Arc<dyn Files>, into: &Arc<dyn Files>) -> Result<Salvage, Error> {
    let folder = folder_path(&**into);
    let failed = |error: io::Error| {
        let what = format!("salvage into {}", folder.display());
        Error::new(ErrorKind::Store, what).because(error)
    };
    let found = look(files)?;
    let lock = into.lock().map_err(failed)?;
    copy(&found, &**into).map_err(failed)?;
    let deliveries_lost = forget(&found, into, lock).map_err(failed)??;
    let saved = look(into)?.report;
    if let Some(problem) = saved.problems.iter().find(|p| p.severity != Severity::Leftover) {
        let (file, offset, what) = (problem.file.display(), problem.offset, &problem.what);
        return Err(failed(io::Error::other(format!(
            "the result is not whole: {file}, byte {offset}: {what}"
        ))));
    }
    let covered = kept_checkpoint(&found);
    let is_torn = found.log.segments.iter().any(|scanned| scanned.torn.is_some());
    let repeats = is_torn
        || found.is_cut_short
        || found.log.losses.iter().any(|loss| {
            covered.is_none_or(|place| (loss.segment, loss.offset) >= (place.segment, place.offset))
        });
    let lost = found.report.problems.iter().filter(|p| p.severity > Severity::Leftover);
    let lost = lost.cloned().collect();
    Ok(Salvage { lost, found: found.report, saved, deliveries_lost, repeats })
}

/// Where the checkpoint ends, if it is taken over: one that ends within a stretch that becomes a record
/// would have that record read from its middle.
fn kept_checkpoint(found: &Look) -> Option<Place> {
    let place = found.state.checkpoint;
    let ends_within = |loss: &Loss| {
        let inside = u64::from(loss.offset) + 1..u64::from(loss.offset) + loss.bytes;
        loss.segment == place.segment && inside.contains(&u64::from(place.offset))
    };
    (found.has_checkpoint && !found.log.losses.iter().any(ends_within)).then_some(place)
}

/// Copies every segment and the checkpoint.
fn copy(found: &Look, into: &dyn Files) -> io::Result<()> {
    for scanned in &found.log.segments {
        copy_segment(found, scanned, into)?;
    }
    for loss in &found.log.losses {
        let count = match loss.kind {
            LossKind::Segment => 1,
            LossKind::Missing(count) if count <= MISSING_MAX => count,
            LossKind::Missing(count) => {
                let what =
                    format!("{count} segments are missing in a row, at most {MISSING_MAX} can be");
                return Err(io::Error::other(what));
            }
            LossKind::Stretch { .. } | LossKind::Rest { .. } => continue,
        };
        for number in (loss.segment..).take(count as usize) {
            stand_in(found, number, loss, into)?;
        }
    }
    if kept_checkpoint(found).is_some() {
        let from = found.view.open(CHECKPOINT, false)?;
        let to = into.open(CHECKPOINT, true)?;
        copy_bytes(&*from, &*to, from.size()?)?;
        to.sync()?;
    }
    into.sync_folder()
}

fn copy_bytes(from: &dyn File, to: &dyn File, count: u64) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BYTES.min(count as usize)];
    let mut at = 0;
    while at < count {
        let piece = buffer.len().min((count - at) as usize);
        let read = from.read_at(&mut buffer[..piece], at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_at(&buffer[..read], at)?;
        at += read as u64;
    }
    Ok(())
}

/// Copies a segment up to where its records end, and covers what is damaged.
fn copy_segment(found: &Look, scanned: &Scanned, into: &dyn Files) -> io::Result<()> {
    let number = scanned.header.number;
    let to = into.open(&segment_name(number), true)?;
    copy_bytes(&*scanned.file, &*to, scanned.report.end.min(scanned.report.bytes))?;
    let losses = found.log.losses.iter().filter(|loss| loss.segment == number);
    let mut types_done = 0;
    for loss in losses {
        types_done += cover(scanned, loss, types_done, &*to)?;
    }
    to.sync()
}

/// Puts records where damaged ones were: definitions of types that are known all the same, or what
/// follows would name types by wrong places, then one that stands for the rest. `restored` types were
/// defined again before; returns how many are now.
fn cover(scanned: &Scanned, loss: &Loss, restored: usize, to: &dyn File) -> io::Result<usize> {
    let salt = scanned.header.salt;
    let mut count = 0;
    let bytes = match loss.kind {
        LossKind::Stretch { before, after } => {
            let seal = Seal { salt, epoch: before };
            let mut records = Vec::new();
            for name in lost_types(scanned, loss, restored) {
                let mut record = vec![0; RECORD_HEADER as usize];
                Name::Type(name.as_str()).put(&mut record);
                let left = (loss.bytes as usize).checked_sub(records.len() + record.len());
                let is_filled = left == Some(0) && before == after;
                if !is_filled && left.is_none_or(|left| left < MARK_BYTES) {
                    break;
                }
                seal.close(&mut record, loss.offset + records.len() as u32, kind::NAME);
                records.put(&record);
                count += 1;
            }
            let left = loss.bytes as usize - records.len();
            if left > 0 || count == 0 {
                let offset = loss.offset + records.len() as u32;
                records.put(&stand_for(seal, offset, left, after)?);
            }
            records
        }
        LossKind::Rest { before } => lost_and_end(Seal { salt, epoch: before }, loss.offset),
        LossKind::Segment | LossKind::Missing(_) => return Ok(0),
    };
    to.write_at(&bytes, u64::from(loss.offset))?;
    Ok(count)
}

/// The types whose definitions may have been in a stretch: those between the last one before it and
/// the next one behind it.
fn lost_types<'a>(scanned: &'a Scanned, loss: &Loss, restored: usize) -> &'a [EventType] {
    let before = scanned.named.partition_point(|(offset, _)| *offset < loss.offset);
    let left = scanned.types.get(before + restored..).unwrap_or_default();
    let next = scanned.named.get(before).map(|(_, name)| name);
    let end = next.and_then(|next| left.iter().position(|name| name == next));
    &left[..end.unwrap_or(left.len())]
}

/// Records that fill a stretch, with records of the epoch `after` behind it.
fn stand_for(seal: Seal, offset: u32, len: usize, after: u32) -> io::Result<Vec<u8>> {
    let header = RECORD_HEADER as usize;
    // Where a mark was lost, the records behind it would not be valid without one.
    let mark = if seal.epoch == after { 0 } else { MARK_BYTES };
    let rest = len.checked_sub(mark.max(header)).map(|_| len - mark);
    let Some(rest) = rest else {
        let what = format!("{len} damaged bytes at {offset} are too few for a record");
        return Err(io::Error::other(what));
    };
    let mut records = vec![0; len];
    // What is too short for a record of its own becomes part of the mark.
    let mark = if rest < header { len } else { mark };
    if mark > 0 {
        records[header..header + 4].copy_from_slice(&after.to_le_bytes());
        seal.close(&mut records[..mark], offset, kind::MARK);
    }
    if mark < len {
        let seal = Seal { epoch: after, ..seal };
        seal.close(&mut records[mark..], offset + mark as u32, kind::LOST);
    }
    Ok(records)
}

/// Two empty records: something is lost here, and the segment ends.
fn lost_and_end(seal: Seal, offset: u32) -> Vec<u8> {
    let mut records = vec![0; 2 * RECORD_HEADER as usize];
    let (lost, end) = records.split_at_mut(RECORD_HEADER as usize);
    seal.close(lost, offset, kind::LOST);
    seal.close(end, offset + RECORD_HEADER, kind::END);
    records
}

/// Makes an empty segment in place of one that is lost: segments are numbered without gaps.
fn stand_in(found: &Look, number: u32, loss: &Loss, into: &dyn Files) -> io::Result<()> {
    let after = found.log.segments.iter().find(|scanned| scanned.header.number > number);
    let before = found.log.segments.iter().rfind(|scanned| scanned.header.number < number);
    let near = after.or(before).map(|scanned| scanned.header);
    let next = after.map_or(found.state.next_event, |scanned| scanned.header.base);
    let header = SegmentHeader {
        number,
        store: found.state.tail.store,
        salt: fastrand::u64(..),
        base: loss.events.as_ref().map_or(next, |events| *events.start()),
        base_time: near.map_or(found.state.now, |header| header.base_time),
        recycled: false,
    };
    let mut bytes = header.encode();
    bytes.put(&lost_and_end(Seal { salt: header.salt, epoch: 0 }, SEGMENT_HEADER));
    let to = into.open(&segment_name(number), true)?;
    to.write_at(&bytes, 0)?;
    to.sync()
}

/// Opens the copy, gives up what is owed of lost events and closes it, which writes a checkpoint.
/// Returns how many deliveries were given up.
fn forget(
    found: &Look,
    into: &Arc<dyn Files>,
    lock: Box<dyn Send + Sync>,
) -> io::Result<Result<u64, Error>> {
    let mut options = LogStoreBuilder::new(folder_path(&**into)).options;
    // Nothing is freed: that is for who opens it with his own settings.
    options.retention = Duration::MAX;
    let (mut state, _) = match recovery::open(&**into, SEGMENT_BYTES_DEFAULT, 0) {
        Ok(opened) => opened,
        Err(error) => return Ok(Err(error)),
    };
    let given_up = state.give_up(|event| !found.log.known.events.contains(event));
    // Makes closing write the checkpoint, which needs an open segment to be about.
    state.tail.since_checkpoint = 1;
    if !state.tail.is_open {
        let (next, now) = (state.next_event, state.now);
        state.tail.make_room(0, next, now, &mut state.segments);
    }
    let core = Arc::new(Core::new(Arc::clone(into), options, state));
    Writer::new(&core, lock)?.close();
    let failed = core.lock().failed.clone();
    if let Some(why) = failed {
        return Err(io::Error::other(why.to_string()));
    }
    Ok(Ok(given_up))
}

impl State {
    /// Takes deliveries of lost events out of what is owed; returns how many.
    fn give_up(&mut self, is_lost: impl Fn(u64) -> bool) -> u64 {
        let mut given_up = Vec::new();
        for lane in &mut self.lanes {
            let fresh: Vec<u64> = lane.fresh.iter().filter(|event| is_lost(*event)).collect();
            for event in &fresh {
                lane.remove_fresh(*event);
            }
            given_up.extend(fresh);
            given_up.extend(lane.take_waiting(&is_lost));
        }
        for event in &given_up {
            self.owe_less(*event);
        }
        given_up.len() as u64
    }
}
