//! `bus.store`: events in an `SQLite` file that several processes of the program share.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use mock_receiver::Receiver;
use postrider_tests::{postrider, run};

fn configure(folder: &Path, url: &str) {
    let text = format!(
        "[bus]\nstore = {{ type = 'sqlite', path = 'events.db', poll = '20ms' }}\n\
         [[endpoints]]\nname = 'app'\nurl = '{url}'\n\
         retry = {{ schedule = ['50ms', '50ms', '10s'], jitter = 0.0 }}\n\
         [network]\nallow = ['127.0.0.0/8']\n"
    );
    fs::write(folder.join("postrider.toml"), text).unwrap();
}

fn arrived(receiver: &Receiver) -> BTreeMap<String, usize> {
    let mut arrived = BTreeMap::new();
    for seen in receiver.requests("app") {
        *arrived.entry(seen.header("webhook-id").unwrap().to_owned()).or_default() += 1;
    }
    arrived
}

/// What one process leaves owed, the next one delivers, and knows its id.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_delivers_what_another_left() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    configure(dir.path(), &format!("http://{free}/"));
    let checked = run(&mut postrider(dir.path(), ["check"]));
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(checked.stdout.contains("events are kept by sqlite in events.db"), "{checked:?}");
    assert_eq!(checked.stderr, "", "nothing to complain of");
    assert!(!dir.path().join("events.db").exists(), "a check opens nothing");

    let args = ["publish", "match", "--id", "one", "--wait", "0s"];
    let left = run(&mut postrider(dir.path(), args));
    assert_eq!(left.code, Some(0), "queued durably is done: {left:?}");
    assert!(left.stdout.contains("app: waiting"), "{left:?}");

    let receiver = Receiver::start().await.unwrap();
    configure(dir.path(), &receiver.url("app"));
    let next = run(&mut postrider(dir.path(), ["publish", "match", "--id", "two"]));
    assert_eq!(next.code, Some(0), "{next:?}");
    assert_eq!(arrived(&receiver), [("one".to_owned(), 1), ("two".to_owned(), 1)].into());
    let again = run(&mut postrider(dir.path(), ["publish", "match", "--id", "one", "--json"]));
    assert!(again.stdout.contains("\"duplicate\":true"), "known across processes: {again:?}");
}

/// The past of a shared store is looked at as that of a data folder is; it was refused for want of
/// `bus.data_dir`.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_shared_store_keeps_is_looked_at() {
    let receiver = Receiver::start().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    configure(dir.path(), &receiver.url("app"));
    let published = run(&mut postrider(dir.path(), ["publish", "match", "--id", "one"]));
    assert_eq!(published.code, Some(0), "{published:?}");
    let check = |args: &[&str], expect: &str| {
        let ran = run(&mut postrider(dir.path(), args));
        assert_eq!(ran.code, Some(0), "{args:?}: {ran:?}");
        assert!(ran.stdout.contains(expect), "{args:?}: {ran:?}");
    };
    check(&["events"], "delivered (app)");
    check(&["deliveries"], "app.one");
    check(&["stats"], "100.0%");
    check(&["dead"], "nothing was given up");
    check(&["replay", "--dry-run"], "would make 1 delivery of 1 event");
    check(&["retry", "app.one"], "app: delivered");
    check(&["replay", "--yes"], "made 1 delivery of 1 event");
    assert_eq!(arrived(&receiver), [("one".to_owned(), 3)].into());
    let doctor = run(&mut postrider(dir.path(), ["doctor"]));
    assert_eq!(doctor.code, Some(2), "{doctor:?}");
    assert!(doctor.stderr.contains("kept by sqlite in events.db"), "{doctor:?}");
}

/// Two processes at once, where a data folder would be refused to the second.
#[tokio::test(flavor = "multi_thread")]
async fn two_processes_at_once_deliver_each_event_once() {
    const EACH: usize = 100;
    let receiver = Receiver::start().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    configure(dir.path(), &receiver.url("app"));
    let processes = ["x", "y"].map(|name| {
        let lines =
            (0..EACH).map(|n| format!("{{\"type\":\"match\",\"id\":\"{name}{n}\",\"data\":1}}\n"));
        let file = format!("{name}.ndjson");
        fs::write(dir.path().join(&file), lines.collect::<String>()).unwrap();
        postrider(dir.path(), ["publish", "--file", &file])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    });
    for process in processes {
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let arrived = arrived(&receiver);
    assert_eq!(arrived.len(), 2 * EACH);
    let repeated: Vec<_> = arrived.iter().filter(|(_, count)| **count > 1).collect();
    assert!(repeated.is_empty(), "{repeated:?}");
}

/// A file that cannot be opened, and a store beside a data folder, are said with their remedy.
#[test]
fn mistakes_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let write = |text: &str| fs::write(dir.path().join("postrider.toml"), text).unwrap();
    write("[bus]\nstore = { type = 'sqlite', path = 'missing/events.db' }");
    let published = run(&mut postrider(dir.path(), ["publish", "match"]));
    assert_eq!(published.code, Some(1), "{published:?}");
    let expect = "open the SQLite store missing/events.db: the file cannot be opened: its folder must \
                  exist and be writable";
    assert!(published.stderr.contains(expect), "{published:?}");

    write("[bus]\ndata_dir = 'data'\nstore = { type = 'sqlite', path = 'events.db' }");
    let checked = run(&mut postrider(dir.path(), ["check"]));
    assert_eq!(checked.code, Some(2), "{checked:?}");
    let expect = "postrider.toml:3: bus.store: cannot stand beside bus.data_dir";
    assert!(checked.stderr.contains(expect), "{checked:?}");
}
