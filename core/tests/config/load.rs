//! What valid files become.

use std::path::Path;
use std::time::Duration;

use postrider::config::{ByteSize, Config, Format, Scope};
use postrider::store::WhenFull;

use crate::sinks::registry;
use crate::{SAMPLE, VARIABLES, load};

fn toml(text: &str) -> Config {
    load(Format::Toml, text, &[]).unwrap_or_else(|errors| panic!("{text}\n{errors}"))
}

#[test]
fn sample_of_the_design() {
    let config = load(Format::Toml, SAMPLE, &VARIABLES).unwrap();
    assert!(config.enabled);
    assert_eq!(config.bus.data_dir.as_deref(), Some(Path::new("postrider-data")));
    let [app, audit, console] = &config.endpoints[..] else { panic!("{config:#?}") };
    assert_eq!((app.id.as_str(), app.name.as_str(), app.sink.sink()), ("my-app", "My App", "http"));
    assert_eq!(app.events, ["match".parse().unwrap(), "model.*".parse().unwrap()]);
    assert_eq!(app.policy, postrider::endpoint::Policy::default());
    assert!(app.sink.target().contains("Authorization"), "{}", app.sink.target());
    assert_eq!((audit.id.as_str(), audit.sink.sink()), ("audit", "file"));
    assert_eq!((console.id.as_str(), console.sink.sink()), ("console", "print"));
    assert!(config.network.allows("127.0.0.1".parse().unwrap()));
    assert!(!config.network.allows("10.0.0.1".parse().unwrap()));
    assert_eq!(config.server.listen, "127.0.0.1:8787".parse().unwrap());
    assert_eq!(config.server.tokens[0].token.expose(), "server token");
    assert_eq!(config.server.tokens[0].scopes, [Scope::Publish]);
    assert_eq!(config.warnings, []);
}

/// What the guide's "Custom Headers" chapter shows, with the statistics that its script keeps.
const GUIDE: &str = r#"{
  "enabled": true,
  "endpoints": [
    {
      "id": "1701234567890",
      "name": "My App",
      "url": "https://api.example.com/webhook",
      "headers": {
        "Authorization": "Bearer your-token-here",
        "X-Custom-Header": "custom-value"
      },
      "events": ["match"],
      "enabled": true,
      "createdAt": "2025-11-30T14:30:45.123Z",
      "lastTriggered": null,
      "successCount": 127,
      "failureCount": 3
    },
    {
      "id": 1701234567891,
      "name": "Backup App",
      "url": "https://backup.example.com/webhook",
      "events": ["match", "upload"],
      "enabled": false
    }
  ]
}
"#;

#[test]
fn file_of_the_guide_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("webhook_config.json");
    std::fs::write(&path, GUIDE).unwrap();
    let loader = || Config::loader().registry(&registry()).environment_from([("", ""); 0]);
    let config = loader().find(folder.path()).load().unwrap();
    let [app, backup] = &config.endpoints[..] else { panic!("{config:#?}") };
    assert_eq!((app.id.as_str(), app.sink.sink(), app.enabled), ("1701234567890", "http", true));
    assert_eq!((backup.id.as_str(), backup.enabled), ("1701234567891", false));
    assert_eq!(backup.events, ["match".parse().unwrap(), "upload".parse().unwrap()]);
    assert_eq!(config.path.as_deref(), Some(&*path));
    // Commands that change the file find all of it here, statistics and order too.
    assert_eq!(config.document.unwrap().text, GUIDE);

    let prefix = format!("{}:", path.display());
    let warnings: Vec<String> = config
        .warnings
        .iter()
        .map(|warning| warning.to_string().replace(&prefix, ""))
        .filter(|warning| warning.contains("endpoints"))
        .collect();
    assert_eq!(
        warnings,
        ["createdAt", "failureCount", "lastTriggered", "successCount"].map(|key| {
            let line = GUIDE.lines().position(|line| line.contains(key)).unwrap() + 1;
            format!("{line}: endpoints[0].{key}: unknown key — it is ignored, and kept in the file")
        })
    );

    // Anywhere else the same key is an error, and so is a wrong value anywhere.
    let other = folder.path().join("postrider.json");
    std::fs::write(&other, GUIDE).unwrap();
    let errors = loader().find(folder.path()).load().unwrap_err();
    assert_eq!(errors.iter().count(), 4, "{errors}");
    std::fs::write(&path, GUIDE.replace("[\"match\"]", "[]")).unwrap();
    let errors = loader().file(&path).load().unwrap_err();
    assert_eq!(errors.iter().count(), 1, "{errors}");
}

#[test]
fn names_and_ids_when_absent() {
    let check = |keys: &str, id: &str, name: &str| {
        let config = toml(&format!("[[endpoints]]\n{keys}"));
        let endpoint = &config.endpoints[0];
        assert_eq!((endpoint.id.as_str(), endpoint.name.as_str()), (id, name), "{keys}");
    };
    check("url = 'https://a.example'\nid = 'x'\nname = 'Y'", "x", "Y");
    check("url = 'https://a.example'\nname = 'My  App'", "my-app", "My  App");
    check("url = 'https://a.example'\nid = 'X-1'", "X-1", "X-1");
    check("url = 'https://a.example'\nid = 17", "17", "17");
    check("url = 'https://me:pw@a.example:1/x?y'", "a-example-1", "a.example:1");
    check("sink = 'print'", "print", "print");
    check("sink = 'file'\npath = '/tmp/x'", "file", "file");
}

#[test]
fn defaults_reach_endpoints_key_by_key() {
    let config = toml(
        "[defaults]
         timeout = '3s'
         retry = { schedule = ['1s'], jitter = 0.5 }
         format = 'standard'
         headers = { a = '1', b = '22' }
         rotate = { keep = 3 }
         [[endpoints]]
         url = 'https://a.example'
         name = 'a'
         [[endpoints]]
         url = 'https://a.example'
         name = 'b'
         timeout = '4s'
         format = 'guide'
         retry = { jitter = 0 }
         headers = { b = '333' }
         [[endpoints]]
         sink = 'file'
         path = '/tmp/x'
         rotate = { size = 10 }",
    );
    let [a, b, file] = &config.endpoints[..] else { panic!("{config:#?}") };
    assert_eq!(a.policy.timeout, Duration::from_secs(3));
    assert_eq!(b.policy.timeout, Duration::from_secs(4));
    assert_eq!((a.policy.retry.jitter(), a.policy.retry.attempts_max()), (0.5, 2));
    assert_eq!((b.policy.retry.jitter(), b.policy.retry.attempts_max()), (0.0, 2));
    assert_eq!(a.sink.target(), r#"https://a.example#[("a", 1), ("b", 2)][]StandardNone"#);
    assert_eq!(b.sink.target(), r#"https://a.example#[("a", 1), ("b", 3)][]GuideNone"#);
    assert_eq!(file.sink.target(), "/tmp/x Some(ByteSize(10)) Some(3)");
}

#[test]
fn relative_paths_start_at_the_file() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), "from file\n").unwrap();
    let path = folder.path().join("my.toml");
    std::fs::write(
        &path,
        "bus.data_dir = 'data'
         [[endpoints]]
         url = 'https://a.example'
         headers = { h = { file = 'token' } }
         [[endpoints]]
         sink = 'file'
         path = 'log/x'",
    )
    .unwrap();
    let load = |variables: &[(&str, &str)]| {
        let loader = Config::loader().registry(&registry()).file(&path);
        loader.environment_from(variables.iter().copied()).load().unwrap()
    };
    let config = load(&[]);
    assert_eq!(config.bus.data_dir, Some(folder.path().join("data")));
    assert!(config.endpoints[0].sink.target().contains("(\"h\", 9)"), "{config:#?}");
    let log = folder.path().join("log/x");
    assert!(config.endpoints[1].sink.target().starts_with(log.to_str().unwrap()), "{config:#?}");
    // A path that is typed means what it means to the shell.
    let config = load(&[("POSTRIDER_BUS__DATA_DIR", "here")]);
    assert_eq!(config.bus.data_dir.as_deref(), Some(Path::new("here")));
}

#[test]
fn nothing_configured() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config::loader().environment(false).find(folder.path()).load().unwrap();
    assert!(config.endpoints.is_empty() && config.path.is_none());
    assert_eq!(config.bus, Config::default().bus);
    assert_eq!(config.server, Config::default().server);
    let warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        ["built-in default: bus.data_dir: not set: accepted events are kept in memory, and lost \
          when the process ends — set it to a folder"]
    );
}

#[test]
fn the_first_file_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let found = || {
        let config = Config::loader().environment(false).find(folder.path()).load().unwrap();
        config.bus.batch_events_max
    };
    std::fs::write(folder.path().join("webhook_config.json"), r#"{"bus":{"batch_events_max":3}}"#)
        .unwrap();
    assert_eq!(found(), 3);
    std::fs::write(folder.path().join("postrider.json"), r#"{"bus":{"batch_events_max":2}}"#)
        .unwrap();
    assert_eq!(found(), 2);
    std::fs::write(folder.path().join("postrider.toml"), "bus.batch_events_max = 1").unwrap();
    assert_eq!(found(), 1);
}

#[test]
fn format_by_extension_else_by_content() {
    let folder = tempfile::tempdir().unwrap();
    let check = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let config = Config::loader().environment(false).file(&path).load();
        assert_eq!(config.unwrap().bus.when_full, WhenFull::Wait, "{name} {text}");
    };
    check("a.toml", "bus.when_full = 'wait'");
    check("a.json", "{\"bus\": {\"when_full\": \"wait\"}}");
    check("a.conf", "bus.when_full = 'wait'");
    check("a.conf", "\u{feff}\n{\"bus\": {\"when_full\": \"wait\"}}");
    check("a", "\u{feff}bus.when_full = 'wait'");
}

#[test]
fn sizes_of_the_bus() {
    let config = toml(
        "[bus]
         payload_bytes_max = '64KiB'
         batch_bytes_max = 131072
         memory = { bytes_max = '1MB', events_max = 1 }",
    );
    assert_eq!(config.bus.payload_bytes_max, ByteSize(65536));
    assert_eq!(config.bus.batch_bytes_max, ByteSize(131_072));
    assert_eq!(config.bus.memory.bytes_max, ByteSize(1_000_000));
}

/// A null in a filter is a condition. Elsewhere it says the same as an absent key, and a filter that
/// lost it would let every event through.
#[test]
fn a_null_in_a_filter_is_kept() {
    let text =
        r#"{"endpoints": [{"url": "https://a.example", "filter": {"payload": {"a": null}}}]}"#;
    let config = load(Format::Json, text, &[]).unwrap();
    let passes = |payload: &'static str| {
        config.endpoints[0].asks_for(&postrider::NewEvent::raw("x", payload).unwrap()).is_ok()
    };
    assert!(passes(r#"{"a": null}"#));
    assert!(!passes(r#"{"a": 1}"#));
    assert!(!passes("{}"));
}
