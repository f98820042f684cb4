//! One endpoint and the bus-wide limit on calls.

use std::sync::Arc;
use std::time::Duration;

use postrider::testing::{RecordingSink, Step, TestClock};
use postrider::{Bus, Endpoint, NewEvent};

/// An endpoint whose `concurrency` is at least the bus-wide limit took every permit; while it hung,
/// nobody else was served. (The limits' defaults are 16 and 1024: 64 hanging endpoints do the same.)
#[tokio::test(start_paused = true)]
async fn one_hanging_endpoint_does_not_take_all_permits() {
    let hanging = RecordingSink::scripted(vec![Step::Hang; 1000]);
    let healthy = RecordingSink::default();
    let bus = Bus::builder()
        .clock(Arc::new(TestClock::following_tokio()))
        .in_flight_max(8)
        .endpoint(Endpoint::builder("hanging", hanging.clone()).build())
        .endpoint(Endpoint::builder("healthy", healthy.clone()).build())
        .open()
        .await
        .unwrap();
    for number in 0..100 {
        bus.publish(NewEvent::raw("match", number.to_string()).unwrap()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::timeout(Duration::from_secs(5), healthy.delivered(100))
        .await
        .expect("the healthy one is served while the other hangs");
}
