//! Reading back what was written: events for a claim, attempts for a look.

use std::collections::HashMap;
use std::io;

use super::facts::PurgeBody;
use super::files::read_range;
use super::format::{RECORD_HEADER, kind};
use super::moved::{MovedDelivery, moved_event, take_moved};
use super::record::{
    self, EventBody, Place, SettleBody, event_number, take_event, take_settle, take_settle_start,
};
use super::segment::{Extent, Walk};
use super::stands::Ended;
use crate::delivery::AttemptRecord;
use crate::store::ATTEMPTS_KEPT_MAX;

/// An event's record as it was read back.
pub(super) struct ReadEvent {
    pub(super) body: EventBody,
    /// The state of its deliveries when it was copied forward.
    pub(super) moved: Vec<MovedDelivery>,
}

/// Reads events. `None` where an event's record is damaged or gone.
///
/// # Errors
/// Where the disk cannot be read.
pub(super) fn events(extents: &[(Extent, Vec<u64>)]) -> io::Result<Vec<(u64, Option<ReadEvent>)>> {
    let mut found = Vec::new();
    for (extent, wanted) in extents {
        let from = found.len();
        found.extend(wanted.iter().map(|event| (*event, None)));
        let bytes = read_range(&*extent.file, u64::from(extent.from), u64::from(extent.to))?;
        let mut walk = Walk::new(&bytes, extent.from, extent.seal);
        let mut left = wanted.len();
        while left > 0 && !walk.rest().is_empty() {
            let Some((_, frame)) = walk.next() else {
                if walk.skip(usize::MAX) {
                    continue;
                }
                break;
            };
            let body = match frame.kind {
                kind::EVENT => frame.body,
                kind::MOVED => moved_event(frame.body).unwrap_or_default(),
                _ => continue,
            };
            let Ok(number) = event_number(body, extent.base) else { continue };
            let Ok(at) = wanted.binary_search(&number) else { continue };
            let Ok(body) = take_event(body, extent.base, &extent.types) else { continue };
            let moved = match frame.kind {
                kind::MOVED => take_moved(frame.body, extent.base)
                    .map_or_else(|_| Vec::new(), |moved| moved.deliveries),
                _ => Vec::new(),
            };
            found[from + at].1 = Some(ReadEvent { body, moved });
            left -= 1;
        }
    }
    Ok(found)
}

/// One delivery: event, endpoint, run.
pub(super) type Key = (u64, u32, u32);

/// What records say of deliveries that ended.
#[derive(Default)]
pub(super) struct Endings {
    pub(super) settled: HashMap<Key, SettleBody>,
    /// Those that were set aside.
    pub(super) purged: Vec<Key>,
}

/// Finds the records that settled deliveries of `events` (in ascending order) for good.
pub(super) fn endings(extents: &[Extent], events: &[u64]) -> io::Result<Endings> {
    let mut endings = Endings::default();
    for extent in extents {
        let bytes = read_range(&*extent.file, u64::from(extent.from), u64::from(extent.to))?;
        let mut walk = Walk::new(&bytes, extent.from, extent.seal);
        while !walk.rest().is_empty() {
            let Some((_, frame)) = walk.next() else {
                if walk.skip(usize::MAX) {
                    continue;
                }
                break;
            };
            match frame.kind {
                kind::SETTLE => {
                    if let Ok(start) = take_settle_start(frame.body, extent.base)
                        && events.binary_search(&start.event).is_ok()
                        && Ended::by(start.decision).is_some()
                        && let Ok(settle) = take_settle(frame.body, extent.base)
                    {
                        let key = (settle.event, settle.target, settle.run);
                        endings.settled.insert(key, settle);
                    }
                }
                kind::PURGE => {
                    if let Ok(purge) = PurgeBody::take(frame.body, extent.base) {
                        let runs = purge.runs.iter().map(|run| (run.event, run.target, run.run));
                        let wanted = |key: &Key| events.binary_search(&key.0).is_ok();
                        endings.purged.extend(runs.filter(wanted));
                    }
                }
                _ => {}
            }
        }
    }
    Ok(endings)
}

enum Step {
    Settle(SettleBody),
    Moved(Vec<AttemptRecord>),
}

/// Reads one settle or moved record.
fn step(extent: &Extent, offset: u32, (target, run): (u32, u32)) -> io::Result<Option<Step>> {
    /// Enough for most attempts, so that one read suffices.
    const FIRST_READ: u64 = 1024;
    let from = u64::from(offset);
    let mut bytes = read_range(&*extent.file, from, from + FIRST_READ)?;
    let Some(len) = bytes.first_chunk::<4>().map(|len| u32::from_le_bytes(*len)) else {
        return Ok(None);
    };
    let whole = u64::from(RECORD_HEADER) + u64::from(len.min(extent.to));
    if whole > bytes.len() as u64 {
        bytes = read_range(&*extent.file, from, from + whole)?;
    }
    let Some(frame) = extent.seal.open(&bytes, offset) else { return Ok(None) };
    Ok(match frame.kind {
        kind::SETTLE => take_settle(frame.body, extent.base).ok().map(Step::Settle),
        kind::MOVED => take_moved(frame.body, extent.base).ok().map(|moved| {
            let mut deliveries = moved.deliveries.into_iter();
            let mine = deliveries.find(|delivery| (delivery.target, delivery.run) == (target, run));
            Step::Moved(mine.map(|delivery| delivery.attempts).unwrap_or_default())
        }),
        _ => None,
    })
}

/// The attempts of a delivery (endpoint and run), oldest first: the first and the newest, at most 16.
/// `newest` is the newest one where it is known already. Attempts in records that are damaged or gone are missing.
pub(super) fn attempts(
    before: Option<record::Before>,
    newest: Option<AttemptRecord>,
    delivery: (u32, u32),
    extent_at: impl Fn(Place) -> Option<Extent>,
) -> io::Result<Vec<AttemptRecord>> {
    let mut found: Vec<AttemptRecord> = newest.into_iter().collect();
    let mut next = before.map(|before| before.last);
    let first = before.map(|before| before.first);
    let mut has_first = false;
    while let Some(place) = next.take()
        && found.len() < ATTEMPTS_KEPT_MAX
    {
        has_first = Some(place) == first;
        let Some(extent) = extent_at(place) else { break };
        match step(&extent, place.offset, delivery)? {
            Some(Step::Settle(settle)) => {
                found.extend(settle.attempt);
                next = settle.before.map(|before| before.last);
            }
            Some(Step::Moved(attempts)) => found.extend(attempts.into_iter().rev()),
            None => break,
        }
    }
    if let Some(place) = first
        && !has_first
        && let Some(extent) = extent_at(place)
    {
        let attempt = match step(&extent, place.offset, delivery)? {
            Some(Step::Settle(settle)) => settle.attempt,
            Some(Step::Moved(attempts)) => attempts.into_iter().next(),
            None => None,
        };
        found.truncate(ATTEMPTS_KEPT_MAX - 1);
        found.extend(attempt);
    } else if found.len() > ATTEMPTS_KEPT_MAX {
        let first = found.pop();
        found.truncate(ATTEMPTS_KEPT_MAX - 1);
        found.extend(first);
    }
    found.reverse();
    Ok(found)
}
