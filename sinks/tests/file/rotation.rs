//! Rotation: by size, by day, by the date in the path; what is kept, what is compressed.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use postrider::Timestamp;
use postrider::clock::{Clock, SystemClock};
use postrider::config::ByteSize;
use postrider::sink::{Attempt, Sink};
use postrider_sinks::file::{Rotate, Settings};
use proptest::prelude::*;

use crate::support::{
    attempt, attempt_at, deliver, everything, lines, names, open, read, settings, time,
};

fn by_size() -> Rotate {
    Rotate::default().size(ByteSize(1 << 10))
}

fn gzip(path: &Path, text: &str) {
    let mut encoder = GzEncoder::new(fs::File::create(path).unwrap(), Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap();
}

/// No file is larger than the limit, but for one whose only line is.
#[tokio::test]
async fn by_size_within_a_batch() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    let sink = open(settings(&path).rotate(by_size()));
    let now = time("2026-11-24T10:00:00Z");
    let mut batch: Vec<_> = (0..20).map(|n| attempt_at(format!("{n:0>150}"), now)).collect();
    batch[10] = attempt_at("x".repeat(5000), now);
    deliver(&sink, &batch).await;
    assert_eq!(everything(folder.path()), lines(&batch));
    let found = names(folder.path());
    assert!(found.contains(&"events-2026-11-24T10-00-00Z.ndjson".to_owned()), "{found:?}");
    assert!(found.contains(&"events-2026-11-24T10-00-00Z-1.ndjson".to_owned()), "{found:?}");
    for name in found {
        let text = read(&folder.path().join(&name));
        assert!(text.len() <= 1 << 10 || text.lines().count() == 1, "{name}: {}", text.len());
    }
}

#[tokio::test]
async fn by_day() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    let sink = open(settings(&path).rotate(Rotate::default().daily()));
    let batch: Vec<_> = [
        "2026-11-24T10:00:00Z",
        "2026-11-24T23:59:59.999Z",
        "2026-11-25T00:00:00Z",
        "2026-11-24T23:59:59Z", // The clock jumps back: no rotation.
        "2026-11-25T12:00:00Z",
        "2026-11-28T00:00:01Z",
    ]
    .into_iter()
    .enumerate()
    .map(|(n, at)| attempt_at(n, time(at)))
    .collect();
    for attempt in &batch {
        deliver(&sink, std::slice::from_ref(attempt)).await;
    }
    let check = |name: &str, expect: &[Attempt]| {
        assert_eq!(read(&folder.path().join(name)), lines(expect), "{name}");
    };
    assert_eq!(names(folder.path()).len(), 3);
    check("events-2026-11-25T00-00-00Z.ndjson", &batch[..2]);
    check("events-2026-11-28T00-00-01Z.ndjson", &batch[2..5]);
    check("events.ndjson", &batch[5..]);
}

/// A file that an earlier run left is of the day of its last change.
#[tokio::test]
async fn by_day_across_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    fs::write(&path, "old\n").unwrap();
    let yesterday = std::time::SystemTime::now() - std::time::Duration::from_hours(24);
    fs::File::options().append(true).open(&path).unwrap().set_modified(yesterday).unwrap();
    deliver(&open(settings(&path).rotate(Rotate::default().daily())), &[attempt(1)]).await;
    let found = names(folder.path());
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(read(&folder.path().join(&found[0])), "old\n");
}

#[tokio::test]
async fn by_the_date_in_the_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("%Y/%m/events-%d-%H.ndjson");
    let sink = open(settings(&path).rotate(Rotate::default().compress()));
    let batch = [
        attempt_at(1, time("2026-12-31T22:59:59Z")),
        attempt_at(2, time("2026-12-31T23:00:00Z")),
        attempt_at(3, time("2027-01-01T00:00:00Z")),
    ];
    for attempt in &batch {
        deliver(&sink, std::slice::from_ref(attempt)).await;
    }
    sink.close().await.unwrap();
    let check = |name: &str, expect: &Attempt| {
        assert_eq!(read(&folder.path().join(name)), lines(std::slice::from_ref(expect)), "{name}");
    };
    check("2026/12/events-31-22.ndjson.gz", &batch[0]);
    check("2026/12/events-31-23.ndjson.gz", &batch[1]);
    check("2027/01/events-01-00.ndjson", &batch[2]);
    assert_eq!(names(&folder.path().join("2026/12")).len(), 2);
}

/// The oldest finished files go; what is not ours stays, however alike.
#[tokio::test]
async fn only_our_oldest_are_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    let foreign = [
        "events-2020-01-01.ndjson",
        "events-2020-01-01T00-00-00Z.json",
        "events-backup.ndjson",
        "events.ndjson.1",
        "events.ndjson.gz",
        "other-2020-01-01T00-00-00Z.ndjson",
    ];
    for name in foreign {
        fs::write(folder.path().join(name), name).unwrap();
    }
    fs::write(folder.path().join("events-2020-01-01T00-00-00Z.ndjson"), "ours\n").unwrap();
    gzip(&folder.path().join("events-2020-01-01T00-00-00Z-1.ndjson.gz"), "ours\n");
    let sink = open(settings(&path).rotate(by_size().keep(2)));
    let now = time("2026-11-24T10:00:00Z");
    for n in 0..5 {
        let now = now.after(std::time::Duration::from_secs(n));
        deliver(&sink, &[attempt_at("x".repeat(900), now)]).await;
    }
    sink.close().await.unwrap();
    let mut expect: Vec<_> = foreign.map(str::to_owned).into();
    expect.extend(
        ["events-2026-11-24T10-00-03Z.ndjson", "events-2026-11-24T10-00-04Z.ndjson"]
            .map(String::from),
    );
    expect.push("events.ndjson".into());
    expect.sort();
    assert_eq!(names(folder.path()), expect);
    for name in foreign {
        assert_eq!(fs::read_to_string(folder.path().join(name)).unwrap(), name);
    }
}

#[tokio::test]
async fn dated_files_are_counted_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events-%Y-%m-%d.ndjson");
    let sink = open(settings(&path).rotate(Rotate::default().keep(1).compress()));
    for day in 1..=4 {
        deliver(&sink, &[attempt_at(day, time(&format!("2026-11-0{day}T10:00:00Z")))]).await;
    }
    sink.close().await.unwrap();
    assert_eq!(names(folder.path()), ["events-2026-11-03.ndjson.gz", "events-2026-11-04.ndjson"]);
}

#[tokio::test]
async fn compression_keeps_every_byte() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    let sink = open(settings(&path).rotate(by_size().compress()));
    let batch: Vec<_> = (0..40).map(|n| attempt(format!("{n:0>300}"))).collect();
    for batch in batch.chunks(3) {
        deliver(&sink, batch).await;
    }
    sink.close().await.unwrap();
    let found = names(folder.path());
    assert!(found.len() > 10, "{found:?}");
    let finished: Vec<_> = found.iter().filter(|name| *name != "events.ndjson").collect();
    assert!(
        finished.iter().all(|name| name.contains('Z') && name.contains(".ndjson.gz")),
        "{found:?}"
    );
    assert_eq!(everything(folder.path()), lines(&batch));
}

/// Stopped at each step of a compression, the next run puts things right.
#[tokio::test]
async fn compression_goes_on_after_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    // Before it, in the middle of it, and before the file was removed.
    fs::write(at("events-2026-01-01T00-00-00Z.ndjson"), "1\n").unwrap();
    fs::write(at("events-2026-01-02T00-00-00Z.ndjson"), "2\n").unwrap();
    fs::write(at("events-2026-01-02T00-00-00Z.ndjson.gz.tmp"), "half").unwrap();
    fs::write(at("events-2026-01-03T00-00-00Z.ndjson"), "3\n").unwrap();
    gzip(&at("events-2026-01-03T00-00-00Z.ndjson.gz"), "3\n");
    // Of a file that is gone.
    fs::write(at("events-2025-01-01T00-00-00Z.ndjson.gz.tmp"), "half").unwrap();
    let sink = open(settings(&at("events.ndjson")).rotate(by_size().compress()));
    let batch = [attempt(4)];
    deliver(&sink, &batch).await;
    sink.close().await.unwrap();
    assert_eq!(everything(folder.path()), format!("1\n2\n3\n{}", lines(&batch)));
    assert_eq!(names(folder.path()).len(), 4, "{:?}", names(folder.path()));
}

/// The clock jumps back into a day whose file has been compressed: neither part may be lost.
#[tokio::test]
async fn a_day_that_comes_back_is_kept_beside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events-%Y-%m-%d.ndjson");
    let sink = open(settings(&path).rotate(Rotate::default().compress()));
    let batch: Vec<_> = ["2026-11-24T10:00:00Z", "2026-11-25T10:00:00Z"]
        .into_iter()
        .cycle()
        .take(6)
        .enumerate()
        .map(|(n, at)| attempt_at(n, time(at)))
        .collect();
    for attempt in &batch {
        deliver(&sink, std::slice::from_ref(attempt)).await;
        sink.close().await.unwrap(); // Waits for the compression.
    }
    let found = names(folder.path());
    let text: String = found.iter().map(|name| read(&folder.path().join(name))).collect();
    let mut found: Vec<_> = text.split_inclusive('\n').collect();
    found.sort_unstable();
    let expect = lines(&batch);
    let mut expect: Vec<_> = expect.split_inclusive('\n').collect();
    expect.sort_unstable();
    assert_eq!(found, expect);
}

/// Something that happens to a file.
#[derive(Clone, Debug)]
enum Step {
    /// A batch of lines with payloads of these sizes.
    Write(Vec<usize>),
    /// The clock moves by so many seconds, also backwards.
    Clock(i64),
    /// The program ends and starts again.
    Reopen,
    /// logrotate renames it.
    Rename,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => prop::collection::vec(0..700_usize, 1..8).prop_map(Step::Write),
        2 => (-100_000..200_000_i64).prop_map(Step::Clock),
        1 => Just(Step::Reopen),
        1 => Just(Step::Rename),
    ];
    prop::collection::vec(step, 1..25)
}

fn rotations() -> impl Strategy<Value = (bool, Rotate)> {
    (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(is_dated, size, daily, compress)| {
            let mut rotate = Rotate::default();
            if size {
                rotate = rotate.size(ByteSize(1 << 10));
            }
            if daily {
                rotate = rotate.daily();
            }
            if compress && (is_dated || size || daily) {
                rotate = rotate.compress();
            }
            (is_dated, rotate)
        },
    )
}

/// A seed that is printed, and may be given: `POSTRIDER_SEED=7`.
fn config() -> ProptestConfig {
    let seed = std::env::var("POSTRIDER_SEED").ok().map(|seed| seed.parse().expect("a number"));
    let seed = seed.unwrap_or_else(|| SystemClock.random());
    println!("POSTRIDER_SEED={seed}");
    let is_long = std::env::var_os("POSTRIDER_TEST_LONG").is_some();
    ProptestConfig {
        cases: if is_long { 2000 } else { 64 },
        failure_persistence: None,
        rng_seed: proptest::test_runner::RngSeed::Fixed(seed),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    /// Whatever happens, the files together hold the lines that were sent, each once; with one name
    /// and no outside hand also in the order in which they were sent.
    #[test]
    fn nothing_is_lost_or_doubled((is_dated, rotate) in rotations(), steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let name = if is_dated { "events-%Y-%m-%d.ndjson" } else { "events.ndjson" };
        let settings: Settings = settings(&folder.path().join(name)).rotate(rotate);
        let mut sink = open(settings.clone());
        let mut now = time("2026-11-24T10:00:00Z");
        let (mut sent, mut count, mut renamed) = (Vec::new(), 0, 0);
        let mut current = "nothing yet".to_owned();
        for step in steps {
            match step {
                Step::Write(sizes) => {
                    let batch: Vec<_> = sizes
                        .into_iter()
                        .map(|size| {
                            count += 1;
                            attempt_at(format!("{count:0>size$}"), now)
                        })
                        .collect();
                    runtime.block_on(deliver(&sink, &batch));
                    sent.extend(batch);
                    current = name.replace("%Y-%m-%d", &now.to_string()[..10]);
                }
                Step::Clock(seconds) => {
                    now = Timestamp::from_millis(now.as_millis() + seconds * 1000);
                }
                Step::Reopen => {
                    runtime.block_on(sink.close()).unwrap();
                    drop(sink);
                    sink = open(settings.clone());
                }
                Step::Rename => {
                    // Only the file that is being written: of one that is just compressed there
                    // would be two.
                    let to = folder.path().join(format!("moved.{renamed}"));
                    renamed += usize::from(fs::rename(folder.path().join(&current), to).is_ok());
                }
            }
        }
        runtime.block_on(sink.close()).unwrap();
        // The numbers alone are easier to compare by eye; that lines are whole is checked before.
        let expect = lines(&sent);
        let found = everything(folder.path());
        let whole: BTreeSet<_> = expect.lines().collect();
        for line in found.lines() {
            prop_assert!(whole.contains(line), "not a line that was sent: {}", line);
        }
        let numbers = |text: &str| -> Vec<u32> {
            text.lines().map(|line| line[line.rfind(':').unwrap() + 2..].trim_end_matches("\"}}").parse().unwrap()).collect()
        };
        let (mut found, mut expect) = (numbers(&found), numbers(&expect));
        if is_dated || renamed > 0 {
            found.sort_unstable();
            expect.sort_unstable();
        }
        prop_assert_eq!(found, expect, "{:?}", names(folder.path()));
    }
}
