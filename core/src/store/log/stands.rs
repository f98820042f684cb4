//! How the newest deliveries to one endpoint ended, and which events were sent to it again: a bit for
//! each, so that most of what people ask is answered without reading.

use roaring::RoaringTreemap;

use super::codec::{Decoded, Malformed, Put, Take};
use crate::delivery::{DeadReason, Decision, State};
use crate::store::RUNS_MAX;

/// How a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Ended {
    Delivered,
    Expired,
    Dead(DeadReason),
    Purged,
}

impl Ended {
    /// All that are kept as bits; what is in none of them was delivered.
    pub(super) const KEPT: [Self; KEPT] = [
        Self::Dead(DeadReason::Exhausted),
        Self::Dead(DeadReason::Rejected),
        Self::Dead(DeadReason::Gone),
        Self::Expired,
        Self::Purged,
        Self::Dead(DeadReason::Disabled),
    ];

    /// Where its bits are.
    fn slot(self) -> Option<usize> {
        Self::KEPT.iter().position(|kept| *kept == self)
    }

    /// What a decision ended; `None` for one to try again.
    pub(super) fn by(decision: Decision) -> Option<Self> {
        match decision {
            Decision::Delivered => Some(Self::Delivered),
            Decision::Expired => Some(Self::Expired),
            Decision::Dead(reason) => Some(Self::Dead(reason)),
            Decision::RetryAt(_) => None,
        }
    }

    pub(super) fn state(self) -> State {
        match self {
            Self::Delivered => State::Delivered,
            Self::Expired => State::Expired,
            Self::Dead(reason) => State::Dead { reason },
            Self::Purged => State::Purged,
        }
    }

    /// Whether it was given up and nobody has set it aside.
    pub(super) fn is_dead(self) -> bool {
        matches!(self, Self::Dead(_) | Self::Expired)
    }
}

const KEPT: usize = 6;
/// As many were there from the first version of the format on.
const KEPT_FIRST: usize = 5;

/// Bits of events, by how their newest delivery to one endpoint ended and how often it was made.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Stands {
    /// In the order of [`Ended::KEPT`]; an event is in one at most.
    ended: [RoaringTreemap; KEPT],
    /// By how often they were sent again: the first holds those of which there is a run 1, the
    /// second those of which there is a run 2.
    again: Vec<RoaringTreemap>,
}

impl Stands {
    /// How the newest delivery ended, if it is not owed.
    pub(super) fn ended(&self, event: u64) -> Ended {
        let kept = Ended::KEPT.iter().zip(&self.ended);
        let kept = kept.into_iter().find(|(_, events)| events.contains(event));
        kept.map_or(Ended::Delivered, |(ended, _)| *ended)
    }

    pub(super) fn set_ended(&mut self, event: u64, ended: Ended) {
        self.reopen(event);
        if let Some(slot) = ended.slot() {
            self.ended[slot].insert(event);
        }
    }

    /// It is owed again.
    pub(super) fn reopen(&mut self, event: u64) {
        for events in &mut self.ended {
            events.remove(event);
        }
    }

    /// The events whose newest delivery ended so.
    pub(super) fn events(&self, ended: Ended) -> Option<&RoaringTreemap> {
        ended.slot().map(|slot| &self.ended[slot])
    }

    /// The newest event of which there is a bit.
    pub(super) fn newest(&self) -> Option<u64> {
        self.ended.iter().chain(&self.again).filter_map(RoaringTreemap::max).max()
    }

    /// The newest run of an event.
    pub(super) fn run(&self, event: u64) -> u32 {
        // Each is a part of the one before.
        self.again.partition_point(|events| events.contains(event)) as u32
    }

    pub(super) fn set_run(&mut self, event: u64, run: u32) {
        let run = run.min(RUNS_MAX) as usize;
        if self.again.len() < run {
            self.again.resize_with(run, RoaringTreemap::new);
        }
        for events in &mut self.again[..run] {
            events.insert(event);
        }
    }

    /// The events that were sent again at least once.
    pub(super) fn again(&self) -> Option<&RoaringTreemap> {
        self.again.first()
    }

    /// Forgets the events of a stretch that `is_gone` names. Returns how many of them were given up
    /// and not purged.
    pub(super) fn forget(&mut self, from: u64, to: u64, is_gone: impl Fn(u64) -> bool) -> u64 {
        let mut dead = 0;
        for (ended, events) in Ended::KEPT.iter().zip(&mut self.ended) {
            let gone = remove(events, from, to, &is_gone);
            dead += if ended.is_dead() { gone } else { 0 };
        }
        for events in &mut self.again {
            remove(events, from, to, &is_gone);
        }
        while self.again.pop_if(|events| events.is_empty()).is_some() {}
        dead
    }

    /// Whether there is a bit in a bitmap that the first version of the format did not have.
    pub(super) fn has_later(&self) -> bool {
        self.ended[KEPT_FIRST..].iter().any(|events| !events.is_empty())
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_var(self.again.len() as u64);
        let later = if self.has_later() { &self.ended[KEPT_FIRST..] } else { &[] };
        for events in self.ended[..KEPT_FIRST].iter().chain(&self.again).chain(later) {
            put_events(out, events);
        }
    }

    /// `has_later`: what [`has_later`](Self::has_later) said when it was encoded.
    pub(super) fn take(take: &mut Take<'_>, has_later: bool) -> Decoded<Self> {
        let runs = take.count()?;
        let mut stands = Self::default();
        let (first, later) = stands.ended.split_at_mut(KEPT_FIRST);
        for events in first {
            *events = take_events(take)?;
        }
        stands.again = (0..runs).map(|_| take_events(take)).collect::<Decoded<_>>()?;
        for events in later.iter_mut().filter(|_| has_later) {
            *events = take_events(take)?;
        }
        Ok(stands)
    }
}

fn remove(events: &mut RoaringTreemap, from: u64, to: u64, is_gone: impl Fn(u64) -> bool) -> u64 {
    let mut inside = events.iter();
    inside.advance_to(from);
    let gone: Vec<u64> =
        inside.take_while(|event| *event < to).filter(|event| is_gone(*event)).collect();
    for event in &gone {
        events.remove(*event);
    }
    gone.len() as u64
}

/// Length and bytes of a bitmap.
pub(super) fn put_events(out: &mut Vec<u8>, events: &RoaringTreemap) {
    out.put_var(events.serialized_size() as u64);
    events.serialize_into(out).expect("writing to memory does not fail");
}

pub(super) fn take_events(take: &mut Take<'_>) -> Decoded<RoaringTreemap> {
    let count = take.count()?;
    RoaringTreemap::deserialize_from(take.bytes(count)?).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_stands_one_way_and_is_forgotten_with_its_event() {
        let mut stands = Stands::default();
        for (event, ended) in (10..).zip(Ended::KEPT) {
            stands.set_ended(event, Ended::Purged);
            stands.set_ended(event, ended);
            assert_eq!(stands.ended(event), ended);
        }
        assert_eq!(stands.ended(9), Ended::Delivered);
        stands.set_run(11, 3);
        stands.set_run(12, 1);
        assert_eq!([10, 11, 12].map(|event| stands.run(event)), [0, 3, 1]);
        stands.reopen(11);
        assert_eq!((stands.ended(11), stands.run(11)), (Ended::Delivered, 3));

        let mut bytes = Vec::new();
        stands.encode(&mut bytes);
        assert!(stands.has_later());
        assert_eq!(Stands::take(&mut Take::new(&bytes), true), Ok(stands.clone()));
        for cut in 0..bytes.len() {
            assert!(Stands::take(&mut Take::new(&bytes[..cut]), true).is_err(), "cut at {cut}");
        }
        assert_eq!(stands.forget(0, 14, |event| event != 10), 2, "12 and 13 were dead");
        assert_eq!((stands.ended(10), stands.ended(12)), (Ended::KEPT[0], Ended::Delivered));
        assert_eq!((stands.ended(14), stands.run(11)), (Ended::Purged, 0));

        // Without one of the later bitmaps it is what it always was.
        stands.reopen(15);
        let mut bytes = Vec::new();
        stands.encode(&mut bytes);
        assert!(!stands.has_later());
        assert_eq!(Stands::take(&mut Take::new(&bytes), false), Ok(stands));
    }
}
