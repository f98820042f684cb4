//! kill -9 of a real process under load: what it said it had accepted arrives.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use mock_receiver::Receiver;
use postrider_tests::{postrider, program, run, seed};

/// `concurrency` of the endpoint: what may be under way, and so be repeated, at each kill.
const CONCURRENCY: usize = 8;

fn config(folder: &Path, url: &str) {
    let text = format!(
        "[bus]\ndata_dir = 'data'\n\
         [[endpoints]]\nname = 'app'\nurl = '{url}'\nconcurrency = {CONCURRENCY}\n\
         [network]\nallow = ['127.0.0.0/8']\n"
    );
    fs::write(folder.join("postrider.toml"), text).unwrap();
}

/// Rounds of publish and kill at random moments, then a drain: nothing acknowledged is lost, nothing
/// arrives that was never published, and only what was under way at a kill may arrive twice.
#[tokio::test(flavor = "multi_thread")]
async fn kill_9_loses_nothing() {
    let rounds = if std::env::var("POSTRIDER_TEST_LONG").as_deref() == Ok("1") { 200 } else { 12 };
    let mut random = seed("crash::kill_9_loses_nothing");
    let receiver = Receiver::builder().captures_max(5_000_000).start().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    config(dir.path(), &receiver.url("app"));
    let mut accepted: HashSet<String> = HashSet::new();
    for _ in 0..rounds {
        let mut child = Command::new(program("crasher"))
            .args(["postrider.toml", "publish"])
            .current_dir(dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let reader = std::thread::spawn(move || lines.map_while(Result::ok).collect::<Vec<_>>());
        // tidy: allow(sleep): the moment of the kill is random on purpose
        tokio::time::sleep(Duration::from_millis(20 + random() % 180)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        // A line that the kill cut short is shorter than an id.
        accepted.extend(reader.join().unwrap().into_iter().filter(|line| line.len() == 36));
    }
    let mut drain = Command::new(program("crasher"));
    let ran = run(drain.args(["postrider.toml", "drain"]).current_dir(dir.path()));
    assert_eq!((ran.code, ran.stdout.trim()), (Some(0), "0"), "{ran:?}");

    let mut arrived: HashMap<String, usize> = HashMap::new();
    for seen in receiver.requests("app") {
        *arrived.entry(seen.header("webhook-id").unwrap().to_owned()).or_default() += 1;
    }
    let lost: Vec<&String> = accepted.iter().filter(|id| !arrived.contains_key(*id)).collect();
    assert!(lost.is_empty(), "{} of {} were lost: {:?}", lost.len(), accepted.len(), lost[0]);
    let repeats: usize = arrived.values().map(|count| count - 1).sum();
    println!(
        "{rounds} kills: {} accepted, {} arrived, 0 lost, {repeats} repeated",
        accepted.len(),
        arrived.len()
    );
    assert!(accepted.len() > rounds * 10, "the load was no load: {} events", accepted.len());
    // Settlements ride along with the next write, so what ended within that time may repeat too.
    let per_kill = CONCURRENCY * 100;
    assert!(repeats <= rounds * per_kill, "{repeats} repeats in {rounds} kills");
}

/// What one command leaves owed, the next one delivers; meanwhile nobody else may open the folder.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_delivers_what_an_earlier_one_left() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let text = |url: &str| {
        format!(
            "[bus]\ndata_dir = 'data'\n[[endpoints]]\nname = 'app'\nurl = '{url}'\n\
             retry = {{ schedule = ['50ms', '50ms', '10s'], jitter = 0.0 }}\n\
             [network]\nallow = ['127.0.0.0/8']\n"
        )
    };
    let write = |url: &str| fs::write(dir.path().join("postrider.toml"), text(url)).unwrap();
    write(&format!("http://{free}/"));
    let args = ["publish", "match", "--id", "one", "--data", "{\"a\":  1}", "--wait", "0s"];
    let left = run(&mut postrider(dir.path(), args));
    assert_eq!(left.code, Some(0), "queued durably is done: {left:?}");
    assert!(left.stdout.contains("app: waiting"), "{left:?}");

    let receiver = Receiver::start().await.unwrap();
    write(&receiver.url("app"));
    let next = run(&mut postrider(dir.path(), ["publish", "match", "--id", "two"]));
    assert_eq!(next.code, Some(0), "{next:?}");
    let seen = receiver.requests("app");
    let mut ids: Vec<&str> = seen.iter().map(|seen| seen.header("webhook-id").unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["one", "two"]);
    let one = seen.iter().find(|seen| seen.header("webhook-id") == Some("one")).unwrap();
    assert!(one.text().unwrap().ends_with(",\"data\":{\"a\":  1}}"), "the bytes survived");

    let again = run(&mut postrider(dir.path(), ["publish", "match", "--id", "one", "--json"]));
    assert!(again.stdout.contains("\"duplicate\":true"), "known across runs: {again:?}");
    assert_eq!(receiver.requests("app").len(), 2);
}

/// One process for each data folder, with an error that says who has it.
#[test]
fn a_data_folder_is_one_process_s() {
    let dir = tempfile::tempdir().unwrap();
    config(dir.path(), "http://127.0.0.1:1/");
    let mut holder = Command::new(program("crasher"))
        .args(["postrider.toml", "publish"])
        .current_dir(dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Kept, or the holder would end with its pipe.
    let mut lines = BufReader::new(holder.stdout.take().unwrap());
    lines.read_line(&mut String::new()).unwrap();
    let refused = run(&mut postrider(dir.path(), ["publish", "match"]));
    let pid = holder.id().to_string();
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("data") && refused.stderr.contains(&pid), "{refused:?}");
}
