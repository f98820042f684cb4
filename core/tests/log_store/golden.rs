//! Logs as released versions wrote them: each version goes on opening them and finds the same.
//!
//! A folder below `golden/` is written once, by the version that it is named after, and never again.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postrider::delivery::{AttemptRecord, Cause, DeadReason, Decision};
use postrider::stats::Window;
use postrider::store::{
    Accept, Lease, LogStore, Note, Page, Query, Replayed, Settlement, Store, Target,
};
use postrider::testing::sealed;
use postrider::{EndpointId, NewEvent, Timestamp};
use tempfile::TempDir;

use super::ledger::START;

/// What each log was found to hold when it was written.
const LISTING: &str = "expected.txt";

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/log_store/golden")
}

fn at(seconds: u64) -> Timestamp {
    START.after(Duration::from_secs(seconds))
}

fn id(text: &str) -> EndpointId {
    text.parse().unwrap()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// The kinds of records in the segments of a folder.
fn kinds(folder: &Path) -> BTreeSet<u8> {
    let mut kinds = BTreeSet::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension() != Some("seg".as_ref()) || path.ends_with("spare.seg") {
            continue;
        }
        let bytes = std::fs::read(path).unwrap();
        let mut at = 64;
        // Behind the last record are zeros, or what an earlier life of the file left.
        while let Some(header) = bytes.get(at..at + 10).filter(|h| (1..=10).contains(&h[8])) {
            kinds.insert(header[8]);
            at += 10 + u32::from_le_bytes(header[..4].try_into().unwrap()) as usize;
        }
    }
    kinds
}

/// All that a store tells, in words that do not depend on the program's version.
async fn listing(store: &LogStore) -> String {
    let mut out = String::new();
    let recovery = store.recovery();
    writeln!(out, "owed {} damaged {}", recovery.owed, recovery.damaged.len()).unwrap();
    let mut page = Page::oldest().limit(7);
    loop {
        let found = store.find(&Query::new(), page).await.unwrap();
        for found in found.events {
            let (event, place) = (&found.event, found.place);
            let accepted = found.accepted_at.as_millis();
            let (kind, payload) = (event.event_type().as_str(), event.payload_str());
            writeln!(out, "event {place} {} {kind} accepted {accepted} {payload}", event.id())
                .unwrap();
            let deadline = event.expires_at().map(Timestamp::as_millis);
            let (key, time, attributes) = (event.key(), event.time(), event.attributes());
            let time = time.as_millis();
            writeln!(out, "  key {key:?} time {time} deadline {deadline:?} with {attributes:?}")
                .unwrap();
            let alone = store.event(event.id()).await.unwrap().unwrap();
            for delivery in alone.deliveries {
                let state = serde_json::to_string(&delivery.state).unwrap();
                let attempts = serde_json::to_string(&delivery.attempts).unwrap();
                let made = delivery.attempts_made;
                writeln!(out, "  {} {state} {made} {attempts}", delivery.id).unwrap();
            }
        }
        match found.next {
            None => break,
            next => page = page.after(next),
        }
    }
    let mut lines = Vec::new();
    for dead in store.dead().await.unwrap() {
        let state = serde_json::to_string(&dead.state).unwrap();
        lines.push(format!("dead {} {state} {}", dead.endpoint, dead.count));
    }
    for stats in store.stats().await.unwrap() {
        let (series, endpoint) = (&stats.series, &stats.endpoint);
        let totals = serde_json::to_string(&series.totals()).unwrap();
        let day = series.window(Window::Day, at(1000));
        let day = (day.succeeded, day.failed, day.dead, day.expired);
        let last = series.last_failure().map(|last| (last.at.as_millis(), &*last.message));
        lines.push(format!("stats {endpoint} {totals} day {day:?} last {last:?}"));
    }
    for note in store.notes().await.unwrap() {
        lines.push(format!("note {} {:?}", note.key, note.value));
    }
    lines.sort();
    out + &lines.join("\n") + "\n"
}

/// Opens a copy of a log, with its derived files or without.
async fn list_copy(folder: &Path, with_derived: bool) -> (String, TempDir) {
    let copied = TempDir::new().unwrap();
    copy(folder, copied.path());
    for file in std::fs::read_dir(copied.path()).unwrap() {
        let path = file.unwrap().path();
        let is_derived = path.ends_with("checkpoint") || path.extension() == Some("idx".as_ref());
        if is_derived && !with_derived {
            std::fs::remove_file(path).unwrap();
        }
    }
    let store = LogStore::builder(copied.path()).open().await.unwrap();
    let listed = listing(&store).await;
    store.close().await.unwrap();
    (listed, copied)
}

/// Every log of every version: what it holds is found, and is still found after this version has
/// written to it.
#[tokio::test]
async fn logs_of_every_version_are_read() {
    let mut logs = 0;
    for version in std::fs::read_dir(golden()).unwrap() {
        for log in std::fs::read_dir(version.unwrap().path()).unwrap() {
            let log = log.unwrap().path();
            let expect = std::fs::read_to_string(log.join(LISTING)).unwrap();
            let (found, copied) = list_copy(&log, true).await;
            assert_eq!(found, expect, "{}", log.display());
            let again = list_copy(copied.path(), true).await.0;
            assert_eq!(again, expect, "{} written to by this version", log.display());
            logs += 1;
        }
    }
    assert!(logs >= 2, "{logs}");
}

/// What the records alone tell, which is all but the windows of what was freed.
#[tokio::test]
async fn derived_files_of_every_version_may_be_lost() {
    let events = |listed: &str| -> Vec<String> {
        let lines = listed.lines().filter(|line| !line.starts_with("stats"));
        lines.map(str::to_owned).collect()
    };
    for version in std::fs::read_dir(golden()).unwrap() {
        for log in std::fs::read_dir(version.unwrap().path()).unwrap() {
            let log = log.unwrap().path();
            let expect = std::fs::read_to_string(log.join(LISTING)).unwrap();
            let found = list_copy(&log, false).await.0;
            assert_eq!(events(&found), events(&expect), "{}", log.display());
        }
    }
}

/// The newest logs hold each kind of record.
#[test]
fn each_kind_of_record_is_there() {
    assert_eq!(kinds(&golden().join("1.1/closed")), (1..=10).collect());
}

fn settlement(lease: &Lease, decision: Decision, now: Timestamp) -> Settlement {
    let attempt = AttemptRecord {
        number: lease.attempts + 1,
        at: now,
        took_ms: 12,
        cause: (decision != Decision::Delivered).then_some(Cause::Status),
        message: if decision == Decision::Delivered { String::new() } else { "no".to_owned() },
        status: Some(if decision == Decision::Delivered { 200 } else { 503 }),
        answer: "answer".to_owned(),
    };
    let attempt = (decision != Decision::Expired).then_some(attempt);
    Settlement { delivery: lease.delivery.clone(), fence: lease.fence, attempt, decision }
}

/// Claims all that is due for an endpoint and settles it as `decide` says of each.
async fn work(
    store: &LogStore,
    endpoint: &str,
    now: Timestamp,
    decide: impl Fn(usize) -> Decision,
) {
    let until = now.after(Duration::from_secs(5));
    let claim = store.claim(&id(endpoint), 100, now, until).await.unwrap();
    let settled = claim.leases.iter().enumerate();
    let settled: Vec<Settlement> =
        settled.map(|(at, lease)| settlement(lease, decide(at), now)).collect();
    store.settle(&settled).await.unwrap();
}

/// Writes the logs of this version. To be run once, when the format gets a new version:
/// `cargo nextest run -p postrider --test log_store --run-ignored only -E 'test(write_golden)'`
#[tokio::test]
#[ignore = "writes into the repository, once for each version of the format"]
async fn write_golden() {
    let version = golden().join("1.1");
    assert!(!version.exists(), "{} is there and stays as it is", version.display());
    let folder = TempDir::new().unwrap();
    let open = || {
        let builder = LogStore::builder(folder.path()).segment_bytes(16 << 10);
        builder.retention(Duration::ZERO).dedup_window(Duration::ZERO).open()
    };
    let save = async |name: &str| {
        let to = version.join(name);
        copy(folder.path(), &to);
        for spare in ["lock", "spare.seg"] {
            let _ = std::fs::remove_file(to.join(spare));
        }
        let expect = list_copy(&to, true).await.0;
        std::fs::write(to.join(LISTING), expect).unwrap();
    };
    let mut store = open().await.unwrap();
    store.keep(Note::new("kept", "from the beginning").unwrap()).await.unwrap();
    let kinds = ["match", "model.uploaded", "model.removed"];
    let decisions = [
        Decision::Delivered,
        Decision::Dead(DeadReason::Exhausted),
        Decision::Dead(DeadReason::Rejected),
        Decision::Dead(DeadReason::Gone),
        Decision::Expired,
        Decision::RetryAt(at(5000)),
    ];
    for n in 0..60_u64 {
        let fill = "x".repeat(700);
        let new =
            NewEvent::raw(kinds[n as usize % 3], format!("{{\"n\":{n},\"fill\":\"{fill}\"}}"));
        let mut new = new.unwrap();
        if n % 7 == 0 {
            let own = format!("own/{n}").parse().unwrap();
            new = new.id(own).key("k").time(at(n / 2)).expires_at(at(9000)).attribute("a", "1");
        }
        // Some go to one that is down, some to nobody.
        let endpoints: Vec<EndpointId> = match n % 10 {
            0 | 1 => vec![id("up"), id("mixed"), id("down")],
            2 => vec![],
            3 => vec![id("mixed"), id("up")],
            _ => vec![id("up")],
        };
        let event = sealed(new);
        store.accept(vec![Accept { event, endpoints: endpoints.into() }], at(n)).await.unwrap();
        work(&store, "up", at(n), |_| Decision::Delivered).await;
        if n % 15 == 14 {
            work(&store, "mixed", at(n), |at| decisions[at % 6]).await;
            if n < 20 {
                work(&store, "down", at(n), |_| Decision::RetryAt(at(0))).await;
            }
            // Some are sent again: to whom they had gone, and to one that never got them.
            let dead = Query::new().endpoint(id("mixed")).reason(DeadReason::Rejected);
            let dead = store.find(&dead, Page::oldest()).await.unwrap().events;
            let owed = Query::new().endpoint(id("down"));
            let owed = store.find(&owed, Page::oldest().limit(1)).await.unwrap().events;
            let targets: Vec<Target> = (dead.iter().map(|event| Target::new(event, id("mixed"))))
                .chain(owed.iter().map(|event| Target::new(event, id("new"))))
                .collect();
            let note = Note::new("job", format!("{n}")).unwrap();
            let made = store.replay(&targets, Some(note), at(n)).await.unwrap();
            assert!(made.iter().any(|made| matches!(made, Replayed::Made(_))), "{made:?}");
            let gone = Query::new().endpoint(id("mixed")).reason(DeadReason::Gone);
            let gone = store.find(&gone, Page::oldest()).await.unwrap().events;
            let gone: Vec<Target> =
                gone.iter().map(|event| Target::new(event, id("mixed"))).collect();
            store.purge(&gone, at(n)).await.unwrap();
            store.close().await.unwrap();
            store = open().await.unwrap();
        }
    }
    work(&store, "mixed", at(60), |at| decisions[at % 6]).await;
    store.keep(Note::removed("job")).await.unwrap();
    store.keep(Note::new("late", "at the end").unwrap()).await.unwrap();
    save("crashed").await;
    store.close().await.unwrap();
    save("closed").await;
}
