//! A clock for tests.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use tokio::time::Instant;

use crate::clock::Clock;
use crate::time::Timestamp;

/// A wall clock that moves with tokio's time, paused or not, and can be made to jump; its random
/// numbers follow from a seed.
#[derive(Debug)]
pub struct TestClock {
    start: Timestamp,
    since: Option<Instant>,
    jumped_ms: AtomicI64,
    random: AtomicU64,
}

impl TestClock {
    /// Stands at `time` until it is made to jump.
    pub fn at(time: Timestamp) -> Self {
        Self { start: time, since: None, jumped_ms: AtomicI64::new(0), random: AtomicU64::new(1) }
    }

    /// Starts at 2025-11-30T14:30:45.123Z and moves with tokio's time.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn following_tokio() -> Self {
        Self { since: Some(Instant::now()), ..Self::at(Timestamp::from_millis(1_764_513_045_123)) }
    }

    /// Sets the seed of the random numbers.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        self.random.store(seed, Ordering::Relaxed);
        self
    }

    /// Jumps forward, or back with a negative number of milliseconds.
    pub fn jump_ms(&self, millis: i64) {
        self.jumped_ms.fetch_add(millis, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let passed = self.since.map_or(0, |since| since.elapsed().as_millis() as i64);
        Timestamp::from_millis(
            self.start.as_millis() + passed + self.jumped_ms.load(Ordering::Relaxed),
        )
    }

    /// `SplitMix64`: evenly distributed, and the same for the same seed.
    fn random(&self) -> u64 {
        let mut z = self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
