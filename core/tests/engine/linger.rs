//! A sink that takes batches may let the first delivery wait for others.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use postrider::delivery::{Ack, Outcome};
use postrider::sink::{Attempt, Sink};
use postrider::testing::TestClock;
use postrider::{Bus, Endpoint, NewEvent};
use tokio::time::Instant;

const LINGER: Duration = Duration::from_millis(100);

/// Sizes of its calls, and when they came.
#[derive(Default)]
struct Batches(Mutex<Vec<(usize, Instant)>>);

#[async_trait]
impl Sink for Batches {
    async fn deliver(&self, batch: &[Attempt]) -> Vec<Outcome> {
        self.0.lock().unwrap().push((batch.len(), Instant::now()));
        batch.iter().map(|_| Ok(Ack::new())).collect()
    }

    fn batch_max(&self) -> usize {
        10
    }

    fn batch_linger(&self) -> Duration {
        LINGER
    }
}

fn event(number: usize) -> NewEvent {
    NewEvent::raw("match", number.to_string()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_comes_within_the_linger_goes_together() {
    let sink = Arc::new(Batches::default());
    let endpoint = Endpoint::builder("a", Arc::clone(&sink)).concurrency(1).build();
    let clock = Arc::new(TestClock::following_tokio());
    let bus = Bus::builder().clock(clock).endpoint(endpoint).open().await.unwrap();
    let flush = async || assert!(bus.flush(Duration::from_secs(9)).await.unwrap().is_empty());
    let began = Instant::now();
    for number in 0..3 {
        bus.publish(event(number)).await.unwrap();
        // tidy: allow(sleep): time is simulated
        tokio::time::sleep(LINGER / 10).await;
    }
    flush().await;
    let batches = std::mem::take(&mut *sink.0.lock().unwrap());
    assert_eq!(batches.iter().map(|(size, _)| *size).collect::<Vec<_>>(), [3]);
    let waited = batches[0].1 - began;
    assert!(waited >= LINGER && waited < LINGER * 2, "{waited:?}");

    // Behind, it does not wait: full batches follow each other.
    let began = Instant::now();
    bus.publish_all((0..45).map(event)).await.unwrap();
    flush().await;
    let batches = std::mem::take(&mut *sink.0.lock().unwrap());
    assert_eq!(batches.iter().map(|(size, _)| *size).collect::<Vec<_>>(), [10, 10, 10, 10, 5]);
    let waited = batches[4].1 - began;
    assert!(waited < LINGER * 2, "one linger for all: {waited:?}");

    // A shutdown, and a lane that is disabled meanwhile, wait for no linger that nobody ends.
    bus.publish(event(9)).await.unwrap();
    let off = Endpoint::builder_shared("a", Arc::clone(&sink) as _).enabled(false).build();
    bus.set_endpoints(vec![off]).await.unwrap();
    bus.drain(Duration::from_secs(60)).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(bus.shutdown(Duration::from_secs(60)).await.unwrap().total(), 1);
}
