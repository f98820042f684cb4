//! Captures that outlive their receiver.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::PathBuf,
};

use mock_receiver::{Builder, ErrorKind, Problem, Receiver};

use crate::support::{call, post, raw};

/// A folder that goes when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("mock-receiver-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        Self(dir)
    }

    fn receiver(&self) -> Builder {
        Receiver::builder().store(&self.0)
    }

    fn segments(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path());
        let mut all: Vec<_> = entries.filter(|path| path.extension().is_some()).collect();
        all.retain(|path| path.extension().unwrap() == "log");
        all.sort();
        all
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn captures_are_there_after_a_restart_byte_for_byte() {
    let folder = Folder::new("restart");
    let receiver = folder.receiver().start().await.unwrap();
    let chunks = "POST /a/x?y=%20 HTTP/1.1\r\nHost: a\r\nX-oDD: 1\r\nX-Odd: 2\r\nConnection: close\r\n\
        Transfer-Encoding: chunked\r\n\r\n3\r\n\0\n\u{7f}\r\n0\r\nX-Sum: 1\r\n\r\n";
    raw(receiver.addr(), chunks).await;
    raw(receiver.addr(), "POST /a HTTP/1.1\r\nBad Name: a\r\n\r\n").await;
    post(&receiver, "/b", "", "gone").await;
    receiver.clear("b");
    let before = [receiver.requests("a")[0].clone(), receiver.requests("a")[1].clone()];
    let second = folder.receiver().start().await.unwrap_err();
    assert_eq!(second.kind(), ErrorKind::Start);
    assert!(second.to_string().contains("another receiver has it"), "{second}");
    drop(receiver);

    let receiver = folder.receiver().start().await.unwrap();
    assert!(receiver.requests("b").is_empty(), "what was forgotten stays forgotten");
    let after = receiver.requests("a");
    assert_eq!(after.len(), 2);
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((before.seq, before.head(), before.at), (after.seq, after.head(), after.at));
        assert_eq!((&before.body, &before.reason), (&after.body, &after.reason));
        assert_eq!(before.trailers.raw(), after.trailers.raw());
        assert_eq!(
            (&before.path, &before.query, before.peer),
            (&after.path, &after.query, after.peer)
        );
        assert_eq!((before.problem, before.status), (after.problem, after.status));
        assert_eq!(before.timeline.body.as_micros(), after.timeline.body.as_micros());
    }
    assert_eq!(
        (after[0].body.as_ref(), after[1].problem),
        (&b"\0\n\x7f"[..], Some(Problem::Malformed))
    );
    post(&receiver, "/a", "", "").await;
    assert_eq!(receiver.requests("a")[2].seq, 4, "numbers go on, also behind what was forgotten");
    let listed = call(&receiver, "GET", "requests", "").await.json();
    assert_eq!(listed["total"], 3);
}

/// A crash can tear the last frame anywhere; everything before it must be there, and what comes
/// then must not be lost behind the torn bytes.
#[tokio::test]
async fn a_torn_end_is_cut_away() {
    let folder = Folder::new("torn");
    let receiver = folder.receiver().start().await.unwrap();
    for body in ["one", "two"] {
        post(&receiver, "/a", "", body).await;
    }
    drop(receiver);
    let path = folder.segments().pop().unwrap();
    let whole = fs::read(&path).unwrap();
    let first = 8 + u32::from_le_bytes(whole[..4].try_into().unwrap()) as usize;
    for cut in [first + 1, first + 7, first + 8, first + 100, whole.len() - 1] {
        fs::write(&path, &whole[..cut]).unwrap();
        let receiver = folder.receiver().start().await.unwrap();
        post(&receiver, "/a", "", "three").await;
        drop(receiver);
        let receiver = folder.receiver().start().await.unwrap();
        let bodies: Vec<_> = receiver.requests("a").iter().map(|c| c.body.clone()).collect();
        assert_eq!(bodies, ["one", "three"], "cut at {cut}");
    }
    fs::write(&path, &whole).unwrap();
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(&[0xff; 4096]).unwrap();
    let mut flipped = whole.clone();
    flipped[first + 20] ^= 1;
    assert_eq!(folder.receiver().start().await.unwrap().requests("a").len(), 2);
    fs::write(&path, &flipped).unwrap();
    assert_eq!(folder.receiver().start().await.unwrap().requests("a").len(), 1, "a flipped bit");
}

#[tokio::test]
async fn files_go_with_what_they_held() {
    let folder = Folder::new("bounded");
    let receiver = folder.receiver().captures_max(2).start().await.unwrap();
    let large = "x".repeat(40 << 20);
    for _ in 0..5 {
        post(&receiver, "/a", "", &large).await;
    }
    assert_eq!(receiver.evicted(), 3);
    let bytes: u64 = folder.segments().iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(bytes < 130 << 20, "{bytes} in {:?}", folder.segments());
    drop(receiver);
    let receiver = folder.receiver().captures_max(2).start().await.unwrap();
    let seqs: Vec<_> = receiver.requests("a").iter().map(|capture| capture.seq).collect();
    assert_eq!(seqs, [4, 5]);
}

#[tokio::test]
async fn the_authority_stays_the_same_and_its_key_private() {
    let folder = Folder::new("authority");
    let first = folder.receiver().tls().start().await.unwrap().ca_pem().unwrap().to_owned();
    let second = folder.receiver().tls().start().await.unwrap().ca_pem().unwrap().to_owned();
    assert_eq!(first, second, "trusted once, trusted again");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let key = fs::metadata(folder.0.join("mock-receiver-ca-key.pem")).unwrap();
        assert_eq!(key.permissions().mode() & 0o777, 0o600);
    }
}
