//! One seed: processes that open the store, publish, change endpoints, see the clock jump, and end in
//! good order or not; and one that is left to deliver everything.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use fastrand::Rng;
use postrider::clock::Clock;
use postrider::endpoint::{Breaker, Order};
use postrider::store::{LogStore, MemoryStore};
use postrider::testing::{Disk, Fail, TestClock};
use postrider::{Bus, Endpoint, Error, NewEvent, Timestamp};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::plan::{
    Backing, For, KEYS, KINDS, Mutation, Place, Plan, matches, place_id, place_number, random,
};
use super::sink::SimSink;
use super::store::{Faults, Stepped};
use super::verify;
use super::world::{Answer, Published, World};

/// Ends a life that is stuck: longer than anything in it may take.
const LIFE_MAX: Duration = Duration::from_hours(30 * 24);
/// By when everything that is due must have been delivered once nothing goes wrong any more: the
/// longest sleep before the engine looks at a clock that has jumped, the longest timeout of a call
/// that hangs, the longest wait after a store that failed, and some turns.
const SOON: Duration = Duration::from_mins(5);
/// More than any delay of a schedule or wish of a receiver, and than all jumps back of one seed.
const LATE: Duration = Duration::from_hours(48);
/// How long an id is known surely.
const DEDUP: Duration = Duration::from_hours(23);

/// An endpoint as it is configured now.
struct Configured {
    sink: Arc<SimSink>,
    enabled: bool,
}

struct Driver {
    world: Arc<World>,
    rng: Rng,
    disk: Disk,
    /// By number; `None`: not configured.
    places: Vec<Option<Configured>>,
    versions: u64,
    life: u64,
    /// The wall clock of the next life.
    wall: Timestamp,
}

/// How a life ended.
enum Ending {
    Shutdown,
    /// With what is left of the disk.
    Crash(Disk),
}

/// Runs a seed; tells how many attempts were made.
///
/// # Errors
/// The first promise that was broken.
pub(crate) fn run(plan: &Plan) -> Result<u64, String> {
    let world = Arc::new(World::new(plan.clone()));
    let mut driver = Driver {
        rng: random(plan.seed, &[For::Actions as u64]),
        disk: Disk::default(),
        places: (0..plan.places).map(|_| None).collect(),
        versions: 0,
        life: 0,
        wall: Timestamp::from_millis(1_764_513_045_123),
        world: Arc::clone(&world),
    };
    if plan.mutation == Some(Mutation::SkipsSyncs) {
        driver.disk.skip_syncs();
    }
    for life in 1..=plan.lives {
        driver.life = life as u64;
        world.begin_life();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let live = async { tokio::time::timeout(LIFE_MAX, driver.live(life == plan.lives)).await };
        let ended = runtime.block_on(live).map_err(|_| "a life is stuck".to_owned())??;
        // A process that crashed stops where it is.
        drop(runtime);
        world.check()?;
        match ended {
            Ending::Shutdown => driver.disk = driver.disk.after_power_cut(plan.seed),
            Ending::Crash(disk) => driver.disk = disk,
        }
    }
    if plan.backing == Backing::Log {
        verify::reopened(&world, &driver.disk)?;
    }
    let attempts = world.lock().attempts;
    Ok(attempts)
}

pub(crate) fn open_log(disk: &Disk, cache_bytes: usize) -> Result<LogStore, String> {
    let builder = LogStore::builder("unused").files(Arc::new(disk.clone())).manual();
    let builder = builder.segment_bytes(16 << 10).cache_bytes(cache_bytes);
    let log = builder.open_blocking().map_err(|error| format!("open: {}", error.chain()))?;
    let recovery = log.recovery();
    if recovery.damaged.is_empty() {
        Ok(log)
    } else {
        Err(format!("a crash looks like damage: {recovery:?}"))
    }
}

impl Driver {
    fn plan(&self) -> &Plan {
        &self.world.plan
    }

    async fn live(&mut self, is_last: bool) -> Result<Ending, String> {
        let clock = Arc::new(TestClock::following_tokio().seed(self.plan().seed ^ self.life));
        clock.jump_ms(self.wall.as_millis() - clock.now().as_millis());
        let bus = self.open(&clock).await?;
        let mut publishers = JoinSet::new();
        for _ in 0..self.rng.usize(0..self.plan().steps) {
            self.act(&bus, &clock, &mut publishers).await?;
            self.world.check()?;
        }
        if self.plan().has_crashes && !is_last && self.rng.bool() {
            self.world.crash();
            let seed = self.rng.u64(..);
            let loses_power = self.rng.bool();
            let left =
                if loses_power { self.disk.after_power_cut(seed) } else { self.disk.after_crash() };
            self.note_wall(&clock);
            return Ok(Ending::Crash(left));
        }
        if is_last {
            // Whoever publishes now may be answered after the last look at what is owed.
            while publishers.join_next().await.is_some() {}
            self.calm(&bus, &clock).await?;
            verify::everything(&self.world, &bus).await?;
        }
        let deadline = Duration::from_millis([0, 100, 3_000][self.rng.usize(0..3)]);
        let left = bus.shutdown(deadline).await;
        self.world.end_life();
        while publishers.join_next().await.is_some() {}
        self.note_wall(&clock);
        let is_broken = self.disk.failed().is_some();
        self.disk.fail(None);
        match left {
            Ok(left) if self.world.lock().is_calm && !left.is_empty() => {
                Err(format!("left at the end: {left:?}"))
            }
            Err(error) if !is_broken => Err(format!("shut down: {}", error.chain())),
            _ => Ok(Ending::Shutdown),
        }
    }

    /// The next life begins a while later.
    fn note_wall(&mut self, clock: &TestClock) {
        self.wall = clock.now().after(Duration::from_secs(self.rng.u64(0..100)));
    }

    async fn open(&mut self, clock: &Arc<TestClock>) -> Result<Bus, String> {
        let endpoints: Vec<Endpoint> =
            (0..self.plan().places).map(|number| self.configure(number, clock)).collect();
        let builder = Bus::builder().clock(clock.clone()).in_flight_max(self.plan().in_flight_max);
        let builder = builder.endpoints(endpoints);
        let (world, life) = (Arc::clone(&self.world), self.life);
        let builder = match self.plan().backing {
            Backing::Memory => {
                let store = MemoryStore::default();
                builder.store(Faults { store, world, life, calls: AtomicU64::new(0) })
            }
            Backing::Log => {
                let log = open_log(&self.disk, self.plan().cache_bytes)?;
                let rng = random(self.plan().seed, &[For::Disk as u64, life]);
                let store = Stepped::new(log, rng);
                builder.store(Faults { store, world, life, calls: AtomicU64::new(0) })
            }
        };
        builder.open().await.map_err(|error| error.chain())
    }

    /// Configures an endpoint anew.
    fn configure(&mut self, number: usize, clock: &Arc<TestClock>) -> Endpoint {
        self.versions += 1;
        let place = self.plan().place(number, self.versions);
        let sink = Arc::new(SimSink::new(&self.world, clock, place));
        let configured = Configured { sink, enabled: true };
        let endpoint = endpoint(&configured, self.plan().mutation);
        self.places[number] = Some(configured);
        endpoint
    }

    async fn act(
        &mut self,
        bus: &Bus,
        clock: &Arc<TestClock>,
        publishers: &mut JoinSet<()>,
    ) -> Result<(), String> {
        match self.rng.u8(0..24) {
            0..6 => {
                let number = self.new_event(clock);
                publish(&self.world, bus, number, Some(self.asked_by(number))).await;
            }
            6..8 => {
                let numbers = (0..self.rng.usize(1..7)).map(|_| self.new_event(clock)).collect();
                publish_all(&self.world, bus, numbers).await;
            }
            8..11 => {
                let (world, bus, number) =
                    (Arc::clone(&self.world), bus.clone(), self.new_event(clock));
                publishers.spawn(async move { publish(&world, &bus, number, None).await });
            }
            11 => {
                let number = self.new_event(clock);
                let limit = Duration::from_millis(self.rng.u64(0..40));
                // Given up half-way: it is there or not.
                let publish = publish(&self.world, bus, number, None);
                let _ = tokio::time::timeout(limit, publish).await;
            }
            12 => self.publish_again(bus, clock).await,
            13..19 => {
                let longest = 1 << self.rng.u32(0..22);
                // tidy: allow(sleep): time is simulated
                tokio::time::sleep(Duration::from_millis(self.rng.u64(0..longest))).await;
            }
            19 if self.plan().has_jumps => {
                let hour = 3_600_000;
                let by = self.rng.i64(-3 * hour..5 * hour);
                self.world.lock().jumps_back += u32::from(by < 0);
                clock.jump_ms(by);
            }
            20..23 if self.plan().changes_endpoints => self.change(bus, clock).await?,
            23 if self.plan().has_crashes && self.disk.failed().is_none() => {
                // The disk breaks, for once or for good.
                let from = self.disk.calls() + self.rng.u64(1..30);
                let count = if self.rng.bool() { 1 } else { u64::MAX };
                self.world.lock().has_store_failed = true;
                self.disk.fail(Some(Fail { from, count, kind: std::io::ErrorKind::Other }));
            }
            _ => verify::anything(&self.world, bus, &mut self.rng, &self.disk).await?,
        }
        Ok(())
    }

    /// Makes an event that was not published yet.
    fn new_event(&mut self, clock: &TestClock) -> usize {
        let number = self.world.lock().events.len();
        let has_own_id = self.rng.bool();
        let id = has_own_id.then(|| format!("own-{number}").parse().expect("a valid id"));
        let lasts = Duration::from_millis(self.rng.u64(1..4_000_000));
        let fill = "x".repeat(self.rng.usize(0..400));
        let published = Published {
            id,
            has_own_id,
            kind: KINDS[self.rng.usize(0..KINDS.len())],
            key: KEYS[self.rng.usize(0..KEYS.len())],
            payload: format!(r#"{{"n":{number},"x":"{fill}"}}"#),
            expires_at: (self.rng.u8(0..6) == 0).then(|| clock.now().after(lasts)),
            answer: Answer::Unknown,
            accepted_at: clock.now(),
            accepted: None,
            asked: 0,
            told: None,
            places: Vec::new(),
        };
        self.world.lock().events.push(published);
        number
    }

    /// The endpoints that ask for an event now.
    fn asked_by(&self, number: usize) -> Vec<usize> {
        let kind = self.world.lock().events[number].kind;
        let places = self.places.iter().flatten().map(|configured| &configured.sink.place);
        places.filter(|place| matches(place.pattern, kind)).map(|place| place.number).collect()
    }

    /// Publishes an id that was published before: the first receipt comes back.
    async fn publish_again(&mut self, bus: &Bus, clock: &TestClock) {
        let number = {
            let inner = self.world.lock();
            let own = |number: &usize| {
                let event = &inner.events[*number];
                event.has_own_id && event.answer == Answer::Accepted
            };
            let own: Vec<usize> = (0..inner.events.len()).filter(own).collect();
            if own.is_empty() {
                return;
            }
            own[self.rng.usize(0..own.len())]
        };
        let (event, places, accepted_at) = {
            let inner = self.world.lock();
            let first = &inner.events[number];
            (build(first), first.places.clone(), first.accepted_at)
        };
        if clock.now().since(accepted_at) > DEDUP {
            return;
        }
        if let Ok(receipt) = bus.publish(event).await {
            let found: Vec<usize> = receipt.endpoints().iter().filter_map(place_number).collect();
            if !receipt.is_duplicate() || found != places {
                let what = format!("event {number}, published again, got {receipt:?}");
                self.world.lock().breaks(what);
            }
        }
    }

    /// Changes the endpoints of the running bus.
    async fn change(&mut self, bus: &Bus, clock: &Arc<TestClock>) -> Result<(), String> {
        let number = self.rng.usize(0..self.places.len());
        let what = self.rng.u8(0..4);
        match &mut self.places[number] {
            Some(configured) if what < 2 => configured.enabled ^= true,
            configured @ Some(_) if what == 2 => *configured = None,
            _ => {
                self.configure(number, clock);
            }
        }
        let mutation = self.plan().mutation;
        let places = self.places.iter().flatten();
        let endpoints = places.map(|place| endpoint(place, mutation)).collect();
        bus.set_endpoints(endpoints).await.map_err(|error| error.chain())
    }

    /// Lets the bus deliver what it owes, with nothing going wrong any more.
    async fn calm(&mut self, bus: &Bus, clock: &Arc<TestClock>) -> Result<(), String> {
        if self.disk.failed().is_some() {
            // Only opening the store again makes that good.
            return Ok(());
        }
        self.disk.fail(None);
        self.world.lock().is_calm = true;
        let endpoints =
            (0..self.places.len()).map(|number| self.configure(number, clock)).collect();
        bus.set_endpoints(endpoints).await.map_err(|error| error.chain())?;
        // Mostly the clock is helped along: waiting for hours, even simulated ones, takes its time.
        let limit = if self.rng.u8(0..10) > 0 {
            // Not before the calls that go on from before have ended, and it is known what follows.
            // tidy: allow(sleep): time is simulated
            tokio::time::sleep(SOON).await;
            clock.jump_ms(LATE.as_millis() as i64);
            SOON
        } else {
            LATE
        };
        // What a publisher brought that went away is not seen before it is written.
        // tidy: allow(sleep): time is simulated
        tokio::time::sleep(Duration::from_secs(1)).await;
        let started = Instant::now();
        let mut pause = Duration::from_millis(50);
        loop {
            let left = bus.backlog().await.map_err(|error| error.chain())?;
            self.world.check()?;
            if left.is_empty() {
                return Ok(());
            }
            if started.elapsed() > limit {
                return Err(format!("still owed after {limit:?}: {left:?}"));
            }
            // tidy: allow(sleep): time is simulated
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(SOON);
        }
    }
}

fn endpoint(configured: &Configured, mutation: Option<Mutation>) -> Endpoint {
    let place = configured.sink.place.clone();
    let Place { number, pattern, timeout, concurrency, retry, order, .. } = place;
    let order = if mutation == Some(Mutation::IgnoresOrder) { Order::None } else { order };
    Endpoint::builder_shared("place", Arc::clone(&configured.sink) as _)
        // Opens often, and not for so long that a world lasts for days.
        .breaker(Some(Breaker::new(4, Duration::from_millis(50), Duration::from_millis(400))))
        .id(place_id(number))
        .events([pattern])
        .expect("a valid pattern")
        .enabled(configured.enabled)
        .timeout(timeout)
        .concurrency(concurrency)
        // A world may last for weeks.
        .disable_after(None)
        .retry(retry)
        .order(order)
        .build()
}

fn build(published: &Published) -> NewEvent {
    let event = NewEvent::raw(published.kind, published.payload.clone()).expect("a valid event");
    let event = match &published.id {
        Some(id) => event.id(id.clone()),
        None => event,
    };
    let event = match published.key {
        Some(key) => event.key(key),
        None => event,
    };
    match published.expires_at {
        Some(deadline) => event.expires_at(deadline),
        None => event,
    }
}

/// Publishes an event; `expect` are the endpoints that it goes to, where that is known.
async fn publish(world: &World, bus: &Bus, number: usize, expect: Option<Vec<usize>>) {
    world.lock().ask(&[number]);
    let event = build(&world.lock().events[number]);
    let answer = bus.publish(event).await;
    match answer {
        Ok(receipt) => {
            note_receipt(world, number, &receipt);
            let mut inner = world.lock();
            let found = &inner.events[number].places;
            if expect.as_ref().is_some_and(|expect| expect != found) {
                let what = format!("event {number} goes to {found:?}, asked for by {expect:?}");
                inner.breaks(what);
            }
        }
        Err(error) => note_error(world, &[number], &error),
    }
}

async fn publish_all(world: &World, bus: &Bus, numbers: Vec<usize>) {
    world.lock().ask(&numbers);
    let events: Vec<NewEvent> =
        numbers.iter().map(|number| build(&world.lock().events[*number])).collect();
    match bus.publish_all(events).await {
        Ok(receipts) => {
            for (number, receipt) in numbers.iter().zip(&receipts) {
                note_receipt(world, *number, receipt);
            }
        }
        Err(error) => note_error(world, &numbers, &error),
    }
}

fn note_receipt(world: &World, number: usize, receipt: &postrider::Receipt) {
    let mut inner = world.lock();
    inner.turn += 1;
    let turn = inner.turn;
    let event = &mut inner.events[number];
    event.answer = Answer::Accepted;
    event.told = Some(turn);
    event.accepted = Some(Instant::now());
    event.places = receipt.endpoints().iter().filter_map(place_number).collect();
    let id = event.id.get_or_insert_with(|| receipt.event().clone());
    if id != receipt.event() || receipt.is_duplicate() {
        let what = format!("event {number} got {receipt:?}");
        inner.breaks(what);
    }
}

fn note_error(world: &World, numbers: &[usize], error: &Error) {
    let mut inner = world.lock();
    // A log whose write failed may have written all of it; what it says then is "not accepted".
    let is_known = error.is_closed() || world.plan.backing == Backing::Memory;
    for number in numbers {
        let is_seen = inner.seen.keys().any(|(event, _)| event == number);
        if is_known && is_seen {
            inner.breaks(format!("event {number} is delivered, and its publisher got {error:?}"));
        }
        if is_known {
            inner.events[*number].answer = Answer::Refused;
        }
    }
}
