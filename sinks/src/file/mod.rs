//! Events as lines of a file (NDJSON), each by [`write_line`](postrider::event::write_line).
//!
//! ```toml
//! [[endpoints]]
//! sink = "file"
//! name = "audit"
//! path = "log/events.ndjson"            # or "log/events-%Y-%m-%d.ndjson", in UTC
//! rotate = { size = "100MiB", daily = true, keep = 7, compress = true }
//! fsync = "batch"                       # or "never", "always"
//! mode = 0o640
//! ```
//!
//! What holds:
//! - **Whole lines.** Appended by one writer in writes of whole lines, never between those of
//!   another endpoint; a write that fails half way is taken back. What a crash leaves torn is cut at
//!   the next open, said in a warning and kept in `NAME.torn`.
//! - **One writer per file**: another endpoint of the same path is refused when it is built, another
//!   process by an advisory lock on the file (`flock`), with an error that names the file.
//! - **Nothing is lost to a full disk**, nor to a missing permission or an I/O error: the attempt is
//!   made again by the endpoint's schedule, and the file still ends with a whole line.
//! - **Rotation** by us ([`Rotate`]), or by logrotate in both its ways: a file that was renamed or
//!   deleted is noticed by the next batch and made anew; `copytruncate` leaves no hole.
//! - **Order** is the order of attempts; with a retry in between that is not the order of events
//!   unless the endpoint asks for it.

mod claim;
mod config;
mod disk;
mod finished;
mod log;
mod template;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use postrider::delivery::{Nack, Outcome};
use postrider::sink::{Attempt, CheckContext, Problem, Sink, SinkFactory};
use postrider::{EndpointId, Error, ErrorKind};

pub use config::{
    BATCH_MAX_DEFAULT, BATCH_MAX_MAX, FileMode, Fsync, KEEP_MAX, ROTATE_SIZE_MIN, Rotate, Settings,
};

use self::claim::{Claim, SharedWriter};
use self::log::Log;
use self::template::Template;
use crate::writer::Writer;

/// Most deliveries of several calls that share a write and a sync.
const GROUP_MAX: usize = 8192;

/// Makes file sinks: `sink = "file"`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Factory;

impl SinkFactory for Factory {
    type Settings = Settings;

    fn name(&self) -> &'static str {
        "file"
    }

    fn check(&self, settings: &Settings, _: &CheckContext<'_>) -> Vec<Problem> {
        settings.problems()
    }

    fn target(&self, settings: &Settings) -> String {
        settings.path.clone()
    }

    fn build(
        &self,
        settings: &Settings,
        context: &CheckContext<'_>,
    ) -> Result<Arc<dyn Sink>, Error> {
        Ok(Arc::new(FileSink::claim(settings, Some(context.endpoint))?))
    }
}

/// Writes events to a file.
///
/// The file is opened by the first batch, not when the sink is made: a disk that is full at the
/// start of the program delays events and stops nothing.
pub struct FileSink {
    // Dropped before the claim: the thread lets go of the file soon after.
    shared: Arc<SharedWriter>,
    /// Whether this sink has been closed.
    has_left: AtomicBool,
    batch_max: usize,
    _claim: Claim,
}

impl FileSink {
    /// A sink for a program that makes its endpoints itself.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for wrong settings, [`ErrorKind::Sink`] where another sink of this
    /// process writes to the same path.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        Self::claim(settings, None)
    }

    fn claim(settings: &Settings, endpoint: Option<&EndpointId>) -> Result<Self, Error> {
        let refuse = |problem: Problem| {
            let what = format!("set up a file sink: {}: {}", problem.key, problem.message);
            Error::new(ErrorKind::Config, what)
        };
        if let Some(problem) = settings.problems().into_iter().next() {
            return Err(refuse(problem));
        }
        let template = Template::parse(&settings.path).map_err(refuse)?;
        let claim = Claim::new(template.as_str(), endpoint)?;
        let (batch_max, group_max) = match settings.fsync {
            Fsync::Always => (1, 1),
            Fsync::Never | Fsync::Batch => (settings.batch_max, GROUP_MAX),
        };
        let name = format!("file {:?}", settings.path);
        let make = || Writer::new(name, group_max, Log::new(settings.clone(), template));
        let shared = claim.writer(settings, make);
        Ok(Self { shared, has_left: AtomicBool::new(false), batch_max, _claim: claim })
    }
}

#[async_trait]
impl Sink for FileSink {
    /// Appends one line for each event.
    ///
    /// # Cancel safety
    /// Lines that are not being written yet are not written. Those that are will be finished; the
    /// next attempt of their deliveries is then acked without writing them again.
    async fn deliver(&self, batch: &[Attempt]) -> Vec<Outcome> {
        self.shared.writer.deliver(batch).await
    }

    fn batch_max(&self) -> usize {
        self.batch_max
    }

    /// Opens the file, and creates it where it is missing.
    async fn check(&self) -> Result<(), Nack> {
        self.shared.writer.check().await
    }

    /// Syncs and closes the file, and waits for the compression of finished ones; does nothing where
    /// a newer version of the endpoint writes on.
    async fn close(&self) -> Result<(), Error> {
        if !self.has_left.swap(true, Ordering::AcqRel) {
            self.shared.leave();
        }
        if self.shared.is_used() { Ok(()) } else { self.shared.writer.close().await }
    }
}
