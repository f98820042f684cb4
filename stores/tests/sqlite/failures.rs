//! What is wrong with the file or the disk is said, with the remedy; nothing is lost, and the store
//! goes on when the cause is gone.

use std::fs;
use std::process::Command;
use std::time::Duration;

use postrider::store::Store;
use postrider::{Error, ErrorKind};
use postrider_stores::sqlite::{SqliteStore, rusqlite};

use crate::support::{accept, as_child, at, child, claim, publish, skip};

fn expect(error: &Error, words: &str) {
    let chain = error.chain();
    assert_eq!(error.kind(), ErrorKind::Store, "{chain}");
    assert!(chain.contains(words) && chain.contains("store.db"), "{chain}");
}

async fn open_error(path: &std::path::Path) -> Error {
    SqliteStore::open(path).await.map(|_| ()).unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    fs::write(&path, "no database at all, but long enough to have a header").unwrap();
    expect(&open_error(&path).await, "no SQLite database");

    let missing = folder.path().join("missing/store.db");
    expect(&open_error(&missing).await, "its folder must exist");

    fs::remove_file(&path).unwrap();
    let store = SqliteStore::open(&path).await.unwrap();
    for number in 0..50 {
        publish(&store, &format!("e{number}"), &["a"], at(0)).await.unwrap();
    }
    store.close().await.unwrap();
    drop(store);
    let newer = |version: i64| {
        let connection = rusqlite::Connection::open(&path).unwrap();
        connection.execute("UPDATE postrider_totals SET schema = ?1", [version]).unwrap();
    };
    newer(3);
    expect(&open_error(&path).await, "tables have version 3, this build knows version 2");
    newer(2);
    SqliteStore::open(&path).await.unwrap().close().await.unwrap();

    // Every page but the first, which says what the pages are.
    let mut bytes = fs::read(&path).unwrap();
    bytes[4096..].fill(0xa5);
    fs::write(&path, bytes).unwrap();
    expect(&open_error(&path).await, "damaged");
}

/// Somebody's transaction that takes too long is an error to this call only.
#[tokio::test(flavor = "multi_thread")]
async fn a_locked_database() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let builder = SqliteStore::builder(&path).busy_timeout(Duration::from_millis(20));
    let store = builder.open().await.unwrap();
    publish(&store, "before", &["a"], at(0)).await.unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    expect(&publish(&store, "e", &["a"], at(0)).await.unwrap_err(), "locked for longer than 20ms");
    assert!(store.event(&"e".parse().unwrap()).await.unwrap().is_none(), "readers wait for nobody");
    other.execute_batch("ROLLBACK").unwrap();
    assert!(!publish(&store, "e", &["a"], at(0)).await.unwrap().duplicate);
    assert_eq!(claim(&store, "a", at(0)).await.len(), 2);
}

/// One call that SQLite refuses does not take those down that shared its transaction.
#[tokio::test(flavor = "multi_thread")]
async fn one_call_fails_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = SqliteStore::open(&path).await.unwrap();
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "CREATE TRIGGER t BEFORE INSERT ON postrider_events WHEN NEW.id = 'bad' \
             BEGIN SELECT RAISE(ABORT, 'not this one'); END",
        )
        .unwrap();
    // While this holds the lock, the calls queue up for one transaction behind the first.
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    let names = ["first", "good", "bad", "well"];
    let calls = names.map(|name| store.accept(vec![accept(name, &["a"])], at(0)));
    let release = async {
        tokio::task::yield_now().await;
        connection.execute_batch("ROLLBACK").unwrap();
    };
    let [first, good, bad, well] = calls;
    let (first, good, bad, well, ()) = tokio::join!(first, good, bad, well, release);
    assert!(first.is_ok() && good.is_ok() && well.is_ok());
    expect(&bad.unwrap_err(), "not this one");
    assert_eq!(claim(&store, "a", at(0)).await.len(), 3);
}

/// `ENOSPC` on a file system of 1 MiB, mounted in a namespace of the child's own.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk() {
    const THIS: &str = "failures::a_full_disk";
    if let Some((_, folder)) = child() {
        let path = folder.join("store.db");
        let filler = folder.join("filler");
        fs::write(&filler, vec![0; 300 << 10]).unwrap();
        let store = SqliteStore::open(&path).await.unwrap();
        let mut accepted = 0;
        let error = loop {
            assert!(accepted < 100_000, "the disk never got full");
            match publish(&store, &format!("e{accepted}"), &["a"], at(0)).await {
                Ok(_) => accepted += 1,
                Err(error) => break error,
            }
        };
        expect(&error, "the disk or its quota is full: free some space");
        assert!(accepted > 0);
        let refused = format!("e{accepted}");
        assert!(store.event(&refused.parse().unwrap()).await.unwrap().is_none());
        fs::remove_file(&filler).unwrap();
        assert!(!publish(&store, &refused, &["a"], at(0)).await.unwrap().duplicate);
        let owed = store.backlog(at(0)).await.unwrap()[0].ready;
        assert_eq!(owed, accepted + 1, "what was accepted, and nothing else");
        store.close().await.unwrap();
        let store = SqliteStore::open(&path).await.unwrap();
        assert_eq!(store.backlog(at(0)).await.unwrap()[0].ready, owed);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mount = "mount -t tmpfs -o size=1m none \"$POSTRIDER_TEST_FOLDER\"";
    let mounted = ["unshare", "-rm", "sh", "-c", &format!("{mount} && exec \"$0\" \"$@\"")];
    let can = Command::new("unshare")
        .args(["-rm", "sh", "-c", mount])
        .env("POSTRIDER_TEST_FOLDER", folder.path())
        .output();
    if !can.is_ok_and(|tried| tried.status.success()) {
        return skip(THIS, "mounting in a user namespace is not allowed here");
    }
    let output = as_child(&mounted, THIS, "fills the disk", folder.path()).output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    assert!(out.contains("1 passed"), "the child ran no test: {out}");
}
