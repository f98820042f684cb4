//! What becomes of finished files: a name that is free, a count that is kept, compression.
//!
//! Deleting and compressing run on a thread of their own, one at a time; writing never waits for
//! them. A file is touched only under its lock, so never while somebody writes it.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufReader, BufWriter, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use postrider::Timestamp;

use super::config::Settings;
use super::disk::{Identity, path_beside, rename_to_free, set_mode, sync_folder};
use super::template::{Finished, Template, stamped};

/// What follows the name of a file while it is being compressed.
const PARTIAL: &str = ".gz.tmp";

/// Looks after finished files.
pub(super) struct Keeper(Arc<Shared>);

struct Shared {
    keep: Option<usize>,
    compress: bool,
    template: Template,
    mode: u32,
    to_do: Mutex<ToDo>,
    done: Condvar,
}

#[derive(Default)]
struct ToDo {
    folders: BTreeSet<PathBuf>,
    /// The name of the file that is being written.
    current: PathBuf,
    has_thread: bool,
}

impl Keeper {
    pub(super) fn new(settings: &Settings, template: Template) -> Self {
        Self(Arc::new(Shared {
            keep: settings.rotate.keep.map(|keep| keep as usize),
            compress: settings.rotate.compress,
            template,
            mode: settings.mode.bits(),
            to_do: Mutex::default(),
            done: Condvar::new(),
        }))
    }

    /// Gives the file at `path`, which really lies in `folder`, the name of a finished one there.
    pub(super) fn rename(&self, path: &Path, folder: &Path, now: Timestamp) -> io::Result<PathBuf> {
        let others: Vec<_> = self.0.list(folder)?.into_iter().map(|(_, it)| it).collect();
        let to = stamped(&folder.join(path.file_name().unwrap_or_default()), now, &others);
        // Where the path is a symbolic link, the file that it leads to is what has been written.
        rename_to_free(&fs::canonicalize(path)?, &to)?;
        Ok(to)
    }

    /// Deletes and compresses finished files of `folder` in the background; `current` is the path
    /// that is being written.
    pub(super) fn tidy(&self, folder: &Path, current: &Path) {
        if self.0.keep.is_none() && !self.0.compress {
            return;
        }
        let mut to_do = self.0.to_do();
        to_do.folders.insert(folder.to_owned());
        to_do.current = current.file_name().unwrap_or_default().into();
        if to_do.has_thread {
            return;
        }
        let shared = Arc::clone(&self.0);
        let thread = std::thread::Builder::new().name("postrider-rotate".into());
        match thread.spawn(move || shared.run()) {
            Ok(_) => to_do.has_thread = true,
            Err(error) => {
                tracing::warn!(error = %error, "cannot start a thread to tidy finished files");
            }
        }
    }

    /// Waits until nothing is left to tidy; whether there was anything.
    pub(super) fn wait(&self) -> bool {
        let mut to_do = self.0.to_do();
        let was_busy = to_do.has_thread;
        while to_do.has_thread {
            to_do = self.0.done.wait(to_do).unwrap_or_else(PoisonError::into_inner);
        }
        was_busy
    }
}

impl Shared {
    fn to_do(&self) -> MutexGuard<'_, ToDo> {
        self.to_do.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        /// Also after a panic, so that nobody waits for ever.
        struct Ended<'a>(&'a Shared);
        impl Drop for Ended<'_> {
            fn drop(&mut self) {
                self.0.to_do().has_thread = false;
                self.0.done.notify_all();
            }
        }
        let ended = Ended(self);
        loop {
            let mut to_do = self.to_do();
            let Some(folder) = to_do.folders.pop_first() else {
                // Under the lock, so that what is added now starts a new thread.
                to_do.has_thread = false;
                self.done.notify_all();
                std::mem::forget(ended);
                return;
            };
            let current = to_do.current.clone();
            drop(to_do);
            if let Err(error) = self.tidy(&folder, &current) {
                tracing::warn!(
                    folder = %folder.display(),
                    error = %error,
                    "cannot tidy finished files; trying again after the next rotation"
                );
            }
        }
    }

    /// The finished files in a folder, oldest first.
    fn list(&self, folder: &Path) -> io::Result<Vec<(PathBuf, Finished)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if let Some(finished) =
                entry.file_name().to_str().and_then(|n| self.template.finished(n))
                && entry.file_type()?.is_file()
            {
                found.push((entry.path(), finished));
            }
        }
        found.sort_by(|(_, a), (_, b)| a.age.cmp(&b.age));
        Ok(found)
    }

    fn tidy(&self, folder: &Path, current: &Path) -> io::Result<()> {
        self.delete_partial(folder)?;
        let mut finished = self.list(folder)?;
        finished.retain(|(path, _)| path.file_name() != Some(current.as_os_str()));
        let surplus = self.keep.map_or(0, |keep| finished.len().saturating_sub(keep));
        for (path, _) in finished.drain(..surplus) {
            if let Some(_lock) = claim(&path)? {
                fs::remove_file(&path)?;
                tracing::debug!(path = %path.display(), "deleted a finished file");
            }
        }
        if self.compress {
            for (path, it) in finished.iter().filter(|(_, it)| !it.is_compressed) {
                self.compress(path, it, &finished)?;
            }
        }
        Ok(())
    }

    /// Deletes what a crash left of a compression; nobody compresses now.
    fn delete_partial(&self, folder: &Path) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let of = name.strip_suffix(PARTIAL).and_then(|name| self.template.finished(name));
            if of.is_some() {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// Replaces a finished file by its compressed form, which is complete and on the disk before
    /// the file goes.
    fn compress(&self, path: &Path, it: &Finished, all: &[(PathBuf, Finished)]) -> io::Result<()> {
        let Some(mut file) = claim(path)? else { return Ok(()) };
        let compressed = path_beside(path, ".gz");
        if compressed.try_exists()? {
            // A crash between the two last steps leaves both.
            if is_content(&compressed, &mut file)? {
                return fs::remove_file(path);
            }
            // Else this day was written to again after it had been compressed.
            if it.age.has_no_stamp {
                let ended = file.metadata()?.modified()?;
                let ended = ended.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                let ended = Timestamp::from_millis(ended.as_millis() as i64);
                let all: Vec<_> = all.iter().map(|(_, it)| it.clone()).collect();
                rename_to_free(path, &stamped(path, ended, &all))?;
                // It is found under its new name when the folder is looked at again.
                self.to_do().folders.insert(path.parent().unwrap_or(path).to_owned());
                return Ok(());
            }
            return Err(io::Error::new(
                ErrorKind::AlreadyExists,
                format!("{} exists and holds something else", compressed.display()),
            ));
        }
        // Not under its own name until it is whole; what a crash left of it is overwritten.
        let partial = path_beside(path, PARTIAL);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        set_mode(&mut options, self.mode);
        let out = options.open(&partial)?;
        let mut encoder = GzEncoder::new(BufWriter::new(out), Compression::default());
        let written = io::copy(&mut file, &mut encoder)
            .and_then(|_| encoder.finish()?.into_inner().map_err(io::IntoInnerError::into_error))
            .and_then(|out| {
                let found = file.metadata()?;
                out.set_permissions(found.permissions())?;
                out.set_modified(found.modified()?)?;
                out.sync_all()
            })
            .and_then(|()| rename_to_free(&partial, &compressed));
        if let Err(error) = written {
            let _ = fs::remove_file(&partial);
            return Err(error);
        }
        sync_folder(path.parent().unwrap_or(path))?;
        fs::remove_file(path)?;
        tracing::debug!(path = %compressed.display(), "compressed a finished file");
        Ok(())
    }
}

/// Opens a finished file and takes its lock; `None` where somebody is (again) writing it.
fn claim(path: &Path) -> io::Result<Option<File>> {
    let file = File::open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        // A file system without locks: nobody can hold one.
        Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {}
        Err(TryLockError::Error(error)) => return Err(error),
    }
    // Somebody may have put another file there meanwhile.
    let is_there = Identity::of(&file.metadata()?) == Identity::of(&fs::metadata(path)?);
    Ok(is_there.then_some(file))
}

/// Whether `compressed` unpacks to exactly what is in `file`, which is read from its start and left
/// at its start.
fn is_content(compressed: &Path, file: &mut File) -> io::Result<bool> {
    use io::Seek;
    let mut unpacked = MultiGzDecoder::new(BufReader::new(File::open(compressed)?));
    let (mut theirs, mut ours) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let same = loop {
        // Not gzip, or cut short.
        let Ok(count) = unpacked.read(&mut theirs) else { break false };
        if count == 0 {
            break file.read(&mut ours)? == 0;
        }
        match file.read_exact(&mut ours[..count]) {
            Ok(()) if ours[..count] == theirs[..count] => {}
            Err(error) if error.kind() != ErrorKind::UnexpectedEof => return Err(error),
            _ => break false,
        }
    };
    file.rewind()?;
    Ok(same)
}
