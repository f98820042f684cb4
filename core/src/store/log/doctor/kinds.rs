//! Which records make sense where they are. A new kind gets a name and an arm in [`Here::check`];
//! kinds that are not known here are counted, and left as they are.

use std::collections::{BTreeMap, HashMap};

use roaring::RoaringTreemap;

use super::super::codec::Take;
use super::super::facts::{self, Chosen, PurgeBody, ReplayBody};
use super::super::format::{Frame, SegmentHeader, kind};
use super::super::moved::take_moved;
use super::super::record::{self, Base, EventBody, Name};
use super::super::segment::TypesAfterLoss;
use crate::endpoint::EndpointId;
use crate::event::EventType;
use crate::time::Timestamp;

/// The name of a kind, for people.
pub(super) fn name(kind: u8) -> String {
    let known = match kind {
        kind::NAME => "name",
        kind::EVENT => "event",
        kind::SETTLE => "settle",
        kind::MOVED => "moved",
        kind::MARK => "mark",
        kind::END => "end",
        kind::REPLAY => "replay",
        kind::PURGE => "purge",
        kind::NOTE => "note",
        kind::TOTALS => "totals",
        kind::LOST => "lost",
        _ => return format!("kind {kind}"),
    };
    known.to_owned()
}

/// What the records so far have told.
#[derive(Default)]
pub(super) struct Known {
    /// The number of the next event.
    pub(super) next_event: u64,
    /// What was accepted below it was freed, unless it was copied forward.
    pub(super) oldest: u64,
    /// Events with a whole record.
    pub(super) events: RoaringTreemap,
    /// By number.
    endpoints: HashMap<u32, Endpoint>,
}

#[derive(Default)]
struct Endpoint {
    id: Option<EndpointId>,
    /// Events with a whole record that go to it.
    deliveries: RoaringTreemap,
}

/// An event that was read, to be noted once its batch is whole.
struct Read {
    number: u64,
    targets: Vec<u32>,
    accepted_at: Timestamp,
}

/// What the records of one segment have told.
pub(super) struct Here {
    base: Base,
    types: Vec<EventType>,
    /// Up to where `types` was known beforehand.
    types_until: u32,
    /// Keeps the places in `types` right after a loss.
    places: TypesAfterLoss,
    pub(super) named: Vec<(u32, EventType)>,
    defined: Vec<u32>,
    /// Whether records of this segment are lost: then so may be definitions.
    has_loss: bool,
    /// The events of a batch whose last one was not read yet, and the number of the first.
    batch: Vec<Read>,
    batch_first: u64,
    pub(super) records: BTreeMap<String, u64>,
    pub(super) events: u64,
    pub(super) times: Option<(Timestamp, Timestamp)>,
}

impl Here {
    /// `types` are known to be those that records before `types_until` define.
    pub(super) fn new(header: &SegmentHeader, types: Vec<EventType>, types_until: u32) -> Self {
        Self {
            base: Base { event: header.base, time: header.base_time },
            types,
            types_until,
            places: TypesAfterLoss::default(),
            named: Vec::new(),
            defined: Vec::new(),
            has_loss: false,
            batch: Vec::new(),
            batch_first: 0,
            records: BTreeMap::new(),
            events: 0,
            times: None,
        }
    }

    /// Notes a record that is valid; `at` is how far it is into its segment.
    ///
    /// # Errors
    /// In words: why it makes no sense here.
    pub(super) fn check(
        &mut self,
        known: &mut Known,
        at: u32,
        frame: Frame<'_>,
    ) -> Result<(), String> {
        let base = self.base;
        let undecodable =
            |_| format!("a record of the kind {} cannot be decoded", name(frame.kind));
        if at >= self.types_until && self.places.cares(frame.kind) {
            self.places.see(&frame, base, &mut self.types);
        }
        match frame.kind {
            kind::NAME => {
                let defined = Name::take(frame.body).map_err(undecodable)?;
                self.define(known, at, defined)?;
            }
            kind::EVENT => {
                let start = record::take_event_start(frame.body, base).map_err(undecodable)?;
                let event =
                    record::take_event(frame.body, base, &self.types).map_err(undecodable)?;
                self.accept(known, at, start.number, start.more(), event)?;
            }
            kind::SETTLE => {
                let settle = record::take_settle(frame.body, base).map_err(undecodable)?;
                self.check_target(settle.target)?;
                // The record that made it again may be lost; this one tells of it too.
                if settle.run > 0 && known.events.contains(settle.event) {
                    known.note(settle.event, &[settle.target]);
                }
                known.check_delivery(settle.event, settle.target, "settled")?;
            }
            kind::MOVED => {
                let moved = take_moved(frame.body, base).map_err(undecodable)?;
                let start = record::take_event_start(moved.event, base).map_err(undecodable)?;
                let event =
                    record::take_event(moved.event, base, &self.types).map_err(undecodable)?;
                if start.number >= known.next_event {
                    return Err(format!(
                        "event {} was copied forward and never accepted",
                        start.number
                    ));
                }
                for target in &event.targets {
                    self.check_target(*target)?;
                }
                // A replay may have made deliveries to endpoints that it did not go to at first.
                let is_its = |target: u32, run: u32| run > 0 || event.targets.contains(&target);
                if moved.deliveries.iter().any(|moved| !is_its(moved.target, moved.run)) {
                    return Err(format!(
                        "event {} was copied forward with a delivery that it does not have",
                        start.number
                    ));
                }
                known.note(start.number, &event.targets);
                let replayed: Vec<u32> =
                    moved.deliveries.iter().map(|moved| moved.target).collect();
                known.note(start.number, &replayed);
            }
            kind::REPLAY => {
                let replay = ReplayBody::take(frame.body, base).map_err(undecodable)?;
                for Chosen { event, target, .. } in replay.runs {
                    self.check_target(target)?;
                    if event >= known.next_event {
                        return Err(format!("event {event} was replayed and never accepted"));
                    }
                    if known.events.contains(event) {
                        known.note(event, &[target]);
                    }
                }
            }
            kind::PURGE => {
                let purge = PurgeBody::take(frame.body, base).map_err(undecodable)?;
                for Chosen { event, target, .. } in purge.runs {
                    self.check_target(target)?;
                    known.check_delivery(event, target, "purged")?;
                }
            }
            kind::NOTE => {
                facts::take_note(frame.body).map_err(undecodable)?;
            }
            kind::TOTALS => {
                for (target, _) in facts::take_totals(frame.body).map_err(undecodable)? {
                    self.check_target(target)?;
                }
            }
            kind::MARK => {
                Take::new(frame.body).u32().map_err(undecodable)?;
            }
            _ => {}
        }
        *self.records.entry(name(frame.kind)).or_default() += 1;
        Ok(())
    }

    fn define(&mut self, known: &mut Known, at: u32, defined: Name<'_>) -> Result<(), String> {
        match defined {
            Name::Endpoint(number, id) => {
                let id: EndpointId =
                    id.parse().map_err(|_| format!("endpoint {number} has no valid id"))?;
                let endpoint = known.endpoints.entry(number).or_default();
                if let Some(earlier) = &endpoint.id
                    && *earlier != id
                {
                    return Err(format!("endpoint {number} is {earlier:?} elsewhere, {id:?} here"));
                }
                endpoint.id = Some(id);
                self.defined.push(number);
            }
            Name::Type(kind) => {
                let kind: EventType =
                    kind.parse().map_err(|_| "an event type is not valid".to_owned())?;
                if at >= self.types_until {
                    self.types.push(kind.clone());
                }
                self.named.push((at, kind));
            }
        }
        Ok(())
    }

    /// Records are lost here.
    pub(super) fn lose(&mut self) {
        self.has_loss = true;
        self.places.lose();
    }

    /// Whether records of this segment are lost.
    pub(super) fn has_loss(&self) -> bool {
        self.has_loss
    }

    fn accept(
        &mut self,
        known: &mut Known,
        at: u32,
        number: u64,
        more: bool,
        event: EventBody,
    ) -> Result<(), String> {
        if number < known.next_event {
            return Err(format!("event {number} follows event {}", known.next_event - 1));
        }
        // An event takes more than a byte.
        if number - self.base.event > u64::from(at) {
            return Err(format!("event {number} cannot be this near to the segment's beginning"));
        }
        for target in &event.targets {
            self.check_target(*target)?;
        }
        if self.batch.is_empty() {
            self.batch_first = known.next_event;
        }
        known.next_event = number + 1;
        let EventBody { accepted_at, targets, .. } = event;
        self.batch.push(Read { number, targets, accepted_at });
        if !more {
            self.commit(known);
        }
        Ok(())
    }

    fn check_target(&self, target: u32) -> Result<(), String> {
        if self.defined.contains(&target) || self.has_loss {
            return Ok(());
        }
        Err(format!("endpoint {target} is not defined before it is used"))
    }

    /// The batch is whole, or what is missing of it is lost.
    pub(super) fn commit(&mut self, known: &mut Known) {
        for read in self.batch.drain(..) {
            known.note(read.number, &read.targets);
            self.events += 1;
            let at = read.accepted_at;
            let (oldest, newest) = self.times.unwrap_or((at, at));
            self.times = Some((oldest.min(at), newest.max(at)));
        }
    }

    /// The log ends before the batch does: it was never acknowledged. Whether there was one.
    pub(super) fn cut(&mut self, known: &mut Known) -> bool {
        let cut = !self.batch.is_empty();
        if cut {
            known.next_event = self.batch_first;
            let count = self.batch.len() as u64;
            if let Some(events) = self.records.get_mut(&name(kind::EVENT)) {
                *events -= count;
            }
            self.batch.clear();
        }
        cut
    }

    /// Whether a batch has begun and not ended.
    pub(super) fn is_in_batch(&self) -> bool {
        !self.batch.is_empty()
    }
}

impl Known {
    fn note(&mut self, number: u64, targets: &[u32]) {
        self.events.insert(number);
        for target in targets {
            self.endpoints.entry(*target).or_default().deliveries.insert(number);
        }
    }

    fn check_delivery(&self, event: u64, target: u32, done: &str) -> Result<(), String> {
        if event >= self.next_event {
            return Err(format!("event {event} was {done} and never accepted"));
        }
        let is_one = || {
            let endpoint = self.endpoints.get(&target);
            endpoint.is_some_and(|endpoint| endpoint.deliveries.contains(event))
        };
        // Of an event that is gone, or lost, nothing more is known.
        if self.events.contains(event) && !is_one() {
            return Err(format!(
                "event {event} was {done} for endpoint {target}, to which it does not go"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::record::{EventHead, TYPE_LOST, put_event};
    use super::*;
    use crate::clock::SystemClock;
    use crate::event::NewEvent;

    /// A type that was defined before a loss keeps its place, whatever the next event has: what is
    /// missing was defined in between.
    #[test]
    fn a_type_defined_before_a_loss_keeps_its_place() {
        let header = SegmentHeader {
            number: 1,
            store: 0,
            salt: 0,
            base: 0,
            base_time: Timestamp::from_millis(0),
            recycled: false,
        };
        let (mut known, mut here) = (Known::default(), Here::new(&header, Vec::new(), 0));
        let mut name = Vec::new();
        Name::Type("match").put(&mut name);
        here.check(&mut known, 64, Frame { kind: kind::NAME, body: &name }).unwrap();
        here.lose();
        let event = NewEvent::raw("replay.saved", "{}").unwrap().seal(&SystemClock, 100).unwrap();
        let head = EventHead {
            number: 0,
            accepted_at: header.base_time,
            targets: &[],
            kind: 1,
            more: false,
            synced: None,
        };
        let mut body = Vec::new();
        put_event(&mut body, here.base, &head, &event);
        here.check(&mut known, 200, Frame { kind: kind::EVENT, body: &body }).unwrap_err();
        assert_eq!(here.types, ["match".parse().unwrap(), TYPE_LOST]);
    }
}
