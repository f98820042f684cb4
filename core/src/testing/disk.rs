//! A disk in memory that knows what is durable: it makes the images that a crash may leave, and
//! fails when told to.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::store::log::{File, Files};
use fastrand::Rng;

/// A disk in memory, for [`LogStoreBuilder::files`](crate::store::LogStoreBuilder::files); clones
/// are one disk.
#[derive(Clone, Default)]
pub struct Disk {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Changes of names since the folder was synced.
    changes: Vec<Change>,
    contents: Vec<Content>,
    /// Calls so far, reads included.
    calls: u64,
    fail: Option<Fail>,
    /// What the first call was that failed since `fail` was set.
    failed: Option<String>,
    skips_syncs: bool,
    /// Images taken since they were last asked for.
    images: Option<Images>,
}

#[derive(Clone, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<(u64, Vec<u8>)>,
}

#[derive(Clone)]
enum Change {
    Create(String, usize),
    Rename(String, String),
    Remove(String),
}

/// Which calls fail, and how.
#[derive(Clone, Copy, Debug)]
pub struct Fail {
    /// The first that fails, counted from 1 over the life of the disk: see [`Disk::calls`].
    pub from: u64,
    /// How many fail, from this one on.
    pub count: u64,
    /// The kind of their error.
    pub kind: io::ErrorKind,
}

struct Images {
    rng: Rng,
    taken: Vec<Disk>,
}

fn apply(content: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let end = offset as usize + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset as usize..end].copy_from_slice(bytes);
}

fn rename(names: &mut BTreeMap<String, usize>, change: &Change) {
    match change {
        Change::Create(name, file) => {
            names.insert(name.clone(), *file);
        }
        Change::Rename(from, to) => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
        Change::Remove(name) => {
            names.remove(name);
        }
    }
}

/// How much of what is not synced a crash leaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    /// Nothing.
    None,
    /// Everything: only the process crashed.
    All,
    /// Any of the writes, each whole or torn; a beginning of the changes of names.
    Some,
}

impl Inner {
    fn image(&self, left: Left, rng: &mut Rng) -> Disk {
        let mut names = self.durable_names.clone();
        let kept = match left {
            Left::None => 0,
            Left::All => self.changes.len(),
            Left::Some => rng.usize(0..=self.changes.len()),
        };
        for change in &self.changes[..kept] {
            rename(&mut names, change);
        }
        let contents = self.contents.iter().map(|content| {
            let now = match left {
                Left::None => content.durable.clone(),
                Left::All => content.now.clone(),
                Left::Some => {
                    let mut image = content.durable.clone();
                    for (offset, bytes) in &content.unsynced {
                        match rng.u8(0..4) {
                            0 => {}
                            1 => {
                                let (from, to) =
                                    (rng.usize(0..=bytes.len()), rng.usize(0..=bytes.len()));
                                let (from, to) = (from.min(to), from.max(to));
                                apply(&mut image, offset + from as u64, &bytes[from..to]);
                            }
                            2 => apply(&mut image, *offset, &bytes[..rng.usize(0..=bytes.len())]),
                            _ => apply(&mut image, *offset, bytes),
                        }
                    }
                    image
                }
            };
            Content { durable: now.clone(), now, unsynced: Vec::new() }
        });
        let inner = Inner {
            durable_names: names.clone(),
            names,
            contents: contents.collect(),
            ..Inner::default()
        };
        Disk { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Counts a call and fails it where it is told to.
    fn call(&mut self, what: &str, name: &str) -> io::Result<()> {
        self.calls += 1;
        match self.fail {
            Some(Fail { from, count, kind })
                if self.calls.checked_sub(from).is_some_and(|n| n < count) =>
            {
                self.failed.get_or_insert_with(|| format!("{what} {name}"));
                Err(io::Error::new(kind, "injected"))
            }
            _ => Ok(()),
        }
    }

    fn call_file(&mut self, what: &str, file: usize) -> io::Result<()> {
        let name = self.name(file);
        self.call(what, &name)
    }

    fn begin_file(&mut self, what: &str, file: usize) -> io::Result<()> {
        let name = self.name(file);
        self.begin(what, &name)
    }

    /// As [`call`](Self::call), for one that changes something: takes the images of a crash just
    /// before it.
    fn begin(&mut self, what: &str, name: &str) -> io::Result<()> {
        if let Some(mut images) = self.images.take() {
            for left in [Left::None, Left::All, Left::Some] {
                images.taken.push(self.image(left, &mut images.rng));
            }
            self.images = Some(images);
        }
        self.call(what, name)
    }

    fn change(&mut self, change: Change) -> io::Result<()> {
        let (what, name) = match &change {
            Change::Create(name, _) => ("create", name),
            Change::Rename(_, to) => ("rename to", to),
            Change::Remove(name) => ("remove", name),
        };
        self.begin(what, name)?;
        rename(&mut self.names, &change);
        self.changes.push(change);
        Ok(())
    }
}

impl Disk {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds this lock")
    }

    /// Calls so far: every one of [`Files`] and [`File`], those that only read included.
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// From now on takes the images that a crash before each call that changes something may leave:
    /// without what was not synced, with all of it, and with any part of it.
    pub fn take_images(&self, seed: u64) {
        self.lock().images = Some(Images { rng: Rng::with_seed(seed), taken: Vec::new() });
    }

    /// The images taken since the last call.
    pub fn taken(&self) -> Vec<Disk> {
        self.lock()
            .images
            .as_mut()
            .map(|images| std::mem::take(&mut images.taken))
            .unwrap_or_default()
    }

    /// What is left after the process, and not the machine, crashed.
    pub fn after_crash(&self) -> Disk {
        self.lock().image(Left::All, &mut Rng::with_seed(0))
    }

    /// What a power cut leaves at least.
    pub fn durable(&self) -> Disk {
        self.lock().image(Left::None, &mut Rng::with_seed(0))
    }

    /// What may be left after a power cut, as the seed picks.
    pub fn after_power_cut(&self, seed: u64) -> Disk {
        self.lock().image(Left::Some, &mut Rng::with_seed(seed))
    }

    /// Sets which calls fail from now on; `None`: none does.
    pub fn fail(&self, fail: Option<Fail>) {
        let mut inner = self.lock();
        inner.fail = fail;
        inner.failed = None;
    }

    /// What failed first since [`fail`](Self::fail) was called: `write 0000000001.seg`.
    pub fn failed(&self) -> Option<String> {
        self.lock().failed.clone()
    }

    /// From now on a sync of a file that was synced before does nothing and says that all is well.
    pub fn skip_syncs(&self) {
        self.lock().skips_syncs = true;
    }

    /// Changes the bytes of a file behind the store's back.
    pub fn damage(&self, name: &str, damage: impl FnOnce(&mut Vec<u8>)) {
        let mut inner = self.lock();
        let file = inner.names[name];
        damage(&mut inner.contents[file].now);
        let now = inner.contents[file].now.clone();
        inner.contents[file].durable = now;
    }

    /// Removes a file behind the store's back.
    pub fn lose(&self, name: &str) {
        let mut inner = self.lock();
        inner.names.remove(name).expect("a file that is there");
        inner.durable_names.remove(name);
    }

    /// The bytes of every file.
    pub fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let inner = self.lock();
        let names = inner.names.iter();
        names.map(|(name, file)| (name.clone(), inner.contents[*file].now.clone())).collect()
    }

    /// Whether there is a file of this name.
    pub fn has(&self, name: &str) -> bool {
        self.lock().names.contains_key(name)
    }

    /// The segments' names, oldest first.
    pub fn segments(&self) -> Vec<String> {
        let inner = self.lock();
        let is_segment = |name: &&String| name.len() == "0000000001.seg".len();
        let names = inner.names.keys().filter(|name| name.contains(".seg"));
        names.filter(is_segment).cloned().collect()
    }
}

struct Open {
    disk: Disk,
    file: usize,
}

impl Inner {
    /// What a file is called now, for messages.
    fn name(&self, file: usize) -> String {
        let named = self.names.iter().find(|(_, named)| **named == file);
        named.map_or_else(|| "a removed file".to_owned(), |(name, _)| name.clone())
    }
}

impl File for Open {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut inner = self.disk.lock();
        inner.call_file("read", self.file)?;
        let content = &inner.contents[self.file].now;
        let from = (offset as usize).min(content.len());
        let count = buffer.len().min(content.len() - from);
        buffer[..count].copy_from_slice(&content[from..from + count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut inner = self.disk.lock();
        let done = inner.begin_file("write", self.file);
        // A write that fails may have written a part.
        let bytes = if done.is_err() { &bytes[..bytes.len() / 2] } else { bytes };
        let content = &mut inner.contents[self.file];
        apply(&mut content.now, offset, bytes);
        content.unsynced.push((offset, bytes.to_vec()));
        done
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.disk.lock();
        inner.begin_file("sync", self.file)?;
        let skips = inner.skips_syncs;
        let content = &mut inner.contents[self.file];
        // A segment's header is synced all the same: what is acknowledged must suffer.
        if !skips || content.durable.is_empty() {
            content.durable = content.now.clone();
            content.unsynced.clear();
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        let mut inner = self.disk.lock();
        inner.call_file("size", self.file)?;
        Ok(inner.contents[self.file].now.len() as u64)
    }
}

impl Files for Disk {
    /// Keeps nobody out.
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        Disk::lock(self).call("lock", "lock")?;
        Ok(Box::new(()))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut inner = Disk::lock(self);
        inner.call("list", "")?;
        Ok(inner.names.keys().cloned().collect())
    }

    fn open(&self, name: &str, new: bool) -> io::Result<Arc<dyn File>> {
        let mut inner = Disk::lock(self);
        let file = match inner.names.get(name).copied() {
            Some(file) if !new => {
                inner.call("open", name)?;
                file
            }
            None if !new => {
                inner.call("open", name)?;
                return Err(io::ErrorKind::NotFound.into());
            }
            // A file that is emptied is another one here: nothing relies on what was in it.
            _ => {
                let file = inner.contents.len();
                inner.contents.push(Content::default());
                inner.change(Change::Create(name.to_owned(), file))?;
                file
            }
        };
        Ok(Arc::new(Open { disk: self.clone(), file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Disk::lock(self).change(Change::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = Disk::lock(self);
        if !inner.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        inner.change(Change::Remove(name.to_owned()))
    }

    fn sync_folder(&self) -> io::Result<()> {
        let mut inner = Disk::lock(self);
        inner.begin("sync folder", "")?;
        inner.durable_names = inner.names.clone();
        inner.changes.clear();
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("/disk").join(name)
    }
}
