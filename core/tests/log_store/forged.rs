//! Files that lie about each other: checksums are right, as only somebody who writes them on purpose
//! makes them. Such a log is served or refused; what it accepts from then on is there when it is opened
//! again.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, poll};
use postrider::delivery::State;
use postrider::event::EventId;
use postrider::store::log::fuzz;
use postrider::store::{Accept, LogStore, Store};
use postrider::testing::{Disk, envelope};

use super::crafted::{EVENT, SETTLE, event, log};
use super::ledger::{START, Workload, open};

/// Accepts an event for "a" and returns its id.
async fn accept(store: &LogStore) -> EventId {
    let event = envelope("match", "\"accepted\"");
    let accept = Accept { event: Arc::clone(&event), endpoints: ["a".parse().unwrap()].into() };
    let mut accepting = Box::pin(store.accept(vec![accept], START));
    assert!(poll!(&mut accepting).is_pending());
    store.step(true);
    accepting.now_or_never().expect("it was synced").unwrap();
    event.id().clone()
}

/// A log of several segments that was closed.
async fn closed() -> Disk {
    let mut work = Workload::new(5);
    while work.disk.segments().len() < 3 {
        work.act().await.unwrap();
    }
    work.store.close().await.unwrap();
    work.disk.after_crash()
}

fn change(disk: &Disk, name: &str, at: usize, change: impl FnOnce(u64) -> u64) {
    disk.damage(name, |bytes| {
        let number = bytes[at..].first_chunk_mut::<8>().unwrap();
        *number = change(u64::from_le_bytes(*number)).to_le_bytes();
        fuzz::seal(name, bytes);
    });
}

/// The numbers of events in headers and in the checkpoint, each of which says what the others say.
#[tokio::test]
async fn what_a_forged_log_accepts_stays() {
    /// Where the first number of a segment is in its header, and the next one in a checkpoint.
    const NUMBER: usize = 32;
    const FAR: u64 = 1 << 20;
    type Forge = fn(&Disk, first: &str, last: &str);
    let cases: [(&str, Forge); 7] = [
        ("the last segment begins with 0", |disk, _, last| change(disk, last, NUMBER, |_| 0)),
        ("it begins one later", |disk, _, last| change(disk, last, NUMBER, |base| base + 1)),
        ("it begins far ahead", |disk, _, last| change(disk, last, NUMBER, |base| base + FAR)),
        ("the first one does", |disk, first, _| change(disk, first, NUMBER, |base| base + FAR)),
        ("the next event is 0", |disk, _, _| change(disk, "checkpoint", NUMBER, |_| 0)),
        ("it is one more", |disk, _, _| change(disk, "checkpoint", NUMBER, |next| next + 1)),
        ("it is far ahead", |disk, _, _| change(disk, "checkpoint", NUMBER, |next| next + FAR)),
    ];
    let closed = closed().await;
    let names = closed.segments();
    let (first, last) = (&names[0], names.last().unwrap());
    for (what, forge) in cases {
        for (opens_with, reopens_with) in [(true, true), (true, false), (false, true)] {
            let disk = closed.after_crash();
            forge(&disk, first, last);
            if !opens_with {
                disk.lose("checkpoint");
            }
            let store = open(&disk, false).unwrap();
            let id = accept(&store).await;
            store.close().await.unwrap();
            if !reopens_with {
                disk.lose("checkpoint");
            }
            let what = format!("{what}, checkpoints: {opens_with}, {reopens_with}");
            let store = open(&disk, false).unwrap();
            assert!(store.event(&id).await.unwrap().is_some(), "{what}: it is not found");
            let late = START.after(Duration::from_secs(1_000_000));
            let claim = store.claim(&"a".parse().unwrap(), 100_000, late, late).await.unwrap();
            let is_claimed = claim.leases.iter().any(|lease| *lease.event.id() == id);
            assert!(is_claimed, "{what}: it is not claimed");
        }
    }
}

/// Where the record of the last event is damaged, what is told of it must not become the fate of the
/// next, which gets its number.
#[tokio::test]
async fn what_is_told_of_an_event_to_come_is_not_its_fate() {
    let is_dead = vec![2, 0, 1, 4, 0];
    let disk = log(&[(EVENT, event(0, &[0])), (SETTLE, is_dead)]).await;
    let store = open(&disk, false).unwrap();
    let id = accept(&store).await;
    assert_eq!(store.dead().await.unwrap(), []);
    let delivery = &store.event(&id).await.unwrap().unwrap().deliveries[0];
    assert!(matches!(delivery.state, State::Waiting { .. }), "{delivery:?}");
}
