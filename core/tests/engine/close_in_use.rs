//! A sink is closed after its last call, whatever was reconfigured in between.

use std::time::Duration;

use postrider::sink::Sink;
use postrider::testing::{RecordingSink, Step};
use postrider::{Bus, Endpoint, NewEvent};
use std::sync::Arc;

const SECOND: Duration = Duration::from_secs(1);

/// The endpoint's policy changed while a call was under way (same sink), then it got another sink:
/// the first was closed with the call still in it.
#[tokio::test(start_paused = true)]
async fn a_sink_is_not_closed_while_a_call_from_before_a_policy_change_runs() {
    let sink = RecordingSink::scripted([Step::AckAfter(60 * SECOND)]);
    let shared: Arc<dyn Sink> = Arc::new(sink.clone());
    let endpoint = |concurrency| {
        Endpoint::builder_shared("a", Arc::clone(&shared))
            .timeout(600 * SECOND)
            .concurrency(concurrency)
            .build()
    };
    let bus = Bus::builder().endpoint(endpoint(1)).open().await.unwrap();
    bus.publish(NewEvent::raw("match", "1").unwrap()).await.unwrap();
    sink.attempted(1).await;
    bus.set_endpoints(vec![endpoint(2)]).await.unwrap();
    let other = Endpoint::builder("a", RecordingSink::default()).build();
    bus.set_endpoints(vec![other]).await.unwrap();
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!(sink.closed(), 0, "its call is still under way");
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!((sink.events().len(), sink.closed()), (1, 1));
}
