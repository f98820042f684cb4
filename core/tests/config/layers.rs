//! Layers: the same configuration in three spellings is the same, and later layers win.

use std::collections::BTreeSet;

use postrider::config::{Config, Format, json_schema};
use postrider::store::WhenFull;
use serde_json::{Value, json};

use crate::sinks::{registry, stores};
use crate::{fingerprint, load};

/// Every key there is, each with a value that is not its default.
const TOML: &str = r#"
enabled = false

[bus]
data_dir = "/var/lib/postrider"
payload_bytes_max = "64KiB"
batch_events_max = 10
batch_bytes_max = 1048576
durability = { batch = "10ms" }
retention = "3d"
dedup_window = "6h"
backlog = { events_max = 5000, bytes_max = "3MiB" }
memory = { events_max = 1000, bytes_max = "2MiB" }
when_full = "wait"
in_flight_max = 7
subscriber_events_max = 8

[[endpoints]]
id = "17"
name = "My App"
sink = "http"
enabled = false
url = "https://api.example.com/webhook"
events = ["match", "model.**"]
filter = { payload = { tier = { "$in" = ["gold"] } } }
headers = { x-token = "0123", "x.dotted" = "true" }
secrets = ["one", { env = "SECRET_TWO" }]
format = "cloudevents-binary"
connect_timeout = "3s"
timeout = "1m 30s"
concurrency = 3
rate = "100/s"
breaker = { failures = 7, pause = "1s", pause_max = "1m" }
retry = { schedule = ["1s", "2m"], jitter = 1, max_age = "3d" }
order = "key"
on_dead = "block"
disable_after = "2d"
when_disabled = "drop"

[[endpoints]]
sink = "file"
name = "audit"
path = "/var/log/events.ndjson"
rotate = { size = "10MB", keep = 5 }

[[endpoints]]
sink = "print"

[defaults]
timeout = "5s"
concurrency = 2
rate = "30/m"
breaker = false
order = "none"
on_dead = "park"
disable_after = false
when_disabled = "hold"
format = "standard"
connect_timeout = "1s"
headers = { x-default = "yes" }
secrets = ["three"]
rotate = { keep = 9 }
retry = { first = "1s", factor = 3, max = "1h", attempts = 5, max_age = "1d", jitter = 0.25 }

[network]
allow = ["127.0.0.0/8", "::1"]
deny = ["127.0.0.9"]
ports = [80, 443]
https_only = true
bind_address = ["127.0.0.1", "::1"]
proxy = "http://proxy.example:3128"

[alerts]
failing_after = 3
backlog_events = 500
interval = "5m"

[server]
listen = "[::1]:0"
tokens = [{ name = "a", token = "t1", scopes = ["publish", "read"] }, { name = "b", token = { env = "TOKEN_B" }, scopes = ["admin"] }]
"#;

const VARIABLES: [(&str, &str); 2] = [("SECRET_TWO", "two"), ("TOKEN_B", "t2")];

fn as_json() -> Value {
    json!({
        "enabled": false,
        "bus": {
            "data_dir": "/var/lib/postrider",
            "payload_bytes_max": "64KiB",
            "batch_events_max": 10,
            "batch_bytes_max": 1_048_576,
            "durability": { "batch": "10ms" },
            "retention": "3d",
            "dedup_window": "6h",
            "backlog": { "events_max": 5000, "bytes_max": "3MiB" },
            "memory": { "events_max": 1000, "bytes_max": "2MiB" },
            "when_full": "wait",
            "in_flight_max": 7,
            "subscriber_events_max": 8,
            "store": null,
        },
        "endpoints": [
            {
                "id": 17,
                "name": "My App",
                "sink": "http",
                "enabled": false,
                "url": "https://api.example.com/webhook",
                "events": ["match", "model.**"],
                "filter": { "payload": { "tier": { "$in": ["gold"] } } },
                "headers": { "x-token": "0123", "x.dotted": "true" },
                "secrets": ["one", { "env": "SECRET_TWO" }],
                "format": "cloudevents-binary",
                "connect_timeout": "3s",
                "timeout": "1m 30s",
                "concurrency": 3,
                "rate": "100/s",
                "breaker": { "failures": 7, "pause": "1s", "pause_max": "1m" },
                "retry": { "schedule": ["1s", "2m"], "jitter": 1, "max_age": "3d" },
                "order": "key",
                "on_dead": "block",
                "disable_after": "2d",
                "when_disabled": "drop",
            },
            {
                "sink": "file",
                "name": "audit",
                "path": "/var/log/events.ndjson",
                "rotate": { "size": "10MB", "keep": 5 },
            },
            { "sink": "print" },
        ],
        "defaults": {
            "timeout": "5s",
            "concurrency": 2,
            "rate": "30/m",
            "breaker": false,
            "order": "none",
            "on_dead": "park",
            "disable_after": false,
            "when_disabled": "hold",
            "format": "standard",
            "connect_timeout": "1s",
            "headers": { "x-default": "yes" },
            "secrets": ["three"],
            "rotate": { "keep": 9 },
            "retry": {
                "first": "1s", "factor": 3, "max": "1h", "attempts": 5,
                "max_age": "1d", "jitter": 0.25,
            },
        },
        "network": {
            "allow": ["127.0.0.0/8", "::1"],
            "deny": ["127.0.0.9"],
            "ports": [80, 443],
            "https_only": true,
            "bind_address": ["127.0.0.1", "::1"],
            "proxy": "http://proxy.example:3128",
        },
        "alerts": { "failing_after": 3, "backlog_events": 500, "interval": "5m" },
        "server": {
            "listen": "[::1]:0",
            "tokens": [
                { "name": "a", "token": "t1", "scopes": ["publish", "read"] },
                { "name": "b", "token": { "env": "TOKEN_B" }, "scopes": ["admin"] },
            ],
        },
    })
}

/// One variable for each single value, down to the elements of lists.
fn variables(value: &Value, name: &str, found: &mut Vec<(String, String)>) {
    match value {
        Value::Object(table) => {
            for (key, value) in table {
                variables(value, &format!("{name}__{}", key.to_uppercase()), found);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, value) in items.iter().enumerate() {
                variables(value, &format!("{name}__{index}"), found);
            }
        }
        Value::Null => {}
        Value::String(text) => found.push((name.to_owned(), text.clone())),
        other => found.push((name.to_owned(), other.to_string())),
    }
}

fn keys_of_endpoints(endpoints: &Value) -> BTreeSet<&str> {
    endpoints
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|one| one.as_object().unwrap().keys().map(|key| &**key))
        .collect()
}

/// A key that is added to the schema must be added above, or this fails.
#[test]
fn the_sample_has_every_key() {
    let (schema, sample) = (json_schema(&registry(), &stores()), as_json());
    let properties = |schema: &Value| -> BTreeSet<String> {
        schema["properties"].as_object().unwrap().keys().cloned().collect()
    };
    let keys = |value: &Value| -> BTreeSet<String> {
        value.as_object().unwrap().keys().cloned().collect()
    };
    let definitions = &schema["$defs"];
    assert_eq!(keys(&sample), properties(&schema));
    assert_eq!(keys(&sample["bus"]), properties(&definitions["Bus"]));
    assert_eq!(keys(&sample["bus"]["memory"]), properties(&definitions["Memory"]));
    assert_eq!(keys(&sample["bus"]["backlog"]), properties(&definitions["Backlog"]));
    assert_eq!(keys(&sample["network"]), properties(&definitions["Network"]));
    assert_eq!(keys(&sample["alerts"]), properties(&definitions["Alerts"]));
    assert_eq!(keys(&sample["server"]), properties(&definitions["Server"]));
    assert_eq!(keys(&sample["server"]["tokens"][0]), properties(&definitions["Token"]));
    assert_eq!(keys(&sample["defaults"]), properties(&schema["properties"]["defaults"]));
    let retries = [&sample["defaults"]["retry"], &sample["endpoints"][0]["retry"]];
    let retries: BTreeSet<String> = retries.into_iter().flat_map(keys).collect();
    assert_eq!(retries, properties(&definitions["Retry"]));
    let breaker = &sample["endpoints"][0]["breaker"];
    assert_eq!(
        keys(breaker),
        properties(&schema["properties"]["defaults"]["properties"]["breaker"])
    );
    let branches = schema["properties"]["endpoints"]["items"]["oneOf"].as_array().unwrap();
    let all: BTreeSet<String> = branches.iter().flat_map(properties).collect();
    let sample: BTreeSet<String> =
        keys_of_endpoints(&sample["endpoints"]).into_iter().map(ToOwned::to_owned).collect();
    assert_eq!(sample, all);
}

#[test]
fn toml_json_and_variables_say_the_same() {
    let from_toml = fingerprint(&load(Format::Toml, TOML, &VARIABLES).unwrap());
    assert!(from_toml.contains("cloudevents") || from_toml.contains("CloudeventsBinary"));
    let from_json = load(Format::Json, &as_json().to_string(), &VARIABLES).unwrap();
    assert_eq!(from_toml, fingerprint(&from_json));

    let with = |set: &[(String, String)]| {
        let set = set.iter().map(|(name, text)| (name.as_str(), text.as_str()));
        let all: Vec<(&str, &str)> = set.chain(VARIABLES).collect();
        load(Format::Toml, "", &all).unwrap_or_else(|errors| panic!("{all:#?}\n{errors}"))
    };
    // Each value by a variable of its own: more than a shell can spell (a dot), all that it can.
    let mut single = Vec::new();
    variables(&as_json(), "POSTRIDER", &mut single);
    for (name, _) in &mut single {
        *name = name.replacen("POSTRIDER__", "POSTRIDER_", 1);
    }
    assert_eq!(from_toml, fingerprint(&with(&single)));

    // Each top-level table by one variable, as JSON, then as TOML writes it inline.
    let whole: Vec<(String, String)> = as_json()
        .as_object()
        .unwrap()
        .iter()
        .map(|(key, value)| (format!("POSTRIDER_{}", key.to_uppercase()), value.to_string()))
        .collect();
    assert_eq!(from_toml, fingerprint(&with(&whole)));
    let inline: toml::Table = TOML.parse().unwrap();
    let inline: Vec<(String, String)> = inline
        .iter()
        .map(|(key, value)| (format!("POSTRIDER_{}", key.to_uppercase()), value.to_string()))
        .collect();
    assert_eq!(from_toml, fingerprint(&with(&inline)));

    // In code.
    let mut loader = Config::loader().registry(&registry()).environment_from(VARIABLES);
    for (key, value) in as_json().as_object().unwrap() {
        loader = loader.set(key, value.clone());
    }
    assert_eq!(from_toml, fingerprint(&loader.load().unwrap()));
}

#[test]
fn later_layers_win() {
    let loader = || {
        Config::loader()
            .registry(&registry())
            .text(
                Format::Toml,
                "[bus]\nin_flight_max = 1\nbatch_events_max = 1\nwhen_full = 'wait'",
            )
            .environment_from([
                ("POSTRIDER_BUS__IN_FLIGHT_MAX", "2"),
                ("POSTRIDER_BUS__BATCH_EVENTS_MAX", "2"),
            ])
    };
    let config = loader()
        .set("bus.in_flight_max", 3)
        .flag("--in-flight", "bus.in_flight_max", "4")
        .set("bus.memory.events_max", 5)
        .load()
        .unwrap();
    assert_eq!(config.bus.in_flight_max, 4);
    assert_eq!(config.bus.batch_events_max, 2);
    assert_eq!(config.bus.when_full, WhenFull::Wait);
    assert_eq!(config.bus.memory.events_max, 5);
    assert_eq!(config.bus.subscriber_events_max, 1024);
    let config = loader().environment(false).load().unwrap();
    assert_eq!(config.bus.in_flight_max, 1);
}

#[test]
fn variables_change_and_append_elements() {
    let file = "[[endpoints]]\nname = 'a'\nurl = 'https://a.example'\nevents = ['x', 'y']";
    let load = |variables: &[(&str, &str)]| load(Format::Toml, file, variables).unwrap();
    let config = load(&[
        ("POSTRIDER_ENDPOINTS__0__URL", "https://b.example"),
        ("POSTRIDER_ENDPOINTS__0__EVENTS__1", "z"),
        ("POSTRIDER_ENDPOINTS__1__SINK", "print"),
        ("POSTRIDER_ENDPOINTS__1__NAME", "007"),
    ]);
    let [a, b] = &config.endpoints[..] else { panic!("{config:#?}") };
    assert_eq!(a.name, "a");
    assert!(a.sink.target().starts_with("https://b.example#"));
    assert_eq!(a.events, ["x".parse().unwrap(), "z".parse().unwrap()]);
    // A text of digits stays the text that it is.
    assert_eq!((b.name.as_str(), b.sink.sink()), ("007", "print"));

    let config = load(&[
        ("POSTRIDER_ENDPOINTS", r#"[{"name": "c", "sink": "print"}]"#),
        ("POSTRIDER_ENDPOINTS__0__NAME", "d"),
    ]);
    assert_eq!(config.endpoints.len(), 1);
    assert_eq!(config.endpoints[0].name, "d");

    let eleven: Vec<(String, String)> =
        (1..12).map(|at| (format!("POSTRIDER_ENDPOINTS__{at}__NAME"), format!("n{at}"))).collect();
    let eleven: Vec<(&str, &str)> = eleven.iter().map(|(name, text)| (&**name, &**text)).collect();
    let sinks: Vec<(String, &str)> =
        (1..12).map(|at| (format!("POSTRIDER_ENDPOINTS__{at}__SINK"), "print")).collect();
    let sinks = sinks.iter().map(|(name, text)| (&**name, *text));
    let config = load(&eleven.into_iter().chain(sinks).collect::<Vec<_>>());
    assert_eq!(config.endpoints[11].name, "n11");
}

/// A container manager sets `NAME_PORT` and its like for a service called `postrider`.
#[test]
fn variables_of_others_are_left_alone() {
    let config = load(
        Format::Toml,
        "",
        &[
            ("POSTRIDER_PORT", "tcp://10.0.0.1:80"),
            ("POSTRIDER_PORT_80_TCP_ADDR", "10.0.0.1"),
            ("POSTRIDER_SERVICE_HOST", "10.0.0.1"),
            ("POSTRIDER_SEED", "7"),
            ("POSTRIDER", "x"),
            ("postrider_enabled", "x"),
        ],
    );
    assert!(config.unwrap().enabled);
}
