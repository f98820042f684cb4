//! Rules about the text of one file. Patterns are put together from parts, so that this file does
//! not match itself.

use std::path::Path;

use super::Finding;

/// A rule about single lines.
struct Rule {
    name: &'static str,
    /// Whether the rule holds in a file, by its path from the repository's folder.
    holds_in: fn(&str) -> bool,
    /// What is wrong with a line, if anything, under the last attribute above it that makes a test.
    breach: fn(line: &str, test: &str) -> Option<String>,
}

const RULES: &[Rule] = &[
    Rule { name: "machine-path", holds_in: |_| true, breach: |line, _| machine_path(line) },
    Rule { name: "registry", holds_in: |_| true, breach: |line, _| registry(line) },
    Rule { name: "lock", holds_in: |file| file == "Cargo.lock", breach: |line, _| lock(line) },
    Rule { name: "leftover", holds_in: is_rust, breach: |line, _| leftover(line) },
    Rule { name: "sleep", holds_in: is_test, breach: sleep },
    Rule { name: "pure", holds_in: is_pure, breach: |line, _| mentions(line, &IMPURE) },
    Rule { name: "upwards", holds_in: is_seam, breach: |line, _| mentions(line, &ABOVE_SEAMS) },
];

/// Checks one file.
pub(super) fn check(file: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    if is_rust(file) && !text.starts_with("//!") {
        findings.push(Finding {
            place: format!("{file}:1"),
            rule: "purpose",
            reason: "the file does not begin with its purpose (//!)".into(),
        });
    }
    for rule in RULES.iter().filter(|rule| (rule.holds_in)(file)) {
        let (mut above, mut test) = ("", "");
        for (index, line) in text.lines().enumerate() {
            if let Some(reason) = (rule.breach)(line, test)
                && !allowed(rule.name, line)
                && !allowed(rule.name, above)
            {
                findings.push(Finding {
                    place: format!("{file}:{}", index + 1),
                    rule: rule.name,
                    reason,
                });
            }
            if line.trim_start().starts_with("#[test")
                || line.trim_start().starts_with("#[tokio::test")
            {
                test = line;
            }
            above = line;
        }
    }
    findings
}

/// `tidy: allow(RULE): reason` stands in the line, with a reason.
fn allowed(rule: &str, line: &str) -> bool {
    line.split_once(&format!("tidy: allow({rule}):"))
        .is_some_and(|(_, reason)| !reason.trim().is_empty())
}

fn is_rust(file: &str) -> bool {
    Path::new(file).extension().is_some_and(|extension| extension == "rs")
}

fn is_test(file: &str) -> bool {
    is_rust(file) && file.split('/').any(|part| part == "tests")
}

/// The rooms of the core that only compute.
fn is_pure(file: &str) -> bool {
    ["event", "filter", "route", "retry", "delivery", "replay", "stats"]
        .iter()
        .any(|room| in_room(file, room))
}

/// The pure rooms and the two traits: what the engine stands on.
fn is_seam(file: &str) -> bool {
    is_pure(file) || ["sink", "store"].iter().any(|room| in_room(file, room))
}

fn in_room(file: &str, room: &str) -> bool {
    file.strip_prefix("core/src/")
        .and_then(|rest| rest.strip_prefix(room))
        .is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

const IMPURE: [&str; 4] = ["tokio", "tracing", "SystemTime::now", "Instant::now"];
const ABOVE_SEAMS: [&str; 3] = ["crate::lane", "crate::engine", "crate::bus"];

/// Words that a room must not use, in code.
fn mentions(line: &str, words: &[&str]) -> Option<String> {
    let code = line.split("//").next().unwrap_or_default();
    words
        .iter()
        .find(|word| has_word(code, word))
        .map(|word| format!("this room must not know {word}"))
}

fn has_word(text: &str, word: &str) -> bool {
    let part_of_name =
        |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    text.match_indices(word).any(|(at, _)| {
        let before = at.checked_sub(1).and_then(|before| text.as_bytes().get(before));
        !part_of_name(before) && !part_of_name(text.as_bytes().get(at + word.len()))
    })
}

/// A path that exists on one machine only.
fn machine_path(line: &str) -> Option<String> {
    const FOLDERS: [&str; 4] = [
        concat!("/", "home/"),
        concat!("/", "root/"),
        concat!("/", "work/"),
        concat!("/", "Users/"),
    ];
    FOLDERS.iter().find_map(|folder| {
        line.match_indices(folder)
            // After a name it is the middle of a relative path or of a URL's path.
            .any(|(at, _)| {
                !line[..at].ends_with(|before: char| {
                    before.is_alphanumeric() || "._-}>*)".contains(before)
                })
            })
            .then(|| format!("a path of one machine ({folder})"))
    })
}

/// A package registry's host: which one serves is the machine's configuration.
fn registry(line: &str) -> Option<String> {
    const HOSTS: [&str; 6] = [
        concat!("registry.npmjs", ".org"),
        concat!("static.crates", ".io"),
        concat!("index.crates", ".io"),
        concat!("files.pythonhosted", ".org"),
        concat!("pypi", ".org/simple"),
        concat!("proxy.golang", ".org"),
    ];
    HOSTS.iter().find(|host| line.contains(*host)).map(|host| format!("a registry's host ({host})"))
}

/// Where the locked packages come from, and two that must not be among them (see `deny.toml`).
fn lock(line: &str) -> Option<String> {
    const SOURCE: &str = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    const BANNED: [&str; 3] = ["openssl-sys", "native-tls", "aws-lc-sys"];
    if line.starts_with("source = ") && line != SOURCE {
        return Some(format!("a package from elsewhere: {line}"));
    }
    BANNED
        .iter()
        .find(|name| line == format!("name = \"{name}\""))
        .map(|name| format!("{name} is banned"))
}

fn leftover(line: &str) -> Option<String> {
    const WORDS: [&str; 3] =
        [concat!("to", "do!("), concat!("db", "g!("), concat!("unimplemen", "ted!(")];
    WORDS
        .iter()
        .find(|word| line.contains(*word))
        .map(|word| format!("{word}) is not for the repository"))
}

/// A test waits for a condition with a deadline; sleeping hopes. Under tokio's paused clock a sleep
/// says at which time of the test it goes on, and takes none.
fn sleep(line: &str, test: &str) -> Option<String> {
    let code = line.split("//").next().unwrap_or_default();
    let thread = code.contains(concat!("thread::", "sleep("));
    let task = code.contains(concat!("time::", "sleep(")) && !test.contains("start_paused");
    (thread || task).then(|| "a sleep in a test: wait for a condition with a deadline".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rules that `text` breaks in `file`.
    fn broken(file: &str, text: &str) -> Vec<&'static str> {
        check(file, text).iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn machine_paths_are_told_from_other_paths() {
        let check =
            |text: &str, bad: bool| assert_eq!(!broken("a.md", text).is_empty(), bad, "{text}");
        check(concat!("see /", "home/me/x"), true);
        check(concat!("path = \"/", "root/x\""), true);
        check(concat!("file:///", "work/x"), true);
        check(concat!("https://example.com/", "work/x"), false);
        check(concat!("src/", "home/x"), false);
        check("/tmp/x and /etc/x", false);
    }

    #[test]
    fn purpose_leftovers_and_hosts_are_told() {
        assert_eq!(broken("core/src/a.rs", "use std::fmt;\n"), ["purpose"]);
        assert_eq!(
            broken("core/src/a.rs", concat!("//! A.\nfn a() { to", "do!() }\n")),
            ["leftover"]
        );
        assert_eq!(broken("a.md", concat!("to", "do!()")), [""; 0]);
        assert_eq!(broken("a.toml", concat!("https://registry.npmjs", ".org/x")), ["registry"]);
    }

    #[test]
    fn locked_packages_come_from_one_place() {
        let good =
            "source = \"registry+https://github.com/rust-lang/crates.io-index\"\nname = \"ring\"";
        assert_eq!(broken("Cargo.lock", good), [""; 0]);
        assert_eq!(broken("Cargo.lock", "source = \"git+https://example.com/x\""), ["lock"]);
        assert_eq!(broken("Cargo.lock", "name = \"aws-lc-sys\""), ["lock"]);
    }

    #[test]
    fn sleeping_in_a_test_needs_a_reason() {
        let sleep = concat!("thread::", "sleep(x);");
        assert_eq!(broken("tests/it/a.rs", &format!("//! A.\n{sleep}")), ["sleep"]);
        assert_eq!(broken("core/src/a.rs", &format!("//! A.\n{sleep}")), [""; 0]);
        let with =
            |marker: &str| broken("core/tests/a.rs", &format!("//! A.\n// {marker}\n{sleep}"));
        assert_eq!(with("tidy: allow(sleep): polls a process"), [""; 0]);
        assert_eq!(with("tidy: allow(sleep):"), ["sleep"]);
        assert_eq!(with("tidy: allow(leftover): polls"), ["sleep"]);
    }

    #[test]
    fn under_a_paused_clock_only_a_task_may_sleep() {
        let check = |attribute: &str, call: &str, rules: &[&str]| {
            let text = format!("//! A.\n{attribute}\nasync fn a() {{\n    {call}x);\n}}\n");
            assert_eq!(broken("core/tests/a.rs", &text), rules, "{text}");
        };
        let (task, thread) =
            (concat!("tokio::time::", "sleep("), concat!("std::thread::", "sleep("));
        check("#[tokio::test(start_paused = true)]", task, &[]);
        check("#[tokio::test(start_paused = true)]", thread, &["sleep"]);
        check("#[tokio::test]", task, &["sleep"]);
        check(
            "#[tokio::test(start_paused = true)]\nasync fn b() {}\n#[tokio::test]",
            task,
            &["sleep"],
        );
    }

    #[test]
    fn pure_rooms_know_no_runtime_and_nothing_above_them() {
        let check = |file: &str, line: &str, rules: &[&str]| {
            assert_eq!(broken(file, &format!("//! A.\n{line}")), rules, "{file}: {line}");
        };
        check("core/src/event/id.rs", "use tokio::time;", &["pure"]);
        check("core/src/retry.rs", "let now = SystemTime::now();", &["pure"]);
        check("core/src/event/id.rs", "// tokio does this", &[]);
        check("core/src/event/id.rs", "let tokios = 1;", &[]);
        check("core/src/events.rs", "use tokio::time;", &[]);
        check("core/src/store/mod.rs", "use tokio::time;", &[]);
        check("core/src/store/mod.rs", "use crate::engine::Engine;", &["upwards"]);
        check("core/src/bus.rs", "use crate::engine::Engine;", &[]);
    }
}
