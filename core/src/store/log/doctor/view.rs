//! A folder that nobody can change: what opening a log would write goes nowhere, what the disk
//! cannot read is read as zeros and noted, and segment headers with a wrong bit are read mended.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::files::{File, Files, read_range};
use super::super::format::{SEGMENT_HEADER, SegmentHeader, segment_number};

/// What is read again by itself where a longer read fails.
const PIECE_BYTES: usize = 4096;
/// Most places that are noted.
const UNREADABLE_MAX: usize = 1000;

/// A stretch that the disk cannot read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Unreadable {
    pub(super) name: String,
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) error: String,
}

/// What is known of a folder's files beside their bytes.
#[derive(Default)]
struct Notes {
    unreadable: Mutex<BTreeSet<Unreadable>>,
    /// By segment.
    mended: BTreeMap<u32, SegmentHeader>,
}

/// The files of a folder but for those that are hidden.
pub(super) struct View {
    files: Arc<dyn Files>,
    hides: fn(&str) -> bool,
    notes: Arc<Notes>,
}

impl View {
    /// All files.
    ///
    /// # Errors
    /// Where the disk cannot be read.
    pub(super) fn new(files: &Arc<dyn Files>) -> io::Result<Self> {
        let mut view = Self { files: Arc::clone(files), hides: |_| false, notes: Arc::default() };
        let mut broken = Vec::new();
        let mut store = None;
        for name in files.list()? {
            let Some(number) = segment_number(&name) else { continue };
            let bytes = read_range(&*view.open(&name, false)?, 0, u64::from(SEGMENT_HEADER))?;
            match SegmentHeader::decode(&bytes) {
                Ok(header) => store = Some(header.store),
                Err(_) => broken.push((number, bytes)),
            }
        }
        let mended = broken.into_iter().filter_map(|(number, bytes)| {
            let header = mend(bytes, |header| {
                header.number == number && store.is_none_or(|store| store == header.store)
            });
            Some((number, header?))
        });
        let mended = mended.collect();
        let unreadable = std::mem::take(&mut *view.unreadable());
        view.notes = Arc::new(Notes { unreadable: Mutex::new(unreadable), mended });
        Ok(view)
    }

    /// The same files but for those that are hidden.
    pub(super) fn without(&self, hides: fn(&str) -> bool) -> Self {
        Self { files: Arc::clone(&self.files), hides, notes: Arc::clone(&self.notes) }
    }

    /// What could not be read so far.
    pub(super) fn unreadable(&self) -> MutexGuard<'_, BTreeSet<Unreadable>> {
        self.notes.unreadable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Segments whose header is read mended.
    pub(super) fn mended(&self) -> impl Iterator<Item = u32> + '_ {
        self.notes.mended.keys().copied()
    }
}

/// The header that `bytes` were before one or two of their bits changed. Its checksum tells all such
/// changes apart.
fn mend(mut bytes: Vec<u8>, is_it: impl Fn(&SegmentHeader) -> bool) -> Option<SegmentHeader> {
    let header = |bytes: &[u8]| SegmentHeader::decode(bytes).ok().filter(&is_it);
    if bytes.len() < SEGMENT_HEADER as usize {
        return None;
    }
    for first in 0..bytes.len() * 8 {
        bytes[first / 8] ^= 1 << (first % 8);
        if let Some(header) = header(&bytes) {
            return Some(header);
        }
        for second in 0..first {
            bytes[second / 8] ^= 1 << (second % 8);
            if let Some(header) = header(&bytes) {
                return Some(header);
            }
            bytes[second / 8] ^= 1 << (second % 8);
        }
        bytes[first / 8] ^= 1 << (first % 8);
    }
    None
}

impl Files for View {
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        // Whoever makes views holds the folder.
        Ok(Box::new(()))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = self.files.list()?;
        names.retain(|name| !(self.hides)(name));
        Ok(names)
    }

    fn open(&self, name: &str, new: bool) -> io::Result<Arc<dyn File>> {
        if new {
            return Ok(Arc::new(Nowhere));
        }
        if (self.hides)(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let file = self.files.open(name, false)?;
        let header = segment_number(name).and_then(|number| self.notes.mended.get(&number));
        let (header, notes) = (header.map(SegmentHeader::encode), Arc::clone(&self.notes));
        Ok(Arc::new(Viewed { file, name: name.to_owned(), header, notes }))
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn sync_folder(&self) -> io::Result<()> {
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path(name)
    }
}

/// A file that swallows what is written.
struct Nowhere;

impl File for Nowhere {
    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        Ok(0)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(0)
    }
}

struct Viewed {
    file: Arc<dyn File>,
    name: String,
    /// What its first bytes should be, where they are not.
    header: Option<Vec<u8>>,
    notes: Arc<Notes>,
}

impl Viewed {
    /// Reads piece by piece what cannot be read at once.
    fn read_pieces(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let size = self.file.size()?;
        let count = buffer.len().min(size.saturating_sub(offset) as usize);
        let mut at = 0;
        while at < count {
            let from = offset + at as u64;
            // Pieces lie where the disk's blocks do.
            let piece = PIECE_BYTES - (from % PIECE_BYTES as u64) as usize;
            let piece = &mut buffer[at..count.min(at + piece)];
            if let Err(error) = self.file.read_at(piece, from) {
                piece.fill(0);
                self.note(from, piece.len() as u64, &error);
            }
            at += piece.len();
        }
        Ok(count)
    }

    fn note(&self, offset: u64, bytes: u64, error: &io::Error) {
        let mut noted = self.notes.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.len() < UNREADABLE_MAX {
            let (name, error) = (self.name.clone(), error.to_string());
            noted.insert(Unreadable { name, offset, bytes, error });
        }
    }
}

impl File for Viewed {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let count =
            self.file.read_at(buffer, offset).or_else(|_| self.read_pieces(buffer, offset))?;
        if let Some(header) = &self.header {
            let rest = header.get(offset as usize..).unwrap_or_default();
            for (byte, mended) in buffer[..count].iter_mut().zip(rest) {
                *byte = *mended;
            }
        }
        Ok(count)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
}
