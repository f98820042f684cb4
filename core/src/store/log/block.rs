//! What is known of a stretch of records without reading it: which events it may hold, and whose
//! settlements.

use super::codec::{Decoded, Put, Take};
use crate::time::Timestamp;

/// A stretch of whole records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) offset: u32,
    /// The epoch of its first record.
    pub(super) epoch: u32,
    /// The number of the first event accepted in or after it.
    pub(super) event: u64,
    /// Of the events whose records are in it, accepted or copied.
    pub(super) summary: Summary,
    /// The events of which a record in it settles a delivery for good, or purges it.
    pub(super) settled: Ranges,
}

/// What some events have between them. It may promise too much, never too little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Summary {
    /// The least and greatest time of acceptance; the least above the greatest: there is no event.
    pub(super) oldest: Timestamp,
    pub(super) newest: Timestamp,
    /// A bit for each type, by its place in the segment modulo 64.
    pub(super) types: u64,
    /// A bit for each endpoint, see [`target_bit`]; the last: there is an event without endpoints.
    pub(super) targets: u128,
}

/// The bit of events without endpoints.
pub(super) const UNMATCHED_BIT: u128 = 1 << 127;

/// The bit of an endpoint's number.
pub(super) fn target_bit(number: u32) -> u128 {
    1 << (number % 127)
}

/// The bit of a type's place.
pub(super) fn type_bit(place: u32) -> u64 {
    1 << (place % 64)
}

impl Summary {
    pub(super) const NONE: Self =
        Self { oldest: Timestamp::MAX, newest: Timestamp::MIN, types: 0, targets: 0 };

    pub(super) fn is_none(&self) -> bool {
        self.oldest > self.newest
    }

    pub(super) fn of(accepted_at: Timestamp, kind: u32, targets: &[u32]) -> Self {
        let bits = targets.iter().fold(0, |bits, target| bits | target_bit(*target));
        let targets = if targets.is_empty() { UNMATCHED_BIT } else { bits };
        Self { oldest: accepted_at, newest: accepted_at, types: type_bit(kind), targets }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.oldest = self.oldest.min(other.oldest);
        self.newest = self.newest.max(other.newest);
        self.types |= other.types;
        self.targets |= other.targets;
    }

    fn put(&self, out: &mut Vec<u8>, base: Timestamp) {
        out.put_u8(u8::from(!self.is_none()));
        if !self.is_none() {
            out.put_signed(self.oldest.as_millis().wrapping_sub(base.as_millis()));
            out.put_var(self.newest.as_millis().wrapping_sub(self.oldest.as_millis()) as u64);
            out.put_u64(self.types);
            out.put(&self.targets.to_le_bytes());
        }
    }

    fn take(take: &mut Take<'_>, base: Timestamp) -> Decoded<Self> {
        if take.u8()? == 0 {
            return Ok(Self::NONE);
        }
        let oldest = base.as_millis().wrapping_add(take.signed()?);
        let newest = oldest.wrapping_add(take.var()?.cast_signed());
        Ok(Self {
            oldest: Timestamp::from_millis(oldest),
            newest: Timestamp::from_millis(newest),
            types: take.u64()?,
            targets: u128::from(take.u64()?) | u128::from(take.u64()?) << 64,
        })
    }
}

/// Most ranges that are kept; the closest grow together.
const RANGES_MAX: usize = 4;

/// Numbers in a few ranges: all that were inserted are inside, and what lies between close ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Each from its lowest to its highest number.
    pub(super) fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied()
    }

    pub(super) fn insert(&mut self, number: u64) {
        let at = self.0.partition_point(|(_, high)| *high < number);
        if self.0.get(at).is_some_and(|(low, _)| *low <= number) {
            return;
        }
        // Nearly always one more than a range that is there.
        if let Some((_, high)) = at.checked_sub(1).and_then(|before| self.0.get_mut(before))
            && *high + 1 == number
        {
            *high = number;
            return;
        }
        self.0.insert(at, (number, number));
        if self.0.len() > RANGES_MAX {
            let gap = |at: &usize| self.0[at + 1].0 - self.0[*at].1;
            let closest = (0..self.0.len() - 1).min_by_key(gap).expect("there are several");
            self.0[closest].1 = self.0[closest + 1].1;
            self.0.remove(closest + 1);
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.put_u8(self.0.len() as u8);
        let mut before = 0;
        for (low, high) in &self.0 {
            out.put_var(low - before);
            out.put_var(high - low);
            before = *high;
        }
    }

    fn take(take: &mut Take<'_>) -> Decoded<Self> {
        let mut before = 0_u64;
        let ranges = (0..take.u8()?).map(|_| {
            let low = before.wrapping_add(take.var()?);
            before = low.wrapping_add(take.var()?);
            Ok((low, before))
        });
        ranges.collect::<Decoded<_>>().map(Self)
    }
}

impl Block {
    pub(super) fn new(offset: u32, epoch: u32, event: u64) -> Self {
        Self { offset, epoch, event, summary: Summary::NONE, settled: Ranges::default() }
    }

    pub(super) fn put(&self, out: &mut Vec<u8>, base: super::record::Base) {
        out.put_var(u64::from(self.offset));
        out.put_var(u64::from(self.epoch));
        out.put_var(self.event - base.event);
        self.summary.put(out, base.time);
        self.settled.put(out);
    }

    pub(super) fn take(take: &mut Take<'_>, base: super::record::Base) -> Decoded<Self> {
        Ok(Self {
            offset: take.var_u32()?,
            epoch: take.var_u32()?,
            event: base.event.wrapping_add(take.var()?),
            summary: Summary::take(take, base.time)?,
            settled: Ranges::take(take)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Base;
    use super::*;

    #[test]
    fn ranges_hold_what_was_inserted_and_little_else() {
        let contains = |ranges: &Ranges, event| {
            ranges.ranges().any(|(low, high)| (low..=high).contains(&event))
        };
        let mut ranges = Ranges::default();
        for event in (1000..1100).rev().chain(5..50).chain([70, 7, 1_000_000]) {
            ranges.insert(event);
        }
        for event in (1000..1100).chain(5..50).chain([70, 7, 1_000_000]) {
            assert!(contains(&ranges, event), "{event}");
        }
        for event in [0, 4, 60, 500, 1200, 999_999, u64::MAX] {
            assert!(!contains(&ranges, event), "{event}: {ranges:?}");
        }
        let mut random = fastrand::Rng::with_seed(1);
        let mut inserted = Vec::new();
        for _ in 0..1000 {
            inserted.push(random.u64(..) >> random.u8(..64));
            ranges.insert(inserted[inserted.len() - 1]);
            assert!(ranges.0.len() <= RANGES_MAX && ranges.0.is_sorted());
        }
        assert!(inserted.iter().all(|event| contains(&ranges, *event)));
    }

    #[test]
    fn blocks_come_back() {
        let base = Base { event: 9, time: Timestamp::from_millis(1_764_513_045_123) };
        let mut block = Block::new(64, 2, 700);
        for time in [Timestamp::MAX, Timestamp::MIN, base.time] {
            block.settled.insert(u64::MAX - 5);
            block.settled.insert(3);
            let mut bytes = Vec::new();
            block.put(&mut bytes, base);
            assert_eq!(Block::take(&mut Take::new(&bytes), base), Ok(block.clone()));
            for cut in 0..bytes.len() {
                assert!(Block::take(&mut Take::new(&bytes[..cut]), base).is_err(), "cut at {cut}");
            }
            block.summary.add(&Summary::of(time, 130, &[126, 127, 300]));
            block.summary.add(&Summary::of(time, 0, &[]));
        }
        let summary = Summary::of(base.time, 130, &[126, 127, 300]);
        assert_eq!((summary.types, summary.targets), (1 << 2, 1 << 126 | 1 | 1 << 46));
        assert_eq!(Summary::of(base.time, 0, &[]).targets, UNMATCHED_BIT);
    }
}
