//! Standard output as a place to write to.

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::time::Duration;

use postrider::Error;
use postrider::delivery::{Ack, Cause, Nack, Outcome};
use postrider::event::write_line;
use postrider::sink::Attempt;

use super::config::Style;
use super::pretty::{Paint, write_pretty};
use crate::writer::Place;

/// A write ends after the line that reaches this, in bytes: what a batch takes in memory.
const WRITE_BYTES: usize = 256 << 10;
/// How long to wait where somebody else made the pipe non-blocking and it is full.
const FULL_PAUSE: Duration = Duration::from_millis(20);

pub(super) struct Console {
    /// Our own handle: that of the standard library buffers, and does not tell how much of a failed
    /// write came through.
    out: File,
    paint: Option<Paint>,
    buffer: Vec<u8>,
    /// The last write ended inside of a line.
    is_torn: bool,
    is_closed: bool,
}

impl Console {
    pub(super) fn new(style: Style) -> io::Result<Self> {
        let stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        let is_pretty = match style {
            Style::Auto => is_terminal,
            Style::Pretty => true,
            Style::Ndjson => false,
        };
        // https://no-color.org: present and not empty.
        let has = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let is_coloured = is_terminal && !has("NO_COLOR") && !is_dumb;
        #[cfg(unix)]
        let handle = std::os::fd::AsFd::as_fd(&stdout).try_clone_to_owned()?;
        #[cfg(windows)]
        let handle = std::os::windows::io::AsHandle::as_handle(&stdout).try_clone_to_owned()?;
        Ok(Self {
            out: handle.into(),
            paint: is_pretty.then(|| Paint::new(is_coloured)),
            buffer: Vec::new(),
            is_torn: false,
            is_closed: false,
        })
    }

    /// Writes the buffer; also tells how much of it came through.
    fn put(&mut self) -> (usize, io::Result<()>) {
        // Whoever prints in this process takes this lock, so that lines stay whole.
        let mut lock = io::stdout().lock();
        let mut written = 0;
        let result = lock.flush().and_then(|()| {
            while written < self.buffer.len() {
                match self.out.write(&self.buffer[written..]) {
                    Ok(0) => return Err(ErrorKind::WriteZero.into()),
                    Ok(count) => written += count,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        std::thread::sleep(FULL_PAUSE);
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        });
        (written, result)
    }

    /// Writes lines; gives how many are out whole.
    fn write_lines(&mut self, batch: &[&Attempt]) -> (usize, io::Result<()>) {
        let mut whole = 0;
        while whole < batch.len() {
            self.buffer.clear();
            self.buffer.shrink_to(2 * WRITE_BYTES);
            if self.is_torn {
                self.buffer.push(b'\n');
            }
            let mut ends = Vec::new();
            for attempt in &batch[whole..] {
                match self.paint {
                    Some(paint) => write_pretty(&attempt.event, paint, &mut self.buffer),
                    None => write_line(&attempt.event, &mut self.buffer),
                }
                ends.push(self.buffer.len());
                if self.buffer.len() >= WRITE_BYTES {
                    break;
                }
            }
            let (written, result) = self.put();
            whole += ends.partition_point(|end| *end <= written);
            if written > 0 {
                self.is_torn = self.buffer[written - 1] != b'\n';
            }
            if result.is_err() {
                return (whole, result);
            }
        }
        (whole, Ok(()))
    }
}

/// Nobody reads any more.
fn closed() -> Nack {
    Nack::disable(Cause::Closed, "stdout was closed by its reader")
}

impl Place for Console {
    fn write(&mut self, batch: &[&Attempt]) -> Vec<Outcome> {
        let (whole, result) = if self.is_closed {
            (0, Err(ErrorKind::BrokenPipe.into()))
        } else {
            self.write_lines(batch)
        };
        let nack = result.err().map(|error| match error.kind() {
            ErrorKind::BrokenPipe => {
                self.is_closed = true;
                closed()
            }
            _ => Nack::retry(Cause::Io, format!("cannot write to stdout: {error}")),
        });
        (0..batch.len())
            .map(|at| match &nack {
                Some(nack) if at >= whole => Err(nack.clone()),
                _ => Ok(Ack::new()),
            })
            .collect()
    }

    fn check(&mut self) -> Result<(), Nack> {
        if self.is_closed { Err(closed()) } else { Ok(()) }
    }

    fn close(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn reset(&mut self) {
        self.is_torn = true;
    }
}
