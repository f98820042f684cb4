//! The stdout sink through the program: for people on a terminal, NDJSON on a pipe.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use postrider_tests::{postrider, program, run, skip};

const CONSOLE: &str = "[[endpoints]]\nsink = 'stdout'\nname = 'console'\n";

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("postrider.toml"), CONSOLE).unwrap();
    dir
}

/// On a pipe each event is one line of JSON, without colour.
#[test]
fn ndjson_on_a_pipe() {
    let dir = folder();
    let args = ["publish", "match", "--id", "e1", "--data", "{\"a\":  1}", "--quiet"];
    let ran = run(&mut postrider(dir.path(), args));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let line: serde_json::Value =
        serde_json::from_str(ran.stdout.trim_end()).unwrap_or_else(|_| panic!("{ran:?}"));
    assert_eq!(
        (&line["id"], &line["event"], &line["data"]["a"]),
        (&"e1".into(), &"match".into(), &1.into())
    );
    assert!(
        ran.stdout.ends_with("\"data\":{\"a\":  1}}\n"),
        "the payload keeps its bytes: {ran:?}"
    );
}

/// On a terminal it is coloured and readable.
#[test]
fn colours_on_a_terminal() {
    if run(Command::new("sh").args(["-c", "command -v script"])).code != Some(0) {
        return skip("stdout::colours_on_a_terminal", "script (bsdutils) is not installed");
    }
    let dir = folder();
    let command =
        format!("{} publish match --data '{{\"a\":1}}' --quiet", program("postrider").display());
    let ran = run(Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .current_dir(dir.path())
        .env("TERM", "xterm-256color")
        .env_remove("NO_COLOR")
        .stdin(Stdio::null()));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stdout.contains("\u{1b}["), "coloured: {ran:?}");
    assert!(ran.stdout.contains("match"), "{ran:?}");
    assert!(
        serde_json::from_str::<serde_json::Value>(ran.stdout.trim()).is_err(),
        "not for machines"
    );
}

/// A reader that has seen enough ends the program cleanly: no panic, no endless retries.
#[test]
fn a_closed_pipe_ends_cleanly() {
    let dir = folder();
    let events: String =
        (0..20_000).map(|n| format!("{{\"type\":\"match\",\"data\":{n}}}\n")).collect();
    std::fs::write(dir.path().join("events.ndjson"), events).unwrap();
    let started = std::time::Instant::now();
    let mut child = postrider(dir.path(), ["publish", "--file", "events.ndjson"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::with_capacity(64, child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.contains("\"event\":\"match\""), "{first}");
    let ended = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.code().is_some(), "not killed by a signal: {ended:?}");
    assert_eq!(ended.status.code(), Some(0), "{stderr}");
    assert!(!stderr.contains("panicked") && stderr.lines().count() < 8, "no noise: {stderr}");
    assert!(started.elapsed().as_secs() < 15, "{:?}", started.elapsed());
}
