//! What the tests share: attempts, and a view of what is in a folder.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
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

#[expect(clippy::needless_pass_by_value, reason = "made for one call")]
pub(crate) fn open(settings: Settings) -> FileSink {
    FileSink::new(&settings).unwrap()
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

/// The names in a folder, sorted.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// What is in all files of a folder, finished ones first, in the order of writing.
pub(crate) fn everything(folder: &Path) -> String {
    let mut names = names(folder);
    // `…Z.ndjson` comes before `…Z-1.ndjson`, and the current file, without a stamp, last.
    names.sort_by_key(|name| {
        let stem = name.split('.').next().unwrap().to_owned();
        match stem.split_once("Z-") {
            _ if !stem.contains('Z') => ("~".to_owned(), 0),
            Some((stamp, counter)) => (format!("{stamp}Z"), counter.parse::<u32>().unwrap()),
            None => (stem, 0),
        }
    });
    names.iter().map(|name| read(&folder.join(name))).collect()
}

pub(crate) fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// Set in a child process: which part it plays, and in which folder.
const ROLE: &str = "POSTRIDER_TEST_ROLE";
const FOLDER: &str = "POSTRIDER_TEST_FOLDER";

/// A program that runs the test called `test` of this binary, which finds out by [`child`] that it
/// is the child; `before` are a program and arguments that this binary is handed to, if any.
pub(crate) fn as_child(before: &[&str], test: &str, role: &str, folder: &Path) -> Command {
    let this = std::env::current_exe().unwrap();
    let mut command = match before {
        [] => Command::new(this),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(this);
            command
        }
    };
    command.args(["--exact", test, "--nocapture"]).env(ROLE, role).env(FOLDER, folder);
    command
}

/// The role and folder of a child process; `None` in the test itself.
pub(crate) fn child() -> Option<(String, PathBuf)> {
    Some((std::env::var(ROLE).ok()?, std::env::var_os(FOLDER)?.into()))
}

/// Runs a child to its end, and expects it to succeed.
pub(crate) fn run(mut command: Command) {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    assert!(out.contains("1 passed"), "the child ran no test: {out}");
}
