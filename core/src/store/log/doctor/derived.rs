//! What is derived from the log: indexes and the checkpoint, held against the segments.

use std::collections::BTreeMap;
use std::io;

use super::super::block::Block;
use super::super::files::{Files, read_whole};
use super::super::format::index_name;
use super::super::index;
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

/// What is owed to each endpoint: event and attempts made.
fn owed(state: &State) -> BTreeMap<&EndpointId, BTreeMap<u64, u32>> {
    let lanes = state.lanes.iter().filter(|lane| lane.owes()).map(|lane| {
        let fresh = lane.fresh.iter().map(|event| (event, 0));
        let tried = lane.waiting.iter().map(|((_, event), tried)| (*event, tried.attempts));
        (&lane.id, fresh.chain(tried).collect())
    });
    lanes.collect()
}

/// How what a checkpoint and the records after it tell differs from what all records tell, in words.
pub(super) fn difference(checkpoint: &State, records: &State) -> Option<String> {
    if checkpoint.next_event != records.next_event {
        let (found, expect) = (checkpoint.next_event, records.next_event);
        return Some(format!("the next event is {found}, by the records it is {expect}"));
    }
    let (found, expect) = (owed(checkpoint), owed(records));
    let ids = found.keys().chain(expect.keys());
    for id in ids {
        let none = BTreeMap::new();
        let (found, expect) = (found.get(id).unwrap_or(&none), expect.get(id).unwrap_or(&none));
        if found == expect {
            continue;
        }
        let other = |one: &BTreeMap<u64, u32>, other: &BTreeMap<u64, u32>| {
            one.iter().find(|(event, made)| other.get(event) != Some(made)).map(|(event, _)| *event)
        };
        let event = other(expect, found).or_else(|| other(found, expect)).unwrap_or_default();
        return Some(format!(
            "{} deliveries are owed to {id}, by the records {}; event {event} differs",
            found.len(),
            expect.len()
        ));
    }
    None
}
