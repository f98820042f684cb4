//! Every call to the disk fails in turn, over one workload.

use std::collections::BTreeSet;
use std::io::ErrorKind as Io;

use postrider::ErrorKind;
use postrider::store::Store;
use postrider::testing::Fail;

use super::crash::{is_long, seed};
use super::ledger::{START, Workload, open};

/// What a workload does before it closes the store and opens it again.
const ACTS: usize = 130;

/// A workload that frees its segments, so that it has spares to use again.
fn workload(seed: u64) -> Workload {
    (seed..seed + 1000).map(Workload::new).find(|work| work.frees).expect("every other one does")
}

/// The kind of file, for a list of what was failed.
fn kind_of(call: &str) -> String {
    call.chars().filter(|c| !c.is_ascii_digit()).collect()
}

/// Runs the workload with a disk that fails, counted from its beginning; tells what failed first,
/// `None` where nothing did.
async fn run(seed: u64, fail: Fail) -> Result<Option<String>, String> {
    let mut work = workload(seed);
    let from = work.disk.calls() + fail.from;
    work.disk.fail(Some(Fail { from, ..fail }));
    let mut failed = None;
    for _ in 0..ACTS {
        work.publish();
        if let Err(error) = work.act().await {
            failed = Some(error);
            break;
        }
    }
    let call = work.disk.failed();
    if let Some(error) = failed {
        let (chain, call) = (error.chain(), call.as_deref().unwrap_or("nothing"));
        if error.kind() != ErrorKind::Store || !chain.contains("injected") {
            return Err(format!("{call}: {error:?}"));
        }
        // What was only read may be read again (a read that follows a checkpoint which failed, too);
        // after anything else nothing more is taken.
        let is_usable = work.store.accept(Vec::new(), START).await.is_ok();
        let only_reads = ["read", "size", "open"].iter().any(|what| call.starts_with(what));
        if is_usable && !only_reads && fail.count == 1 {
            return Err(format!("{call}: {chain}, and the store goes on"));
        }
        if !is_usable {
            if !chain.contains("/disk") {
                return Err(format!("{call}: no path in {chain}"));
            }
            let refused = work.act_until_error().await;
            if refused.kind() != ErrorKind::Store || work.store.close().await.is_ok() {
                return Err(format!("{call}: closed well, or {refused:?}"));
            }
        }
    } else {
        // An error of what is derived is not one of publishers.
        let _ = work.store.close().await;
        work.answers().await;
    }
    // Opening it may fail too, and says so; it is no worse afterwards.
    if let Err(error) = open(&work.disk, work.frees)
        && (error.kind() != ErrorKind::Store || !error.chain().contains("/disk"))
    {
        return Err(format!("open: {error:?}"));
    }
    let call = call.or_else(|| work.disk.failed());
    check(&work, fail.from).await?;
    work.disk.fail(None);
    work.reopen(false).await;
    for _ in 0..10 {
        work.act().await.map_err(|error| format!("afterwards: {}", error.chain()))?;
    }
    Ok(call)
}

/// Whatever of the unsynced a crash leaves now, the promises hold.
async fn check(work: &Workload, nth: u64) -> Result<(), String> {
    let image = match nth % 3 {
        0 => work.disk.after_crash(),
        1 => work.disk.durable(),
        _ => work.disk.after_power_cut(nth),
    };
    work.ledger.check(&image).await
}

/// `EIO` or `ENOSPC`, for once or for good, at each call of the workload in turn: writes, syncs,
/// renames, reads, of segments, indexes, checkpoints and spares, while it works and while it is
/// opened. Publishers get an error that names the file, nothing acknowledged is lost, nothing appears
/// that was never published, and the store opens once the cause is gone.
#[tokio::test]
async fn a_failure_of_any_call_loses_nothing() {
    let seed = seed();
    let mut failed = BTreeSet::new();
    let mut calls = 0;
    // A run over every call takes a minute: the usual one takes each fourth, another fourth each time.
    let (first, stride) = if is_long() { (1, 1) } else { (1 + seed % 4, 4) };
    for from in (first..).step_by(stride) {
        let kinds = [Io::Other, Io::StorageFull];
        let mut ways = vec![];
        for (at, kind) in kinds.into_iter().enumerate() {
            for (nth, count) in [1, u64::MAX].into_iter().enumerate() {
                if is_long() || from as usize / 4 % 4 == 2 * at + nth {
                    ways.push(Fail { from, count, kind });
                }
            }
        }
        let mut was_met = false;
        for fail in ways {
            let call = run(seed, fail).await.unwrap_or_else(|why| {
                panic!("POSTRIDER_SEED={seed}, {fail:?}: {why}");
            });
            was_met |= call.is_some();
            failed.extend(call.as_deref().map(kind_of));
        }
        if !was_met {
            break;
        }
        calls = from;
    }
    println!("{calls} calls, each failed in turn: {failed:?}");
    let everywhere: &[&str] = &[
        "create segment.new",
        "write segment.new",
        "sync segment.new",
        "rename to .seg",
        "write .seg",
        "sync .seg",
        "sync folder ",
        "create checkpoint.new",
        "write checkpoint.new",
        "sync checkpoint.new",
        "rename to checkpoint",
    ];
    for call in everywhere.iter().filter(|_| is_long()) {
        assert!(failed.contains(*call), "{call} was not failed: {failed:?}");
    }
    assert!(failed.len() > 5, "{failed:?}");
}
