//! A late answer of a sink that was replaced says nothing about the one that replaced it.

use std::time::Duration;

use async_trait::async_trait;
use postrider::delivery::{Cause, Nack, Outcome};
use postrider::sink::{Attempt, Sink};
use postrider::testing::RecordingSink;
use postrider::{Bus, Endpoint, NewEvent};

/// Answers 410, late.
struct GoneLate(RecordingSink);

#[async_trait]
impl Sink for GoneLate {
    async fn deliver(&self, batch: &[Attempt]) -> Vec<Outcome> {
        self.0.deliver(batch).await;
        // tidy: allow(sleep): the clock is paused
        tokio::time::sleep(Duration::from_secs(5)).await;
        batch.iter().map(|_| Err(Nack::disable(Cause::Status, "410"))).collect()
    }
}

/// The endpoint moved to a new place while an attempt at the old one was under way; the old place
/// then said 410. The new place was disabled for it, and everything owed to it was held.
#[tokio::test(start_paused = true)]
async fn a_late_gone_of_the_old_sink_does_not_disable_the_new_one() {
    let old = RecordingSink::default();
    let new = RecordingSink::default();
    let bus = Bus::builder()
        .endpoint(Endpoint::builder("a", GoneLate(old.clone())).build())
        .open()
        .await
        .unwrap();
    bus.publish(NewEvent::raw("match", "1").unwrap()).await.unwrap();
    old.attempted(1).await;
    bus.set_endpoints(vec![Endpoint::builder("a", new.clone()).build()]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    bus.publish(NewEvent::raw("match", "2").unwrap()).await.unwrap();
    let left = bus.flush(Duration::from_secs(60)).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(new.events().len(), 1);
}
