//! A sink that panics outside of `deliver`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use postrider::delivery::{Ack, Outcome};
use postrider::sink::{Attempt, Sink};
use postrider::{Bus, Endpoint, NewEvent};

#[derive(Default)]
struct PanicsOnce(AtomicUsize);

#[async_trait]
impl Sink for PanicsOnce {
    async fn deliver(&self, batch: &[Attempt]) -> Vec<Outcome> {
        batch.iter().map(|_| Ok(Ack::new())).collect()
    }
    fn batch_max(&self) -> usize {
        assert!(self.0.fetch_add(1, Ordering::Relaxed) > 0, "the first time");
        1
    }
}

/// The panic ended the lane's worker; the lane still counted as served, so that no worker was ever
/// started for it again.
#[tokio::test(start_paused = true)]
async fn a_panic_in_batch_max_does_not_end_the_lane_for_good() {
    let bus = Bus::builder()
        .endpoint(Endpoint::builder("a", PanicsOnce::default()).build())
        .open()
        .await
        .unwrap();
    bus.publish(NewEvent::raw("match", "1").unwrap()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    bus.publish(NewEvent::raw("match", "2").unwrap()).await.unwrap();
    let left = bus.flush(Duration::from_secs(3600)).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}
