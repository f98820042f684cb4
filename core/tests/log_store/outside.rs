//! What happens outside of the store: its folder is removed or moved, the disk is full, the clock
//! jumps.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use postrider::delivery::Decision;
use postrider::event::Envelope;
use postrider::store::log::Sync;
use postrider::store::{Accept, LogStore, Settlement, Store};
use postrider::testing::envelope;
use postrider::{EndpointId, Error, ErrorKind, Timestamp};
use tempfile::TempDir;

use super::ledger::START;

const HOUR: u64 = 3_600;

fn at(seconds: u64) -> Timestamp {
    START.after(Duration::from_secs(seconds))
}

fn endpoint() -> EndpointId {
    "a".parse().unwrap()
}

/// Publishes an event of about 1 kB.
async fn publish(store: &LogStore, now: Timestamp) -> Result<Arc<Envelope>, Error> {
    let event = envelope("match", &format!("\"{}\"", "x".repeat(1000)));
    let accept = Accept { event: Arc::clone(&event), endpoints: [endpoint()].into() };
    store.accept(vec![accept], now).await.map(|_| event)
}

async fn deliver(store: &LogStore, now: Timestamp) -> usize {
    let until = now.after(Duration::from_secs(30));
    let leases = store.claim(&endpoint(), 10_000, now, until).await.unwrap().leases;
    let settle = leases.iter().map(|lease| Settlement {
        delivery: lease.delivery.clone(),
        fence: lease.fence,
        attempt: None,
        decision: Decision::Delivered,
    });
    store.settle(&settle.collect::<Vec<_>>()).await.unwrap();
    leases.len()
}

/// The folder is removed under a running store. Files without a name take writes and syncs as before,
/// so publishers went on being told that their events were durable.
#[tokio::test]
async fn a_removed_folder_is_noticed_at_once() {
    for durability in [Sync::Always, Sync::Batch(Duration::from_millis(5)), Sync::Os] {
        let parent = TempDir::new().unwrap();
        let folder = parent.path().join("data");
        let store = LogStore::builder(&folder).durability(durability).open().await.unwrap();
        publish(&store, START).await.unwrap();
        fs::remove_dir_all(&folder).unwrap();
        let error = publish(&store, START).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Store, "{error:?}");
        let chain = error.chain();
        assert!(chain.contains(folder.to_str().unwrap()) && chain.contains("removed"), "{chain}");
        assert!(publish(&store, START).await.is_err(), "nothing more is taken");
        assert!(store.close().await.is_err());
        let again = LogStore::builder(&folder).open().await.unwrap();
        assert_eq!(again.recovery().owed, 0, "what was in it went with it");
        publish(&again, START).await.unwrap();
    }
}

/// The folder is moved under a running store: what is acknowledged is where the folder is now, and
/// the store ends at the latest when it needs a new file.
#[tokio::test]
async fn a_moved_folder_takes_what_is_acknowledged_along() {
    let parent = TempDir::new().unwrap();
    let (folder, moved) = (parent.path().join("data"), parent.path().join("moved"));
    let store = LogStore::builder(&folder).segment_bytes(16 << 10).open().await.unwrap();
    publish(&store, START).await.unwrap();
    fs::rename(&folder, &moved).unwrap();
    let mut acknowledged = 1;
    let error = loop {
        match publish(&store, START).await {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 100, "no new segment was needed");
    };
    assert!(error.chain().contains(folder.to_str().unwrap()), "{}", error.chain());
    drop(store);
    let found = LogStore::builder(&moved).open().await.unwrap();
    assert_eq!(found.recovery().owed, acknowledged);
}

/// The clock was ahead for a while. Retention went on counting from the newest time ever seen, so that
/// everything settled was taken for old at once, until the clock caught up.
#[tokio::test]
async fn a_clock_that_was_ahead_makes_nothing_old() {
    let folder = TempDir::new().unwrap();
    let open = async || {
        let builder = LogStore::builder(folder.path()).segment_bytes(16 << 10);
        let hour = Duration::from_secs(HOUR);
        builder.retention(hour).dedup_window(hour).open().await.unwrap()
    };
    for reopens in [false, true] {
        let mut store = open().await;
        publish(&store, at(0)).await.unwrap();
        publish(&store, at(6 * HOUR)).await.unwrap();
        deliver(&store, at(6 * HOUR)).await;
        if reopens {
            store.close().await.unwrap();
            store = open().await;
        }
        let mut events = Vec::new();
        for second in 1..100 {
            events.push(publish(&store, at(second)).await.unwrap());
            assert_eq!(deliver(&store, at(second)).await, 1);
        }
        for event in &events {
            let found = store.event(event.id()).await.unwrap();
            assert!(found.is_some(), "young, and gone");
            let accept = Accept { event: Arc::clone(event), endpoints: [endpoint()].into() };
            let again = store.accept(vec![accept], at(200)).await.unwrap();
            assert!(again[0].duplicate, "young, and its id forgotten");
        }
    }
}

/// A retry is due by the wall clock: with a clock that goes back it waits, at most until the clock has
/// caught up; a lease of a process that went does not outlive it.
#[tokio::test]
async fn a_clock_that_goes_back_delays_and_loses_nothing() {
    let folder = TempDir::new().unwrap();
    let store = LogStore::builder(folder.path()).open().await.unwrap();
    publish(&store, at(6 * HOUR)).await.unwrap();
    let now = at(6 * HOUR);
    let claim = store.claim(&endpoint(), 9, now, now.after(Duration::from_secs(30))).await.unwrap();
    assert_eq!(claim.leases.len(), 1);
    let until = at(0).after(Duration::from_secs(30));
    let nothing = store.claim(&endpoint(), 9, at(0), until).await.unwrap();
    assert!(nothing.leases.is_empty(), "it is under way");
    drop(store);
    let store = LogStore::builder(folder.path()).open().await.unwrap();
    assert_eq!(
        deliver(&store, at(0)).await,
        1,
        "leases end with the process, whatever the clock says"
    );
}

/// Set in a child process: its folder.
const FOLDER: &str = "POSTRIDER_TEST_FOLDER";

fn skip(name: &str, reason: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{name} skipped in CI: {reason}");
    eprintln!("SKIPPED {name}: {reason}");
    if let Some(log) = std::env::var_os("POSTRIDER_SKIP_LOG") {
        use std::io::Write;
        let mut log = fs::OpenOptions::new().append(true).create(true).open(log).unwrap();
        log.write_all(format!("{name}\t{reason}\n").as_bytes()).unwrap();
    }
}

/// Fills the disk until publishers are refused, opens the store while it is full, makes room, and
/// opens it again.
async fn fill(mounted: &Path) {
    let (folder, filler) = (mounted.join("data"), mounted.join("filler"));
    fs::write(&filler, vec![1; 256 << 10]).unwrap();
    let open = async || LogStore::builder(&folder).segment_bytes(32 << 10).open().await;
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let Ok(store) = open().await else {
            // A full disk may keep it from opening; that it can be read is seen below.
            assert!(round > 0);
            continue;
        };
        let error = loop {
            match publish(&store, START).await {
                Ok(event) => acknowledged.push(event),
                Err(error) => break error,
            }
            assert!(acknowledged.len() < 10_000, "the disk never got full");
        };
        let chain = error.chain();
        assert_eq!(error.kind(), ErrorKind::Store, "{chain}");
        assert!(chain.contains("No space left on device"), "{chain}");
        assert!(chain.contains(folder.to_str().unwrap()), "{chain}");
        assert!(publish(&store, START).await.is_err(), "nothing more is taken");
        assert!(store.close().await.is_err());
    }
    assert!(acknowledged.len() > 20, "{}", acknowledged.len());
    fs::remove_file(&filler).unwrap();
    let store = open().await.unwrap();
    assert!(store.recovery().damaged.is_empty(), "{:?}", store.recovery());
    for event in &acknowledged {
        let found = store.event(event.id()).await.unwrap();
        assert_eq!(found.map(|found| found.event).as_ref(), Some(event));
    }
    publish(&store, START).await.unwrap();
    assert!(deliver(&store, START).await > acknowledged.len());
    store.close().await.unwrap();
}

/// `ENOSPC` on a file system of 512 KiB, mounted in a namespace of the child's own.
#[tokio::test]
async fn a_full_disk() {
    const THIS: &str = "log_store::outside::a_full_disk";
    if let Some(folder) = std::env::var_os(FOLDER) {
        return fill(Path::new(&folder)).await;
    }
    let folder = TempDir::new().unwrap();
    let mount = format!("mount -t tmpfs -o size=512k none \"${FOLDER}\"");
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["-rm", "sh", "-c", script]).env(FOLDER, folder.path());
        command
    };
    if !unshare(&mount).output().is_ok_and(|tried| tried.status.success()) {
        return skip(THIS, "mounting in a user namespace is not allowed here");
    }
    let mut child = unshare(&format!("{mount} && exec \"$0\" \"$@\""));
    let child = child.arg(std::env::current_exe().unwrap()).args(["--exact", THIS, "--nocapture"]);
    let output = child.output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
}
