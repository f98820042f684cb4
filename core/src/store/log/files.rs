//! The seam to the disk: the few operations that the log needs, so that tests can record, fail and
//! tear each of them.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::LOCK;

/// One open file.
pub trait File: Send + Sync + 'static {
    /// Reads at `offset` until `buffer` is full or the file ends; returns how much.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`, making the file longer where they reach past its end.
    ///
    /// # Errors
    /// Also where the file was removed meanwhile: what is in it goes with the process. After an error
    /// any part may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Returns when everything written before, and the length, survives a power cut.
    fn sync(&self) -> io::Result<()>;

    /// Length in bytes.
    fn size(&self) -> io::Result<u64>;
}

/// A folder of files, held by one process.
pub trait Files: Send + Sync + 'static {
    /// Makes the folder where it is missing and takes it for this process until the answer is
    /// dropped.
    ///
    /// # Errors
    /// `WouldBlock` where another process holds it; the message names that process.
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>>;

    /// The names of all files.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Opens a file for reading and writing; one that is `new` is created empty, or emptied.
    fn open(&self, name: &str, new: bool) -> io::Result<Arc<dyn File>>;

    /// Gives a file another name, replacing the one that has it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Returns when every creation, renaming and removal before survives a power cut.
    fn sync_folder(&self) -> io::Result<()>;

    /// For messages: the path of `name`.
    fn path(&self, name: &str) -> PathBuf;
}

/// A folder of the operating system.
pub(super) struct Folder {
    path: PathBuf,
    is_read_only: bool,
}

impl Folder {
    pub(super) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), is_read_only: false }
    }

    /// A folder in which nothing is changed: it is locked where its lock file is there, and changing
    /// a file fails.
    pub(super) fn read_only(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), is_read_only: true }
    }

    fn may_change(&self) -> io::Result<()> {
        if self.is_read_only { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(()) }
    }

    /// Makes the folder and what is missing above it, so that a power cut leaves them there.
    fn create(&self) -> io::Result<()> {
        let path = std::path::absolute(&self.path)?;
        let missing: Vec<&Path> = path.ancestors().take_while(|above| !above.exists()).collect();
        fs::create_dir_all(&path)?;
        for made in missing {
            if let Some(above) = made.parent() {
                fs::File::open(above)?.sync_all()?;
            }
        }
        Ok(())
    }
}

impl Files for Folder {
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        let path = self.path.join(LOCK);
        let mut options = OpenOptions::new();
        if self.is_read_only {
            fs::read_dir(&self.path)?;
            options.read(true);
        } else {
            self.create()?;
            options.read(true).write(true).create(true).truncate(false);
        }
        let mut lock = match options.open(&path) {
            Ok(lock) => lock,
            // Whoever has a folder open has made it.
            Err(error) if self.is_read_only && error.kind() == io::ErrorKind::NotFound => {
                return Ok(Box::new(()));
            }
            Err(error) => return Err(error),
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // A holder that has not written its id yet, or garbage, is no reason to fail twice.
                let _ = Read::by_ref(&mut lock).take(20).read_to_string(&mut holder);
                let who = match holder.trim().parse::<u32>() {
                    Ok(pid) => format!("process {pid}"),
                    Err(_) => "another process".to_owned(),
                };
                let what = format!(
                    "{who} has it open; stop that process or use another folder (lock file {})",
                    path.display()
                );
                return Err(io::Error::new(io::ErrorKind::WouldBlock, what));
            }
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
        if !self.is_read_only {
            lock.set_len(0)?;
            writeln!(lock, "{}", std::process::id())?;
        }
        Ok(Box::new(lock))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn open(&self, name: &str, new: bool) -> io::Result<Arc<dyn File>> {
        let mut options = OpenOptions::new();
        options.read(true).write(!self.is_read_only).create(new).truncate(new);
        Ok(Arc::new(options.open(self.path.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.may_change()?;
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.may_change()?;
        fs::remove_file(self.path.join(name))
    }

    fn sync_folder(&self) -> io::Result<()> {
        fs::File::open(&self.path)?.sync_all()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl File for fs::File {
    fn read_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<usize> {
        let mut read = 0;
        while !buffer.is_empty() {
            match FileExt::read_at(self, buffer, offset) {
                Ok(0) => break,
                Ok(n) => {
                    read += n;
                    offset += n as u64;
                    buffer = &mut buffer[n..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)?;
        // Asks the open file, not the disk: under a microsecond for what one write takes along.
        if self.metadata()?.nlink() == 0 {
            let what = "it was removed while the store was open; what clears this folder must not";
            return Err(io::Error::new(io::ErrorKind::NotFound, what));
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

/// Reads `[from, to)`, or less where the file ends sooner.
pub(super) fn read_range(file: &dyn File, from: u64, to: u64) -> io::Result<Vec<u8>> {
    let to = to.min(file.size()?);
    let mut bytes = vec![0; to.saturating_sub(from) as usize];
    let read = file.read_at(&mut bytes, from)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Reads a whole small file; `None` where it is not there.
pub(super) fn read_whole(files: &dyn Files, name: &str) -> io::Result<Option<Vec<u8>>> {
    match files.open(name, false) {
        Ok(file) => Ok(Some(read_range(&*file, 0, u64::MAX)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The path of a data folder, for messages.
pub(super) fn folder_path(files: &dyn Files) -> PathBuf {
    let lock = files.path(LOCK);
    lock.parent().map_or_else(PathBuf::new, Path::to_path_buf)
}
