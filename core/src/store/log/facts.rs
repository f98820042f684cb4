//! Records of what people ask for: deliveries made again or purged, notes, and totals. The bytes are
//! described in `docs/LOG_FORMAT.md`.

use bytes::Bytes;

use super::codec::{Decoded, Put, Take};
use super::record::Base;
use crate::stats::Totals;
use crate::store::Note;
use crate::time::Timestamp;

const SYNCED: u8 = 1;
const NOTE: u8 = 1 << 1;

/// A delivery that is made again or purged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) event: u64,
    pub(super) target: u32,
    pub(super) run: u32,
    /// Made again: bytes of the event where it counts for its segment from now on; else 0, it did
    /// before. Not written of a purged one.
    pub(super) bytes: u32,
}

/// Deliveries made again, and a note: one record, so that it is all there or nothing.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ReplayBody {
    /// Up to where this segment was known to be synced when the record was made.
    pub(super) synced: Option<u32>,
    pub(super) at: Timestamp,
    pub(super) runs: Vec<Chosen>,
    pub(super) note: Option<Note>,
}

/// Deliveries that were set aside.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PurgeBody {
    pub(super) synced: Option<u32>,
    pub(super) at: Timestamp,
    pub(super) runs: Vec<Chosen>,
}

/// A bound on the bytes of such a record's body.
pub(super) fn size_max(runs: usize, note: Option<&Note>) -> usize {
    let note =
        note.map_or(0, |note| note.key.len() + note.value.as_ref().map_or(0, Bytes::len) + 12);
    48 + runs * 26 + note
}

fn put_head(out: &mut Vec<u8>, flags: u8, synced: Option<u32>) {
    out.put_u8(flags | if synced.is_some() { SYNCED } else { 0 });
    if let Some(synced) = synced {
        out.put_var(u64::from(synced));
    }
}

fn take_head(take: &mut Take<'_>) -> Decoded<(u8, Option<u32>)> {
    let flags = take.u8()?;
    let synced = if flags & SYNCED == 0 { None } else { Some(take.var_u32()?) };
    Ok((flags, synced))
}

/// Up to where the segment was known to be synced; how each of these records begins.
pub(super) fn take_synced(body: &[u8]) -> Decoded<Option<u32>> {
    Ok(take_head(&mut Take::new(body))?.1)
}

fn put_runs(out: &mut Vec<u8>, base: Base, runs: &[Chosen], with_bytes: bool) {
    out.put_var(runs.len() as u64);
    let mut before = base.event;
    for run in runs {
        out.put_signed(run.event.wrapping_sub(before).cast_signed());
        before = run.event;
        out.put_var(u64::from(run.target));
        out.put_var(u64::from(run.run));
        if with_bytes {
            out.put_var(u64::from(run.bytes));
        }
    }
}

fn take_runs(take: &mut Take<'_>, base: Base, with_bytes: bool) -> Decoded<Vec<Chosen>> {
    let mut event = base.event;
    (0..take.count()?)
        .map(|_| {
            event = event.wrapping_add(take.signed()?.cast_unsigned());
            let (target, run) = (take.var_u32()?, take.var_u32()?);
            let bytes = if with_bytes { take.var_u32()? } else { 0 };
            Ok(Chosen { event, target, run, bytes })
        })
        .collect()
}

/// Key and value.
fn put_kept(out: &mut Vec<u8>, note: &Note) {
    out.put_text(&note.key);
    out.put_u8(u8::from(note.value.is_some()));
    if let Some(value) = &note.value {
        out.put_var(value.len() as u64);
        out.put(value);
    }
}

fn take_kept(take: &mut Take<'_>) -> Decoded<Note> {
    let key = take.text()?.into();
    let value = if take.u8()? == 0 {
        None
    } else {
        let count = take.count()?;
        Some(Bytes::copy_from_slice(take.bytes(count)?))
    };
    Ok(Note { key, value })
}

impl ReplayBody {
    pub(super) fn put(&self, out: &mut Vec<u8>, base: Base) {
        put_head(out, if self.note.is_some() { NOTE } else { 0 }, self.synced);
        base.put_time(out, self.at);
        if let Some(note) = &self.note {
            put_kept(out, note);
        }
        put_runs(out, base, &self.runs, true);
    }

    pub(super) fn take(body: &[u8], base: Base) -> Decoded<Self> {
        let mut take = Take::new(body);
        let (flags, synced) = take_head(&mut take)?;
        let at = base.time(&mut take)?;
        let note = if flags & NOTE == 0 { None } else { Some(take_kept(&mut take)?) };
        Ok(Self { synced, at, note, runs: take_runs(&mut take, base, true)? })
    }
}

impl PurgeBody {
    pub(super) fn put(&self, out: &mut Vec<u8>, base: Base) {
        put_head(out, 0, self.synced);
        base.put_time(out, self.at);
        put_runs(out, base, &self.runs, false);
    }

    pub(super) fn take(body: &[u8], base: Base) -> Decoded<Self> {
        let mut take = Take::new(body);
        let (_, synced) = take_head(&mut take)?;
        Ok(Self { synced, at: base.time(&mut take)?, runs: take_runs(&mut take, base, false)? })
    }
}

/// A note that is kept or removed.
pub(super) fn put_note(out: &mut Vec<u8>, synced: Option<u32>, note: &Note) {
    put_head(out, 0, synced);
    put_kept(out, note);
}

pub(super) fn take_note(body: &[u8]) -> Decoded<Note> {
    let mut take = Take::new(body);
    take_head(&mut take)?;
    take_kept(&mut take)
}

/// More than the totals of one endpoint take.
pub(super) const TOTALS_SIZE_MAX: usize = 48;

/// What was counted of endpoints up to here, by their numbers.
pub(super) fn put_totals(out: &mut Vec<u8>, synced: Option<u32>, totals: &[(u32, Totals)]) {
    put_head(out, 0, synced);
    out.put_var(totals.len() as u64);
    for (target, totals) in totals {
        out.put_var(u64::from(*target));
        for total in [totals.succeeded, totals.failed, totals.dead, totals.expired] {
            out.put_var(total);
        }
    }
}

pub(super) fn take_totals(body: &[u8]) -> Decoded<Vec<(u32, Totals)>> {
    let mut take = Take::new(body);
    take_head(&mut take)?;
    (0..take.count()?)
        .map(|_| {
            let target = take.var_u32()?;
            let (succeeded, failed) = (take.var()?, take.var()?);
            let (dead, expired) = (take.var()?, take.var()?);
            Ok((target, Totals { succeeded, failed, dead, expired }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Base = Base { event: 1000, time: Timestamp::from_millis(1_764_513_045_123) };

    #[test]
    fn what_people_asked_for_comes_back() {
        let run = |event, bytes| Chosen { event, target: 300, run: 2, bytes };
        let notes = [
            None,
            Some(Note::removed("gone")),
            Some(Note::new("job/1", &b"\x00\xff"[..]).unwrap()),
        ];
        for (at, note) in notes.into_iter().enumerate() {
            let synced = (at == 1).then_some(99);
            let runs = vec![run(7, 0), run(u64::MAX, 500), run(1000, 1)];
            let replay = ReplayBody { synced, at: Timestamp::MAX, runs: runs.clone(), note };
            let mut bytes = Vec::new();
            replay.put(&mut bytes, BASE);
            assert!(bytes.len() <= size_max(3, replay.note.as_ref()));
            assert_eq!(take_synced(&bytes), Ok(synced));
            for end in 0..bytes.len() {
                assert!(ReplayBody::take(&bytes[..end], BASE).is_err(), "cut at {end}");
            }
            if let Some(note) = &replay.note {
                let mut bytes = Vec::new();
                put_note(&mut bytes, synced, note);
                assert_eq!(take_note(&bytes).as_ref(), Ok(note));
                assert!((0..bytes.len()).all(|end| take_note(&bytes[..end]).is_err()));
            }
            assert_eq!(ReplayBody::take(&bytes, BASE), Ok(replay));
            let runs = runs.into_iter().map(|run| Chosen { bytes: 0, ..run }).collect();
            let purge = PurgeBody { synced, at: Timestamp::MIN, runs };
            let mut bytes = Vec::new();
            purge.put(&mut bytes, BASE);
            assert_eq!(PurgeBody::take(&bytes, BASE), Ok(purge));
        }
    }

    #[test]
    fn totals_come_back() {
        let full = Totals { succeeded: u64::MAX, failed: 2, dead: 3, expired: u64::MAX };
        let totals = vec![(0, Totals::default()), (u32::MAX, full)];
        let mut bytes = Vec::new();
        put_totals(&mut bytes, Some(64), &totals);
        assert!(bytes.len() <= 2 * TOTALS_SIZE_MAX + 16);
        assert!((0..bytes.len()).all(|end| take_totals(&bytes[..end]).is_err()));
        assert_eq!(take_totals(&bytes), Ok(totals));
    }
}
