//! `test`: everything that must pass, in a list of steps, and the closing line.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::programs::{self, Programs};
use crate::results::{DocTests, Nextest, Tally, read_skip_log};
use crate::scratch::Scratch;
use crate::{Fail, Outcome, codegen, demo, fuzz, process, say, setup, term, tidy};

/// Tests that lack a tool write `name<TAB>reason` to the file that this names.
const SKIP_LOG: &str = "POSTRIDER_SKIP_LOG";
/// Set to 1 where tests should use their larger numbers.
const LONG: &str = "POSTRIDER_TEST_LONG";
/// Bound on one example program.
const EXAMPLE_MAX: Duration = Duration::from_mins(1);

/// What the steps share.
struct Run {
    long: bool,
    folder: Scratch,
    /// What the step "build" made.
    programs: Option<Programs>,
}

/// One step: its heading, and what it does. An error is a failure named like the step.
type Step = (&'static str, fn(&mut Run) -> Outcome<Tally>);

/// Quick and likely ones first; those that run programs after "build".
const STEPS: &[Step] = &[
    ("setup", |_| once(setup::run())),
    ("format", |_| once(cargo_step(&["fmt", "--all", "--", "--check", "--files-with-diff"]))),
    ("house rules", |_| once(tidy::run())),
    ("build", build),
    ("tests", |run| nextest(run, &[])),
    ("doc tests", doc_tests),
    ("generated files", |run| once(codegen::run(true, run.programs()?))),
    ("examples", examples),
    ("demo", |run| once(demo::run(&demo::Options::default(), run.programs()?))),
    ("lints", |_| {
        once(cargo_step(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ]))
    }),
    ("documentation", documentation),
    ("licences and sources", licences),
    ("fuzzing", |run| fuzz::smoke(run.long, in_ci())),
];

/// Runs every step, whatever the others do.
pub(crate) fn run(long: bool) -> Outcome {
    let mut run = Run { long, folder: Scratch::new("postrider-test")?, programs: None };
    let mut total = Tally::default();
    for (name, step) in STEPS {
        term::heading(name);
        match step(&mut run) {
            Ok(tally) => total.add(tally),
            Err(Fail::Interrupted) => return Err(Fail::Interrupted),
            Err(reason) => {
                say!("{} {reason}", term::bad("✗"));
                total.add(Tally::failed(*name, reason.to_string()));
            }
        }
    }
    close(&total)
}

/// Runs the end-to-end tests alone. The whole workspace is built, with the features that `test` uses,
/// so that neither command builds for itself what the other has.
pub(crate) fn run_end_to_end(name: Option<&str>) -> Outcome {
    setup::run()?;
    let mut run = Run { long: false, folder: Scratch::new("postrider-e2e")?, programs: None };
    build(&mut run)?;
    let filter = ["--filterset", "package(postrider-tests)"];
    let tally = nextest(&run, &[&filter[..], name.as_slice()].concat())?;
    close(&tally)
}

/// Prints what was skipped and what failed, and the closing line.
fn close(total: &Tally) -> Outcome {
    term::heading("result");
    for (name, reason) in &total.skipped {
        say!("{} {name}: {reason}", term::warn("SKIPPED"));
    }
    for (name, reason) in &total.failed {
        say!("{} {name}: {reason}", term::bad("FAILED"));
    }
    say!("{total}"); // The last line, alone and never coloured: programs read it.
    if total.failed.is_empty() { Ok(()) } else { Err(Fail::Told) }
}

impl Run {
    fn programs(&self) -> Outcome<&Programs> {
        self.programs
            .as_ref()
            .ok_or_else(|| Fail::new("it needs the programs, which were not built"))
    }
}

/// A step that is one check.
fn once(outcome: Outcome) -> Outcome<Tally> {
    outcome.map(|()| Tally::passed(1))
}

fn cargo_step(args: &[&str]) -> Outcome {
    let status = process::status(&mut process::cargo(args), None)?;
    process::succeeded(&format!("cargo {}", args[0]), status)
}

/// Programs and tests in one call, so that both are built with the same features, once. Tests that
/// start a program find it in the folder above their own.
fn build(run: &mut Run) -> Outcome<Tally> {
    run.programs = Some(Programs::build(&["--workspace", "--bins", "--tests"])?);
    Ok(Tally::passed(1))
}

fn nextest(run: &Run, args: &[&str]) -> Outcome<Tally> {
    let log = run.folder.join("skipped");
    let profile = if run.long { "long" } else { "default" };
    let mut command = process::cargo(&["nextest", "run", "--workspace", "--profile", profile]);
    command.args(["--no-fail-fast", "--no-tests", "fail"]);
    command.args(["--message-format", "libtest-json-plus", "--message-format-version", "0.1"]);
    command.args(args).env("NEXTEST_EXPERIMENTAL_LIBTEST_JSON", "1").env(SKIP_LOG, &log);
    if run.long {
        command.env(LONG, "1");
    }
    let mut reader = Nextest::default();
    let status = process::read_lines(&mut command, None, |line| reader.note(line))?;
    let skips = match fs::read_to_string(&log) {
        Ok(text) => read_skip_log(&text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(Fail::new(format_args!("reading the skip log: {error}"))),
    };
    let lacking = skips.len();
    let mut tally = reader.tally(skips).believe("cargo nextest", status.success());
    if lacking > 0 && in_ci() {
        tally.add(Tally::failed(
            "tools for tests",
            format!(
                "{} skipped for lack of a tool, which CI=true forbids",
                term::count(lacking as u64, "test")
            ),
        ));
    }
    Ok(tally)
}

fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true")
}

/// nextest does not run them, cargo does.
fn doc_tests(run: &mut Run) -> Outcome<Tally> {
    let mut command = process::cargo(&["test", "--doc", "--workspace", "--no-fail-fast"]);
    if run.long {
        command.env(LONG, "1");
    }
    let mut reader = DocTests::default();
    let status = process::read_lines(&mut command, None, |line| {
        if !DocTests::is_noise(line) {
            say!("{line}");
        }
        reader.note(line);
    })?;
    Ok(reader.tally().believe("cargo test --doc", status.success()))
}

/// Every program of `postrider-examples`: run without arguments, it must end well by itself. The
/// dashboard takes arguments; the demo runs it.
fn examples(run: &mut Run) -> Outcome<Tally> {
    let metadata = programs::metadata()?;
    let mut tally = Tally::default();
    for name in example_programs(&metadata) {
        say!("{} {name}", term::dim("running"));
        let folder = Scratch::new("postrider-example")?;
        let mut command = Command::new(run.programs()?.path(&name)?);
        let status = process::status(command.current_dir(folder.path()), Some(EXAMPLE_MAX));
        match status.and_then(|status| process::succeeded(&name, status)) {
            Ok(()) => tally.add(Tally::passed(1)),
            Err(Fail::Interrupted) => return Err(Fail::Interrupted),
            Err(reason) => tally.add(Tally::failed(format!("example {name}"), reason.to_string())),
        }
    }
    Ok(tally)
}

fn example_programs(metadata: &Value) -> Vec<String> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages
        .filter(|package| package["name"] == "postrider-examples")
        .flat_map(|package| package["targets"].as_array().into_iter().flatten())
        .filter(|target| target["kind"][0] == "bin")
        .filter_map(|target| target["name"].as_str())
        .filter(|name| *name != demo::DASHBOARD)
        .map(str::to_owned)
        .collect()
}

/// Broken links and missing explanations are errors.
fn documentation(_: &mut Run) -> Outcome<Tally> {
    let mut command = process::cargo(&["doc", "--workspace", "--no-deps", "--quiet"]);
    let status = process::status(command.env("RUSTDOCFLAGS", "-D warnings"), None)?;
    once(process::succeeded("cargo doc", status))
}

/// The rules of `deny.toml`. `tidy` checks the two that need no tool; the rest is skipped, also in
/// CI, where cargo-deny is not installed.
fn licences(_: &mut Run) -> Outcome<Tally> {
    if process::find("cargo-deny").is_none() {
        let reason = "cargo-deny is missing. Type: cargo install --locked cargo-deny";
        say!("{} {reason}", term::warn("SKIPPED"));
        return Ok(Tally::skipped("licences and sources", reason));
    }
    once(cargo_step(&["deny", "check", "bans", "licenses", "sources"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_are_found_but_for_the_dashboard() {
        let metadata = serde_json::json!({"packages": [
            {"name": "postrider-cli", "targets": [{"kind": ["bin"], "name": "postrider"}]},
            {"name": "postrider-examples", "targets": [
                {"kind": ["lib"], "name": "postrider_examples"},
                {"kind": ["bin"], "name": "dashboard"},
                {"kind": ["bin"], "name": "custom_sink"},
            ]},
        ]});
        assert_eq!(example_programs(&metadata), ["custom_sink"]);
    }
}
