//! What the tests share: attempts, and a view of what is in a folder.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flate2::read::MultiGzDecoder;
use postrider::Timestamp;
use postrider::clock::{Clock, SystemClock};
use postrider::delivery::{Cause, DeliveryId, Nack, Outcome, Verdict};
use postrider::event::{NewEvent, write_line};
use postrider::sink::{Attempt, Sink};
use postrider_sinks::file::{FileSink, Settings};

/// An attempt with a payload of its own, at `now`.
pub(crate) fn attempt_at(payload: impl std::fmt::Display, now: Timestamp) -> Attempt {
    let payload = format!("{{\"n\":\"{payload}\"}}");
    let event = NewEvent::raw("match", payload).unwrap().seal(&SystemClock, 1 << 24).unwrap();
    let delivery = DeliveryId::new("audit".parse().unwrap(), event.id().clone());
    Attempt::new(delivery, Arc::new(event), 1, now, Duration::from_secs(10))
}

pub(crate) fn attempt(payload: impl std::fmt::Display) -> Attempt {
    attempt_at(payload, SystemClock.now())
}

/// The line that an attempt must become.
pub(crate) fn line(attempt: &Attempt) -> String {
    let mut line = Vec::new();
    write_line(&attempt.event, &mut line);
    String::from_utf8(line).unwrap()
}

pub(crate) fn lines(attempts: &[Attempt]) -> String {
    attempts.iter().map(line).collect()
}

pub(crate) fn open(settings: Settings) -> FileSink {
    FileSink::new(settings).unwrap()
}

pub(crate) fn settings(path: &Path) -> Settings {
    Settings::new(path.to_str().unwrap())
}

/// Delivers, and expects all to be acked.
pub(crate) async fn deliver(sink: &FileSink, batch: &[Attempt]) {
    let outcomes = sink.deliver(batch).await;
    assert_eq!(outcomes.len(), batch.len());
    for outcome in outcomes {
        assert!(outcome.is_ok(), "{outcome:?}");
    }
}

/// The one nack that all outcomes are; it must be retried and name `path`.
pub(crate) fn all_nacked<'a>(outcomes: &'a [Outcome], path: &Path) -> &'a Nack {
    let nack = outcomes[0].as_ref().unwrap_err();
    assert!(outcomes.iter().all(|outcome| outcome.as_ref() == Err(nack)), "{outcomes:?}");
    assert_eq!(nack.verdict(), Verdict::Retry { after: None });
    assert_eq!(nack.cause(), Cause::Io);
    assert!(nack.message().contains(path.to_str().unwrap()), "{}", nack.message());
    nack
}

pub(crate) fn read(path: &Path) -> String {
    if path.extension().is_some_and(|extension| extension == "gz") {
        let mut text = String::new();
        MultiGzDecoder::new(fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
        return text;
    }
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names in a folder, sorted: finished files in the order of writing.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

pub(crate) fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// This test binary, told to run one of its tests that is only there to be a child.
pub(crate) fn child(test: &str, folder: &Path) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(child_arguments(test)).env("POSTRIDER_TEST_CHILD", folder);
    command
}

pub(crate) fn child_arguments(test: &str) -> [&str; 5] {
    ["--exact", test, "--ignored", "--nocapture", "--test-threads=1"]
}

/// The folder that the parent gave; a child's test that was started by hand has none.
pub(crate) fn child_folder() -> Option<PathBuf> {
    std::env::var_os("POSTRIDER_TEST_CHILD").map(PathBuf::from)
}

/// Says that a test could not run here, and fails where that is forbidden.
pub(crate) fn skip(name: &str, reason: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{name} skipped in CI: {reason}");
    eprintln!("SKIPPED {name}: {reason}");
    if let Some(log) = std::env::var_os("POSTRIDER_SKIP_LOG") {
        let mut log = fs::OpenOptions::new().append(true).create(true).open(log).unwrap();
        log.write_all(format!("{name}\t{reason}\n").as_bytes()).unwrap();
    }
}
