//! `bench`: runs the program `bench` of the package `postrider-tests` in release.
//!
//! The contract between the two:
//! - arguments: `[NAME] [--quick] [--json FILE]`. NAME chooses the benchmarks whose name contains
//!   it; one that matches nothing is wrong usage. `--quick` takes seconds instead of minutes.
//! - stdout: a table for people, one row per figure, beside the limit that was measured in the same
//!   run and the ratio of the two.
//! - FILE: a JSON array of `{"bench","case","value","unit","limit","ratio","goal","met"}`; `limit`,
//!   `ratio`, `goal` and `met` are null where there is none.
//! - exit code: 0 where all ran (a missed goal is shown, not an error), 1 where one failed.

use std::path::PathBuf;

use crate::{Fail, Outcome, process};

/// What the command line asks for.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Options {
    pub(crate) name: Option<String>,
    pub(crate) quick: bool,
    pub(crate) json: Option<PathBuf>,
}

/// Builds and runs the benchmarks.
pub(crate) fn run(options: &Options) -> Outcome {
    let mut command = process::cargo(&[
        "run",
        "--release",
        "--package",
        "postrider-tests",
        "--bin",
        "bench",
        "--",
    ]);
    command.args(&options.name);
    if options.quick {
        command.arg("--quick");
    }
    if let Some(file) = &options.json {
        // The benchmarks run in the repository's folder; FILE means the caller's.
        let file = std::path::absolute(file)
            .map_err(|error| Fail::new(format_args!("--json {}: {error}", file.display())))?;
        command.arg("--json").arg(file);
    }
    let status = process::status(&mut command, None)?;
    process::succeeded("bench", status)
}
