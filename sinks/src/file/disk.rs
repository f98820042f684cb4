//! Single steps on a file and its folder.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a writer waits for the lock: an endpoint that is replaced by a new version of itself has
/// two sinks until the last call into the old one has ended.
const LOCK_WAIT: Duration = Duration::from_secs(1);
/// How often it looks meanwhile.
const LOCK_LOOK: Duration = Duration::from_millis(2);

/// Takes the lock that says: this file is being written. Blocks for at most a second.
pub(super) fn lock(file: &File, path: &Path) -> io::Result<()> {
    let since = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if since.elapsed() < LOCK_WAIT => {
                std::thread::sleep(LOCK_LOOK);
            }
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::other(
                    "it is locked: another process, or another endpoint, is writing it; give each \
                     its own file",
                ));
            }
            // Some network file systems know no locks. Appending whole lines still works there.
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {
                tracing::warn!(
                    path = %path.display(),
                    "the file system has no locks; a second writer of this file would go unnoticed"
                );
                return Ok(());
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// Whether files can be made in `folder`.
pub(super) fn writable(folder: &Path) -> io::Result<()> {
    if !fs::metadata(folder)?.is_dir() {
        return Err(io::Error::other("expected a folder"));
    }
    #[cfg(unix)]
    {
        use rustix::fs::{Access, access};
        access(folder, Access::WRITE_OK | Access::EXEC_OK)?;
    }
    Ok(())
}

/// How every line of ours begins.
const OUR_LINE: &[u8] = b"{\"id\":";

/// Cuts what follows the last line break, after copying it to the end of `NAME.torn`: a crash or a
/// power cut left it, and its event was never acked, so it is sent again. What does not begin like a
/// line of ours stays, and is ended.
pub(super) fn cut_torn_line(file: &mut File, path: &Path, mode: u32) -> io::Result<()> {
    let len = file.metadata()?.len();
    let mut whole = len;
    let mut block = vec![0; 64 << 10];
    while whole > 0 {
        let from = whole.saturating_sub(block.len() as u64);
        let block = &mut block[..(whole - from) as usize];
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(block)?;
        if let Some(at) = block.iter().rposition(|byte| *byte == b'\n') {
            whole = from + at as u64 + 1;
            break;
        }
        whole = from;
    }
    if whole == len {
        return Ok(());
    }
    file.seek(SeekFrom::Start(whole))?;
    let mut begins = [0; OUR_LINE.len()];
    let known = begins.len().min((len - whole) as usize);
    file.read_exact(&mut begins[..known])?;
    if begins[..known] != OUR_LINE[..known] {
        // Somebody else's last line: it stays, and ours begin below it.
        file.write_all(b"\n")?;
        return Ok(());
    }
    let torn = path_beside(path, ".torn");
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    set_mode(&mut options, mode);
    let mut kept = options.open(&torn)?;
    file.seek(SeekFrom::Start(whole))?;
    io::copy(&mut file.take(len - whole), &mut kept)?;
    kept.write_all(b"\n")?;
    kept.sync_all()?;
    file.set_len(whole)?;
    file.sync_all()?;
    tracing::warn!(
        path = %path.display(),
        bytes = len - whole,
        kept = %torn.display(),
        "cut a torn last line"
    );
    Ok(())
}

/// `events.ndjson` and `.torn` make `events.ndjson.torn`.
pub(super) fn path_beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Renames without ever replacing a file.
///
/// In one step where the system can: a name that is first looked for, or first taken by an empty
/// file, can be seen and acted upon by another thread or process in between.
pub(super) fn rename_to_free(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // The file system cannot.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            result => return Ok(result?),
        }
    }
    if to.try_exists()? {
        return Err(ErrorKind::AlreadyExists.into());
    }
    fs::rename(from, to)
}

/// Creates a folder and those above it; with `is_durable` a power cut does not take them away.
pub(super) fn create_folder(folder: &Path, is_durable: bool) -> io::Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().unwrap_or(folder);
    create_folder(parent, is_durable)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists || !folder.is_dir() => Err(error),
        _ if is_durable => sync_folder(parent),
        _ => Ok(()),
    }
}

/// Makes new and changed names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    // Elsewhere a folder cannot be opened as a file.
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

pub(super) fn set_mode(options: &mut OpenOptions, mode: u32) {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, mode);
    #[cfg(not(unix))]
    let _ = (options, mode);
}

/// Which file a path leads to, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity(u64, u64);

impl Identity {
    pub(super) fn of(found: &fs::Metadata) -> Self {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            Self(found.dev(), found.ino())
        }
        // Windows lets nobody rename or delete a file that is open for writing.
        #[cfg(not(unix))]
        {
            let _ = found;
            Self(0, 0)
        }
    }
}
