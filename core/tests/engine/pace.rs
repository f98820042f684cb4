//! How fast a lane goes: its rate, its breaker, and what its receiver asks for.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use postrider::delivery::{Cause, Nack, Outcome, State};
use postrider::endpoint::Breaker;
use postrider::sink::{Attempt, Sink};
use postrider::testing::{RecordingSink, Step, TestClock};
use postrider::{Bus, Endpoint, EndpointId, NewEvent, Rate, retry};

const SECOND: Duration = Duration::from_secs(1);

async fn open(endpoints: impl IntoIterator<Item = Endpoint>) -> Bus {
    let clock = Arc::new(TestClock::following_tokio());
    Bus::builder().clock(clock).endpoints(endpoints).open().await.unwrap()
}

async fn publish(bus: &Bus, count: usize) {
    for _ in 0..count {
        bus.publish(NewEvent::raw("match", "1").unwrap()).await.unwrap();
    }
}

async fn sleep(time: Duration) {
    // tidy: allow(sleep): the clock is paused
    tokio::time::sleep(time).await;
}

fn a() -> EndpointId {
    "a".parse().unwrap()
}

fn endless() -> retry::Policy {
    retry::Policy::new(vec![Duration::from_mins(10); 50], 0.0).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_rate_is_kept_to_the_second_whatever_the_batch() {
    for batch in [1, 7, 64] {
        let sink = RecordingSink::default().batches(batch);
        let endpoint = Endpoint::builder("a", sink.clone()).rate("50/s".parse().unwrap());
        let bus = open([endpoint.build()]).await;
        publish(&bus, 1_000).await;
        for second in 1..=4_usize {
            sleep(SECOND).await;
            let made = sink.attempts().len();
            // Five at once are saved up.
            assert!((50 * second - 1..=50 * second + 6).contains(&made), "{made} after {second} s");
        }
        bus.flush(60 * SECOND).await.unwrap();
        assert_eq!(sink.events().len(), 1_000);
    }
}

/// A sink learns from its receiver how fast it may go; the endpoint's own rate holds beside it.
#[tokio::test(start_paused = true)]
async fn a_sink_may_ask_for_less_than_the_endpoint_and_for_no_more() {
    struct Limited(RecordingSink, Mutex<Option<Rate>>);

    #[async_trait::async_trait]
    impl Sink for Limited {
        async fn deliver(&self, batch: &[Attempt]) -> Vec<Outcome> {
            self.0.deliver(batch).await
        }

        fn rate_max(&self) -> Option<Rate> {
            *self.1.lock().unwrap()
        }
    }

    let seen = RecordingSink::default();
    let rate = |text: &str| Some(text.parse().unwrap());
    let sink = Arc::new(Limited(seen.clone(), Mutex::new(rate("60/m"))));
    let endpoint = Endpoint::builder("a", Arc::clone(&sink)).rate("50/s".parse().unwrap());
    let bus = open([endpoint.build()]).await;
    publish(&bus, 1_000).await;
    sleep(10 * SECOND).await;
    let slow = seen.attempts().len();
    assert!((10..=11).contains(&slow), "{slow}");
    for more in [rate("1000/s"), None] {
        *sink.1.lock().unwrap() = more;
        let before = seen.attempts().len();
        sleep(4 * SECOND).await;
        let made = seen.attempts().len() - before;
        // The last wait of the slower rate may still run for a second.
        assert!((149..=206).contains(&made), "{made}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_endpoint_is_probed_with_one_delivery_and_uses_up_no_attempts() {
    let script = vec![Step::Nack(Nack::retry(Cause::Connect, "refused")); 8];
    let sink = RecordingSink::scripted(script);
    let breaker = Breaker::new(5, 10 * SECOND, 40 * SECOND);
    let endpoint = Endpoint::builder("a", sink.clone()).concurrency(5).retry(endless());
    let bus = open([endpoint.breaker(Some(breaker)).build()]).await;
    publish(&bus, 100).await;
    sleep(SECOND).await;
    assert_eq!(sink.attempts().len(), 5, "open");
    assert!(bus.paused_until(&a()).is_some());
    // Probes after 10 s, 20 s more and 40 s more; the fourth one after 40 s succeeds.
    for (wait, made) in [(10, 6), (20, 7), (40, 8)] {
        sleep(wait * SECOND).await;
        assert_eq!(sink.attempts().len(), made, "a single probe");
    }
    sleep(40 * SECOND).await;
    assert_eq!(bus.paused_until(&a()), None);
    bus.flush(3_600 * SECOND).await.unwrap();
    assert_eq!(sink.events().len(), 100);
    let tried = sink.attempts().iter().filter(|attempt| attempt.number > 1).count();
    assert_eq!(tried, 8, "the others were delivered at their first attempt");
}

#[tokio::test(start_paused = true)]
async fn without_a_breaker_every_delivery_is_tried() {
    let script = vec![Step::Nack(Nack::retry(Cause::Connect, "refused")); 100];
    let sink = RecordingSink::scripted(script);
    let endpoint = Endpoint::builder("a", sink.clone()).retry(endless()).breaker(None);
    let bus = open([endpoint.build()]).await;
    publish(&bus, 100).await;
    sleep(SECOND).await;
    assert_eq!(sink.attempts().len(), 100);
}

/// `Retry-After` is the receiver's word for all that goes to it, not for one delivery.
#[tokio::test(start_paused = true)]
async fn a_receiver_that_asks_for_a_pause_gets_it_for_its_whole_lane() {
    let busy = Nack::retry(Cause::Status, "answered 429").slow().after(30 * SECOND);
    let (sink, other) = (RecordingSink::scripted([Step::Nack(busy)]), RecordingSink::default());
    let endpoint = Endpoint::builder("a", sink.clone()).concurrency(1).build();
    let bus = open([endpoint, Endpoint::builder("b", other.clone()).build()]).await;
    publish(&bus, 10).await;
    sleep(29 * SECOND).await;
    assert_eq!((sink.attempts().len(), other.events().len()), (1, 10), "only this lane waits");
    let waiting = bus.event(sink.attempts()[0].event.id()).await.unwrap().unwrap();
    assert!(matches!(waiting.deliveries[0].state, State::Waiting { .. }));
    sleep(2 * SECOND).await;
    assert_eq!(sink.attempts().len(), 11, "all of it, after 30 s");
    assert_eq!(sink.events().len(), 10);
}

/// Nothing can be done before the pause ends, which may be an hour away.
#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_a_pause() {
    let busy = Nack::retry(Cause::Status, "answered 503").slow().after(3_600 * SECOND);
    let sink = RecordingSink::scripted([Step::Nack(busy)]);
    let endpoint = Endpoint::builder("a", sink.clone()).concurrency(1).build();
    let bus = open([endpoint]).await;
    publish(&bus, 10).await;
    sleep(SECOND).await;
    let started = tokio::time::Instant::now();
    assert_eq!(bus.shutdown(60 * SECOND).await.unwrap().total(), 10);
    assert!(started.elapsed() < 5 * SECOND, "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn adaptive_concurrency_finds_what_a_receiver_takes() {
    let sink = RecordingSink::scripted(vec![Step::AckAfter(SECOND / 10); 3_000]);
    let endpoint = Endpoint::builder("a", sink.clone()).concurrency_between(1, 40).build();
    let bus = open([endpoint]).await;
    publish(&bus, 3_000).await;
    sleep(SECOND / 20).await;
    assert_eq!(sink.in_flight_peak(), 1, "it begins with one");
    bus.flush(3_600 * SECOND).await.unwrap();
    assert_eq!((sink.events().len(), sink.in_flight_peak()), (3_000, 40));
}
