//! What the end-to-end tests share: a bus from a configuration text, programs as child processes,
//! waiting with a deadline, and saying loudly what was skipped.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fmt::Debug;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use postrider::Bus;
use postrider::config::{Config, Format};

/// Longest wait for anything that should happen soon.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// What every test of a webhook on this machine adds to its configuration: retries that a test can
/// wait for, and leave to connect to this machine.
pub const LOCAL: &str = "\
[defaults]
retry = { schedule = ['20ms', '20ms', '20ms', '20ms', '20ms'], jitter = 0.0 }
[network]
allow = ['127.0.0.0/8', '::1/128']
";

/// The configuration in `toml`, with the built-in sinks and nothing from the environment.
///
/// # Panics
/// Where it is not valid, with its errors.
pub fn config(toml: &str) -> Config {
    Config::loader()
        .registry(&postrider_sinks::registry())
        .text(Format::Toml, toml)
        .environment(false)
        .load()
        .unwrap_or_else(|errors| panic!("{errors}"))
}

/// A bus of the configuration in `toml` followed by [`LOCAL`].
///
/// # Panics
/// Where it does not open.
pub async fn bus(toml: &str) -> Bus {
    Bus::open(config(&format!("{toml}\n{LOCAL}"))).await.expect("the bus opens")
}

/// The path of one of the workspace's programs, built beside this test.
///
/// # Panics
/// Where it is not there: `cargo xtask test` builds it, `cargo build --workspace --bins` too.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    // The test lies in `deps`, the programs one folder up.
    let folder = test.parent().and_then(Path::parent).expect("a test lies in target/PROFILE/deps");
    let path = folder.join(name).with_extension(std::env::consts::EXE_EXTENSION);
    assert!(path.exists(), "{} is not built; run cargo build --workspace --bins", path.display());
    path
}

/// A command of `postrider` in `folder`, without the variables of whoever runs the test.
pub fn postrider<A: AsRef<OsStr>>(folder: &Path, args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(program("postrider"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("POSTRIDER_") {
            command.env_remove(name);
        }
    }
    command.current_dir(folder).args(args).stdin(Stdio::null()).env_remove("NO_COLOR");
    command
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Ran {
    /// The exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

/// Runs a command to its end.
///
/// # Panics
/// Where it cannot be started.
pub fn run(command: &mut Command) -> Ran {
    let Output { status, stdout, stderr } = command.output().expect("the command starts");
    Ran {
        code: status.code(),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

/// Waits until `look` says it is so; on the deadline panics with the last state.
///
/// # Panics
/// At the deadline.
pub async fn eventually<T: Debug>(what: &str, mut look: impl AsyncFnMut() -> (bool, T)) -> T {
    let started = tokio::time::Instant::now();
    loop {
        let (is_so, state) = look().await;
        if is_so {
            return state;
        }
        assert!(
            started.elapsed() < DEADLINE,
            "{what}: still not after {DEADLINE:?}, last {state:?}"
        );
        // tidy: allow(sleep): polls a condition with a deadline
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Says that a test was skipped because the machine lacks something; a failure where `CI=true`.
/// The convention is in CONTRIBUTING.md.
///
/// # Panics
/// Where `CI=true`.
pub fn skip(test: &str, reason: &str) {
    assert_ne!(
        std::env::var("CI").as_deref(),
        Ok("true"),
        "{test} may not be skipped in CI: {reason}"
    );
    eprintln!("SKIPPED {test}: {reason}");
    if let Some(log) = std::env::var_os("POSTRIDER_SKIP_LOG") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(log);
        let mut file = file.expect("the skip log can be written");
        writeln!(file, "{test}\t{reason}").expect("the skip log can be written");
    }
}

/// Random numbers of a test; the seed is printed and may be given as `POSTRIDER_SEED`.
///
/// # Panics
/// Where `POSTRIDER_SEED` is no number.
pub fn seed(test: &str) -> impl FnMut() -> u64 + use<> {
    let seed = match std::env::var("POSTRIDER_SEED") {
        Ok(seed) => seed.parse().expect("POSTRIDER_SEED is a number"),
        Err(_) => fastrand::u64(..),
    };
    println!("{test}: POSTRIDER_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    move || random.u64(..)
}

/// Which events a receiver took over, by their keys and the numbers in which they were accepted.
#[derive(Debug, Default)]
pub struct Taken {
    seen: HashSet<usize>,
    newest: HashMap<usize, usize>,
    late: usize,
}

impl Taken {
    /// An event was taken over; only the first time counts.
    pub fn take(&mut self, key: usize, number: usize) {
        if self.seen.insert(number) {
            let newest = self.newest.entry(key).or_insert(number);
            self.late += usize::from(number < *newest);
            *newest = number.max(*newest);
        }
    }

    /// How many were taken over.
    pub fn count(&self) -> usize {
        self.seen.len()
    }

    /// How many of them only after a later one of their key.
    pub fn late(&self) -> usize {
        self.late
    }
}
