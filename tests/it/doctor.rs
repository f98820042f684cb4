//! `postrider doctor`: looking at a data folder, and salvaging it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use postrider_tests::{Ran, postrider, program, run};
use serde_json::Value;

fn doctor(dir: &Path, args: &[&str]) -> Ran {
    run(&mut postrider(dir, ["doctor"].iter().chain(args)))
}

fn json(ran: &Ran) -> Value {
    assert_eq!(ran.stdout.lines().count(), 1, "one document: {ran:?}");
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
}

/// A folder with three events that are owed to an endpoint that is disabled.
fn owing() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let text = "[bus]\ndata_dir = 'data'\n\
                [[endpoints]]\nid = 'app'\nname = 'app'\nurl = 'http://127.0.0.1:1/'\nenabled = false\n\
                [network]\nallow = ['127.0.0.0/8']\n";
    fs::write(dir.path().join("postrider.toml"), text).unwrap();
    for id in ["one", "two", "three"] {
        let args = ["publish", "match", "--id", id, "--wait", "0s"];
        let ran = run(&mut postrider(dir.path(), args));
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
    dir
}

/// A healthy folder: what is in it, for people and machines; the folder is that of the configuration
/// unless named, and not a byte of it changes.
#[test]
fn a_healthy_folder_is_told_and_not_changed() {
    let dir = owing();
    let files = || {
        let mut files: Vec<_> = fs::read_dir(dir.path().join("data"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect();
        files.sort();
        files
    };
    let before = files();
    let told = doctor(dir.path(), &[]);
    assert_eq!((told.code, told.stderr.as_str()), (Some(0), ""), "{told:?}");
    for expect in ["data is healthy", "events      3", "app", "0 of them tried"] {
        assert!(told.stdout.contains(expect), "{expect}: {told:?}");
    }
    let named = doctor(dir.path(), &["data", "--json"]);
    assert_eq!(named.code, Some(0), "{named:?}");
    let found = json(&named);
    assert_eq!((&found["damaged"], &found["events"]), (&Value::Bool(false), &3.into()));
    assert_eq!(
        (&found["owed"][0]["endpoint"], &found["owed"][0]["fresh"]),
        (&"app".into(), &3.into())
    );
    assert_eq!(found["records"]["event"], 3, "{found}");
    assert!(files() == before, "looking changed the folder");
}

/// A damaged record is told with file and offset and ends with 1; `--repair` makes a folder that
/// holds everything else and works, and leaves the old one as it was.
#[test]
fn a_damaged_folder_is_salvaged() {
    let dir = owing();
    let segment = dir.path().join("data/0000000001.seg");
    let mut bytes = fs::read(&segment).unwrap();
    let at = bytes.windows(3).position(|bytes| bytes == b"two").unwrap();
    bytes[at] ^= 1;
    fs::write(&segment, &bytes).unwrap();
    let told = doctor(dir.path(), &[]);
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(told.stdout.contains("damage: data/0000000001.seg, byte "), "{told:?}");
    assert!(told.stdout.contains("held event 1"), "{told:?}");
    assert!(told.stderr.contains("data is damaged; --repair INTO"), "{told:?}");

    let saved = doctor(dir.path(), &["--repair", "saved", "--json"]);
    assert_eq!(saved.code, Some(1), "{saved:?}");
    let salvage = &json(&saved)["salvage"];
    assert_eq!((&salvage["saved"]["events"], &salvage["deliveries_lost"]), (&2.into(), &1.into()));
    assert_eq!(salvage["lost"][0]["events"], serde_json::json!([1, 1]), "{salvage}");
    assert_eq!(fs::read(&segment).unwrap(), bytes, "the old folder is as it was");
    let healthy = doctor(dir.path(), &["saved"]);
    assert_eq!(healthy.code, Some(0), "{healthy:?}");

    // The salvaged folder knows the ids that it holds, and takes the lost one again.
    let config = dir.path().join("postrider.toml");
    let text = fs::read_to_string(&config).unwrap().replace("'data'", "'saved'");
    fs::write(config, text).unwrap();
    for (id, duplicate) in [("one", true), ("two", false), ("three", true)] {
        let args = ["publish", "match", "--id", id, "--wait", "0s", "--json"];
        let ran = run(&mut postrider(dir.path(), args));
        let expect = format!("\"duplicate\":{duplicate}");
        assert!(ran.stdout.contains(&expect), "{id}: {ran:?}");
    }

    for (into, why) in [("saved", "a new or empty folder"), ("data/in", "that is not in data")] {
        let refused = doctor(dir.path(), &["data", "--repair", into]);
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.stderr.contains(why), "{refused:?}");
    }
}

/// A folder in use is left alone, and its holder named; without a log there is nothing to check.
#[test]
fn a_folder_in_use_or_without_a_log_is_refused() {
    let dir = owing();
    let mut holder = Command::new(program("crasher"))
        .args(["postrider.toml", "publish"])
        .current_dir(dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Kept, or the holder would end with its pipe.
    let mut lines = BufReader::new(holder.stdout.take().unwrap());
    lines.read_line(&mut String::new()).unwrap();
    let refused = doctor(dir.path(), &[]);
    let pid = holder.id().to_string();
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains(&pid), "{refused:?}");

    for (folder, why) in [(".", "it holds no log"), ("nowhere", "No such file")] {
        let refused = doctor(dir.path(), &[folder]);
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains(why), "{refused:?}");
    }
    fs::remove_file(dir.path().join("postrider.toml")).unwrap();
    let which = doctor(dir.path(), &[]);
    assert_eq!(which.code, Some(2), "{which:?}");
    assert!(which.stderr.contains("set bus.data_dir"), "{which:?}");
}
