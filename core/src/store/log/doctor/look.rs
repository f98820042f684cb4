//! One look at a folder: what it holds, and everything that is wrong with it.

use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use roaring::RoaringTreemap;

use super::super::SEGMENT_BYTES_MIN;
use super::super::checkpoint;
use super::super::files::{Files, folder_path, read_whole};
use super::super::format::{
    self, CHECKPOINT, CHECKPOINT_NEW, SEGMENT_NEW, SPARE, SPARE_NEW, fingerprint, index_name,
    segment_name,
};
use super::super::index;
use super::super::recovery::{self, Recovery};
use super::super::segment::Segment;
use super::super::state::State;
use super::derived;
use super::report::{OtherFile, Owed, Problem, Report, Severity};
use super::scan::{self, Log, Loss, Scanned};
use super::view::View;
use crate::error::{Error, ErrorKind};
use crate::event::EventId;
use crate::time::Timestamp;

/// Everything that was found.
pub(super) struct Look {
    pub(super) report: Report,
    pub(super) log: Log,
    pub(super) view: View,
    /// Whether the checkpoint is valid: what it tells counts.
    pub(super) has_checkpoint: bool,
    /// Whether a checkpoint tells of more than is left of the log.
    pub(super) is_cut_short: bool,
    /// What the store would know.
    pub(super) state: State,
}

/// Looks at a folder that is locked.
///
/// # Errors
/// `Store`: see [`Doctor::examine`](super::Doctor::examine).
pub(super) fn look(files: &Arc<dyn Files>) -> Result<Look, Error> {
    let folder = folder_path(&**files);
    let failed = |error: io::Error| {
        let what = format!("look at the log in {}", folder.display());
        Error::new(ErrorKind::Store, what).because(error)
    };
    let mut names = files.list().map_err(failed)?;
    names.sort();
    if !names.iter().any(|name| is_ours(name)) {
        let what = format!("look at the log in {}: it holds no log of ours", folder.display());
        return Err(Error::new(ErrorKind::Store, what));
    }
    let view = View::new(files).map_err(failed)?;
    let (state, recovery) = recovery::open(&view, SEGMENT_BYTES_MIN, 0)?;
    let told = read_whole(&view, CHECKPOINT).map_err(failed)?;
    let told = told.and_then(|bytes| checkpoint::decode(&bytes).ok().flatten());
    let told = told.filter(|told| told.store == state.tail.store);
    let used = told.as_ref().filter(|_| recovery.checkpoint);
    let mut log = scan::read(&view, used).map_err(failed)?;
    // A checkpoint tells how many events there were, also where it tells of more than is left.
    let next = told.as_ref().map_or(0, |told| told.next_event).max(state.next_event);
    log.reach(next, (state.tail.place.segment, state.tail.place.offset));

    let mut problems = Problems { view: &view, list: Vec::new() };
    for loss in &log.losses {
        let ids = known_ids(&view, &log, loss, state.tail.store).map_err(failed)?;
        problems.loss(loss, ids);
    }
    problems.segments(&log);
    for scanned in &log.segments {
        problems.list.extend(derived::check_index(&view, scanned).map_err(failed)?);
    }
    problems.recovery(&recovery);
    if recovery.checkpoint && log.is_whole() && view.mended().next().is_none() {
        let by_records = view.without(|name| name == CHECKPOINT);
        let (expect, _) = recovery::open(&by_records, SEGMENT_BYTES_MIN, 0)?;
        if let Some(what) = derived::difference(&state, &expect) {
            let what = format!("the checkpoint does not fit the records: {what}");
            problems.add(Severity::Damage, CHECKPOINT, what);
        }
    }
    let owed = owed(&state, &log);
    let lost = lost(&view, &state, &log).map_err(failed)?;
    problems.lost_besides(&lost, &log);
    let others = others(&view, &names, &mut problems);
    problems.unreadable();
    let mut problems = problems.list;
    problems.sort_by(|a, b| (&a.file, a.offset).cmp(&(&b.file, b.offset)));

    let times = log.segments.iter().filter_map(|scanned| scanned.report.times);
    let times = times.reduce(|(oldest, newest), (from, to)| (oldest.min(from), newest.max(to)));
    let segments: Vec<_> = log.segments.iter().map(|scanned| scanned.report.clone()).collect();
    let bytes = segments.iter().map(|segment| segment.bytes).sum::<u64>()
        + others.iter().map(|other| other.bytes).sum::<u64>();
    let has_number = recovery.checkpoint || !segments.is_empty();
    let report = Report {
        folder,
        store: has_number.then_some(state.tail.store),
        segments,
        others,
        events: log.known.events.len(),
        events_lost: log.events_lost(&lost),
        owed,
        times: times.map(|(from, to): (Timestamp, Timestamp)| (from, to)),
        bytes,
        problems,
    };
    let is_cut_short = told.is_some() && !recovery.checkpoint;
    Ok(Look { report, log, has_checkpoint: recovery.checkpoint, is_cut_short, state, view })
}

/// Whether a file tells that this is the folder of a log.
fn is_ours(name: &str) -> bool {
    name == format::LOCK || name == CHECKPOINT || format::segment_number(name).is_some()
}

impl Log {
    /// Whether every record since the first segment's first is there.
    fn is_whole(&self) -> bool {
        self.losses.is_empty() && self.segments.iter().all(|scanned| scanned.given_up == 0)
    }

    fn gaps(&self) -> impl Iterator<Item = &RangeInclusive<u64>> {
        let gaps = self.losses.iter().filter_map(|loss| loss.events.as_ref());
        gaps.chain(self.unexplained.iter().map(|(_, _, events)| events))
    }

    /// Events that were accepted, have no record any more, and were not given up before; `others`
    /// are lost beside those whose numbers are missing.
    fn events_lost(&self, others: &RoaringTreemap) -> u64 {
        let numbers = |gap: &RangeInclusive<u64>| {
            // Those that were copied forward are there.
            let there = self.known.events.range_cardinality(gap.clone());
            gap.end() - gap.start() + 1 - there - others.range_cardinality(gap.clone())
        };
        self.gaps().map(numbers).sum::<u64>() + others.len()
    }

    pub(super) fn scanned(&self, number: u32) -> Option<&Scanned> {
        self.segments.iter().find(|scanned| scanned.header.number == number)
    }
}

struct Problems<'a> {
    view: &'a View,
    list: Vec<Problem>,
}

impl Problems<'_> {
    /// A problem of a whole file.
    fn add(&mut self, severity: Severity, name: &str, what: impl Into<String>) -> &mut Problem {
        let bytes = self.view.open(name, false).and_then(|file| file.size()).unwrap_or(0);
        self.push(severity, self.view.path(name), 0, bytes, what.into())
    }

    fn push(
        &mut self,
        severity: Severity,
        file: PathBuf,
        offset: u64,
        bytes: u64,
        what: String,
    ) -> &mut Problem {
        let (events, ids) = (None, Vec::new());
        self.list.push(Problem { severity, file, offset, bytes, what, events, ids });
        self.list.last_mut().expect("pushed above")
    }

    fn loss(&mut self, loss: &Loss, ids: Vec<EventId>) {
        let file = self.view.path(&segment_name(loss.segment));
        let (offset, what) = (u64::from(loss.offset), loss.what.clone());
        let problem = self.push(Severity::Damage, file, offset, loss.bytes, what);
        problem.events.clone_from(&loss.events);
        problem.ids = ids;
    }

    fn segments(&mut self, log: &Log) {
        for (segment, offset, events) in &log.unexplained {
            let what = format!("{} are missing before it", numbers(events));
            let file = self.view.path(&segment_name(*segment));
            let problem = self.push(Severity::Damage, file, u64::from(*offset), 0, what);
            problem.events = Some(events.clone());
        }
        for number in self.view.mended() {
            let what = "bits of its header are wrong; a repair mends it, opening does without it";
            self.add(Severity::Damage, &segment_name(number), what).bytes =
                u64::from(format::SEGMENT_HEADER);
        }
        for scanned in &log.segments {
            let number = scanned.header.number;
            let file = self.view.path(&segment_name(number));
            if let Some((offset, bytes)) = scanned.torn {
                let what = "the end of the log was torn by a crash; it was not acknowledged";
                self.push(Severity::Torn, file.clone(), u64::from(offset), bytes, what.to_owned());
            }
            if scanned.given_up > 0 {
                let what = "an earlier repair has given up records here".to_owned();
                self.push(Severity::Leftover, file, 0, scanned.given_up, what);
            }
        }
    }

    /// What opening complains of beside the segments.
    fn recovery(&mut self, recovery: &Recovery) {
        for damage in &recovery.damaged {
            let name = damage.file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if format::segment_number(name).is_none() {
                let (file, what) = (damage.file.clone(), damage.what.clone());
                self.push(Severity::Damage, file, damage.offset, damage.bytes, what);
            }
        }
    }

    /// Events that were copied forward, or owed, and are nowhere: they are in none of the gaps.
    fn lost_besides(&mut self, lost: &RoaringTreemap, log: &Log) {
        let mut lost = lost.clone();
        for gap in log.gaps() {
            lost.remove_range(gap.clone());
        }
        if let (Some(first), Some(last)) = (lost.min(), lost.max()) {
            let count = lost.len();
            let why = if log.losses.is_empty() {
                "the oldest segment files are missing"
            } else {
                "they were copied forward into what is damaged"
            };
            let what = format!("no record is left of {count} older events: {why}");
            let problem = self.push(Severity::Damage, folder_path(self.view), 0, 0, what);
            problem.events = Some(first..=last);
        }
    }

    fn unreadable(&mut self) {
        let unreadable = self.view.unreadable().clone();
        for found in unreadable {
            let what = format!("the disk cannot read it: {}", found.error);
            let file = self.view.path(&found.name);
            self.push(Severity::Damage, file, found.offset, found.bytes, what);
        }
    }
}

fn numbers(events: &RangeInclusive<u64>) -> String {
    if events.start() == events.end() {
        format!("event {}", events.start())
    } else {
        format!("events {} to {}", events.start(), events.end())
    }
}

/// The ids of lost events that a damaged record tells and an index confirms.
fn known_ids(view: &View, log: &Log, loss: &Loss, store: u64) -> io::Result<Vec<EventId>> {
    let Some(events) = loss.events.as_ref().filter(|_| !loss.guesses.is_empty()) else {
        return Ok(Vec::new());
    };
    let Some(scanned) = log.scanned(loss.segment) else { return Ok(Vec::new()) };
    let mut segment = Segment::new(scanned.header, Some(scanned.file.clone()));
    index::load(view, &mut segment)?;
    let is_it = |number: &u64, id: &EventId| {
        let place = number.checked_sub(scanned.header.base).map(|place| place as usize);
        let print = place.and_then(|place| segment.prints.get(place));
        let is_lost = events.contains(number) && !log.known.events.contains(*number);
        is_lost && print == Some(&fingerprint(store, id))
    };
    let known = loss.guesses.iter().filter(|(number, id)| is_it(number, id));
    Ok(known.map(|(_, id)| id.clone()).collect())
}

/// Events without a record that are owed, or that an index tells to have been copied forward.
fn lost(view: &View, state: &State, log: &Log) -> io::Result<RoaringTreemap> {
    let mut lost = RoaringTreemap::new();
    for lane in &state.lanes {
        lost |= &lane.fresh;
        lost.extend(lane.waiting.keys().map(|(_, event)| *event));
    }
    let is_damaged = |number| log.losses.iter().any(|loss| loss.segment == number);
    for scanned in log.segments.iter().filter(|scanned| is_damaged(scanned.header.number)) {
        let mut segment = Segment::new(scanned.header, Some(scanned.file.clone()));
        index::load(view, &mut segment)?;
        lost.extend(segment.copied.iter().map(|(_, event)| *event));
    }
    lost -= &log.known.events;
    Ok(lost)
}

fn owed(state: &State, log: &Log) -> Vec<Owed> {
    let there = &log.known.events;
    let lanes = state.lanes.iter().filter(|lane| lane.owes()).map(|lane| {
        let tried = lane.waiting.keys().filter(|(_, event)| !there.contains(*event));
        Owed {
            endpoint: lane.id.clone(),
            fresh: lane.fresh.len(),
            tried: lane.waiting.len() as u64,
            lost: (&lane.fresh - there).len() + tried.count() as u64,
        }
    });
    let mut owed: Vec<Owed> = lanes.collect();
    owed.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
    owed
}

/// The files that are no segments.
fn others(view: &View, names: &[String], problems: &mut Problems<'_>) -> Vec<OtherFile> {
    let mut others = Vec::new();
    for name in names.iter().filter(|name| format::segment_number(name).is_none()) {
        // A folder, or a file that is none of ours and cannot be opened.
        let Ok(bytes) = view.open(name, false).and_then(|file| file.size()) else { continue };
        let what = match name.as_str() {
            format::LOCK => "lock",
            CHECKPOINT => "checkpoint",
            SPARE => "spare",
            CHECKPOINT_NEW | SEGMENT_NEW | SPARE_NEW => {
                let what = "it was being made when a process ended; opening removes it";
                problems.add(Severity::Leftover, name, what);
                "leftover"
            }
            _ => match name.strip_suffix(".idx").and_then(|number| number.parse().ok()) {
                Some(number) if index_name(number) == *name => {
                    if !names.contains(&segment_name(number)) {
                        let what = "the index of a segment that is not there";
                        problems.add(Severity::Leftover, name, what);
                    }
                    "index"
                }
                _ => "not of the log",
            },
        };
        others.push(OtherFile { file: view.path(name), bytes, what });
    }
    others
}
