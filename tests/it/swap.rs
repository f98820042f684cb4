//! A file endpoint is reconfigured under load.

use std::fs;
use std::time::Duration;

use postrider::delivery::State;
use postrider::{Bus, NewEvent};
use postrider_tests::config;

/// The new sink of the endpoint wanted the file's lock while the old one still held it: each change
/// of the configuration cost an attempt, and where that was the last one, the event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_a_file_endpoint_costs_no_attempt() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.ndjson");
    let config = config(&format!(
        "[[endpoints]]\nsink = 'file'\nname = 'f'\npath = {path:?}\nretry = {{ schedule = [] }}\n"
    ));
    let bus = Bus::open(config.clone()).await.unwrap();
    let publisher = tokio::spawn({
        let bus = bus.clone();
        async move {
            let mut receipts = Vec::new();
            for number in 0..3_000 {
                let event = NewEvent::raw("match", number.to_string()).unwrap();
                receipts.push(bus.publish(event).await.unwrap());
                tokio::task::yield_now().await;
            }
            receipts
        }
    });
    while !publisher.is_finished() {
        let endpoints = config.endpoints.iter().map(|it| it.build(&config).unwrap()).collect();
        bus.set_endpoints(endpoints).await.unwrap();
        // tidy: allow(sleep): a configuration does not change a thousand times a second
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let receipts = publisher.await.unwrap();
    bus.flush(Duration::from_secs(20)).await.unwrap();
    let mut dead = Vec::new();
    for receipt in &receipts {
        let id = receipt.deliveries().next().unwrap();
        let record = bus.delivery(&id).await.unwrap().unwrap();
        if record.state != State::Delivered {
            dead.push(record.attempts.last().map(|it| it.message.clone()));
        }
    }
    assert!(dead.is_empty(), "{} of {} were given up: {:?}", dead.len(), receipts.len(), dead[0]);
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), receipts.len());
}
