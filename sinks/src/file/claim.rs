//! One endpoint per path, within this process. (Across processes the file's lock says it, and so it
//! does where two paths with date fields come to meet.)

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use postrider::{EndpointId, Error, ErrorKind};

use super::config::Settings;
use super::log::Log;
use crate::writer::Writer;

/// Who writes what. An endpoint that is replaced by a new version of itself has two sinks for a
/// moment.
static CLAIMS: Mutex<BTreeMap<PathBuf, Owner>> = Mutex::new(BTreeMap::new());

struct Owner {
    endpoint: Option<EndpointId>,
    sinks: usize,
    /// Who writes now; versions of an endpoint with the same settings share it, so that replacing
    /// one hands the file over without a gap.
    writer: Weak<SharedWriter>,
}

/// The writer of a file, and how many sinks use it.
pub(super) struct SharedWriter {
    pub(super) writer: Writer<Log>,
    settings: Settings,
    users: AtomicUsize,
}

impl SharedWriter {
    /// One user less; called once by each.
    pub(super) fn leave(&self) {
        self.users.fetch_sub(1, Ordering::AcqRel);
    }

    pub(super) fn is_used(&self) -> bool {
        self.users.load(Ordering::Acquire) > 0
    }

    /// One user more, unless the last has left: then it is being closed.
    fn join(&self) -> bool {
        let more = |users| if users == 0 { None } else { Some(users + 1) };
        self.users.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }
}

/// The right to write to a path; ends when dropped.
#[derive(Debug)]
pub(super) struct Claim(PathBuf);

fn claims() -> MutexGuard<'static, BTreeMap<PathBuf, Owner>> {
    CLAIMS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Claim {
    /// Claims `path` for `endpoint`; without one nobody else may have it.
    pub(super) fn new(path: &str, endpoint: Option<&EndpointId>) -> Result<Self, Error> {
        let refuse = || Error::new(ErrorKind::Sink, format!("open file {path:?}"));
        let real = real(Path::new(path)).map_err(|error| refuse().because(error))?;
        let mut claims = claims();
        match claims.get_mut(&real) {
            None => {
                let owner = Owner { endpoint: endpoint.cloned(), sinks: 1, writer: Weak::new() };
                claims.insert(real.clone(), owner);
            }
            Some(owner) if owner.endpoint.is_some() && owner.endpoint.as_ref() == endpoint => {
                owner.sinks += 1;
            }
            Some(owner) => {
                let by = owner.endpoint.as_ref().map_or_else(
                    || "another sink".to_owned(),
                    |endpoint| format!("endpoint {:?}", endpoint.as_str()),
                );
                return Err(refuse().because(format!(
                    "{by} writes to it already; give each endpoint its own path"
                )));
            }
        }
        Ok(Self(real))
    }

    /// The writer of the path for these settings: the one in use, or what `make` makes.
    pub(super) fn writer(
        &self,
        settings: &Settings,
        make: impl FnOnce() -> Writer<Log>,
    ) -> Arc<SharedWriter> {
        let mut claims = claims();
        let owner = claims.get_mut(&self.0).expect("a claim keeps its owner's entry");
        if let Some(writer) = owner.writer.upgrade()
            && writer.settings == *settings
            && writer.join()
        {
            return writer;
        }
        let writer = Arc::new(SharedWriter {
            writer: make(),
            settings: settings.clone(),
            users: AtomicUsize::new(1),
        });
        owner.writer = Arc::downgrade(&writer);
        writer
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claims = claims();
        if let Some(owner) = claims.get_mut(&self.0) {
            owner.sinks -= 1;
            if owner.sinks == 0 {
                claims.remove(&self.0);
            }
        }
    }
}

/// The path with symbolic links followed as far as it exists.
fn real(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let mut missing: Vec<OsString> = Vec::new();
    let mut exists = path.as_path();
    loop {
        if let Ok(real) = exists.canonicalize() {
            return Ok(missing.iter().rev().fold(real, |path, name| path.join(name)));
        }
        let (Some(parent), Some(name)) = (exists.parent(), exists.file_name()) else {
            return Ok(path);
        };
        missing.push(name.to_owned());
        exists = parent;
    }
}
