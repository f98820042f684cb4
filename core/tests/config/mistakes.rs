//! Mistakes, each with the exact line that is printed for it.

use std::sync::Arc;

use postrider::ErrorKind;
use postrider::config::{Config, ConfigErrors, ERRORS_MAX, FILE_BYTES_MAX, Format, Source};
use postrider::sink::{CheckContext, Registry, Sink, SinkFactory};

use crate::load;
use crate::sinks::registry;

fn told(loaded: Result<Config, ConfigErrors>) -> String {
    loaded.map_or_else(|errors| errors.to_string(), |config| format!("no errors: {config:?}"))
}

/// The errors of a text, without its name.
fn errors(format: Format, text: &str, variables: &[(&str, &str)]) -> String {
    told(load(format, text, variables)).replace("config text:", "")
}

fn toml(text: &str, expect: &[&str]) {
    assert_eq!(errors(Format::Toml, text, &[]), expect.join("\n"), "{text}");
}

/// Mistakes in one endpoint's own line, the fourth.
fn endpoint(text: &str, expect: &[&str]) {
    let text = format!("[[endpoints]]\nname = \"a\"\nurl = \"https://a.example\"\n{text}");
    toml(&text, expect);
}

fn json(text: &str, expect: &[&str]) {
    assert_eq!(errors(Format::Json, text, &[]), expect.join("\n"), "{text}");
}

fn variable(name: &str, text: &str, expect: &[&str]) {
    let found = errors(Format::Toml, "", &[(name, text)]);
    let found = found.replace(&format!("environment variable {name}: "), "");
    assert_eq!(found, expect.join("\n"), "{name}={text}");
}

/// The promise of the README: five mistakes of five kinds, anywhere, are five lines.
#[test]
fn five_mistakes_are_five_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("postrider.toml");
    std::fs::write(
        &path,
        r#"
[bus]
when_full = "wiat"

[[endpoints]]
name = "shop"
url = "https://me:pw@shop.example/hook"
tiemout = "5s"
headers = { Authorization = { env = "SHOP_TOKEN" } }

[[endpoints]]
sink = "file"
name = "audit"
rotate = { size = "10XB" }
"#,
    )
    .unwrap();
    let loader = Config::loader().registry(&registry()).file(&path);
    let errors = loader.environment_from([("POSTRIDER_DEFAULTS__TIMEOUT", "10")]).load();
    let errors = errors.unwrap_err();
    let path = path.display();
    assert_eq!(
        errors.to_string(),
        format!(
            r#"{path}:3: bus.when_full: expected "refuse" or "wait", found "wiat" — did you mean "wait"?
{path}:8: endpoints[0].tiemout: unknown key — did you mean "timeout"?
{path}:9: endpoints[0].headers.Authorization: environment variable SHOP_TOKEN is not set — set SHOP_TOKEN before starting
{path}:11: endpoints[1].path: missing — add it: the file
{path}:14: endpoints[1].rotate.size: expected a size in bytes, such as 65536, "64KiB" or "10MB", found "10XB"
environment variable POSTRIDER_DEFAULTS__TIMEOUT: defaults.timeout: expected a duration with a unit, such as "10s", "5m" or "1h 30m", found "10" — write "10s""#
        )
    );
    let first = errors.iter().next().unwrap();
    assert_eq!((first.place.line, first.place.column), (Some(3), Some(1)));
    assert_eq!(first.place.source, Source::File(folder.path().join("postrider.toml")));
}
#[test]
fn in_tables() {
    toml(
        r#"enabled = "true""#,
        &[r#"1: enabled: expected true or false, found "true" — write true without quotes"#],
    );
    toml("enabled = 1", &["1: enabled: expected true or false, found 1"]);
    toml("enable = true", &[r#"1: enable: unknown key — did you mean "enabled"?"#]);
    toml(
        "colour = true",
        &[
            "1: colour: unknown key — known here: alerts, bus, defaults, enabled, endpoints, network, server",
        ],
    );
    toml(
        "[buss]
x = 1",
        &[r#"1: buss: unknown key — did you mean "bus"?"#],
    );
    toml("bus = 3", &["1: bus: expected a table, found 3"]);
    toml(
        "[bus]
when_full = 0",
        &[r#"2: bus.when_full: expected "refuse" or "wait", found 0"#],
    );
    toml(
        r#"[bus]
when_full = "refus""#,
        &[
            r#"2: bus.when_full: expected "refuse" or "wait", found "refus" — did you mean "refuse"?"#,
        ],
    );
    toml(
        r#"[bus]
payload_bytes_max = "2GiB"
batch_events_max = 0
batch_bytes_max = -1
in_flight_max = 1.5
subscriber_events_max = 99999999999
memory = { events_max = "100", bytes_max = "lots" }"#,
        &[
            r#"2: bus.payload_bytes_max: expected at most 64MiB, found "2GiB""#,
            "3: bus.batch_events_max: expected 1 to 100000, found 0",
            "4: bus.batch_bytes_max: expected at least 0, found -1",
            "5: bus.in_flight_max: expected a whole number, 0 or more, found 1.5",
            "6: bus.subscriber_events_max: expected 1 to 1048576, found 99999999999",
            r#"7: bus.memory.events_max: expected a whole number, 0 or more, found "100" — write 100 without quotes"#,
            r#"7: bus.memory.bytes_max: expected a size in bytes, such as 65536, "64KiB" or "10MB", found "lots""#,
        ],
    );
    toml(
        r#"[bus]
payload_bytes_max = "32MiB""#,
        &[
            "2: bus.payload_bytes_max: expected at most bus.batch_bytes_max (16MiB), found 32MiB — lower it, or raise bus.batch_bytes_max",
        ],
    );
    toml(
        r#"[bus]
data_dir = """#,
        &[r#"2: bus.data_dir: expected a text that is not empty, found """#],
    );
    toml(
        r#"[bus]
store = { type = "nats", url = "nats://x" }"#,
        &[
            r#"2: bus.store.type: this build has no such store, found "nats" — this build has shelf; for the built-in one set bus.data_dir"#,
        ],
    );
    toml(
        r#"[bus]
store = { type = "shlef", plan = "x" }"#,
        &[
            r#"2: bus.store.type: this build has no such store, found "shlef" — did you mean "shelf"?"#,
        ],
    );
    toml(
        r#"[bus]
store = { type = "shelf", evnts_max = 1 }"#,
        &[
            "2: bus.store.plan: missing — add it: the file with its plan",
            r#"2: bus.store.evnts_max: unknown key — did you mean "events_max"?"#,
        ],
    );
    toml(
        r#"[bus]
store = { type = "shelf", plan = "x", events_max = 0 }"#,
        &["2: bus.store.events_max: expected 1 to 100, found 0"],
    );
    toml(
        r#"[bus]
store = { type = "shelf", plan = "rain" }"#,
        &["2: bus.store.plan: gets wet — put it under a roof"],
    );
    toml(
        r#"[bus]
data_dir = "data"
store = { type = "shelf", plan = "x" }"#,
        &[
            "3: bus.store: cannot stand beside bus.data_dir: events are kept in one place — remove one of the two",
        ],
    );
    toml(
        "[bus]
store = 3",
        &["2: bus.store: expected a table, found 3"],
    );
    toml(
        "[bus]
store = { url = 3 }",
        &["2: bus.store.type: missing — add it: which store, such as `sqlite`"],
    );
    toml(
        r#"[network]
allow = ["127.0.0.0/8", "x", 3]"#,
        &[
            r#"2: network.allow[1]: expected a network such as "127.0.0.0/8" or "::1/128", found "x""#,
            r#"2: network.allow[2]: expected text, found 3 — write "3""#,
        ],
    );
    toml(
        r#"[network]
deny = ["x"]
bind_address = ["y"]"#,
        &[
            r#"2: network.deny[0]: expected a network such as "127.0.0.0/8" or "::1/128", found "x""#,
            r#"3: network.bind_address[0]: expected an address such as "198.51.100.7", found "y""#,
        ],
    );
    toml(
        r#"[network]
ports = []
bind_address = ["127.0.0.1", "127.0.0.2"]"#,
        &[
            "2: network.ports: expected at least one element, found none",
            "3: network.bind_address[1]: a second address of the same family — give one of IPv4, one of IPv6 or both",
        ],
    );
    toml(
        r#"[server]
listen = "8787""#,
        &[
            r#"2: server.listen: expected an IP address and a port, such as "127.0.0.1:8787", found "8787""#,
        ],
    );
    toml(
        "[server]
listen = 8787",
        &[
            r#"2: server.listen: expected an IP address and a port, such as "127.0.0.1:8787", found 8787 — write "8787""#,
        ],
    );
    toml(
        r#"[server]
tokens = [{ name = "a", token = "", scopes = [] }, { name = "a", token = 3, scopes = ["raed"] }, {}]"#,
        &[
            "2: server.tokens[0].token: expected a token, found none",
            "2: server.tokens[0].scopes: expected at least one element, found none",
            r#"2: server.tokens[1].token: expected text, { env = "NAME" } or { file = "PATH" }, found ••••"#,
            r#"2: server.tokens[1].scopes[0]: expected "publish" or "read" or "admin", found "raed" — did you mean "read"?"#,
            "2: server.tokens[2].name: missing — add it: who holds it, for logs",
            "2: server.tokens[2].token: missing — add it: the token",
            "2: server.tokens[2].scopes: missing — add it: what it allows",
        ],
    );
    toml(
        r#"[server]
tokens = [{ name = "a", token = "x", scopes = ["read"] }, { name = "a", token = "y", scopes = ["read"] }]"#,
        &[
            "2: server.tokens[1].name: already the name of server.tokens[0] (2) — give one of them another name",
        ],
    );
    toml(
        r#"[defaults]
timeout = 10
concurrency = 5000
retry = { schedule = ["5s", 5, "31d"], jitter = 2 }
rate = "1/d"
format = "xml"
url = "x""#,
        &[
            r#"2: defaults.timeout: expected a duration with a unit, such as "10s", "5m" or "1h 30m", found 10 — write "10s""#,
            "3: defaults.concurrency: expected 1 to 4096, found 5000",
            r#"4: defaults.retry.schedule[1]: expected a duration with a unit, such as "10s", "5m" or "1h 30m", found 5 — write "5s""#,
            r#"4: defaults.retry.schedule[2]: expected at most 30d, found "31d""#,
            "4: defaults.retry.jitter: expected 0 to 1, found 2",
            r#"5: defaults.rate: expected a rate such as 100/s, 30/m or 10/h, found "1/d""#,
            r#"6: defaults.format: expected "guide" or "standard" or "cloudevents-binary", found "xml""#,
            "7: defaults.url: unknown key — known here: breaker, concurrency, connect_timeout, disable_after, format, headers, on_dead, order, rate, retry, rotate, secrets, timeout, when_disabled",
        ],
    );
    toml("endpoints = 3", &["1: endpoints: expected a list of tables, found 3"]);
    toml("endpoints = [3]", &["1: endpoints[0]: expected a table, found 3"]);
    toml("enabled = tru", &["1:11: TOML: invalid boolean, expected `true`"]);
    toml(
        "a = 1
a = 2",
        &["2:1: TOML: duplicate key"],
    );
    toml("a = 99999999999999999999", &["1: a: expected a whole number of at most 64 bits"]);
}

#[test]
fn in_endpoints() {
    endpoint(
        r#"timeout = "10""#,
        &[
            r#"4: endpoints[0].timeout: expected a duration with a unit, such as "10s", "5m" or "1h 30m", found "10" — write "10s""#,
        ],
    );
    endpoint(
        r#"timeout = "16m""#,
        &[r#"4: endpoints[0].timeout: expected at most 15m, found "16m""#],
    );
    endpoint(
        r#"tiemout = "10s"
rate = "fast"
order = "keys"
on_dead = "drop"
disable_after = "8d"
when_disabled = "keep""#,
        &[
            r#"4: endpoints[0].tiemout: unknown key — did you mean "timeout"?"#,
            r#"5: endpoints[0].rate: expected a rate such as 100/s, 30/m or 10/h, found "fast""#,
            r#"6: endpoints[0].order: expected "none" or "key" or "all", found "keys" — did you mean "key"?"#,
            r#"7: endpoints[0].on_dead: expected "park" or "block", found "drop""#,
            r#"8: endpoints[0].disable_after: expected false or 1s to 7d, found "8d""#,
            r#"9: endpoints[0].when_disabled: expected "hold" or "drop", found "keep""#,
        ],
    );
    endpoint("concurrency = 0", &["4: endpoints[0].concurrency: expected 1 to 4096, found 0"]);
    endpoint(
        r#"concurrency = "adaptiv""#,
        &[
            r#"4: endpoints[0].concurrency: expected 1 to 4096, "adaptive" or { min = 1, max = 256 }, found "adaptiv""#,
        ],
    );
    endpoint(
        "concurrency = { min = 9, max = 3 }",
        &[
            "4: endpoints[0].concurrency: expected a min of at least 1 and a max of at least min and at most 4096, found a table",
        ],
    );
    endpoint(
        r#"breaker = { failures = 3, pause = "10m" }"#,
        &[
            "4: endpoints[0].breaker: expected at least 1 failure and a pause of 1ms to pause_max, found a table",
        ],
    );
    endpoint(
        r#"retry = { schedule = ["1s"], first = "1s", attempts = 3 }"#,
        &["4: endpoints[0].retry.first: cannot stand beside a schedule — take one of the two out"],
    );
    endpoint(
        "retry = { factor = 3 }",
        &[
            r#"4: endpoints[0].retry.factor: means nothing without the first delay — add first, such as "5s", or take it out"#,
        ],
    );
    endpoint(
        r#"retry = { first = "1s" }"#,
        &[
            "4: endpoints[0].retry.first: needs attempts: how many there are in all — add attempts, such as 8",
        ],
    );
    endpoint("events = []", &["4: endpoints[0].events: expected at least one element, found none"]);
    endpoint(
        r#"events = "match""#,
        &["4: endpoints[0].events: expected a list, found text — write it in [ ]"],
    );
    endpoint(
        r#"events = ["match", "a b", 3]"#,
        &[
            r#"4: endpoints[0].events[1]: expected an event type such as "match", or a pattern such as "*", "model.*" or "model.**", found "a b""#,
            r#"4: endpoints[0].events[2]: expected text, found 3 — write "3""#,
        ],
    );
    endpoint(
        r#"sink = "htp""#,
        &[r#"4: endpoints[0].sink: no such sink, found "htp" — did you mean "http"?"#],
    );
    endpoint("sink = 3", &["4: endpoints[0].sink: expected text, found 3"]);
    endpoint(
        r#"id = "a b""#,
        &[
            r#"4: endpoints[0].id: expected an endpoint id of 1 to 64 letters, digits, _ and -, found "a b""#,
        ],
    );
    endpoint(
        r#"[[endpoints]]
name = "A"
url = "https://b.example""#,
        &[
            r#"4: endpoints[1]: id "a" is already that of endpoints[0] (1) — give one of them an id of its own"#,
        ],
    );
    endpoint(
        r#"[[endpoints]]
sink = "file""#,
        &["4: endpoints[1].path: missing — add it: the file"],
    );
    endpoint(
        r#"[[endpoints]]
name = "中"
sink = "print""#,
        &[
            r#"5: endpoints[1].name: no id can be made of this name — add an id, such as id = "shop-1""#,
        ],
    );
    endpoint(
        r#"[[endpoints]]
sink = "file"
path = 3
rotate = { size = "x", keep = 0, ro = 1 }"#,
        &[
            r#"6: endpoints[1].path: expected text, found 3 — write "3""#,
            r#"7: endpoints[1].rotate.size: expected a size in bytes, such as 65536, "64KiB" or "10MB", found "x""#,
            "7: endpoints[1].rotate.keep: expected 1 to 1000, found 0",
            "7: endpoints[1].rotate.ro: unknown key — known here: keep, size",
        ],
    );
    endpoint(
        r#"[[endpoints]]
url = "ftp://me:canary@b.example/x?token=canary"
name = "b""#,
        &["5: endpoints[1].url: expected an http or https URL — begin it with https://"],
    );
    endpoint(
        r#"headers = { A = { env = "NOPE" }, B = { file = "nope" }, C = { evn = "x" }, D = 3, E = {} }
secrets = "canary""#,
        &[
            "4: endpoints[0].headers.A: environment variable NOPE is not set — set NOPE before starting",
            "4: endpoints[0].headers.B: cannot read file nope: No such file or directory (os error 2) — check the path and who may read it",
            r#"4: endpoints[0].headers.C: unknown key "evn" — did you mean "env"?"#,
            r#"4: endpoints[0].headers.D: expected text, { env = "NAME" } or { file = "PATH" }, found ••••"#,
            "4: endpoints[0].headers.E: expected env or file, found a table",
            "5: endpoints[0].secrets: expected a list, found •••• — write it in [ ]",
        ],
    );
    endpoint(r#"headers = "canary""#, &["4: endpoints[0].headers: expected a table, found ••••"]);
}

#[test]
fn in_json() {
    json("", &["1:1: JSON: EOF while parsing a value"]);
    json("[]", &["1:1: JSON: expected an object"]);
    json(r#"{"enabled": true,}"#, &["1:18: JSON: key must be a string"]);
    json(
        r#"{"enabled": true,
 "bus": {"when_full": "wait",
 "when_full": "wait"}}"#,
        &["3: bus.when_full: duplicate key — keep one of the two"],
    );
    json(r#"{"enabled": nul}"#, &["1:16: JSON: expected ident"]);
    json(
        r#"{"enabled": null, "bus": null, "endpoints": [null]}"#,
        &["1: endpoints[0]: expected a table, found null"],
    );
}

#[test]
fn in_variables() {
    variable("POSTRIDER_ENABLED", "yes", &[r#"enabled: expected true or false, found "yes""#]);
    variable(
        "POSTRIDER_ENABELD",
        "true",
        &["enabeld: unknown key — did you mean POSTRIDER_ENABLED?"],
    );
    variable(
        "POSTRIDER_BUS_DATA_DIR",
        "x",
        &["bus_data_dir: unknown key — did you mean POSTRIDER_BUS__DATA_DIR?"],
    );
    variable(
        "POSTRIDER_BUS__DATA_DIRR",
        "x",
        &[r#"bus.data_dirr: unknown key — did you mean "data_dir"?"#],
    );
    variable(
        "POSTRIDER_BUS",
        "x",
        &[
            "bus: expected a table, found text — write JSON, or set each key in it by a name of its own",
        ],
    );
    variable(
        "POSTRIDER_BUS__",
        "x",
        &[
            r#"bus."": unknown key — known here: backlog, batch_bytes_max, batch_events_max, data_dir, dedup_window, durability, in_flight_max, memory, payload_bytes_max, retention, store, subscriber_events_max, when_full"#,
        ],
    );
    variable(
        "POSTRIDER_ENDPOINTS__1__URL",
        "x",
        &[
            "endpoints[1].url: endpoints has 0 elements, and none may be skipped — number the next one 0",
        ],
    );
    variable(
        "POSTRIDER_ENDPOINTS__0__URL",
        "x",
        &["endpoints[0].url: expected an http or https URL — begin it with https://"],
    );
    variable(
        "POSTRIDER_ENDPOINTS",
        r#"[{"url": "x""#,
        &["endpoints: expected a list of tables, found text — write JSON: [{ … }]"],
    );
    variable(
        "POSTRIDER_ENDPOINTS",
        r#"[{"url": "x", "timeout": 3}]"#,
        &[
            r#"endpoints[0].timeout: expected a duration with a unit, such as "10s", "5m" or "1h 30m", found 3 — write "3s""#,
            "endpoints[0].url: expected an http or https URL — begin it with https://",
        ],
    );
    variable(
        "POSTRIDER_ENDPOINTS",
        r#"[{"url": "x", "url": 3}]"#,
        &["endpoints[0].url: duplicate key — keep one of the two"],
    );
    variable("POSTRIDER_ENABLED__X", "1", &["enabled: expected true or false, found a table"]);
    variable(
        "POSTRIDER_BUS__IN_FLIGHT_MAX",
        "x",
        &[r#"bus.in_flight_max: expected a whole number, 0 or more, found "x""#],
    );
}

#[test]
fn files_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let check = |name: &str, content: Option<&[u8]>, expect: &str| {
        let path = folder.path().join(name);
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let found = told(Config::loader().environment(false).file(&path).load());
        assert_eq!(found.replace(&format!("{}", path.display()), "FILE"), expect);
    };
    check(
        "none.toml",
        None,
        "FILE: cannot read the file: No such file or directory (os error 2) — check the path, or \
         create it with `postrider init`",
    );
    check("latin.toml", Some(b"a = \"\xe9\""), "FILE: expected UTF-8 text — save it as UTF-8");
    check("bad.json", Some(b"{\n  \"a\": tru }"), "FILE:2:11: JSON: expected ident");
    check("bad.toml", Some(b"\n\na b"), "FILE:3:3: TOML: key with no value, expected `=`");
    let large = vec![b'#'; FILE_BYTES_MAX as usize + 1];
    check("large.toml", Some(&large), "FILE: expected at most 16 MiB — is this the configuration?");
    let found = told(Config::loader().environment(false).file(folder.path()).load());
    assert!(found.contains("cannot read the file: Is a directory"), "{found}");
}

#[test]
fn flags_and_code_are_named() {
    let loader = Config::loader().environment(false);
    let errors = loader
        .flag("--listen", "server.listen", "8787")
        .set("bus.in_flight_max", 0)
        .set("endpoints.1.url", "x")
        .set("colour", "red")
        .load();
    assert_eq!(
        told(errors),
        r#"set in code: endpoints[1].url: endpoints has 0 elements, and none may be skipped — number the next one 0
set in code: bus.in_flight_max: expected 1 to 65536, found 0
set in code: colour: unknown key — known here: alerts, bus, defaults, enabled, endpoints, network, server
flag --listen: server.listen: expected an IP address and a port, such as "127.0.0.1:8787", found "8787""#
    );
}

/// A table made of variables is not the text of one of them.
#[test]
fn variables_below_a_text() {
    variable(
        "POSTRIDER_ENDPOINTS__0__ID__X",
        "1",
        &[
            "endpoints[0].url: missing — add it: where events are posted to",
            "endpoints[0].id: expected an id of 1 to 64 letters, digits, _ and -, found a table",
        ],
    );
}

/// A whole number comes in many types: signed from TOML, unsigned from code and large JSON.
#[test]
fn bounds_hold_for_every_kind_of_number() {
    let expect = ["1: bus.batch_bytes_max: expected at most 1GiB, found 99999999999"];
    toml("bus.batch_bytes_max = 99999999999", &expect);
    json("{\"bus\": {\"batch_bytes_max\": 99999999999}}", &expect);
    let huge = u64::MAX;
    json(
        &format!("{{\"bus\": {{\"batch_bytes_max\": {huge}, \"in_flight_max\": {huge}}}}}"),
        &[
            &format!("1: bus.batch_bytes_max: expected at most 1GiB, found {huge}"),
            &format!("1: bus.in_flight_max: expected 1 to 65536, found {huge}"),
        ],
    );
    toml("defaults.retry.jitter = nan", &["1: defaults.retry.jitter: expected 0 to 1, found NaN"]);
    variable(
        "POSTRIDER_BUS__BATCH_BYTES_MAX",
        "99999999999",
        &["bus.batch_bytes_max: expected at most 1GiB, found \"99999999999\""],
    );
    let loaded = Config::loader().environment(false).set("bus.batch_bytes_max", 99_999_999_999_u64);
    assert_eq!(
        told(loaded.load()),
        "set in code: bus.batch_bytes_max: expected at most 1GiB, found 99999999999"
    );
}

/// serde stops at the first mistake of a list, too: elements after it keep their positions.
#[test]
fn positions_hold_after_mistakes() {
    let text = "[defaults.retry]\nschedule = [1, '1s', 2, '2s', 3]";
    let found = errors(Format::Toml, text, &[]);
    let found: Vec<&str> = found.lines().filter_map(|line| line.split(": ").nth(1)).collect();
    assert_eq!(found, [0, 2, 4].map(|at| format!("defaults.retry.schedule[{at}]")));
}

/// A sink that is not ours: a needed table with needed keys, a type that checks its text itself.
struct Foreign;

/// A sink of somebody else.
#[derive(serde::Deserialize, schemars::JsonSchema)]
struct ForeignSettings {
    /// Where to.
    #[allow(dead_code, reason = "only its shape matters")]
    place: ForeignPlace,
    /// How to get in.
    #[allow(dead_code, reason = "only its shape matters")]
    api_key: Option<Even>,
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
#[allow(dead_code, reason = "only its shape matters")]
struct ForeignPlace {
    /// The host.
    host: String,
    /// The port.
    port: u16,
}

/// Text of an even length; its error quotes the text.
#[derive(schemars::JsonSchema)]
#[allow(dead_code, reason = "only its shape matters")]
struct Even(String);

impl<'de> serde::Deserialize<'de> for Even {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.len() % 2 == 0 {
            return Ok(Self(text));
        }
        Err(serde::de::Error::custom(format!("the length of {text} is odd")))
    }
}

impl SinkFactory for Foreign {
    type Settings = ForeignSettings;

    fn name(&self) -> &'static str {
        "foreign"
    }

    fn target(&self, _: &ForeignSettings) -> String {
        "abroad".to_owned()
    }

    fn build(
        &self,
        _: &ForeignSettings,
        _: &CheckContext<'_>,
    ) -> Result<Arc<dyn Sink>, postrider::Error> {
        Err(postrider::Error::new(ErrorKind::Sink, "go abroad"))
    }
}

/// A third party's sink gets what ours get: places, unknown keys, all mistakes, no secret shown.
#[test]
fn in_the_settings_of_a_foreign_sink() {
    let check = |text: &str, expect: &[&str]| {
        let text = format!("[[endpoints]]\nsink = 'foreign'\n{text}");
        let loader = Config::loader().registry(&Registry::new().with(Foreign));
        let found = told(loader.text(Format::Toml, &text).environment(false).load());
        assert_eq!(found.replace("config text:", ""), expect.join("\n"), "{text}");
    };
    check("", &["1: endpoints[0].place: missing — add it: where to"]);
    check(
        "place = {}",
        &[
            "3: endpoints[0].place.host: missing — add it: the host",
            "3: endpoints[0].place.port: missing — add it: the port",
        ],
    );
    check(
        "[endpoints.place]\nhost = 1\nprot = 2\nport = 70000",
        &[
            "4: endpoints[0].place.host: expected text, found 1 — write \"1\"",
            "5: endpoints[0].place.prot: unknown key — did you mean \"port\"?",
            "6: endpoints[0].place.port: expected 0 to 65535, found 70000",
        ],
    );
    check(
        "place = { host = 'a', port = 1 }\napi_key = 'abc'",
        &["4: endpoints[0].api_key: the length of •••• is odd"],
    );
}

/// What all endpoints inherit is wrong once.
#[test]
fn inherited_mistakes_are_told_once() {
    let endpoints = "[[endpoints]]\nurl = 'https://a.example'\nname = 'a'\n\
                     [[endpoints]]\nurl = 'https://a.example'\nname = 'b'\n";
    let text = format!("defaults.connect_timeout = 3\n{endpoints}");
    toml(
        &text,
        &[
            "1: defaults.connect_timeout: expected a duration with a unit, such as \"10s\", \"5m\" or \
           \"1h 30m\", found 3 — write \"3s\"",
        ],
    );
}

#[test]
fn errors_are_bounded() {
    let keys: Vec<String> =
        (0..2 * ERRORS_MAX).map(|at| format!("[[endpoints]]\nk{at} = 1")).collect();
    let errors = load(Format::Toml, &keys.join("\n"), &[]).unwrap_err();
    assert_eq!(errors.iter().count(), ERRORS_MAX);
    assert!(errors.to_string().ends_with("\nthere may be more"), "{errors}");
    // Reading again after each mistake ends with the last that is told, not with the last there is.
    let text = format!("network.allow = [{}]", "1,".repeat(100_000));
    let errors = load(Format::Toml, &text, &[]).unwrap_err();
    assert_eq!(errors.iter().count(), ERRORS_MAX);
}

/// Each mistake in a filter has its own place.
#[test]
fn in_filters() {
    endpoint(
        r#"filter = { payload = { amount = { "$gtt" = 1 } }, body = { a = 1 } }"#,
        &[
            r#"4: endpoints[0].filter.payload.amount."$gtt": unknown operator — did you mean "$gt"?"#,
            r#"4: endpoints[0].filter.body: unknown key — did you mean "payload"?"#,
        ],
    );
    endpoint(
        r#"filter = [{ sql = "x" }]"#,
        &[
            "4: endpoints[0].filter[0].sql: unknown dialect — known here: exact, prefix, suffix, all, any, not",
        ],
    );
    endpoint(
        "filter = 3",
        &[
            "4: endpoints[0].filter: expected a table of conditions — write for example filter = { payload = { amount = { \"$gte\" = 100 } } }",
        ],
    );
}
