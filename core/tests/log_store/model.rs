//! The memory store as an oracle: the same operations, the same visible states.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use postrider::delivery::{AttemptRecord, Cause, DeadReason, Decision, DeliveryId, State};
use postrider::event::Envelope;
use postrider::store::{
    Accept, Backlog, DeliveryRecord, EventRecord, Fence, LogStore, MemoryStore, Next, Settlement,
    Store,
};
use postrider::testing::sealed;
use postrider::{EndpointId, NewEvent, Timestamp};
use tempfile::TempDir;

use super::crash::{is_long, seed};
use super::ledger::START;

const ENDPOINTS: [&str; 4] = ["a", "b", "c", "d"];

type Leases = Vec<(DeliveryId, Fence)>;

/// What both stores must agree on.
struct Pair {
    log: LogStore,
    memory: MemoryStore,
    folder: TempDir,
    rng: Rng,
    now: Timestamp,
    events: Vec<Arc<Envelope>>,
    /// Leases by their delivery: a fence of each store.
    leases: BTreeMap<DeliveryId, (Fence, Fence, u32)>,
}

async fn open(folder: &TempDir) -> LogStore {
    let builder = LogStore::builder(folder.path()).segment_bytes(16 << 10).cache_bytes(4_000);
    builder.open().await.unwrap()
}

/// A time that is past counts as due, whichever it is.
fn state(state: State, now: Timestamp) -> State {
    match state {
        State::Waiting { due } if due <= now => State::Waiting { due: START },
        other => other,
    }
}

fn delivery(mut record: DeliveryRecord, now: Timestamp) -> String {
    record.state = state(record.state, now);
    format!("{record:?}")
}

fn event(record: EventRecord, now: Timestamp) -> (Arc<Envelope>, Timestamp, Vec<String>) {
    let deliveries = record.deliveries.into_iter().map(|record| delivery(record, now));
    (record.event, record.accepted_at, deliveries.collect())
}

fn sorted(mut backlog: Vec<Backlog>) -> Vec<Backlog> {
    backlog.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
    backlog
}

impl Pair {
    async fn act(&mut self) {
        self.now = self.now.after(Duration::from_millis(self.rng.u64(0..3000)));
        match self.rng.u8(0..16) {
            0..5 => self.accept().await,
            5..9 => self.claim().await,
            9..12 => self.settle().await,
            12 => {
                let (log, memory) = self.some_leases();
                let log = self.log.release(&log).await.unwrap();
                assert_eq!(log, self.memory.release(&memory).await.unwrap());
            }
            13 => {
                let until = self.now.after(Duration::from_secs(self.rng.u64(1..60)));
                let (log, memory) = self.some_leases();
                let log = self.log.extend(&log, until).await.unwrap();
                assert_eq!(log, self.memory.extend(&memory, until).await.unwrap());
            }
            _ => self.look().await,
        }
        let log = sorted(self.log.backlog(self.now).await.unwrap());
        assert_eq!(log, sorted(self.memory.backlog(self.now).await.unwrap()));
    }

    async fn accept(&mut self) {
        let count = self.rng.usize(1..4);
        let batch: Vec<Accept> = (0..count)
            .map(|_| {
                let event = if !self.events.is_empty() && self.rng.u8(0..8) == 0 {
                    Arc::clone(&self.events[self.rng.usize(0..self.events.len())])
                } else {
                    let fill = "x".repeat(self.rng.usize(0..500));
                    sealed(NewEvent::raw("match", format!("\"{fill}\"")).unwrap())
                };
                self.events.push(Arc::clone(&event));
                let endpoints = ENDPOINTS.iter().filter(|_| self.rng.bool());
                Accept { event, endpoints: endpoints.map(|id| id.parse().unwrap()).collect() }
            })
            .collect();
        let log = self.log.accept(batch.clone(), self.now).await.unwrap();
        let memory = self.memory.accept(batch, self.now).await.unwrap();
        assert_eq!(format!("{log:?}"), format!("{memory:?}"));
    }

    async fn claim(&mut self) {
        let endpoint: EndpointId = ENDPOINTS[self.rng.usize(0..4)].parse().unwrap();
        // Which of several due ones come first is not compared: all of them are taken.
        let until = self.now.after(Duration::from_secs(self.rng.u64(1..60)));
        let log = self.log.claim(&endpoint, 10_000, self.now, until).await.unwrap();
        let memory = self.memory.claim(&endpoint, 10_000, self.now, until).await.unwrap();
        assert_eq!(log.next, memory.next);
        assert_ne!(log.next, Next::Now);
        assert_eq!(log.leases.len(), memory.leases.len());
        let memory: BTreeMap<_, _> =
            memory.leases.into_iter().map(|lease| (lease.delivery.clone(), lease)).collect();
        for lease in log.leases {
            let other = &memory[&lease.delivery];
            assert_eq!((&lease.event, lease.attempts), (&other.event, other.attempts));
            self.leases.insert(lease.delivery, (lease.fence, other.fence, lease.attempts));
        }
    }

    fn some_leases(&mut self) -> (Leases, Leases) {
        let chosen: Vec<_> = (self.leases.iter())
            .filter(|_| self.rng.u8(0..3) == 0)
            .map(|(id, (log, memory, _))| (id.clone(), *log, *memory))
            .collect();
        let log = chosen.iter().map(|(id, log, _)| (id.clone(), *log)).collect();
        (log, chosen.into_iter().map(|(id, _, memory)| (id, memory)).collect())
    }

    async fn settle(&mut self) {
        let (mut log, mut memory) = (Vec::new(), Vec::new());
        // Leases that were settled or ran out stay in the list: both must refuse them.
        for (id, (log_fence, memory_fence, attempts)) in &self.leases {
            if self.rng.u8(0..3) != 0 {
                continue;
            }
            let later = self.now.after(Duration::from_millis(self.rng.u64(1..20_000)));
            let decision = match self.rng.u8(0..10) {
                0 => Decision::Expired,
                1 => Decision::Dead(DeadReason::Rejected),
                2 => Decision::Dead(DeadReason::Gone),
                3..7 => Decision::RetryAt(later),
                _ => Decision::Delivered,
            };
            let attempt = (self.rng.u8(0..5) != 0).then(|| AttemptRecord {
                number: attempts + 1,
                at: self.now,
                took_ms: self.rng.u64(0..1000),
                cause: (decision != Decision::Delivered).then_some(Cause::Dns),
                message: "why".to_owned(),
                status: None,
                answer: String::new(),
            });
            let settlement =
                Settlement { delivery: id.clone(), fence: *log_fence, attempt, decision };
            memory.push(Settlement { fence: *memory_fence, ..settlement.clone() });
            log.push(settlement);
        }
        let settled = self.log.settle(&log).await.unwrap();
        assert_eq!(settled, self.memory.settle(&memory).await.unwrap());
    }

    async fn look(&self) {
        for known in &self.events {
            let log = self.log.event(known.id()).await.unwrap().map(|e| event(e, self.now));
            let memory = self.memory.event(known.id()).await.unwrap().map(|e| event(e, self.now));
            assert_eq!(log, memory);
        }
    }

    /// Opens the log again. Leases end with it, so the memory store's are given back too.
    async fn reopen(&mut self) {
        let leases = std::mem::take(&mut self.leases);
        let leases: Vec<_> = leases.into_iter().map(|(id, (_, memory, _))| (id, memory)).collect();
        self.memory.release(&leases).await.unwrap();
        self.log.close().await.unwrap();
        self.log = open(&self.folder).await;
        assert!(self.log.recovery().damaged.is_empty(), "{:?}", self.log.recovery());
        self.look().await;
    }
}

/// Random operations give the same answers and the same visible states, across reopening.
#[tokio::test]
async fn agrees_with_the_memory_store() {
    let seed = seed();
    for round in 0..if is_long() { 100 } else { 5 } {
        let folder = TempDir::new().unwrap();
        let mut pair = Pair {
            log: open(&folder).await,
            memory: MemoryStore::default(),
            folder,
            rng: Rng::with_seed(seed.wrapping_add(round)),
            now: START,
            events: Vec::new(),
            leases: BTreeMap::new(),
        };
        for _ in 0..60 {
            pair.act().await;
            if pair.rng.u8(0..30) == 0 {
                pair.reopen().await;
            }
        }
        pair.reopen().await;
    }
}
