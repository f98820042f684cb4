//! Folders of our own under the system's temporary folder, gone when the command ends.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::{Fail, Outcome};

/// A private folder that removes itself.
pub(crate) struct Scratch {
    path: PathBuf,
    keep: bool,
}

impl Scratch {
    /// Makes a new folder whose name begins with `name`.
    pub(crate) fn new(name: &str) -> Outcome<Self> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let path = std::env::temp_dir().join(format!(
            "{name}-{}-{}",
            std::process::id(),
            now.subsec_nanos()
        ));
        // Creating fails where something is there already, so nobody can have prepared the folder.
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(|error| {
            Fail::new(format_args!("making the folder {}: {error}", path.display()))
        })?;
        Ok(Self { path, keep: false })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Leaves the folder there for people to look at.
    pub(crate) fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_dir_all(&self.path); // What stays behind is the system's to clean.
        }
    }
}
