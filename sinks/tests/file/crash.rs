//! What a crash leaves behind.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use postrider::sink::Sink;
use postrider_sinks::file::Fsync;

use crate::support::{as_child, attempt, child, deliver, lines, names, open, read, settings};
use crate::warnings;

/// The torn line is cut, kept beside, and said; twice in a row, and of any length.
#[tokio::test]
async fn a_torn_last_line_is_cut_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    let whole = "{\"a\":1}\n".to_owned();
    let long = format!("{{\"id\":\"{}", "x".repeat(200 << 10));
    warnings::record();
    let mut expect = (whole.clone(), String::new());
    fs::write(&path, &whole).unwrap();
    for torn in ["{\"id\":\"half", &long] {
        fs::File::options().append(true).open(&path).unwrap().write_all(torn.as_bytes()).unwrap();
        let sink = open(settings(&path));
        let batch = [attempt("after")];
        deliver(&sink, &batch).await;
        sink.close().await.unwrap();
        expect.0 += &lines(&batch);
        expect.1.extend([torn, "\n"]);
        assert!(read(&path) == expect.0);
        assert!(read(&folder.path().join("events.ndjson.torn")) == expect.1);
        let said = warnings::about(&path);
        let last = said.last().expect("a warning");
        assert!(last.contains("cut a torn last line"), "{last}");
        assert!(last.contains(&format!("bytes={}", torn.len())), "{last}");
    }
    assert_eq!(warnings::about(&path).len(), 2);
}

/// A file of nothing but the beginning of its first line.
#[tokio::test]
async fn a_torn_only_line_is_cut() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    fs::write(&path, "{").unwrap();
    let batch = [attempt(1)];
    deliver(&open(settings(&path)), &batch).await;
    assert_eq!(read(&path), lines(&batch));
    assert_eq!(read(&folder.path().join("events.ndjson.torn")), "{\n");
}

#[tokio::test]
async fn a_whole_file_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    fs::write(&path, "not ours, but whole\n").unwrap();
    let batch = [attempt(1)];
    deliver(&open(settings(&path)), &batch).await;
    assert_eq!(read(&path), format!("not ours, but whole\n{}", lines(&batch)));
    assert_eq!(names(folder.path()), ["events.ndjson"]);
}

/// A process is killed while it writes; the next one finds every acked line once, nothing torn, and
/// beyond the acked ones at most the batch that was under way.
#[tokio::test]
async fn killed_while_writing() {
    const THIS: &str = "crash::killed_while_writing";
    const BATCH: usize = 64;
    if let Some((_, folder)) = child() {
        let sink = open(settings(&folder.join("events.ndjson")).fsync(Fsync::Never));
        for round in 0.. {
            let batch: Vec<_> =
                (0..BATCH).map(|n| attempt(format!("{:0>1000}", round * BATCH + n))).collect();
            deliver(&sink, &batch).await;
            eprintln!("acked {}", batch.len());
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    for round in 0_usize..10 {
        fs::write(&path, "").unwrap();
        let mut command = as_child(&[], THIS, "writes until killed", folder.path());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut told = BufReader::new(child.stderr.take().unwrap()).lines();
        let is_ack = |line: Option<std::io::Result<String>>| {
            line.is_some_and(|line| line.unwrap().starts_with("acked "))
        };
        let mut acked = 0;
        while acked <= round * 3 {
            assert!(is_ack(told.next()), "the child ended by itself");
            acked += 1;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        while is_ack(told.next()) {
            acked += 1;
        }
        let after = [attempt("after")];
        let sink = open(settings(&path));
        deliver(&sink, &after).await;
        sink.close().await.unwrap();
        let text = read(&path);
        let found = text.strip_suffix(&lines(&after)).expect("the line after the crash");
        for (n, line) in found.lines().enumerate() {
            assert!(line.ends_with(&format!("{{\"n\":\"{n:0>1000}\"}}}}")), "{n}: {line:?}");
        }
        let found = found.lines().count();
        assert!(
            (acked * BATCH..=(acked + 1) * BATCH).contains(&found),
            "{found} lines of {acked} acked batches"
        );
    }
}
