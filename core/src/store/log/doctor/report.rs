//! What a look at a data folder tells.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use crate::endpoint::EndpointId;
use crate::event::EventId;
use crate::time::Timestamp;

/// How bad a [`Problem`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Severity {
    /// Nothing is wrong: something is left over, and opening the log removes or ignores it.
    Leftover,
    /// What a crash leaves: nothing of it was acknowledged, and opening the log cuts or remakes it.
    Torn,
    /// Bytes are not what was written.
    Damage,
}

/// Something that should not be so.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// The file; the folder where it is about no single one.
    pub file: PathBuf,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes; 0 where a file is missing.
    pub bytes: u64,
    /// What is wrong, in words.
    pub what: String,
    /// Numbers of events whose records were there, as far as they can be told. Of several problems
    /// in a row, the last one names them.
    pub events: Option<RangeInclusive<u64>>,
    /// Ids of some of them, at most 1000, where they can still be read.
    pub ids: Vec<EventId>,
}

/// A segment of the log.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SegmentReport {
    /// The file.
    pub file: PathBuf,
    /// Its number.
    pub number: u32,
    /// How long the file is.
    pub bytes: u64,
    /// Where its records end.
    pub end: u64,
    /// Whether it is full, so that a newer one follows.
    pub is_whole: bool,
    /// How many valid records it holds, by the name of their kind.
    pub records: BTreeMap<String, u64>,
    /// Whole events that were accepted in it.
    pub events: u64,
    /// The oldest and the newest time of acceptance.
    pub times: Option<(Timestamp, Timestamp)>,
}

/// Another file in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OtherFile {
    /// The file.
    pub file: PathBuf,
    /// How long it is.
    pub bytes: u64,
    /// What it is, in words.
    pub what: &'static str,
}

/// What is owed to one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Owed {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Deliveries that were never tried.
    pub fresh: u64,
    /// Deliveries that wait for another attempt.
    pub tried: u64,
    /// Those of both whose event is lost: they cannot be made.
    pub lost: u64,
}

/// What [`Doctor::examine`](super::Doctor::examine) found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The folder.
    pub folder: PathBuf,
    /// The store's number, the same in all of its files; `None` where no file tells it.
    pub store: Option<u64>,
    /// The segments whose headers can be read, oldest first.
    pub segments: Vec<SegmentReport>,
    /// All other files, by name.
    pub others: Vec<OtherFile>,
    /// Events whose records are whole.
    pub events: u64,
    /// Events that were accepted and whose records are lost.
    pub events_lost: u64,
    /// What is owed, only endpoints that are owed something, in order of their ids.
    pub owed: Vec<Owed>,
    /// The oldest and the newest time of acceptance.
    pub times: Option<(Timestamp, Timestamp)>,
    /// Bytes of all files.
    pub bytes: u64,
    /// What is wrong, by file and offset.
    pub problems: Vec<Problem>,
}

impl Report {
    /// Whether bytes are not what was written. Leftovers and what a crash leaves are no damage.
    pub fn is_damaged(&self) -> bool {
        self.problems.iter().any(|problem| problem.severity == Severity::Damage)
    }

    /// Valid records of all segments, by the name of their kind.
    pub fn records(&self) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for (kind, count) in self.segments.iter().flat_map(|segment| &segment.records) {
            *sums.entry(kind.clone()).or_default() += count;
        }
        sums
    }
}

/// What [`Doctor::repair`](super::Doctor::repair) did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Salvage {
    /// What was found in the damaged folder.
    pub found: Report,
    /// What the new folder holds.
    pub saved: Report,
    /// What was not saved: a problem of the damaged folder each, without leftovers.
    pub lost: Vec<Problem>,
    /// Deliveries that were owed and whose event is lost: given up.
    pub deliveries_lost: u64,
    /// Whether settlements may be lost that nothing else tells of: what they settled is owed again,
    /// and may be delivered a second time.
    pub repeats: bool,
}
