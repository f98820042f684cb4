//! The file sink through the program: one line for each event, whole, whatever happens.

use std::collections::BTreeSet;

use postrider_tests::{postrider, run};

fn lines(path: &std::path::Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.ends_with('\n'), "the last line is whole");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
        .collect()
}

/// Two endpoints, two files, each event once in each; a second run appends.
#[test]
fn events_become_lines() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("postrider.toml"),
        "[[endpoints]]\nsink = 'file'\nname = 'audit'\npath = 'log/events.ndjson'\n\
         [[endpoints]]\nsink = 'file'\nname = 'matches'\npath = 'matches.ndjson'\nevents = ['match']\n",
    )
    .unwrap();
    let events: String = (0..200)
        .map(|n| {
            let kind = if n % 2 == 0 { "match" } else { "model.uploaded" };
            format!("{{\"type\":\"{kind}\",\"id\":\"e{n}\",\"data\":{{\"n\": {n}, \"s\":\"\\u2028\"}}}}\n")
        })
        .collect();
    std::fs::write(dir.path().join("events.ndjson"), events).unwrap();
    let ran = run(&mut postrider(dir.path(), ["publish", "--file", "events.ndjson"]));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let all = lines(&dir.path().join("log/events.ndjson"));
    let ids: BTreeSet<&str> = all.iter().map(|line| line["id"].as_str().unwrap()).collect();
    assert_eq!((all.len(), ids.len()), (200, 200), "each event once");
    assert_eq!(lines(&dir.path().join("matches.ndjson")).len(), 100);
    let first = all.iter().find(|line| line["id"] == "e0").unwrap();
    assert_eq!((&first["event"], &first["data"]["n"]), (&"match".into(), &0.into()));

    let ran =
        run(&mut postrider(dir.path(), ["publish", "match", "--data", "{\n  \"pretty\": true\n}"]));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let matches = lines(&dir.path().join("matches.ndjson"));
    assert_eq!((matches.len(), &matches[100]["data"]["pretty"]), (101, &true.into()));
}

/// A relative path starts at the configuration's folder, wherever the program is started.
#[test]
fn relative_paths_start_at_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("etc")).unwrap();
    let text = "[[endpoints]]\nsink = 'file'\nname = 'audit'\npath = 'log/%Y.ndjson'\n";
    std::fs::write(dir.path().join("etc/postrider.toml"), text).unwrap();
    let args = ["publish", "match", "--config", "etc/postrider.toml"];
    let ran = run(&mut postrider(dir.path(), args));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(std::fs::read_dir(dir.path().join("etc/log")).unwrap().count(), 1);
}

/// `check --connect` makes and changes nothing, not even a last line that was never ended.
#[test]
fn checking_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("precious.txt"), "x\nlast").unwrap();
    let text = "[[endpoints]]\nsink = 'file'\nname = 'old'\npath = 'precious.txt'\n\
                [[endpoints]]\nsink = 'file'\nname = 'new'\npath = 'log/new.ndjson'\n";
    std::fs::write(dir.path().join("postrider.toml"), text).unwrap();
    let checked = run(&mut postrider(dir.path(), ["check", "--connect"]));
    assert_eq!(checked.code, Some(0), "{checked:?}");
    let mut names: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["postrider.toml", "precious.txt"]);
    assert_eq!(std::fs::read_to_string(dir.path().join("precious.txt")).unwrap(), "x\nlast");

    let ran = run(&mut postrider(dir.path(), ["publish", "match"]));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let text = std::fs::read_to_string(dir.path().join("precious.txt")).unwrap();
    assert!(text.starts_with("x\nlast\n{\"id\":"), "somebody else's line stays: {text}");
}

/// A file that cannot be written is told, by `check --connect` and by what is left; it is no loss.
#[test]
fn a_file_that_cannot_be_written_is_told() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("taken"), "a file, not a folder").unwrap();
    std::fs::write(
        dir.path().join("postrider.toml"),
        "[[endpoints]]\nsink = 'file'\nname = 'audit'\npath = 'taken/events.ndjson'\n",
    )
    .unwrap();
    let checked = run(&mut postrider(dir.path(), ["check", "--connect"]));
    assert_eq!(checked.code, Some(1), "{checked:?}");
    assert!(checked.stdout.contains("taken"), "{checked:?}");
    let ran = run(&mut postrider(dir.path(), ["publish", "match", "--wait", "100ms"]));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stdout.contains("audit: waiting") && ran.stdout.contains("taken"), "{ran:?}");
}
