//! For tests (feature `test-util`): a clock that follows paused time, sinks that record and follow a
//! script, stores and disks that fail when told to, and the contract suites that every sink and store must pass.
//!
//! A third party's plugin proves itself with one line, see [`sink::contract`].

mod clock;
mod disk;
mod faulty;
mod recording;
pub mod sink;
pub mod store;
mod store_history;

pub use clock::TestClock;
pub use disk::{Disk, Fail};
pub use faulty::{Call, FaultyStore};
pub use recording::{RecordingSink, Step};

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::event::{Envelope, NewEvent};
use crate::time::Timestamp;

/// An accepted event of type `kind` with this JSON payload, as a sink would get it.
///
/// # Panics
/// Where the bus would refuse it.
pub fn envelope(kind: &str, payload: &str) -> Arc<Envelope> {
    sealed(NewEvent::raw(kind, payload.to_owned()).expect("a valid event"))
}

/// The accepted form of `event`.
///
/// # Panics
/// Where the bus would refuse it.
pub fn sealed(event: NewEvent) -> Arc<Envelope> {
    /// So that each gets an id of its own.
    static SEED: AtomicU64 = AtomicU64::new(0);
    let seed = SEED.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x2545_f491_4f6c_dd1d);
    let clock = TestClock::at(Timestamp::from_millis(1_764_513_045_123)).seed(seed);
    Arc::new(event.seal(&clock, usize::MAX).expect("a valid event"))
}
