//! A change of the endpoints whose caller gives up half way.

use std::time::Duration;

use futures_util::FutureExt;
use postrider::testing::RecordingSink;
use postrider::{Bus, Endpoint, NewEvent};

/// `set_endpoints` said "look now" to the dispatcher once for each endpoint that was opened, through
/// a bounded channel. Dropped while it waited there (a timeout around it), the rest was never looked
/// at: enabled endpoints whose backlog nobody delivered.
#[tokio::test(start_paused = true)]
async fn a_dropped_change_leaves_nothing_stuck() {
    const COUNT: usize = 3_000;
    let sink = RecordingSink::default();
    let endpoints = |enabled| -> Vec<Endpoint> {
        (0..COUNT)
            .map(|number| {
                Endpoint::builder(format!("e{number}"), sink.clone()).enabled(enabled).build()
            })
            .collect()
    };
    let bus = Bus::builder().endpoints(endpoints(false)).open().await.unwrap();
    bus.publish(NewEvent::raw("match", "1").unwrap()).await.unwrap();
    // Let the dispatcher hear of it and find all of them disabled.
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Polled once, then dropped.
    let _ = bus.set_endpoints(endpoints(true)).now_or_never();
    let open = bus.endpoints().iter().filter(|endpoint| endpoint.enabled()).count();
    let left = bus.flush(Duration::from_secs(600)).await.unwrap();
    assert!(left.is_empty(), "{open} endpoints are open, {} deliveries are stuck", left.total());
}
