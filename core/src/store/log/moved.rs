//! What the record of an event that was copied forward holds. The bytes are described in
//! `docs/LOG_FORMAT.md`.

use super::codec::{Decoded, Put, Take};
use super::record::{Base, put_attempt, put_decision, take_attempt, take_decision};
use super::stands::Ended;
use crate::delivery::{AttemptRecord, Decision};
use crate::time::Timestamp;

const CONTINUES: u8 = 1;
const RUNS: u8 = 1 << 1;

const PURGED: u8 = 6;
const FRESH: u8 = 255;

/// One delivery of an event that was copied forward. Those to one endpoint follow each other by
/// their runs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct MovedDelivery {
    pub(super) target: u32,
    pub(super) run: u32,
    pub(super) state: MovedState,
    pub(super) attempts_made: u32,
    pub(super) attempts: Vec<AttemptRecord>,
}

/// Where a delivery stood when its event was copied.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum MovedState {
    /// Owed and never tried.
    Fresh,
    Waiting(Timestamp),
    Ended(Ended),
}

impl MovedState {
    fn put(self, out: &mut Vec<u8>, base: Base) {
        match self {
            Self::Fresh => out.put_u8(FRESH),
            Self::Waiting(due) => put_decision(out, Decision::RetryAt(due), base),
            Self::Ended(Ended::Purged) => out.put_u8(PURGED),
            Self::Ended(Ended::Delivered) => put_decision(out, Decision::Delivered, base),
            Self::Ended(Ended::Expired) => put_decision(out, Decision::Expired, base),
            Self::Ended(Ended::Dead(reason)) => put_decision(out, Decision::Dead(reason), base),
        }
    }

    fn take(take: &mut Take<'_>, base: Base) -> Decoded<Self> {
        let special = match take.rest().first() {
            Some(&FRESH) => Some(Self::Fresh),
            Some(&PURGED) => Some(Self::Ended(Ended::Purged)),
            _ => None,
        };
        if let Some(state) = special {
            take.u8()?;
            return Ok(state);
        }
        let decision = take_decision(take, base)?;
        Ok(match (decision, Ended::by(decision)) {
            (_, Some(ended)) => Self::Ended(ended),
            (Decision::RetryAt(due), _) => Self::Waiting(due),
            (_, None) => return Err(super::codec::Malformed),
        })
    }
}

/// Deliveries first, the event's own body after them. `continues`: the event follows the one of the
/// record before, in the same run.
pub(super) fn put_moved(
    out: &mut Vec<u8>,
    base: Base,
    deliveries: &[MovedDelivery],
    continues: bool,
) {
    let has_runs = deliveries.iter().any(|delivery| delivery.run > 0);
    out.put_u8(if continues { CONTINUES } else { 0 } | if has_runs { RUNS } else { 0 });
    let mut head = Vec::new();
    head.put_var(deliveries.len() as u64);
    for delivery in deliveries {
        head.put_var(u64::from(delivery.target));
        if has_runs {
            head.put_var(u64::from(delivery.run));
        }
        delivery.state.put(&mut head, base);
        head.put_var(u64::from(delivery.attempts_made));
        head.put_var(delivery.attempts.len() as u64);
        for attempt in &delivery.attempts {
            put_attempt(&mut head, attempt, base);
        }
    }
    out.put_var(head.len() as u64);
    out.put(&head);
}

/// What a moved event's record holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Moved<'a> {
    pub(super) continues: bool,
    pub(super) deliveries: Vec<MovedDelivery>,
    /// The event's own body.
    pub(super) event: &'a [u8],
}

pub(super) fn take_moved(body: &[u8], base: Base) -> Decoded<Moved<'_>> {
    let mut take = Take::new(body);
    let flags = take.u8()?;
    let count = take.count()?;
    let mut head = Take::new(take.bytes(count)?);
    let deliveries = (0..head.count()?)
        .map(|_| {
            Ok(MovedDelivery {
                target: head.var_u32()?,
                run: if flags & RUNS == 0 { 0 } else { head.var_u32()? },
                state: MovedState::take(&mut head, base)?,
                attempts_made: head.var_u32()?,
                attempts: (0..head.count()?)
                    .map(|_| take_attempt(&mut head, base))
                    .collect::<Decoded<_>>()?,
            })
        })
        .collect::<Decoded<_>>()?;
    Ok(Moved { continues: flags & CONTINUES != 0, deliveries, event: take.rest() })
}

/// The event's own body in a moved event's record.
pub(super) fn moved_event(body: &[u8]) -> Decoded<&[u8]> {
    let mut take = Take::new(body);
    take.u8()?;
    let count = take.count()?;
    take.bytes(count)?;
    Ok(take.rest())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::Cause;

    #[test]
    fn moved_deliveries_come_back() {
        let base = Base { event: 1000, time: Timestamp::from_millis(1_764_513_045_123) };
        let attempt = AttemptRecord {
            number: 3,
            at: base.time,
            took_ms: 12,
            cause: Some(Cause::Tls),
            message: "no".into(),
            status: Some(500),
            answer: "answer".into(),
        };
        let delivery = |target, run, state, attempts: &[AttemptRecord]| MovedDelivery {
            target,
            run,
            state,
            attempts_made: attempts.len() as u32,
            attempts: attempts.to_vec(),
        };
        let mut deliveries = vec![
            delivery(0, 0, MovedState::Fresh, &[]),
            delivery(1, 0, MovedState::Waiting(base.time), &[attempt.clone(), attempt.clone()]),
        ];
        for again in [false, true] {
            if again {
                let ended = Ended::KEPT.into_iter().chain([Ended::Delivered]);
                deliveries.extend((0..).zip(ended).map(|(run, ended)| {
                    delivery(2, run, MovedState::Ended(ended), std::slice::from_ref(&attempt))
                }));
            }
            let mut bytes = Vec::new();
            put_moved(&mut bytes, base, &deliveries, true);
            bytes.put(b"event");
            let deliveries = deliveries.clone();
            let moved = Moved { continues: true, deliveries, event: &b"event"[..] };
            assert_eq!(take_moved(&bytes, base), Ok(moved));
            assert_eq!(moved_event(&bytes), Ok(&b"event"[..]));
        }
    }
}
