//! Notes and totals, and how they outlive the segments that hold their records: before a segment is
//! freed, what only it tells is written again.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::facts::{self, TOTALS_SIZE_MAX};
use super::format::{RECORD_HEADER, kind};
use super::state::{NAME_FIXED_MAX, State};
use crate::error::Error;
use crate::stats::{EndpointStats, Totals};
use crate::store::Note;

/// Totals in one record at most.
const TOTALS_MAX: usize = 64;

/// The notes that are kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Notes(BTreeMap<Box<str>, Kept>);

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kept {
    pub(super) value: Bytes,
    /// The segment that holds its record.
    pub(super) segment: u32,
}

impl Notes {
    /// # Errors
    /// Those of [`Note::check`].
    pub(super) fn check(&self, note: &Note) -> Result<(), Error> {
        note.check(self.0.len() - usize::from(self.has(&note.key)))
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// Keeps or removes a note whose record is in `segment`.
    pub(super) fn apply(&mut self, note: Note, segment: u32) {
        match note.value {
            Some(value) => self.0.insert(note.key, Kept { value, segment }),
            None => self.0.remove(&note.key),
        };
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Kept)> {
        self.0.iter().map(|(key, kept)| (&**key, kept))
    }

    pub(super) fn list(&self) -> Vec<Note> {
        let note =
            |(key, kept): (&str, &Kept)| Note { key: key.into(), value: Some(kept.value.clone()) };
        self.iter().map(note).collect()
    }
}

impl State {
    /// Appends a note's record and keeps it.
    pub(super) fn append_note(&mut self, note: Note) {
        let next = self.next_event;
        let room = RECORD_HEADER as usize + facts::size_max(0, Some(&note));
        self.tail.make_room(room, next, self.now, &mut self.segments);
        let synced = self.tail.proof();
        let place = self.tail.append(kind::NOTE, next, &mut self.segments, |out, _| {
            facts::put_note(out, synced, &note);
        });
        self.notes.apply(note, place.segment);
    }

    /// Writes again what would be lost with the segments up to `last`; it must be durable before they
    /// go.
    pub(super) fn renew(&mut self, last: u32) {
        let notes = self.notes.iter().filter(|(_, kept)| kept.segment <= last);
        let notes: Vec<Note> = notes
            .map(|(key, kept)| Note { key: key.into(), value: Some(kept.value.clone()) })
            .collect();
        let lanes = (0..).zip(&self.lanes);
        let totals: Vec<(u32, Totals)> = lanes
            .filter(|(_, lane)| lane.totals_from <= last)
            .filter_map(|(number, lane)| Some((number, lane.series.as_ref()?.totals())))
            .collect();
        for note in notes {
            self.append_note(note);
        }
        for totals in totals.chunks(TOTALS_MAX) {
            self.append_totals(totals);
        }
    }

    fn append_totals(&mut self, totals: &[(u32, Totals)]) {
        let next = self.next_event;
        let id = |lanes: &[super::lane::Lane], number: u32| lanes[number as usize].id.clone();
        let names = totals.iter().map(|(number, _)| id(&self.lanes, *number));
        let names: usize = names.map(|id| id.as_str().len() + NAME_FIXED_MAX).sum();
        let room = RECORD_HEADER as usize + (totals.len() + 1) * TOTALS_SIZE_MAX + names;
        self.tail.make_room(room, next, self.now, &mut self.segments);
        let synced = self.tail.proof();
        for (number, _) in totals {
            let id = id(&self.lanes, *number);
            self.tail.name_endpoint(*number, id.as_str(), next, &mut self.segments);
        }
        let place = self.tail.append(kind::TOTALS, next, &mut self.segments, |out, _| {
            facts::put_totals(out, synced, totals);
        });
        for (number, _) in totals {
            self.lanes[*number as usize].totals_from = place.segment;
        }
    }

    /// What was counted of attempts.
    pub(super) fn stats(&self) -> Vec<EndpointStats> {
        let counted = |lane: &super::lane::Lane| {
            Some(EndpointStats::new(lane.id.clone(), (**lane.series.as_ref()?).clone()))
        };
        self.lanes.iter().filter_map(counted).collect()
    }
}
