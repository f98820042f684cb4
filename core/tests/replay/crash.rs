//! A process that ends at any moment of a job: the next one goes on, and nothing is doubled or left
//! out.

use std::sync::Arc;
use std::time::Duration;

use postrider::Bus;
use postrider::replay::{JobState, Request};
use postrider::store::Query;
use postrider::testing::{Call, RecordingSink, TestClock};
use tokio::runtime::{Builder, Runtime};

use super::{Faulty, SECOND, delivered, ended, endpoint, runs, store};

const EVENTS: usize = 12;

/// What runs on it ends, wherever it waits, when it is dropped: as with a process that is killed.
fn process() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

async fn open_at(store: &Faulty, sink: &RecordingSink, after: Duration) -> Bus {
    let clock = TestClock::following_tokio();
    clock.jump_ms(after.as_millis() as i64);
    let bus = Bus::builder().clock(Arc::new(clock)).store(store.clone());
    bus.endpoint(endpoint("a", sink)).open().await.unwrap()
}

/// Ends a process that has run a job for a while, in the next call of a kind, before that is done;
/// then lets another one finish.
fn killed(call: Call, after: Duration, rate: Option<&str>) {
    let what = format!("{call:?} after {after:?} at {rate:?}");
    let (store, sink) = (store(), RecordingSink::default());
    let mut request = Request::new(Query::new());
    request.rate = rate.map(|rate| rate.parse().unwrap());
    let first = process();
    let job = first.block_on(async {
        let bus = delivered(&store, &sink, EVENTS).await;
        let job = bus.replay(request).await.unwrap();
        // tidy: allow(sleep): the clock is paused
        tokio::time::sleep(after).await;
        store.hold(call);
        // tidy: allow(sleep): the clock is paused
        tokio::time::sleep(SECOND).await;
        job
    });
    drop(first);
    store.go();
    process().block_on(async {
        let bus = open_at(&store, &sink, 200 * SECOND).await;
        let job = ended(&bus, job.id).await;
        assert_eq!(job.state, JobState::Done, "{what}");
        assert_eq!((job.counts.found, job.counts.made), (12, 12), "{what}");
        assert_eq!(runs(&store, "a").await, [1; EVENTS], "{what}");
    });
}

#[test]
fn a_crash_at_any_moment_doubles_and_skips_nothing() {
    for call in [Call::Find, Call::Replay, Call::Keep] {
        // Before anything, while the job makes one delivery every tenth of a second, and at its end.
        for tenths in 0..14 {
            killed(call, tenths * SECOND / 10, Some("10/s"));
        }
        killed(call, Duration::ZERO, None);
    }
}

/// A job whose first process made most of it within its second does not begin with a burst in the
/// next one.
#[test]
fn keeps_its_rate_over_a_restart() {
    let (store, sink) = (store(), RecordingSink::default());
    let first = process();
    let job = first.block_on(async {
        let bus = delivered(&store, &sink, EVENTS).await;
        let request = Request::new(Query::new()).rate("2/m".parse().unwrap());
        let job = bus.replay(request).await.unwrap();
        // tidy: allow(sleep): the clock is paused
        tokio::time::sleep(31 * SECOND).await;
        assert_eq!(sink.attempts().len(), EVENTS + 2);
        job
    });
    drop(first);
    process().block_on(async {
        let bus = open_at(&store, &sink, 32 * SECOND).await;
        // tidy: allow(sleep): the clock is paused
        tokio::time::sleep(27 * SECOND).await;
        assert_eq!(sink.attempts().len(), EVENTS + 2, "30 s have not passed since the last");
        // tidy: allow(sleep): the clock is paused
        tokio::time::sleep(2 * SECOND).await;
        assert_eq!(sink.attempts().len(), EVENTS + 3);
        // A clock that was set back by a day does not stop it for a day.
        drop(bus);
    });
    process().block_on(async {
        let clock = TestClock::following_tokio();
        clock.jump_ms(-86_400_000);
        let bus = Bus::builder().clock(Arc::new(clock)).store(store.clone());
        let bus = bus.endpoint(endpoint("a", &sink)).open().await.unwrap();
        // tidy: allow(sleep): the clock is paused
        tokio::time::sleep(100 * SECOND).await;
        let made = bus.replay_job(job.id).await.unwrap().counts.made;
        assert!((6..=7).contains(&made), "{made}");
    });
}
