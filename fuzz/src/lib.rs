//! What the fuzz targets share: a folder in memory made of any bytes, and a store at work on it.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postrider::delivery::{AttemptRecord, Decision};
use postrider::store::log::{File, Files, fuzz};
use postrider::store::{Accept, LogStore, Settlement, Store};
use postrider::testing::sealed;
use postrider::{EndpointId, NewEvent, Timestamp};

/// The files that a folder may hold, by the byte that names them.
const NAMES: [&str; 9] = [
    "checkpoint",
    "0000000001.seg",
    "0000000002.seg",
    "0000000003.seg",
    "0000000004.seg",
    "0000000001.idx",
    "0000000002.idx",
    "0000000003.idx",
    "spare.seg",
];
/// Set in the first byte: checksums are made right.
pub const SEALED: u8 = 1;
/// No file is longer: segments have 16 KiB, but a checkpoint names up to 65,536 endpoints whose names
/// are lost.
const FILE_BYTES_MAX: usize = 4 << 20;

type Bytes = Arc<Mutex<Vec<u8>>>;

/// A folder in memory.
#[derive(Clone, Default)]
pub struct Memory {
    files: Arc<Mutex<BTreeMap<String, Bytes>>>,
}

impl Memory {
    /// The folder that `bytes` describe: flags, then files, each its name's number, a length (`u16`)
    /// and that many bytes, or what is left.
    pub fn unpack(bytes: &[u8]) -> Self {
        let memory = Self::default();
        let Some((flags, mut rest)) = bytes.split_first() else { return memory };
        while let Some((&[name, low, high], after)) = rest.split_first_chunk::<3>() {
            let len = usize::from(u16::from_le_bytes([low, high])).min(after.len());
            let (content, after) = after.split_at(len);
            let name = NAMES[usize::from(name) % NAMES.len()];
            let mut content = content.to_vec();
            if flags & SEALED != 0 {
                fuzz::seal(name, &mut content);
            }
            memory.files.lock().unwrap().insert(name.to_owned(), Arc::new(Mutex::new(content)));
            rest = after;
        }
        memory
    }

    /// The bytes that describe this folder.
    pub fn pack(&self, flags: u8) -> Vec<u8> {
        let mut bytes = vec![flags];
        for (name, content) in &*self.files.lock().unwrap() {
            let Some(number) = NAMES.iter().position(|known| known == name) else { continue };
            let content = content.lock().unwrap();
            let end = content.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
            bytes.push(number as u8);
            bytes.extend((end as u16).to_le_bytes());
            bytes.extend(&content[..end]);
        }
        bytes
    }

    /// Another folder of the same files.
    pub fn copy(&self) -> Self {
        let files = self.files.lock().unwrap();
        let copy = |(name, bytes): (&String, &Bytes)| {
            (name.clone(), Arc::new(Mutex::new(bytes.lock().unwrap().clone())))
        };
        Self { files: Arc::new(Mutex::new(files.iter().map(copy).collect())) }
    }
}

struct Open(Bytes);

impl File for Open {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.0.lock().unwrap();
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, from: &[u8], offset: u64) -> io::Result<()> {
        let mut bytes = self.0.lock().unwrap();
        let end = offset as usize + from.len();
        assert!(end <= FILE_BYTES_MAX, "a write at {offset}, {} long", from.len());
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset as usize..end].copy_from_slice(from);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }
}

impl Files for Memory {
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        Ok(Box::new(()))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.files.lock().unwrap().keys().cloned().collect())
    }

    fn open(&self, name: &str, new: bool) -> io::Result<Arc<dyn File>> {
        let mut files = self.files.lock().unwrap();
        if new {
            files.insert(name.to_owned(), Bytes::default());
        }
        let bytes = files.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(Open(Arc::clone(bytes))))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.files.lock().unwrap();
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut files = self.files.lock().unwrap();
        files.remove(name).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync_folder(&self) -> io::Result<()> {
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("/fuzz").join(name)
    }
}

/// A store on `disk`, which writes when it is told to.
pub fn open(disk: &Memory) -> Option<LogStore> {
    let builder = LogStore::builder("unused").files(Arc::new(disk.clone())).manual();
    builder.segment_bytes(16 << 10).cache_bytes(4096).open_blocking().ok()
}

/// Runs what is to be run in a store's runtime.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

/// Accepts one event for `endpoint`.
///
/// # Panics
/// Where the store refuses it.
pub async fn accept(store: &Arc<LogStore>, id: &str, endpoint: &EndpointId, now: Timestamp) {
    let event = NewEvent::raw("match", "{\"from\":\"fuzz\"}").unwrap().id(id.parse().unwrap());
    let accept = Accept { event: sealed(event), endpoints: Arc::from([endpoint.clone()]) };
    let accepting = Arc::clone(store);
    let task = tokio::spawn(async move { accepting.accept(vec![accept], now).await });
    while !task.is_finished() {
        tokio::task::yield_now().await;
        store.step(true);
    }
    task.await.unwrap().expect("a store that opened takes an event");
}

/// Opens the log on `disk`, if it can be opened, and works with it. What it accepts must be there
/// afterwards, whatever the log says that was there before.
///
/// # Panics
/// Where the store does, or breaks a promise.
pub fn use_store(disk: &Memory) {
    let now = Timestamp::from_millis(1_800_000_000_000);
    let until = now.after(Duration::from_secs(60));
    let endpoint: EndpointId = "fuzz".parse().unwrap();
    block_on(async {
        let Some(store) = open(disk) else { return };
        let store = Arc::new(store);
        for owed in store.backlog(now).await.unwrap() {
            let Ok(claim) = store.claim(&owed.endpoint, 10, now, until).await else { continue };
            let settle = |(at, lease): (usize, postrider::store::Lease)| {
                let attempt = AttemptRecord {
                    number: lease.attempts.saturating_add(1),
                    at: now,
                    took_ms: 1,
                    cause: None,
                    status: Some(200),
                    message: String::new(),
                    answer: String::new(),
                };
                let decision =
                    if at % 2 == 0 { Decision::Delivered } else { Decision::RetryAt(until) };
                let (delivery, fence) = (lease.delivery, lease.fence);
                Settlement { delivery, fence, attempt: Some(attempt), decision }
            };
            let batch: Vec<_> = claim.leases.into_iter().enumerate().map(settle).collect();
            store.settle(&batch).await.unwrap();
        }
        // One that the log does not know yet.
        let mut id = "the-fuzz-event".to_owned();
        while !matches!(store.event(&id.parse().unwrap()).await, Ok(None)) {
            id.push('+');
        }
        accept(&store, &id, &endpoint, now).await;
        store.close().await.unwrap();
        let store = open(disk).expect("a log that was open opens again");
        let claim = store.claim(&endpoint, 100_000, until, until).await.unwrap();
        let is_there = claim.leases.iter().any(|lease| lease.event.id().to_string() == id);
        assert!(is_there, "what was accepted is gone");
    });
}
