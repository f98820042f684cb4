//! Random configurations: TOML and JSON say the same, and nothing panics.

use postrider::config::Format;
use proptest::prelude::*;
use toml::{Table, Value};

use crate::{fingerprint, load};

/// Keys that exist, keys that nearly do, and anything.
fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        10 => prop::sample::select(vec![
            "enabled", "bus", "endpoints", "defaults", "network", "server", "data_dir", "store",
            "payload_bytes_max", "memory", "events_max", "when_full", "in_flight_max", "id", "name",
            "sink", "events", "timeout", "concurrency", "retry", "schedule", "jitter", "order",
            "url", "headers", "secrets", "format", "path", "rotate", "size", "keep", "allow",
            "listen", "tokens", "token", "scopes", "env", "file", "tiemout", "rate", "type",
        ])
        .prop_map(ToOwned::to_owned),
        1 => ".{0,6}",
    ]
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        8 => prop::sample::select(vec![
            "http", "file", "print", "match", "model.*", "*", "10s", "5m", "10", "64KiB", "wait",
            "none", "key", "https://a.example/x", "ftp://me:pw@a.example", "127.0.0.0/8", "::1",
            "127.0.0.1:0", "read", "publish", "guide", "x", "",
        ])
        .prop_map(Value::from),
        2 => ".{0,12}".prop_map(Value::from),
        3 => (-3_i64..2000).prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        2 => (-2.0..2.0_f64).prop_map(Value::from),
        2 => any::<bool>().prop_map(Value::from),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key(), inner, 0..4)
                .prop_map(|table| Value::Table(table.into_iter().collect())),
        ]
    })
}

/// An endpoint that is nearly right, so that some are.
fn endpoint() -> impl Strategy<Value = Value> {
    let keys = prop::collection::btree_map(key(), leaf(), 0..2);
    let sink = prop_oneof![
        Just(vec![("url", "https://a.example")]),
        Just(vec![("sink", "print")]),
        Just(vec![("sink", "file"), ("path", "/tmp/x")]),
    ];
    let name = proptest::option::of("[a-z]{1,3}");
    (keys, sink, name).prop_map(|(keys, sink, name)| {
        let mut table: Table = sink.into_iter().map(|(k, v)| (k.to_owned(), v.into())).collect();
        table.extend(name.map(|name| ("name".to_owned(), name.into())));
        table.extend(keys);
        Value::Table(table)
    })
}

fn config() -> impl Strategy<Value = Table> {
    let endpoints = proptest::option::of(prop::collection::vec(endpoint(), 0..3));
    let others = prop::collection::btree_map(key(), value(), 0..3);
    (others, endpoints).prop_map(|(others, endpoints)| {
        let mut table: Table = others.into_iter().collect();
        table.extend(endpoints.map(|list| ("endpoints".to_owned(), Value::from(list))));
        table
    })
}

/// What a text says: its configuration, or its errors without their lines.
fn outcome(format: Format, text: &str) -> Result<String, Vec<String>> {
    match load(format, text, &[]) {
        Ok(config) => Ok(fingerprint(&config)),
        Err(errors) => {
            let told = errors.iter().map(|error| {
                assert!(error.place.line.is_some(), "no line: {error:?}\n{text}");
                let line_of = |text: &str| {
                    // Messages may name the line of another key.
                    text.split("(config text").next().unwrap_or_default().to_owned()
                };
                format!(
                    "{}: {} {:?} {}",
                    error.key,
                    line_of(&error.message),
                    error.found,
                    error.remedy
                )
            });
            let mut told: Vec<String> = told.collect();
            told.sort();
            Err(told)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn toml_and_json_say_the_same(table in config()) {
        let toml = toml::to_string(&table).unwrap();
        let json = serde_json::to_string_pretty(&table).unwrap();
        prop_assert_eq!(outcome(Format::Toml, &toml), outcome(Format::Json, &json), "{}", toml);
    }

    #[test]
    fn no_text_panics(text in ".{0,200}") {
        let _ = load(Format::Toml, &text, &[("POSTRIDER_BUS", &text)]);
        let _ = load(Format::Json, &text, &[("POSTRIDER_ENDPOINTS__0", &text)]);
    }
}
