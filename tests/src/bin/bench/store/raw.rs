//! The limit of durable publishing: the same bytes in the same batches, written and synced by one
//! thread that waits for nobody.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Failure;
use crate::measure::{Side, Stopwatch, Took};

/// What an event of 400 bytes for two endpoints takes in the log, when its batch is large.
pub(crate) const RECORD_BYTES: usize = 436;

/// Written in a circle, in bytes.
const FILE_BYTES: u64 = 64 << 20;

/// A file that was written before, so that no write makes it longer.
pub(crate) struct Raw {
    file: File,
    at: u64,
}

impl Raw {
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(path)?;
        let zeros = vec![0; 1 << 20];
        for _ in 0..FILE_BYTES / zeros.len() as u64 {
            file.write_all(&zeros)?;
        }
        file.sync_all()?;
        Ok(Self { file, at: 0 })
    }

    pub(crate) fn write(&mut self, batch: &[u8]) -> io::Result<()> {
        if self.at + batch.len() as u64 > FILE_BYTES {
            self.at = 0;
        }
        self.file.write_all_at(batch, self.at)?;
        self.at += batch.len() as u64;
        self.file.sync_data()
    }
}

/// What the subject's last slice brought to the disk.
#[derive(Default)]
pub(crate) struct Plan {
    events: AtomicU64,
    syncs: AtomicU64,
}

impl Plan {
    pub(crate) fn set(&self, events: usize, syncs: u64) {
        self.events.store(events as u64, Ordering::Relaxed);
        self.syncs.store(syncs, Ordering::Relaxed);
    }

    /// Events in each batch: as many batches as there were syncs, all of one size.
    pub(crate) fn batches(&self) -> impl Iterator<Item = usize> + use<> {
        let (events, syncs) =
            (self.events.load(Ordering::Relaxed), self.syncs.load(Ordering::Relaxed));
        (0..syncs).map(move |at| (events * (at + 1) / syncs - events * at / syncs) as usize)
    }
}

/// Writes what the subject wrote.
pub(crate) struct Limit {
    pub(crate) raw: Raw,
    pub(crate) plan: Arc<Plan>,
}

impl Side for Limit {
    async fn slice(&mut self) -> Result<Took, Failure> {
        let batches = self.plan.batches();
        let most = self.plan.batches().max().unwrap_or(0);
        let bytes = vec![1; most * RECORD_BYTES];
        let watch = Stopwatch::start();
        for events in batches {
            self.raw.write(&bytes[..events * RECORD_BYTES])?;
        }
        Ok(watch.stop())
    }
}
