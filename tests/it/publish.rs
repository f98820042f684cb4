//! `postrider publish`: what it says of many events, at its limits, and into a closed pipe.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;

use postrider_tests::{Ran, postrider, run};

fn folder(toml: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("postrider.toml"), toml).unwrap();
    dir
}

fn ran(dir: &Path, args: &[&str]) -> Ran {
    run(&mut postrider(dir, args))
}

/// A port of this machine where nobody listens.
fn refused() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn one_attempt(port: u16) -> String {
    format!(
        "[[endpoints]]\nname = 'a'\nurl = 'http://127.0.0.1:{port}/'\nretry = {{ schedule = [] }}\n\
         [network]\nallow = ['127.0.0.0/8']\n"
    )
}

fn lines(count: usize, payload_bytes: usize) -> String {
    let mut lines = String::new();
    let payload = "x".repeat(payload_bytes);
    for number in 0..count {
        writeln!(lines, r#"{{"type":"match","data":{{"n":{number},"x":"{payload}"}}}}"#).unwrap();
    }
    lines
}

/// Settled events make room for later ones of the same command; a delivery that was given up and
/// whose record had gone was then counted as delivered, with exit code 0.
#[test]
fn what_was_given_up_is_never_told_as_delivered() {
    let dir = folder(&format!(
        "{}[bus]\nbatch_events_max = 1\nwhen_full = 'wait'\nmemory = {{ events_max = 1 }}\n",
        one_attempt(refused())
    ));
    fs::write(dir.path().join("events.ndjson"), lines(10, 1)).unwrap();
    let published = ran(dir.path(), &["publish", "--file", "events.ndjson", "--json"]);
    assert_eq!(published.code, Some(1), "{published:?}");
    assert!(!published.stdout.contains(r#""state":"delivered""#), "{published:?}");
}

/// Events are published in batches of 500; of larger events that was more than `batch_bytes_max`,
/// and a file within every limit was refused.
#[test]
fn a_file_of_large_events_is_published() {
    let dir = folder("[[endpoints]]\nsink = 'file'\nname = 'f'\npath = 'out.ndjson'\n");
    fs::write(dir.path().join("events.ndjson"), lines(500, 40_000)).unwrap();
    let published = ran(dir.path(), &["publish", "--file", "events.ndjson"]);
    assert_eq!(published.code, Some(0), "{published:?}");
}

/// The same where the memory store holds fewer events than a batch has.
#[test]
fn a_file_larger_than_the_memory_store_is_published() {
    let dir = folder(
        "[bus]\nwhen_full = 'wait'\nmemory = { events_max = 100 }\n\
         [[endpoints]]\nsink = 'file'\nname = 'f'\npath = 'out.ndjson'\n",
    );
    fs::write(dir.path().join("events.ndjson"), lines(300, 1)).unwrap();
    let published = ran(dir.path(), &["publish", "--file", "events.ndjson"]);
    assert_eq!(published.code, Some(0), "{published:?}");
}

/// Whoever read our output has gone; the exit code is still that of the deliveries.
#[test]
fn a_closed_pipe_does_not_turn_failure_into_success() {
    let dir = folder(&one_attempt(refused()));
    let mut child = postrider(dir.path(), ["publish", "match"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
}

/// `bus.data_dir` promises that events outlive the process; a build that cannot keep the promise
/// must say so instead of keeping events in memory without a word.
#[test]
fn a_data_dir_is_used_or_refused() {
    let dir = folder(&format!("{}[bus]\ndata_dir = 'data'\n", one_attempt(refused())));
    let checked = ran(dir.path(), &["check"]);
    let is_told = checked.code == Some(2) || checked.stderr.contains("data_dir");
    let _ = ran(dir.path(), &["publish", "match", "--wait", "0s"]);
    assert!(is_told || dir.path().join("data").exists(), "{checked:?}");
}

/// Some batches of a file were accepted before the store was full: whoever reads the output must
/// learn which, or cannot go on.
#[test]
fn what_was_accepted_before_a_failure_is_told() {
    let port = refused();
    let dir = folder(&format!(
        "[bus]\nbatch_events_max = 50\nmemory = {{ events_max = 120 }}\n\
         [[endpoints]]\nname = 'a'\nurl = 'http://127.0.0.1:{port}/'\n\
         [network]\nallow = ['127.0.0.0/8']\n"
    ));
    fs::write(dir.path().join("events.ndjson"), lines(200, 1)).unwrap();
    let published =
        ran(dir.path(), &["publish", "--file", "events.ndjson", "--json", "--wait", "1s"]);
    assert_eq!(published.code, Some(1), "{published:?}");
    assert!(published.stdout.contains(r#""accepted":[{"id""#), "{published:?}");
}

/// A file is accepted whole or not at all, also where the wrong line comes after the first batch and
/// breaks a rule that only the bus knows.
#[test]
fn a_late_wrong_line_lets_nothing_through() {
    let dir = folder("[[endpoints]]\nsink = 'file'\nname = 'f'\npath = 'out.ndjson'\n");
    let key = "k".repeat(300);
    let wrong = format!("{{\"type\":\"match\",\"data\":1,\"key\":\"{key}\"}}\n");
    fs::write(dir.path().join("events.ndjson"), lines(600, 1) + &wrong).unwrap();
    let published = ran(dir.path(), &["publish", "--file", "events.ndjson"]);
    assert_eq!(published.code, Some(2), "wrong usage, as for any wrong line: {published:?}");
    let out = fs::read_to_string(dir.path().join("out.ndjson")).unwrap_or_default();
    assert_eq!(out.lines().count(), 0, "nothing was accepted");
}

/// Nothing is accepted or delivered, and each endpoint says why it would get the event or not.
#[test]
fn a_dry_run_shows_who_would_get_it_and_why_not() {
    let dir = folder(
        "[bus]\ndata_dir = 'data'\n\
         [[endpoints]]\nsink = 'file'\nname = 'all'\npath = 'all.ndjson'\n\
         [[endpoints]]\nsink = 'file'\nname = 'typed'\npath = 'typed.ndjson'\nevents = ['upload']\n\
         [[endpoints]]\nsink = 'file'\nname = 'large'\npath = 'large.ndjson'\n\
         filter = { payload = { order = { amount = { '$gte' = 100 } } } }\n",
    );
    let args = ["publish", "order.paid", "--data", r#"{"order":{"amount":99}}"#, "--dry-run"];
    let dry = ran(dir.path(), &args);
    assert_eq!(dry.code, Some(0), "{dry:?}");
    for expect in [
        "nothing is accepted",
        "✓ all: order.paid",
        r#"✗ typed: order.paid: asks for "upload", not for this type"#,
        "✗ large: order.paid: filter: payload.order.amount: expected $gte 100, found 99",
    ] {
        assert!(dry.stdout.contains(expect), "{expect}: {dry:?}");
    }
    let dry = ran(dir.path(), &[&args[..], &["--json"]].concat());
    let document: serde_json::Value = serde_json::from_str(&dry.stdout).unwrap();
    let endpoints = document["events"][0]["endpoints"].as_array().unwrap();
    let matches: Vec<_> = endpoints.iter().map(|it| it["matches"].as_bool().unwrap()).collect();
    assert_eq!(matches, [true, false, false]);
    assert!(!dir.path().join("data").exists(), "the store was not opened");
    // The same event, published, goes where the dry run said.
    assert_eq!(ran(dir.path(), &args[..4]).code, Some(0));
    assert!(dir.path().join("all.ndjson").exists());
    let lines = fs::read_to_string(dir.path().join("large.ndjson")).unwrap_or_default();
    assert_eq!(lines, "");
}
