//! The same random operations on this store and on the memory store must show the same.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use postrider::delivery::{AttemptRecord, Cause, DeadReason, Decision, DeliveryId};
use postrider::store::{
    Accept, Accepted, EventRecord, Fence, Lease, MemoryStore, Next, Settlement, Store,
};
use postrider::{EndpointId, Error, Timestamp};
use postrider_stores::sqlite::SqliteStore;

use crate::support::{accept, at, id, rounds, seed};

const ENDPOINTS: [&str; 3] = ["a", "b", "c"];

/// A lease as both stores gave it.
#[derive(Clone)]
struct Both {
    delivery: DeliveryId,
    attempts: u32,
    memory: Fence,
    sqlite: Fence,
}

struct Pair {
    memory: MemoryStore,
    sqlite: SqliteStore,
    random: fastrand::Rng,
    now: Timestamp,
    published: usize,
    leases: Vec<Both>,
    /// Endpoints that each store has announced since they were claimed.
    announced: [BTreeSet<EndpointId>; 2],
    /// Endpoints whose last claim left something: whoever claimed goes on, no announcement is due.
    unfinished: BTreeSet<EndpointId>,
    is_limited: bool,
    steps: Vec<String>,
}

#[tokio::test(flavor = "multi_thread")]
async fn shows_what_the_memory_store_shows() {
    let mut random = fastrand::Rng::with_seed(seed());
    let folder = tempfile::tempdir().unwrap();
    for round in 0..rounds(6, 300) {
        // In turn without limits, which compares orders, and with few places, which evicts and fills.
        let is_limited = round % 2 == 1;
        let events_max = if is_limited { 12 } else { 1_000_000 };
        let path = folder.path().join(format!("{round}.db"));
        let mut pair = Pair {
            memory: MemoryStore::builder().events_max(events_max).build(),
            sqlite: SqliteStore::builder(path)
                .events_max(events_max as u64)
                .retention(Duration::from_secs(1 << 40))
                .open()
                .await
                .unwrap(),
            random: random.fork(),
            now: at(0),
            published: 0,
            leases: Vec::new(),
            announced: [BTreeSet::new(), BTreeSet::new()],
            unfinished: BTreeSet::new(),
            is_limited,
            steps: Vec::new(),
        };
        for _ in 0..120 {
            pair.step().await;
        }
    }
}

/// What is seen of an event, in a form that compares.
fn view(event: Option<EventRecord>) -> String {
    let Some(event) = event else { return "nothing".into() };
    format!("{:?} {:?} {:?}", event.event.payload(), event.accepted_at, event.deliveries)
}

fn receipts(accepted: Result<Vec<Accepted>, Error>) -> String {
    match accepted {
        Ok(accepted) => format!("{accepted:?}"),
        Err(error) => format!("{:?}", error.kind()),
    }
}

impl Pair {
    async fn step(&mut self) {
        // Mostly forward; a clock that jumps back must not change what both show.
        let millis = self.random.u64(0..20_000);
        self.now = match self.random.u8(0..10) {
            0 => Timestamp::from_millis(self.now.as_millis() - millis as i64),
            _ => self.now.after(Duration::from_millis(millis)),
        };
        match self.random.u8(0..10) {
            0..=2 => self.accept().await,
            3..=5 => self.claim().await,
            6..=7 => self.settle().await,
            8 => self.extend().await,
            _ => self.release().await,
        }
        self.compare().await;
    }

    fn note(&mut self, step: String) {
        self.steps.push(step);
    }

    fn assert_same(&self, what: &str, memory: &str, sqlite: &str) {
        assert_eq!(sqlite, memory, "{what}, after:\n{}", self.steps.join("\n"));
    }

    async fn accept(&mut self) {
        let mut batch: Vec<Accept> = Vec::new();
        for _ in 0..self.random.usize(1..4) {
            let name = match self.random.u8(0..5) {
                0 if self.published > 0 => self.random.usize(0..self.published),
                _ => {
                    self.published += 1;
                    self.published - 1
                }
            };
            let mut endpoints = ENDPOINTS.to_vec();
            self.random.shuffle(&mut endpoints);
            endpoints.truncate(self.random.usize(0..=3));
            batch.push(accept(&format!("e{name}"), &endpoints));
        }
        self.note(format!("{:?} accept {batch:?}", self.now));
        let memory = self.memory.accept(batch.clone(), self.now).await;
        let sqlite = self.sqlite.accept(batch, self.now).await;
        self.assert_same("receipts", &receipts(memory), &receipts(sqlite));
    }

    async fn claim(&mut self) {
        let endpoint = id(ENDPOINTS[self.random.usize(0..3)]);
        // With places that are used again, the memory store breaks ties of due times by place.
        let max = if self.is_limited { 1000 } else { self.random.usize(0..6) };
        let until = self.now.after(Duration::from_millis(self.random.u64(1..60_000)));
        self.note(format!("{:?} claim {endpoint} {max} until {until:?}", self.now));
        self.read_announcements().await;
        for announced in &mut self.announced {
            announced.remove(&endpoint);
        }
        self.unfinished.remove(&endpoint);
        let memory = self.memory.claim(&endpoint, max, self.now, until).await.unwrap();
        let sqlite = self.sqlite.claim(&endpoint, max, self.now, until).await.unwrap();
        if memory.next == Next::Now {
            self.unfinished.insert(endpoint);
        }
        let sorted = |mut leases: Vec<Lease>| {
            if self.is_limited {
                leases.sort_by(|a, b| a.delivery.cmp(&b.delivery));
            }
            leases
        };
        let (left, right) = (sorted(memory.leases), sorted(sqlite.leases));
        let view = |leases: &[Lease], next: Next| {
            let seen = leases.iter().map(|lease| (&lease.delivery, lease.attempts, &lease.event));
            format!("{:?} {next:?}", seen.collect::<Vec<_>>())
        };
        self.assert_same("claims", &view(&left, memory.next), &view(&right, sqlite.next));
        self.leases.extend(left.iter().zip(&right).map(|(left, right)| Both {
            delivery: left.delivery.clone(),
            attempts: left.attempts,
            memory: left.fence,
            sqlite: right.fence,
        }));
    }

    /// Some leases; mostly they stay in the list, so that later ones are stale.
    fn some_leases(&mut self) -> Vec<Both> {
        let mut some = Vec::new();
        for _ in 0..self.random.usize(0..4) {
            if self.leases.is_empty() {
                break;
            }
            let number = self.random.usize(0..self.leases.len());
            let mut lease = self.leases[number].clone();
            if self.random.u8(0..10) == 0 {
                // A lease of one delivery does not settle another.
                lease.delivery = self.leases[self.random.usize(0..=number)].delivery.clone();
            }
            some.push(lease);
        }
        some
    }

    async fn settle(&mut self) {
        let leases = self.some_leases();
        let mut both = [Vec::new(), Vec::new()];
        for lease in leases {
            let decision = match self.random.u8(0..5) {
                0 => Decision::Delivered,
                1 => Decision::Dead(DeadReason::Exhausted),
                2 => Decision::Expired,
                _ => Decision::RetryAt(
                    self.now.after(Duration::from_micros(self.random.u64(0..90_000_000))),
                ),
            };
            let attempt = (self.random.u8(0..5) > 0).then(|| AttemptRecord {
                number: lease.attempts + 1,
                at: self.now,
                took_ms: self.random.u64(0..1000),
                cause: (decision != Decision::Delivered).then_some(Cause::Timeout),
                message: "m".repeat(self.random.usize(0..20)),
                status: self.random.bool().then_some(500),
                answer: "\u{e9}\0\"'".repeat(self.random.usize(0..3)),
            });
            for (fence, settlements) in [lease.memory, lease.sqlite].into_iter().zip(&mut both) {
                let (delivery, attempt) = (lease.delivery.clone(), attempt.clone());
                settlements.push(Settlement { delivery, fence, attempt, decision });
            }
        }
        self.note(format!("{:?} settle {:?}", self.now, both[1]));
        let memory = self.memory.settle(&both[0]).await.unwrap();
        let sqlite = self.sqlite.settle(&both[1]).await.unwrap();
        self.assert_same("settled", &format!("{memory:?}"), &format!("{sqlite:?}"));
    }

    fn split(leases: &[Both]) -> [Vec<(DeliveryId, Fence)>; 2] {
        [|lease: &Both| lease.memory, |lease: &Both| lease.sqlite].map(|fence| {
            leases.iter().map(|lease| (lease.delivery.clone(), fence(lease))).collect()
        })
    }

    async fn extend(&mut self) {
        let [left, right] = Self::split(&self.some_leases());
        let until = self.now.after(Duration::from_millis(self.random.u64(0..60_000)));
        self.note(format!("{:?} extend {right:?} until {until:?}", self.now));
        let memory = self.memory.extend(&left, until).await.unwrap();
        let sqlite = self.sqlite.extend(&right, until).await.unwrap();
        self.assert_same("extended", &format!("{memory:?}"), &format!("{sqlite:?}"));
    }

    async fn release(&mut self) {
        let [left, right] = Self::split(&self.some_leases());
        self.note(format!("{:?} release {right:?}", self.now));
        let memory = self.memory.release(&left).await.unwrap();
        let sqlite = self.sqlite.release(&right).await.unwrap();
        self.assert_same("released", &format!("{memory:?}"), &format!("{sqlite:?}"));
    }

    /// Takes what is announced at once. A store may announce more than it must, never less.
    async fn read_announcements(&mut self) {
        let [memory, sqlite] = &mut self.announced;
        // No time passes for either: what has been announced is returned at the first poll.
        while let Ok(ids) = tokio::time::timeout(Duration::ZERO, self.memory.ready()).await {
            memory.extend(ids);
        }
        while let Ok(ids) = tokio::time::timeout(Duration::ZERO, self.sqlite.ready()).await {
            sqlite.extend(ids);
        }
        let mut missing = self.announced[0].difference(&self.announced[1]);
        assert!(
            missing.all(|endpoint| self.unfinished.contains(endpoint)),
            "{:?}, after:\n{}",
            self.announced,
            self.steps.join("\n")
        );
    }

    async fn compare(&mut self) {
        self.read_announcements().await;
        let mut backlogs = [HashMap::new(), HashMap::new()];
        let found = [
            self.memory.backlog(self.now).await.unwrap(),
            self.sqlite.backlog(self.now).await.unwrap(),
        ];
        for (found, backlogs) in found.into_iter().zip(&mut backlogs) {
            for backlog in found {
                backlogs.insert(backlog.endpoint.clone(), backlog);
            }
        }
        assert_eq!(backlogs[1], backlogs[0], "backlog, after:\n{}", self.steps.join("\n"));
        for number in 0..self.published {
            let event = format!("e{number}").parse().unwrap();
            let memory = self.memory.event(&event).await.unwrap();
            let sqlite = self.sqlite.event(&event).await.unwrap();
            self.assert_same(&format!("event {event}"), &view(memory), &view(sqlite));
        }
    }
}
