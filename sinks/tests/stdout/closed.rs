//! A reader that goes away, and one that stops reading.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use postrider::delivery::{Cause, Verdict};
use postrider::sink::Sink;
use postrider_sinks::stdout::{Settings, StdoutSink};

use crate::support::{DEADLINE, after_heading, as_child, attempt, child, done, line};

/// `… | head`: the endpoint ends with a reason that can be read, the process does not.
#[tokio::test]
async fn a_closed_pipe_ends_the_endpoint_only() {
    if child().is_some() {
        let sink = StdoutSink::new(&Settings::default()).unwrap();
        let started = Instant::now();
        let mut n = 0;
        let nack = loop {
            let outcomes = sink.deliver(&[attempt(n, 1000), attempt(n + 1, 1000)]).await;
            n += 2;
            if let Some(nack) = outcomes.into_iter().find_map(Result::err) {
                break nack;
            }
            assert!(started.elapsed() < DEADLINE, "the pipe was never closed");
        };
        assert_eq!(nack.verdict(), Verdict::Disable);
        assert_eq!(nack.cause(), Cause::Closed);
        assert_eq!(nack.message(), "stdout was closed by its reader");
        // And so it stays.
        assert_eq!(sink.deliver(&[attempt(n, 10)]).await, [Err(nack.clone())]);
        assert_eq!(sink.check().await, Err(nack));
        sink.close().await.unwrap();
        eprintln!("ended cleanly");
        done();
    }
    // The heading of the test harness has two lines.
    let mut command = as_child(
        &["sh", "-c", "\"$0\" \"$@\" | head -n 3"],
        "closed::a_closed_pipe_ends_the_endpoint_only",
        "child",
    );
    let output = command.output().unwrap();
    let (out, err) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(after_heading(&out), line(&attempt(0, 1000)));
    assert!(err.contains("ended cleanly") && !err.contains("panicked"), "{err}");
}

/// Lines of one batch: more than a pipe takes.
const BATCH: usize = 100;

fn batch(of: usize) -> Vec<postrider::sink::Attempt> {
    (of * BATCH..(of + 1) * BATCH).map(|n| attempt(n, 2000)).collect()
}

/// How many threads this process has (Linux).
fn threads() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("Threads:"))?.trim().parse().ok()
}

/// Hangs the sink: a batch that does not come through, tried again and again.
async fn hang(sink: &StdoutSink) {
    let hung = tokio::time::timeout(Duration::from_millis(200), sink.deliver(&batch(0))).await;
    assert!(hung.is_err(), "the pipe took more than it can hold");
    let threads_before = threads();
    for of in [0, 1].into_iter().cycle().take(40) {
        // The timer runs: the runtime is not blocked.
        let hung = tokio::time::timeout(Duration::from_millis(5), sink.deliver(&batch(of))).await;
        assert!(hung.is_err());
    }
    assert_eq!(threads(), threads_before, "attempts that time out must not add threads");
}

fn spawn(test: &str, role: &str) -> Child {
    let mut command = as_child(&[], test, role);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until the child says so on its standard error.
fn wait_for(child: &mut Child, word: &str) {
    let stderr = child.stderr.as_mut().unwrap();
    let mut seen = String::new();
    let mut reader = BufReader::new(stderr);
    while !seen.ends_with(&format!("{word}\n")) {
        assert!(reader.read_line(&mut seen).unwrap() > 0, "the child ended: {seen}");
    }
}

/// The write that hung goes on when the reader does, and nothing is written a second time.
#[tokio::test]
async fn a_reader_that_pauses_gets_every_line_once() {
    const THIS: &str = "closed::a_reader_that_pauses_gets_every_line_once";
    if child().is_some() {
        let sink = StdoutSink::new(&Settings::default()).unwrap();
        hang(&sink).await;
        eprintln!("stuck");
        for of in 0..3 {
            let outcomes = tokio::time::timeout(DEADLINE, sink.deliver(&batch(of))).await.unwrap();
            assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        }
        done();
    }
    let mut child = spawn(THIS, "child");
    wait_for(&mut child, "stuck");
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert!(child.wait().unwrap().success());
    let expect: String = (0..3).flat_map(batch).map(|attempt| line(&attempt)).collect();
    assert!(after_heading(&out) == expect, "each line once, in order");
}

/// A pipe that nobody reads must not keep the process from ending.
#[tokio::test]
async fn a_hanging_write_does_not_hold_the_process() {
    const THIS: &str = "closed::a_hanging_write_does_not_hold_the_process";
    if child().is_some() {
        // A runtime of its own, whose end is waited for as in a program's main.
        let thread = std::thread::spawn(|| {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap();
            runtime.block_on(async { hang(&StdoutSink::new(&Settings::default()).unwrap()).await });
        });
        thread.join().unwrap();
        eprintln!("over");
        done();
    }
    let mut child = spawn(THIS, "child");
    wait_for(&mut child, "over");
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > DEADLINE {
            child.kill().unwrap();
            panic!("the process hangs at its end");
        }
        // tidy: allow(sleep): polls a child with a deadline
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(child.wait().unwrap().success());
}
