//! What happens while the writer is between two of its steps: segments go only after all that tells
//! of them is durable.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postrider::delivery::Decision;
use postrider::store::log::{File, Files};
use postrider::store::{Accept, Lease, LogStore, LogStoreBuilder, Settlement, Store};
use postrider::testing::{Disk, envelope};
use postrider::{EndpointId, Timestamp};

use super::ledger::START;

type Then = Box<dyn FnOnce() + Send>;

/// A disk on which something else happens right after the checkpoint was put in its place.
#[derive(Clone, Default)]
struct Meanwhile {
    disk: Disk,
    then: Arc<Mutex<Option<Then>>>,
}

impl Files for Meanwhile {
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn open(&self, name: &str, new: bool) -> io::Result<Arc<dyn File>> {
        Files::open(&self.disk, name, new)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)?;
        if to == "checkpoint"
            && let Some(then) = self.then.lock().unwrap().take()
        {
            then();
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.disk.sync_folder()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.disk.path(name)
    }
}

fn endpoint(name: &str) -> EndpointId {
    name.parse().unwrap()
}

fn at(seconds: u64) -> Timestamp {
    START.after(Duration::from_secs(seconds))
}

/// Frees what is settled at once.
fn builder(files: impl Files) -> LogStoreBuilder {
    let builder = LogStore::builder("unused").files(Arc::new(files)).segment_bytes(16 << 10);
    builder.retention(Duration::ZERO).dedup_window(Duration::ZERO).manual()
}

async fn publish(store: &LogStore, to: &[&str], now: Timestamp) {
    let event = envelope("match", &format!("\"{}\"", "x".repeat(1000)));
    let accept = Accept { event, endpoints: to.iter().copied().map(endpoint).collect() };
    let accepted = store.accept(vec![accept], now);
    let written = async {
        tokio::task::yield_now().await;
        store.step(false);
    };
    tokio::join!(accepted, written).0.unwrap();
}

async fn claim(store: &LogStore, from: &str, now: Timestamp) -> Vec<Lease> {
    store
        .claim(&endpoint(from), 1000, now, now.after(Duration::from_secs(9999)))
        .await
        .unwrap()
        .leases
}

fn delivered(leases: &[Lease]) -> Vec<Settlement> {
    let settle = leases.iter().map(|lease| Settlement {
        delivery: lease.delivery.clone(),
        fence: lease.fence,
        attempt: None,
        decision: Decision::Delivered,
    });
    settle.collect()
}

/// The last delivery that an old segment owes ends after a checkpoint was made: the segment must not
/// go before that is durable, or after a crash the delivery is owed for ever and its event nowhere.
#[tokio::test]
async fn a_segment_goes_after_the_settlements_that_let_it_go() {
    let files = Meanwhile::default();
    let store = Arc::new(builder(files.clone()).open().await.unwrap());
    publish(&store, &["slow"], at(0)).await;
    let slow = claim(&store, "slow", at(0)).await;
    let first = files.disk.segments()[0].clone();
    let (settling, settlements) = (Arc::clone(&store), delivered(&slow));
    let mut then: Option<Then> = Some(Box::new(move || {
        let settled = futures_util::FutureExt::now_or_never(settling.settle(&settlements));
        settled.expect("there is room in the buffer").unwrap();
    }));
    let mut seconds = 1..100;
    while files.disk.has(&first) {
        let second = seconds.next().expect("it is freed");
        // For nobody: it tells nothing that must be written again.
        publish(&store, &[], at(second)).await;
        if second == 20 {
            *files.then.lock().unwrap() = then.take();
        }
    }
    let after = builder(files.disk.durable()).open().await.unwrap();
    let owed = after.backlog(at(100)).await.unwrap();
    assert!(owed.is_empty(), "{owed:?}");
}
