//! The embedded store: a segmented append-only log on the local disk, for one process.
//!
//! Every change is a record at the end of the log; one writer thread writes and syncs what many
//! callers brought meanwhile. What is owed is kept in memory, a bit for each delivery that was never
//! tried, and checkpointed, so that reopening reads only the end. The files are described byte by
//! byte in `docs/LOG_FORMAT.md`.
//!
//! | file | what it is for |
//! |---|---|
//! | `files` | the seam to the disk |
//! | `format`, `record` | bytes: frames and checksums, what records hold (numbers: `crate::codec`) |
//! | `segment`, `index` | where in the segments an event or settlement is |
//! | `tail` | the end of the log, before it is written |
//! | `lane`, `dedup`, `cache`, `state` | what is owed, which ids are known, fresh events; under one lock |
//! | `writer`, `checkpoint`, `forward`, `recovery` | writing, freeing, and opening again |
//! | `read`, `store` | reading back; the [`Store`](super::Store) itself |

mod apply;
mod block;
mod cache;
mod checkpoint;
mod dedup;
mod facts;
mod files;
mod find;
mod format;
mod forward;
mod history;
mod index;
mod lane;
mod look;
mod moved;
mod notes;
mod read;
mod record;
mod recovery;
mod segment;
mod stands;
mod state;
mod store;
mod tail;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use dedup::DEDUP_IDS_MAX;
pub use files::{File, Files};
pub use recovery::{Damage, Recovery};
pub use store::LogStore;

use super::WhenFull;
use crate::codec;
use crate::error::{Error, ErrorKind};

/// Bytes of a segment unless built otherwise (64 MiB).
pub const SEGMENT_BYTES_DEFAULT: u32 = 64 << 20;
/// Least bytes of a segment (16 KiB).
pub const SEGMENT_BYTES_MIN: u32 = 16 << 10;
/// Most bytes of a segment (1 GiB).
pub const SEGMENT_BYTES_MAX: u32 = 1 << 30;
/// Most events owed unless built otherwise.
pub const BACKLOG_EVENTS_MAX_DEFAULT: u64 = 10_000_000;
/// Most bytes of events owed unless built otherwise (16 GiB).
pub const BACKLOG_BYTES_MAX_DEFAULT: u64 = 16 << 30;
/// Bytes of fresh events kept in memory unless built otherwise (32 MiB).
pub const CACHE_BYTES_DEFAULT: usize = 32 << 20;
/// How long settled events are kept unless built otherwise (7 days).
pub const RETENTION_DEFAULT: Duration = Duration::from_hours(7 * 24);
/// How long an id is known unless built otherwise (24 hours).
pub const DEDUP_WINDOW_DEFAULT: Duration = Duration::from_hours(24);

/// When an accepted event is acknowledged, and what a crash can cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sync {
    /// After a sync of the disk that many publishers share. No crash, of the process or of the
    /// machine, loses an acknowledged event.
    #[default]
    Always,
    /// After it was handed to the operating system, which is told to sync at most this much later
    /// (at least 1 ms). A crash of the process loses nothing; a power cut loses what was
    /// acknowledged within this time.
    Batch(Duration),
    /// After it was handed to the operating system, which syncs when it likes. A crash of the
    /// process loses nothing; a power cut may lose the events of the last half minute or so.
    Os,
}

/// How a log is kept.
#[derive(Clone, Copy, Debug)]
struct Options {
    segment_bytes: u32,
    durability: Sync,
    backlog_events_max: u64,
    backlog_bytes_max: u64,
    when_full: WhenFull,
    retention: Duration,
    dedup_window: Duration,
    cache_bytes: usize,
    /// No writer thread: tests write step by step.
    manual: bool,
}

impl Options {
    /// Bytes of log between two checkpoints.
    fn checkpoint_bytes(&self) -> u64 {
        u64::from(self.segment_bytes / 2).min(32 << 20)
    }
}

/// Makes a [`LogStore`].
#[must_use = "a builder does nothing until opened"]
pub struct LogStoreBuilder {
    files: Arc<dyn Files>,
    options: Options,
}

impl LogStoreBuilder {
    fn new(folder: PathBuf) -> Self {
        let options = Options {
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            durability: Sync::default(),
            backlog_events_max: BACKLOG_EVENTS_MAX_DEFAULT,
            backlog_bytes_max: BACKLOG_BYTES_MAX_DEFAULT,
            when_full: WhenFull::default(),
            retention: RETENTION_DEFAULT,
            dedup_window: DEDUP_WINDOW_DEFAULT,
            cache_bytes: CACHE_BYTES_DEFAULT,
            manual: false,
        };
        Self { files: Arc::new(files::Folder::new(folder)), options }
    }

    /// Bytes of one segment file: 16 KiB to 1 GiB, default 64 MiB. Space is freed by whole segments;
    /// a batch of events must fit into one.
    pub fn segment_bytes(mut self, bytes: u32) -> Self {
        self.options.segment_bytes = bytes.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        self
    }

    /// When an event is acknowledged. Default: after a sync.
    pub fn durability(mut self, durability: Sync) -> Self {
        self.options.durability = match durability {
            Sync::Batch(delay) => Sync::Batch(delay.max(Duration::from_millis(1))),
            other => other,
        };
        self
    }

    /// Most events that may be owed: at least 1, default 10,000,000. An event of which some
    /// deliveries are settled counts in part.
    pub fn backlog_events_max(mut self, events: u64) -> Self {
        self.options.backlog_events_max = events.max(1);
        self
    }

    /// Most bytes that the owed events may take in the log. Default 16 GiB.
    pub fn backlog_bytes_max(mut self, bytes: u64) -> Self {
        self.options.backlog_bytes_max = bytes;
        self
    }

    /// What happens at a backlog limit. Default: refuse.
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.options.when_full = when_full;
        self
    }

    /// How long an event is kept after it was accepted, if nothing of it is owed: default 7 days. A
    /// segment goes when the newest of its events is that old, and not before the dedup window.
    pub fn retention(mut self, retention: Duration) -> Self {
        self.options.retention = retention;
        self
    }

    /// How long publishing an id again returns the first receipt: default 24 hours, for the newest
    /// [`DEDUP_IDS_MAX`] ids.
    pub fn dedup_window(mut self, window: Duration) -> Self {
        self.options.dedup_window = window;
        self
    }

    /// Bytes of fresh events that are kept in memory, so that delivering them reads nothing. Default
    /// 32 MiB.
    pub fn cache_bytes(mut self, bytes: usize) -> Self {
        self.options.cache_bytes = bytes;
        self
    }

    /// Uses another disk than the folder's: tests record and fail what is written.
    #[cfg(feature = "test-util")]
    pub fn files(mut self, files: Arc<dyn Files>) -> Self {
        self.files = files;
        self
    }

    /// Has no writer thread: nothing is written until [`LogStore::step`] says so.
    #[cfg(feature = "test-util")]
    pub fn manual(mut self) -> Self {
        self.options.manual = true;
        self
    }

    /// Opens the log, making the folder where it is missing; reports what was found by tracing and
    /// [`LogStore::recovery`].
    ///
    /// # Errors
    /// `Store` where another process has the folder open (named in the error), the disk cannot be
    /// read or written, or the log was written by a newer version.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn open(self) -> Result<LogStore, Error> {
        match tokio::task::spawn_blocking(|| self.open_blocking()).await {
            Ok(opened) => opened,
            Err(error) => Err(Error::new(ErrorKind::Store, "open the log").because(error)),
        }
    }

    /// [`open`](Self::open) for callers that may block.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn open_blocking(self) -> Result<LogStore, Error> {
        LogStore::open(&self.files, self.options)
    }
}
