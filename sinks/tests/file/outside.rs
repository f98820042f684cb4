//! Other hands on the file: logrotate in both its ways, a deleted folder, things that are no file.

use std::fs;
use std::time::Duration;

use postrider::sink::Sink;
use postrider_sinks::file::Rotate;

use crate::support::{all_nacked, attempt, deliver, lines, names, open, read, settings};

/// logrotate with `create`: what was written before stays in the renamed file, what comes after
/// goes into a new one.
#[tokio::test]
async fn a_renamed_file_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    let moved = folder.path().join("events.ndjson.1");
    let sink = open(settings(&path));
    let batch: Vec<_> = (0..4).map(attempt).collect();
    deliver(&sink, &batch[..2]).await;
    fs::rename(&path, &moved).unwrap();
    deliver(&sink, &batch[2..3]).await;
    // The same once more, with logrotate making the new file.
    assert_eq!(read(&path), lines(&batch[2..3]));
    fs::rename(&path, folder.path().join("events.ndjson.2")).unwrap();
    fs::write(&path, "").unwrap();
    deliver(&sink, &batch[3..]).await;
    assert_eq!(read(&moved), lines(&batch[..2]));
    assert_eq!(read(&path), lines(&batch[3..]));
}

#[tokio::test]
async fn a_deleted_file_or_folder_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log/events.ndjson");
    let sink = open(settings(&path));
    let batch: Vec<_> = (0..3).map(attempt).collect();
    deliver(&sink, &batch[..1]).await;
    fs::remove_file(&path).unwrap();
    deliver(&sink, &batch[1..2]).await;
    assert_eq!(read(&path), lines(&batch[1..2]));
    fs::remove_dir_all(folder.path().join("log")).unwrap();
    deliver(&sink, &batch[2..]).await;
    assert_eq!(read(&path), lines(&batch[2..]));
}

/// logrotate with `copytruncate`: writing goes on at the new end. A writer that kept its own offset
/// would leave a hole of zeros.
#[tokio::test]
async fn copytruncate_leaves_no_hole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    let size = postrider::config::ByteSize(1 << 10);
    let sink = open(settings(&path).rotate(Rotate::default().size(size)));
    let batch: Vec<_> = (0..12).map(|n| attempt(format!("{n:0>100}"))).collect();
    deliver(&sink, &batch[..4]).await;
    fs::copy(&path, folder.path().join("copy")).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    deliver(&sink, &batch[4..8]).await;
    assert_eq!(read(&folder.path().join("copy")), lines(&batch[..4]));
    // The size that counts is the one after the cut: no rotation yet.
    assert_eq!(names(folder.path()), ["copy", "events.ndjson"]);
    assert_eq!(read(&path), lines(&batch[4..8]));
}

/// The file is where the link leads, and stays there through a rotation.
#[cfg(unix)]
#[tokio::test]
async fn a_symbolic_link_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("disk")).unwrap();
    let (path, real) = (folder.path().join("events.ndjson"), folder.path().join("disk/real"));
    std::os::unix::fs::symlink(&real, &path).unwrap();
    let size = postrider::config::ByteSize(1 << 10);
    let sink = open(settings(&path).rotate(Rotate::default().size(size)));
    let batch: Vec<_> = (0..2).map(|n| attempt(format!("{n:0>900}"))).collect();
    deliver(&sink, &batch).await;
    assert_eq!(names(folder.path()), ["disk", "events.ndjson"]);
    assert_eq!(read(&real), lines(&batch[1..]));
    let finished = names(&folder.path().join("disk"));
    assert_eq!(finished.len(), 2, "{finished:?}");
    assert_eq!(read(&folder.path().join("disk").join(&finished[0])), lines(&batch[..1]));
}

/// A folder, a pipe without a reader, and a path through a file: an error that names the path,
/// soon, and a retry.
#[tokio::test]
async fn what_is_no_file_is_said() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let mut paths = vec![folder.path().to_owned(), folder.path().join("file/events.ndjson")];
    let pipe = folder.path().join("pipe");
    if std::process::Command::new("mkfifo").arg(&pipe).status().is_ok_and(|made| made.success()) {
        paths.push(pipe);
    }
    for path in paths {
        let sink = open(settings(&path));
        let batch = [attempt(1)];
        let deliver = tokio::time::timeout(Duration::from_secs(10), sink.deliver(&batch));
        let outcomes = deliver.await.expect("it hangs");
        all_nacked(&outcomes, path.parent().unwrap());
        let asked = sink.check().await.unwrap_err();
        assert!(asked.message().contains(path.to_str().unwrap()), "{asked:?}");
    }
}
