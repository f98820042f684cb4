//! A third party's sink beside ours: what it does wrong is its own lane's affair.

use async_trait::async_trait;
use mock_receiver::Receiver;
use postrider::delivery::{Ack, Cause, Outcome, State};
use postrider::retry::Policy;
use postrider::sink::{Attempt, Sink};
use postrider::{Bus, Endpoint, NewEvent};
use postrider_tests::{DEADLINE, LOCAL, config};

/// Panics on the first attempt of every event, works on the second.
struct Panics;

#[async_trait]
impl Sink for Panics {
    async fn deliver(&self, batch: &[Attempt]) -> Vec<Outcome> {
        assert!(batch[0].number > 1, "first attempt of {}", batch[0].event.id());
        vec![Ok(Ack::new())]
    }
}

/// A sink that panics is caught, reported and retried, and harms nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_panicking_sink_is_retried_and_harms_nobody() {
    let receiver = Receiver::start().await.unwrap();
    let toml = format!("[[endpoints]]\nname = 'app'\nurl = '{}'\n{LOCAL}", receiver.url("app"));
    let soon = Policy::new(vec![std::time::Duration::from_millis(5)], 0.0).unwrap();
    let bus = Bus::builder()
        .config(config(&toml))
        // Each of its first attempts is to fail.
        .endpoint(Endpoint::builder("panics", Panics).retry(soon).breaker(None).build())
        .open()
        .await
        .unwrap();
    let events = (0..50).map(|n| NewEvent::raw("match", n.to_string()).unwrap());
    let receipts = bus.publish_all(events).await.unwrap();
    assert!(bus.flush(DEADLINE).await.unwrap().is_empty());
    assert_eq!(receiver.assert_exactly_once_by("app", "webhook-id"), 50);
    for receipt in receipts {
        for delivery in receipt.deliveries() {
            let record = bus.delivery(&delivery).await.unwrap().unwrap();
            assert_eq!(record.state, State::Delivered);
            if delivery.endpoint().as_str() == "panics" {
                assert_eq!(record.attempts[0].cause, Some(Cause::Panic));
                let message = &record.attempts[0].message;
                assert!(message.contains("first attempt of"), "the panic is told: {message}");
            }
        }
    }
}
