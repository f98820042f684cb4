//! Durable publishing of 400-byte events for two endpoints, beside the disk alone.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use postrider::clock::{Clock as _, SystemClock};
use postrider::store::{Accept, LogStore, Store as _};
use postrider::{Bus, Endpoint, EndpointId};
use tokio::task::JoinSet;

use super::raw::{Limit, Plan, Raw};
use super::sqlite::Sqlite;
use crate::measure::{Pairs, Side, Stopwatch, Took, alternate};
use crate::payload::{Match, envelopes, matches_of_400};
use crate::report::{Goal, Report};
use crate::sinks::Nothing;
use crate::{Failure, Scale};

const WAIT_MAX: Duration = Duration::from_secs(30);

/// Who publishes, and how much in one slice.
#[derive(Clone, Copy)]
struct Work {
    callers: usize,
    /// Events in one call.
    batch: usize,
    events: usize,
}

const WORK: [Work; 4] = [
    Work { callers: 1, batch: 1, events: 500 },
    Work { callers: 16, batch: 1, events: 5_000 },
    Work { callers: 256, batch: 1, events: 51_200 },
    Work { callers: 1, batch: 500, events: 25_000 },
];

impl Work {
    fn calls_each(self) -> usize {
        self.events / self.batch / self.callers
    }

    fn name(self) -> String {
        match self {
            Self { callers: 1, batch: 1, .. } => "1 caller".to_owned(),
            Self { callers, batch: 1, .. } => format!("{callers} callers"),
            Self { batch, .. } => format!("batches of {batch}"),
        }
    }
}

pub(crate) async fn run(report: &mut Report, scale: Scale, seed: u64) -> Result<(), Failure> {
    for work in WORK {
        let least = work.callers * work.batch;
        let work = Work { events: (work.events / scale.divisor / least).max(2) * least, ..work };
        let folder = tempfile::tempdir()?;
        let plan = Arc::<Plan>::default();
        let mut limit =
            Limit { raw: Raw::new(&folder.path().join("raw"))?, plan: Arc::clone(&plan) };

        let mut subject = Publish::open(folder.path(), work, seed, &plan).await?;
        let pairs = alternate(scale, &mut subject, &mut limit).await?;
        subject.check(scale.pairs + 1).await?;
        let what = if work.batch > 1 { "Bus::publish_all" } else { "Bus::publish" };
        tell(report, what, work, &pairs, true);

        let mut subject = Accepting::open(folder.path(), work, seed, &plan).await?;
        let pairs = alternate(scale, &mut subject, &mut limit).await?;
        subject.store.close().await?;
        tell(report, "Store::accept", work, &pairs, true);

        // It is many times slower, and no goal hangs on it.
        let few = Scale { pairs: scale.pairs.min(5), ..scale };
        let mut subject = Sqlite::open(&folder.path().join("sqlite"), seed, &plan)?;
        let pairs = alternate(few, &mut subject, &mut limit).await?;
        tell(report, "SQLite, the same batches", work, &pairs, false);
    }
    Ok(())
}

fn tell(report: &mut Report, what: &str, work: Work, pairs: &Pairs, has_goal: bool) {
    let case = format!("{what}, {}", work.name());
    let kilo = work.events as f64 / 1e3;
    let goal = has_goal.then_some(Goal::AtLeast(0.9));
    report.rate("store", &case, "1000/s", kilo, pairs, goal);
    let goal = has_goal.then_some(Goal::ValueAtMost(1.5));
    report.cpu("store", &case, work.events, pairs, goal);
}

fn endpoints() -> Result<Arc<[EndpointId]>, Failure> {
    Ok(Arc::new(["a".parse()?, "b".parse()?]))
}

/// Through a bus whose endpoints are disabled: publishing alone.
struct Publish {
    bus: Bus,
    store: Arc<LogStore>,
    events: Arc<Vec<Match>>,
    work: Work,
    plan: Arc<Plan>,
}

impl Publish {
    async fn open(folder: &Path, work: Work, seed: u64, plan: &Arc<Plan>) -> Result<Self, Failure> {
        let store = Arc::new(LogStore::builder(folder.join("bus")).open().await?);
        let endpoint = |name: &str| {
            let endpoint = Endpoint::builder(name, Nothing { batch_max: 64 });
            endpoint.enabled(false).build()
        };
        let bus = Bus::builder().endpoints(["a", "b"].map(endpoint));
        let bus = bus.store_shared(store.clone()).open().await?;
        let events = Arc::new(matches_of_400(1_000, seed));
        Ok(Self { bus, store, events, work, plan: Arc::clone(plan) })
    }

    /// Whether everything published is owed; closes the bus.
    async fn check(&self, slices: usize) -> Result<(), Failure> {
        let expected = slices * self.work.events * 2;
        let owed = self.bus.shutdown(WAIT_MAX).await?.total();
        if owed == expected as u64 {
            Ok(())
        } else {
            Err(format!("count: {expected} deliveries should be owed, {owed} are").into())
        }
    }
}

impl Side for Publish {
    async fn slice(&mut self) -> Result<Took, Failure> {
        let Work { callers, batch, events } = self.work;
        let calls = self.work.calls_each();
        let before = self.store.syncs();
        let watch = Stopwatch::start();
        let mut tasks = JoinSet::new();
        for caller in 0..callers {
            let (bus, events) = (self.bus.clone(), Arc::clone(&self.events));
            tasks.spawn(async move {
                let mut events = events.iter().cycle().skip(caller);
                for _ in 0..calls {
                    if batch == 1 {
                        bus.publish(events.next().ok_or("take an event")?).await?;
                    } else {
                        bus.publish_all(events.by_ref().take(batch)).await?;
                    }
                }
                Ok::<(), Failure>(())
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        let took = watch.stop();
        self.plan.set(events, self.store.syncs() - before);
        Ok(took)
    }
}

/// The store alone: events are made before the clock starts.
struct Accepting {
    store: Arc<LogStore>,
    events: Vec<Match>,
    endpoints: Arc<[EndpointId]>,
    work: Work,
    plan: Arc<Plan>,
}

impl Accepting {
    async fn open(folder: &Path, work: Work, seed: u64, plan: &Arc<Plan>) -> Result<Self, Failure> {
        let store = Arc::new(LogStore::builder(folder.join("accept")).open().await?);
        let events = matches_of_400(work.batch, seed);
        Ok(Self { store, events, endpoints: endpoints()?, work, plan: Arc::clone(plan) })
    }

    fn batch(&self) -> Result<Vec<Accept>, Failure> {
        let accept = |event| Accept { event, endpoints: Arc::clone(&self.endpoints) };
        Ok(envelopes(&self.events)?.into_iter().map(accept).collect())
    }
}

impl Side for Accepting {
    async fn slice(&mut self) -> Result<Took, Failure> {
        let calls = self.work.calls_each();
        let mut ahead = Vec::with_capacity(self.work.callers);
        for _ in 0..self.work.callers {
            let batches = (0..calls).map(|_| self.batch());
            ahead.push(batches.collect::<Result<Vec<_>, Failure>>()?);
        }
        let before = self.store.syncs();
        let watch = Stopwatch::start();
        let mut tasks = JoinSet::new();
        for batches in ahead {
            let store = Arc::clone(&self.store);
            tasks.spawn(async move {
                for batch in batches {
                    store.accept(batch, SystemClock.now()).await?;
                }
                Ok::<(), Failure>(())
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        let took = watch.stop();
        self.plan.set(self.work.events, self.store.syncs() - before);
        Ok(took)
    }
}
