//! The program as a child process.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, ChildStdout, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::support::DEADLINE;

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mock-receiver"));
    command.env_remove("MOCK_RECEIVER_TOKEN").stdin(Stdio::null());
    command
}

/// A running receiver, which does not outlive its test.
struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
    start: String,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut child = program()
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let lines = lines(child.stdout.take().expect("a pipe"));
        let start = lines.recv_timeout(DEADLINE).expect("a start line");
        Self { child, lines, start }
    }

    fn document(&self) -> Value {
        serde_json::from_str(&self.start).expect("a JSON line")
    }

    /// Runs a command that asks this receiver.
    fn ask(&self, arguments: &[&str]) -> Output {
        let start = self.document();
        program()
            .args(arguments)
            .args(["--admin", start["admin"].as_str().unwrap()])
            .env("MOCK_RECEIVER_TOKEN", start["token"].as_str().unwrap())
            .output()
            .unwrap()
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(DEADLINE).expect("one more line")
    }

    fn end(&mut self, signal: &str) -> Option<i32> {
        // The shell's own kill: the program of that name is not everywhere.
        let kill = format!("kill {signal} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().expect("a shell").success());
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                return status.code();
            }
            // tidy: allow(sleep): polls a child with a deadline
            thread::sleep(Duration::from_millis(10));
        }
        panic!("still running after {DEADLINE:?}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(stdout: ChildStdout) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn post(url: &str, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(url.replace("http://", "")).expect("connects");
    let length = body.len();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .expect("sends");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("reads");
    answer
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn with_json_it_prints_its_addresses_then_a_line_per_request() {
    let mut receiver = Running::start(&["--json"]);
    let start = receiver.document();
    let (capture, admin, token) = (&start["capture"], &start["admin"], &start["token"]);
    assert_eq!(
        receiver.start,
        format!(r#"{{"capture":{capture},"admin":{admin},"token":{token}}}"#),
        "keys in this order"
    );
    let capture = capture.as_str().unwrap();
    assert!(capture.starts_with("http://127.0.0.1:") && !capture.ends_with(":0"), "{capture}");
    assert!(
        post(capture, "/a/b?c", r#"{"event":"match","n":18446744073709551616}"#).contains("200 OK")
    );
    assert!(post(capture, "/a", "\u{1}").contains("200 OK"));
    let line = receiver.line();
    let one: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&one["seq"], &one["path"], &one["event"]),
        (&1.into(), &"/a/b".into(), &"match".into())
    );
    assert_eq!(one["body"], r#"{"event":"match","n":18446744073709551616}"#);
    let two: Value = serde_json::from_str(&receiver.line()).unwrap();
    assert_eq!((&two["seq"], &two["body"]), (&2.into(), &"\u{1}".into()));
    assert_eq!(receiver.end("-TERM"), Some(0));
    assert!(TcpStream::connect(capture.replace("http://", "")).is_err(), "the port is free");
}

#[test]
fn for_people_it_prints_a_line_per_request_and_hides_a_given_token() {
    let mut receiver = Running::start(&["--token", "hush-hush"]);
    assert!(receiver.start.starts_with("capturing at  http://127.0.0.1:"), "{}", receiver.start);
    let capture = receiver.start["capturing at  ".len()..].replace("/BIN/any/path", "");
    let mut head = vec![receiver.line(), receiver.line(), receiver.line()];
    post(&capture, "/a?b=1", r#"{"event":"up\u001b[2Jload"}"#);
    let line = receiver.line();
    assert!(line.ends_with("  200  POST /a?b=1  27 B  up\\u{1b}[2Jload"), "{line}");
    head.push(line);
    assert!(!head.concat().contains("hush-hush"), "{head:?}");
    assert_eq!(receiver.end("-INT"), Some(0));
}

/// Capturing never waits for a reader: neither do the answers, nor the end.
#[test]
fn a_stuck_reader_stops_nothing() {
    let mut child = program()
        .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut start = String::new();
    stdout.read_line(&mut start).unwrap();
    let document: Value = serde_json::from_str(&start).unwrap();
    let (_sender, lines) = mpsc::channel();
    let mut receiver = Running { child, lines, start };
    let body = "x".repeat(100_000); // A pipe holds 64 KiB; nothing reads it from here on.
    for _ in 0..5 {
        assert!(post(document["capture"].as_str().unwrap(), "/a", &body).contains("200 OK"));
    }
    assert_eq!(receiver.end("-TERM"), Some(0));
    drop(stdout);
}

#[test]
fn its_commands_ask_a_running_one() {
    let receiver = Running::start(&["--json"]);
    let start = receiver.document();
    let ask = |arguments: &[&str]| receiver.ask(arguments);
    let capture = start["capture"].as_str().unwrap();
    post(capture, "/a/1", r#"{"event":"match"}"#);
    post(capture, "/b", "\u{1b}[31mred");

    let listed = ask(&["ls"]);
    let rows = text(&listed.stdout);
    assert!(listed.status.success() && rows.lines().count() == 2, "{rows}");
    assert!(rows.contains("200  POST /a/1  17 B  match"), "{rows}");
    let rows = text(&ask(&["ls", "--bin", "a", "--filter", "event:match", "--json"]).stdout);
    assert_eq!(serde_json::from_str::<Value>(rows.trim()).unwrap()["seq"], 1);

    let shown = text(&ask(&["show", "2"]).stdout);
    assert!(
        shown.starts_with("POST /b HTTP/1.1\nHost: a\n") && shown.ends_with("\n\n\\u{1b}[31mred\n"),
        "{shown}"
    );
    let shown = text(&ask(&["show", "2", "--json"]).stdout);
    assert_eq!(serde_json::from_str::<Value>(&shown).unwrap()["body"], "\u{1b}[31mred");

    let met = ask(&["wait", "--bin", "a", "--count", "1", "--match", r#"{"event":"match"}"#]);
    assert!(met.status.success(), "{}", text(&met.stderr));
    assert!(text(&met.stdout).contains("/a/1"));
    let unmet = ask(&["wait", "--bin", "a", "--count", "2", "--timeout", "50ms"]);
    assert_eq!(unmet.status.code(), Some(1));
    let why = text(&unmet.stderr);
    assert!(
        why.contains("has 1 of the 2 requests waited for") && why.contains("#1 POST /a/1"),
        "{why}"
    );

    let missing = ask(&["show", "77"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("request 77"), "{}", text(&missing.stderr));
    let wrong = program()
        .args(["ls", "--token", "wrong", "--admin"])
        .arg(start["admin"].as_str().unwrap())
        .output()
        .unwrap();
    assert_eq!(wrong.status.code(), Some(1));
    assert!(text(&wrong.stderr).contains("(401)"), "{}", text(&wrong.stderr));
}

#[test]
fn its_commands_explain_check_and_export() {
    let receiver = Running::start(&["--json", "--secret", "whsec_c2VjcmV0IG9mIHRoZSB0ZXN0"]);
    let start = receiver.document();
    let ask = |arguments: &[&str]| receiver.ask(arguments);
    let capture = start["capture"].as_str().unwrap();
    post(capture, "/a", r#"{"specversion":"1.0","id":"one","n":1}"#);
    post(capture, "/a", r#"{"specversion":"1.0","id":"one","n":2}"#);

    let shown = text(&ask(&["show", "1"]).stdout);
    assert!(shown.ends_with("\n\nno signature\n"), "{shown}");
    let rows = text(&ask(&["deliveries", "--bin", "a", "--schedule", "1h"]).stdout);
    assert!(
        rows.starts_with("one: #1 200, +")
            && rows.contains(" ms #2 200; 1 behind its success; body changed\n  attempt 2 after"),
        "{rows}"
    );
    let rows = text(&ask(&["deliveries", "--bin", "a", "--json"]).stdout);
    assert_eq!(serde_json::from_str::<Value>(rows.trim()).unwrap()["duplicates"], 1);

    let held = ask(&["assert", "--bin", "a", "--ordered-by", "/n", "--none-within", "10ms"]);
    assert!(held.status.success() && held.stdout.is_empty(), "{}", text(&held.stderr));
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("program report");
    let _ = std::fs::remove_dir_all(&folder);
    let missed =
        ask(&["assert", "--bin", "a", "--exactly-once", "--report", folder.to_str().unwrap()]);
    let why = text(&missed.stderr);
    assert_eq!(missed.status.code(), Some(1));
    assert!(why.contains("taken over 2 times") && why.contains("report.html"), "{why}");
    assert!(std::fs::read_to_string(folder.join("report.html")).unwrap().contains("Timeline"));
    let har = std::fs::read(folder.join("report.har")).unwrap();
    assert!(serde_json::from_slice::<Value>(&har).unwrap()["log"]["entries"].is_array());
    let missed = ask(&["assert", "--bin", "a", "--backoff", "1m,1h", "--tolerance", "0.5"]);
    assert!(text(&missed.stderr).contains("expected 60s"), "{}", text(&missed.stderr));

    let compared = text(&ask(&["diff", "1", "2"]).stdout);
    assert_eq!(compared, "#1 and #2: bodies differ\njson/n\n  - 1\n  + 2\n");
    let har = text(&ask(&["export", "--bin", "a"]).stdout);
    assert_eq!(serde_json::from_str::<Value>(&har).unwrap()["log"]["version"], "1.2");
    let lines = text(&ask(&["export", "--format", "ndjson", "--filter", "body:2"]).stdout);
    assert_eq!(serde_json::from_str::<Value>(lines.trim()).unwrap()["seq"], 2);
    let raw = text(&ask(&["export", "--format", "raw", "1"]).stdout);
    assert!(
        raw.starts_with("POST /a HTTP/1.1\r\nHost: a\r\n") && raw.ends_with("\"n\":1}"),
        "{raw}"
    );
}

/// A shell that runs the exported command sends the same request again.
#[test]
fn an_exported_curl_command_sends_the_same() {
    if Command::new("curl").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "curl is missing");
        eprintln!("skipped: curl is missing");
        return;
    }
    let receiver = Running::start(&["--json"]);
    let capture = receiver.document()["capture"].as_str().unwrap().to_owned();
    let bodies = ["it's \"$HOME\" `id` \\ @x\n\r\n%41", "@/etc/hostname", "\u{0}binary", ""];
    for (at, body) in bodies.iter().enumerate() {
        let binary = body.contains("binary");
        let body = if binary { vec![0, 255, 10, 13] } else { body.as_bytes().to_vec() };
        let mut stream = TcpStream::connect(capture.replace("http://", "")).unwrap();
        let head = format!(
            "PUT /a/../b%20[1]?x={{y}}&z='q' HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\
            X-It: it's $HOME\r\nX-Empty:\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(&[head.as_bytes(), &body].concat()).unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
        let seq = (2 * at + 1).to_string();
        let command = receiver.ask(&["export", "--format", "curl", "--to", &capture, &seq]);
        let command = text(&command.stdout);
        let ran = Command::new("sh").args(["-c", &command]).output().unwrap();
        assert!(ran.status.success(), "{command}{}", text(&ran.stderr));
        let other = (2 * at + 2).to_string();
        let compared = receiver.ask(&["diff", "--json", &seq, &other]);
        let diff: Value = serde_json::from_slice(&compared.stdout).unwrap();
        let fields: Vec<_> = diff["differences"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["field"].as_str().unwrap())
            .collect();
        // What curl adds by itself, and the length that it leaves out where there is no body.
        let own = [
            "headers.accept",
            "headers.user-agent",
            "headers.host",
            "headers.connection",
            "headers.content-length",
        ];
        assert!(fields.iter().all(|field| own.contains(field)), "{command}{diff}");
        assert_eq!(diff["body_identical"], true, "{command}");
    }
}

#[test]
fn what_is_wrong_is_said_with_its_exit_code() {
    for (arguments, code, named) in [
        (&["--listen", "somewhere"][..], 2, "IP:PORT"),
        (&["--scenaro", "x.toml"], 2, "--scenario"),
        (&["--forward", "a"], 2, "BIN=URL"),
        (&["nonsense"], 2, "nonsense"),
        (&["--secret", ""], 1, "1 to 4096 bytes"),
        (&["assert", "--token", "t"], 2, "--bin"),
        (&["assert", "--token", "t", "--bin", "a", "--backoff", "5"], 2, "10s"),
        (&["export", "--token", "t", "--bin", "a", "7"], 2, "--bin"),
        (&["export", "--token", "t", "--format", "xml"], 2, "ndjson"),
        (&["export", "--token", "t", "7"], 1, "leave out the numbers"),
        (&["ls"], 2, "--token"),
        (&["wait", "--token", "t"], 2, "--bin"),
        (&["wait", "--token", "t", "--bin", "a", "--timeout", "10"], 2, "10s"),
        (&["wait", "--token", "t", "--bin", "a", "--match", r#"{"evnt":1}"#], 2, "evnt"),
        (&["ls", "--token", "t", "--admin", "127.0.0.1:1"], 1, "127.0.0.1:1"),
        (&["--token", ""], 1, "token"),
    ] {
        let output = program().args(arguments).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(named), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = program().args(["--admin", "127.0.0.1:0", "--listen", &address]).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains(&address) && said.contains("--listen") && said.contains("another program"),
        "{said}"
    );
}
