//! A disk that is full or broken, a limit that is reached, a permission that is missing: the attempt is to be
//! made again, the file holds whole lines, and once the cause is gone every line is there once.

use std::fs;
use std::path::Path;
use std::process::Command;

use postrider::sink::{Attempt, Sink};
use postrider_sinks::file::{FileSink, Fsync, Rotate};

use crate::common::skip;
use crate::support::{
    all_nacked, as_child, attempt, child, deliver, lines, open, read, run, settings,
};

/// Fills the file until a batch fails; that batch, and all that was acked before it. All lines of
/// the failed batch are refused, and the file holds exactly what was acked.
async fn until_full(sink: &FileSink, path: &Path, error: &str) -> (Vec<Attempt>, Vec<Attempt>) {
    let mut acked = Vec::new();
    for round in 0..10_000 {
        // Lengths without a common divisor with any block: a write is cut in the middle of a line.
        let batch: Vec<_> = (0..7).map(|n| attempt(format!("{round}-{n:0>97}"))).collect();
        let outcomes = sink.deliver(&batch).await;
        if outcomes[0].is_ok() {
            assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
            acked.extend(batch);
            continue;
        }
        let message = all_nacked(&outcomes, path).message();
        assert!(message.contains(error), "{message}");
        assert_eq!(read(path), lines(&acked));
        return (acked, batch);
    }
    panic!("the file never got full");
}

/// `EFBIG` by `RLIMIT_FSIZE`: with its signal ignored, a write that crosses the limit comes through
/// in part, and the next one fails.
#[tokio::test]
async fn a_file_at_its_size_limit() {
    const THIS: &str = "full::a_file_at_its_size_limit";
    if let Some((role, folder)) = child() {
        let path = folder.join("events.ndjson");
        let fsync = if role == "batch" { Fsync::Batch } else { Fsync::Never };
        let sink = open(settings(&path).fsync(fsync));
        let (mut acked, refused) = until_full(&sink, &path, "File too large").await;
        assert!(!acked.is_empty());
        // Again, with no more luck, and nothing changes.
        assert!(sink.deliver(&refused).await.iter().all(Result::is_err));
        assert_eq!(read(&path), lines(&acked));
        let me = std::process::id().to_string();
        let lifted = Command::new("prlimit").args(["--fsize=unlimited", "--pid", &me]).status();
        assert!(lifted.unwrap().success());
        deliver(&sink, &refused).await;
        acked.extend(refused);
        assert_eq!(read(&path), lines(&acked));
        return;
    }
    if Command::new("prlimit").arg("--version").output().is_err() {
        return skip(THIS, "prlimit is missing; it is in util-linux");
    }
    for fsync in ["batch", "never"] {
        let folder = tempfile::tempdir().unwrap();
        // 25 is SIGXFSZ; the soft limit counts blocks of 512 bytes.
        let limited = ["sh", "-c", "trap '' 25; ulimit -S -f 9; exec \"$0\" \"$@\""];
        run(as_child(&limited, THIS, fsync, folder.path()));
    }
}

/// `ENOSPC` on a file system of 128 KiB, mounted in a namespace of the child's own.
#[tokio::test]
async fn a_full_disk() {
    const THIS: &str = "full::a_full_disk";
    if let Some((_, folder)) = child() {
        let path = folder.join("events.ndjson");
        let filler = folder.join("filler");
        fs::write(&filler, vec![0; 64 << 10]).unwrap();
        let sink = open(settings(&path));
        let (mut acked, refused) = until_full(&sink, &path, "No space left on device").await;
        fs::remove_file(&filler).unwrap();
        deliver(&sink, &refused).await;
        acked.extend(refused);
        assert_eq!(read(&path), lines(&acked));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mount = "mount -t tmpfs -o size=128k none \"$POSTRIDER_TEST_FOLDER\"";
    let mounted = ["unshare", "-rm", "sh", "-c", &format!("{mount} && exec \"$0\" \"$@\"")];
    let can = Command::new("unshare")
        .args(["-rm", "sh", "-c", mount])
        .env("POSTRIDER_TEST_FOLDER", folder.path())
        .output();
    if !can.is_ok_and(|tried| tried.status.success()) {
        return skip(THIS, "mounting in a user namespace is not allowed here");
    }
    run(as_child(&mounted, THIS, "fills the disk", folder.path()));
}

#[cfg(unix)]
#[tokio::test]
async fn a_missing_permission() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;
    const THIS: &str = "full::a_missing_permission";
    const NOBODY: u32 = 65534;
    if let Some((_, folder)) = child() {
        let path = folder.join("events.ndjson");
        let sink = open(settings(&path));
        let batch = [attempt(1), attempt(2)];
        let outcomes = sink.deliver(&batch).await;
        let message = all_nacked(&outcomes, &path).message();
        assert!(message.contains("Permission denied"), "{message}");
        let asked = sink.check().await.unwrap_err();
        assert!(asked.message().contains("Permission denied"), "{asked:?}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let set = |mode| fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
    set(0o555);
    let mut command = as_child(&[], THIS, "may not write", folder.path());
    if fs::metadata(folder.path()).unwrap().uid() == 0 {
        command.uid(NOBODY).gid(NOBODY); // Nothing is forbidden to root.
        if let Err(error) = command.output() {
            return skip(THIS, &format!("another user cannot start this program: {error}"));
        }
    }
    run(command);
    set(0o755);
}

/// Whether strace can follow a process here.
fn can_trace() -> bool {
    Command::new("strace").args(["-f", "true"]).output().is_ok_and(|tried| tried.status.success())
}

/// The words before a child that is traced into the file `trace`.
fn traced<'a>(trace: &'a Path, rest: &[&'a str]) -> Vec<&'a str> {
    let mut words = vec!["strace", "-f", "-qq", "-o", trace.to_str().unwrap()];
    words.extend(["-e", "trace=fdatasync"]);
    words.extend(rest);
    words
}

/// How often each policy syncs, counted from outside: never, once per batch, once per line.
#[tokio::test]
async fn syncs_as_often_as_the_policy_says() {
    const THIS: &str = "full::syncs_as_often_as_the_policy_says";
    if let Some((role, folder)) = child() {
        let fsync = match &*role {
            "never" => Fsync::Never,
            "batch" => Fsync::Batch,
            _ => Fsync::Always,
        };
        let sink = open(settings(&folder.join("events.ndjson")).fsync(fsync));
        for round in 0..3 {
            let batch: Vec<_> = (0..5).map(|n| attempt(round * 5 + n)).collect();
            for batch in batch.chunks(sink.batch_max()) {
                deliver(&sink, batch).await;
            }
        }
        return;
    }
    if !can_trace() {
        return skip(THIS, "strace is missing, or may not trace");
    }
    for (fsync, expect) in [("never", 0), ("batch", 3), ("always", 15)] {
        let folder = tempfile::tempdir().unwrap();
        let trace = folder.path().join("trace");
        run(as_child(&traced(&trace, &[]), THIS, fsync, folder.path()));
        let found = read(&trace).matches("fdatasync(").count();
        assert_eq!(found, expect, "{fsync}: {}", read(&trace));
    }
}

/// `EIO` from the second sync: what was written is taken out again, and the retry writes it once.
#[tokio::test]
async fn a_sync_that_fails() {
    const THIS: &str = "full::a_sync_that_fails";
    if let Some((_, folder)) = child() {
        let path = folder.join("events.ndjson");
        let sink = open(settings(&path));
        let batch: Vec<_> = (0..6).map(attempt).collect();
        deliver(&sink, &batch[..3]).await;
        let outcomes = sink.deliver(&batch[3..]).await;
        let message = all_nacked(&outcomes, &path).message();
        assert!(message.contains("Input/output error"), "{message}");
        assert_eq!(read(&path), lines(&batch[..3]));
        deliver(&sink, &batch[3..]).await;
        assert_eq!(read(&path), lines(&batch));
        return;
    }
    if !can_trace() {
        return skip(THIS, "strace is missing, or may not trace");
    }
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    let inject = ["-e", "inject=fdatasync:error=EIO:when=2"];
    run(as_child(&traced(&trace, &inject), THIS, "second sync fails", folder.path()));
}

/// The file may be written and the folder may not: rotation has to wait, events do not.
#[cfg(unix)]
#[tokio::test]
async fn a_rotation_that_fails_loses_nothing() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    use std::os::unix::process::CommandExt;
    const THIS: &str = "full::a_rotation_that_fails_loses_nothing";
    const NOBODY: u32 = 65534;
    if let Some((_, folder)) = child() {
        crate::warnings::record();
        let path = folder.join("events.ndjson");
        let size = postrider::config::ByteSize(1 << 10);
        let sink = open(settings(&path).rotate(Rotate::default().size(size)));
        let batch: Vec<_> = (0..20).map(|n| attempt(format!("{n:0>300}"))).collect();
        deliver(&sink, &batch).await;
        assert_eq!(read(&path), lines(&batch));
        let said = crate::warnings::about(&path);
        assert_eq!(said.len(), 1, "said once and not for each line: {said:?}");
        assert!(said[0].contains("cannot rotate a file"), "{said:?}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    fs::write(&path, "").unwrap();
    let set = |mode| fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
    set(0o555);
    let mut command = as_child(&[], THIS, "may not rename", folder.path());
    if fs::metadata(folder.path()).unwrap().uid() == 0 {
        chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
        command.uid(NOBODY).gid(NOBODY);
        if let Err(error) = command.output() {
            return skip(THIS, &format!("another user cannot start this program: {error}"));
        }
        fs::write(&path, "").unwrap();
    }
    run(command);
    set(0o755);
}
