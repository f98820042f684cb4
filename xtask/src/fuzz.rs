//! `fuzz`: the targets of `fuzz/`, instrumented by the stable compiler and driven by libFuzzer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::results::Tally;
use crate::{Fail, Outcome, process, say, term};

/// The targets, with their share of the time: opening a log has the most behind it.
const TARGETS: [(&str, u64); 3] = [("record", 1), ("recovery", 3), ("text", 1)];
/// Seconds of all targets together in `test`.
const SMOKE_SECONDS: u64 = 60;
const SMOKE_SECONDS_LONG: u64 = 600;
/// Seconds of each target that is asked for by hand.
pub(crate) const SECONDS_DEFAULT: u64 = 60;
/// A target ends by itself; if it does not within this time more, it hangs.
const GRACE: Duration = Duration::from_mins(2);
/// Coverage as libFuzzer reads it, without a sanitizer, which stable has none of.
const FLAGS: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Ccodegen-units=1";

/// What `fuzz` is asked for.
#[derive(Debug, PartialEq)]
pub(crate) struct Options {
    pub(crate) target: Option<String>,
    pub(crate) seconds: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { target: None, seconds: SECONDS_DEFAULT }
    }
}

/// Runs the target whose name is given, or each.
pub(crate) fn run(options: &Options) -> Outcome {
    let wanted = |name: &str| options.target.as_deref().is_none_or(|wanted| wanted == name);
    let targets: Vec<&str> =
        TARGETS.iter().map(|(name, _)| *name).filter(|name| wanted(name)).collect();
    if targets.is_empty() {
        let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
        return Err(Fail::Usage(format!("expected a target of {}", names.join(", "))));
    }
    let programs = build()?;
    for target in targets {
        fuzz(&programs, target, options.seconds)?;
    }
    Ok(())
}

/// The step of `test`: every seed, and a minute beyond. Skipped where the targets cannot be built,
/// which `CI=true` forbids.
pub(crate) fn smoke(long: bool, in_ci: bool) -> Outcome<Tally> {
    let programs = match build() {
        Ok(programs) => programs,
        Err(Fail::Failed(reason)) if !in_ci => {
            let reason = format!("the fuzz targets were not built: {reason}");
            say!("{} {reason}", term::warn("SKIPPED"));
            return Ok(Tally::skipped("fuzzing", &reason));
        }
        Err(reason) => return Err(reason),
    };
    let shares: u64 = TARGETS.iter().map(|(_, share)| share).sum();
    let seconds = if long { SMOKE_SECONDS_LONG } else { SMOKE_SECONDS };
    let mut tally = Tally::default();
    for (target, share) in TARGETS {
        match fuzz(&programs, target, seconds * share / shares) {
            Ok(()) => tally.add(Tally::passed(1)),
            Err(Fail::Interrupted) => return Err(Fail::Interrupted),
            Err(reason) => {
                tally.add(Tally::failed(format!("fuzzing {target}"), reason.to_string()));
            }
        }
    }
    Ok(tally)
}

fn folder() -> PathBuf {
    process::root().join("fuzz")
}

/// Builds the targets; returns the folder that they are in.
fn build() -> Outcome<PathBuf> {
    let host = host()?;
    let mut command = process::cargo(&["build", "--release", "--locked", "--target", &host]);
    // With a target named, build scripts and macros are not instrumented.
    command.current_dir(folder()).env("RUSTFLAGS", FLAGS).env("CARGO_TARGET_DIR", "target");
    let status = process::status(&mut command, None)?;
    process::succeeded("building the fuzz targets", status)?;
    Ok(folder().join("target").join(host).join("release"))
}

/// What the compiler compiles for.
fn host() -> Outcome<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("-vV").output().map_err(Fail::new)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| Fail::new("rustc does not say what it compiles for"))
}

/// Runs one target: all of its corpus, then new inputs for the time that is left.
fn fuzz(programs: &Path, target: &str, seconds: u64) -> Outcome {
    let folder = folder();
    let artifacts = folder.join("artifacts").join(target);
    // What is found is kept between runs, but not in the repository.
    let found = folder.join("target/corpus").join(target);
    for made in [&artifacts, &found] {
        fs::create_dir_all(made)
            .map_err(|error| Fail::new(format_args!("making {}: {error}", made.display())))?;
    }
    say!("{} {target} for {seconds} s", term::dim("fuzzing"));
    let mut command = Command::new(programs.join(target));
    command.current_dir(&folder).arg(&found).arg(folder.join("corpus").join(target)).args([
        &format!("-max_total_time={seconds}"),
        &format!("-artifact_prefix={}/", artifacts.display()),
        "-max_len=65536",
        "-timeout=20",
        "-rss_limit_mb=1024",
        "-malloc_limit_mb=256",
        "-verbosity=0",
        "-print_final_stats=1",
    ]);
    let limit = Duration::from_secs(seconds) + GRACE;
    let status = process::status(&mut command, Some(limit))?;
    process::succeeded(&format!("{target} (the input is in {})", artifacts.display()), status)
}
