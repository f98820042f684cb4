//! Lanes that wait for one of the bus-wide permits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use postrider::clock::{Clock, SystemClock};
use postrider::retry::Policy;
use postrider::testing::{RecordingSink, Step, TestClock};
use postrider::{Bus, Endpoint, NewEvent, Timestamp};

const SECOND: Duration = Duration::from_secs(1);

fn event(kind: &str, number: usize) -> NewEvent {
    NewEvent::raw(kind, number.to_string()).unwrap()
}

/// A sink that hangs in every call.
fn stuck() -> RecordingSink {
    RecordingSink::scripted(vec![Step::Hang; 100])
}

/// Counts how often it is asked for the time.
#[derive(Default)]
struct CountingClock(AtomicUsize);

impl Clock for CountingClock {
    fn now(&self) -> Timestamp {
        self.0.fetch_add(1, Ordering::Relaxed);
        SystemClock.now()
    }

    fn random(&self) -> u64 {
        SystemClock.random()
    }
}

/// A worker whose retry was due while every permit was taken set a timer of no time, again and again:
/// it woke up each millisecond until a permit came free, and where time is simulated it never passed.
#[tokio::test]
async fn a_retry_that_waits_for_a_permit_does_not_spin() {
    let clock = Arc::new(CountingClock::default());
    let (one, two, flaky) =
        (stuck(), stuck(), RecordingSink::scripted([Step::AckAfter(SECOND / 10), Step::fail()]));
    let retry = Policy::new(vec![SECOND / 50; 5], 0.0).unwrap();
    let stuck_at = |name: &str, sink: &RecordingSink| {
        Endpoint::builder(name, sink.clone()).events([name]).unwrap().timeout(60 * SECOND).build()
    };
    let bus = Bus::builder()
        .clock(clock.clone())
        .in_flight_max(4)
        .endpoint(stuck_at("one", &one))
        .endpoint(stuck_at("two", &two))
        .endpoint(
            Endpoint::builder("flaky", flaky.clone())
                .events(["flaky"])
                .unwrap()
                .retry(retry)
                .build(),
        )
        .open()
        .await
        .unwrap();
    // One call goes on, the other one's retry falls due; then the others take what was free.
    bus.publish_all([event("flaky", 1), event("flaky", 2)]).await.unwrap();
    flaky.attempted(2).await;
    bus.publish_all((0..2).map(|number| event("one", number))).await.unwrap();
    bus.publish_all((0..2).map(|number| event("two", number))).await.unwrap();
    one.attempted(2).await;
    two.attempted(1).await;
    let before = clock.0.load(Ordering::Relaxed);
    // tidy: allow(sleep): that nothing happens has no sign to wait for
    tokio::time::sleep(Duration::from_millis(60)).await;
    let asked = clock.0.load(Ordering::Relaxed) - before;
    assert!(asked < 20, "asked for the time {asked} times in 60 ms");
}

/// A lane waited for its permit while its endpoint was taken out and put back: the old place in the
/// queue and the new one each started a worker for the new lane, which then made twice the calls that
/// its `concurrency` allows.
#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_put_back_while_it_waits_gets_one_worker() {
    let (one, two) = (stuck(), stuck());
    let slow = RecordingSink::scripted(vec![Step::AckAfter(SECOND); 20]);
    let stuck_at = |name: &str, sink: &RecordingSink| {
        Endpoint::builder(name, sink.clone()).events([name]).unwrap().timeout(5 * SECOND).build()
    };
    let slow_at = || {
        let slow = Endpoint::builder("slow", slow.clone()).events(["slow"]).unwrap();
        slow.concurrency(1).build()
    };
    let bus = Bus::builder()
        .clock(Arc::new(TestClock::following_tokio()))
        .in_flight_max(4)
        .endpoints([stuck_at("one", &one), stuck_at("two", &two), slow_at()])
        .open()
        .await
        .unwrap();
    bus.publish_all((0..2).map(|number| event("one", number))).await.unwrap();
    bus.publish_all((0..2).map(|number| event("two", number))).await.unwrap();
    one.attempted(2).await;
    two.attempted(2).await;
    bus.publish_all((0..10).map(|number| event("slow", number))).await.unwrap();
    tokio::time::sleep(SECOND).await;
    bus.set_endpoints(vec![stuck_at("one", &one), stuck_at("two", &two)]).await.unwrap();
    bus.set_endpoints(vec![stuck_at("one", &one), stuck_at("two", &two), slow_at()]).await.unwrap();
    slow.delivered(10).await;
    assert_eq!(slow.in_flight_peak(), 1);
}
