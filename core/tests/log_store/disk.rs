//! A disk in memory that knows what is durable: it makes the images that a crash may leave, and
//! fails when told to.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use fastrand::Rng;
use postrider::store::log::{File, Files};

/// The disk; clones are one disk.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Changes of names since the folder was synced.
    changes: Vec<Change>,
    contents: Vec<Content>,
    /// Writes, syncs and changes of names so far.
    ops: u64,
    fail: Option<Fail>,
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

/// What fails from which operation on.
#[derive(Clone, Copy)]
pub(crate) struct Fail {
    pub(crate) op: u64,
    pub(crate) kind: io::ErrorKind,
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

    /// Counts an operation and takes the images of a crash just before it.
    fn begin(&mut self) -> Option<io::Error> {
        self.ops += 1;
        if let Some(mut images) = self.images.take() {
            for left in [Left::None, Left::All, Left::Some] {
                images.taken.push(self.image(left, &mut images.rng));
            }
            self.images = Some(images);
        }
        let fail = self.fail.filter(|fail| self.ops >= fail.op);
        fail.map(|fail| io::Error::new(fail.kind, "injected"))
    }

    fn change(&mut self, change: Change) -> io::Result<()> {
        if let Some(error) = self.begin() {
            return Err(error);
        }
        rename(&mut self.names, &change);
        self.changes.push(change);
        Ok(())
    }
}

impl Disk {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    pub(crate) fn ops(&self) -> u64 {
        self.lock().ops
    }

    /// From now on takes the images that a crash before each operation may leave.
    pub(crate) fn take_images(&self, seed: u64) {
        self.lock().images = Some(Images { rng: Rng::with_seed(seed), taken: Vec::new() });
    }

    pub(crate) fn taken(&self) -> Vec<Disk> {
        self.lock()
            .images
            .as_mut()
            .map(|images| std::mem::take(&mut images.taken))
            .unwrap_or_default()
    }

    /// What is left after the process, and not the machine, crashed.
    pub(crate) fn after_crash(&self) -> Disk {
        self.lock().image(Left::All, &mut Rng::with_seed(0))
    }

    /// What a power cut leaves at least.
    pub(crate) fn durable(&self) -> Disk {
        self.lock().image(Left::None, &mut Rng::with_seed(0))
    }

    /// What may be left after a power cut.
    pub(crate) fn after_power_cut(&self, rng: &mut Rng) -> Disk {
        self.lock().image(Left::Some, rng)
    }

    pub(crate) fn fail(&self, fail: Option<Fail>) {
        self.lock().fail = fail;
    }

    /// From now on a sync of a file that was synced before does nothing and says that all is well.
    pub(crate) fn skip_syncs(&self) {
        self.lock().skips_syncs = true;
    }

    /// Changes the bytes of a file behind the store's back.
    pub(crate) fn damage(&self, name: &str, damage: impl FnOnce(&mut Vec<u8>)) {
        let mut inner = self.lock();
        let file = inner.names[name];
        damage(&mut inner.contents[file].now);
        let now = inner.contents[file].now.clone();
        inner.contents[file].durable = now;
    }

    /// Flips a bit in the payload of a segment's event, the `nth` that it holds; returns how much it
    /// holds.
    pub(crate) fn damage_event(&self, name: &str, nth: usize) -> u64 {
        let mut held = 0;
        self.damage(name, |bytes| {
            held = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
            let payloads = bytes.windows(6).enumerate().filter(|(_, found)| *found == b"\"fill\"");
            let (at, _) = payloads.take(nth + 1).last().expect("a segment with events");
            bytes[at] ^= 1;
        });
        held as u64
    }

    /// Removes a file behind the store's back.
    pub(crate) fn lose(&self, name: &str) {
        let mut inner = self.lock();
        inner.names.remove(name).expect("a file that is there");
        inner.durable_names.remove(name);
    }

    /// The bytes of every file.
    pub(crate) fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let inner = self.lock();
        let names = inner.names.iter();
        names.map(|(name, file)| (name.clone(), inner.contents[*file].now.clone())).collect()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.lock().names.contains_key(name)
    }

    /// The segments' names, oldest first.
    pub(crate) fn segments(&self) -> Vec<String> {
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

impl File for Open {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let inner = self.disk.lock();
        let content = &inner.contents[self.file].now;
        let from = (offset as usize).min(content.len());
        let count = buffer.len().min(content.len() - from);
        buffer[..count].copy_from_slice(&content[from..from + count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut inner = self.disk.lock();
        let failed = inner.begin();
        // A write that fails may have written a part.
        let bytes = if failed.is_some() { &bytes[..bytes.len() / 2] } else { bytes };
        let content = &mut inner.contents[self.file];
        apply(&mut content.now, offset, bytes);
        content.unsynced.push((offset, bytes.to_vec()));
        failed.map_or(Ok(()), Err)
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.disk.lock();
        if let Some(error) = inner.begin() {
            return Err(error);
        }
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
        Ok(self.disk.lock().contents[self.file].now.len() as u64)
    }
}

impl Files for Disk {
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        Ok(Box::new(()))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(Disk::lock(self).names.keys().cloned().collect())
    }

    fn open(&self, name: &str, new: bool) -> io::Result<Arc<dyn File>> {
        let mut inner = Disk::lock(self);
        let file = match inner.names.get(name) {
            Some(file) if !new => *file,
            None if !new => return Err(io::ErrorKind::NotFound.into()),
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
        if let Some(error) = inner.begin() {
            return Err(error);
        }
        inner.durable_names = inner.names.clone();
        inner.changes.clear();
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("/disk").join(name)
    }
}
