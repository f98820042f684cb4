//! What is derived from the log: indexes and the checkpoint, held against the segments.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use roaring::RoaringTreemap;

use super::super::block::Block;
use super::super::files::{Files, read_whole};
use super::super::format::index_name;
use super::super::index;
use super::super::lane::Lane;
use super::super::segment::Segment;
use super::super::state::State;
use super::report::{Problem, Severity};
use super::scan::Scanned;
use crate::endpoint::EndpointId;

/// Holds a whole segment's index against its records.
///
/// # Errors
/// Where the disk cannot be read.
pub(super) fn check_index(files: &dyn Files, scanned: &Scanned) -> io::Result<Option<Problem>> {
    let name = index_name(scanned.header.number);
    let Some(bytes) = read_whole(files, &name)? else { return Ok(None) };
    let problem = |severity, what: &str| Problem {
        severity,
        file: files.path(&name),
        offset: 0,
        bytes: bytes.len() as u64,
        what: what.to_owned(),
        events: None,
        ids: Vec::new(),
    };
    let mut found = Segment::new(scanned.header, Some(scanned.file.clone()));
    if index::decode(&bytes, &mut found).is_err() {
        // It is written without a sync.
        let what = "the index is not whole; it is made again when it is needed";
        return Ok(Some(problem(Severity::Torn, what)));
    }
    // The index of a damaged segment knows more than the segment does.
    if scanned.has_loss || !scanned.report.is_whole {
        return Ok(None);
    }
    let mut made = Segment::new(scanned.header, Some(scanned.file.clone()));
    index::rebuild(&mut made)?;
    let is_same = found.types == made.types
        && found.prints == made.prints
        && found.copied == made.copied
        && found.last_time == made.last_time
        && found.end == made.end
        && without_end(&found) == without_end(&made);
    let what = "the index is whole, and does not fit its segment; remove it, it is made again";
    Ok((!is_same).then(|| problem(Severity::Damage, what)))
}

/// The blocks but for one that holds nothing but the record that ends the segment.
fn without_end(segment: &Segment) -> &[Block] {
    use super::super::format::END_RECORD;
    match segment.blocks.split_last() {
        Some((last, before)) if last.offset + END_RECORD >= segment.end => before,
        _ => &segment.blocks,
    }
}

/// What is owed to one endpoint. Of most nothing was tried: a bit each.
#[derive(Default)]
struct Owed {
    untried: RoaringTreemap,
    /// Attempts made, by event.
    tried: BTreeMap<u64, u32>,
}

impl Owed {
    fn of(lane: &Lane) -> Self {
        let mut owed = Self { untried: lane.fresh.clone(), tried: BTreeMap::new() };
        for ((_, event), tried) in &lane.waiting {
            if tried.attempts == 0 {
                owed.untried.insert(*event);
            } else {
                owed.tried.insert(*event, tried.attempts);
            }
        }
        owed
    }

    fn len(&self) -> u64 {
        self.untried.len() + self.tried.len() as u64
    }

    /// The first event of which the two say something else.
    fn first_difference(&self, other: &Self) -> Option<u64> {
        let untried = (&self.untried ^ &other.untried).min();
        let differs = |one: &Self, other: &Self| {
            let mut tried = one.tried.iter();
            tried
                .find(|(event, made)| other.tried.get(event) != Some(made))
                .map(|(event, _)| *event)
        };
        [untried, differs(self, other), differs(other, self)].into_iter().flatten().min()
    }
}

/// How what a checkpoint and the records after it tell differs from what all records tell, in words.
pub(super) fn difference(checkpoint: &State, records: &State) -> Option<String> {
    if checkpoint.next_event != records.next_event {
        let (found, expect) = (checkpoint.next_event, records.next_event);
        return Some(format!("the next event is {found}, by the records it is {expect}"));
    }
    // Lane by lane: what is owed may be millions, to many.
    let ids: BTreeSet<&EndpointId> =
        checkpoint.lanes.iter().chain(&records.lanes).map(|lane| &lane.id).collect();
    ids.into_iter().find_map(|id| {
        let owed = |state: &State| {
            let lane = state.lane_of.get(id).map(|number| &state.lanes[*number as usize]);
            lane.map(Owed::of).unwrap_or_default()
        };
        let (found, expect) = (owed(checkpoint), owed(records));
        let event = found.first_difference(&expect)?;
        Some(format!(
            "{} deliveries are owed to {id}, by the records {}; event {event} differs",
            found.len(),
            expect.len()
        ))
    })
}
