//! Filters at routing: who gets an event, decided when it is published.

use postrider::testing::RecordingSink;
use postrider::{Bus, Endpoint, NewEvent};

fn endpoint(name: &str, events: &str, filter: &str) -> Endpoint {
    let builder = Endpoint::builder(name, RecordingSink::default()).events([events]).unwrap();
    builder.filter(filter.parse().unwrap()).build()
}

#[tokio::test(start_paused = true)]
async fn an_event_goes_where_pattern_and_filter_agree() {
    let large = r#"{"payload": {"amount": {"$gte": 100}}}"#;
    let bus = Bus::builder()
        .endpoint(endpoint("large", "order.*", large))
        .endpoint(endpoint("keyed", "order.*", r#"{"key": "a"}"#))
        .endpoint(endpoint("other", "match", large))
        .endpoint(Endpoint::builder("all", RecordingSink::default()).build())
        .open()
        .await
        .unwrap();
    let publish = async |amount: u32, key: &str| {
        let payload = format!(r#"{{"amount":{amount}}}"#);
        let event = NewEvent::raw("order.paid", payload).unwrap().key(key);
        let receipt = bus.publish(event).await.unwrap();
        let mut names: Vec<_> = receipt.endpoints().iter().map(ToString::to_string).collect();
        names.sort();
        names.join(" ")
    };
    assert_eq!(publish(100, "a").await, "all keyed large");
    assert_eq!(publish(99, "a").await, "all keyed");
    assert_eq!(publish(100, "b").await, "all large");
    // Nobody else is asked for: the receipt says so, and it is recorded as unmatched.
    bus.set_endpoints(vec![endpoint("large", "order.*", large)]).await.unwrap();
    assert_eq!(publish(1, "a").await, "");
    assert_eq!(publish(1000, "a").await, "large");
}
