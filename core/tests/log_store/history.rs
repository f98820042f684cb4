//! Looking at the past: what blocks and bits know of events never hides one, and everything that is
//! counted or kept outlives restarts, lost derived files and freed segments.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use postrider::delivery::{AttemptRecord, Cause, DeadReason, Decision, State, StateKind};
use postrider::event::EventId;
use postrider::stats::EndpointStats;
use postrider::store::log::Files;
use postrider::store::{
    Accept, EventRecord, Lease, LogStore, LogStoreBuilder, Note, Page, Purged, Query, RUNS_MAX,
    Replayed, Settlement, Store, Target,
};
use postrider::testing::{Disk, sealed};
use postrider::{EndpointId, ErrorKind, NewEvent, Timestamp};

use super::crash::{is_long, seed};
use super::faults::damage_event;
use super::ledger::START;

/// More than there are bits for.
const ENDPOINTS: u32 = 140;
const KINDS: u32 = 70;

fn at(seconds: u64) -> Timestamp {
    START.after(Duration::from_secs(seconds))
}

fn id(text: &str) -> EndpointId {
    text.parse().unwrap()
}

/// Small segments, so that there are many; where it `frees`, what is settled goes at once, and what
/// is owed is copied forward.
fn builder(disk: &Disk, frees: bool) -> LogStoreBuilder {
    let builder = LogStore::builder("unused").files(Arc::new(disk.clone()));
    let builder = builder.segment_bytes(16 << 10).cache_bytes(2_000);
    if frees { builder.retention(Duration::ZERO).dedup_window(Duration::ZERO) } else { builder }
}

/// What is lost before the store is opened again.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lost {
    Nothing,
    Checkpoint,
    Indexes,
    All,
}

/// A store at random work.
struct Work {
    disk: Disk,
    frees: bool,
    store: LogStore,
    rng: Rng,
    now: Timestamp,
    events: Vec<EventId>,
}

fn settlement(lease: &Lease, decision: Decision, at: Timestamp) -> Settlement {
    let attempt = AttemptRecord {
        number: lease.attempts + 1,
        at,
        took_ms: 5,
        cause: (decision != Decision::Delivered).then_some(Cause::Status),
        message: "no".to_owned(),
        status: Some(500),
        answer: String::new(),
    };
    let (delivery, fence) = (lease.delivery.clone(), lease.fence);
    Settlement { delivery, fence, attempt: Some(attempt), decision }
}

impl Work {
    async fn new(seed: u64, frees: bool) -> Self {
        let disk = Disk::default();
        let store = builder(&disk, frees).open().await.unwrap();
        let rng = Rng::with_seed(seed);
        Self { disk, frees, store, rng, now: START, events: Vec::new() }
    }

    /// The clock jumps, also back.
    fn tick(&mut self) {
        let seconds = self.rng.u64(0..100);
        self.now = match self.rng.u8(0..20) {
            0 => at(seconds * 100),
            _ => self.now.after(Duration::from_secs(seconds)),
        };
    }

    fn endpoint(&mut self) -> EndpointId {
        // Few have most of it.
        let number = if self.rng.bool() { self.rng.u32(0..3) } else { self.rng.u32(0..ENDPOINTS) };
        id(&format!("e{number}"))
    }

    async fn publish(&mut self) {
        let batch: Vec<Accept> = (0..self.rng.usize(1..5))
            .map(|_| {
                let fill = "x".repeat(self.rng.usize(0..400));
                let kind = format!("kind.k{}", self.rng.u32(0..KINDS));
                let event = sealed(NewEvent::raw(&kind, format!("\"{fill}\"")).unwrap());
                self.events.push(event.id().clone());
                let count = self.rng.usize(0..4);
                let mut endpoints: Vec<EndpointId> = (0..count).map(|_| self.endpoint()).collect();
                endpoints.sort();
                endpoints.dedup();
                Accept { event, endpoints: endpoints.into() }
            })
            .collect();
        self.store.accept(batch, self.now).await.unwrap();
    }

    async fn deliver(&mut self, max: usize) {
        let endpoint = self.endpoint();
        let until = self.now.after(Duration::from_secs(30));
        let claim = self.store.claim(&endpoint, max, self.now, until).await.unwrap();
        let mut batch = Vec::new();
        for lease in &claim.leases {
            let decision = match self.rng.u8(0..12) {
                0 => Decision::Dead(DeadReason::Exhausted),
                1 => Decision::Dead(DeadReason::Rejected),
                2 => Decision::Expired,
                3 | 4 => Decision::RetryAt(self.now.after(Duration::from_secs(60))),
                // Stays leased.
                5 => continue,
                _ => Decision::Delivered,
            };
            let mut settlement = settlement(lease, decision, self.now);
            if decision == Decision::Expired {
                settlement.attempt = None;
            }
            batch.push(settlement);
        }
        self.store.settle(&batch).await.unwrap();
    }

    async fn targets(&mut self) -> Vec<Target> {
        let mut targets = Vec::new();
        for _ in 0..self.rng.usize(0..6) {
            let Some(id) = self.rng.choice(&self.events).cloned() else { break };
            if let Some(event) = self.store.event(&id).await.unwrap() {
                targets.push(Target::new(&event, self.endpoint()));
            }
        }
        targets
    }

    async fn act(&mut self) {
        self.tick();
        match self.rng.u8(0..10) {
            0..5 => self.publish().await,
            5..8 => {
                let max = self.rng.usize(1..40);
                self.deliver(max).await;
            }
            8 => {
                let targets = self.targets().await;
                self.store.replay(&targets, None, self.now).await.unwrap();
            }
            _ => {
                let mut query = Query::new().state(StateKind::Dead).state(StateKind::Expired);
                query.endpoints = vec![self.endpoint()];
                let found = self.store.find(&query, Page::oldest().limit(3)).await.unwrap().events;
                let endpoint = query.endpoints.remove(0);
                let targets: Vec<Target> =
                    found.iter().map(|event| Target::new(event, endpoint.clone())).collect();
                let purged = self.store.purge(&targets, self.now).await.unwrap();
                for (target, purged) in targets.iter().zip(purged) {
                    // Retention may have taken it since it was found.
                    let is_there = self.store.event(&target.event).await.unwrap().is_some();
                    let is_well = match purged {
                        Purged::Done => true,
                        Purged::Gone => !is_there,
                        _ => false,
                    };
                    assert!(is_well, "{target:?}: {purged:?}");
                }
            }
        }
    }

    async fn reopen(&mut self, lost: Lost) {
        self.store.close().await.unwrap();
        for name in self.disk.list().unwrap() {
            let (is_checkpoint, is_index) = (name == "checkpoint", name.contains(".idx"));
            let is_lost = match lost {
                Lost::Nothing => false,
                Lost::Checkpoint => is_checkpoint,
                Lost::Indexes => is_index,
                Lost::All => is_checkpoint || is_index,
            };
            if is_lost {
                self.disk.remove(&name).unwrap();
            }
        }
        self.store = builder(&self.disk, self.frees).open().await.unwrap();
        assert!(self.store.recovery().damaged.is_empty(), "{:?}", self.store.recovery());
    }

    /// Everything, by looking at each event on its own.
    async fn everything(&self) -> BTreeMap<u64, EventRecord> {
        let mut all = BTreeMap::new();
        for id in &self.events {
            if let Some(event) = self.store.event(id).await.unwrap() {
                all.insert(event.place.number(), event);
            }
        }
        all
    }

    fn query(&mut self, all: &BTreeMap<u64, EventRecord>) -> Query {
        let mut query = Query::new();
        let times: Vec<Timestamp> = all.values().map(|event| event.accepted_at).collect();
        if self.rng.u8(0..3) == 0 {
            query.since = self.rng.choice(times.iter().copied());
        }
        if self.rng.u8(0..3) == 0 {
            query.until = self.rng.choice(times.iter().copied());
        }
        if self.rng.u8(0..3) == 0 {
            query = query.of_type(format!("kind.k{}", self.rng.u32(0..KINDS)).parse().unwrap());
        }
        if self.rng.u8(0..2) == 0 {
            query = query.endpoint(self.endpoint());
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
        for _ in 0..self.rng.u8(0..3) {
            query = query.state(self.rng.choice(states).unwrap());
        }
        if self.rng.u8(0..8) == 0 {
            query = query.reason(DeadReason::Rejected);
        }
        if self.rng.u8(0..4) == 0 {
            query = query.missing(self.endpoint());
        }
        query
    }

    /// Every page of a query holds what a look at each event finds. Returns how many events.
    async fn check_find(&mut self) -> usize {
        let all = self.everything().await;
        let mut told = 0;
        for _ in 0..15 {
            let query = self.query(&all);
            let mut page = if self.rng.bool() { Page::newest() } else { Page::oldest() };
            page = page.limit(self.rng.usize(1..200));
            let mut expect: Vec<EventRecord> =
                all.values().filter_map(|event| query.select(event.clone())).collect();
            if page.order == Page::newest().order {
                expect.reverse();
            }
            let mut found = Vec::new();
            loop {
                let part = self.store.find(&query, page).await.unwrap();
                found.extend(part.events);
                match part.next {
                    None => break,
                    next => page = page.after(next),
                }
            }
            told += found.len();
            let found: Vec<String> = found.iter().map(|event| format!("{event:?}")).collect();
            let expect: Vec<String> = expect.iter().map(|event| format!("{event:?}")).collect();
            assert_eq!(found.len(), expect.len(), "{query:?}");
            assert_eq!(found, expect, "{query:?}");
        }
        told
    }
}

/// Whatever is known of blocks and segments, and wherever an event was copied to, a query finds what
/// a look at each event finds; also where derived files were lost.
#[tokio::test]
async fn a_query_finds_what_a_full_scan_finds() {
    let seed = seed();
    let mut told = 0;
    for round in 0..if is_long() { 40 } else { 2 } {
        let mut work = Work::new(seed.wrapping_add(round), round % 2 == 1).await;
        for lost in [Lost::Nothing, Lost::Checkpoint, Lost::Indexes, Lost::All] {
            for _ in 0..60 {
                work.act().await;
            }
            told += work.check_find().await;
            work.reopen(lost).await;
            told += work.check_find().await;
        }
    }
    assert!(told > 1_000, "the queries find something: {told}");
}

fn sorted(mut stats: Vec<EndpointStats>) -> Vec<EndpointStats> {
    stats.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
    stats
}

/// Statistics, dead letters and where each delivery stands are the same after a restart, whether from
/// the checkpoint or from the records alone.
#[tokio::test]
async fn what_is_counted_survives_reopening() {
    let mut work = Work::new(seed(), false).await;
    let mut told = (0, 0);
    for round in 0..6 {
        for _ in 0..40 {
            work.act().await;
        }
        let lost = [Lost::Nothing, Lost::Checkpoint, Lost::All][round % 3];
        let stats = sorted(work.store.stats().await.unwrap());
        let mut dead = work.store.dead().await.unwrap();
        // Leases end with the process.
        let states = |all: BTreeMap<u64, EventRecord>| -> Vec<(String, u32, bool)> {
            let deliveries = all.into_values().flat_map(|event| event.deliveries);
            deliveries.map(|d| (d.id.to_string(), d.attempts_made, d.state.is_final())).collect()
        };
        let before = states(work.everything().await);
        work.reopen(lost).await;
        told = (stats.len(), dead.len());
        assert_eq!(sorted(work.store.stats().await.unwrap()), stats, "{lost:?}");
        let mut again = work.store.dead().await.unwrap();
        dead.sort_by_key(|dead| format!("{dead:?}"));
        again.sort_by_key(|dead| format!("{dead:?}"));
        assert_eq!(again, dead, "{lost:?}");
        assert_eq!(states(work.everything().await), before, "{lost:?}");
    }
    assert!(told.0 > 0 && told.1 > 0, "there is something to be told: {told:?}");
}

/// Totals and notes outlive the segments that held their records, and the checkpoint. Dead letters go
/// with their events.
#[tokio::test]
async fn totals_and_notes_outlive_their_segments() {
    let mut work = Work::new(seed(), true).await;
    let value = vec![7_u8; 16 << 10];
    work.store.keep(Note::new("large", value.clone()).unwrap()).await.unwrap();
    work.store.keep(Note::new("small", "1").unwrap()).await.unwrap();
    work.store.keep(Note::new("gone", "1").unwrap()).await.unwrap();
    work.store.keep(Note::removed("gone")).await.unwrap();
    let (mut delivered, mut dead) = (0, 0);
    for n in 0..400 {
        let event = sealed(NewEvent::raw("match", format!("\"{}\"", "x".repeat(500))).unwrap());
        let batch = vec![Accept { event, endpoints: Arc::new([id("a")]) }];
        work.store.accept(batch, at(n)).await.unwrap();
        let claim = work.store.claim(&id("a"), 9, at(n), at(n + 30)).await.unwrap();
        let (decision, count) = if n % 4 == 0 {
            (Decision::Dead(DeadReason::Rejected), &mut dead)
        } else {
            (Decision::Delivered, &mut delivered)
        };
        *count += 1;
        work.store.settle(&[settlement(&claim.leases[0], decision, at(n))]).await.unwrap();
        if n == 200 {
            work.store.keep(Note::new("late", "2").unwrap()).await.unwrap();
        }
        if n % 100 == 99 {
            work.reopen(if n % 200 == 199 { Lost::Nothing } else { Lost::All }).await;
            let stats = work.store.stats().await.unwrap();
            let totals = stats[0].series.totals();
            assert_eq!((totals.succeeded, totals.dead), (delivered, dead), "after {n}");
        }
    }
    let notes = work.store.notes().await.unwrap();
    let keys: Vec<&str> = notes.iter().map(|note| &*note.key).collect();
    assert_eq!(keys, ["large", "late", "small"]);
    assert_eq!(notes[0].value.as_deref(), Some(&*value));
    assert!(work.disk.segments().len() < 6, "{:?}", work.disk.segments());
    let told = work.store.dead().await.unwrap();
    let found =
        work.store.find(&Query::new().state(StateKind::Dead), Page::newest()).await.unwrap();
    assert_eq!(told.iter().map(|dead| dead.count).sum::<u64>(), found.events.len() as u64);
    assert!(found.events.len() < 40, "what is dead goes after retention: {}", found.events.len());
}

/// An event can be sent again a thousand times; each time is told, with how it ended.
#[tokio::test]
async fn runs_are_bounded_and_each_is_told() {
    let disk = Disk::default();
    let store = builder(&disk, false).open().await.unwrap();
    let event = sealed(NewEvent::raw("match", "1").unwrap());
    let batch = vec![Accept { event: event.clone(), endpoints: Arc::new([id("a")]) }];
    store.accept(batch, at(0)).await.unwrap();
    let target = async |store: &LogStore| {
        [Target::new(&store.event(event.id()).await.unwrap().unwrap(), id("a"))]
    };
    let first = target(&store).await;
    for run in 0..=RUNS_MAX {
        let lease = store.claim(&id("a"), 9, at(1), at(30)).await.unwrap().leases.remove(0);
        assert_eq!(lease.delivery.run(), run);
        let dead = Decision::Dead(DeadReason::Rejected);
        let decision = if run % 2 == 0 { dead } else { Decision::Delivered };
        store.settle(&[settlement(&lease, decision, at(1))]).await.unwrap();
        if run < RUNS_MAX {
            let made = Replayed::Made(lease.delivery.with_run(run + 1));
            assert_eq!(store.replay(&first, None, at(2)).await.unwrap(), [made]);
        }
    }
    assert_eq!(store.replay(&first, None, at(2)).await.unwrap(), [Replayed::TooOften]);
    store.close().await.unwrap();
    let store = builder(&disk, false).open().await.unwrap();
    assert_eq!(store.purge(&target(&store).await, at(3)).await.unwrap(), [Purged::Done]);
    assert_eq!(
        store.replay(&target(&store).await, None, at(2)).await.unwrap(),
        [Replayed::TooOften]
    );
    let found = store.event(event.id()).await.unwrap().unwrap();
    assert_eq!(found.deliveries.len(), RUNS_MAX as usize + 1);
    for (run, delivery) in (0..).zip(&found.deliveries) {
        let expect = match run {
            RUNS_MAX => State::Purged,
            _ if run % 2 == 0 => State::Dead { reason: DeadReason::Rejected },
            _ => State::Delivered,
        };
        assert_eq!((delivery.id.run(), &delivery.state), (run, &expect));
        assert_eq!(delivery.attempts.len(), 1, "run {run}");
    }
}

/// An event that was sent again is found by the endpoint that it was sent to, though its block knows
/// of others only.
#[tokio::test]
async fn an_event_is_found_by_whom_it_was_sent_to_again() {
    let mut disk = Disk::default();
    let mut store = builder(&disk, false).open().await.unwrap();
    let mut ids = Vec::new();
    for n in 0..300 {
        let event = sealed(NewEvent::raw("match", format!("\"{}\"", "x".repeat(300))).unwrap());
        ids.push(event.id().clone());
        let batch = vec![Accept { event, endpoints: Arc::new([id("a")]) }];
        store.accept(batch, at(n)).await.unwrap();
    }
    for chosen in [70, 170] {
        let event = store.event(&ids[chosen]).await.unwrap().unwrap();
        store.replay(&[Target::new(&event, id("b"))], None, at(999)).await.unwrap();
    }
    for reopened in [false, true] {
        for (query, expect) in [
            (Query::new().endpoint(id("b")), vec![170, 70]),
            (Query::new().endpoint(id("b")).since(at(100)), vec![170]),
            (Query::new().endpoint(id("b")).endpoint(id("unknown")), vec![170, 70]),
            (Query::new().endpoint(id("unknown")), vec![]),
        ] {
            let found = store.find(&query, Page::newest()).await.unwrap();
            let found: Vec<&EventId> = found.events.iter().map(|event| event.event.id()).collect();
            let expect: Vec<&EventId> = expect.into_iter().map(|at: usize| &ids[at]).collect();
            assert_eq!(found, expect, "{query:?}, reopened: {reopened}");
        }
        disk = disk.after_crash();
        disk.damage("checkpoint", Vec::clear);
        store = builder(&disk, false).open().await.unwrap();
    }
}

/// A replay is refused at the backlog limits, also where publishers would wait.
#[tokio::test]
async fn a_replay_is_refused_where_the_backlog_is_full() {
    let disk = Disk::default();
    let builder = builder(&disk, false).backlog_events_max(2);
    let store = builder.when_full(postrider::store::WhenFull::Wait).open().await.unwrap();
    let mut targets = Vec::new();
    for n in 0..3 {
        // The last is for nobody at first: it counts all the same once it was sent.
        let event = sealed(NewEvent::raw("match", "1").unwrap());
        let endpoints = if n < 2 { vec![id("a")].into() } else { Vec::new().into() };
        store.accept(vec![Accept { event: event.clone(), endpoints }], at(0)).await.unwrap();
        for lease in store.claim(&id("a"), 9, at(0), at(9)).await.unwrap().leases {
            store.settle(&[settlement(&lease, Decision::Delivered, at(0))]).await.unwrap();
        }
        let event = store.event(event.id()).await.unwrap().unwrap();
        targets.push(Target::new(&event, id("b")));
    }
    let note = Note::new("job", "1").unwrap();
    let error = store.replay(&targets, Some(note.clone()), at(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full);
    assert!(error.to_string().contains("backlog.events_max = 2"), "{error}");
    assert!(store.notes().await.unwrap().is_empty(), "nothing of it is done");
    store.replay(&targets[1..], Some(note), at(1)).await.unwrap();
    let error = store.replay(&targets[..1], None, at(1)).await.unwrap_err();
    assert!(error.is_full(), "{error}");
    let many = vec![targets[0].clone(); 1_001];
    assert_eq!(store.replay(&many, None, at(1)).await.unwrap_err().kind(), ErrorKind::TooLarge);
}

/// What is owed and cannot be read is set aside, and is told as delayed.
#[tokio::test]
async fn a_damaged_event_stays_in_the_backlog() {
    let disk = Disk::default();
    let open = || LogStore::builder("unused").files(Arc::new(disk.clone())).open_blocking();
    let store = open().unwrap();
    for _ in 0..2 {
        let event = sealed(NewEvent::raw("match", r#"{"fill":1}"#).unwrap());
        let batch = vec![Accept { event, endpoints: Arc::new([id("a")]) }];
        store.accept(batch, at(0)).await.unwrap();
    }
    store.close().await.unwrap();
    damage_event(&disk, &disk.segments()[0], 0);
    let store = open().unwrap();
    let claim = store.claim(&id("a"), 9, at(1), at(30)).await.unwrap();
    assert_eq!(claim.leases.len(), 1);
    let backlog = store.backlog(at(1)).await.unwrap();
    assert_eq!((backlog[0].ready, backlog[0].delayed, backlog[0].leased), (0, 1, 1));
    store.settle(&[settlement(&claim.leases[0], Decision::Delivered, at(1))]).await.unwrap();
    assert_eq!(store.backlog(at(1)).await.unwrap()[0].owed(), 1, "and stays there");
}

/// Damage took the record that settled a delivery, which was then made again: it is owed once.
#[tokio::test]
async fn what_is_made_again_after_a_lost_settlement_is_owed_once() {
    let (disk, a) = (Disk::default(), id("a"));
    let store = builder(&disk, false).manual().open().await.unwrap();
    let event = sealed(NewEvent::raw("match", "1").unwrap());
    let accept = Accept { event: Arc::clone(&event), endpoints: [a.clone()].into() };
    tokio::join!(store.accept(vec![accept], START), async { store.step(true) }).0.unwrap();
    let until = |now: Timestamp| now.after(Duration::from_secs(30));
    let mut before = disk.contents();
    for (now, decision) in
        [(at(0), Decision::RetryAt(at(1))), (at(2), Decision::Dead(DeadReason::Exhausted))]
    {
        before = disk.contents();
        let lease = store.claim(&a, 1, now, until(now)).await.unwrap().leases.remove(0);
        store.settle(&[settlement(&lease, decision, now)]).await.unwrap();
        store.step(true);
    }
    let found = store.event(event.id()).await.unwrap().unwrap();
    let name = disk.segments().remove(0);
    let settled = before[&name].iter().zip(&disk.contents()[&name]).position(|(a, b)| a != b);
    let targets = [Target::new(&found, a.clone())];
    let replay = store.replay(&targets, None, at(3));
    tokio::join!(replay, async { store.step(true) }).0.unwrap();
    disk.damage(&name, |bytes| bytes[settled.unwrap() + 12] ^= 1);

    let store = builder(&disk.durable(), false).open().await.unwrap();
    assert_eq!(store.recovery().damaged.len(), 1, "{:?}", store.recovery());
    let leases = store.claim(&a, 9, at(4), until(at(4))).await.unwrap().leases;
    let runs: Vec<u32> = leases.iter().map(|lease| lease.delivery.run()).collect();
    assert_eq!(runs, [1]);
    let owed = store.backlog(at(4)).await.unwrap();
    assert_eq!((owed[0].leased, owed[0].owed()), (1, 1));
}

/// An id that was published again after the dedup window names the newest of its events.
#[tokio::test]
async fn an_id_names_the_newest_of_its_events() {
    let disk = Disk::default();
    let open = || builder(&disk, false).dedup_window(Duration::ZERO).open();
    let mut store = open().await.unwrap();
    let event = sealed(NewEvent::raw("match", "1").unwrap());
    for second in 0..20 {
        let accept = Accept { event: Arc::clone(&event), endpoints: [id("a")].into() };
        let accepted = store.accept(vec![accept], at(second)).await.unwrap();
        assert!(!accepted[0].duplicate);
        if second % 5 == 0 {
            store.close().await.unwrap();
            store = open().await.unwrap();
        }
        let found = store.event(event.id()).await.unwrap().unwrap();
        assert_eq!(found.accepted_at, at(second));
    }
}
