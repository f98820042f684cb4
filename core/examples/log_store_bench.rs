//! Measures the embedded store against the disk: durable publishes with 1, 16 and 256 callers beside
//! raw `pwrite` + `fdatasync` of the same batches, slices alternating in one run: bare, by one thread
//! that waits for nobody, and handed over, where as many callers have one thread write for them. Then
//! claim and settle, memory and reopening with a large backlog.
//!
//! `cargo run --release -p postrider --features test-util --example log_store_bench [FOLDER [EVENTS]]`

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use postrider::clock::{Clock, SystemClock};
use postrider::delivery::Decision;
use postrider::store::{Accept, LogStore, Settlement, Store};
use postrider::testing::envelope;
use postrider::{EndpointId, Timestamp};

const SLICE: Duration = Duration::from_millis(400);
const ROUNDS: usize = 6;
/// What an event of 400 bytes takes in the log.
const EVENT_BYTES: usize = 436;

fn payload() -> String {
    format!(r#"{{"fill":"{}"}}"#, "x".repeat(389))
}

/// CPU time of this process.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

fn rss_mb() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|f| f.parse::<f64>().ok());
    pages.unwrap_or(0.0) * 4096.0 / 1e6
}

fn accept(endpoints: &Arc<[EndpointId]>) -> Accept {
    Accept { event: envelope("match", &payload()), endpoints: Arc::clone(endpoints) }
}

/// Writes and syncs batches of `bytes` one after the other into a zeroed file.
struct Raw {
    file: File,
    at: u64,
    size: u64,
}

impl Raw {
    fn new(path: PathBuf) -> Self {
        let size = 64_u64 << 20;
        let mut file =
            OpenOptions::new().create(true).truncate(true).write(true).open(path).unwrap();
        for _ in 0..64 {
            file.write_all(&vec![0; 1 << 20]).unwrap();
        }
        file.sync_all().unwrap();
        Self { file, at: 0, size }
    }

    fn write(&mut self, batch: &[u8]) {
        if self.at + batch.len() as u64 > self.size {
            self.at = 0;
        }
        self.file.write_all_at(batch, self.at).unwrap();
        self.file.sync_data().unwrap();
        self.at += batch.len() as u64;
    }

    /// Batches per second.
    fn run(&mut self, bytes: usize) -> f64 {
        let batch = vec![1; bytes];
        let started = Instant::now();
        let mut batches = 0;
        while started.elapsed() < SLICE {
            self.write(&batch);
            batches += 1;
        }
        f64::from(batches) / started.elapsed().as_secs_f64()
    }
}

/// The same number of callers hand events to a thread that writes and syncs what has come: what any
/// store with a writer can reach at best. Events per second.
async fn handed_over(path: PathBuf, callers: usize) -> f64 {
    type Request = tokio::sync::oneshot::Sender<()>;
    let (sender, requests) = std::sync::mpsc::channel::<Request>();
    let writer = std::thread::spawn(move || {
        let mut raw = Raw::new(path);
        while let Ok(first) = requests.recv() {
            let batch: Vec<Request> = [first].into_iter().chain(requests.try_iter()).collect();
            raw.write(&vec![1; batch.len() * EVENT_BYTES]);
            for request in batch {
                let _ = request.send(());
            }
        }
    });
    // The writer makes its file first.
    let (done, made) = tokio::sync::oneshot::channel();
    sender.send(done).unwrap();
    made.await.unwrap();
    let started = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let sender = sender.clone();
            tokio::spawn(async move {
                let mut count = 0_u64;
                while started.elapsed() < SLICE {
                    let (done, written) = tokio::sync::oneshot::channel();
                    sender.send(done).unwrap();
                    written.await.unwrap();
                    count += 1;
                }
                count
            })
        })
        .collect();
    let mut count = 0;
    for task in tasks {
        count += task.await.unwrap();
    }
    let rate = count as f64 / started.elapsed().as_secs_f64();
    drop(sender);
    tokio::task::spawn_blocking(|| writer.join().unwrap()).await.unwrap();
    rate
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn publish(folder: &Path, callers: usize) {
    let endpoints: Arc<[EndpointId]> = Arc::new(["a".parse().unwrap(), "b".parse().unwrap()]);
    let store = LogStore::builder(folder.join(format!("log-{callers}"))).open().await.unwrap();
    let store = Arc::new(store);
    let mut raw = Raw::new(folder.join("raw"));
    let (mut ratios, mut handed_ratios) = (Vec::new(), Vec::new());
    let (mut best, mut best_raw, mut cpu_us) = (0_f64, 0_f64, f64::MAX);
    // Events are made ahead: making them is not the store's work.
    for round in 0..=ROUNDS {
        let ahead: Vec<Vec<Accept>> = (0..callers)
            .map(|_| (0..400_000 / callers).map(|_| accept(&endpoints)).collect())
            .collect();
        let stop = Arc::new(AtomicBool::new(false));
        let (started, cpu_before) = (Instant::now(), cpu());
        let syncs = store.syncs();
        let tasks: Vec<_> = ahead
            .into_iter()
            .map(|events| {
                let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
                tokio::spawn(async move {
                    let mut count = 0_u64;
                    for event in events {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        store.accept(vec![event], SystemClock.now()).await.unwrap();
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        tokio::time::sleep(SLICE).await;
        stop.store(true, Ordering::Relaxed);
        let mut count = 0;
        for task in tasks {
            count += task.await.unwrap();
        }
        let rate = count as f64 / started.elapsed().as_secs_f64();
        let us = cpu().saturating_sub(cpu_before).as_secs_f64() * 1e6 / count as f64;
        let batch = count as f64 / (store.syncs() - syncs).max(1) as f64;
        let raw_rate = raw.run((batch * EVENT_BYTES as f64) as usize) * batch;
        let handed = handed_over(folder.join("handed"), callers).await;
        // The first round warms up.
        if round > 0 {
            ratios.push(rate / raw_rate);
            handed_ratios.push(rate / handed);
            best = best.max(rate);
            best_raw = best_raw.max(raw_rate);
            cpu_us = cpu_us.min(us);
        }
        println!(
            "  {callers:3} callers: {rate:9.0}/s, batch {batch:5.1}, raw {raw_rate:9.0}/s, handed over {handed:9.0}/s, {us:.2} us CPU"
        );
    }
    println!(
        "{callers:3} callers: best {best:.0}/s, raw best {best_raw:.0}/s, ratio median {:.2}, to handed over {:.2}, CPU {cpu_us:.2} us/event",
        median(ratios),
        median(handed_ratios)
    );
    store.close().await.unwrap();
}

async fn backlog(folder: &Path, events: u64) {
    let path = folder.join("backlog");
    let a: EndpointId = "a".parse().unwrap();
    let endpoints: Arc<[EndpointId]> = Arc::new([a.clone(), "b".parse().unwrap()]);
    let before = rss_mb();
    let builder =
        || LogStore::builder(&path).backlog_events_max(u64::MAX).backlog_bytes_max(u64::MAX);
    let store = builder().open().await.unwrap();
    let started = Instant::now();
    for _ in 0..events / 1000 {
        let batch = (0..1000).map(|_| accept(&endpoints)).collect();
        store.accept(batch, SystemClock.now()).await.unwrap();
    }
    println!(
        "{events} events for 2 endpoints in {:.1?}; memory {:.0} MB more (cache 32 MB of it)",
        started.elapsed(),
        rss_mb() - before
    );
    let disk: u64 =
        std::fs::read_dir(&path).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).sum();
    println!("disk {:.3} bytes per byte of payload", disk as f64 / (events as f64 * 400.0));
    drop(store);
    let started = Instant::now();
    let store = builder().open().await.unwrap();
    println!("reopened in {:.1?} after a close, owed {}", started.elapsed(), store.recovery().owed);
    std::fs::remove_file(path.join("checkpoint")).unwrap();

    let (started, cpu_before) = (Instant::now(), cpu());
    let mut count = 0;
    let far = Timestamp::MAX;
    loop {
        let now = SystemClock.now();
        let claim = store.claim(&a, 100, now, far).await.unwrap();
        if claim.leases.is_empty() || count >= 1_000_000 {
            break;
        }
        count += claim.leases.len();
        let batch: Vec<Settlement> = claim
            .leases
            .into_iter()
            .map(|lease| Settlement {
                delivery: lease.delivery,
                fence: lease.fence,
                attempt: None,
                decision: Decision::Delivered,
            })
            .collect();
        store.settle(&batch).await.unwrap();
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "claim and settle from disk, 100 at a time: {:.0}/s, {:.2} us CPU",
        count as f64 / seconds,
        cpu().saturating_sub(cpu_before).as_secs_f64() * 1e6 / count as f64
    );
    println!("memory {:.0} MB more", rss_mb() - before);
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let root = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let events = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    let folder = root.join(format!("postrider-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for callers in [1, 16, 256] {
        publish(&folder, callers).await;
    }
    backlog(&folder, events).await;
    std::fs::remove_dir_all(&folder).unwrap();
}
