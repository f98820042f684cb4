//! Child processes: started, watched against a deadline and against ctrl-c, and ended by their id on
//! every way out.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::{Fail, Outcome};

/// How often a wait looks at its child, its deadline and the signals.
pub(crate) const TICK: Duration = Duration::from_millis(10);
/// How long a child may take to end when asked, before it is killed.
const GRACE: Duration = Duration::from_secs(5);
/// How long output is read on after a child has ended, where a grandchild holds the pipe open.
const DRAIN: Duration = Duration::from_secs(2);
/// Lines of a child that may wait to be read before the child is held back.
const LINES_WAITING_MAX: usize = 1024;

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From here on, SIGINT, SIGTERM and SIGHUP end waits instead of the process, so that children are
/// ended and folders removed on the way out.
pub(crate) fn watch_signals() -> Outcome {
    let flag = INTERRUPTED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(flag))
            .map_err(|error| Fail::new(format_args!("watching for signal {signal}: {error}")))?;
    }
    Ok(())
}

/// Ends the command where a signal asked for it. Every loop that waits calls this.
pub(crate) fn check_interrupt() -> Outcome {
    match INTERRUPTED.get() {
        Some(flag) if flag.load(Ordering::Relaxed) => Err(Fail::Interrupted),
        _ => Ok(()),
    }
}

/// A child that does not outlive its owner.
#[derive(Debug)]
pub(crate) struct Guard {
    child: Child,
    name: String,
}

impl Guard {
    /// Starts `command` as a part of this process's group, so that a ctrl-c reaches it too (cargo
    /// ends its own children then).
    pub(crate) fn start(command: &mut Command) -> Outcome<Self> {
        let name = Path::new(command.get_program())
            .file_name()
            .unwrap_or_else(|| OsStr::new("?"))
            .to_string_lossy()
            .into_owned();
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .map_err(|error| Fail::new(format_args!("starting {name}: {error}")))?;
        Ok(Self { child, name })
    }

    /// Starts `command` in a group of its own: a ctrl-c reaches only us, and we end it in our order.
    pub(crate) fn start_apart(command: &mut Command) -> Outcome<Self> {
        Self::start(command.process_group(0))
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The lines of the child's stdout, which must be piped and not taken yet.
    pub(crate) fn lines(&mut self) -> Receiver<String> {
        let stdout = self.child.stdout.take().expect("the caller piped stdout and takes it once");
        let (send, receive) = sync_channel(LINES_WAITING_MAX);
        thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n') {
                let Ok(line) = line else { break };
                // Once nobody listens, reading goes on, so that the child never blocks on a full pipe.
                let _ = send.send(String::from_utf8_lossy(&line).into_owned());
            }
        });
        receive
    }

    /// How the child ended, if it has.
    pub(crate) fn ended(&mut self) -> Outcome<Option<ExitStatus>> {
        self.child
            .try_wait()
            .map_err(|error| Fail::new(format_args!("waiting for {}: {error}", self.name)))
    }

    /// Waits for the child; a deadline that passes ends it and is a failure.
    pub(crate) fn wait(mut self, limit: Option<Duration>) -> Outcome<ExitStatus> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            self.check(started, limit)?;
            thread::sleep(TICK);
        }
    }

    /// Asks the child to end, and kills it where it does not within `grace`. As long as it has not
    /// been waited for, its id cannot belong to another process.
    fn end(&mut self, grace: Duration) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        // The standard library can only kill; `kill` is built into every shell.
        let asked =
            Command::new("sh").args(["-c", &format!("kill -TERM {}", self.child.id())]).status();
        let deadline = Instant::now() + if asked.is_ok() { grace } else { Duration::ZERO };
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            thread::sleep(TICK);
        }
    }

    fn check(&self, started: Instant, limit: Option<Duration>) -> Outcome {
        check_interrupt()?;
        match limit {
            Some(limit) if started.elapsed() > limit => Err(Fail::new(format_args!(
                "{} ran for more than {} s and was ended",
                self.name,
                limit.as_secs()
            ))),
            _ => Ok(()),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.end(GRACE);
    }
}

/// Runs `command` to its end with its output where ours goes.
pub(crate) fn status(command: &mut Command, limit: Option<Duration>) -> Outcome<ExitStatus> {
    Guard::start(command)?.wait(limit)
}

/// Runs `command` to its end and hands each line of its stdout to `each` as it comes.
pub(crate) fn read_lines(
    command: &mut Command,
    limit: Option<Duration>,
    mut each: impl FnMut(&str),
) -> Outcome<ExitStatus> {
    let mut child = Guard::start(command.stdout(Stdio::piped()))?;
    let lines = child.lines();
    let started = Instant::now();
    let mut ended: Option<Instant> = None;
    loop {
        match lines.recv_timeout(TICK) {
            Ok(line) => each(&line),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => match ended {
                Some(at) if at.elapsed() > DRAIN => break,
                Some(_) => {}
                None => ended = child.ended()?.map(|_| Instant::now()),
            },
        }
        child.check(started, limit)?;
    }
    child.wait(limit.map(|limit| limit.saturating_sub(started.elapsed()).max(DRAIN)))
}

/// Fails where `status` is not success.
pub(crate) fn succeeded(what: &str, status: ExitStatus) -> Outcome {
    if status.success() {
        Ok(())
    } else {
        Err(Fail::new(format_args!("{what} ended with {status}")))
    }
}

/// The repository's folder. Cargo tells it at run time, so that a moved clone works; a program that
/// is started by hand falls back to where it was built.
pub(crate) fn root() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    package.parent().map_or(package.clone(), Path::to_path_buf)
}

/// A cargo call in the repository's folder, with the cargo that runs us.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    command
}

/// Where `program` is found on `PATH` (and where Debian keeps its administrators' programs).
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn lines_arrive_in_order_with_the_last_unfinished_one() {
        let mut seen = Vec::new();
        let status =
            read_lines(&mut shell("echo one; printf 'two\\nthree'; exit 3"), None, |line| {
                seen.push(line.to_owned());
            });
        assert_eq!(status.unwrap().code(), Some(3));
        assert_eq!(seen, ["one", "two", "three"]);
    }

    #[test]
    fn a_deadline_ends_the_child() {
        let child = Guard::start(&mut shell("exec sleep 60")).unwrap();
        let id = child.id();
        let reason = child.wait(Some(Duration::from_millis(50))).unwrap_err();
        assert!(reason.to_string().contains("was ended"), "{reason}");
        assert!(!Path::new(&format!("/proc/{id}")).exists(), "process {id} still runs");
    }

    /// A child that ignores the request is killed after the grace.
    #[test]
    fn a_child_that_does_not_listen_is_killed() {
        let mut child = Guard::start(
            shell("trap '' TERM; echo ready; while :; do :; done").stdout(Stdio::piped()),
        )
        .unwrap();
        let id = child.id();
        assert_eq!(child.lines().recv_timeout(GRACE).unwrap(), "ready");
        child.end(Duration::from_millis(50));
        assert!(!Path::new(&format!("/proc/{id}")).exists(), "process {id} still runs");
    }
}
