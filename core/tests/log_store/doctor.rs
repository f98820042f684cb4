//! The doctor: what a crash leaves is healthy to it, it finds what is damaged, and what it salvages
//! is whole.

use std::collections::BTreeSet;
use std::sync::Arc;

use fastrand::Rng;
use postrider::delivery::{DeliveryId, State};
use postrider::store::EventRecord;
use postrider::store::log::Files;
use postrider::store::log::doctor::{Doctor, Problem, Report, Salvage, Severity};
use postrider::testing::Disk;

use super::crash::{is_long, seed};
use super::ledger::{Workload, open};

fn examine(disk: &Disk) -> Report {
    Doctor::of(Arc::new(disk.clone())).examine().unwrap()
}

fn repair(disk: &Disk) -> (Salvage, Disk) {
    let into = Disk::default();
    let files: Arc<dyn Files> = Arc::new(into.clone());
    let salvage = Doctor::of(Arc::new(disk.clone())).repair_to(&files).unwrap();
    (salvage, into)
}

fn problems(report: &Report, severity: Severity) -> Vec<String> {
    let of = report.problems.iter().filter(|problem| problem.severity == severity);
    of.map(|problem| format!("{}: {}", problem.file.display(), problem.what)).collect()
}

/// A store that has been at work, with reopenings between.
async fn worked(seed: u64, steps: usize) -> Workload {
    let mut work = Workload::new(seed);
    for _ in 0..steps {
        if work.rng.u8(0..60) == 0 {
            let clean = work.rng.bool();
            work.reopen(clean).await;
        } else {
            work.act().await.unwrap();
        }
    }
    work
}

/// Whatever a crash leaves, wherever it stops the store: no damage, nothing changed by looking, and
/// as many deliveries owed as the store itself finds.
#[tokio::test]
async fn what_a_crash_leaves_is_healthy() {
    let seed = seed();
    let (mut torn, mut images) = (0, 0);
    for round in 0..if is_long() { 200 } else { 4 } {
        let mut work = Workload::new(seed.wrapping_add(round));
        work.disk.take_images(seed.wrapping_add(round));
        for _ in 0..120 {
            if work.rng.u8(0..40) == 0 {
                let clean = work.rng.bool();
                work.reopen(clean).await;
            } else {
                work.act().await.unwrap();
            }
            for image in work.disk.taken() {
                // One of the first ones may be of before there was a file.
                if image.segments().is_empty() {
                    continue;
                }
                let before = image.contents();
                let report = examine(&image);
                let context = format!("seed {seed}, round {round}: {:?}", report.problems);
                assert!(!report.is_damaged(), "{context}");
                assert!(image.contents() == before, "looking changed something: {context}");
                let store = open(&image, work.frees).unwrap();
                let owed: u64 = report.owed.iter().map(|owed| owed.fresh + owed.tried).sum();
                assert_eq!(owed, store.recovery().owed, "{context}");
                assert!(report.owed.iter().all(|owed| owed.lost == 0), "{context}");
                torn += usize::from(!problems(&report, Severity::Torn).is_empty());
                images += 1;
            }
        }
    }
    println!("{images} images, {torn} torn");
    assert!(images > 200 && torn > 3, "{images} images, {torn} torn");
}

/// What `salvage` says of a damaged image is so: beside what it lists, the new folder holds
/// everything that the image held before.
async fn check_salvage(work: &Workload, whole: &Disk, salvage: &Salvage, into: &Disk) {
    let before = work.ledger.seen(whole).await;
    let recovery = open(into, work.frees).unwrap().recovery().clone();
    assert!(recovery.damaged.is_empty() && recovery.cut.is_none(), "{recovery:?}");
    let after = work.ledger.seen(into).await;
    for (id, after) in &after {
        // Where a settled event was copied to may be forgotten, until the copies around it are lost.
        let is_settled = || {
            after.as_ref().is_ok_and(|found| found.deliveries.iter().all(|d| d.state.is_final()))
        };
        assert!(before.contains_key(id) || is_settled(), "{id} appeared: {after:?}");
    }
    let mut missing = 0;
    let listed: Vec<_> = salvage.lost.iter().flat_map(|problem| &problem.ids).collect();
    for (id, before) in before {
        let before = before.unwrap();
        let after = match after.get(&id) {
            None => {
                missing += 1;
                continue;
            }
            // The checkpoint knows that a delivery was settled, and the record is lost.
            Some(Err(error)) => {
                assert!(error.chain().contains("settled a delivery is damaged"), "{error:?}");
                continue;
            }
            Some(Ok(after)) => after,
        };
        assert!(!listed.contains(&&id), "{id} is listed as lost and is there");
        assert_eq!((&after.event, after.accepted_at), (&before.event, before.accepted_at));
        let made = |found: &EventRecord| found.deliveries.iter().map(|d| d.id.clone()).collect();
        let (ids_after, ids_before): (BTreeSet<DeliveryId>, BTreeSet<_>) =
            (made(after), made(&before));
        // The name of an endpoint may be lost with the record that tells it.
        let is_nameless = |id: &DeliveryId| id.endpoint().as_str().starts_with("lost");
        let has_nameless = ids_after.iter().any(is_nameless);
        let is_known = |id: &DeliveryId| is_nameless(id) || ids_before.contains(id);
        assert!(ids_after.iter().all(is_known), "{ids_after:?}, {ids_before:?}");
        for before in &before.deliveries {
            let Some(after) = after.deliveries.iter().find(|after| after.id == before.id) else {
                // The record that made it again is lost, and so is what came of it; or what came of it
                // before it was made again.
                let is_again = after.deliveries.iter().any(|after| {
                    after.id.endpoint() == before.id.endpoint() && after.id.run() > before.id.run()
                });
                assert!(before.id.run() > 0 || is_again || has_nameless, "{}", before.id);
                assert!(!salvage.lost.is_empty(), "{}", before.id);
                continue;
            };
            let is_waiting = |state: &State| matches!(state, State::Waiting { .. });
            // The checkpoint knows later times, of leases that ran out.
            let same = after.state == before.state
                || is_waiting(&after.state) && is_waiting(&before.state)
                // That it was set aside is lost.
                || before.state == State::Purged
                    && matches!(after.state, State::Dead { .. } | State::Expired);
            assert!(same || salvage.repeats, "{}: {:?}, {:?}", after.id, after.state, before.state);
            assert!(same || !after.state.is_final(), "{}: {:?}", after.id, after.state);
            assert!(after.attempts_made <= before.attempts_made, "{}", after.id);
        }
    }
    let told = salvage.found.events_lost;
    // Where segments are freed, the ledger does not know of every event that is still there, and of
    // one that was copied forward and settled, nothing else may tell.
    // Of the end of the log nothing may tell how much it was.
    let last = into.segments().pop().unwrap();
    let is_end = |problem: &&Problem| {
        problem.severity == Severity::Torn || problem.file.ends_with(&last) || problem.offset == 0
    };
    let is_end = salvage.lost.iter().rfind(is_end).is_some();
    let is_told = missing == told || missing > told && is_end || work.frees;
    assert!(is_told, "{missing}, {told}: {:?}", salvage.lost);
    assert_eq!(salvage.saved.events_lost, 0);
}

/// A flipped bit anywhere, or a stretch of zeros or garbage: either it is found, and everything but
/// what is listed is salvaged; or everything is there as before.
#[tokio::test]
async fn any_damage_is_found_or_harmless() {
    damage(seed()).await;
}

/// Definitions of types are lost before others in a log without index: what followed got wrong types.
#[tokio::test]
async fn damage_with_a_past() {
    damage(1_705_535_383).await;
}

async fn damage(seed: u64) {
    let (mut found, mut lost, mut ids) = (0, 0, 0);
    let rounds = if is_long() { 3000 } else { 60 };
    let mut work = worked(seed, 300).await;
    for round in 0..rounds {
        let context = format!("seed {seed}, round {round}");
        let mut rng = Rng::with_seed(seed.wrapping_add(round));
        if round % 10 == 9 {
            work = worked(seed.wrapping_add(round), rng.usize(50..400)).await;
        }
        let whole = work.disk.after_crash();
        if whole.segments().is_empty() {
            continue;
        }
        let image = whole.after_crash();
        let names: Vec<(String, Vec<u8>)> =
            image.contents().into_iter().filter(|(_, bytes)| !bytes.is_empty()).collect();
        let (name, bytes) = &names[rng.usize(0..names.len())];
        // Most of it where there is something.
        let held = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
        let at = if rng.u8(0..8) == 0 { rng.usize(0..bytes.len()) } else { rng.usize(0..held) };
        let len = rng.usize(1..400).min(bytes.len() - at);
        let is_flip = rng.u8(0..3) > 0;
        image.damage(name, |bytes| match (is_flip, rng.u8(0..3)) {
            (true, _) => bytes[at] ^= 1 << rng.u8(0..8),
            (_, 0) => bytes[at..at + len].fill(0),
            (_, 1) => bytes[at..at + len].fill_with(|| rng.u8(..)),
            _ => bytes.truncate(at),
        });
        let context = format!("{context}: {name} at {at}, flip: {is_flip}, {len}");
        println!("{context}");
        let before = image.contents();
        let (salvage, into) = repair(&image);
        assert!(image.contents() == before, "{context}: the old folder was changed");
        if salvage.found.is_damaged() {
            found += 1;
            check_salvage(&work, &whole, &salvage, &into).await;
            lost += salvage.found.events_lost;
            ids += salvage.lost.iter().map(|problem| problem.ids.len()).sum::<usize>();
        } else if salvage.found.problems.iter().all(|p| p.severity == Severity::Leftover) {
            let (now, before) = (work.ledger.seen(&image).await, work.ledger.seen(&whole).await);
            assert_eq!(format!("{now:?}"), format!("{before:?}"), "{context}");
        }
    }
    println!("{found} of {rounds} damaged, {lost} events lost, {ids} ids known");
    assert!(found > rounds / 4 && lost > 0 && ids > 0, "{found} found, {lost} lost, {ids} ids");
}

/// Segments of acknowledged events, with a checkpoint and a closed end, that nothing was freed of.
async fn filled() -> Workload {
    let mut seed = seed();
    loop {
        let mut work = worked(seed, 350).await;
        seed = seed.wrapping_add(1);
        if !work.frees && work.disk.segments().len() > 3 {
            work.reopen(true).await;
            return work;
        }
    }
}

/// Each kind of damage is told for what it is, and salvaged.
#[tokio::test]
async fn each_kind_of_damage_is_told() {
    let work = filled().await;
    let whole = work.disk.after_crash();
    let segments = whole.segments();
    let (second, last) = (segments[1].as_str(), segments.last().unwrap().as_str());
    let damage = |damage: &dyn Fn(&Disk), expect: &[&str]| {
        let image = whole.after_crash();
        damage(&image);
        let (salvage, into) = repair(&image);
        let told = problems(&salvage.found, Severity::Damage);
        for expect in expect {
            assert!(told.iter().any(|told| told.contains(expect)), "{expect}: {told:?}");
        }
        (salvage, into)
    };
    let flip = |name: &str, bit: usize| {
        let name = name.to_owned();
        move |disk: &Disk| disk.damage(&name, |bytes| bytes[bit / 8] ^= 1 << (bit % 8))
    };

    // Two bits of a header: nothing is lost.
    let twice = |disk: &Disk| {
        flip(second, 24 * 8)(disk);
        flip(second, 47 * 8 + 3)(disk);
    };
    let (salvage, into) = damage(&twice, &["bits of its header are wrong"]);
    assert_eq!(salvage.found.events_lost, 0);
    check_salvage(&work, &whole, &salvage, &into).await;

    // A header of zeros: the segment is lost, and only it.
    let zeros = |disk: &Disk| disk.damage(second, |bytes| bytes[..64].fill(0));
    let (salvage, into) = damage(&zeros, &["is not a segment of this log"]);
    assert!(salvage.found.events_lost > 0);
    check_salvage(&work, &whole, &salvage, &into).await;

    let (salvage, into) = damage(&|disk| disk.lose(second), &["a segment file is missing"]);
    assert!(salvage.found.events_lost > 0);
    check_salvage(&work, &whole, &salvage, &into).await;

    // Its events are older than any that is left: what tells is that some are owed.
    let (salvage, into) =
        damage(&|disk| disk.lose(&segments[0]), &["the oldest segment files are missing"]);
    assert!(salvage.deliveries_lost > 0);
    let recovery = open(&into, false).unwrap().recovery().clone();
    assert!(recovery.checkpoint && recovery.damaged.is_empty(), "{recovery:?}");

    let (salvage, into) =
        damage(&flip("checkpoint", 300), &["the checkpoint is damaged; the whole log"]);
    assert_eq!(salvage.found.events_lost, 0);
    check_salvage(&work, &whole, &salvage, &into).await;

    // The checkpoint tells that the log was longer.
    let cut = |disk: &Disk| disk.damage(last, |bytes| bytes.truncate(64));
    let (salvage, into) = damage(&cut, &["the checkpoint tells of more than its segment holds"]);
    check_salvage(&work, &whole, &salvage, &into).await;

    // An index that is not whole is made again, and no damage.
    let image = whole.after_crash();
    flip(&second.replace("seg", "idx"), 100)(&image);
    let report = examine(&image);
    assert!(!report.is_damaged(), "{report:?}");
    assert!(problems(&report, Severity::Torn)[0].contains("the index is not whole"), "{report:?}");

    // Files that were being made.
    let image = whole.after_crash();
    image.open("segment.new", true).unwrap().write_at(b"half", 0).unwrap();
    let report = examine(&image);
    assert!(!report.is_damaged(), "{report:?}");
    assert!(problems(&report, Severity::Leftover)[0].contains("opening removes it"), "{report:?}");
    assert!(image.contents().contains_key("segment.new"));
}

/// Where the definition of a type is lost, no event of the segment gets another type's name: of
/// those whose type is known no more, none is served.
#[tokio::test]
async fn a_lost_type_name_turns_no_event_into_another() {
    let mut work = Workload::new(1);
    while work.disk.segments().is_empty() || work.ledger.acknowledged() < 20 {
        work.act().await.unwrap();
    }
    let whole = work.disk.after_crash();
    let name = whole.segments()[0].clone();
    for kind in ["match", "model.uploaded", "upload"] {
        let image = whole.after_crash();
        // The first place where it stands is its definition.
        let at = image.contents()[&name].windows(kind.len()).position(|w| w == kind.as_bytes());
        image.damage(&name, |bytes| bytes[at.unwrap()] ^= 1);
        let before = work.ledger.seen(&whole).await;
        for disk in [image.clone(), repair(&image).1] {
            let mut same = 0;
            for (id, after) in work.ledger.seen(&disk).await {
                if let Ok(after) = after {
                    assert_eq!(after.event, before[&id].as_ref().unwrap().event, "{id}");
                    same += 1;
                }
            }
            assert!(same > 0, "{kind}: nothing is left");
        }
    }
}
