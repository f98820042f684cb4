//! `setup`: what the tests need on this machine, one line each in [`NEEDS`].

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::{Fail, Outcome, process, say, term};

/// One thing that tests need.
struct Need {
    name: &'static str,
    /// One word: a program on `PATH`. Several: a command that succeeds where the thing is there, as
    /// `["node", "-e", "require('ajv')"]` or `["python3", "-c", "import flask"]`.
    detect: &'static [&'static str],
    install: Install,
    /// What does not run without it.
    used_by: &'static str,
    /// Nothing can be tested without it; else the tests that use it are skipped (and fail in CI).
    mandatory: bool,
}

/// How a need is met.
enum Install {
    /// A Debian package: installed by `setup` where it runs as root on Debian.
    Debian(&'static str),
    /// The npm packages of a folder with a lock file: installed by `setup` where npm is here.
    Npm(&'static str),
    /// The Python packages of a folder's `requirements.txt`, in an environment of the folder's own,
    /// `venv`: installed by `setup` where python3 is here.
    Pip(&'static str),
    /// Anything else: `setup` says what to type.
    Command(&'static str),
}

/// Everything that tests need beside Rust itself. A later need is one more line.
#[rustfmt::skip] // One line each.
const NEEDS: &[Need] = &[
    Need { name: "cargo-nextest", detect: &["cargo-nextest"], install: Install::Command("cargo install --locked cargo-nextest"), used_by: "test, e2e", mandatory: true },
    Need { name: "curl", detect: &["curl"], install: Install::Debian("curl"), used_by: "e2e: a publisher that is not ours", mandatory: false },
    Need { name: "prlimit", detect: &["prlimit"], install: Install::Debian("util-linux"), used_by: "the file sink beyond a size limit and on a full disk", mandatory: false },
    Need { name: "script", detect: &["script"], install: Install::Debian("bsdutils"), used_by: "the stdout sink on a terminal", mandatory: false },
    Need { name: "strace", detect: &["strace"], install: Install::Debian("strace"), used_by: "the file sink under injected disk errors", mandatory: false },
    Need { name: "nginx", detect: &["nginx"], install: Install::Debian("nginx-light"), used_by: "bench: a receiver that answers at once", mandatory: false },
    Need { name: "logrotate", detect: &["logrotate"], install: Install::Debian("logrotate"), used_by: "e2e: the file sink under an outside rename", mandatory: false },
    Need { name: "the packages of tests/verifiers", detect: &["node", "-e", "require('./tests/verifiers/node_modules/stripe/package.json')"], install: Install::Npm("tests/verifiers"), used_by: "e2e: verifiers that are not ours", mandatory: false },
    Need { name: "the Python packages of tests/verifiers", detect: &["sh", "-c", "tests/verifiers/venv/bin/python -c 'import cloudevents.core, standardwebhooks, stripe'"], install: Install::Pip("tests/verifiers"), used_by: "e2e: verifiers that are not ours", mandatory: false },
];

/// Bound on `apt-get update`, which talks to the network.
const UPDATE_MAX: Duration = Duration::from_mins(2);
/// Bound on `apt-get install`.
const INSTALL_MAX: Duration = Duration::from_mins(10);
/// Bound on `npm ci`, and on each command that makes an environment for Python.
const PACKAGES_MAX: Duration = Duration::from_mins(3);
/// Bound on a detecting command.
const DETECT_MAX: Duration = Duration::from_secs(20);

/// Installs what is missing, or says which command does. Fails only where something mandatory stays
/// missing.
pub(crate) fn run() -> Outcome {
    let mut missing = missing()?;
    let packages: Vec<_> = missing.iter().filter_map(|need| need.install.package()).collect();
    if !packages.is_empty() && may_install() {
        match install(&packages) {
            Err(Fail::Interrupted) => return Err(Fail::Interrupted),
            Err(reason) => say!("{} {reason}", term::warn("!")),
            Ok(()) => {}
        }
        missing = self::missing()?;
    }
    let mut tried = false;
    for need in &missing {
        let installed = match need.install {
            Install::Npm(folder) if process::find("npm").is_some() => npm_ci(folder),
            Install::Pip(folder) if process::find("python3").is_some() => pip_install(folder),
            _ => continue,
        };
        tried = true;
        match installed {
            Err(Fail::Interrupted) => return Err(Fail::Interrupted),
            Err(reason) => say!("{} {reason}", term::warn("!")),
            Ok(()) => {}
        }
    }
    if tried {
        missing = self::missing()?;
    }
    for need in &missing {
        let mark = if need.mandatory { term::bad("✗") } else { term::warn("!") };
        say!(
            "{mark} {} is missing, which {} needs. Type: {}",
            need.name,
            need.used_by,
            need.command()
        );
    }
    if let Some(need) = missing.iter().find(|need| need.mandatory) {
        return Err(Fail::new(format_args!("{} is missing. Type: {}", need.name, need.command())));
    }
    if missing.is_empty() {
        say!("{} everything that the tests need is here", term::good("✓"));
    }
    Ok(())
}

fn missing() -> Outcome<Vec<&'static Need>> {
    let mut missing = Vec::new();
    for need in NEEDS {
        if !need.is_here()? {
            missing.push(need);
        }
    }
    Ok(missing)
}

impl Need {
    fn is_here(&self) -> Outcome<bool> {
        match self.detect {
            [] => Ok(false),
            [program] => Ok(process::find(program).is_some()),
            [program, ..] if process::find(program).is_none() => Ok(false),
            [program, args @ ..] => {
                let mut command = Command::new(program);
                command.current_dir(process::root());
                command.args(args).stdout(Stdio::null()).stderr(Stdio::null());
                process::status(&mut command, Some(DETECT_MAX)).map(|status| status.success())
            }
        }
    }

    fn command(&self) -> String {
        match self.install {
            Install::Debian(package) => format!("sudo apt-get install {package}"),
            Install::Npm(folder) => format!("npm --prefix {folder} ci --ignore-scripts"),
            Install::Pip(folder) => format!(
                "python3 -m venv {folder}/venv && {folder}/venv/bin/pip install --only-binary :all: \
                 --requirement {folder}/requirements.txt"
            ),
            Install::Command(command) => command.to_owned(),
        }
    }
}

impl Install {
    fn package(&self) -> Option<&'static str> {
        match self {
            Self::Debian(package) => Some(package),
            Self::Npm(_) | Self::Pip(_) | Self::Command(_) => None,
        }
    }
}

/// Root on a system with apt-get, which is Debian or close to it.
fn may_install() -> bool {
    let root = std::fs::metadata("/proc/self").is_ok_and(|owner| owner.uid() == 0);
    root && Path::new("/etc/debian_version").exists() && process::find("apt-get").is_some()
}

fn install(packages: &[&str]) -> Outcome {
    say!("installing {}", packages.join(", "));
    apt_get(&["update", "-qq"], UPDATE_MAX)?;
    let args = ["install", "-qq", "--yes", "--no-install-recommends"];
    apt_get(&[&args, packages].concat(), INSTALL_MAX)
}

fn apt_get(args: &[&str], limit: Duration) -> Outcome {
    let mut command = Command::new("apt-get");
    // Its account goes where progress goes; stdout stays ours.
    command
        .args(["-o", "Dpkg::Use-Pty=0"])
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(std::io::stderr());
    let status = process::status(&mut command, Some(limit))?;
    process::succeeded(&format!("apt-get {}", args[0]), status)
}

/// Installs what the folder's lock file names; nothing of it runs meanwhile.
fn npm_ci(folder: &str) -> Outcome {
    say!("installing the packages of {folder}");
    let mut command = Command::new("npm");
    command
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
        .current_dir(process::root().join(folder))
        .stdout(std::io::stderr());
    let status = process::status(&mut command, Some(PACKAGES_MAX))?;
    process::succeeded("npm ci", status)
}

/// Makes the folder's environment for Python; wheels alone, so that nothing of them runs meanwhile.
fn pip_install(folder: &str) -> Outcome {
    say!("installing the Python packages of {folder}");
    let folder = process::root().join(folder);
    let run = |what: &str, program: &Path, args: &[&str]| {
        let mut command = Command::new(program);
        command.args(args).current_dir(&folder).stdout(std::io::stderr());
        let status = process::status(&mut command, Some(PACKAGES_MAX))?;
        process::succeeded(what, status)
    };
    run("python3 -m venv", Path::new("python3"), &["-m", "venv", "venv"])?;
    let install = ["install", "--quiet", "--disable-pip-version-check", "--no-input"];
    let wheels = ["--only-binary", ":all:", "--requirement", "requirements.txt"];
    run("pip install", &folder.join("venv/bin/pip"), &[&install[..], &wheels].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(detect: &'static [&'static str]) -> Need {
        Need { name: "x", detect, install: Install::Debian("x"), used_by: "x", mandatory: false }
    }

    #[test]
    fn needs_are_detected_by_program_or_by_command() {
        let check =
            |detect, expect| assert_eq!(need(detect).is_here().unwrap(), expect, "{detect:?}");
        check(&["sh"], true);
        check(&["a-program-that-nobody-has"], false);
        check(&["sh", "-c", "true"], true);
        check(&["sh", "-c", "false"], false);
        check(&["a-program-that-nobody-has", "--version"], false);
    }
}
