//! The writer: takes what was encoded, writes and syncs it, and only then lets it be seen. What
//! arrives during one sync is the next batch.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::checkpoint;
use super::files::{File, Files};
use super::format::{
    self, CHECKPOINT, CHECKPOINT_NEW, SEGMENT_NEW, SPARE, SPARE_NEW, SegmentHeader, index_name,
    segment_name,
};
use super::forward;
use super::group::Group;
use super::index;
use super::state::{Pending, State};
use super::tail::Chunk;
use super::{Options, Sync};
use crate::error::{Error, ErrorKind};

/// Longest time that something nobody waits for stays in memory before it is written.
const WRITE_DELAY: Duration = Duration::from_millis(50);
/// Longest time that it stays unsynced.
const SYNC_DELAY: Duration = Duration::from_secs(1);
/// Bytes that are written without waiting for more.
const WRITE_BYTES: usize = 1 << 20;
/// Least and most bytes by which a segment's file grows at once, zeroed: a write that makes the file
/// longer costs the sync a journal entry.
const GROW_MIN: usize = 64 << 10;
const GROW_MAX: usize = 4 << 20;
/// Segments below it are not made ahead.
const SPARE_BYTES_MIN: u32 = 8 << 20;

/// What the store's handle and its writer share.
pub(super) struct Core {
    pub(super) files: Arc<dyn Files>,
    pub(super) options: Options,
    state: Mutex<State>,
    /// Wakes the writer.
    pub(super) wake: Condvar,
    /// Wakes who waits for work to be announced.
    pub(super) work: Notify,
    /// Wakes publishers that wait for room.
    pub(super) space: Notify,
    /// Batches that were written and synced.
    pub(super) syncs: AtomicU64,
}

impl Core {
    pub(super) fn new(files: Arc<dyn Files>, options: Options, state: State) -> Self {
        Self {
            files,
            options,
            state: Mutex::new(state),
            wake: Condvar::new(),
            work: Notify::new(),
            space: Notify::new(),
            syncs: AtomicU64::new(0),
        }
    }

    /// The state. After a panic of ours that left it half changed, it can only be closed.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| {
            let mut state = PoisonError::into_inner(poisoned);
            state.failed.get_or_insert_with(|| "a bug: a thread panicked".into());
            state
        })
    }
}

/// Wakes the writer where it sleeps, once `state` is let go.
pub(super) fn wake(core: &Core, mut state: MutexGuard<'_, State>) {
    let is_asleep = std::mem::take(&mut state.is_writer_asleep);
    drop(state);
    if is_asleep {
        core.wake.notify_one();
    }
}

/// The one who writes.
pub(super) struct Writer {
    core: Arc<Core>,
    /// The file of the tail's segment, and how long it is.
    active: Option<Active>,
    /// A file ready to become a segment.
    spare: Option<Spare>,
    making_spare: Option<MakingSpare>,
    /// The memory of what was written, for what comes next.
    pending: Pending,
    buffer: Vec<u8>,
    /// Held until the writer is gone.
    _lock: Box<dyn Send + std::marker::Sync>,
}

struct Active {
    number: u32,
    file: Arc<dyn File>,
    size: u64,
    /// How much is written.
    end: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Spare {
    Zeroed,
    Used,
}

struct MakingSpare {
    thread: JoinHandle<io::Result<()>>,
    stop: Arc<AtomicBool>,
}

/// What the writer does next.
enum Work {
    Flush { sync: bool },
    Close,
}

impl Writer {
    pub(super) fn new(
        core: &Arc<Core>,
        lock: Box<dyn Send + std::marker::Sync>,
    ) -> io::Result<Self> {
        let state = core.lock();
        let segment = state.segments.last().filter(|_| state.tail.is_open);
        let active = segment.and_then(|segment| {
            let file = Arc::clone(segment.file.as_ref()?);
            // The mark of this opening is not written yet.
            let end = state.tail.chunks.first().map_or(state.tail.place.offset, |c| c.offset);
            Some((segment.header.number, file, end))
        });
        let last = state.segments.last().and_then(|segment| segment.file.clone());
        drop(state);
        // A killed process leaves what the system has and the disk may not. From here on it is shown
        // and a duplicate of it is answered at once, so it must outlast a power cut too.
        if core.options.durability != Sync::Os
            && let Some(last) = last
        {
            last.sync()?;
            core.files.sync_folder()?;
        }
        let active = match active {
            None => None,
            Some((number, file, end)) => {
                let size = file.size()?;
                Some(Active { number, file, size, end })
            }
        };
        // Whether an old spare is all zeros is not known.
        let has_spare = core.files.list()?.iter().any(|name| name == SPARE);
        let spare = has_spare.then_some(Spare::Used);
        Ok(Self {
            core: Arc::clone(core),
            active,
            spare,
            making_spare: None,
            pending: Pending::default(),
            buffer: Vec::new(),
            _lock: lock,
        })
    }

    /// Works until the store is closed.
    pub(super) fn run(mut self) {
        // Whatever ends this thread, nobody may wait for it.
        struct Guard(Arc<Core>);
        impl Drop for Guard {
            fn drop(&mut self) {
                let mut state = self.0.lock();
                let lost = (!state.is_closed).then(|| fail(&mut state, "the log's writer ended"));
                drop(state);
                drop(lost);
                self.0.space.notify_waiters();
            }
        }
        let _guard = Guard(Arc::clone(&self.core));
        loop {
            match self.wait() {
                Work::Flush { sync } => self.cycle(sync),
                Work::Close => {
                    self.close();
                    return;
                }
            }
        }
    }

    /// Waits until there is something to do.
    fn wait(&self) -> Work {
        let mut state = self.core.lock();
        loop {
            if state.must_close {
                return Work::Close;
            }
            let mut deadline = None;
            if state.failed.is_none() {
                let is_awaited = state.group.is_some() || !state.readers.is_empty();
                if is_awaited || state.tail.buffered >= WRITE_BYTES {
                    return Work::Flush { sync: false };
                }
                let write_at = state.buffered_since.map(|since| since + WRITE_DELAY);
                let sync_delay = match self.core.options.durability {
                    Sync::Always => Some(SYNC_DELAY),
                    Sync::Batch(delay) => Some(delay),
                    Sync::Os => None,
                };
                let unsynced = state.unsynced_since;
                let sync_at = unsynced.zip(sync_delay).map(|(since, delay)| since + delay);
                let now = Instant::now();
                if sync_at.is_some_and(|at| at <= now) {
                    return Work::Flush { sync: true };
                }
                if write_at.is_some_and(|at| at <= now) {
                    return Work::Flush { sync: false };
                }
                deadline = write_at.into_iter().chain(sync_at).min();
            }
            state.is_writer_asleep = true;
            state = match deadline {
                None => self.core.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(at) => {
                    let wait = at.saturating_duration_since(Instant::now());
                    let waited = self.core.wake.wait_timeout(state, wait);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
            state.is_writer_asleep = false;
        }
    }

    /// Writes what is there, and does what is due besides.
    pub(super) fn cycle(&mut self, sync: bool) {
        if self.flush(sync).is_err() {
            return;
        }
        let state = self.core.lock();
        let since = state.tail.since_checkpoint;
        let is_due = since >= self.core.options.checkpoint_bytes().max(4 * state.checkpoint_bytes);
        drop(state);
        if is_due {
            self.checkpoint();
        }
        self.prepare_spare();
    }

    /// Writes and, where somebody waits for it or it is asked for, syncs everything encoded so far;
    /// then lets it be seen.
    fn flush(&mut self, sync: bool) -> Result<(), ()> {
        let mut state = self.core.lock();
        if state.failed.is_some() {
            return Err(());
        }
        let chunks = std::mem::take(&mut state.tail.chunks);
        let pending = std::mem::replace(&mut state.pending, std::mem::take(&mut self.pending));
        state.tail.spare = std::mem::take(&mut self.buffer);
        let group = state.group.take();
        let readers = std::mem::take(&mut state.readers);
        let end = state.tail.place;
        state.tail.buffered = 0;
        state.buffered_since = None;
        let sync = sync || (self.core.options.durability == Sync::Always && group.is_some());
        drop(state);

        let has_written = chunks.iter().any(|chunk| !chunk.bytes.is_empty());
        let written = self.write(chunks, sync);
        let mut state = self.core.lock();
        if let Err(error) = written {
            tracing::error!(error = error.chain(), "the log cannot be written; reopen the store");
            let lost = fail(&mut state, &error.chain());
            drop(state);
            drop(lost);
            self.core.space.notify_waiters();
            return Err(());
        }
        if sync {
            state.tail.synced = end;
            state.unsynced_since = None;
        } else if has_written {
            state.unsynced_since.get_or_insert_with(Instant::now);
        }
        let has_work = state.make_visible(&pending);
        drop(state);
        self.pending = pending;
        self.pending.clear();
        if has_work {
            self.core.work.notify_one();
        }
        if let Some(group) = group {
            group.done();
        }
        // A reader that went away does not mind.
        for reader in readers {
            let _ = reader.send(());
        }
        self.core.space.notify_waiters();
        Ok(())
    }

    fn write(&mut self, chunks: Vec<Chunk>, sync: bool) -> Result<(), Error> {
        for chunk in chunks {
            if let Some(header) = &chunk.opens {
                self.open_segment(header)
                    .map_err(|error| self.failed("begin segment", header.number, error))?;
            }
            self.write_chunk(chunk)?;
        }
        if sync && let Some(active) = &self.active {
            active.file.sync().map_err(|error| self.failed("sync", active.number, error))?;
            self.core.syncs.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn failed(&self, what: &str, segment: u32, error: io::Error) -> Error {
        let path = self.core.files.path(&segment_name(segment));
        Error::new(ErrorKind::Store, format!("{what} {}", path.display())).because(error)
    }

    fn write_chunk(&mut self, chunk: Chunk) -> Result<(), Error> {
        let Chunk { segment, offset, mut bytes, sync_after, .. } = chunk;
        if bytes.is_empty() {
            return Ok(());
        }
        let capacity = self.core.options.segment_bytes;
        let active = self.active.as_mut().expect("a chunk opens its segment or continues it");
        debug_assert_eq!(
            (active.number, active.end),
            (segment, offset),
            "chunks follow each other"
        );
        let end = offset as usize + bytes.len();
        active.end = end as u32;
        if end as u64 > active.size {
            let more =
                (end / 2).clamp(GROW_MIN, GROW_MAX).min((capacity as usize).saturating_sub(end));
            bytes.resize(bytes.len() + more, 0);
            active.size = (end + more) as u64;
        }
        let written = active
            .file
            .write_at(&bytes, u64::from(offset))
            .and_then(|()| if sync_after { active.file.sync() } else { Ok(()) });
        if bytes.capacity() <= WRITE_BYTES {
            bytes.clear();
            self.buffer = bytes;
        }
        written.map_err(|error| self.failed("write", segment, error))
    }

    /// Ends the segment that was written so far and makes the next one's file.
    fn open_segment(&mut self, header: &SegmentHeader) -> io::Result<()> {
        if let Some(active) = self.active.take() {
            // What is in a segment is durable before the next one exists: a hole can only be damage.
            active.file.sync()?;
            let encoded = {
                let state = self.core.lock();
                state.segments.get(active.number).map(index::encode)
            };
            if let Some(encoded) = encoded {
                if let Err(error) = index::write(&*self.core.files, active.number, &encoded) {
                    tracing::warn!(segment = active.number, %error, "index not written");
                }
                if let Some(segment) = self.core.lock().segments.get_mut(active.number) {
                    segment.drop_prints();
                }
            }
        }
        self.finish_spare(false);
        let files = &*self.core.files;
        let name = segment_name(header.number);
        let spare = self.spare.take();
        let (from, file) = match spare {
            Some(_) => (SPARE, files.open(SPARE, false)?),
            None => (SEGMENT_NEW, files.open(SEGMENT_NEW, true)?),
        };
        let header = SegmentHeader { recycled: spare == Some(Spare::Used), ..*header };
        file.write_at(&header.encode(), 0)?;
        file.sync()?;
        files.rename(from, &name)?;
        files.sync_folder()?;
        let size = file.size()?;
        let mut state = self.core.lock();
        let segment = state.segments.get_mut(header.number).expect("it is in the chunk's list");
        segment.header.recycled = header.recycled;
        segment.file = Some(Arc::clone(&file));
        drop(state);
        let number = header.number;
        self.active = Some(Active { number, file, size, end: format::SEGMENT_HEADER });
        Ok(())
    }

    /// Has the next segment's file made and zeroed by another thread, in good time.
    fn prepare_spare(&mut self) {
        let capacity = self.core.options.segment_bytes;
        let is_wanted = self.spare.is_none()
            && self.making_spare.is_none()
            && !self.core.options.manual
            && capacity >= SPARE_BYTES_MIN
            && self.active.as_ref().is_some_and(|active| active.end > capacity / 4);
        if !is_wanted {
            return;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (files, stopped) = (Arc::clone(&self.core.files), Arc::clone(&stop));
        let thread =
            std::thread::Builder::new().name("postrider-spare".to_owned()).spawn(move || {
                let file = files.open(SPARE_NEW, true)?;
                let zeros = vec![0; 1 << 20];
                let mut at = 0;
                while at < u64::from(capacity) && !stopped.load(Ordering::Relaxed) {
                    let more = zeros.len().min((u64::from(capacity) - at) as usize);
                    file.write_at(&zeros[..more], at)?;
                    at += more as u64;
                }
                file.sync()?;
                files.rename(SPARE_NEW, SPARE)
            });
        match thread {
            Ok(thread) => self.making_spare = Some(MakingSpare { thread, stop }),
            Err(error) => tracing::warn!(%error, "no segment is made ahead"),
        }
    }

    /// Takes over a spare that is ready; waits for one that is being made (it is needed now, or the
    /// store is being closed and it is stopped).
    fn finish_spare(&mut self, stop: bool) {
        let Some(making) = self.making_spare.take() else { return };
        if stop {
            making.stop.store(true, Ordering::Relaxed);
        }
        match making.thread.join() {
            Ok(Ok(())) => self.spare = Some(Spare::Zeroed),
            Ok(Err(error)) => {
                tracing::warn!(%error, "no segment was made ahead");
                let _ = self.core.files.remove(SPARE_NEW);
            }
            Err(_) => tracing::warn!("the thread that makes segments ahead panicked"),
        }
    }

    /// Writes a checkpoint, so that reopening reads only what follows; then frees segments. A
    /// failure is reported and costs nothing but time: the old checkpoint stays.
    fn checkpoint(&mut self) {
        let (bytes, place) = {
            self.core.lock().is_paused = true;
            let encoded = loop {
                if self.flush(true).is_err() {
                    break None;
                }
                let mut state = self.core.lock();
                if state.pending.is_empty() {
                    state.is_paused = false;
                    state.tail.since_checkpoint = 0;
                    break Some((checkpoint::encode(&state), state.tail.place));
                }
            };
            self.core.lock().is_paused = false;
            self.core.space.notify_waiters();
            match encoded {
                Some(encoded) => encoded,
                None => return,
            }
        };
        // Settlements may have been added meanwhile that the checkpoint knows of.
        if self.flush(true).is_err() {
            return;
        }
        let files = &*self.core.files;
        let write = || {
            let file = files.open(CHECKPOINT_NEW, true)?;
            file.write_at(&bytes, 0)?;
            file.sync()?;
            files.rename(CHECKPOINT_NEW, CHECKPOINT)?;
            files.sync_folder()
        };
        if let Err(error) = write() {
            tracing::warn!(%error, "checkpoint not written; opening the store will take longer");
            return;
        }
        let mut state = self.core.lock();
        state.checkpoint = place;
        state.checkpoint_bytes = bytes.len() as u64;
        drop(state);
        if let Err(error) = self.free().and_then(|()| self.copy_forward()) {
            tracing::warn!(%error, "segments not freed");
        }
    }

    /// Copies what is owed in the oldest segments to the end of the log, where it is little, and
    /// frees them.
    fn copy_forward(&mut self) -> io::Result<()> {
        /// After one checkpoint; what is left waits for the next.
        const SEGMENTS_MAX: usize = 4;
        let core = Arc::clone(&self.core);
        let keep = self.keep();
        for _ in 0..SEGMENTS_MAX {
            // What was tried must be readable.
            if self.flush(false).is_err() {
                return Ok(());
            }
            let (segment, mut owed) = {
                let state = core.lock();
                let Some(segment) = forward::choose(&state, keep) else { return Ok(()) };
                (segment, forward::owed_in(&state, segment))
            };
            let mut before = None;
            while !owed.is_empty() {
                let chunk = forward::read_chunk(&core, &mut owed, || self.flush(false))?;
                {
                    let mut state = core.lock();
                    for copy in chunk {
                        let copied = copy.is_some_and(|copy| {
                            let copied = state.copy_forward(segment, before, &copy);
                            before = copied.then_some(copy.event());
                            copied
                        });
                        if !copied {
                            before = None;
                        }
                    }
                }
                if self.flush(false).is_err() {
                    return Ok(());
                }
            }
            // The copies are durable before what they were made from goes.
            if self.flush(true).is_err() {
                return Ok(());
            }
            self.free()?;
            if core.lock().segments.get(segment).is_some() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn keep(&self) -> Duration {
        self.core.options.retention.max(self.core.options.dedup_window)
    }

    /// Frees the oldest segments in which nothing is owed and whose retention has passed. Always the
    /// oldest first: a settlement never outlives the event that it settles.
    fn free(&mut self) -> io::Result<()> {
        let keep = self.keep();
        let mut state = self.core.lock();
        let Some(last) = state.freeable(keep).last() else { return Ok(()) };
        state.renew(last);
        let mut freed = Vec::new();
        while state.freeable(keep).next().is_some_and(|first| first <= last) {
            let (number, dead) = state.forget_oldest();
            if dead > 0 {
                tracing::warn!(segment = number, dead, "dead deliveries are gone: past retention");
            }
            freed.push(number);
        }
        let is_durable = state.tail.synced == state.tail.place;
        drop(state);
        // What only these segments told, and the settlements that let them go, which may have come
        // after the checkpoint: without those a crash would leave deliveries owed whose events are gone.
        if !is_durable && self.flush(true).is_err() {
            return Ok(());
        }
        let files = &*self.core.files;
        for number in freed {
            match files.remove(&index_name(number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            if self.spare.is_none() && self.making_spare.is_none() {
                files.rename(&segment_name(number), SPARE)?;
                self.spare = Some(Spare::Used);
            } else {
                files.remove(&segment_name(number))?;
            }
            // In order: a hole among the segments would look like damage.
            files.sync_folder()?;
        }
        Ok(())
    }

    /// Makes everything durable and ends.
    pub(super) fn close(&mut self) {
        self.finish_spare(true);
        let is_clean = self.flush(true).is_ok();
        let has_news = {
            let state = self.core.lock();
            state.tail.since_checkpoint > 0
        };
        if is_clean && has_news {
            self.checkpoint();
        }
        let mut state = self.core.lock();
        state.is_closed = true;
        state.readers.clear();
        let lost = state.group.take();
        drop(state);
        drop(lost);
    }
}

/// From now on nothing is accepted: whoever waits learns that its event was not, once the state is
/// let go and what is returned is dropped.
#[must_use]
fn fail(state: &mut State, why: &str) -> Option<Group> {
    state.failed.get_or_insert_with(|| why.into());
    state.pending.clear();
    state.readers.clear();
    state.tail.chunks.clear();
    state.group.take()
}
