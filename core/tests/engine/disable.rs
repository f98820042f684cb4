//! An endpoint that takes nothing over for days is disabled; what happens to what it is owed then.

use std::sync::Arc;
use std::time::Duration;

use postrider::alert::EndpointDisabled;
use postrider::delivery::{DeadReason, State};
use postrider::endpoint::{EndpointBuilder, Hold, WhenDisabled};
use postrider::retry::Policy;
use postrider::store::{MemoryStore, Query, Store};
use postrider::testing::{RecordingSink, Step, TestClock};
use postrider::{Bus, Endpoint, EndpointId, Event as _, NewEvent};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

fn a() -> EndpointId {
    "a".parse().unwrap()
}

fn event(number: u64) -> NewEvent {
    NewEvent::raw("match", number.to_string()).unwrap()
}

/// Tries every two hours, for eight days.
fn two_hourly(sink: &RecordingSink) -> EndpointBuilder {
    let retry = Policy::new(vec![2 * HOUR; 100], 0.0).unwrap();
    Endpoint::builder("a", sink.clone()).retry(retry).breaker(None)
}

async fn open(store: &Arc<MemoryStore>, clock: &Arc<TestClock>, endpoint: Endpoint) -> Bus {
    let store = Arc::clone(store) as Arc<dyn Store>;
    let alerts = RecordingSink::default();
    let alerts = Endpoint::builder("alerts", alerts).events([EndpointDisabled::TYPE]).unwrap();
    let builder = Bus::builder().clock(Arc::clone(clock) as _).store_shared(store);
    builder.endpoints(vec![endpoint, alerts.build()]).open().await.unwrap()
}

async fn pass(time: Duration) {
    tokio::time::sleep(time).await; // tidy: allow(sleep): time is simulated
}

#[tokio::test(start_paused = true)]
async fn days_of_failures_disable_and_one_success_does_not() {
    let (store, clock) = (Arc::default(), Arc::new(TestClock::following_tokio()));
    // Fails for four days, succeeds once, fails on.
    let mut steps = vec![Step::fail(); 49];
    steps.push(Step::Ack);
    steps.extend(vec![Step::fail(); 500]);
    let sink = RecordingSink::scripted(steps);
    let bus = open(&store, &clock, two_hourly(&sink).build()).await;
    let mut disabled = bus.subscribe::<EndpointDisabled>();
    bus.publish(event(1)).await.unwrap();
    pass(4 * DAY + 3 * HOUR).await;
    assert_eq!((bus.hold(&a()), sink.events().len()), (None, 1));
    bus.publish(event(2)).await.unwrap();
    pass(4 * DAY).await;
    assert_eq!(bus.hold(&a()), None, "five days count from the success");
    bus.publish(event(3)).await.unwrap();
    pass(DAY + 8 * HOUR).await;
    let Some(Hold::Gone(gone)) = bus.hold(&a()) else { panic!("{:?}", bus.hold(&a())) };
    let failing = gone.since.since(gone.failing_since.unwrap());
    assert!((5 * DAY..5 * DAY + 3 * HOUR).contains(&failing), "{failing:?}");
    let told = disabled.next().await.unwrap().unwrap();
    assert!(told.reason.starts_with("every attempt has failed since "), "{}", told.reason);
    let attempts = sink.attempts().len();
    pass(DAY).await;
    assert_eq!(sink.attempts().len(), attempts, "held: nothing is attempted");

    // Enabled, it has its time anew.
    bus.enable(&a()).await.unwrap();
    pass(4 * DAY).await;
    assert!(sink.attempts().len() > attempts);
    assert_eq!(bus.hold(&a()), None);
}

/// A process that ends every day does not start the count anew.
#[tokio::test(start_paused = true)]
async fn failures_count_across_restarts() {
    let (store, clock) = (Arc::default(), Arc::new(TestClock::following_tokio()));
    let mut days = 0;
    loop {
        let sink = RecordingSink::scripted(vec![Step::fail(); 500]);
        let bus = open(&store, &clock, two_hourly(&sink).build()).await;
        bus.publish(event(days)).await.unwrap();
        pass(DAY).await;
        days += 1;
        let is_held = bus.hold(&a()).is_some();
        // Ends without closing the store.
        drop(bus);
        pass(SECOND).await;
        if is_held || days > 8 {
            break;
        }
    }
    assert!((5..=6).contains(&days), "{days}");
}

#[tokio::test(start_paused = true)]
async fn it_can_be_turned_off() {
    let (store, clock) = (Arc::default(), Arc::new(TestClock::following_tokio()));
    let sink = RecordingSink::scripted(vec![Step::fail(); 500]);
    let bus = open(&store, &clock, two_hourly(&sink).disable_after(None).build()).await;
    bus.publish(event(1)).await.unwrap();
    pass(20 * DAY).await;
    assert_eq!(bus.hold(&a()), None);
    assert_eq!(sink.attempts().len(), 101);
}

/// Disabled in the configuration, or by its failures: what is owed is dead at once, and may be replayed.
#[tokio::test(start_paused = true)]
async fn what_is_owed_is_dropped_visibly_where_that_is_asked_for() {
    let (store, clock) = (Arc::default(), Arc::new(TestClock::following_tokio()));
    let sink = RecordingSink::scripted([Step::fail()]);
    let dropping = || two_hourly(&sink).when_disabled(WhenDisabled::Drop);
    let bus = open(&store, &clock, dropping().build()).await;
    let waits = bus.publish(event(1)).await.unwrap();
    pass(SECOND).await;
    bus.set_endpoints(vec![dropping().enabled(false).build()]).await.unwrap();
    let fresh = bus.publish(event(2)).await.unwrap();
    pass(2 * HOUR).await;
    let dead = State::Dead { reason: DeadReason::Disabled };
    for (receipt, attempts) in [(&waits, 1), (&fresh, 0)] {
        let delivery = receipt.deliveries().next().unwrap();
        let record = bus.delivery(&delivery).await.unwrap().unwrap();
        assert_eq!((record.state, record.attempts_made), (dead.clone(), attempts));
    }
    assert_eq!(sink.attempts().len(), 1);
    let request = postrider::replay::Request::new(Query::new().reason(DeadReason::Disabled));
    bus.set_endpoints(vec![dropping().build()]).await.unwrap();
    bus.replay(request).await.unwrap();
    pass(HOUR).await;
    assert!(bus.flush(DAY).await.unwrap().is_empty());
    assert_eq!(sink.events().len(), 2);
}
