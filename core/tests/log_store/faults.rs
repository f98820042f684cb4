//! Failing disks and damaged files.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postrider::delivery::Decision;
use postrider::store::log::Sync;
use postrider::store::{Accept, LogStore, Settlement, Store};
use postrider::testing::{Disk, Fail, envelope};
use postrider::{EndpointId, ErrorKind};

use super::crash::{is_long, seed};
use super::ledger::{START, Workload, open};

/// A full disk or a failing one, from every operation on in turn: publishers get a clear error,
/// nothing acknowledged is lost, nothing more is taken until the store is opened again, and that
/// works once the cause is gone.
#[tokio::test]
async fn a_failing_disk_loses_nothing_acknowledged() {
    let seed = seed();
    let rounds = if is_long() { 1000 } else { 100 };
    let mut failures = 0;
    for round in 0..rounds {
        let kind = [io::ErrorKind::StorageFull, io::ErrorKind::Other][round as usize % 2];
        let mut work = Workload::new(seed.wrapping_add(round / 8));
        for _ in 0..round % 20 {
            work.act().await.unwrap();
        }
        let from = work.disk.calls() + 1 + work.rng.u64(0..8);
        work.disk.fail(Some(Fail { from, count: u64::MAX, kind }));
        let mut failed = None;
        for _ in 0..200 {
            if let Err(error) = work.act().await {
                failed = Some(error);
                break;
            }
        }
        if let Some(error) = failed {
            failures += 1;
            assert_eq!(error.kind(), ErrorKind::Store, "{error:?}");
            assert!(error.chain().contains("injected"), "{}", error.chain());
            // After a failed write nothing more is taken; a read that failed, also because a
            // checkpoint had, changes nothing.
            let call = work.disk.failed().unwrap();
            let is_write = ["write 0", "sync 0"].iter().any(|what| call.starts_with(what));
            work.disk.fail(None);
            let is_usable = work.store.accept(Vec::new(), START).await.is_ok();
            assert!(!(is_usable && is_write), "{call}, and the store goes on");
            if !is_usable {
                let refused = work.act_until_error().await;
                assert_eq!(refused.kind(), ErrorKind::Store, "{refused:?}");
                assert!(work.store.close().await.is_err(), "a close cannot make it good");
            }
        }
        work.disk.fail(None);
        let context = |why| format!("seed {seed}, round {round}: {why}");
        let cut = work.disk.after_power_cut(seed.wrapping_add(round));
        work.ledger.check(&work.disk.after_crash()).await.map_err(context).unwrap();
        work.ledger.check(&cut).await.map_err(context).unwrap();
        work.reopen(false).await;
        for _ in 0..20 {
            work.act().await.unwrap();
        }
    }
    assert!(failures > rounds / 2, "{failures} of {rounds} met the failure");
}

/// Fills a disk with some segments of acknowledged events; the last one holds several syncs.
async fn filled() -> Workload {
    let mut seed = seed();
    loop {
        // Those that free their segments are of no use here.
        let mut work = Workload::new(seed);
        seed += 1;
        for _ in 0..400 {
            if work.frees {
                break;
            }
            work.act().await.unwrap();
        }
        let before = work.disk.segments().len();
        for _ in 0..5 {
            work.publish();
            work.answers().await;
            work.store.step(true);
            work.answers().await;
        }
        if before > 3 && work.disk.segments().len() == before {
            return work;
        }
    }
}

/// Flips a bit in the payload of a segment's event, the `nth` that it holds; returns how much it
/// holds.
pub(crate) fn damage_event(disk: &Disk, name: &str, nth: usize) -> u64 {
    let mut held = 0;
    disk.damage(name, |bytes| {
        held = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
        let payloads = bytes.windows(6).enumerate().filter(|(_, found)| *found == b"\"fill\"");
        let (at, _) = payloads.take(nth + 1).last().expect("a segment with events");
        bytes[at] ^= 1;
    });
    held as u64
}

/// A damaged record in the middle is skipped, reported with its place, and everything else served;
/// without the checkpoint too.
#[tokio::test]
async fn damage_is_reported_and_the_rest_served() {
    for (with_checkpoint, last) in [(true, false), (false, false), (false, true)] {
        let work = filled().await;
        let disk = work.disk.after_crash();
        if !with_checkpoint {
            disk.damage("checkpoint", |bytes| bytes[20] ^= 1);
        }
        let segments = disk.segments();
        let name = if last { segments.last().unwrap() } else { &segments[1] };
        let len = damage_event(&disk, name, if last { 0 } else { 2 });
        if with_checkpoint {
            // Read by nobody until a claim or a look needs it.
            work.ledger.check_but(&disk, 40).await.unwrap();
            continue;
        }
        let store = open(&disk, false).unwrap();
        let damaged = &store.recovery().damaged;
        assert_eq!(damaged.len(), 2, "the checkpoint and the record: {damaged:?}");
        assert!(damaged[1].file.ends_with(name), "{damaged:?}");
        assert!(damaged[1].bytes > 0 && damaged[1].offset < len, "{damaged:?}");
        assert!(store.recovery().cut.is_none(), "{:?}", store.recovery());
        drop(store);
        work.ledger.check_but(&disk, 40).await.unwrap();
    }
}

/// A torn end is cut, and said so; what is before it is served, and the log goes on.
#[tokio::test]
async fn a_torn_end_is_cut_and_reported() {
    let work = filled().await;
    let disk = work.disk.after_crash();
    let name = disk.segments().pop().unwrap();
    disk.damage(&name, |bytes| {
        let held = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        bytes[held - 4..=held].fill(0);
    });
    work.ledger.check_but(&disk, 5).await.unwrap();
    let store = open(&disk, false).unwrap();
    let cut = store.recovery().cut.clone().expect("the end was torn");
    assert!(cut.file.ends_with(&name) && cut.bytes > 0, "{cut:?}");
    assert!(store.recovery().damaged.is_empty(), "{:?}", store.recovery());
    store.close().await.unwrap();
    let again = open(&disk, false).unwrap();
    assert_eq!(again.recovery().owed, store.recovery().owed);
}

/// A damaged checkpoint or index costs time, nothing else.
#[tokio::test]
async fn derived_files_may_be_lost() {
    let work = filled().await;
    let check = async |damage: &dyn Fn(&Disk)| {
        let disk = work.disk.after_crash();
        damage(&disk);
        work.ledger.check_but(&disk, 0).await.unwrap();
    };
    check(&|disk| disk.damage("checkpoint", |bytes| bytes.truncate(10))).await;
    for name in work.disk.segments() {
        let index = name.replace(".seg", ".idx");
        if work.disk.has(&index) {
            check(&|disk| disk.damage(&index, |bytes| bytes[9] ^= 1)).await;
        }
    }
    check(&|disk| {
        disk.damage("checkpoint", Vec::clear);
        for name in disk.segments() {
            let index = name.replace(".seg", ".idx");
            if disk.has(&index) {
                disk.damage(&index, Vec::clear);
            }
        }
    })
    .await;
}

/// Waits until what a power cut would leave is as `expect` says.
async fn until_durable(disk: &Disk, expect: impl Fn(&LogStore) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let store = open(&disk.durable(), false).unwrap();
        if expect(&store) {
            return;
        }
        assert!(Instant::now() < deadline, "not durable: {:?}", store.recovery());
        // tidy: allow(sleep): polls a condition with a deadline
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What each durability promises: when an accepted event survives a power cut, and that a settlement
/// does soon, though nobody waits for it.
#[tokio::test]
async fn durability_is_what_it_says() {
    let endpoints: Arc<[EndpointId]> = Arc::new(["a".parse().unwrap()]);
    let accept = || vec![Accept { event: envelope("match", "1"), endpoints: endpoints.clone() }];
    let store = async |disk: &Disk, durability| {
        let builder = LogStore::builder("unused").files(Arc::new(disk.clone()));
        builder.durability(durability).open().await.unwrap()
    };
    let owed = |disk: &Disk| open(disk, false).unwrap().recovery().owed;

    let disk = Disk::default();
    let always = store(&disk, Sync::Always).await;
    for count in 1..20 {
        always.accept(accept(), START).await.unwrap();
        assert_eq!(owed(&disk.durable()), count, "durable when it is acknowledged");
    }
    let claim = always.claim(&endpoints[0], 1, START, START).await.unwrap();
    let lease = &claim.leases[0];
    let settlement = Settlement {
        delivery: lease.delivery.clone(),
        fence: lease.fence,
        attempt: None,
        decision: Decision::Delivered,
    };
    always.settle(&[settlement]).await.unwrap();
    until_durable(&disk, |store| store.recovery().owed == 18).await;

    let disk = Disk::default();
    let batch = store(&disk, Sync::Batch(Duration::from_millis(20))).await;
    batch.accept(accept(), START).await.unwrap();
    assert_eq!(owed(&disk.after_crash()), 1, "the process may crash at once");
    until_durable(&disk, |store| store.recovery().owed == 1).await;

    let disk = Disk::default();
    let os = store(&disk, Sync::Os).await;
    os.accept(accept(), START).await.unwrap();
    assert_eq!(owed(&disk.after_crash()), 1);
    assert_eq!(owed(&disk.durable()), 0, "nobody asked the disk");
    os.close().await.unwrap();
    assert_eq!(owed(&disk.durable()), 1, "a close makes it good");
}

/// A log of a newer major version is left alone, with an error that says so.
#[tokio::test]
async fn a_newer_format_is_refused() {
    let work = filled().await;
    let disk = work.disk.after_crash();
    let name = disk.segments()[0].clone();
    disk.damage(&name, |bytes| {
        bytes[8] = 2;
        let crc = crc32c::crc32c(&bytes[..60]).to_le_bytes();
        bytes[60..64].copy_from_slice(&crc);
    });
    let error = open(&disk, false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store);
    assert!(error.to_string().contains("has format 2"), "{error}");
    let late = START.after(Duration::from_secs(1));
    assert!(work.store.backlog(late).await.is_ok());
}
