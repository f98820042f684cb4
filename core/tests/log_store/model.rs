//! The memory store as an oracle: the same operations, the same visible states.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use postrider::delivery::{
    AttemptRecord, Cause, DeadReason, Decision, DeliveryId, State, StateKind,
};
use postrider::event::Envelope;
use postrider::store::{
    Accept, Backlog, DeliveryRecord, EventRecord, Fence, LogStore, MemoryStore, Next, Note, Page,
    Query, Settlement, Store, Target,
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

type Event = (Arc<Envelope>, Timestamp, Vec<String>);

/// In which order the endpoints come to which it was sent again is not compared.
fn event(record: EventRecord, now: Timestamp) -> Event {
    let deliveries = record.deliveries.into_iter().map(|record| delivery(record, now));
    let mut deliveries: Vec<String> = deliveries.collect();
    deliveries.sort();
    (record.event, record.accepted_at, deliveries)
}

/// Every page of a query. Where attempts are not told, how many there were need not be either.
async fn find(store: &impl Store, query: &Query, mut page: Page, now: Timestamp) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        let found = store.find(query, page).await.unwrap();
        assert!(found.events.len() <= page.limit);
        for mut found in found.events {
            if !page.attempts {
                found.deliveries.iter_mut().for_each(|delivery| delivery.attempts_made = 0);
            }
            events.push(event(found, now));
        }
        match found.next {
            None => return events,
            next => page = page.after(next),
        }
    }
}

/// Endpoint, state, how many.
async fn dead(store: &impl Store) -> BTreeMap<(EndpointId, String), u64> {
    let dead = store.dead().await.unwrap().into_iter();
    dead.map(|dead| ((dead.endpoint, format!("{:?}", dead.state)), dead.count)).collect()
}

fn sorted(mut backlog: Vec<Backlog>) -> Vec<Backlog> {
    backlog.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
    backlog
}

impl Pair {
    async fn act(&mut self) {
        self.now = self.now.after(Duration::from_millis(self.rng.u64(0..3000)));
        match self.rng.u8(0..22) {
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
            14..16 => self.look().await,
            16..18 => self.replay().await,
            18 => self.purge().await,
            19 => self.keep().await,
            _ => self.find().await,
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
                    let kind = ["match", "model.uploaded", "model.removed"][self.rng.usize(0..3)];
                    sealed(NewEvent::raw(kind, format!("\"{fill}\"")).unwrap())
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

    /// Some events and endpoints, as each store names them.
    async fn some_targets(&mut self) -> (Vec<Target>, Vec<Target>) {
        let (mut log, mut memory) = (Vec::new(), Vec::new());
        for _ in 0..self.rng.usize(0..20) {
            let Some(event) = self.rng.choice(&self.events) else { break };
            let endpoint: EndpointId = self.rng.choice(ENDPOINTS).unwrap().parse().unwrap();
            let found = self.log.event(event.id()).await.unwrap().unwrap();
            log.push(Target::new(&found, endpoint.clone()));
            let found = self.memory.event(event.id()).await.unwrap().unwrap();
            memory.push(Target::new(&found, endpoint));
        }
        (log, memory)
    }

    fn some_note(&mut self) -> Note {
        let key = ["x", "y", "z"][self.rng.usize(0..3)];
        let value = vec![self.rng.u8(..); self.rng.usize(0..3000)];
        if self.rng.bool() { Note::new(key, value).unwrap() } else { Note::removed(key) }
    }

    async fn replay(&mut self) {
        let (log, memory) = self.some_targets().await;
        let note = self.rng.bool().then(|| self.some_note());
        let log = self.log.replay(&log, note.clone(), self.now).await.unwrap();
        assert_eq!(log, self.memory.replay(&memory, note, self.now).await.unwrap());
    }

    async fn purge(&mut self) {
        let (log, memory) = self.some_targets().await;
        let log = self.log.purge(&log, self.now).await.unwrap();
        assert_eq!(log, self.memory.purge(&memory, self.now).await.unwrap());
    }

    async fn keep(&mut self) {
        let note = self.some_note();
        self.log.keep(note.clone()).await.unwrap();
        self.memory.keep(note).await.unwrap();
    }

    fn some_query(&mut self) -> Query {
        let rng = &mut self.rng;
        let mut query = Query::new();
        let mut maybe = || rng.u8(0..3) == 0;
        let [since, until, kind, state, reason, missing] = std::array::from_fn(|_| maybe());
        let ago = |rng: &mut Rng| START.after(Duration::from_secs(rng.u64(0..100)));
        let endpoint = |rng: &mut Rng| rng.choice(ENDPOINTS).unwrap().parse().unwrap();
        if since {
            query = query.since(ago(rng));
        }
        if until {
            query = query.until(ago(rng));
        }
        if kind {
            let pattern = ["match", "model.*", "nothing"][rng.usize(0..3)];
            query = query.of_type(pattern.parse().unwrap());
        }
        for _ in 0..rng.u8(0..3) {
            query = query.endpoint(endpoint(rng));
        }
        let states = [
            StateKind::Waiting,
            StateKind::Leased,
            StateKind::Delivered,
            StateKind::Dead,
            StateKind::Expired,
            StateKind::Purged,
            StateKind::Unmatched,
        ];
        for _ in 0..if state { rng.u8(1..4) } else { 0 } {
            query = query.state(rng.choice(states).unwrap());
        }
        if reason {
            query = query.reason(rng.choice([DeadReason::Rejected, DeadReason::Gone]).unwrap());
        }
        if missing { query.missing(endpoint(rng)) } else { query }
    }

    async fn find(&mut self) {
        for _ in 0..4 {
            let query = self.some_query();
            let page = if self.rng.bool() { Page::newest() } else { Page::oldest() };
            let page = page.limit(self.rng.usize(1..50));
            let page = if self.rng.bool() { page } else { page.without_attempts() };
            let log = find(&self.log, &query, page, self.now).await;
            let memory = find(&self.memory, &query, page, self.now).await;
            assert_eq!(log, memory, "{query:?} {page:?}");
        }
        self.compare_sums().await;
    }

    async fn compare_sums(&self) {
        assert_eq!(dead(&self.log).await, dead(&self.memory).await);
        assert_eq!(self.log.notes().await.unwrap(), self.memory.notes().await.unwrap());
        let mut log = self.log.stats().await.unwrap();
        let mut memory = self.memory.stats().await.unwrap();
        log.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
        memory.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
        assert_eq!(log, memory);
    }

    /// Opens the log again. Leases end with it, so the memory store's are given back too.
    async fn reopen(&mut self) {
        let leases = std::mem::take(&mut self.leases);
        let leases: Vec<_> = leases.into_iter().map(|(id, (_, memory, _))| (id, memory)).collect();
        self.memory.release(&leases).await.unwrap();
        self.log.close().await.unwrap();
        if self.rng.bool() {
            // Not there where nothing was written before.
            let _ = std::fs::remove_file(self.folder.path().join("checkpoint"));
        }
        self.log = open(&self.folder).await;
        assert!(self.log.recovery().damaged.is_empty(), "{:?}", self.log.recovery());
        self.look().await;
        self.compare_sums().await;
        self.find().await;
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
        for _ in 0..90 {
            pair.act().await;
            if pair.rng.u8(0..30) == 0 {
                pair.reopen().await;
            }
        }
        pair.reopen().await;
    }
}
