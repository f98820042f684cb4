//! Publishing to a bus with few or many endpoints, of which one asks for the event.
//!
//! The limit of a crowd is the bus with that one endpoint alone: who does not match should cost
//! nothing.

use std::sync::Arc;
use std::time::Duration;

use postrider::store::MemoryStore;
use postrider::{Bus, Endpoint};

use crate::measure::{Pairs, Side, Stopwatch, Took};
use crate::payload::{Match, matches};
use crate::report::{Goal, Report};
use crate::sinks::{Acks, Counted, Nothing};
use crate::{Failure, Scale};

const CROWDS: [usize; 4] = [1, 10, 1_000, 100_000];
const EVENTS: usize = 2_000;
const WAIT_MAX: Duration = Duration::from_secs(30);

pub(crate) async fn run(report: &mut Report, scale: Scale, seed: u64) -> Result<(), Failure> {
    report.begin(
        "route",
        &format!(
            "publish to 1 matching endpoint among many; limit: it alone; {} events a slice",
            EVENTS / scale.divisor
        ),
    );
    compare(report, scale, seed, false).await?;
    compare(report, scale, seed, true).await
}

async fn compare(
    report: &mut Report,
    scale: Scale,
    seed: u64,
    deliver: bool,
) -> Result<(), Failure> {
    let mut crowds = Vec::new();
    for size in CROWDS {
        crowds.push(Crowd::open(size, EVENTS / scale.divisor, seed, deliver).await?);
    }
    let mut took = CROWDS.map(|_| Vec::new());
    // The first round is for warming up.
    for round in 0..=scale.pairs {
        for turn in 0..CROWDS.len() {
            let at = (round + turn) % CROWDS.len();
            let slice = crowds[at].slice().await?;
            if round > 0 {
                took[at].push(slice);
            }
        }
    }
    for crowd in &crowds {
        crowd.check(scale.pairs + 1).await?;
    }
    let events = EVENTS / scale.divisor;
    let what = if deliver { "publish and deliver" } else { "publish" };
    for (size, took_here) in CROWDS.into_iter().zip(&took) {
        let (limit, case) = match size {
            1 => (Vec::new(), format!("{what}, 1 endpoint")),
            _ => (took[0].clone(), format!("{what}, {size} endpoints")),
        };
        let pairs = Pairs { subject: took_here.clone(), limit };
        report.time("route", &case, events, &pairs, None);
        // On the CPU time: a slice is so short that one interruption doubles its wall time.
        report.cpu("route", &case, events, &pairs, Some(Goal::AtMost(1.5)));
    }
    Ok(())
}

/// A bus with so many endpoints.
struct Crowd {
    bus: Bus,
    acks: Arc<Acks>,
    events: Vec<Match>,
    slice: usize,
    deliver: bool,
}

impl Crowd {
    /// Without `deliver`, the endpoint is disabled: publishing records what it owes, nothing more.
    async fn open(size: usize, slice: usize, seed: u64, deliver: bool) -> Result<Self, Failure> {
        let (sink, acks) = Counted::new(Nothing { batch_max: 64 });
        let sink = Arc::new(sink);
        let mut endpoints = Vec::with_capacity(size);
        for number in 1..size {
            // Half of them by name, half by patterns that begin like the event's type or do not.
            let events = match number % 4 {
                0 | 1 => format!("other{number}"),
                2 => format!("match.part{number}.*"),
                _ => format!("other{number}.**"),
            };
            let endpoint = Endpoint::builder_shared(format!("other {number}"), sink.clone());
            endpoints.push(endpoint.events([events.as_str()])?.build());
        }
        let chosen = Endpoint::builder_shared("chosen", sink).events(["match"])?.enabled(deliver);
        endpoints.insert(endpoints.len() / 2, chosen.build());
        // Room for what is owed in all slices; where it is delivered, for a few.
        let store = MemoryStore::builder().events_max(if deliver { 10_000 } else { 100_000 });
        let bus = Bus::builder().endpoints(endpoints).store(store.build()).open().await?;
        Ok(Self { bus, acks, events: matches(256, seed), slice, deliver })
    }

    /// Whether everything published was delivered, or is owed.
    async fn check(&self, slices: usize) -> Result<(), Failure> {
        let (expected, owed) =
            (if self.deliver { 0 } else { slices * self.slice }, self.bus.backlog().await?.total());
        if owed == expected as u64 {
            Ok(())
        } else {
            Err(format!("count: {expected} deliveries should be owed, {owed} are").into())
        }
    }
}

impl Side for Crowd {
    async fn slice(&mut self) -> Result<Took, Failure> {
        if self.deliver {
            self.acks.expect(self.slice);
        }
        let watch = Stopwatch::start();
        for event in self.events.iter().cycle().take(self.slice) {
            self.bus.publish(event).await?;
        }
        if !self.deliver {
            return Ok(watch.stop());
        }
        self.acks.reached().await?;
        let took = watch.stop();
        // The last settlements belong to this slice's events, not to the next crowd's.
        self.bus.flush(WAIT_MAX).await?;
        Ok(took)
    }
}
