//! A large backlog: what it takes of memory and disk, how fast it is opened after a process ended
//! without closing, and how soon its disk is free again.
//!
//! Each backlog is made by a process of its own, which is this same program.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use postrider::clock::{Clock as _, SystemClock};
use postrider::delivery::Decision;
use postrider::store::{Accept, LogStore, LogStoreBuilder, Settlement, Store as _};
use postrider::{EndpointId, Timestamp};

use crate::measure::{Spread, Stopwatch};
use crate::payload::{Match, envelopes, matches_of_400};
use crate::report::{Goal, Report};
use crate::{Failure, Scale};

/// The argument that makes this program the process that has a backlog.
pub(crate) const FLAG: &str = "backlog";

const EVENTS: [usize; 2] = [1_000_000, 10_000_000];
const MEMORY_MB_MAX: [f64; 2] = [64.0, 200.0];
const PAYLOAD_BYTES: f64 = 400.0;
const BATCH: usize = 1_000;
const OPENINGS: usize = 5;

pub(crate) async fn run(report: &mut Report, scale: Scale, seed: u64) -> Result<(), Failure> {
    for (events, most) in EVENTS.into_iter().zip(MEMORY_MB_MAX) {
        let folder = tempfile::tempdir()?;
        let count = events / scale.divisor;
        let name = format!("{} million owed", count as f64 / 1e6);
        let [grown, _] = run_child("owe", count, folder.path())?;
        let goal = Some(Goal::ValueAtMost(most));
        report.value("store", &format!("memory, {name}"), "MB", grown, None, goal);
        if events != EVENTS[0] {
            continue;
        }
        let used = bytes_used(folder.path())? as f64 / (count as f64 * PAYLOAD_BYTES);
        let goal = Some(Goal::ValueAtMost(1.1));
        report.value("store", &format!("disk, {name}"), "x payload", used, None, goal);

        let (mut walls, mut cpus, mut reads) = (Vec::new(), Vec::new(), Vec::new());
        // The first pair warms up.
        for at in 0..=OPENINGS {
            let read = read_tail(folder.path())?;
            let [wall, cpu] = run_child("open", count, folder.path())?;
            if at > 0 {
                walls.push(wall);
                cpus.push(cpu);
                reads.push(read);
            }
        }
        let (wall, limit) = (Spread::of(walls).median, Spread::of(reads).median);
        let goal = Some(Goal::ValueAtMost(200.0));
        let case = format!("reopen after an abort, {name}");
        report.value("store", &case, "ms", wall, Some(limit), goal);
        let case = format!("{case}, cpu");
        report.value("store", &case, "ms", Spread::of(cpus).median, None, None);
    }
    let freed = freed_after(seed).await?;
    let goal = Some(Goal::ValueAtMost(64.0));
    report.value("store", "log written until settled disk is free", "MiB", freed, None, goal);
    Ok(())
}

/// Has a process of its own do it, and takes its two figures.
fn run_child(what: &str, count: usize, folder: &Path) -> Result<[f64; 2], Failure> {
    struct Running(Child);
    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(format!("--{FLAG}")).args([what, &count.to_string()]).arg(folder);
    command.stdout(Stdio::piped());
    let mut child = Running(command.spawn()?);
    let stdout = child.0.stdout.take().ok_or("read the output of the process with a backlog")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    let figures = line.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>();
    let figures = figures.ok().and_then(|figures| <[f64; 2]>::try_from(figures).ok());
    figures.ok_or_else(|| "have a process make a backlog: it failed".into())
}

/// The process with a backlog. It never closes its store.
pub(crate) fn main(arguments: &[String]) -> ExitCode {
    let work = || -> Result<[f64; 2], Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let [what, count, folder] = arguments else { return Err("read its arguments".into()) };
        let (count, folder) = (count.parse()?, Path::new(folder));
        match what.as_str() {
            "owe" => runtime.block_on(owe(folder, count)),
            _ => open(folder, count),
        }
    };
    match work() {
        Ok([first, second]) => {
            println!("{first} {second}");
            // As a killed process leaves it: nothing is closed.
            std::process::exit(0);
        }
        Err(failure) => {
            eprintln!("bench: failed to {failure}");
            ExitCode::FAILURE
        }
    }
}

fn builder(folder: &Path) -> LogStoreBuilder {
    LogStore::builder(folder.join("log")).backlog_events_max(u64::MAX)
}

/// By how many MB memory grows while so many events for two endpoints become owed, and to how many.
async fn owe(folder: &Path, count: usize) -> Result<[f64; 2], Failure> {
    let events = matches_of_400(BATCH, 1);
    let before = resident_mb()?;
    let store = builder(folder).open().await?;
    for _ in 0..count / BATCH {
        store.accept(batch(&events)?, SystemClock.now()).await?;
    }
    let after = resident_mb()?;
    std::mem::forget(store);
    Ok([after - before, after])
}

/// How many milliseconds it takes to open it, and how many of CPU time.
fn open(folder: &Path, count: usize) -> Result<[f64; 2], Failure> {
    let watch = Stopwatch::start();
    let store = builder(folder).open_blocking()?;
    let took = watch.stop();
    let owed = store.recovery().owed;
    std::mem::forget(store);
    if owed == count as u64 * 2 {
        Ok([took.wall, took.cpu].map(|took| took.as_secs_f64() * 1e3))
    } else {
        Err(format!("count: {} deliveries should be owed, {owed} are", count * 2).into())
    }
}

fn batch(events: &[Match]) -> Result<Vec<Accept>, Failure> {
    let endpoints: Arc<[EndpointId]> = Arc::new(["a".parse()?, "b".parse()?]);
    let accept = |event| Accept { event, endpoints: Arc::clone(&endpoints) };
    Ok(envelopes(events)?.into_iter().map(accept).collect())
}

fn resident_mb() -> Result<f64, Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")).ok_or("read VmRSS")?;
    Ok(kilobytes.parse::<f64>()? * 1024.0 / 1e6)
}

/// Bytes of a log on disk. What is kept ready ahead of it is there once, however much is owed, and not
/// counted: the spare file, and the zeros at the end of the last segment.
fn bytes_used(folder: &Path) -> Result<u64, Failure> {
    let folder = folder.join("log");
    let mut bytes = 0;
    for entry in fs::read_dir(&folder)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with("spare") {
            bytes += entry.metadata()?.len();
        }
    }
    let last = fs::read(folder.join(segments(&folder)?.pop().ok_or("find the last segment")?))?;
    let zeros = last.iter().rev().take_while(|byte| **byte == 0).count();
    Ok(bytes - zeros as u64)
}

/// The limit of opening: how many milliseconds it takes to read the checkpoint and the last segment.
fn read_tail(folder: &Path) -> Result<f64, Failure> {
    let folder = folder.join("log");
    let started = Instant::now();
    let mut bytes = fs::read(folder.join("checkpoint"))?.len();
    let last = segments(&folder)?.pop().ok_or("find the last segment")?;
    bytes += fs::read(folder.join(last))?.len();
    let took = started.elapsed();
    if bytes == 0 { Err("read the log's end".into()) } else { Ok(took.as_secs_f64() * 1e3) }
}

fn segments(folder: &Path) -> Result<Vec<String>, Failure> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let number = name.strip_suffix(".seg");
        if number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit())) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// MiB of log that are written after everything was settled, until the segments that held it are
/// gone. Nothing is retained here.
async fn freed_after(seed: u64) -> Result<f64, Failure> {
    /// An event with the settlements of its two deliveries.
    const BYTES: f64 = 436.0 + 2.0 * 20.0;
    let folder = tempfile::tempdir()?;
    let builder = builder(folder.path()).retention(Duration::ZERO).dedup_window(Duration::ZERO);
    let store = builder.open().await?;
    let events = matches_of_400(BATCH, seed);
    let publish_and_settle = async |rounds: usize| {
        for _ in 0..rounds {
            store.accept(batch(&events)?, SystemClock.now()).await?;
        }
        settle_all(&store).await
    };
    publish_and_settle(400).await?;
    let log = folder.path().join("log");
    let last = segments(&log)?.pop().ok_or("find the last segment")?;
    // Until nothing older than the segment that was open then is there.
    let mut rounds = 0;
    while segments(&log)?.first().is_some_and(|first| *first < last) {
        publish_and_settle(1).await?;
        rounds += 1;
        if rounds > 1_000 {
            return Err("wait for disk to be freed".into());
        }
    }
    store.close().await?;
    Ok(f64::from(rounds) * BATCH as f64 * BYTES / f64::from(1 << 20))
}

async fn settle_all(store: &LogStore) -> Result<(), Failure> {
    for endpoint in ["a", "b"] {
        let endpoint: EndpointId = endpoint.parse()?;
        loop {
            let now = SystemClock.now();
            let claim = store.claim(&endpoint, BATCH, now, Timestamp::MAX).await?;
            if claim.leases.is_empty() {
                break;
            }
            let settle = |lease: postrider::store::Lease| Settlement {
                delivery: lease.delivery,
                fence: lease.fence,
                attempt: None,
                decision: Decision::Delivered,
            };
            let batch: Vec<Settlement> = claim.leases.into_iter().map(settle).collect();
            store.settle(&batch).await?;
        }
    }
    Ok(())
}
