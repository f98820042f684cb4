//! Events on standard output: readable on a terminal, NDJSON on a pipe.
//!
//! ```toml
//! [[endpoints]]
//! sink = "stdout"
//! name = "console"
//! style = "auto"                        # or "pretty", "ndjson"
//! ```
//!
//! What holds:
//! - **Whole lines**, never between those of another endpoint or of `println!`.
//! - **A closed pipe** (`postrider serve | head -1`) ends this endpoint and nothing else: what was
//!   not written is given up with the reason "stdout was closed by its reader", and the endpoint is
//!   disabled, because no retry can bring that reader back. Other endpoints get what they are due.
//!   (Rust programs ignore SIGPIPE, so a write reports EPIPE and does not end the process.)
//! - **A reader that stops reading** hangs this endpoint only. Its attempts time out and are made
//!   again; the one write that is stuck goes on when the reader does, and what it wrote is not
//!   written again.
//! - An ack means that the operating system has the line, not that anybody has read it.

mod config;
mod console;
mod pretty;

use std::sync::Arc;

use async_trait::async_trait;
use postrider::delivery::{Nack, Outcome};
use postrider::sink::{Attempt, CheckContext, Sink, SinkFactory};
use postrider::{Error, ErrorKind};

pub use config::{Settings, Style};

use self::console::Console;
use crate::writer::Writer;

/// Deliveries that one call takes.
pub const BATCH_MAX: usize = 128;
/// Most deliveries of several calls that share a write.
const GROUP_MAX: usize = 1024;

/// Makes stdout sinks: `sink = "stdout"`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Factory;

impl SinkFactory for Factory {
    type Settings = Settings;

    fn name(&self) -> &'static str {
        "stdout"
    }

    fn target(&self, _: &Settings) -> String {
        "standard output".into()
    }

    fn build(&self, settings: &Settings, _: &CheckContext<'_>) -> Result<Arc<dyn Sink>, Error> {
        Ok(Arc::new(StdoutSink::new(settings)?))
    }
}

/// Writes events to standard output.
pub struct StdoutSink {
    writer: Writer<Console>,
}

impl StdoutSink {
    /// A sink for a program that makes its endpoints itself.
    ///
    /// # Errors
    /// [`ErrorKind::Sink`] where the process has no standard output.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        let console = Console::new(settings.style)
            .map_err(|error| Error::new(ErrorKind::Sink, "open stdout").because(error))?;
        Ok(Self { writer: Writer::new("stdout", GROUP_MAX, console) })
    }
}

#[async_trait]
impl Sink for StdoutSink {
    /// Writes one line for each event.
    ///
    /// # Cancel safety
    /// Lines that are not being written yet are not written. Those that are will be finished; the
    /// next attempt of their deliveries is then acked without writing them again.
    async fn deliver(&self, batch: &[Attempt]) -> Vec<Outcome> {
        self.writer.deliver(batch).await
    }

    fn batch_max(&self) -> usize {
        BATCH_MAX
    }

    async fn check(&self) -> Result<(), Nack> {
        self.writer.check().await
    }

    async fn close(&self) -> Result<(), Error> {
        self.writer.close().await
    }
}
