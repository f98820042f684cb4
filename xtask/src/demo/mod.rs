//! `demo`: the main job, end to end. A receiver and a program that embeds the bus are started as a
//! user would start them; the guide's events go out to a webhook, a file and the terminal; and what
//! arrived is read back and held against what was sent.

mod account;
mod guide;
mod kept;
mod receiver;

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use account::{Event, Verdict};
use receiver::Receiver;

use crate::process::{self, Guard, TICK};
use crate::programs::Programs;
use crate::scratch::Scratch;
use crate::term::{self, Progress};
use crate::{Fail, Outcome, say};

/// The example program that embeds the bus and publishes the guide's events.
pub(crate) const DASHBOARD: &str = "dashboard";
/// The most events of one demo; each takes about 2 KB of memory here.
const EVENTS_MAX: usize = 100_000;
/// From here on the account speaks of numbers instead of single events, and of memory.
const MANY: usize = 1_000;
/// Problems shown for one place.
const PROBLEMS_SHOWN: usize = 5;
/// How often progress looks at the receiver, and how many times longer than the look itself it waits
/// before the next, so that looking costs the run little.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const LOOK_REST: u32 = 10;

/// What the command line asks for.
#[derive(Debug, PartialEq)]
pub(crate) struct Options {
    pub(crate) events: usize,
    pub(crate) keep: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { events: guide::BODIES.len(), keep: false }
    }
}

/// Reads the value of `--events`.
pub(crate) fn events_from(text: &str) -> Outcome<usize> {
    match text.parse() {
        Ok(events) if (1..=EVENTS_MAX).contains(&events) => Ok(events),
        _ => Err(Fail::Usage(format!(
            "--events: expected a number from 1 to {EVENTS_MAX}, found {text:?}"
        ))),
    }
}

/// Builds the two programs that the demo runs.
pub(crate) fn build() -> Outcome<Programs> {
    eprintln!("building the receiver and the dashboard …");
    Programs::build(&["--package", "mock-receiver", "--package", "postrider-examples", "--bins"])
}

/// Runs the demo.
pub(crate) fn run(options: &Options, programs: &Programs) -> Outcome {
    let mut folder = Scratch::new("postrider-demo")?;
    let mut receiver = Receiver::start(programs.path("mock-receiver")?, &folder)?;
    let config = config(&receiver.capture);
    write(&folder.join(CONFIG), &config)?;

    say!(
        "\n{} {}",
        term::bold("Postrider"),
        term::dim(format_args!(
            "sends {} to 3 endpoints",
            term::count(options.events as u64, "event")
        ))
    );
    say!("\n{} {}", term::bold("config"), term::dim(folder.join(CONFIG).display()));
    for line in config.lines() {
        say!("  {} {line}", term::dim("│"));
    }

    let outcome = send_and_check(options, programs.path(DASHBOARD)?, &folder, &mut receiver);
    if matches!(outcome, Err(Fail::Interrupted)) {
        return outcome;
    }
    if options.keep {
        if let Err(reason) = &outcome {
            say!("\n{} {reason}", term::bad("failed:"));
        }
        kept::hold(programs.path(DASHBOARD)?, &mut receiver, &folder)?;
    } else if outcome.is_err() {
        folder.keep();
        say!("\nThe files of this run are left in {}", folder.path().display());
    }
    outcome
}

const CONFIG: &str = "postrider.toml";
const AUDIT: &str = "events.ndjson";
const CONSOLE: &str = "console.ndjson";
const REPORT: &str = "report.ndjson";
const LOG: &str = "dashboard.log";

/// The config that the dashboard runs with.
fn config(capture: &str) -> String {
    format!(
        r#"[network]
# Endpoint URLs may come from users, so Postrider sends to public addresses only, unless the config
# says otherwise. The demo's receiver is on this machine.
allow = ["127.0.0.0/8"]

[[endpoints]]
name = "My App"
url = "{capture}/{bin}"
events = ["*"]

[[endpoints]]
sink = "file"
name = "audit"
path = "{AUDIT}"
events = ["*"]

[[endpoints]]
sink = "stdout"
name = "console"
events = ["*"]
"#,
        bin = receiver::BIN
    )
}

/// Runs the dashboard, reads back what arrived, prints the account, and fails where it does not add
/// up.
fn send_and_check(
    options: &Options,
    dashboard: &Path,
    folder: &Scratch,
    receiver: &mut Receiver,
) -> Outcome {
    let sent = send(options.events, dashboard, folder, receiver)?;
    receiver.look()?;
    let (arrivals, odd) = receiver.read_back()?;

    let report = read_text(&folder.join(REPORT))?;
    let events = account::read_report(&report).map_err(Fail::new)?;
    let from_lines = |place, name: &str| -> Outcome<Verdict> {
        let (arrivals, odd) = account::read_lines(&read(&folder.join(name))?);
        Ok(account::check(place, &events, &arrivals, odd))
    };
    let report = account::check_report(&events, options.events);
    let address = format!("{}/{}", receiver.capture, receiver::BIN);
    let webhook = account::check("My App", &events, &arrivals, odd);
    let places = [
        (webhook, "webhook", address.as_str()),
        (from_lines("audit", AUDIT)?, "file", AUDIT),
        (from_lines("console", CONSOLE)?, "stdout", CONSOLE),
    ];
    print_sent(&events, &sent);
    say!("\n{}", term::bold("arrived"));
    let asked = options.events;
    for (verdict, sink, address) in &places {
        let mark = if verdict.exact == asked && verdict.good() {
            term::good("✓")
        } else {
            term::bad("✗")
        };
        let what = format!("{} of {asked} exactly once, to the byte", verdict.exact);
        say!("  {mark} {:<8} {sink:<8} {what}  {}", verdict.place, term::dim(address));
    }

    let mut reasons = report.reasons(&events, PROBLEMS_SHOWN);
    for (verdict, ..) in &places {
        reasons.extend(verdict.reasons(&events, PROBLEMS_SHOWN));
    }
    if !sent.status.success() {
        let log = last_lines(&folder.join(LOG));
        reasons.push(format!("the dashboard ended with {}{log}", sent.status));
    }
    if !reasons.is_empty() {
        return Err(Fail::new(reasons.join("\n  ")));
    }
    let guides = if events.len() >= guide::BODIES.len() {
        "; the first three bodies are the guide's"
    } else {
        ""
    };
    say!(
        "\n{} {} arrived exactly once at each of {} endpoints{guides}",
        term::good("✓"),
        term::count(events.len() as u64, "event"),
        places.len()
    );
    Ok(())
}

/// How sending went.
struct Sent {
    status: ExitStatus,
    took: Duration,
    /// The dashboard's largest resident memory in KiB, as last seen while it ran.
    memory_kib_max: Option<u64>,
}

/// Runs the dashboard to its end, within 30 s and 5 ms per event.
fn send(
    events: usize,
    dashboard: &Path,
    folder: &Scratch,
    receiver: &mut Receiver,
) -> Outcome<Sent> {
    let create = |name: &str| create(&folder.join(name));
    let mut command = command(dashboard, folder, events);
    command.arg("--report").arg(folder.join(REPORT));
    command.stdout(create(CONSOLE)?).stderr(create(LOG)?);

    let limit = Duration::from_secs(30) + Duration::from_millis(5) * events as u32;
    let mut progress = Progress::new("arrived at the webhook", events as u64);
    let started = Instant::now();
    let mut guard = Guard::start_apart(&mut command)?;
    let mut memory_kib_max = None;
    let mut next_look = started + LOOK_EVERY;
    loop {
        memory_kib_max = peak_memory(guard.id()).or(memory_kib_max);
        if let Some(status) = guard.ended()? {
            return Ok(Sent { status, took: started.elapsed(), memory_kib_max });
        }
        process::check_interrupt()?;
        receiver.check()?;
        if Instant::now() >= next_look {
            let look = Instant::now();
            receiver.look()?;
            progress.set(receiver.seen() as u64);
            next_look = Instant::now() + LOOK_EVERY.max(look.elapsed() * LOOK_REST);
        }
        if started.elapsed() > limit {
            receiver.look()?;
            let lines = |name| read(&folder.join(name)).map_or(0, |bytes| count_lines(&bytes));
            return Err(Fail::new(format_args!(
                "the dashboard still runs after {} s, with {events} events to send. Arrived: {} at My App, {} at \
                 audit, {} at console{}",
                limit.as_secs(),
                receiver.seen(),
                lines(AUDIT),
                lines(CONSOLE),
                last_lines(&folder.join(LOG)),
            )));
        }
        thread::sleep(TICK);
    }
}

/// A dashboard in the demo's folder, with the demo's config.
fn command(dashboard: &Path, folder: &Scratch, events: usize) -> Command {
    let mut command = Command::new(dashboard);
    command.arg("--config").arg(folder.join(CONFIG)).args(["--events", &events.to_string()]);
    command.current_dir(folder.path());
    // The printed config is the whole config: no layer of it comes from the caller's environment.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("POSTRIDER_") {
            command.env_remove(name);
        }
    }
    command
}

fn print_sent(events: &[Event], sent: &Sent) {
    let took = sent.took.as_secs_f64();
    say!("\n{} in {took:.2} s", term::bold("sent"));
    if events.len() < MANY {
        const SHOWN: usize = 6;
        for event in events.iter().take(SHOWN) {
            let data = event.body.split_once("\"data\":").map_or("", |(_, data)| data);
            let data = data.strip_suffix('}').unwrap_or(data); // The envelope's own brace.
            let line = format!("  {:<8} {} {}", event.kind, event.id, term::dim(data));
            say!("{}", term::fit(&line));
        }
        if events.len() > SHOWN {
            say!("  and {} more", events.len() - SHOWN);
        }
        return;
    }
    let mut kinds: Vec<(&str, u64)> = Vec::new();
    for event in events {
        match kinds.iter_mut().find(|(kind, _)| *kind == event.kind) {
            Some((_, count)) => *count += 1,
            None => kinds.push((&event.kind, 1)),
        }
    }
    for (kind, count) in kinds {
        say!("  {kind:<8} {}", term::count(count, "event"));
    }
    let memory = sent
        .memory_kib_max
        .map_or("unknown".into(), |kib| format!("{:.1} MB", kib as f64 / 1024.0));
    say!(
        "  {:.0} events/s from start to end; the program's memory at its peak: {memory}",
        events.len() as f64 / took
    );
}

/// `VmHWM` of a running process, in KiB (man page `proc_pid_status`).
fn peak_memory(id: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// The end of a log, for a message; empty where there is none.
fn last_lines(log: &Path) -> String {
    const LINES: usize = 20;
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(LINES)..];
    last.iter().flat_map(|line| ["\n    ", line]).collect()
}

fn count_lines(bytes: &[u8]) -> usize {
    bytes.split(|byte| *byte == b'\n').count() - 1
}

fn read(path: &Path) -> Outcome<Vec<u8>> {
    match fs::read(path) {
        // What was never written holds nothing; the account says what that means.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(|error| Fail::new(format_args!("{}: {error}", path.display()))),
    }
}

fn read_text(path: &Path) -> Outcome<String> {
    String::from_utf8(read(path)?)
        .map_err(|error| Fail::new(format_args!("{}: {error}", path.display())))
}

fn create(path: &Path) -> Outcome<File> {
    File::create(path).map_err(|error| Fail::new(format_args!("{}: {error}", path.display())))
}

fn write(path: &Path, text: &str) -> Outcome {
    fs::write(path, text).map_err(|error| Fail::new(format_args!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_names_the_receiver_and_allows_it_openly() {
        let config = config("http://127.0.0.1:4010");
        assert!(config.contains("url = \"http://127.0.0.1:4010/dashboard\"\n"), "{config}");
        assert!(config.contains("allow = [\"127.0.0.0/8\"]\n"), "{config}");
    }

    #[test]
    fn our_own_peak_memory_is_readable() {
        assert!(peak_memory(std::process::id()).is_some_and(|kib| kib > 100));
        assert_eq!(peak_memory(0), None);
    }
}
