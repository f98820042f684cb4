//! What a seed's world is like: its endpoints, its faults, how often its process ends.

use std::time::Duration;

use fastrand::Rng;
use postrider::EndpointId;
use postrider::endpoint::Order;
use postrider::retry::Policy;

/// Random numbers for one thing in a seed's world: the same for the same thing, in whatever order
/// things are asked for.
pub(crate) fn random(seed: u64, what: &[u64]) -> Rng {
    let mix = |mixed: u64, part: &u64| {
        let mixed = (mixed ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 29)
    };
    Rng::with_seed(what.iter().fold(seed, mix))
}

/// What a random number is for.
#[derive(Clone, Copy)]
pub(crate) enum For {
    Plan,
    Place,
    Order,
    Actions,
    Answers,
    Store,
    Disk,
}

/// Which store is under the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backing {
    Memory,
    Log,
}

/// What is made wrong, to see that it is found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// The store says that an event is accepted, and drops it.
    ForgetsAccept,
    /// The store says that a delivery is settled, and forgets it.
    ForgetsSettle,
    /// A sink says that it took an event over, and did not.
    AcksForNothing,
    /// The store makes a retry due at once.
    RetriesEarly,
    /// The store hands out a delivery that was never published.
    Invents,
    /// The disk says that it synced, and did not.
    SkipsSyncs,
    /// Endpoints that ask for an order are configured without one.
    IgnoresOrder,
}

/// How a receiver behaves, in percent of its calls; the rest are acks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Temper {
    pub(crate) fails: u8,
    pub(crate) hangs: u8,
    pub(crate) late: u8,
    pub(crate) panics: u8,
    pub(crate) silent: u8,
    pub(crate) rejects: u8,
    pub(crate) gone: u8,
    /// Longest time that an answer takes.
    pub(crate) takes_ms: u64,
}

/// An endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) number: usize,
    pub(crate) pattern: &'static str,
    pub(crate) timeout: Duration,
    pub(crate) concurrency: usize,
    pub(crate) batch_max: usize,
    pub(crate) retry: Policy,
    pub(crate) temper: Temper,
    /// The same in every version.
    pub(crate) order: Order,
    /// Nothing in this world may hold it up.
    pub(crate) is_prompt: bool,
}

/// The keys that events have.
pub(crate) const KEYS: [Option<&str>; 4] = [None, Some("a"), Some("a"), Some("b")];

/// The types that are published, and the patterns that endpoints ask by.
pub(crate) const KINDS: [&str; 4] = ["match", "match", "model.uploaded", "unasked"];
const PATTERNS: [&str; 4] = ["*", "match", "model.*", "match"];

/// Whether an endpoint that asks by `pattern` gets events of type `kind`.
pub(crate) fn matches(pattern: &str, kind: &str) -> bool {
    pattern == "*" || pattern == kind || (pattern == "model.*" && kind.starts_with("model."))
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) backing: Backing,
    pub(crate) mutation: Option<Mutation>,
    pub(crate) places: usize,
    pub(crate) in_flight_max: usize,
    /// How often a process opens the store; the last time it is left to deliver everything.
    pub(crate) lives: usize,
    /// Things that happen in one life.
    pub(crate) steps: usize,
    /// Calls of the store that fail or panic, in percent.
    pub(crate) store_fails: u8,
    /// Longest time that a call of the store takes.
    pub(crate) store_takes_ms: u64,
    pub(crate) has_jumps: bool,
    pub(crate) has_crashes: bool,
    pub(crate) changes_endpoints: bool,
    /// One endpoint hangs in every call, and nothing else goes wrong: no other may notice.
    pub(crate) is_one_stuck: bool,
    pub(crate) cache_bytes: usize,
}

impl Plan {
    pub(crate) fn new(seed: u64, backing: Backing, mutation: Option<Mutation>) -> Self {
        let mut rng = random(seed, &[For::Plan as u64]);
        let is_log = backing == Backing::Log;
        let is_one_stuck = rng.u8(0..6) == 0;
        let mut sometimes = |percent: u8| !is_one_stuck && rng.u8(0..100) < percent;
        let has_jumps = sometimes(40);
        let has_crashes = sometimes(60) && is_log;
        let changes_endpoints = sometimes(50);
        let store_fails = if sometimes(40) { 10 } else { 0 };
        let store_takes_ms = if sometimes(25) { 40_000 } else { 0 };
        Self {
            seed,
            backing,
            mutation,
            places: rng.usize(if is_one_stuck { 2..5 } else { 1..5 }),
            in_flight_max: [2, 4, 8, 64][rng.usize(if is_one_stuck { 1..4 } else { 0..4 })],
            lives: if is_log { rng.usize(1..5) } else { 1 },
            steps: if is_log { 12 } else { 25 },
            store_fails,
            store_takes_ms,
            has_jumps,
            has_crashes,
            changes_endpoints,
            is_one_stuck,
            cache_bytes: [0, 400, 1 << 20][rng.usize(0..3)],
        }
    }

    /// The order that endpoint `number` keeps.
    fn order(&self, number: usize) -> Order {
        let mut rng = random(self.seed, &[For::Order as u64, number as u64]);
        match rng.u8(0..6) {
            // What waits for its turn is not prompt.
            _ if self.is_one_stuck => Order::None,
            // What else is made wrong may break an order, too; it is to be found by its own name.
            _ if self.mutation.is_some_and(|it| it != Mutation::IgnoresOrder) => Order::None,
            0 | 1 => Order::Key,
            2 => Order::All,
            _ => Order::None,
        }
    }

    /// Endpoint `number` as it is configured for the `version`th time.
    pub(crate) fn place(&self, number: usize, version: u64) -> Place {
        let mut rng = random(self.seed, &[For::Place as u64, number as u64, version]);
        let delays = [50, 1_000, 20_000, 600_000, 3_600_000];
        let schedule = (0..rng.usize(0..8)).map(|_| {
            let delay = delays[rng.usize(0..delays.len())];
            Duration::from_millis(rng.u64(delay / 2..=delay))
        });
        let schedule: Vec<Duration> = schedule.collect();
        let is_stuck = self.is_one_stuck && number == 0;
        let temper = if is_stuck {
            Temper { hangs: 100, ..Temper::default() }
        } else if self.is_one_stuck {
            Temper { fails: 20, takes_ms: 20, ..Temper::default() }
        } else {
            let mut percent = |often: u8, most: u8| {
                if rng.u8(0..100) < often { rng.u8(0..=most) } else { 0 }
            };
            Temper {
                fails: percent(70, 60),
                hangs: percent(20, 10),
                late: percent(20, 10),
                panics: percent(20, 10),
                silent: percent(20, 10),
                rejects: percent(20, 8),
                gone: percent(10, 3),
                takes_ms: [1, 50, 3_000, 70_000][rng.usize(0..4)],
            }
        };
        Place {
            number,
            pattern: PATTERNS[number % PATTERNS.len()],
            timeout: Duration::from_millis(rng.u64(100..100_000)),
            concurrency: rng.usize(1..9),
            batch_max: if rng.bool() { 1 } else { rng.usize(2..9) },
            retry: Policy::new(schedule, f64::from(rng.u8(0..6)) / 10.0).expect("a valid policy"),
            temper,
            order: self.order(number),
            is_prompt: self.is_one_stuck && !is_stuck,
        }
    }
}

impl Place {
    /// How long after a failed `attempt` the next one is due, at least and at most; `None`: there is
    /// no next one. `wished` is what the receiver asked for.
    pub(crate) fn delay(&self, attempt: u32, wished: Duration) -> Option<(Duration, Duration)> {
        let delay = *self.retry.schedule().get(attempt as usize - 1)?;
        let jitter = self.retry.jitter();
        let bound = |share: f64| delay.mul_f64(share).max(wished);
        Some((bound(1.0 - jitter), bound(1.0 + jitter)))
    }
}

pub(crate) fn place_id(number: usize) -> EndpointId {
    format!("place-{number}").parse().expect("a valid id")
}

pub(crate) fn place_number(id: &EndpointId) -> Option<usize> {
    id.as_str().strip_prefix("place-")?.parse().ok()
}
