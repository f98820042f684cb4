//! Claiming and settling, beside the memory store.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postrider::EndpointId;
use postrider::Timestamp;
use postrider::clock::{Clock as _, SystemClock};
use postrider::delivery::{AttemptRecord, Decision};
use postrider::store::{Accept, LogStore, LogStoreBuilder, MemoryStore, Settlement, Store};

use crate::measure::{Side, Stopwatch, Took, alternate};
use crate::payload::{Match, envelopes, matches_of_400};
use crate::report::{Goal, Report};
use crate::{Failure, Scale};

/// Deliveries in one slice, half of them for each of two endpoints.
const DELIVERIES: usize = 100_000;
/// In one call.
const BATCH: usize = 100;
/// Events that were settled before.
const HISTORY: usize = 10_000_000;
/// Longest time for settling them.
const HISTORY_TIME_MAX: Duration = Duration::from_mins(4);

pub(crate) async fn run(report: &mut Report, scale: Scale, seed: u64) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let count = DELIVERIES / scale.divisor;
    let goal = Some(Goal::ValueAtLeast(500.0));
    let mut limit = Settles::new(Arc::new(MemoryStore::default()), count, seed)?;
    let cases = [
        ("claim and settle", None, 0),
        ("claim and settle, read from disk", Some(0), 0),
        ("claim and settle, long history", None, HISTORY / scale.divisor),
    ];
    for (at, (case, cache, history)) in cases.into_iter().enumerate() {
        let store = builder(&folder.path().join(at.to_string()), cache).open().await?;
        let mut subject = Settles::new(Arc::new(store), count, seed)?;
        let case = match subject.grow(history).await? {
            0 => case.to_owned(),
            events => format!("{case} of {:.1} million", events as f64 / 1e6),
        };
        let pairs = alternate(scale, &mut subject, &mut limit).await?;
        subject.store.close().await?;
        report.rate("store", &case, "1000/s", count as f64 / 1e3, &pairs, goal);
        report.cpu("store", &case, count, &pairs, None);
    }
    Ok(())
}

fn builder(path: &Path, cache: Option<usize>) -> LogStoreBuilder {
    let builder = LogStore::builder(path);
    match cache {
        None => builder,
        Some(bytes) => builder.cache_bytes(bytes),
    }
}

/// Accepts events, then claims and settles each delivery.
struct Settles {
    store: Arc<dyn Store>,
    events: Vec<Match>,
    endpoints: Arc<[EndpointId]>,
    count: usize,
}

impl Settles {
    fn new(store: Arc<dyn Store>, count: usize, seed: u64) -> Result<Self, Failure> {
        let endpoints = Arc::new(["a".parse()?, "b".parse()?]);
        Ok(Self { store, events: matches_of_400(1_000, seed), endpoints, count })
    }

    /// Settles so many events, or fewer where that takes too long: the figure names how many.
    async fn grow(&mut self, events: usize) -> Result<usize, Failure> {
        let started = Instant::now();
        let mut settled = 0;
        while settled < events && started.elapsed() < HISTORY_TIME_MAX {
            self.slice().await?;
            settled += self.count / 2;
        }
        Ok(settled)
    }
}

impl Side for Settles {
    async fn slice(&mut self) -> Result<Took, Failure> {
        for _ in 0..self.count / 2 / self.events.len() {
            let accept = |event| Accept { event, endpoints: Arc::clone(&self.endpoints) };
            let batch = envelopes(&self.events)?.into_iter().map(accept).collect();
            self.store.accept(batch, SystemClock.now()).await?;
        }
        let mut settled = 0;
        let watch = Stopwatch::start();
        for endpoint in &*self.endpoints {
            loop {
                let now = SystemClock.now();
                let claim = self.store.claim(endpoint, BATCH, now, Timestamp::MAX).await?;
                if claim.leases.is_empty() {
                    break;
                }
                let settle = |lease: postrider::store::Lease| Settlement {
                    delivery: lease.delivery,
                    fence: lease.fence,
                    attempt: Some(attempt(now)),
                    decision: Decision::Delivered,
                };
                let batch: Vec<Settlement> = claim.leases.into_iter().map(settle).collect();
                settled += batch.len();
                self.store.settle(&batch).await?;
            }
        }
        let took = watch.stop();
        if settled == self.count {
            Ok(took)
        } else {
            Err(format!("count: {} deliveries expected, {settled} settled", self.count).into())
        }
    }
}

fn attempt(at: Timestamp) -> AttemptRecord {
    AttemptRecord {
        number: 1,
        at,
        took_ms: 12,
        cause: None,
        message: String::new(),
        status: Some(200),
        answer: r#"{"received":true}"#.to_owned(),
    }
}
