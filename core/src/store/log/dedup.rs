//! Which ids were accepted lately: eight bytes and a bit for each, in generations of a fixed size.

use std::collections::VecDeque;

use hashbrown::HashTable;

/// Ids in one generation: what a table of 2^20 slots takes.
const GENERATION_IDS: usize = (1 << 20) / 8 * 7;
/// Generations kept; a publish looks into each.
const GENERATIONS_MAX: usize = 4;
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

fn hash(print: u32) -> u64 {
    u64::from(print).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Dedup {
    pub(super) fn insert(&mut self, print: u64, event: u64) {
        let is_full = self.generations.back().is_none_or(|generation| {
            generation.ids.len() >= GENERATION_IDS
                || event.wrapping_sub(generation.base) > u64::from(u32::MAX)
        });
        if is_full {
            if self.generations.len() == GENERATIONS_MAX {
                self.generations.pop_front();
            }
            self.generations.push_back(Generation { base: event, ids: HashTable::new() });
        }
        let generation = self.generations.back_mut().expect("pushed above where there was none");
        let slot =
            Slot { print: (print >> 32) as u32, event: event.wrapping_sub(generation.base) as u32 };
        generation.ids.insert_unique(hash(slot.print), slot, |slot| hash(slot.print));
    }

    /// Makes room for `count` more ids at once.
    pub(super) fn reserve(&mut self, count: usize) {
        if let Some(generation) = self.generations.back_mut() {
            let room = GENERATION_IDS.saturating_sub(generation.ids.len());
            generation.ids.reserve(count.min(room), |slot| hash(slot.print));
        }
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
}
