//! Replays: sending past events again, as a durable job.
//!
//! Pure values: what is asked for, how far a job is, how fast it may go. Knows no task, clock or
//! store; the engine runs jobs.

mod job;
mod record;

pub use crate::rate::{InvalidRate, Rate};
pub(crate) use job::Step;
pub use job::{Counts, InvalidJobId, Job, JobId, JobState, Preview, REQUEST_BYTES_MAX, Request};
pub(crate) use record::{CANCEL_PREFIX, PREFIX, Record, Runner};

/// Most jobs that one bus runs at once; further ones wait for their turn, the oldest first.
pub const JOBS_RUNNING_MAX: usize = 4;
/// Most jobs that run or wait for their turn, in one store.
pub const JOBS_OPEN_MAX: usize = 100;
/// Most jobs that have ended and are still told of; older ones are forgotten.
pub const JOBS_ENDED_MAX: usize = 100;
/// How long a job that has ended is told of.
pub const JOBS_ENDED_KEPT: std::time::Duration = std::time::Duration::from_hours(7 * 24);
