//! The open file: whole lines at its end, and nothing else.
//!
//! Invariants:
//! - The file is opened for appending and held under an advisory lock, so that nobody else who
//!   plays by the rules writes between our lines, and a `copytruncate` by logrotate leaves no hole.
//! - It ends with a whole line whenever no write is under way. A write that fails half way is taken
//!   back; if even that fails, or the process dies, the next open cuts the torn line.
//! - A line is acked only after it is as durable as [`Fsync`] says.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use postrider::Timestamp;
use postrider::clock::{Clock, SystemClock};
use postrider::delivery::{Ack, Cause, Nack, Outcome};
use postrider::event::write_line;
use postrider::sink::Attempt;

use super::config::{Fsync, Settings};
use super::disk::{Identity, create_folder, cut_torn_line, lock, set_mode, sync_folder, writable};
use super::finished::Keeper;
use super::template::{Template, day};
use crate::writer::Place;

/// A write ends after the line that reaches this, in bytes (1 MiB): what a batch takes in memory.
const WRITE_BYTES: usize = 1 << 20;
/// How often a file is opened anew because it was renamed between two steps.
const OPEN_TRIES: usize = 10;
/// How long a rotation that failed is left alone.
const ROTATE_AGAIN: Duration = Duration::from_mins(1);

/// The file of one endpoint; opened by the first batch.
pub(super) struct Log {
    settings: Settings,
    template: Template,
    keeper: Keeper,
    open: Option<Open>,
    /// Lines about to be written.
    buffer: Vec<u8>,
    /// No rotation is tried before.
    rotate_not_before: Option<Instant>,
}

struct Open {
    path: PathBuf,
    /// Where the file really lies, symbolic links followed.
    folder: PathBuf,
    file: File,
    identity: Identity,
    /// Bytes in the file, as of the last look or write.
    len: u64,
    /// Of these, written since the last sync.
    unsynced: u64,
    /// The day that its lines belong to.
    day: i64,
}

/// What failed, at which file.
#[derive(Debug)]
pub(super) struct Failed {
    path: PathBuf,
    what: &'static str,
    error: io::Error,
}

impl Failed {
    fn at(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self { path: path.to_owned(), what, error }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}: {}", self.what, self.path.display(), self.error)
    }
}

impl std::error::Error for Failed {}

impl From<Failed> for Nack {
    /// Everything that stops a file from being written can be put right: never a loss.
    fn from(failed: Failed) -> Self {
        Nack::retry(Cause::Io, failed.to_string())
    }
}

/// How far a group has come.
#[derive(Clone, Copy, Default)]
struct Progress {
    /// Deliveries whose lines are in a file.
    written: usize,
    /// Of these, as durable as the settings say.
    safe: usize,
}

impl Log {
    pub(super) fn new(settings: Settings, template: Template) -> Self {
        let keeper = Keeper::new(&settings, template.clone());
        Self { settings, template, keeper, open: None, buffer: Vec::new(), rotate_not_before: None }
    }

    /// Writes the group, piece by piece; `progress` tells what became of it, also after a failure.
    fn write_all(&mut self, batch: &[&Attempt], progress: &mut Progress) -> Result<(), Failed> {
        // Attempts overtake each other a little; the latest tells what time it is.
        let Some(now) = batch.iter().map(|attempt| attempt.now).max() else { return Ok(()) };
        while progress.written < batch.len() {
            self.ready(now, progress)?;
            let count = self.fill(&batch[progress.written..]);
            if self.is_full() {
                self.rotate(now, progress)?;
                self.ready(now, progress)?;
            }
            self.append(progress)?;
            progress.written += count;
            if self.settings.fsync == Fsync::Always {
                self.sync(progress)?;
            }
        }
        Ok(())
    }

    /// Makes sure that the right file is open, by name and by day.
    fn ready(&mut self, now: Timestamp, progress: &mut Progress) -> Result<(), Failed> {
        let path = self.template.path(now);
        loop {
            self.look_at(&path, progress)?;
            let open = match &mut self.open {
                Some(open) => open,
                None => self.open.insert(Open::new(&path, now, &self.settings, &self.keeper)?),
            };
            if open.len == 0 {
                open.day = day(now);
            }
            if self.settings.rotate.daily && day(now) > open.day {
                self.rotate(now, progress)?;
            }
            if self.open.is_some() {
                return Ok(());
            }
        }
    }

    /// Lets go of the open file where `path` no longer leads to it.
    fn look_at(&mut self, path: &Path, progress: &mut Progress) -> Result<(), Failed> {
        let Some(open) = &mut self.open else { return Ok(()) };
        if open.path != path {
            // The date in the path has moved on.
            let folder = open.folder.clone();
            self.finish(progress)?;
            self.keeper.tidy(&folder, path);
            return Ok(());
        }
        match fs::metadata(path) {
            // Somebody may have truncated it (logrotate's copytruncate).
            Ok(found) if Identity::of(&found) == open.identity => {
                open.len = found.len();
                Ok(())
            }
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Failed::at(path, "look at")(error))
            }
            // Somebody renamed or deleted it (logrotate).
            _ => self.finish(progress),
        }
    }

    /// Encodes lines into the buffer, as many as one write and the file take; at least one.
    fn fill(&mut self, batch: &[&Attempt]) -> usize {
        self.buffer.clear();
        self.buffer.shrink_to(2 * WRITE_BYTES); // A giant line is not paid for ever after.
        let room = match (self.settings.rotate.size, &self.open) {
            (Some(size), Some(open)) => size.0.saturating_sub(open.len),
            _ => u64::MAX,
        };
        for (count, attempt) in batch.iter().enumerate() {
            let whole = self.buffer.len();
            write_line(&attempt.event, &mut self.buffer);
            if count > 0 && self.buffer.len() as u64 > room {
                self.buffer.truncate(whole);
                return count;
            }
            if self.buffer.len() >= WRITE_BYTES || self.settings.fsync == Fsync::Always {
                return count + 1;
            }
        }
        batch.len()
    }

    /// Whether the buffer belongs into the next file.
    fn is_full(&self) -> bool {
        match (self.settings.rotate.size, &self.open) {
            (Some(size), Some(open)) => {
                open.len > 0 && open.len.saturating_add(self.buffer.len() as u64) > size.0
            }
            _ => false,
        }
    }

    /// Writes the buffer as a whole or not at all.
    fn append(&mut self, progress: &mut Progress) -> Result<(), Failed> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let mut written = 0;
        while written < self.buffer.len() {
            let error = match open.file.write(&self.buffer[written..]) {
                Ok(0) => ErrorKind::WriteZero.into(),
                Ok(count) => {
                    written += count;
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            let failed = Failed::at(&open.path, "write to")(error);
            if open.take_back(written as u64).is_err() || self.sync(progress).is_err() {
                progress.written = progress.safe;
            }
            // The next open looks for a torn line, whatever else happened to the file meanwhile.
            self.open = None;
            return Err(failed);
        }
        open.len += written as u64;
        open.unsynced += written as u64;
        Ok(())
    }

    /// Makes what has been written as durable as the settings say.
    fn sync(&mut self, progress: &mut Progress) -> Result<(), Failed> {
        if let Some(open) = &mut self.open
            && self.settings.fsync != Fsync::Never
            && open.unsynced > 0
        {
            if let Err(error) = open.file.sync_data() {
                let failed = Failed::at(&open.path, "sync")(error);
                // The kernel may have dropped the pages and calls the next sync a success. What is
                // not known to be on the disk is taken out, so that the retry writes it anew.
                let unsynced = open.unsynced;
                let _ = open.take_back(unsynced);
                self.open = None;
                progress.written = progress.safe;
                return Err(failed);
            }
            open.unsynced = 0;
        }
        progress.safe = progress.written;
        Ok(())
    }

    /// Lets go of the file, with everything in it safe.
    fn finish(&mut self, progress: &mut Progress) -> Result<(), Failed> {
        self.sync(progress)?;
        self.open = None;
        Ok(())
    }

    /// Renames the file, so that the next `ready` begins a new one.
    ///
    /// A rename that fails is told and tried again later; until then lines go on into the same
    /// file, for they matter more than its size.
    fn rotate(&mut self, now: Timestamp, progress: &mut Progress) -> Result<(), Failed> {
        if self.rotate_not_before.is_some_and(|at| Instant::now() < at) {
            return Ok(());
        }
        self.sync(progress)?;
        let Some(open) = &self.open else { return Ok(()) };
        match self.keeper.rename(&open.path, &open.folder, now) {
            Ok(to) => {
                tracing::debug!(path = %open.path.display(), to = %to.display(), "rotated a file");
                let (path, folder) = (open.path.clone(), open.folder.clone());
                self.open = None;
                self.rotate_not_before = None;
                if self.settings.fsync != Fsync::Never {
                    sync_folder(&folder).map_err(Failed::at(&folder, "sync folder"))?;
                }
                self.keeper.tidy(&folder, &path);
            }
            Err(error) => {
                tracing::warn!(
                    path = %open.path.display(),
                    error = %error,
                    "cannot rotate a file; writing on into it"
                );
                self.rotate_not_before = Some(Instant::now() + ROTATE_AGAIN);
            }
        }
        Ok(())
    }
}

/// Whether the file could be written, changing nothing: neither it nor a folder is made.
fn probe(path: &Path) -> Result<(), Failed> {
    match fs::metadata(path) {
        Ok(found) if found.is_file() => {
            let file =
                OpenOptions::new().append(true).open(path).map_err(Failed::at(path, "open"))?;
            lock(&file, path).map_err(Failed::at(path, "write to"))
        }
        Ok(_) => Err(Failed::at(path, "open")(io::Error::other("expected a regular file"))),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // The first batch makes what is missing; that needs one that is there.
            let mut folders = path.ancestors().skip(1).map(|folder| match folder.as_os_str() {
                here if here.is_empty() => Path::new("."),
                _ => folder,
            });
            let folder = folders.find(|folder| folder.exists()).unwrap_or(Path::new("."));
            writable(folder).map_err(Failed::at(folder, "create files in"))
        }
        Err(error) => Err(Failed::at(path, "open")(error)),
    }
}

impl Open {
    /// Opens or creates the file, locks it, and cuts what a crash left half written.
    fn new(
        path: &Path,
        now: Timestamp,
        settings: &Settings,
        keeper: &Keeper,
    ) -> Result<Self, Failed> {
        let is_durable = settings.fsync != Fsync::Never;
        if let Some(folder) = path.parent() {
            create_folder(folder, is_durable).map_err(Failed::at(folder, "create folder"))?;
        }
        for _ in 0..OPEN_TRIES {
            match fs::metadata(path) {
                // Opening a pipe would wait for a reader, a device has no lines.
                Ok(found) if !found.is_file() => {
                    let error = io::Error::other("expected a regular file");
                    return Err(Failed::at(path, "open")(error));
                }
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(Failed::at(path, "open")(error));
                }
                _ => {}
            }
            let mut options = OpenOptions::new();
            options.read(true).append(true).create(true);
            set_mode(&mut options, settings.mode.bits());
            let mut file = options.open(path).map_err(Failed::at(path, "open"))?;
            if let Err(error) = lock(&file, path) {
                // A day that comes back may just be compressed by ourselves.
                if keeper.wait() {
                    continue;
                }
                return Err(Failed::at(path, "write to")(error));
            }
            let identity = Identity::of(&file.metadata().map_err(Failed::at(path, "look at"))?);
            // Between open and lock its last holder may have renamed it.
            if !fs::metadata(path).is_ok_and(|found| Identity::of(&found) == identity) {
                continue;
            }
            let folder = fs::canonicalize(path).map_err(Failed::at(path, "look at"))?;
            let folder = folder.parent().unwrap_or(&folder).to_owned();
            cut_torn_line(&mut file, path, settings.mode.bits())
                .map_err(Failed::at(path, "cut the torn last line of"))?;
            let found = file.metadata().map_err(Failed::at(path, "look at"))?;
            if found.len() == 0 && is_durable {
                // The file may be new, and its name must last as long as its lines.
                sync_folder(&folder).map_err(Failed::at(&folder, "sync folder"))?;
            }
            let day = match found.modified() {
                Ok(modified) if found.len() > 0 => {
                    let since = modified.duration_since(std::time::UNIX_EPOCH);
                    since.map_or(0, |since| (since.as_secs() / 86_400).cast_signed())
                }
                _ => day(now),
            };
            keeper.tidy(&folder, path);
            return Ok(Self {
                path: path.to_owned(),
                folder,
                file,
                identity,
                len: found.len(),
                unsynced: 0,
                day,
            });
        }
        let error = io::Error::other("somebody keeps replacing it");
        Err(Failed::at(path, "open")(error))
    }

    /// Takes the last `bytes` out again.
    fn take_back(&mut self, bytes: u64) -> io::Result<()> {
        let len = self.file.metadata()?.len();
        // Shorter than what we wrote: somebody truncated it meanwhile, and our end is unknown.
        let whole = len.checked_sub(bytes).ok_or(ErrorKind::InvalidData)?;
        self.file.set_len(whole)?;
        self.len = whole;
        self.unsynced = self.unsynced.saturating_sub(bytes);
        Ok(())
    }
}

impl Place for Log {
    fn write(&mut self, batch: &[&Attempt]) -> Vec<Outcome> {
        let mut progress = Progress::default();
        let mut result = self.write_all(batch, &mut progress);
        // What was written before a failure still counts, once it is safe.
        if let Err(failed) = self.sync(&mut progress)
            && result.is_ok()
        {
            result = Err(failed);
        }
        let nack = result.err().map(Nack::from);
        (0..batch.len())
            .map(|at| match &nack {
                Some(nack) if at >= progress.safe => Err(nack.clone()),
                _ => Ok(Ack::new()),
            })
            .collect()
    }

    fn check(&mut self) -> Result<(), Nack> {
        let now = SystemClock.now();
        let path = self.template.path(now);
        if self.open.is_some() {
            self.look_at(&path, &mut Progress::default())?;
        }
        if self.open.is_none() {
            probe(&path)?;
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), postrider::Error> {
        let result = self.finish(&mut Progress::default());
        self.open = None;
        self.keeper.wait();
        result.map_err(|failed| {
            let what = format!("close file {:?}", self.settings.path);
            postrider::Error::new(postrider::ErrorKind::Sink, what).because(failed)
        })
    }

    fn reset(&mut self) {
        self.open = None;
    }
}
