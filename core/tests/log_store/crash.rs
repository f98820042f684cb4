//! A crash at every write, sync and change of a name.

use postrider::testing::Disk;

use super::ledger::Workload;

/// The seed of a random test, printed so that a failure can be repeated.
pub(crate) fn seed() -> u64 {
    let seed = std::env::var("POSTRIDER_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    println!("POSTRIDER_SEED={seed}");
    seed
}

pub(crate) fn is_long() -> bool {
    std::env::var_os("POSTRIDER_TEST_LONG").is_some()
}

/// Runs workloads until `points` crash images were held to the promises; fails with the first that
/// breaks one.
async fn crash(points: usize, seed: u64, prepare: impl Fn(&Disk)) -> Result<usize, String> {
    let mut checked = 0;
    let mut acknowledged = 0;
    for round in 0.. {
        let mut work = Workload::new(seed.wrapping_add(round));
        work.disk.take_images(seed.wrapping_add(round));
        prepare(&work.disk);
        for step in 0..120 {
            let before = work.ledger.clone();
            // The promises at the time of a crash: nothing of this step was answered.
            let promises = if work.rng.u8(0..40) == 0 {
                let clean = work.rng.bool();
                work.reopen(clean).await;
                before
            } else {
                work.act().await.unwrap();
                work.ledger.as_before(&before)
            };
            for image in work.disk.taken() {
                let context = |why| format!("seed {seed}, round {round}, step {step}: {why}");
                promises.check(&image).await.map_err(context)?;
                checked += 1;
            }
            if checked >= points {
                acknowledged += work.ledger.acknowledged();
                println!("{checked} crash points, {acknowledged} acknowledged batches");
                return Ok(checked);
            }
        }
        acknowledged += work.ledger.acknowledged();
    }
    unreachable!("the rounds do not end")
}

/// Wherever a crash stops the store, and whatever it leaves of what was not synced: every
/// acknowledged event is there, owed or settled; one that was not acknowledged is there whole or
/// not at all; the same holds for deliveries made again or purged, and for notes; nothing else
/// appears.
#[tokio::test]
async fn a_crash_at_every_write_loses_nothing() {
    let points = if is_long() { 10_000 } else { 600 };
    crash(points, seed(), |_| {}).await.unwrap();
}

/// The test above can fail: with a disk that does not sync, it does.
#[tokio::test]
async fn a_skipped_sync_is_found_out() {
    let broken = crash(20_000, seed(), Disk::skip_syncs).await.expect_err("a lost sync must show");
    println!("{broken}");
    // Which of them comes first depends on the seed; the last is a checkpoint that outlived its log.
    let signs = ["acknowledged", "was purged and is", "is there in part", "looks like damage"];
    assert!(signs.iter().any(|sign| broken.contains(sign)), "{broken}");
}
