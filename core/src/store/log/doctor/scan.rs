//! Reading the segments of a log from end to end, record by record.

use std::collections::BTreeSet;
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::super::checkpoint::Checkpoint;
use super::super::files::{File, Files, read_range, read_whole};
use super::super::format::{
    self, RECORD_HEADER, SEGMENT_HEADER, Seal, SegmentHeader, kind, segment_name,
};
use super::super::index;
use super::super::record::{self, Base};
use super::super::recovery::is_followed_by_proof;
use super::super::segment::{Segment, Walk};
use super::kinds::{Here, Known};
use super::report::SegmentReport;
use crate::event::{EventId, EventType};

/// Something of the log that is not there.
pub(super) struct Loss {
    pub(super) segment: u32,
    pub(super) offset: u32,
    pub(super) bytes: u64,
    pub(super) what: String,
    pub(super) kind: LossKind,
    /// Events that were in it.
    pub(super) events: Option<RangeInclusive<u64>>,
    /// What damaged records say of themselves: not to be believed unless something else agrees.
    pub(super) guesses: Vec<(u64, EventId)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LossKind {
    /// A stretch of a segment, between records of these epochs.
    Stretch { before: u32, after: u32 },
    /// From here on nothing of the segment is valid.
    Rest { before: u32 },
    /// The whole segment: its header is damaged.
    Segment,
    /// This many segments, whose files are not there.
    Missing(u32),
}

/// One segment as it was read.
pub(super) struct Scanned {
    pub(super) header: SegmentHeader,
    pub(super) file: Arc<dyn File>,
    pub(super) report: SegmentReport,
    /// The end of the log that a crash has torn: offset and length.
    pub(super) torn: Option<(u32, u64)>,
    /// Bytes that an earlier repair has given up.
    pub(super) given_up: u64,
    pub(super) has_loss: bool,
    /// The types that its events name by place, as an index tells.
    pub(super) types: Vec<EventType>,
    /// Where its records define types.
    pub(super) named: Vec<(u32, EventType)>,
}

/// All segments as they were read.
#[derive(Default)]
pub(super) struct Log {
    pub(super) known: Known,
    pub(super) segments: Vec<Scanned>,
    pub(super) losses: Vec<Loss>,
    /// Events that are missing where nothing tells why.
    pub(super) unexplained: Vec<(u32, u32, RangeInclusive<u64>)>,
    /// Events that an earlier repair has given up.
    pub(super) given_up: u64,
    suspect: Suspect,
}

/// What explains that event numbers are missing since the last event.
#[derive(Clone, Copy, Default)]
enum Suspect {
    #[default]
    Nothing,
    Loss(usize),
    GivenUp,
}

/// Most guesses that are kept of one loss.
const GUESSES_MAX: usize = 1000;

/// Reads the segments of a folder. What is before the place of the checkpoint was durable.
///
/// # Errors
/// Where the disk cannot be read.
pub(super) fn read(files: &dyn Files, checkpoint: Option<&Checkpoint>) -> io::Result<Log> {
    let names = files.list()?;
    let numbers: BTreeSet<u32> =
        names.iter().filter_map(|name| format::segment_number(name)).collect();
    let mut log = Log::default();
    let mut expect = None;
    let mut store = None;
    for &number in &numbers {
        if let Some(expect) = expect.filter(|expect| *expect != number) {
            let missing = number - expect;
            let what = match missing {
                1 => "a segment file is missing".to_owned(),
                _ => format!("{missing} segment files are missing"),
            };
            log.lose(expect, 0, 0, what, LossKind::Missing(missing));
        }
        expect = number.checked_add(1);
        let file = files.open(&segment_name(number), false)?;
        let size = file.size()?;
        let bytes = read_range(&*file, 0, u64::from(SEGMENT_HEADER))?;
        let header = SegmentHeader::decode(&bytes).and_then(|header| {
            if header.number != number {
                return Err(format!("its header says that it is segment {}", header.number));
            }
            if *store.get_or_insert(header.store) != header.store {
                return Err("it belongs to another store".to_owned());
            }
            Ok(header)
        });
        match header {
            Ok(header) => {
                let is_last = numbers.last() == Some(&number);
                log.scan(files, header, file, is_last, checkpoint)?;
            }
            Err(what) => log.lose(number, 0, size, what, LossKind::Segment),
        }
    }
    Ok(log)
}

impl Log {
    fn lose(&mut self, segment: u32, offset: u32, bytes: u64, what: String, kind: LossKind) {
        self.suspect = Suspect::Loss(self.losses.len());
        let (events, guesses) = (None, Vec::new());
        self.losses.push(Loss { segment, offset, bytes, what, kind, events, guesses });
    }

    /// The next event is known to be `next`: what is missing before it is lost.
    pub(super) fn reach(&mut self, next: u64, (segment, offset): (u32, u32)) {
        let expect = self.known.next_event;
        if next <= expect {
            return;
        }
        let events = expect..=next - 1;
        match self.suspect {
            Suspect::Loss(loss) => self.losses[loss].events = Some(events),
            Suspect::GivenUp => self.given_up += next - expect,
            Suspect::Nothing => self.unexplained.push((segment, offset, events)),
        }
        self.known.next_event = next;
    }

    fn scan(
        &mut self,
        files: &dyn Files,
        header: SegmentHeader,
        file: Arc<dyn File>,
        is_last: bool,
        checkpoint: Option<&Checkpoint>,
    ) -> io::Result<()> {
        let number = header.number;
        let checkpoint = checkpoint.filter(|checkpoint| checkpoint.place.segment == number);
        let synced = checkpoint.map(|checkpoint| (checkpoint.place, checkpoint.epoch));
        if self.segments.is_empty() && self.losses.is_empty() {
            self.known.oldest = header.base;
            self.known.next_event = header.base;
        }
        self.reach(header.base, (number, 0));
        let bytes = read_range(&*file, u64::from(SEGMENT_HEADER), u64::MAX)?;
        let seal = Seal { salt: header.salt, epoch: 0 };
        let mut walk = Walk::new(&bytes, SEGMENT_HEADER, seal);
        let (types, types_until) = types(files, &header, &file, checkpoint)?;
        let mut here = Here::new(&header, types.clone(), types_until);
        let (mut is_whole, mut torn, mut given_up) = (false, None, 0);
        let (mut batch_at, mut until) = (SEGMENT_HEADER, None);
        loop {
            let before = walk.seal.epoch;
            if let Some((offset, frame)) = walk.next() {
                if frame.kind == kind::EVENT && !here.is_in_batch() {
                    batch_at = offset;
                }
                if let kind::EVENT = frame.kind
                    && let Ok(start) = record::take_event_start(frame.body, base(&header))
                    && start.number > self.known.next_event
                    && start.number - header.base <= u64::from(offset)
                {
                    self.reach(start.number, (number, offset));
                }
                if frame.kind == kind::LOST {
                    given_up += u64::from(frame.len());
                    here.lose();
                    here.commit(&mut self.known);
                    self.suspect = Suspect::GivenUp;
                }
                match here.check(&mut self.known, offset, frame) {
                    Ok(()) if frame.kind == kind::EVENT => self.suspect = Suspect::Nothing,
                    Ok(()) => {}
                    Err(what) => {
                        let bytes = u64::from(frame.len());
                        let kind = LossKind::Stretch { before, after: before };
                        self.lose(number, offset, bytes, what, kind);
                        here.lose();
                    }
                }
                if frame.kind == kind::END {
                    is_whole = true;
                    break;
                }
                continue;
            }
            let offset = walk.offset();
            let synced = synced.filter(|(place, _)| place.offset > offset);
            if is_last && synced.is_none() && !is_followed_by_proof(&walk) {
                torn = end(&header, &walk, here.cut(&mut self.known).then_some(batch_at));
                break;
            }
            here.commit(&mut self.known);
            here.lose();
            let left = walk.rest().len() as u64;
            let from = walk.clone();
            let is_found = walk.skip(usize::MAX);
            let (what, bytes, kind) = if is_found {
                let kind = LossKind::Stretch { before, after: walk.seal.epoch };
                ("no valid record", u64::from(walk.offset() - offset), kind)
            } else if is_last && let Some((place, after)) = synced {
                until = Some(place.offset);
                let bytes = u64::from(place.offset - offset);
                (
                    "no valid record up to where the log ended",
                    bytes,
                    LossKind::Stretch { before, after },
                )
            } else {
                ("no valid record up to the end", left, LossKind::Rest { before })
            };
            self.lose(number, offset, bytes, what.to_owned(), kind);
            if let Some(loss) = self.losses.last_mut() {
                loss.guesses = guess(&from, bytes, base(&header));
            }
            if !is_found {
                break;
            }
        }
        here.commit(&mut self.known);
        let end = torn.map_or_else(|| until.unwrap_or(walk.offset()), |(offset, _)| offset);
        let has_loss = here.has_loss();
        let report = SegmentReport {
            file: files.path(&segment_name(number)),
            number,
            bytes: file.size()?,
            end: u64::from(end),
            is_whole,
            records: here.records,
            events: here.events,
            times: here.times,
        };
        let named = here.named;
        let scanned = Scanned { header, file, report, torn, given_up, has_loss, types, named };
        self.segments.push(scanned);
        Ok(())
    }
}

/// The types that an index tells a segment to have defined, and up to where it does.
fn types(
    files: &dyn Files,
    header: &SegmentHeader,
    file: &Arc<dyn File>,
    checkpoint: Option<&Checkpoint>,
) -> io::Result<(Vec<EventType>, u32)> {
    let mut segment = Segment::new(*header, Some(Arc::clone(file)));
    let bytes = read_whole(files, &format::index_name(header.number))?;
    if bytes.is_some_and(|bytes| index::decode(&bytes, &mut segment).is_ok()) {
        return Ok((segment.types.to_vec(), segment.end));
    }
    let mut segment = Segment::new(*header, Some(Arc::clone(file)));
    if let Some(checkpoint) = checkpoint
        && checkpoint.take_tail_index(&mut segment).is_ok()
    {
        return Ok((segment.types.to_vec(), checkpoint.place.offset));
    }
    Ok((Vec::new(), 0))
}

fn base(header: &SegmentHeader) -> Base {
    Base { event: header.base, time: header.base_time }
}

/// What a crash left at the end of the log, from the batch that it cut or from here on.
fn end(header: &SegmentHeader, walk: &Walk<'_>, batch_at: Option<u32>) -> Option<(u32, u64)> {
    let rest = walk.rest();
    let is_torn = if header.recycled {
        walk.seal.begins(rest, walk.offset())
    } else {
        rest.iter().any(|byte| *byte != 0)
    };
    if !is_torn && batch_at.is_none() {
        return None;
    }
    let from = batch_at.unwrap_or(walk.offset());
    let left = rest.iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1);
    let left = if header.recycled { 0 } else { left };
    Some((from, u64::from(walk.offset() - from) + left))
}

/// Events that damaged records tell of, going from one to the next by their lengths.
fn guess(walk: &Walk<'_>, bytes: u64, base: Base) -> Vec<(u64, EventId)> {
    let mut guesses = Vec::new();
    let lost = walk.rest().get(..bytes as usize).unwrap_or_default();
    let mut at = 0;
    while guesses.len() < GUESSES_MAX
        && let Some(rest) = lost.get(at..)
        && walk.seal.begins(rest, walk.offset() + at as u32)
        && let Some((len, body)) = rest.split_first_chunk::<4>()
    {
        let len = u32::from_le_bytes(*len) as usize;
        let body = &body[RECORD_HEADER as usize - 4..];
        let body = &body[..len.min(body.len())];
        if rest[8] == kind::EVENT
            && let Ok(start) = record::take_event_start(body, base)
        {
            guesses.push((start.number, start.id));
        }
        at += RECORD_HEADER as usize + len;
    }
    guesses
}
