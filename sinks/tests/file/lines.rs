//! Lines are whole, each once, in every policy and under concurrency.

use std::collections::BTreeSet;
use std::sync::Arc;

use postrider::config::{ByteSize, NetworkPolicy};
use postrider::sink::{CheckContext, Sink, SinkFactory};
use postrider_sinks::file::{Factory, Fsync, Rotate};

use crate::support::{
    all_nacked, as_child, attempt, child, deliver, line, lines, names, open, read, run, settings,
};

#[tokio::test]
async fn each_policy_writes_what_it_acks() {
    let folder = tempfile::tempdir().unwrap();
    for fsync in [Fsync::Never, Fsync::Batch, Fsync::Always] {
        let path = folder.path().join(format!("new/{fsync:?}.ndjson"));
        let sink = open(settings(&path).fsync(fsync));
        assert_eq!(sink.batch_max(), if fsync == Fsync::Always { 1 } else { 512 });
        let batch: Vec<_> = (0..10).map(attempt).collect();
        for batch in batch.chunks(sink.batch_max()) {
            deliver(&sink, batch).await;
        }
        assert_eq!(read(&path), lines(&batch), "read before anything is closed");
        sink.close().await.unwrap();
        assert_eq!(read(&path), lines(&batch));
    }
}

#[cfg(unix)]
#[tokio::test]
async fn new_files_have_the_mode() {
    use postrider_sinks::file::FileMode;
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let mode_of = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let path = folder.path().join("default");
    deliver(&open(settings(&path)), &[attempt(1)]).await;
    assert_eq!(mode_of(&path), 0o640);
    let path = folder.path().join("private");
    deliver(&open(settings(&path).mode(FileMode::new(0o600).unwrap())), &[attempt(1)]).await;
    assert_eq!(mode_of(&path), 0o600);
}

/// 16 tasks at each of two endpoints, small and large lines mixed, one of them rotating: every line
/// arrives whole and once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_tasks_never_tear_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let mut tasks = Vec::new();
    let mut sinks = Vec::new();
    for endpoint in ["one", "two"] {
        let mut settings =
            settings(&folder.path().join(endpoint).join("events.ndjson")).fsync(Fsync::Never);
        if endpoint == "two" {
            settings = settings.rotate(Rotate::default().size(ByteSize(64 << 10)));
        }
        let sink = Arc::new(open(settings));
        sinks.push(Arc::clone(&sink));
        for task in 0..16 {
            let sink = Arc::clone(&sink);
            tasks.push(tokio::spawn(async move {
                let mut expected = Vec::new();
                for round in 0..20 {
                    let batch: Vec<_> = (0..=(task + round) % 7)
                        .map(|n| attempt("x".repeat(n * n * 50 + round)))
                        .collect();
                    deliver(&sink, &batch).await;
                    expected.extend(batch.iter().map(line));
                }
                (endpoint, expected)
            }));
        }
    }
    let mut expected = [("one", BTreeSet::new()), ("two", BTreeSet::new())];
    for task in tasks {
        let (endpoint, lines) = task.await.unwrap();
        expected[usize::from(endpoint == "two")].1.extend(lines);
    }
    for sink in sinks {
        sink.close().await.unwrap();
    }
    for (endpoint, expected) in expected {
        let folder = folder.path().join(endpoint);
        let files = names(&folder);
        assert_eq!(files.len() > 1, endpoint == "two", "{files:?}");
        let text: String = files.iter().map(|name| read(&folder.join(name))).collect();
        let found: Vec<_> = text.split_inclusive('\n').collect();
        assert_eq!(found.len(), expected.len());
        let found: BTreeSet<_> = found.into_iter().map(str::to_owned).collect();
        assert!(found == expected, "a line is torn, missing or doubled in {endpoint}");
    }
}

/// A line larger than any buffer, beside small ones.
#[tokio::test]
async fn huge_lines() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    let sink = open(settings(&path));
    let batch: Vec<_> =
        [1, 3 << 20, 1 << 20, 5].into_iter().map(|size| attempt("x".repeat(size))).collect();
    deliver(&sink, &batch).await;
    assert!(read(&path) == lines(&batch));
}

/// Two endpoints would take turns in the middle of each other's rotation.
#[tokio::test]
async fn a_second_endpoint_of_the_same_path_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let network = NetworkPolicy::public_only();
    let (audit, other) = ("audit".parse().unwrap(), "other".parse().unwrap());
    let build = |id, path: &std::path::Path| {
        Factory.build(&settings(path), &CheckContext::new(id, "name", &network))
    };
    let path = folder.path().join("log/events.ndjson");
    let first = build(&audit, &path).unwrap();
    let error = build(&other, &folder.path().join("log/./events.ndjson")).err().unwrap();
    let text = error.chain();
    assert!(text.contains("events.ndjson") && text.contains("\"audit\""), "{text}");
    #[cfg(unix)]
    {
        std::fs::create_dir(folder.path().join("log")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("log"), folder.path().join("link")).unwrap();
        assert!(build(&other, &folder.path().join("link/events.ndjson")).is_err());
    }
    // The same endpoint, replaced by a new version of itself, takes over.
    let second = build(&audit, &path).unwrap();
    assert!(first.deliver(&[attempt(1)]).await[0].is_ok());
    first.close().await.unwrap();
    drop(first);
    assert!(second.deliver(&[attempt(2)]).await[0].is_ok());
    drop(second);
    build(&other, &path).unwrap();
}

#[tokio::test]
async fn a_second_process_is_refused_with_the_name_of_the_file() {
    const THIS: &str = "lines::a_second_process_is_refused_with_the_name_of_the_file";
    if let Some((role, folder)) = child() {
        let path = folder.join("events.ndjson");
        let sink = open(settings(&path));
        let batch = [attempt("theirs"), attempt("theirs")];
        if role == "writes" {
            return deliver(&sink, &batch).await;
        }
        let outcomes = sink.deliver(&batch).await;
        let message = all_nacked(&outcomes, &path).message();
        assert!(message.contains("another process"), "{message}");
        assert_eq!(sink.check().await.unwrap_err().message(), message);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    let sink = open(settings(&path));
    let ours = [attempt("ours")];
    deliver(&sink, &ours).await;
    run(as_child(&[], THIS, "is refused", folder.path()));
    assert_eq!(read(&path), lines(&ours), "the other process wrote nothing");
    // When we let go, it may.
    sink.close().await.unwrap();
    run(as_child(&[], THIS, "writes", folder.path()));
    assert_eq!(read(&path).lines().count(), 3);
}
