//! Which package may depend on which, as ARCHITECTURE says. A new arrow is argued in its commit.

use serde_json::Value;

use super::Finding;

/// What a package may use of ours.
enum May {
    Use(&'static [&'static str]),
    UseAll,
}

use May::{Use, UseAll};

/// Every package of the workspace.
const ARROWS: &[(&str, May)] = &[
    ("postrider", Use(&["postrider-derive"])),
    ("postrider-derive", Use(&[])),
    ("postrider-sinks", Use(&["postrider"])),
    ("postrider-stores", Use(&["postrider"])),
    ("postrider-cli", Use(&["postrider", "postrider-sinks", "postrider-stores"])),
    ("mock-receiver", Use(&[])),
    ("xtask", Use(&[])),
    ("postrider-tests", UseAll),
    ("postrider-examples", UseAll),
];

/// The core knows no protocol, broker or terminal.
const NOT_IN_CORE: [&str; 14] = [
    "async-nats",
    "axum",
    "clap",
    "console",
    "http",
    "hyper",
    "hyper-util",
    "indicatif",
    "lapin",
    "redis",
    "reqwest",
    "rustls",
    "sqlx",
    "tokio-postgres",
];

/// Checks `cargo metadata --no-deps`.
pub(super) fn check(metadata: &Value) -> Vec<Finding> {
    let packages: Vec<&Value> = metadata["packages"].as_array().into_iter().flatten().collect();
    let names: Vec<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let mut findings = Vec::new();
    for package in &packages {
        let name = package["name"].as_str().unwrap_or_default();
        let mut add = |reason: String| {
            findings.push(Finding { place: name.to_owned(), rule: "arrows", reason });
        };
        let Some((_, may)) = ARROWS.iter().find(|(known, _)| *known == name) else {
            add("this package is not in the table of xtask/src/tidy/arrows.rs".into());
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let used = dependency["name"].as_str().unwrap_or_default();
            let for_tests = dependency["kind"] == "dev";
            // Types of requests, for the layer that receivers put before their own service: behind
            // a feature, and no protocol.
            let is_layers = used == "http" && dependency["optional"] == true;
            if name == "postrider" && !for_tests && !is_layers && NOT_IN_CORE.contains(&used) {
                add(format!("the core must not use {used}"));
            }
            // A package may name itself for its tests, to turn on a feature.
            if !names.contains(&used) || (for_tests && used == name) {
                continue;
            }
            // An example in a doc comment of the derive shows the trait.
            if for_tests && name == "postrider-derive" && used == "postrider" {
                continue;
            }
            match may {
                UseAll => {}
                Use(allowed) if allowed.contains(&used) => {}
                Use(_) => add(format!("it must not depend on {used}")),
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(name: &str, dependency: &str, kind: Option<&str>) -> usize {
        let others = ARROWS
            .iter()
            .filter(|(other, _)| *other != name)
            .map(|(other, _)| json!({"name": other}));
        let package = json!({"name": name, "dependencies": [{"name": dependency, "kind": kind}]});
        check(&json!({"packages": others.chain([package]).collect::<Vec<_>>()})).len()
    }

    #[test]
    fn arrows_point_one_way() {
        assert_eq!(found("postrider-sinks", "postrider", None), 0);
        assert_eq!(found("postrider", "postrider-sinks", None), 1);
        assert_eq!(found("postrider", "postrider-sinks", Some("dev")), 1);
        assert_eq!(found("postrider", "postrider", Some("dev")), 0);
        assert_eq!(found("mock-receiver", "postrider", Some("dev")), 1);
        assert_eq!(found("xtask", "mock-receiver", Some("build")), 1);
        assert_eq!(found("postrider-tests", "mock-receiver", None), 0);
        assert_eq!(found("mock-receiver", "hyper", None), 0);
    }

    #[test]
    fn the_core_knows_no_protocol() {
        assert_eq!(found("postrider", "hyper", None), 1);
        assert_eq!(found("postrider", "tokio", None), 0);
    }

    #[test]
    fn a_package_that_nobody_placed_is_told() {
        assert_eq!(found("postrider-new", "serde", None), 1);
    }
}
