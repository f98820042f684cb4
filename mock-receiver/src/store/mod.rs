//! Where captures are kept: append-only under sequence numbers, bounded, indexed by bin.
//!
//! The lock is held for the touch of a map, and where captures are kept in a folder for handing one
//! to the system, and never while anything is waited for; readers copy
//! handles out and look at them outside. Who waits for captures is notified.

mod journal;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Bound,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, futures::Notified};

use self::journal::{Journal, Told};
use crate::{Capture, Error, capture::Record};

/// The most bins that may hold captures, or answers, at once.
pub(crate) const BINS_MAX: usize = 10_000;
/// How many captures are looked at under one hold of the lock.
const SLICE: usize = 1_000;

pub(crate) struct Store {
    state: Mutex<State>,
    changed: Notify,
    captures_max: usize,
    bytes_max: usize,
}

#[derive(Default)]
struct State {
    captures: BTreeMap<u64, Capture>,
    bins: HashMap<Arc<str>, Index>,
    last_seq: u64,
    bytes: usize,
    evicted: u64,
    journal: Option<Journal>,
}

#[derive(Default)]
struct Index {
    seqs: VecDeque<u64>,
    evicted: u64,
}

/// What is held, of one bin or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Captures held now.
    pub(crate) held: usize,
    /// Captures dropped to make room since the start.
    pub(crate) evicted: u64,
}

/// There are too many bins already.
#[derive(Debug)]
pub(crate) struct TooManyBins;

impl Store {
    pub(crate) fn new(captures_max: usize, bytes_max: usize) -> Self {
        let state = Mutex::default();
        Self { state, changed: Notify::new(), captures_max, bytes_max }
    }

    /// With what a folder holds, to which everything more is written.
    ///
    /// # Errors
    /// Where the folder cannot be used.
    pub(crate) fn open(captures_max: usize, bytes_max: usize, dir: &Path) -> Result<Self, Error> {
        let store = Self::new(captures_max, bytes_max);
        let (journal, last_seq) = Journal::open(dir, |told| match told {
            Told::Clear(bin) => drop(store.clear(bin.as_deref())),
            Told::Capture(mut record) => {
                // Where there are too many bins, those without captures make room.
                if let Ok(bin) = store.bin(&record.bin) {
                    record.bin = bin;
                    drop(store.lock().keep(*record, captures_max, bytes_max));
                }
            }
        })?;
        let mut state = store.lock();
        state.last_seq = last_seq;
        state.journal = Some(journal);
        state.forget_files();
        drop(state);
        Ok(store)
    }

    pub(crate) fn last_seq(&self) -> u64 {
        self.lock().last_seq
    }

    /// Why captures are not written to their folder any more.
    pub(crate) fn broken(&self) -> Option<String> {
        self.lock().journal.as_ref().and_then(|journal| journal.broken.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shared name of a bin, made on first use.
    pub(crate) fn bin(&self, name: &str) -> Result<Arc<str>, TooManyBins> {
        let mut state = self.lock();
        if let Some((name, _)) = state.bins.get_key_value(name) {
            return Ok(name.clone());
        }
        if state.bins.len() >= BINS_MAX {
            state.bins.retain(|_, index| !index.seqs.is_empty());
            if state.bins.len() >= BINS_MAX {
                return Err(TooManyBins);
            }
        }
        let name: Arc<str> = name.into();
        state.bins.insert(name.clone(), Index::default());
        Ok(name)
    }

    /// Keeps a request, gives it its number and lets the oldest go where there is no room.
    ///
    /// The newest is kept even when it alone is larger than the bound.
    pub(crate) fn push(&self, mut record: Record) {
        let mut state = self.lock();
        state.last_seq += 1;
        record.seq = state.last_seq;
        if let Some(journal) = &mut state.journal {
            journal.push(&record);
        }
        let gone = state.keep(record, self.captures_max, self.bytes_max);
        if !gone.is_empty() {
            state.forget_files();
        }
        drop(state);
        drop(gone); // Freed when the lock is not held any more.
        self.changed.notify_waiters();
    }

    /// Up to `limit` captures behind `after`, oldest first.
    pub(crate) fn range(&self, bin: Option<&str>, after: u64, limit: usize) -> Vec<Capture> {
        let state = self.lock();
        match bin {
            None => {
                let behind = (Bound::Excluded(after), Bound::Unbounded);
                state
                    .captures
                    .range(behind)
                    .take(limit)
                    .map(|(_, capture)| capture.clone())
                    .collect()
            }
            Some(bin) => state.bins.get(bin).map_or_else(Vec::new, |index| {
                let first = index.seqs.partition_point(|&seq| seq <= after);
                let seqs = index.seqs.range(first..).take(limit);
                seqs.filter_map(|seq| state.captures.get(seq).cloned()).collect()
            }),
        }
    }

    /// Calls `look` with the captures behind `after`, oldest first, until it returns false; the
    /// lock is not held while it looks.
    pub(crate) fn each(
        &self,
        bin: Option<&str>,
        after: u64,
        mut look: impl FnMut(Capture) -> bool,
    ) {
        let mut cursor = after;
        loop {
            let slice = self.range(bin, cursor, SLICE);
            let Some(last) = slice.last() else { return };
            cursor = last.seq;
            if !slice.into_iter().all(&mut look) {
                return;
            }
        }
    }

    pub(crate) fn one(&self, seq: u64) -> Option<Capture> {
        self.lock().captures.get(&seq).cloned()
    }

    /// Forgets the captures of a bin, or all; returns how many.
    pub(crate) fn clear(&self, bin: Option<&str>) -> usize {
        let mut state = self.lock();
        let gone: Vec<Capture> = match bin {
            None => {
                state.bytes = 0;
                state.bins.values_mut().for_each(|index| index.seqs.clear());
                std::mem::take(&mut state.captures).into_values().collect()
            }
            Some(bin) => {
                let index = state.bins.get_mut(bin);
                let seqs =
                    index.map_or_else(VecDeque::new, |index| std::mem::take(&mut index.seqs));
                let gone =
                    seqs.iter().filter_map(|seq| state.captures.remove(seq)).collect::<Vec<_>>();
                state.bytes -= gone.iter().map(|capture| capture.cost()).sum::<usize>();
                gone
            }
        };
        let last_seq = state.last_seq;
        if let Some(journal) = &mut state.journal {
            journal.clear(bin, last_seq);
        }
        state.forget_files();
        drop(state);
        gone.len()
    }

    /// What is held; `None` for a bin that was never used.
    pub(crate) fn totals(&self, bin: Option<&str>) -> Option<Totals> {
        let state = self.lock();
        match bin {
            None => Some(Totals { held: state.captures.len(), evicted: state.evicted }),
            Some(bin) => state
                .bins
                .get(bin)
                .map(|index| Totals { held: index.seqs.len(), evicted: index.evicted }),
        }
    }

    /// Completes with the first capture that is kept from now on, which is from this call on and
    /// not from the first poll: take it, look, then await it.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }
}

impl State {
    /// Takes a numbered record in; what must go for it.
    fn keep(&mut self, record: Record, captures_max: usize, bytes_max: usize) -> Vec<Capture> {
        self.bytes += record.cost();
        self.bins.entry(record.bin.clone()).or_default().seqs.push_back(record.seq);
        self.captures.insert(record.seq, Capture::new(record));
        let mut gone = Vec::new();
        while self.captures.len() > 1
            && (self.captures.len() > captures_max || self.bytes > bytes_max)
        {
            gone.extend(self.evict_oldest());
        }
        gone
    }

    /// Lets files go that hold nothing any more.
    fn forget_files(&mut self) {
        let first = self.captures.keys().next().copied().unwrap_or(self.last_seq + 1);
        if let Some(journal) = &mut self.journal {
            journal.forget_before(first);
        }
    }

    fn evict_oldest(&mut self) -> Option<Capture> {
        let (_, capture) = self.captures.pop_first()?;
        self.bytes -= capture.cost();
        self.evicted += 1;
        if let Some(index) = self.bins.get_mut(&capture.bin) {
            index.seqs.pop_front();
            index.evicted += 1;
        }
        Some(capture)
    }
}

impl std::fmt::Display for TooManyBins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "there are {BINS_MAX} bins already; delete some (DELETE /api/v1/bins/BIN)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sender that makes up names must not fill the memory; names that hold nothing make room.
    #[test]
    fn bins_are_bounded_and_empty_ones_make_room() {
        let store = Store::new(10, 1 << 20);
        for at in 0..BINS_MAX {
            store.bin(&format!("bin-{at}")).expect("room");
        }
        let kept = store.bin("bin-7").expect("is there");
        store.lock().bins.get_mut(&kept).expect("is there").seqs.push_back(1);
        store.bin("one-more").expect("the empty ones made room");
        assert_eq!(store.lock().bins.len(), 2);
        store.lock().bins.get_mut("one-more").expect("is there").seqs.push_back(1);
        for index in 0..BINS_MAX {
            let Ok(name) = store.bin(&format!("full-{index}")) else { break };
            store.lock().bins.get_mut(&name).expect("is there").seqs.push_back(1);
        }
        assert!(store.bin("too-many").is_err());
        assert!(store.bin("bin-7").is_ok());
        assert_eq!(store.lock().bins.len(), BINS_MAX);
    }

    /// What is promised of size: 100,000 requests of 400 B in under 200 MB, and any page of them
    /// in under 5 ms. The memory is what the system says, so the bound on its own estimate is
    /// checked with it.
    #[test]
    #[cfg(target_os = "linux")]
    fn many_requests_are_small_and_any_page_of_them_is_quick() {
        let resident = || {
            let text = std::fs::read_to_string("/proc/self/statm").expect("is there");
            let pages = text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
            pages.expect("a number") * 4096
        };
        let before = resident();
        let store = Store::new(100_000, 256 << 20);
        let bins = ["a", "b"].map(|bin| store.bin(bin).expect("room"));
        for at in 0..100_000 {
            let mut record = Record::sample(bins[at % 2].clone());
            record.body = vec![b'x'; 400].into_boxed_slice().into();
            store.push(record);
        }
        let taken = resident().saturating_sub(before);
        let estimate = store.lock().bytes;
        assert_eq!(store.totals(None), Some(Totals { held: 100_000, evicted: 0 }));
        assert!(taken < 200_000_000, "{taken} bytes resident, {estimate} by its own estimate");
        assert!(taken < estimate * 3 / 2, "{taken} bytes resident, {estimate} by its own estimate");
        // The quickest of three: others use this machine, too.
        for (bin, after) in [(None, 0), (None, 50_000), (Some("b"), 98_000), (Some("a"), 1)] {
            let took = (0..3).map(|_| {
                let began = std::time::Instant::now();
                let page = store.range(bin, after, 1_000);
                assert_eq!(page.len(), 1_000, "{bin:?} behind {after}");
                began.elapsed()
            });
            let took = took.min().expect("three");
            assert!(took.as_millis() < 5, "{took:?} for {bin:?} behind {after}");
        }
    }
}
