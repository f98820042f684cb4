//! Which ids were accepted lately: eight bytes and a bit for each, in generations of a fixed size.

use std::collections::VecDeque;

use hashbrown::HashTable;

/// Ids in one generation: what a table of 2^20 slots takes.
const GENERATION_IDS: usize = (1 << 20) / 8 * 7;
/// Generations kept; a publish looks into each.
const GENERATIONS_MAX: usize = 4;
/// Parts of a table that are filled one after the other, so that the processor's caches hold each.
const PARTS: usize = 64;
/// Most ids that are remembered, the newest (about 10 bytes each).
pub const DEDUP_IDS_MAX: usize = GENERATION_IDS * GENERATIONS_MAX;

/// Finds the events that may have an id.
#[derive(Default)]
pub(super) struct Dedup {
    generations: VecDeque<Generation>,
}

struct Generation {
    /// What its event numbers count from.
    base: u64,
    ids: HashTable<Slot>,
}

#[derive(Clone, Copy)]
struct Slot {
    print: u32,
    event: u32,
}

impl Generation {
    fn slot(&self, print: u64, event: u64) -> Slot {
        Slot { print: (print >> 32) as u32, event: event.wrapping_sub(self.base) as u32 }
    }

    fn insert(&mut self, slot: Slot) {
        self.ids.insert_unique(hash(slot.print), slot, |slot| hash(slot.print));
    }

    fn fill(&mut self, first: u64, prints: &[u64]) {
        let buckets = self.ids.num_buckets();
        // Where a table puts a slot first.
        let part =
            |slot: &Slot| (hash(slot.print) as usize & (buckets - 1)) / buckets.div_ceil(PARTS);
        let part_len = prints.len() / PARTS * 5 / 4;
        let mut parts: Vec<Vec<Slot>> = (0..PARTS).map(|_| Vec::with_capacity(part_len)).collect();
        for (event, print) in (first..).zip(prints).filter(|(_, print)| **print != 0) {
            let slot = self.slot(*print, event);
            parts[part(&slot)].push(slot);
        }
        parts.into_iter().flatten().for_each(|slot| self.insert(slot));
    }
}

fn hash(print: u32) -> u64 {
    u64::from(print).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Dedup {
    pub(super) fn insert(&mut self, print: u64, event: u64) {
        let generation = self.newest(event, event);
        let slot = generation.slot(print, event);
        generation.insert(slot);
    }

    /// Adds the ids of events that follow each other from `first`; a fingerprint of 0 is of none.
    /// About `more` are to come behind them.
    pub(super) fn extend(&mut self, first: u64, prints: &[u64], more: usize) {
        let end = first + prints.len() as u64;
        let (mut first, mut prints) = (first, prints);
        while !prints.is_empty() {
            let generation = self.newest(first, end);
            let room = GENERATION_IDS - generation.ids.len();
            let count = (prints.len() + more).min(room);
            generation.ids.reserve(count, |slot| hash(slot.print));
            let (now, later) = prints.split_at(prints.len().min(room));
            generation.fill(first, now);
            first += now.len() as u64;
            prints = later;
        }
    }

    /// The generation that takes an event, and those up to `end` as far as there is room.
    fn newest(&mut self, event: u64, end: u64) -> &mut Generation {
        let is_full = self.generations.back().is_none_or(|generation| {
            generation.ids.len() >= GENERATION_IDS
                || end.wrapping_sub(generation.base) > u64::from(u32::MAX)
        });
        if is_full {
            if self.generations.len() == GENERATIONS_MAX {
                self.generations.pop_front();
            }
            self.generations.push_back(Generation { base: event, ids: HashTable::new() });
        }
        self.generations.back_mut().expect("pushed above where there was none")
    }

    /// Ids of events below this number may have been forgotten.
    pub(super) fn reaches_to(&self) -> u64 {
        self.generations.front().map_or(u64::MAX, |generation| generation.base)
    }

    /// Events that may have the id of this fingerprint, the newest generation first: look whether
    /// they have.
    pub(super) fn find(&self, print: u64) -> impl Iterator<Item = u64> + '_ {
        let print = (print >> 32) as u32;
        self.generations.iter().rev().flat_map(move |generation| {
            generation
                .ids
                .iter_hash(hash(print))
                .filter(move |slot| slot.print == print)
                .map(|slot| generation.base.wrapping_add(u64::from(slot.event)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_it_holds_and_forgets_the_oldest() {
        let mut dedup = Dedup::default();
        let print = |event: u64| event.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ (event << 40);
        let total = DEDUP_IDS_MAX as u64 + 10;
        for event in 0..total {
            dedup.insert(print(event), event + 5);
        }
        for event in [total - 1, total / 2, GENERATION_IDS as u64] {
            assert!(dedup.find(print(event)).any(|found| found == event + 5), "{event}");
        }
        assert!(!dedup.find(print(0)).any(|found| found == 5), "the oldest generation is gone");
    }

    /// Many at once are found as if they had come one by one, also where a generation ends among them.
    #[test]
    fn many_at_once_are_found_as_well() {
        let print = |event: u64| (event + 1).wrapping_mul(0x2545_f491_4f6c_dd1d) ^ (event << 40);
        let prints: Vec<u64> = (0..GENERATION_IDS as u64 + 1000).map(print).collect();
        let (few, many) = prints.split_at(700);
        let mut dedup = Dedup::default();
        dedup.insert(print(1 << 40), 2);
        dedup.extend(5, few, many.len());
        dedup.extend(5 + few.len() as u64, many, 0);
        dedup.extend(1 << 33, &[print(9 << 30), 0], 0);
        for event in [0, 699, 700, GENERATION_IDS as u64 - 1, GENERATION_IDS as u64 + 999] {
            assert!(dedup.find(print(event)).any(|found| found == event + 5), "{event}");
        }
        assert!(dedup.find(print(9 << 30)).any(|found| found == 1 << 33));
        assert!(dedup.find(0).all(|found| found != (1 << 33) + 1), "0 is of no id");
    }
}
