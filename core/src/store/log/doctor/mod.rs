//! Looking at a data folder without opening it: every file, every record, and what is owed; and
//! salvaging what is whole from a damaged one.
//!
//! | file | what it is for |
//! |---|---|
//! | `view` | the folder, so that nothing can change it |
//! | `kinds` | which records make sense |
//! | `scan` | reading all segments |
//! | `derived` | indexes and checkpoint against the segments |
//! | `look` | all of it together |
//! | `repair` | the new folder |
//! | `report` | what is told |

mod derived;
mod kinds;
mod look;
mod repair;
mod report;
mod scan;
mod view;

use std::path::PathBuf;
use std::sync::Arc;

pub use report::{OtherFile, Owed, Problem, Report, Salvage, SegmentReport, Severity};

use super::files::{Files, Folder, folder_path};
use crate::error::{Error, ErrorKind};

/// Checks and salvages the data folder of a [`LogStore`](super::LogStore) that no process has open.
///
/// Nothing in the folder is ever changed, not even its lock file; while the doctor looks, no process
/// can open the folder. It reads each segment up to three times and holds one of them in memory, with
/// some bytes for each delivery.
///
/// # Examples
/// ```no_run
/// use postrider::store::log::doctor::Doctor;
///
/// let doctor = Doctor::new("postrider-data");
/// if doctor.examine()?.is_damaged() {
///     let salvage = doctor.repair("postrider-data.salvaged")?;
///     println!("{} events saved", salvage.saved.events);
/// }
/// # Ok::<(), postrider::Error>(())
/// ```
pub struct Doctor {
    files: Arc<dyn Files>,
}

impl Doctor {
    /// A doctor for `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { files: Arc::new(Folder::read_only(folder)) }
    }

    /// Looks at another disk than the folder's.
    #[cfg(feature = "test-util")]
    pub fn of(files: Arc<dyn Files>) -> Self {
        Self { files }
    }

    /// Checks every file: segment headers, each record's checksum and what it says, what is missing
    /// between, indexes against their segments, the checkpoint against all records, and leftovers.
    /// Blocks the thread.
    ///
    /// # Errors
    /// `Store` where another process has the folder open (named in the error), the folder is not
    /// there or holds no log, cannot be listed, or holds a log of a newer format. What the disk
    /// cannot read of a file is damage, and no error.
    pub fn examine(&self) -> Result<Report, Error> {
        let _lock = self.lock()?;
        Ok(look::look(&self.files)?.report)
    }

    /// Makes a log in the folder `into` of all that is whole: every whole event with its
    /// settlements, under the same store number, as files of which opening complains no more. What
    /// was damaged is given up and listed; a delivery whose settlement is lost is owed again, unless
    /// the checkpoint knows better. The result is checked before this returns. Blocks the thread.
    ///
    /// After an error `into` may hold a part of the result: remove it before trying again.
    ///
    /// # Errors
    /// `Invalid` where `into` is there and not empty, or is within the damaged folder; `Store` where
    /// it cannot be written, and for the reasons of [`examine`](Self::examine).
    pub fn repair(&self, into: impl Into<PathBuf>) -> Result<Salvage, Error> {
        let into = into.into();
        let from = folder_path(&*self.files);
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        if absolute(&into).starts_with(absolute(&from)) {
            let (into, from) = (into.display(), from.display());
            let what = format!("salvage into {into}: expected a folder that is not in {from}");
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        let is_empty = match std::fs::read_dir(&into) {
            Ok(mut entries) => entries.next().is_none(),
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        };
        if !is_empty {
            let what = format!("salvage into {}: expected a new or empty folder", into.display());
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        self.repair_into(&(Arc::new(Folder::new(into)) as Arc<dyn Files>))
    }

    /// [`repair`](Self::repair) into another disk than a folder's, which must be empty.
    #[cfg(feature = "test-util")]
    pub fn repair_to(&self, into: &Arc<dyn Files>) -> Result<Salvage, Error> {
        self.repair_into(into)
    }

    fn repair_into(&self, into: &Arc<dyn Files>) -> Result<Salvage, Error> {
        let _lock = self.lock()?;
        repair::repair(&self.files, into)
    }

    fn lock(&self) -> Result<Box<dyn Send + Sync>, Error> {
        self.files.lock().map_err(|error| {
            let what = format!("look at the log in {}", folder_path(&*self.files).display());
            Error::new(ErrorKind::Store, what).because(error)
        })
    }
}
