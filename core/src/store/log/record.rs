//! What the bodies of records hold. The bytes are described in `docs/LOG_FORMAT.md`.

use std::sync::Arc;

use bytes::Bytes;

use super::codec::{Decoded, Malformed, Put, Take};
use crate::delivery::{AttemptRecord, Cause, DeadReason, Decision};
use crate::event::{Attributes, Envelope, EventId, EventType};
use crate::time::Timestamp;

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) segment: u32,
    pub(super) offset: u32,
}

/// What the records of one segment count from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Base {
    pub(super) event: u64,
    pub(super) time: Timestamp,
}

impl Base {
    pub(super) fn put_time(self, out: &mut Vec<u8>, time: Timestamp) {
        out.put_signed(time.as_millis().wrapping_sub(self.time.as_millis()));
    }

    pub(super) fn time(self, take: &mut Take<'_>) -> Decoded<Timestamp> {
        Ok(Timestamp::from_millis(self.time.as_millis().wrapping_add(take.signed()?)))
    }
}

/// Stands for a type whose definition is lost; nobody can publish it.
pub(super) const TYPE_LOST: EventType = EventType::from_static("postrider.type-lost");

/// What a [`kind::NAME`](super::format::kind::NAME) record defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name<'a> {
    /// The endpoint of this number, in every segment of the store.
    Endpoint(u32, &'a str),
    /// The next event type of this segment.
    Type(&'a str),
}

impl<'a> Name<'a> {
    pub(super) fn put(self, out: &mut Vec<u8>) {
        match self {
            Self::Endpoint(number, id) => {
                out.put_u8(0);
                out.put_var(u64::from(number));
                out.put(id.as_bytes());
            }
            Self::Type(name) => {
                out.put_u8(1);
                out.put(name.as_bytes());
            }
        }
    }

    pub(super) fn take(body: &'a [u8]) -> Decoded<Self> {
        let text = |take: Take<'a>| std::str::from_utf8(take.rest()).map_err(|_| Malformed);
        let mut take = Take::new(body);
        match take.u8()? {
            0 => {
                let number = take.var_u32()?;
                Ok(Self::Endpoint(number, text(take)?))
            }
            1 => Ok(Self::Type(text(take)?)),
            _ => Err(Malformed),
        }
    }
}

mod flag {
    pub(super) const UUID: u8 = 1;
    pub(super) const TIME: u8 = 1 << 1;
    pub(super) const KEY: u8 = 1 << 2;
    pub(super) const EXPIRES: u8 = 1 << 3;
    pub(super) const ATTRIBUTES: u8 = 1 << 4;
    pub(super) const MORE: u8 = 1 << 5;
    pub(super) const SYNCED: u8 = 1 << 6;
}

/// An accepted event as its record holds it.
#[derive(Clone, Debug)]
pub(super) struct EventBody {
    pub(super) accepted_at: Timestamp,
    /// The numbers of the endpoints it goes to.
    pub(super) targets: Vec<u32>,
    pub(super) event: Arc<Envelope>,
}

/// What an event's record needs beside the event.
pub(super) struct EventHead<'a> {
    pub(super) number: u64,
    pub(super) accepted_at: Timestamp,
    pub(super) targets: &'a [u32],
    /// The place of the event's type among those of the segment.
    pub(super) kind: u32,
    /// Whether the next event record belongs to the same batch.
    pub(super) more: bool,
    /// Up to where this segment was known to be synced when the record was made.
    pub(super) synced: Option<u32>,
}

/// More than any event takes beside its payload, texts and targets.
const EVENT_FIXED_MAX: usize = 96;

/// A bound on the bytes of an event's record body.
pub(super) fn event_size_max(event: &Envelope, targets: usize) -> usize {
    let attributes: usize =
        event.attributes.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    EVENT_FIXED_MAX
        + event.id.encode(&mut [0; 36]).len()
        + event.key().map_or(0, str::len)
        + attributes
        + targets * 5
        + event.payload.len()
}

pub(super) fn put_event(out: &mut Vec<u8>, base: Base, head: &EventHead<'_>, event: &Envelope) {
    let uuid = event.id.as_uuid();
    let is = |set: bool, flag: u8| if set { flag } else { 0 };
    out.put_u8(
        is(uuid.is_some(), flag::UUID)
            | is(event.time != head.accepted_at, flag::TIME)
            | is(event.key.is_some(), flag::KEY)
            | is(event.expires_at.is_some(), flag::EXPIRES)
            | is(!event.attributes.is_empty(), flag::ATTRIBUTES)
            | is(head.more, flag::MORE)
            | is(head.synced.is_some(), flag::SYNCED),
    );
    out.put_signed(head.number.wrapping_sub(base.event).cast_signed());
    base.put_time(out, head.accepted_at);
    if let Some(synced) = head.synced {
        out.put_var(u64::from(synced));
    }
    match uuid {
        Some(uuid) => out.put(uuid.as_bytes()),
        None => out.put_text(event.id.encode(&mut [0; 36])),
    }
    out.put_var(u64::from(head.kind));
    out.put_var(head.targets.len() as u64);
    for target in head.targets {
        out.put_var(u64::from(*target));
    }
    if event.time != head.accepted_at {
        base.put_time(out, event.time);
    }
    if let Some(key) = event.key() {
        out.put_text(key);
    }
    if let Some(expires_at) = event.expires_at {
        base.put_time(out, expires_at);
    }
    if !event.attributes.is_empty() {
        out.put_var(event.attributes.len() as u64);
        for (name, value) in &event.attributes {
            out.put_text(name);
            out.put_text(value);
        }
    }
    out.put(&event.payload);
}

/// The beginning of an event's record: enough to find it.
#[derive(Clone, Debug)]
pub(super) struct EventStart<'a> {
    flags: u8,
    pub(super) number: u64,
    pub(super) accepted_at: Timestamp,
    pub(super) synced: Option<u32>,
    pub(super) id: EventId,
    pub(super) kind: u32,
    pub(super) targets: Vec<u32>,
    rest: Take<'a>,
}

impl EventStart<'_> {
    pub(super) fn more(&self) -> bool {
        self.flags & flag::MORE != 0
    }
}

pub(super) fn event_number(body: &[u8], base: Base) -> Decoded<u64> {
    let mut take = Take::new(body);
    take.u8()?;
    Ok(base.event.wrapping_add(take.signed()?.cast_unsigned()))
}

pub(super) fn take_event_start(body: &[u8], base: Base) -> Decoded<EventStart<'_>> {
    let mut take = Take::new(body);
    let flags = take.u8()?;
    let number = base.event.wrapping_add(take.signed()?.cast_unsigned());
    let accepted_at = base.time(&mut take)?;
    let synced = if flags & flag::SYNCED == 0 { None } else { Some(take.var_u32()?) };
    let id = if flags & flag::UUID == 0 {
        take.text()?.parse().map_err(|_| Malformed)?
    } else {
        EventId::from_uuid(take.uuid()?)
    };
    let kind = take.var_u32()?;
    let count = take.count()?;
    let targets = (0..count).map(|_| take.var_u32()).collect::<Decoded<Vec<u32>>>()?;
    Ok(EventStart { flags, number, accepted_at, synced, id, kind, targets, rest: take })
}

/// Reads an event; `types` are those of its segment.
pub(super) fn take_event(body: &[u8], base: Base, types: &[EventType]) -> Decoded<EventBody> {
    let start = take_event_start(body, base)?;
    let mut take = start.rest;
    let has = |flag: u8| start.flags & flag != 0;
    let kind = types.get(start.kind as usize).filter(|kind| **kind != TYPE_LOST);
    let kind = kind.ok_or(Malformed)?.clone();
    let time = if has(flag::TIME) { base.time(&mut take)? } else { start.accepted_at };
    let key = if has(flag::KEY) { Some(take.text()?.into()) } else { None };
    let expires_at = if has(flag::EXPIRES) { Some(base.time(&mut take)?) } else { None };
    let mut attributes = Attributes::new();
    if has(flag::ATTRIBUTES) {
        for _ in 0..take.count()? {
            attributes.insert(take.text()?.to_owned(), take.text()?.to_owned());
        }
    }
    // `Envelope::payload_str` relies on it.
    std::str::from_utf8(take.rest()).map_err(|_| Malformed)?;
    Ok(EventBody {
        accepted_at: start.accepted_at,
        event: Arc::new(Envelope {
            id: start.id,
            kind,
            key,
            time,
            expires_at,
            attributes,
            payload: Bytes::copy_from_slice(take.rest()),
        }),
        targets: start.targets,
    })
}

/// The end of an attempt as its record holds it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SettleBody {
    pub(super) event: u64,
    pub(super) target: u32,
    pub(super) run: u32,
    /// Attempts made, this one included.
    pub(super) attempts: u32,
    pub(super) decision: Decision,
    pub(super) attempt: Option<AttemptRecord>,
    /// When it was decided, where no attempt tells.
    pub(super) at: Option<Timestamp>,
    /// The records of the attempt before and of the first, where there was one.
    pub(super) before: Option<Before>,
    /// Up to where this segment was known to be synced when the record was made.
    pub(super) synced: Option<u32>,
}

/// Earlier attempts of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Before {
    pub(super) last: Place,
    pub(super) first: Place,
}

/// The beginning of a settle record: which delivery, how often tried, and what follows.
#[derive(Clone, Copy, Debug)]
pub(super) struct SettleStart<'a> {
    pub(super) event: u64,
    pub(super) target: u32,
    pub(super) run: u32,
    pub(super) attempts: u32,
    pub(super) decision: Decision,
    pub(super) before: Option<Before>,
    pub(super) at: Option<Timestamp>,
    pub(super) has_attempt: bool,
    pub(super) synced: Option<u32>,
    /// Behind all this: the attempt.
    rest: Take<'a>,
}

fn put_place(out: &mut Vec<u8>, place: Place) {
    out.put_var(u64::from(place.segment));
    out.put_var(u64::from(place.offset));
}

fn take_place(take: &mut Take<'_>) -> Decoded<Place> {
    Ok(Place { segment: take.var_u32()?, offset: take.var_u32()? })
}

pub(super) fn put_decision(out: &mut Vec<u8>, decision: Decision, base: Base) {
    match decision {
        Decision::Delivered => out.put_u8(0),
        Decision::RetryAt(due) => {
            out.put_u8(1);
            base.put_time(out, due);
        }
        Decision::Expired => out.put_u8(2),
        Decision::Dead(DeadReason::Exhausted) => out.put_u8(3),
        Decision::Dead(DeadReason::Rejected) => out.put_u8(4),
        Decision::Dead(DeadReason::Gone) => out.put_u8(5),
        Decision::Dead(DeadReason::Disabled) => out.put_u8(8),
    }
}

pub(super) fn take_decision(take: &mut Take<'_>, base: Base) -> Decoded<Decision> {
    Ok(match take.u8()? {
        0 => Decision::Delivered,
        1 => Decision::RetryAt(base.time(take)?),
        2 => Decision::Expired,
        3 => Decision::Dead(DeadReason::Exhausted),
        4 => Decision::Dead(DeadReason::Rejected),
        5 => Decision::Dead(DeadReason::Gone),
        8 => Decision::Dead(DeadReason::Disabled),
        _ => return Err(Malformed),
    })
}

pub(super) fn put_attempt(out: &mut Vec<u8>, attempt: &AttemptRecord, base: Base) {
    out.put_var(u64::from(attempt.number));
    base.put_time(out, attempt.at);
    out.put_var(attempt.took_ms);
    out.put_u8(attempt.cause.map_or(0, Cause::code));
    out.put_u16(attempt.status.unwrap_or(0));
    out.put_text(&attempt.message);
    out.put_text(&attempt.answer);
}

pub(super) fn take_attempt(take: &mut Take<'_>, base: Base) -> Decoded<AttemptRecord> {
    Ok(AttemptRecord {
        number: take.var_u32()?,
        at: base.time(take)?,
        took_ms: take.var()?,
        cause: Some(take.u8()?).filter(|code| *code != 0).map(Cause::from_code),
        status: Some(take.u16()?).filter(|status| *status != 0),
        message: take.text()?.to_owned(),
        answer: take.text()?.to_owned(),
    })
}

/// A bound on the bytes of a settle record's body.
pub(super) fn settle_size_max(attempt: Option<&AttemptRecord>) -> usize {
    96 + attempt.map_or(0, |attempt| attempt.message.len() + attempt.answer.len() + 48)
}

pub(super) fn put_settle(out: &mut Vec<u8>, base: Base, settle: &SettleBody) {
    out.put_signed(settle.event.wrapping_sub(base.event).cast_signed());
    out.put_var(u64::from(settle.target));
    out.put_var(u64::from(settle.attempts));
    put_decision(out, settle.decision, base);
    let first_differs = settle.before.is_some_and(|before| before.first != before.last);
    out.put_u8(
        u8::from(settle.attempt.is_some())
            | u8::from(settle.before.is_some()) << 1
            | u8::from(first_differs) << 2
            | u8::from(settle.synced.is_some()) << 3
            | u8::from(settle.run > 0) << 4
            | u8::from(settle.at.is_some()) << 5,
    );
    if let Some(synced) = settle.synced {
        out.put_var(u64::from(synced));
    }
    if let Some(before) = settle.before {
        put_place(out, before.last);
        if first_differs {
            put_place(out, before.first);
        }
    }
    if settle.run > 0 {
        out.put_var(u64::from(settle.run));
    }
    if let Some(at) = settle.at {
        base.put_time(out, at);
    }
    if let Some(attempt) = &settle.attempt {
        put_attempt(out, attempt, base);
    }
}

pub(super) fn take_settle_start(body: &[u8], base: Base) -> Decoded<SettleStart<'_>> {
    let mut take = Take::new(body);
    let event = base.event.wrapping_add(take.signed()?.cast_unsigned());
    let target = take.var_u32()?;
    let attempts = take.var_u32()?;
    let decision = take_decision(&mut take, base)?;
    let flags = take.u8()?;
    let synced = if flags & 8 == 0 { None } else { Some(take.var_u32()?) };
    let mut before = None;
    if flags & 2 != 0 {
        let last = take_place(&mut take)?;
        let first = if flags & 4 == 0 { last } else { take_place(&mut take)? };
        before = Some(Before { last, first });
    }
    let run = if flags & 16 == 0 { 0 } else { take.var_u32()? };
    let at = if flags & 32 == 0 { None } else { Some(base.time(&mut take)?) };
    let has_attempt = flags & 1 != 0;
    let rest = take;
    Ok(SettleStart {
        event,
        target,
        run,
        attempts,
        decision,
        before,
        at,
        has_attempt,
        synced,
        rest,
    })
}

pub(super) fn take_settle(body: &[u8], base: Base) -> Decoded<SettleBody> {
    let mut start = take_settle_start(body, base)?;
    let attempt = if start.has_attempt { Some(take_attempt(&mut start.rest, base)?) } else { None };
    let SettleStart { event, target, run, attempts, decision, before, at, synced, .. } = start;
    Ok(SettleBody { event, target, run, attempts, decision, attempt, at, before, synced })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::event::NewEvent;

    const BASE: Base = Base { event: 1000, time: Timestamp::from_millis(1_764_513_045_123) };

    fn event(full: bool) -> Envelope {
        let mut event = NewEvent::raw("model.uploaded", " {\"a\": 1} ").unwrap().time(BASE.time);
        if full {
            event = event
                .id("order/1".parse().unwrap())
                .key("k")
                .time(Timestamp::from_millis(-7))
                .expires_at(Timestamp::MAX)
                .attribute("a", "1")
                .attribute("b", "");
        }
        event.seal(&SystemClock, 100).unwrap()
    }

    fn attempt() -> AttemptRecord {
        AttemptRecord {
            number: 3,
            at: BASE.time,
            took_ms: 12,
            cause: Some(Cause::Tls),
            message: "no".into(),
            status: Some(500),
            answer: "answer".into(),
        }
    }

    #[test]
    fn events_come_back_and_cut_ones_do_not() {
        let types: [EventType; 2] = ["x".parse().unwrap(), "model.uploaded".parse().unwrap()];
        for full in [false, true] {
            let event = event(full);
            let head = EventHead {
                number: 1007,
                accepted_at: BASE.time,
                targets: &[0, 300],
                kind: 1,
                more: full,
                synced: full.then_some(64),
            };
            let mut bytes = Vec::new();
            put_event(&mut bytes, BASE, &head, &event);
            assert!(bytes.len() <= event_size_max(&event, 2));
            let found = take_event(&bytes, BASE, &types).unwrap();
            assert_eq!(*found.event, event);
            assert_eq!((&found.targets[..], found.accepted_at), (&[0, 300][..], BASE.time));
            let start = take_event_start(&bytes, BASE).unwrap();
            assert_eq!((start.number, start.more(), start.synced), (1007, full, head.synced));
            assert_eq!(event_number(&bytes, BASE), Ok(1007));
            let payload = event.payload.len();
            for end in 0..bytes.len() - payload {
                assert!(take_event(&bytes[..end], BASE, &types).is_err(), "cut at {end}");
            }
            assert!(take_event(&bytes, BASE, &types[..1]).is_err(), "an unknown type");
        }
    }

    #[test]
    fn settlements_come_back() {
        let place = |offset| Place { segment: 9, offset };
        let decisions = [
            Decision::Delivered,
            Decision::RetryAt(Timestamp::from_millis(5)),
            Decision::Expired,
            Decision::Dead(DeadReason::Exhausted),
            Decision::Dead(DeadReason::Rejected),
            Decision::Dead(DeadReason::Gone),
            Decision::Dead(DeadReason::Disabled),
        ];
        for (number, decision) in decisions.into_iter().enumerate() {
            let before = [
                None,
                Some(Before { last: place(1), first: place(1) }),
                Some(Before { last: place(1), first: place(70_000) }),
            ][number % 3];
            let attempt = (number % 2 == 0).then(attempt);
            let synced = (number % 2 == 1).then_some(99);
            let at = attempt.is_none().then_some(BASE.time);
            let run = number as u32 * 100;
            let settle = SettleBody {
                event: 7,
                target: 3,
                run,
                attempts: 4,
                decision,
                attempt,
                at,
                before,
                synced,
            };
            let mut bytes = Vec::new();
            put_settle(&mut bytes, BASE, &settle);
            assert!(bytes.len() <= settle_size_max(settle.attempt.as_ref()));
            assert_eq!(take_settle(&bytes, BASE), Ok(settle));
            for end in 0..bytes.len() {
                assert!(take_settle(&bytes[..end], BASE).is_err(), "cut at {end}");
            }
        }
    }
}
