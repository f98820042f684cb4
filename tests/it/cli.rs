//! The program: its commands, exit codes and output.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use mock_receiver::Receiver;
use postrider_tests::{DEADLINE, LOCAL, Ran, postrider, run};
use serde_json::Value;

fn folder(file: &str, text: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(file), text).unwrap();
    dir
}

fn ran(dir: &Path, args: &[&str]) -> Ran {
    run(&mut postrider(dir, args))
}

fn json(ran: &Ran) -> Value {
    assert_eq!(ran.stdout.lines().count(), 1, "one document: {ran:?}");
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
}

/// `init` writes a file that `check` takes and `publish` works with; it replaces nothing unasked.
#[test]
fn init_check_publish() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(ran(dir.path(), &["init"]).code, Some(0));
    let written = fs::read_to_string(dir.path().join("postrider.toml")).unwrap();
    assert!(written.contains("# [[endpoints]]"), "commented");
    let again = ran(dir.path(), &["init"]);
    assert_eq!(again.code, Some(1), "{again:?}");
    assert!(
        again.stderr.contains("postrider.toml is there already; --force replaces it"),
        "{again:?}"
    );
    assert_eq!(ran(dir.path(), &["init", "--force"]).code, Some(0));
    let checked = ran(dir.path(), &["check"]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(checked.stdout.contains("postrider.toml is valid"), "{checked:?}");
    assert_eq!(checked.stderr, "", "nothing to complain of");
    let published = ran(dir.path(), &["publish", "match", "--data", "{\"confidence\":0.87}"]);
    assert_eq!(published.code, Some(0), "{published:?}");
    assert!(
        published.stdout.contains("\"confidence\":0.87"),
        "the console endpoint: {published:?}"
    );
}

/// What `init` leaves commented out is valid when it is put in.
#[test]
fn the_commented_parts_of_init_are_valid() {
    let dir = tempfile::tempdir().unwrap();
    ran(dir.path(), &["init"]);
    let path = dir.path().join("postrider.toml");
    let text = fs::read_to_string(&path).unwrap();
    // Lines that begin with "# " and hold TOML, not sentences.
    let whole: String = text
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.starts_with("[[") || rest.split(' ').nth(1) == Some("=") => rest,
            _ => line,
        })
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(whole.matches("\n[[endpoints]]").count(), 3, "{whole}");
    fs::write(&path, whole).unwrap();
    let checked = run(postrider(dir.path(), ["check"])
        .env("MY_APP_TOKEN", "Bearer t")
        .env("MY_APP_WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"));
    assert_eq!(checked.code, Some(0), "{checked:?}");
}

/// Five mistakes are five errors, each with its place and remedy, and exit code 2.
#[test]
fn five_mistakes_are_five_errors() {
    let dir = folder(
        "postrider.toml",
        "[bus]\n\
         payload_bytes_max = 'big'\n\
         [[endpoints]]\n\
         name = 'a'\n\
         url = 'ftp://example.com'\n\
         [[endpoints]]\n\
         name = 'b'\n\
         url = 'https://example.com'\n\
         evnts = ['match']\n\
         timeout = '10'\n\
         [[endpoints]]\n\
         name = 'c'\n\
         sink = 'slcak'\n",
    );
    for command in [&["check"][..], &["publish", "match"]] {
        let ran = ran(dir.path(), command);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        let errors: Vec<&str> =
            ran.stderr.lines().filter(|line| line.contains("postrider.toml:")).collect();
        assert_eq!(errors.len(), 5, "{}", ran.stderr);
        for (error, place) in errors.iter().zip([
            "toml:2: bus.payload_bytes_max",
            "toml:5: endpoints[0].url",
            "toml:9: endpoints[1].evnts",
            "toml:10: endpoints[1].timeout",
            "toml:13: endpoints[2].sink",
        ]) {
            assert!(error.contains(place), "{place}: {error}");
        }
        assert!(errors[2].contains("events"), "the nearest key: {}", errors[2]);
        assert!(ran.stdout.is_empty());
    }
}

/// For machines the mistakes are a document.
#[test]
fn mistakes_for_machines() {
    let dir = folder("postrider.toml", "[bus]\nwhen_full = 'maybe'\n[[endpoints]]\nurl = 'x'\n");
    let checked = ran(dir.path(), &["check", "--json"]);
    assert_eq!(checked.code, Some(2), "{checked:?}");
    let errors = json(&checked)["errors"].clone();
    let keys: Vec<&str> =
        errors.as_array().unwrap().iter().map(|it| it["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["bus.when_full", "endpoints[0].url"]);
    assert_eq!(errors[0]["line"], 2);
}

/// `init` writes where it is told to, and TOML only.
#[test]
fn init_writes_where_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(ran(dir.path(), &["--config", "a.toml", "init"]).code, Some(0));
    assert_eq!(ran(dir.path(), &["init", "b.toml"]).code, Some(0));
    assert!(dir.path().join("a.toml").exists() && dir.path().join("b.toml").exists());
    assert_eq!(ran(dir.path(), &["init", "c.json"]).code, Some(2));
    assert!(!dir.path().join("c.json").exists());
}

/// Deliveries of a disabled endpoint are held, and told so.
#[test]
fn held_is_told_as_held() {
    let dir = folder(
        "postrider.toml",
        "[bus]\ndata_dir = 'data'\n[[endpoints]]\nsink = 'file'\nname = 'Off'\npath = 'x'\nenabled = false\n",
    );
    let published = ran(dir.path(), &["publish", "match"]);
    assert_eq!(published.code, Some(0), "{published:?}");
    assert!(published.stdout.contains("Off: held: the endpoint is disabled"), "{published:?}");
}

/// The same configuration in TOML, in JSON and in variables is the same.
#[test]
fn three_spellings_one_configuration() {
    let toml = folder(
        "postrider.toml",
        "[[endpoints]]\nname = 'My App'\nurl = 'https://example.com/hook'\nevents = ['match', 'model.*']\n\
         enabled = false\n[[endpoints]]\nsink = 'stdout'\nname = 'console'\n",
    );
    let json_file = folder(
        "postrider.json",
        r#"{"endpoints":[{"name":"My App","url":"https://example.com/hook","events":["match","model.*"],
            "enabled":false},{"sink":"stdout","name":"console"}]}"#,
    );
    let empty = tempfile::tempdir().unwrap();
    let mut from_variables = postrider(empty.path(), ["check", "--json"]);
    from_variables
        .env("POSTRIDER_ENDPOINTS__0__NAME", "My App")
        .env("POSTRIDER_ENDPOINTS__0__URL", "https://example.com/hook")
        .env("POSTRIDER_ENDPOINTS__0__EVENTS", "[\"match\",\"model.*\"]")
        .env("POSTRIDER_ENDPOINTS__0__ENABLED", "false")
        .env("POSTRIDER_ENDPOINTS__1__SINK", "stdout")
        .env("POSTRIDER_ENDPOINTS__1__NAME", "console");
    let endpoints = |ran: &Ran| json(ran)["endpoints"].clone();
    let expect = endpoints(&ran(toml.path(), &["check", "--json"]));
    assert_eq!(expect.as_array().unwrap().len(), 2);
    assert_eq!(expect[0]["events"], serde_json::json!(["match", "model.*"]));
    assert_eq!(endpoints(&ran(json_file.path(), &["check", "--json"])), expect);
    assert_eq!(endpoints(&run(&mut from_variables)), expect);
}

/// The guide's own file works as it stands, statistics and all.
#[tokio::test(flavor = "multi_thread")]
async fn the_guides_config_works_unchanged() {
    let receiver = Receiver::start().await.unwrap();
    let config = serde_json::json!({
        "enabled": true,
        "endpoints": [{
            "id": "1701234567890",
            "name": "My App",
            "url": receiver.url("app"),
            "headers": { "Authorization": "Bearer your-token-here", "X-Custom-Header": "custom-value" },
            "events": ["match"],
            "enabled": true,
            "successCount": 127,
        }],
    });
    let dir = folder("webhook_config.json", &config.to_string());
    let published =
        run(postrider(dir.path(), ["publish", "match", "--data", "{\"a\":1}", "--json"])
            .env("POSTRIDER_NETWORK__ALLOW", "[\"127.0.0.0/8\"]"));
    assert_eq!(published.code, Some(0), "{published:?}");
    assert!(
        published.stderr.contains("successCount"),
        "an unknown key is a warning: {published:?}"
    );
    let seen = receiver.wait("app").count(1).within(DEADLINE).await.unwrap().remove(0);
    assert_eq!(seen.header("authorization"), Some("Bearer your-token-here"));
    let report = json(&published);
    assert_eq!(report["accepted"][0]["id"].as_str(), seen.header("webhook-id"));
    assert_eq!(report["deliveries"][0]["endpoint"], "1701234567890");
    assert_eq!(report["deliveries"][0]["state"], "delivered");
    assert!(
        !published.stderr.contains("your-token-here")
            && !published.stdout.contains("your-token-here")
    );
}

/// `check --connect` asks each endpoint and sends nothing.
#[tokio::test(flavor = "multi_thread")]
async fn check_connects() {
    let receiver = Receiver::start().await.unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let toml = format!(
        "[[endpoints]]\nname = 'up'\nurl = '{}'\n[[endpoints]]\nname = 'down'\nurl = 'http://{free}/'\n\
         [[endpoints]]\nname = 'off'\nurl = 'http://{free}/'\nenabled = false\n{LOCAL}",
        receiver.url("app")
    );
    let dir = folder("postrider.toml", &toml);
    assert_eq!(ran(dir.path(), &["check"]).code, Some(0));
    let asked = ran(dir.path(), &["check", "--connect", "--json"]);
    assert_eq!(asked.code, Some(1), "{asked:?}");
    let report = json(&asked);
    let reachable: Vec<&Value> = report["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|endpoint| &endpoint["reachable"])
        .collect();
    assert_eq!(reachable, [&Value::Bool(true), &Value::Bool(false), &Value::Null]);
    assert!(report["endpoints"][1]["error"].as_str().unwrap().contains("refused"), "{report}");
    assert!(receiver.requests("app").is_empty());
}

/// What cannot be delivered within `--wait` is told, and is a failure without a data folder.
#[test]
fn what_is_left_is_told() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let toml = format!(
        "[[endpoints]]\nname = 'down'\nurl = 'http://{free}/?token=hunter2'\n[network]\nallow = ['127.0.0.0/8']\n"
    );
    let dir = folder("postrider.toml", &toml);
    let ran = ran(dir.path(), &["publish", "match", "--wait", "300ms"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stdout.contains("down: waiting") && ran.stdout.contains("refused"), "{ran:?}");
    assert!(ran.stderr.contains("1 delivery was not made within --wait"), "{ran:?}");
    assert!(!format!("{ran:?}").contains("hunter2"), "a query may hold a secret: {ran:?}");
}

/// Where the payload comes from, and what is wrong with it.
#[test]
fn payloads() {
    let dir =
        folder("postrider.toml", "[[endpoints]]\nsink = 'file'\nname = 'f'\npath = 'out.ndjson'\n");
    fs::write(dir.path().join("data.json"), "{\"from\": \"file\"}").unwrap();
    let check = |args: &[&str], code: i32, stderr: &str| {
        let ran = ran(dir.path(), args);
        assert_eq!(ran.code, Some(code), "{args:?}: {ran:?}");
        assert!(ran.stderr.contains(stderr), "{args:?}: {ran:?}");
    };
    check(&["publish", "match", "--data", "@data.json"], 0, "");
    check(&["publish", "match"], 0, "");
    check(&["publish", "match", "--data", "-5"], 0, "");
    check(&["publish", "match", "--data", "{"], 2, "not valid JSON");
    check(&["publish", "match", "--data", "@none.json"], 1, "none.json");
    check(&["publish", "ma tch"], 2, "expected an event type");
    check(&["publish", "postrider.dead"], 2, "belong to the bus");
    check(&["publish", "match", "--key", ""], 2, "key of 1 to 256 bytes");
    check(&["publish", "match", "--id", "a b"], 2, "printable ASCII");
    check(&["publish", "match", "--wait", "5"], 2, "a duration with a unit");
    check(&["publish"], 2, "TYPE");
    check(&["publish", "match", "--file", "x"], 2, "cannot be used with");
    check(&["frobnicate"], 2, "unrecognized subcommand");
    check(&["--config", "none.toml", "check"], 2, "none.toml");
    let mut from_stdin = postrider(dir.path(), ["publish", "match", "--data", "-"]);
    let mut child = from_stdin.stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"[1,  2]").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let out = fs::read_to_string(dir.path().join("out.ndjson")).unwrap();
    let data: Vec<&str> = out.lines().map(|line| line.split_once("\"data\":").unwrap().1).collect();
    assert_eq!(data, ["{\"from\": \"file\"}}", "{}}", "-5}", "[1,  2]}"]);
}

/// A file of events is accepted whole or not at all; a wrong line is named.
#[test]
fn files_of_events() {
    let dir =
        folder("postrider.toml", "[[endpoints]]\nsink = 'file'\nname = 'f'\npath = 'out.ndjson'\n");
    let good = "{\"type\":\"match\",\"data\":{\"a\":  1},\"id\":\"one\",\"key\":\"k\",\"timestamp\":\"2025-11-30T14:30:45.123Z\"}\n\n\
                {\"event\":\"upload\",\"data\":null}\n";
    let check = |text: &str, code: i32, stderr: &str| {
        fs::write(dir.path().join("in.ndjson"), text).unwrap();
        let ran = ran(dir.path(), &["publish", "--file", "in.ndjson"]);
        assert_eq!(ran.code, Some(code), "{text}: {ran:?}");
        assert!(ran.stderr.contains(stderr), "{text}: {ran:?}");
    };
    let lines = || fs::read_to_string(dir.path().join("out.ndjson")).unwrap_or_default();
    for (wrong, why) in [
        ("{\"type\":\"match\"}", "in.ndjson:4: expected \"data\""),
        ("{\"data\":1}", "in.ndjson:4: expected \"type\""),
        ("{\"type\":\"a\",\"event\":\"a\",\"data\":1}", "in.ndjson:4: expected either"),
        ("{\"type\":\"a\",\"data\":1,\"kye\":\"x\"}", "in.ndjson:4: unknown field `kye`"),
        ("{\"type\":\"a\",\"data\":}", "in.ndjson:4: expected value"),
        ("not json", "in.ndjson:4:"),
    ] {
        check(&format!("{good}{wrong}\n"), 2, why);
        assert_eq!(lines(), "", "nothing was accepted");
    }
    check("\n \n", 2, "holds no events");
    check(good, 0, "");
    let out = lines();
    assert_eq!(out.lines().count(), 2);
    assert!(out.contains("\"id\":\"one\",\"event\":\"match\",\"timestamp\":\"2025-11-30T14:30:45.123Z\",\"key\":\"k\",\"data\":{\"a\":  1}}"), "{out}");
}

/// Published twice in one file, an id is delivered once and both lines get its receipt.
#[test]
fn duplicates_are_told() {
    let dir =
        folder("postrider.toml", "[[endpoints]]\nsink = 'file'\nname = 'f'\npath = 'out.ndjson'\n");
    let line = "{\"type\":\"match\",\"id\":\"one\",\"data\":1}\n";
    fs::write(dir.path().join("in.ndjson"), line.repeat(2)).unwrap();
    let ran = ran(dir.path(), &["publish", "--file", "in.ndjson", "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let report = json(&ran);
    assert_eq!(report["accepted"][0]["duplicate"], false);
    assert_eq!(report["accepted"][1]["duplicate"], true);
    assert_eq!(fs::read_to_string(dir.path().join("out.ndjson")).unwrap().lines().count(), 1);
}

/// With `-v` and up the log tells of attempts; no payload and no secret is in it below TRACE.
#[tokio::test(flavor = "multi_thread")]
async fn logs_hold_no_payload_and_no_secret() {
    let receiver = Receiver::start().await.unwrap();
    receiver.on("app").respond([500, 200]);
    let toml = format!(
        "[[endpoints]]\nname = 'app'\nurl = '{}?token=query-canary'\nheaders = {{ X-Key = 'header-canary' }}\n\
         secrets = ['whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw']\n{LOCAL}",
        receiver.url("app")
    );
    let dir = folder("postrider.toml", &toml);
    let ran = ran(dir.path(), &["publish", "match", "--data", "\"payload-canary\"", "-vv"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stderr.contains("attempt failed") && ran.stderr.contains("delivered"), "{ran:?}");
    assert!(
        ran.stderr.contains("endpoint=app") || ran.stderr.contains("endpoint=\u{1b}"),
        "{ran:?}"
    );
    for canary in ["query-canary", "header-canary", "payload-canary", "MfKQ9r8G"] {
        assert!(!format!("{ran:?}").contains(canary), "{canary}: {ran:?}");
    }
    let signed = receiver.requests("app");
    assert!(
        signed[1].header("webhook-signature").unwrap().starts_with("v1,"),
        "signed where secrets are set"
    );
}
