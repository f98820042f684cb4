//! The seam to wall time and randomness: both are passed in, so that tests can drive them.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use crate::time::Timestamp;

/// Where the bus takes wall time and random numbers from.
///
/// Waiting itself is tokio's (monotonic) affair; this only tells what time it is.
pub trait Clock: Send + Sync + 'static {
    /// The wall time now. May jump in both directions; the bus copes.
    fn now(&self) -> Timestamp;

    /// 64 evenly distributed random bits: for event ids, jitter and lease fences, not for secrets.
    fn random(&self) -> u64;
}

/// The machine's clock, and a fast generator seeded by the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let millis = match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
        };
        Timestamp::from_millis(millis)
    }

    fn random(&self) -> u64 {
        fastrand::u64(..)
    }
}

/// A shared clock.
pub type SharedClock = Arc<dyn Clock>;

impl fmt::Debug for dyn Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
