//! An endpoint is taken out and put back while an attempt is under way.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use postrider::delivery::{Cause, Nack, Outcome};
use postrider::retry::Policy;
use postrider::sink::{Attempt, Sink};
use postrider::testing::{RecordingSink, TestClock};
use postrider::{Bus, Endpoint, NewEvent};

const SECOND: Duration = Duration::from_secs(1);

/// Fails after five seconds.
struct FailsLate(RecordingSink);

#[async_trait]
impl Sink for FailsLate {
    async fn deliver(&self, batch: &[Attempt]) -> Vec<Outcome> {
        self.0.deliver(batch).await;
        // tidy: allow(sleep): the clock is paused
        tokio::time::sleep(5 * SECOND).await;
        batch.iter().map(|_| Err(Nack::retry(Cause::Status, "500"))).collect()
    }
}

/// The old lane's attempt settled as "again in 1 s", but only the old lane knew: the new one looked
/// again when the old lease would have run out.
#[tokio::test(start_paused = true)]
async fn a_retry_settled_by_the_old_lane_comes_in_time() {
    let (old, new) = (RecordingSink::default(), RecordingSink::default());
    let retry = Policy::new(vec![SECOND; 5], 0.0).unwrap();
    let bus = Bus::builder()
        .clock(Arc::new(TestClock::following_tokio()))
        .endpoint(Endpoint::builder("a", FailsLate(old.clone())).retry(retry.clone()).build())
        .open()
        .await
        .unwrap();
    bus.publish(NewEvent::raw("match", "1").unwrap()).await.unwrap();
    old.attempted(1).await;
    bus.set_endpoints(Vec::new()).await.unwrap();
    bus.set_endpoints(vec![Endpoint::builder("a", new.clone()).retry(retry).build()])
        .await
        .unwrap();
    tokio::time::timeout(10 * SECOND, new.delivered(1)).await.expect("due after 6 s");
}
