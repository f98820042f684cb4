//! The commands that look at what was published, and send it again.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use mock_receiver::Receiver;
use postrider_tests::{DEADLINE, Ran, eventually, postrider, run};
use serde_json::Value;

/// A folder with a data folder, one attempt for each delivery, and these endpoints of one receiver,
/// each with the bin of its name.
fn folder(receiver: &Receiver, endpoints: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    configure(dir.path(), receiver, endpoints);
    dir
}

fn configure(dir: &Path, receiver: &Receiver, endpoints: &[&str]) {
    let mut toml = "[bus]\ndata_dir = 'data'\n[network]\nallow = ['127.0.0.0/8']\n\
                    [defaults]\nretry = { schedule = [] }\n"
        .to_owned();
    for name in endpoints {
        let url = receiver.url(name);
        writeln!(toml, "[[endpoints]]\nname = 'The {name}'\nid = '{name}'\nurl = '{url}'").unwrap();
    }
    fs::write(dir.join("postrider.toml"), toml).unwrap();
}

fn ran(dir: &Path, args: &[&str]) -> Ran {
    run(&mut postrider(dir, args))
}

#[track_caller]
fn well(dir: &Path, args: &[&str]) -> Ran {
    let ran = ran(dir, args);
    assert_eq!(ran.code, Some(0), "{args:?}: {ran:?}");
    ran
}

/// The one document of a command that went well.
#[track_caller]
fn json(dir: &Path, args: &[&str]) -> Value {
    let ran = well(dir, &[args, &["--json"]].concat());
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{args:?} {error}: {ran:?}"))
}

/// The lines of a command that lists.
#[track_caller]
fn lines(dir: &Path, args: &[&str]) -> Vec<Value> {
    let ran = well(dir, &[args, &["--json"]].concat());
    let lines = ran.stdout.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().unwrap_or_else(|error| panic!("{args:?} {error}: {ran:?}"))
}

fn publish(dir: &Path, count: usize) -> Ran {
    let mut events = String::new();
    for number in 0..count {
        writeln!(events, r#"{{"type":"match","id":"e{number}","data":{{"n":{number}}}}}"#).unwrap();
    }
    fs::write(dir.join("events.ndjson"), events).unwrap();
    ran(dir, &["publish", "--file", "events.ndjson"])
}

/// Without a data folder there is no past, and each command says why and what to do.
#[test]
fn memory_has_no_past() {
    let dir = tempfile::tempdir().unwrap();
    let look = [
        &["events"][..],
        &["deliveries"],
        &["dead"],
        &["dead", "purge"],
        &["dead", "replay"],
        &["retry", "a.e"],
        &["replay"],
        &["replay", "--list"],
        &["stats"],
    ];
    for toml in ["", "[bus]\ndata_dir = 'none-yet'\n"] {
        fs::write(dir.path().join("postrider.toml"), toml).unwrap();
        for args in look {
            let ran = ran(dir.path(), args);
            assert_eq!((ran.code, &*ran.stdout), (Some(1), ""), "{args:?}: {ran:?}");
            assert!(ran.stderr.contains("bus.data_dir"), "{args:?}: {ran:?}");
        }
        assert!(!dir.path().join("none-yet").exists(), "looking makes nothing");
    }
}

/// What is asked for wrongly is said with what would be right.
#[test]
fn wrong_words_are_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("postrider.toml"), "[bus]\ndata_dir = 'data'\n").unwrap();
    let check = |args: &[&str], stderr: &str| {
        let ran = ran(dir.path(), args);
        assert_eq!(ran.code, Some(2), "{args:?}: {ran:?}");
        assert!(ran.stderr.contains(stderr), "{args:?}: {ran:?}");
    };
    check(&["events", "--since", "yesterday"], "how long ago, such as 2h");
    check(&["events", "--state", "lost"], "possible values: waiting");
    check(&["events", "--type", "a..b"], "expected an event type");
    check(&["events", "--limit", "0"], "--limit");
    check(&["retry", "nothing"], "expected a delivery id ENDPOINT.EVENT");
    check(&["retry"], "ENDPOINT.EVENT");
    check(&["replay", "--rate", "fast"], "expected a rate such as 100/s");
    check(&["replay", "--never-delivered"], "name it with --to");
    check(&["replay", "--cancel", "x"], "the id of a replay");
    check(&["dead", "replay", "--reason", "bored"], "possible values: exhausted");
}

/// From given up to delivered or set aside: counted, listed, replayed, purged.
#[tokio::test(flavor = "multi_thread")]
async fn the_way_of_dead_letters() {
    let receiver = Receiver::start().await.unwrap();
    receiver.on("app").respond([500, 500, 500, 200]);
    let dir = folder(&receiver, &["app", "audit"]);
    assert_eq!(publish(dir.path(), 3).code, Some(1), "three were given up");

    let dead = json(dir.path(), &["dead"]);
    assert_eq!(dead["dead"].as_array().unwrap().len(), 1, "{dead}");
    assert_eq!(
        (&dead["dead"][0]["endpoint"], &dead["dead"][0]["count"]),
        (&"app".into(), &3.into())
    );
    assert_eq!(dead["dead"][0]["reason"], "exhausted");
    let shown = well(dir.path(), &["dead"]).stdout;
    assert!(shown.contains("ENDPOINT") && shown.contains("The app"), "{shown}");

    let listed = lines(dir.path(), &["deliveries", "--state", "dead"]);
    assert_eq!(listed.len(), 3);
    assert!(listed.iter().all(|it| it["endpoint"] == "app" && it["attempts"][0]["status"] == 500));
    assert_eq!(lines(dir.path(), &["events", "--endpoint", "The audit"]).len(), 3);
    assert_eq!(lines(dir.path(), &["events", "--limit", "2"]).len(), 2);
    assert_eq!(lines(dir.path(), &["events", "--type", "upload"]).len(), 0);
    assert_eq!(lines(dir.path(), &["events", "--until", "1h"]).len(), 0);
    assert_eq!(lines(dir.path(), &["events", "--since", "1h"]).len(), 3);
    let one = json(dir.path(), &["events", "e1"]);
    assert_eq!((&one["data"]["n"], one["deliveries"].as_array().unwrap().len()), (&1.into(), 2));
    assert!(well(dir.path(), &["events", "e1"]).stdout.contains(r#"data {"n":1}"#));
    assert_eq!(json(dir.path(), &["deliveries", "app.e1"])["state"], "dead");
    assert_eq!(ran(dir.path(), &["events", "none"]).code, Some(1));
    assert_eq!(ran(dir.path(), &["deliveries", "app.none"]).code, Some(1));
    assert_eq!(receiver.requests("app").len(), 3, "looking delivers nothing");

    let retried = json(dir.path(), &["retry", "app.e0"]);
    assert_eq!(retried["deliveries"][0]["id"], "app~1.e0");
    assert_eq!(retried["deliveries"][0]["state"], "delivered");
    let counted = json(dir.path(), &["dead", "replay", "--dry-run"]);
    assert_eq!((&counted["events"], &counted["deliveries"]["app"]), (&2.into(), &2.into()));
    let replayed = json(dir.path(), &["dead", "replay", "--since", "1h"]);
    assert_eq!(
        (&replayed["replay"]["state"], &replayed["replay"]["counts"]["made"]),
        (&"done".into(), &2.into())
    );
    assert!(well(dir.path(), &["dead"]).stdout.contains("nothing was given up"));
    assert_eq!((receiver.requests("app").len(), receiver.requests("audit").len()), (6, 3));

    receiver.on("app").respond([500]);
    let failed = ran(dir.path(), &["replay", "--endpoint", "app", "--type", "match"]);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(failed.stderr.contains("3 deliveries given up meanwhile"), "{failed:?}");
    assert_eq!(ran(dir.path(), &["retry", "app.e0", "app.none"]).code, Some(1), "given up again");
    assert_eq!(json(dir.path(), &["dead", "purge", "--endpoint", "audit"])["purged"], 0);
    assert_eq!(json(dir.path(), &["dead", "purge"])["purged"], 3);
    assert_eq!(json(dir.path(), &["dead", "purge"])["purged"], 0);
    assert_eq!(
        lines(dir.path(), &["deliveries", "--state", "purged"]).len(),
        3,
        "it stays in history"
    );
}

/// An endpoint that is added later gets what it missed: counted first, broken off, listed, resumed.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_goes_on_where_it_was_broken_off() {
    let receiver = Receiver::start().await.unwrap();
    let dir = folder(&receiver, &["app"]);
    assert_eq!(publish(dir.path(), 30).code, Some(0));
    configure(dir.path(), &receiver, &["app", "new"]);
    let missed = ["replay", "--never-delivered", "--to", "The new"];
    let counted = json(dir.path(), &[&missed[..], &["--dry-run"]].concat());
    assert_eq!(counted["deliveries"]["new"], 30);
    assert_eq!(receiver.requests("new").len(), 0);

    let slow = well(dir.path(), &[&missed[..], &["--rate", "100/s", "--wait", "100ms"]].concat());
    assert!(slow.stdout.contains("not done yet") && slow.stdout.contains("--resume"), "{slow:?}");
    let listed = json(dir.path(), &["replay", "--list"]);
    let id = listed["replays"][0]["id"].as_str().unwrap().to_owned();
    assert!(well(dir.path(), &["replay", "--list"]).stdout.contains(&id));
    let resumed = json(dir.path(), &["replay", "--resume", &id]);
    assert_eq!(
        (&resumed["replay"]["state"], &resumed["replay"]["counts"]["made"]),
        (&"done".into(), &30.into())
    );
    let ids: std::collections::HashSet<_> = receiver
        .requests("new")
        .iter()
        .map(|it| it.header("webhook-id").unwrap().to_owned())
        .collect();
    // An attempt that the end of --wait broke off may come twice, with the same id.
    assert_eq!((ids.len(), receiver.requests("app").len()), (30, 30));
    assert_eq!(json(dir.path(), &missed)["replay"]["counts"]["found"], 0, "nothing is missing");

    let again = ["replay", "--endpoint", "app", "--rate", "1/h", "--wait", "0s"];
    let again = json(dir.path(), &again)["replay"]["id"].as_str().unwrap().to_owned();
    assert_eq!(json(dir.path(), &["replay", "--cancel", &again])["state"], "cancelled");
    assert_eq!(ran(dir.path(), &["replay", "--to", "nobody"]).code, Some(1));
}

/// A receiver that says 410 is asked no more by later commands, until somebody enables it.
#[tokio::test(flavor = "multi_thread")]
async fn gone_outlives_the_command() {
    let receiver = Receiver::start().await.unwrap();
    receiver.on("app").respond([410, 200]);
    let dir = folder(&receiver, &["app"]);
    assert_eq!(publish(dir.path(), 1).code, Some(1));
    let held = ran(dir.path(), &["publish", "match", "--data", "1"]);
    assert!(held.stdout.contains("The app: held"), "{held:?}");
    assert_eq!(receiver.requests("app").len(), 1);
    for args in [&["deliveries", "--state", "waiting"][..], &["events", "--state", "waiting"]] {
        assert_eq!(lines(dir.path(), args).len(), 1, "{args:?}");
    }
    let waiting = well(dir.path(), &["deliveries", "--state", "waiting"]).stdout;
    assert!(waiting.contains("held since"), "the list says why it waits: {waiting}");
    let stats = json(dir.path(), &["stats"]);
    assert_eq!(
        (&stats["endpoints"][0]["hold"], &stats["endpoints"][0]["status"]),
        (&"gone".into(), &410.into())
    );
    assert!(well(dir.path(), &["stats"]).stdout.contains("held since"));
    assert_eq!(ran(dir.path(), &["enable", "none"]).code, Some(1));
    well(dir.path(), &["enable", "The app"]);
    assert_eq!(receiver.requests("app").len(), 1, "enabling delivers nothing by itself");
    well(dir.path(), &["publish", "match", "--data", "2"]);
    assert_eq!(receiver.requests("app").len(), 3);
}

/// What went well and what did not, by window, with the last failure and what is owed.
#[tokio::test(flavor = "multi_thread")]
async fn stats_tell_how_it_went() {
    let receiver = Receiver::start().await.unwrap();
    receiver.on("app").respond([200, 200, 200, 503]);
    let dir = folder(&receiver, &["app", "idle"]);
    let toml = fs::read_to_string(dir.path().join("postrider.toml")).unwrap();
    let toml = toml.replace("id = 'idle'", "id = 'idle'\nenabled = false");
    fs::write(dir.path().join("postrider.toml"), toml).unwrap();
    publish(dir.path(), 4);
    let stats = json(dir.path(), &["stats"]);
    let [app, idle] = stats["endpoints"].as_array().unwrap().as_slice() else { panic!("{stats}") };
    for window in ["1h", "24h", "7d"] {
        let window = &app["windows"][window];
        assert_eq!(
            (&window["succeeded"], &window["failed"], &window["dead"]),
            (&3.into(), &1.into(), &1.into())
        );
        assert_eq!(window["success_rate"], 0.75);
        assert!(window["p50"].is_u64() && window["p99"].is_u64(), "{window}");
    }
    assert_eq!((&app["last_failure"]["status"], &app["due"]), (&503.into(), &0.into()));
    assert_eq!((&idle["hold"], &idle["due"]), (&"disabled".into(), &4.into()));
    let shown = well(dir.path(), &["stats"]).stdout;
    for part in ["The app", "75.0%", "last failure", "owed: 4 due", "held: disabled", "█"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
}

/// While another process has the data folder, the error names it.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_in_use_names_its_holder() {
    let receiver = Receiver::start().await.unwrap();
    receiver.on("app").respond([503]);
    let dir = folder(&receiver, &["app"]);
    let toml = fs::read_to_string(dir.path().join("postrider.toml")).unwrap();
    let toml = toml.replace("schedule = []", "schedule = ['1h']");
    fs::write(dir.path().join("postrider.toml"), toml).unwrap();
    let mut holder = postrider(dir.path(), ["publish", "match", "--wait", "1h"]).spawn().unwrap();
    receiver.wait("app").count(1).within(DEADLINE).await.unwrap();
    let pid = holder.id().to_string();
    let looked = eventually("the error", async || {
        let ran = ran(dir.path(), &["events"]);
        (ran.code == Some(1), ran)
    });
    let looked = looked.await;
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(looked.stderr.contains(&format!("process {pid} has it open")), "{looked:?}");
}
