//! Publishing to subscribers in the same process, beside tokio's broadcast channel.
//!
//! The limit sends an `Arc` of a value that exists already. Publishing does that too, and before
//! it: checks and encodes the event, gives it an id and a time, routes it, records it in the memory
//! store (evicting the oldest, as in a bus that has run for a while), and answers with a receipt.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use postrider::store::MemoryStore;
use postrider::{Bus, Subscription, TypedSubscription};
use tokio::sync::{Notify, broadcast};
use tokio::task::JoinSet;

use crate::measure::{Side, Stopwatch, Took, alternate};
use crate::payload::{Match, matches};
use crate::report::{Goal, Report};
use crate::{Failure, Scale};

const SUBSCRIBERS: usize = 4;
/// What a channel holds; the bus's default.
const CHANNEL: usize = 1024;
/// Events held by the store, so that it is full after the first slice.
const STORE: usize = 10_000;
const EVENTS: usize = 51_200;
/// Longest time in which subscribers may receive a burst.
const BURST_MAX: Duration = Duration::from_secs(30);

pub(crate) async fn run(report: &mut Report, scale: Scale, seed: u64) -> Result<(), Failure> {
    report.begin(
        "subscribe",
        &format!(
            "publish to {SUBSCRIBERS} subscribers until all have received it; limit: tokio \
             broadcast of an Arc; {} events a slice",
            EVENTS / scale.divisor
        ),
    );
    for case in &CASES {
        compare(report, scale, seed, case).await?;
    }
    Ok(())
}

/// How the subject publishes and receives.
struct Case {
    name: &'static str,
    /// Events that are published before all have to be received.
    burst: usize,
    /// One call for the whole burst, instead of one for each event.
    publish_all: bool,
    /// Each subscriber decodes the event.
    typed: bool,
    goal: Option<Goal>,
}

static CASES: [Case; 4] = {
    let goal = Some(Goal::AtMost(2.0));
    let burst = Case { name: "bursts of 512", burst: 512, publish_all: false, typed: false, goal };
    [
        Case { name: "one at a time", burst: 1, ..burst },
        Case { name: "publish_all of 512", publish_all: true, ..burst },
        Case { name: "bursts of 512, typed subscribers", typed: true, goal: None, ..burst },
        burst,
    ]
};

async fn compare(
    report: &mut Report,
    scale: Scale,
    seed: u64,
    case: &'static Case,
) -> Result<(), Failure> {
    // A round trip of one event takes many times what its share of a burst does.
    let bursts = EVENTS / scale.divisor / case.burst / if case.burst == 1 { 8 } else { 1 };
    let mut limit = Limit::new(matches(256, seed), case.burst, bursts);
    let mut subject = Subject::open(matches(256, seed), case, bursts).await?;
    let pairs = alternate(scale, &mut subject, &mut limit).await?;
    let total = case.burst * bursts * (scale.pairs + 1);
    subject.bus.shutdown(BURST_MAX).await?;
    subject.readers.counted(total).await?;
    drop(limit.sender);
    limit.readers.counted(total).await?;
    report.time("subscribe", case.name, case.burst * bursts, &pairs, case.goal);
    report.cpu("subscribe", case.name, case.burst * bursts, &pairs, None);
    Ok(())
}

/// Tasks that receive; the last of them to receive the end of a burst tells the publisher.
struct Readers {
    tasks: JoinSet<Result<usize, Failure>>,
    burst: Arc<Burst>,
}

struct Burst {
    size: usize,
    left: AtomicUsize,
    all_received: Notify,
}

/// One end of a channel.
trait Reader: Send + 'static {
    /// `None` at the end.
    fn next(&mut self) -> impl Future<Output = Result<Option<()>, Failure>> + Send;
}

impl Reader for Subscription {
    async fn next(&mut self) -> Result<Option<()>, Failure> {
        Ok(Subscription::next(self).await.transpose()?.map(drop))
    }
}

impl Reader for TypedSubscription<Match> {
    async fn next(&mut self) -> Result<Option<()>, Failure> {
        Ok(TypedSubscription::next(self).await.transpose()?.map(drop))
    }
}

impl Reader for broadcast::Receiver<Arc<Match>> {
    async fn next(&mut self) -> Result<Option<()>, Failure> {
        match self.recv().await {
            Ok(_) => Ok(Some(())),
            Err(broadcast::error::RecvError::Closed) => Ok(None),
            Err(missed) => Err(missed.into()),
        }
    }
}

impl Readers {
    fn new(size: usize) -> Self {
        let burst =
            Burst { size, left: AtomicUsize::new(SUBSCRIBERS), all_received: Notify::new() };
        Self { tasks: JoinSet::new(), burst: Arc::new(burst) }
    }

    fn add(&mut self, mut reader: impl Reader) {
        let burst = Arc::clone(&self.burst);
        self.tasks.spawn(async move {
            let mut count = 0;
            while reader.next().await?.is_some() {
                count += 1;
                if count % burst.size == 0 && burst.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                    // Nothing is sent before the publisher has woken up, so nobody counts down.
                    burst.left.store(SUBSCRIBERS, Ordering::Release);
                    burst.all_received.notify_one();
                }
            }
            Ok(count)
        });
    }

    /// Waits until all have received the burst.
    async fn all_received(&mut self) -> Result<(), Failure> {
        let received = self.burst.all_received.notified();
        if tokio::time::timeout(BURST_MAX, received).await.is_ok() {
            return Ok(());
        }
        match self.tasks.try_join_next() {
            Some(Ok(Err(failure))) => Err(failure),
            _ => Err(format!("see a burst received within {BURST_MAX:?}").into()),
        }
    }

    /// Checks, after the channel has ended, that each has received `total`.
    async fn counted(mut self, total: usize) -> Result<(), Failure> {
        while let Some(ended) = self.tasks.join_next().await {
            let count = ended??;
            if count != total {
                return Err(format!("count: {total} events sent, {count} received").into());
            }
        }
        Ok(())
    }
}

struct Subject {
    bus: Bus,
    events: Vec<Match>,
    case: &'static Case,
    bursts: usize,
    readers: Readers,
}

impl Subject {
    async fn open(events: Vec<Match>, case: &'static Case, bursts: usize) -> Result<Self, Failure> {
        let store = MemoryStore::builder().events_max(STORE).build();
        let bus = Bus::builder().store(store).subscriber_events_max(CHANNEL).open().await?;
        let mut readers = Readers::new(case.burst);
        for _ in 0..SUBSCRIBERS {
            if case.typed {
                readers.add(bus.subscribe::<Match>());
            } else {
                readers.add(bus.subscribe_to(["match"])?);
            }
        }
        Ok(Self { bus, events, case, bursts, readers })
    }
}

impl Side for Subject {
    async fn slice(&mut self) -> Result<Took, Failure> {
        let watch = Stopwatch::start();
        let mut events = self.events.iter().cycle();
        for _ in 0..self.bursts {
            let burst = events.by_ref().take(self.case.burst);
            if self.case.publish_all {
                self.bus.publish_all(burst).await?;
            } else {
                for event in burst {
                    self.bus.publish(event).await?;
                }
            }
            self.readers.all_received().await?;
        }
        Ok(watch.stop())
    }
}

struct Limit {
    sender: broadcast::Sender<Arc<Match>>,
    events: Vec<Arc<Match>>,
    bursts: usize,
    readers: Readers,
}

impl Limit {
    fn new(events: Vec<Match>, burst: usize, bursts: usize) -> Self {
        let sender = broadcast::Sender::new(CHANNEL);
        let mut readers = Readers::new(burst);
        for _ in 0..SUBSCRIBERS {
            readers.add(sender.subscribe());
        }
        Self { sender, events: events.into_iter().map(Arc::new).collect(), bursts, readers }
    }
}

impl Side for Limit {
    async fn slice(&mut self) -> Result<Took, Failure> {
        let watch = Stopwatch::start();
        let mut events = self.events.iter().cycle();
        for _ in 0..self.bursts {
            for event in events.by_ref().take(self.readers.burst.size) {
                self.sender.send(Arc::clone(event))?;
            }
            self.readers.all_received().await?;
        }
        Ok(watch.stop())
    }
}
