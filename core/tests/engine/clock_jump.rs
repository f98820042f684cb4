//! The wall clock jumps, as it does after a suspend or a first NTP step.

use std::sync::Arc;
use std::time::Duration;

use postrider::testing::{RecordingSink, Step, TestClock};
use postrider::{Bus, Endpoint, NewEvent};

const SECOND: Duration = Duration::from_secs(1);

fn event(number: usize) -> NewEvent {
    NewEvent::raw("match", number.to_string()).unwrap()
}

/// A jump forward must not run out the leases of attempts that this very process has under way:
/// the next claim of the lane sent them a second time.
#[tokio::test(start_paused = true)]
async fn a_jump_forward_doubles_nothing() {
    let sink = RecordingSink::scripted([Step::AckAfter(8 * SECOND)]);
    let clock = Arc::new(TestClock::following_tokio());
    let bus = Bus::builder()
        .clock(clock.clone())
        .endpoint(Endpoint::builder("a", sink.clone()).build())
        .open()
        .await
        .unwrap();
    bus.publish(event(1)).await.unwrap();
    sink.attempted(1).await;
    clock.jump_ms(3_600_000);
    bus.publish(event(2)).await.unwrap();
    assert!(bus.flush(600 * SECOND).await.unwrap().is_empty());
    let payloads: Vec<_> =
        sink.attempts().iter().map(|it| it.event.payload_str().to_owned()).collect();
    assert_eq!(payloads, ["1", "2"], "each once");
}

/// The endpoint was taken out and put back while an attempt was under way: its new lane knew nothing
/// of it, and after a jump of the clock past the lease sent the event a second time.
#[tokio::test(start_paused = true)]
async fn a_jump_after_an_endpoint_was_put_back_doubles_nothing() {
    let (old, new) =
        (RecordingSink::scripted([Step::AckAfter(8 * SECOND)]), RecordingSink::default());
    let clock = Arc::new(TestClock::following_tokio());
    let bus = Bus::builder()
        .clock(clock.clone())
        .endpoint(Endpoint::builder("a", old.clone()).build())
        .open()
        .await
        .unwrap();
    bus.publish(event(1)).await.unwrap();
    old.attempted(1).await;
    bus.set_endpoints(Vec::new()).await.unwrap();
    bus.set_endpoints(vec![Endpoint::builder("a", new.clone()).build()]).await.unwrap();
    clock.jump_ms(3_600_000);
    bus.publish(event(2)).await.unwrap();
    assert!(bus.flush(600 * SECOND).await.unwrap().is_empty());
    assert_eq!((old.events().len(), new.attempts().len()), (1, 1), "each once");
    assert_eq!(old.closed(), 1, "after its last call");
}
