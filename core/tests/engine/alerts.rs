//! Alerts: the bus tells of itself, to those who ask, seldom, and never about alerts.

use std::sync::Arc;
use std::time::Duration;

use postrider::alert::{self, BacklogHigh, DeliveryDead, EndpointDisabled, EndpointFailing};
use postrider::delivery::{Cause, DeadReason, Nack};
use postrider::retry;
use postrider::store::{MemoryStore, Page, Query, Store};
use postrider::testing::{RecordingSink, Step, TestClock};
use postrider::{Bus, Endpoint, NewEvent};

const SECOND: Duration = Duration::from_secs(1);

fn event(number: usize) -> NewEvent {
    let id = format!("e{number}").parse().unwrap();
    NewEvent::raw("match", format!("{{\"n\":{number}}}")).unwrap().id(id)
}

fn once() -> retry::Policy {
    retry::Policy::new(vec![], 0.0).unwrap()
}

/// Fails so many attempts in this way.
fn failing(attempts: usize, nack: Nack) -> RecordingSink {
    RecordingSink::scripted(vec![Step::Nack(nack); attempts])
}

fn rejected() -> Nack {
    Nack::reject(Cause::Status, "answered 400").status(400)
}

/// An endpoint that is attempted once for each event, one after the other.
fn shop(sink: &RecordingSink) -> Endpoint {
    Endpoint::builder("shop", sink.clone()).concurrency(1).retry(once()).build()
}

fn ops(sink: &RecordingSink) -> Endpoint {
    Endpoint::builder("ops", sink.clone()).events(["postrider.**"]).unwrap().build()
}

async fn open(endpoints: impl IntoIterator<Item = Endpoint>) -> Bus {
    let clock = Arc::new(TestClock::following_tokio());
    Bus::builder().clock(clock).endpoints(endpoints).open().await.unwrap()
}

async fn publish(bus: &Bus, numbers: std::ops::Range<usize>) {
    for number in numbers {
        bus.publish(event(number)).await.unwrap();
    }
    bus.flush(60 * SECOND).await.unwrap();
}

async fn settle(bus: &Bus, wait: Duration) {
    // tidy: allow(sleep): the clock is paused
    tokio::time::sleep(wait).await;
    bus.flush(60 * SECOND).await.unwrap();
}

fn told(sink: &RecordingSink) -> Vec<String> {
    sink.events().iter().map(|event| event.event_type().to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_and_recovers_is_told_of_once_each() {
    let failure = Nack::retry(Cause::Status, "answered 500").status(500);
    let bad = failing(12, failure);
    let told_to = RecordingSink::default();
    let bus = open([shop(&bad), ops(&told_to)]).await;
    publish(&bus, 0..9).await;
    settle(&bus, SECOND).await;
    assert_eq!(told(&told_to), ["postrider.delivery.dead"], "nine failures are not yet ten");
    publish(&bus, 9..12).await;
    settle(&bus, SECOND).await;
    let failing: EndpointFailing = told_to.events()[1].decode().unwrap();
    assert_eq!((failing.endpoint.as_str(), &*failing.name), ("shop", "shop"));
    assert_eq!((failing.failures, failing.cause, failing.status), (10, Cause::Status, Some(500)));
    assert_eq!((&*failing.message, failing.event.to_string()), ("answered 500", "e9".into()));

    publish(&bus, 12..13).await;
    settle(&bus, 120 * SECOND).await;
    let names = told(&told_to);
    assert_eq!(names.iter().filter(|name| name.ends_with("failing")).count(), 1, "{names:?}");
    assert_eq!(names.iter().filter(|name| name.ends_with("recovered")).count(), 1, "{names:?}");
}

#[tokio::test(start_paused = true)]
async fn dead_deliveries_come_at_once_and_then_as_a_count() {
    let bad = failing(100, rejected());
    let told_to = RecordingSink::default();
    let bus = open([shop(&bad), ops(&told_to)]).await;
    publish(&bus, 0..1).await;
    settle(&bus, SECOND).await;
    publish(&bus, 1..100).await;
    settle(&bus, 30 * SECOND).await;
    let dead = || -> Vec<DeliveryDead> {
        let events = told_to.events();
        let dead = events.iter().filter(|event| event.event_type().as_str().ends_with("dead"));
        dead.map(|event| event.decode().unwrap()).collect()
    };
    assert_eq!(dead().len(), 1, "the rest waits for its interval");
    assert_eq!((dead()[0].count, dead()[0].delivery.to_string()), (1, "shop.e0".into()));
    assert_eq!((dead()[0].reason, dead()[0].attempts), (DeadReason::Rejected, 1));
    settle(&bus, 40 * SECOND).await;
    assert_eq!(dead().iter().map(|dead| dead.count).collect::<Vec<_>>(), [1, 99]);
    assert_eq!((dead()[1].delivery.to_string(), dead()[1].status), ("shop.e99".into(), Some(400)));
}

/// Ops itself fails, and for good: of that nobody is told, least of all ops.
#[tokio::test(start_paused = true)]
async fn alerts_about_alerts_are_not_raised() {
    let (bad, told_to) = (failing(100, rejected()), failing(100, rejected()));
    let ops = Endpoint::builder("ops", told_to.clone()).events(["postrider.**"]).unwrap();
    let bus = open([shop(&bad), ops.retry(once()).build()]).await;
    publish(&bus, 0..1).await;
    settle(&bus, 600 * SECOND).await;
    assert_eq!((bad.attempts().len(), told_to.attempts().len()), (1, 1));
}

/// An endpoint that asks for alerts is not told of its own.
#[tokio::test(start_paused = true)]
async fn an_alert_does_not_go_to_the_endpoint_it_is_about() {
    let (bad, told_to) = (failing(1, rejected()), RecordingSink::default());
    let both = Endpoint::builder("shop", bad.clone()).events(["match", "postrider.**"]).unwrap();
    let bus = open([both.build(), ops(&told_to)]).await;
    publish(&bus, 0..1).await;
    settle(&bus, 600 * SECOND).await;
    assert_eq!((bad.attempts().len(), told_to.attempts().len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_of_an_alert_that_nobody_asks_for() {
    let bad = failing(1, Nack::disable(Cause::Status, "answered 410").status(410));
    let store = Arc::new(MemoryStore::default());
    let everything = Endpoint::builder("all", RecordingSink::default()).build();
    let builder = Bus::builder().clock(Arc::new(TestClock::following_tokio()));
    let builder = builder.store_shared(Arc::clone(&store) as Arc<dyn Store>);
    let bus = builder.endpoint(shop(&bad)).endpoint(everything).open().await.unwrap();
    publish(&bus, 0..1).await;
    settle(&bus, 600 * SECOND).await;
    let found = store.find(&Query::default(), Page::default()).await.unwrap();
    assert_eq!(found.events.len(), 1, "only the application's event");
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_is_told_that_an_endpoint_is_disabled() {
    let bad = failing(1, Nack::disable(Cause::Status, "answered 410").status(410));
    let bus = open([shop(&bad)]).await;
    let mut alerts = bus.subscribe::<EndpointDisabled>();
    publish(&bus, 0..1).await;
    let alert = alerts.next().await.unwrap().unwrap();
    assert_eq!((alert.endpoint.as_str(), alert.status), ("shop", Some(410)));
    assert_eq!(alert.delivery.as_ref().unwrap().to_string(), "shop.e0");
}

#[tokio::test(start_paused = true)]
async fn a_high_backlog_is_told_once_until_it_has_fallen() {
    let slow = RecordingSink::scripted([Step::Hang]);
    let told_to = RecordingSink::default();
    let slow_shop = Endpoint::builder("shop", slow.clone()).concurrency(1);
    let builder = Bus::builder().clock(Arc::new(TestClock::following_tokio()));
    let builder = builder.alerts(alert::Policy::default().backlog_events(20));
    let slow_shop = slow_shop.timeout(100 * SECOND).build();
    let bus = builder.endpoint(slow_shop).endpoint(ops(&told_to)).open().await.unwrap();
    for number in 0..25 {
        bus.publish(event(number)).await.unwrap();
    }
    // tidy: allow(sleep): the clock is paused
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(told(&told_to), ["postrider.backlog.high"]);
    let high: BacklogHigh = told_to.events()[0].decode().unwrap();
    assert_eq!((high.endpoint.as_str(), high.owed, high.limit), ("shop", 25, 20));
}

/// What waits for its interval when the bus is shut down is kept for the next start.
#[tokio::test(start_paused = true)]
async fn a_shutdown_keeps_what_was_not_told_yet() {
    let bad = failing(5, rejected());
    let told_to = RecordingSink::default();
    let bus = open([shop(&bad), ops(&told_to)]).await;
    publish(&bus, 0..1).await;
    settle(&bus, SECOND).await;
    publish(&bus, 1..5).await;
    let left = bus.shutdown(SECOND).await.unwrap();
    assert_eq!((told_to.events().len(), left.total()), (1, 1));
}
