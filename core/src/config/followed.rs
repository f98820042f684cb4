//! Files that are read again when they change.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// How long files are taken to be unchanged before they are looked at again.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Some files, and what was seen of them when they were read last.
///
/// A change is seen by time and length. What cannot be read, as while it is written, is not taken:
/// then the files are told as changed again.
#[derive(Debug)]
pub struct Followed {
    files: Vec<PathBuf>,
    taken: Seen,
    looked: Instant,
}

/// What tells that files are others, and is [taken](Followed::take) once they were read.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen(Vec<Option<(SystemTime, u64)>>);

impl Followed {
    /// Files as they are now, which are about to be read.
    pub fn new(files: impl IntoIterator<Item = PathBuf>) -> Self {
        let files: Vec<PathBuf> = files.into_iter().collect();
        Self { taken: look(&files), files, looked: Instant::now() }
    }

    /// What the files are now, where they are others than those taken. Looks at most once a second.
    ///
    /// Looked at before they are read, so that a change in between is seen the next time.
    pub fn changed(&mut self) -> Option<Seen> {
        if self.looked.elapsed() < LOOK_EVERY {
            return None;
        }
        self.looked = Instant::now();
        Some(look(&self.files)).filter(|seen| *seen != self.taken)
    }

    /// They were read as [`changed`](Self::changed) has seen them.
    pub fn take(&mut self, seen: Seen) {
        self.taken = seen;
    }

    #[cfg(test)]
    pub(super) fn looked_long_ago(&mut self) {
        self.looked = Instant::now().checked_sub(LOOK_EVERY).expect("a second ago there was time");
    }
}

fn look(files: &[PathBuf]) -> Seen {
    let of = |file: &PathBuf| {
        let meta = fs::metadata::<&Path>(file).ok()?;
        Some((meta.modified().ok()?, meta.len()))
    };
    Seen(files.iter().map(of).collect())
}
