//! The same random operations on this store and on another must show the same.

mod history;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use postrider::delivery::{AttemptRecord, Cause, DeadReason, Decision, DeliveryId, State};
use postrider::store::{
    Accept, Accepted, EventRecord, Fence, Lease, LogStore, MemoryStore, Next, Settlement, Store,
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
    oracle: Fence,
    sqlite: Fence,
}

/// Which operations a round has; those that are left out let more be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// Nothing is replayed, so that deliveries come in one order.
    Ordered,
    /// Replays and purges.
    History,
    /// The same with few places: it evicts and fills.
    Limited,
}

struct Pair {
    oracle: Box<dyn Store>,
    sqlite: SqliteStore,
    random: fastrand::Rng,
    now: Timestamp,
    published: usize,
    leases: Vec<Both>,
    /// Endpoints that each store has announced since they were claimed.
    announced: [BTreeSet<EndpointId>; 2],
    /// Endpoints whose last claim left something: whoever claimed goes on, no announcement is due.
    unfinished: BTreeSet<EndpointId>,
    round: Round,
    steps: Vec<String>,
}

const EVENTS_MAX: usize = 12;

#[tokio::test(flavor = "multi_thread")]
async fn shows_what_the_memory_store_shows() {
    let rounds = [Round::Ordered, Round::History, Round::Limited];
    compare(&rounds, async |round, _| {
        let events_max = if round == Round::Limited { EVENTS_MAX } else { 1_000_000 };
        MemoryStore::builder().events_max(events_max).build()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shows_what_the_log_shows() {
    compare(&[Round::Ordered, Round::History], async |_, folder| {
        LogStore::builder(folder).retention(FOR_EVER).open().await.unwrap()
    })
    .await;
}

/// Longer than any test's clock.
const FOR_EVER: Duration = Duration::from_secs(1 << 40);

async fn compare<S: Store>(kinds: &[Round], oracle: impl AsyncFn(Round, PathBuf) -> S) {
    let mut random = fastrand::Rng::with_seed(seed());
    let folder = tempfile::tempdir().unwrap();
    for (number, round) in (0..rounds(6, 300)).zip(kinds.iter().cycle()) {
        let oracle = oracle(*round, folder.path().join(format!("{number}-oracle"))).await;
        if *round != Round::Ordered && !oracle.capabilities().history {
            continue;
        }
        let events_max = if *round == Round::Limited { EVENTS_MAX as u64 } else { 1_000_000 };
        let path = folder.path().join(format!("{number}.db"));
        let mut pair = Pair {
            oracle: Box::new(oracle),
            sqlite: SqliteStore::builder(path)
                .events_max(events_max)
                .retention(FOR_EVER)
                .open()
                .await
                .unwrap(),
            random: random.fork(),
            now: at(0),
            published: 0,
            leases: Vec::new(),
            announced: [BTreeSet::new(), BTreeSet::new()],
            unfinished: BTreeSet::new(),
            round: *round,
            steps: Vec::new(),
        };
        for _ in 0..120 {
            pair.step().await;
        }
    }
}

/// What is seen of an event, in a form that compares.
fn view(event: Option<EventRecord>) -> String {
    let Some(mut event) = event else { return "nothing".into() };
    make_comparable(&mut event);
    format!("{:?} {:?} {:?}", event.event.payload(), event.accepted_at, event.deliveries)
}

/// Some stores tell of a delivery that was given back that it is due since it was accepted, others
/// that it has been for ever; of one that was made again, that it is due since its event was accepted,
/// since it was made again, or since its lease ran out.
fn make_comparable(event: &mut EventRecord) {
    // Endpoints that it was sent to again come in an order of each store's own.
    event.deliveries.sort_by(|one, other| one.id.cmp(&other.id));
    for delivery in &mut event.deliveries {
        if let State::Waiting { due } = &mut delivery.state {
            let is_untried_again = delivery.id.run() > 0 && delivery.attempts_made == 0;
            *due = if is_untried_again { event.accepted_at } else { event.accepted_at.max(*due) };
        }
    }
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
        let operations = if self.round == Round::Ordered { 10 } else { 14 };
        match self.random.u8(0..operations) {
            0..=2 => self.accept().await,
            3..=5 => self.claim().await,
            6..=7 => self.settle().await,
            8 => self.extend().await,
            9 => self.release().await,
            10..=11 => self.replay().await,
            12 => self.purge().await,
            _ => self.keep().await,
        }
        self.compare().await;
        if self.oracle.capabilities().history {
            self.compare_history().await;
        }
    }

    fn note(&mut self, step: String) {
        self.steps.push(step);
    }

    fn assert_same(&self, what: &str, oracle: &str, sqlite: &str) {
        assert_eq!(sqlite, oracle, "{what}, after:\n{}", self.steps.join("\n"));
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
        let oracle = self.oracle.accept(batch.clone(), self.now).await;
        let sqlite = self.sqlite.accept(batch, self.now).await;
        self.assert_same("receipts", &receipts(oracle), &receipts(sqlite));
    }

    async fn claim(&mut self) {
        let endpoint = id(ENDPOINTS[self.random.usize(0..3)]);
        // A replay comes before or after younger events. Where places are used again, the memory
        // store breaks ties of due times by place.
        let is_ordered = self.round == Round::Ordered;
        let max = if is_ordered { self.random.usize(0..6) } else { 1000 };
        let until = self.now.after(Duration::from_millis(self.random.u64(1..60_000)));
        self.note(format!("{:?} claim {endpoint} {max} until {until:?}", self.now));
        self.read_announcements().await;
        for announced in &mut self.announced {
            announced.remove(&endpoint);
        }
        self.unfinished.remove(&endpoint);
        let oracle = self.oracle.claim(&endpoint, max, self.now, until).await.unwrap();
        let sqlite = self.sqlite.claim(&endpoint, max, self.now, until).await.unwrap();
        if oracle.next == Next::Now {
            self.unfinished.insert(endpoint);
        }
        let sorted = |mut leases: Vec<Lease>| {
            if !is_ordered {
                leases.sort_by(|a, b| a.delivery.cmp(&b.delivery));
            }
            leases
        };
        let (left, right) = (sorted(oracle.leases), sorted(sqlite.leases));
        let view = |leases: &[Lease], next: Next| {
            let seen = leases.iter().map(|lease| (&lease.delivery, lease.attempts, &lease.event));
            format!("{:?} {next:?}", seen.collect::<Vec<_>>())
        };
        self.assert_same("claims", &view(&left, oracle.next), &view(&right, sqlite.next));
        self.leases.extend(left.iter().zip(&right).map(|(left, right)| Both {
            delivery: left.delivery.clone(),
            attempts: left.attempts,
            oracle: left.fence,
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
            for (fence, settlements) in [lease.oracle, lease.sqlite].into_iter().zip(&mut both) {
                let (delivery, attempt) = (lease.delivery.clone(), attempt.clone());
                settlements.push(Settlement { delivery, fence, attempt, decision });
            }
        }
        self.note(format!("{:?} settle {:?}", self.now, both[1]));
        let oracle = self.oracle.settle(&both[0]).await.unwrap();
        let sqlite = self.sqlite.settle(&both[1]).await.unwrap();
        self.assert_same("settled", &format!("{oracle:?}"), &format!("{sqlite:?}"));
    }

    fn split(leases: &[Both]) -> [Vec<(DeliveryId, Fence)>; 2] {
        [|lease: &Both| lease.oracle, |lease: &Both| lease.sqlite].map(|fence| {
            leases.iter().map(|lease| (lease.delivery.clone(), fence(lease))).collect()
        })
    }

    async fn extend(&mut self) {
        let [left, right] = Self::split(&self.some_leases());
        let until = self.now.after(Duration::from_millis(self.random.u64(0..60_000)));
        self.note(format!("{:?} extend {right:?} until {until:?}", self.now));
        let oracle = self.oracle.extend(&left, until).await.unwrap();
        let sqlite = self.sqlite.extend(&right, until).await.unwrap();
        self.assert_same("extended", &format!("{oracle:?}"), &format!("{sqlite:?}"));
    }

    async fn release(&mut self) {
        let [left, right] = Self::split(&self.some_leases());
        self.note(format!("{:?} release {right:?}", self.now));
        let oracle = self.oracle.release(&left).await.unwrap();
        let sqlite = self.sqlite.release(&right).await.unwrap();
        self.assert_same("released", &format!("{oracle:?}"), &format!("{sqlite:?}"));
    }

    /// Takes what is announced at once. A store may announce more than it must, never less.
    async fn read_announcements(&mut self) {
        let [oracle, sqlite] = &mut self.announced;
        // No time passes for either: what has been announced is returned at the first poll.
        while let Ok(ids) = tokio::time::timeout(Duration::ZERO, self.oracle.ready()).await {
            oracle.extend(ids);
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
            self.oracle.backlog(self.now).await.unwrap(),
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
            let oracle = self.oracle.event(&event).await.unwrap();
            let sqlite = self.sqlite.event(&event).await.unwrap();
            self.assert_same(&format!("event {event}"), &view(oracle), &view(sqlite));
        }
    }
}
