//! Sending past events again, through the bus, in paused time.

mod crash;
mod job;
mod letters;
mod shared;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use postrider::delivery::{Cause, Nack};
use postrider::replay::{Job, JobId};
use postrider::store::{MemoryStore, Query, Store};
use postrider::testing::{FaultyStore, RecordingSink, Step, TestClock};
use postrider::{Bus, Endpoint, NewEvent};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

type Faulty = FaultyStore<MemoryStore>;

fn store() -> Faulty {
    FaultyStore::new(MemoryStore::default())
}

fn endpoint(name: &str, sink: &RecordingSink) -> Endpoint {
    Endpoint::builder(name, sink.clone()).build()
}

async fn open(store: impl Store, endpoints: impl IntoIterator<Item = Endpoint>) -> Bus {
    // Two buses on one store must not make the same ids.
    static SEED: AtomicU64 = AtomicU64::new(1);
    let seed = SEED.fetch_add(1 << 32, Ordering::Relaxed);
    let clock = Arc::new(TestClock::following_tokio().seed(seed));
    Bus::builder().clock(clock).store(store).endpoints(endpoints).open().await.unwrap()
}

/// A bus with endpoint `a`, which has delivered `count` events.
async fn delivered(store: &Faulty, sink: &RecordingSink, count: usize) -> Bus {
    let bus = open(store.clone(), [endpoint("a", sink)]).await;
    bus.publish_all((0..count).map(event)).await.unwrap();
    assert!(bus.flush(DAY).await.unwrap().is_empty());
    bus
}

fn event(number: usize) -> NewEvent {
    NewEvent::raw("match", number.to_string()).unwrap()
}

fn rejected() -> Step {
    Step::Nack(Nack::reject(Cause::Status, "no"))
}

/// Waits until the job has ended and what it made is delivered.
async fn ended(bus: &Bus, id: JobId) -> Job {
    let ended = async {
        loop {
            let job = bus.replay_job(id).await.unwrap();
            if job.state.is_over() {
                return job;
            }
            // tidy: allow(sleep): polls a condition with a deadline
            tokio::time::sleep(SECOND / 100).await;
        }
    };
    let Ok(job) = tokio::time::timeout(DAY, ended).await else {
        panic!("not ended: {:?}", bus.replay_job(id).await);
    };
    assert!(bus.flush(DAY).await.unwrap().is_empty());
    job
}

/// How often each event went to `endpoint`, by the store: the highest run of its deliveries.
async fn runs(store: &impl Store, endpoint: &str) -> Vec<u32> {
    use postrider::store::Page;
    let found = store.find(&Query::new(), Page::oldest().limit(1_000)).await.unwrap();
    assert!(found.events.len() < 1_000, "one page holds them all");
    let newest = found.events.iter().map(|event| {
        let own = event.deliveries.iter().filter(|it| it.id.endpoint().as_str() == endpoint);
        own.map(|it| it.id.run()).max().unwrap_or(0)
    });
    newest.collect()
}
