//! The JSON Schema and the reference page.

use postrider::config::{Format, json_schema, reference_markdown};
use postrider::sink::Registry;
use postrider::store;
use serde_json::{Value, json};

use crate::sinks::{registry, stores};
use crate::{SAMPLE, VARIABLES, load};

fn sample() -> Value {
    let table: toml::Table = SAMPLE.parse().unwrap();
    serde_json::to_value(table).unwrap()
}

fn validator() -> jsonschema::Validator {
    let schema = json_schema(&registry(), &stores());
    jsonschema::meta::validate(&schema).expect("a valid schema");
    jsonschema::validator_for(&schema).expect("a usable schema")
}

#[test]
fn accepts_the_sample() {
    let validator = validator();
    let errors: Vec<String> =
        validator.iter_errors(&sample()).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    assert!(validator.is_valid(&json!({})));
}

/// What the schema refuses, the loader refuses, and the other way round.
#[test]
fn agrees_with_the_loader() {
    let validator = validator();
    let check = |pointer: &str, key: &str, value: Value, expect: bool| {
        let mut config = sample();
        config.pointer_mut(pointer).unwrap()[key] = value;
        let errors: Vec<String> =
            validator.iter_errors(&config).map(|error| error.to_string()).collect();
        assert_eq!(errors.is_empty(), expect, "{pointer}/{key}: {errors:#?}");
        let loaded = load(Format::Json, &config.to_string(), &VARIABLES);
        assert_eq!(loaded.is_ok(), expect, "{pointer}/{key}: {loaded:#?}");
    };
    check("", "enabled", json!(false), true);
    check("", "enabled", json!("yes"), false);
    check("", "colour", json!("red"), false);
    check("/bus", "batch_events_max", json!(1), true);
    check("/bus", "batch_events_max", json!(0), false);
    check("/bus", "when_full", json!("wait"), true);
    check("/bus", "when_full", json!("drop"), false);
    check("/bus", "data_dir", json!(""), false);
    check("/endpoints/0", "sink", json!("http"), true);
    check("/endpoints/0", "sink", json!("file"), false);
    check("/endpoints/0", "sink", json!("nope"), false);
    check("/endpoints/0", "id", json!(17), true);
    check("/endpoints/0", "events", json!([]), false);
    check("/endpoints/0", "tiemout", json!("1s"), false);
    check("/endpoints/0", "retry", json!({ "schedule": [], "jitter": 1 }), true);
    check("/endpoints/0", "retry", json!({ "jitter": 1.5 }), false);
    check("/endpoints/0", "order", json!("key"), true);
    check("/endpoints/0", "order", json!("keys"), false);
    check("/endpoints/0", "on_dead", json!("drop"), false);
    check("/endpoints/0", "secrets", json!(["a", { "env": "MY_APP_TOKEN" }]), true);
    check("/endpoints/0", "secrets", json!([{ "enf": "MY_APP_TOKEN" }]), false);
    check("/endpoints/1", "url", json!("https://a.example"), false);
    check("/endpoints/1", "rotate", json!({ "size": "1MB" }), true);
    check("/endpoints/1", "rotate", json!({ "size": true }), false);
    check("/defaults", "format", json!("standard"), true);
    check("/defaults", "format", json!("xml"), false);
    check("/defaults", "url", json!("https://a.example"), false);
    check("/defaults", "concurrency", json!(5000), false);
    check("/server", "tokens", json!([{ "name": "a" }]), false);
}

#[test]
fn every_key_is_described() {
    fn check(node: &Value, at: &str) {
        for (key, property) in node["properties"].as_object().into_iter().flatten() {
            let at = format!("{at}/{key}");
            assert!(property["description"].is_string(), "{at} has no description");
            check(property, &at);
        }
        for (index, branch) in node["oneOf"].as_array().into_iter().flatten().enumerate() {
            check(branch, &format!("{at}/{index}"));
        }
        check_inner(node, at);
    }
    fn check_inner(node: &Value, at: &str) {
        if node["items"].is_object() {
            check(&node["items"], &format!("{at}[]"));
        }
    }
    let schema = json_schema(&registry(), &stores());
    check(&schema, "");
    for (name, definition) in schema["$defs"].as_object().unwrap() {
        check(definition, name);
    }
}

#[test]
fn page_names_every_key_with_its_bounds() {
    let page = reference_markdown(&registry(), &stores());
    for line in [
        "## `[bus]`",
        "| `in_flight_max` | whole number | `1024` | 1 to 65536 | Most attempts under way at once, all endpoints together. |",
        "### `[bus.memory]`",
        "| `bytes_max` | size | `\"256MiB\"` | 1B to 1024GiB | Most bytes of waiting events; at least `batch_bytes_max`. |",
        "| `when_full` | `\"refuse\"`, `\"wait\"` | `\"refuse\"` |  | What publishing does while the backlog limit is reached. |",
        "### `[bus.store]`",
        "| `type` | text | **required** |  | Which store, such as `sqlite`. |",
        "### `[bus.store]` with `type = \"shelf\"`",
        "| `plan` | path | **required** |  | The file with its plan. |",
        "| `timeout` | duration | `\"10s\"` | 1ms to 15m | Longest time that one attempt may take, connecting and reading the answer included. |",
        "### `[defaults.retry]`",
        "## `[[endpoints]]` with `sink = \"http\"` (or no `sink`)",
        "| `url` | text | **required** |  | Where events are posted to. |",
        "| `headers` | table of secret |  |  | Headers of every request. |",
        "### `[endpoints.rotate]`",
        "| `keep` | whole number |  | 1 to 1000 | How many old files are kept. |",
        "### `[[server.tokens]]`",
        "| `scopes` | list of `\"publish\"`, `\"read\"`, `\"admin\"` | **required** | 1 to 3 elements | What it allows. |",
    ] {
        assert!(page.lines().any(|one| one == line), "no line {line:?} in\n{page}");
    }
    assert_eq!(
        page,
        reference_markdown(&registry(), &stores()),
        "the page depends on the registry alone"
    );
}

#[test]
fn a_build_without_sinks_has_a_schema() {
    let schema = json_schema(&Registry::new(), &store::Registry::new());
    assert!(schema["properties"]["bus"].is_object());
    assert!(reference_markdown(&Registry::new(), &store::Registry::new()).contains("## `[bus]`"));
}
