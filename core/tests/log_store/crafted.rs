//! Records whose checksums are right and whose numbers are absurd: no damage makes them, whoever
//! writes files on purpose does. They are refused or ignored; nothing panics or takes memory without
//! bound.

use std::sync::Arc;
use std::time::Duration;

use postrider::delivery::{AttemptRecord, Decision};
use postrider::store::log::doctor::Doctor;
use postrider::store::log::{Files, fuzz};
use postrider::store::{Settlement, Store};

use postrider::testing::Disk;

use super::ledger::{START, Workload, open};

const NAME: u8 = 1;
pub(super) const EVENT: u8 = 2;
pub(super) const SETTLE: u8 = 3;
const MOVED: u8 = 4;
const MARK: u8 = 5;

fn var(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn signed(out: &mut Vec<u8>, value: i64) {
    var(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// The body of an event with one-byte everything, for `targets`.
pub(super) fn event(number: i64, targets: &[u64]) -> Vec<u8> {
    let mut body = vec![0];
    signed(&mut body, number);
    signed(&mut body, 0);
    body.extend(b"\x01x");
    var(&mut body, 0);
    var(&mut body, targets.len() as u64);
    for target in targets {
        var(&mut body, *target);
    }
    body.extend(b"{}");
    body
}

fn settle(event: i64, target: u64, attempts: u64) -> Vec<u8> {
    let mut body = Vec::new();
    signed(&mut body, event);
    var(&mut body, target);
    var(&mut body, attempts);
    body.extend([1, 0, 0]);
    body
}

fn moved(target: u64, event: &[u8]) -> Vec<u8> {
    let mut deliveries = vec![1];
    var(&mut deliveries, target);
    deliveries.extend([255, 0, 0]);
    let mut body = vec![0];
    var(&mut body, deliveries.len() as u64);
    [body, deliveries, event.to_vec()].concat()
}

fn named(number: u64) -> Vec<u8> {
    let mut body = vec![0];
    var(&mut body, number);
    body.push(b'a');
    body
}

/// A log of one segment with these records.
pub(super) async fn log(records: &[(u8, Vec<u8>)]) -> Disk {
    let mut work = Workload::new(3);
    while work.disk.segments().is_empty() {
        work.act().await.unwrap();
    }
    let disk = work.disk.after_crash();
    disk.damage("0000000001.seg", |bytes| {
        bytes.truncate(64);
        for (kind, body) in [(NAME, named(0)), (NAME, b"\x01match".to_vec())].iter().chain(records)
        {
            bytes.extend((body.len() as u32).to_le_bytes());
            bytes.extend([0, 0, 0, 0, *kind, 0]);
            bytes.extend(body);
        }
        fuzz::seal("0000000001.seg", bytes);
        bytes.resize(bytes.len() + 100, 0);
    });
    disk
}

#[tokio::test]
async fn absurd_numbers_break_nothing() {
    let many: Vec<u64> = (1..900).map(|n| n * 60_000).collect();
    let cases = [
        ("the last event number there is", vec![(EVENT, event(-1, &[0]))]),
        ("an event number far ahead", vec![(EVENT, event(1 << 40, &[0]))]),
        ("an endpoint without end", vec![(EVENT, event(0, &[u64::from(u32::MAX)]))]),
        ("endpoints each far from the one before", vec![(EVENT, event(0, &many))]),
        ("a name far ahead", vec![(NAME, named(u64::from(u32::MAX)))]),
        (
            "a copy for an endpoint without end",
            vec![(EVENT, event(0, &[0])), (MOVED, moved(u64::from(u32::MAX), &event(0, &[0])))],
        ),
        ("a copy of the last event there is", vec![(MOVED, moved(0, &event(-1, &[0])))]),
        (
            "attempts without end",
            vec![(EVENT, event(0, &[0])), (SETTLE, settle(0, 0, u64::from(u32::MAX)))],
        ),
        ("the last epoch there is", vec![(MARK, vec![255; 4]), (EVENT, event(0, &[0]))]),
    ];
    for (what, records) in cases {
        let disk = log(&records).await;
        // It says what it thinks of it; what it salvages opens.
        let doctor = Doctor::of(Arc::new(disk.clone()));
        doctor.examine().unwrap_or_else(|error| panic!("{what}: {error:?}"));
        let into = Disk::default();
        let _ = doctor.repair_to(&(Arc::new(into) as Arc<dyn Files>));

        let late = START.after(Duration::from_secs(1_000_000));
        for _ in 0..2 {
            let store = open(&disk, false).unwrap();
            for owed in store.backlog(late).await.unwrap() {
                let claim = store.claim(&owed.endpoint, 10, late, late).await.unwrap();
                let settle = claim.leases.into_iter().map(|lease| Settlement {
                    delivery: lease.delivery,
                    fence: lease.fence,
                    attempt: Some(AttemptRecord {
                        number: 1,
                        at: late,
                        took_ms: 1,
                        cause: None,
                        status: None,
                        message: String::new(),
                        answer: String::new(),
                    }),
                    decision: Decision::RetryAt(late),
                });
                store.settle(&settle.collect::<Vec<_>>()).await.unwrap();
            }
            let lanes = store.backlog(late).await.unwrap().len();
            assert!(lanes <= 900, "{what}: {lanes} endpoints are owed something");
            store.close().await.unwrap();
        }
    }
}
