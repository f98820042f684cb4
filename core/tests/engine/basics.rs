//! The engine through the bus, in paused time: retries, limits, panics, holds, shutdown.

use std::sync::Arc;
use std::time::Duration;

use postrider::delivery::{Cause, DeadReason, Nack, State};
use postrider::retry::Policy;
use postrider::sink::{Attempt, Sink};
use postrider::store::MemoryStore;
use postrider::testing::{RecordingSink, Step, TestClock};
use postrider::{Bus, Endpoint, ErrorKind, NewEvent, Receipt, Timestamp};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

fn retry(seconds: &[u64]) -> Policy {
    Policy::new(seconds.iter().copied().map(Duration::from_secs).collect(), 0.0).unwrap()
}

async fn bus(endpoints: impl IntoIterator<Item = Endpoint>) -> Bus {
    let clock = Arc::new(TestClock::following_tokio());
    Bus::builder().clock(clock).endpoints(endpoints).open().await.unwrap()
}

fn event(number: usize) -> NewEvent {
    NewEvent::raw("match", format!(r#"{{"n":{number}}}"#)).unwrap()
}

async fn state(bus: &Bus, receipt: &Receipt) -> State {
    let delivery = receipt.deliveries().next().unwrap();
    bus.delivery(&delivery).await.unwrap().unwrap().state
}

/// When the attempts began, in seconds after the first.
fn seconds(sink: &RecordingSink) -> Vec<u64> {
    let attempts = sink.attempts();
    attempts.iter().map(|attempt| attempt.now.since(attempts[0].now).as_secs()).collect()
}

/// The three failure kinds are retried by the schedule, each with the same id and bytes, and the
/// event is delivered once.
#[tokio::test(start_paused = true)]
async fn retries_failures_timeouts_and_panics() {
    let script = [Step::fail(), Step::Hang, Step::Panic, Step::Silence];
    let sink = RecordingSink::scripted(script);
    let endpoint = Endpoint::builder("a", sink.clone()).retry(retry(&[5, 60, 300, 600])).build();
    let bus = bus([endpoint]).await;
    let receipt = bus.publish(event(1)).await.unwrap();
    assert!(bus.flush(DAY).await.unwrap().is_empty());

    // The hanging attempt takes its timeout of 10 s (and the engine's grace) before the next delay.
    assert_eq!(seconds(&sink), [0, 5, 75, 375, 975]);
    let attempts = sink.attempts();
    assert!(attempts.iter().all(|attempt| attempt.event == attempts[0].event));
    assert_eq!(attempts.iter().map(|attempt| attempt.number).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!(sink.events().len(), 1);
    let delivery = receipt.deliveries().next().unwrap();
    let record = bus.delivery(&delivery).await.unwrap().unwrap();
    assert_eq!(record.state, State::Delivered);
    let causes: Vec<_> = record.attempts.iter().map(|attempt| attempt.cause).collect();
    let expect = [Cause::Status, Cause::Timeout, Cause::Panic, Cause::Sink];
    assert_eq!(causes, expect.map(Some).into_iter().chain([None]).collect::<Vec<_>>());
    assert!(record.attempts[2].message.contains("scripted panic"), "{:?}", record.attempts[2]);
}

/// What cannot be delivered is visibly dead, with its reason.
#[tokio::test(start_paused = true)]
async fn gives_up_with_a_reason() {
    let check = async |script: Vec<Step>, attempts: usize, reason: DeadReason| {
        let sink = RecordingSink::scripted(script);
        let bus = bus([Endpoint::builder("a", sink.clone()).retry(retry(&[1, 1])).build()]).await;
        let receipt = bus.publish(event(1)).await.unwrap();
        assert!(bus.flush(DAY).await.unwrap().is_empty());
        assert_eq!(sink.attempts().len(), attempts);
        assert_eq!(state(&bus, &receipt).await, State::Dead { reason });
    };
    check(vec![Step::fail(); 3], 3, DeadReason::Exhausted).await;
    check(vec![Step::Nack(Nack::reject(Cause::Format, "no"))], 1, DeadReason::Rejected).await;
    check(vec![Step::Nack(Nack::disable(Cause::Status, "410"))], 1, DeadReason::Gone).await;
}

/// A receiver that is gone gets nothing more: what is owed is held, visibly, until the endpoint is
/// configured anew.
#[tokio::test(start_paused = true)]
async fn holds_what_is_owed_to_a_gone_receiver() {
    let sink = RecordingSink::scripted([Step::Nack(Nack::disable(Cause::Status, "410"))]);
    let bus = bus([Endpoint::builder("a", sink.clone()).build()]).await;
    bus.publish(event(1)).await.unwrap();
    sink.attempted(1).await;
    assert!(bus.flush(SECOND).await.unwrap().is_empty());
    let held = bus.publish(event(2)).await.unwrap();
    let left = bus.flush(DAY).await.unwrap();
    assert_eq!((left.total(), left.endpoints()[0].held), (1, true));
    assert_eq!(sink.attempts().len(), 1);
    assert!(matches!(state(&bus, &held).await, State::Waiting { .. }));

    let again = RecordingSink::default();
    bus.set_endpoints(vec![Endpoint::builder("a", again.clone()).build()]).await.unwrap();
    assert!(bus.flush(DAY).await.unwrap().is_empty());
    assert_eq!(again.events().len(), 1);
}

/// A deadline ends retrying, and an event past it is not attempted at all.
#[tokio::test(start_paused = true)]
async fn deadlines_expire() {
    let sink = RecordingSink::scripted(vec![Step::fail(); 9]);
    let bus = bus([Endpoint::builder("a", sink.clone()).retry(retry(&[5, 5, 5])).build()]).await;
    let now = Timestamp::from_millis(1_764_513_045_123);
    let soon = bus.publish(event(1).expires_at(now.after(7 * SECOND))).await.unwrap();
    let past = bus.publish(event(2).expires_at(now)).await.unwrap();
    assert!(bus.flush(DAY).await.unwrap().is_empty());
    assert_eq!(state(&bus, &soon).await, State::Expired);
    assert_eq!(state(&bus, &past).await, State::Expired);
    assert_eq!(sink.attempts().len(), 2, "two for the first event, none for the second");
}

/// `concurrency` bounds the attempts of one endpoint, and all of it is used.
#[tokio::test(start_paused = true)]
async fn concurrency_is_bounded_and_used() {
    let sink = RecordingSink::scripted(vec![Step::AckAfter(SECOND); 30]);
    let bus = bus([Endpoint::builder("a", sink.clone()).concurrency(3).build()]).await;
    bus.publish_all((0..30).map(event)).await.unwrap();
    let started = tokio::time::Instant::now();
    assert!(bus.flush(DAY).await.unwrap().is_empty());
    assert_eq!(sink.in_flight_peak(), 3);
    assert!(
        started.elapsed() < 11 * SECOND,
        "30 events, 3 at a time, 1 s each: {:?}",
        started.elapsed()
    );
}

/// An endpoint that hangs holds up only itself, even where the bus-wide limit is small.
#[tokio::test(start_paused = true)]
async fn a_hanging_endpoint_harms_nobody() {
    let hanging = RecordingSink::scripted(vec![Step::Hang; 100]);
    let healthy = RecordingSink::default();
    let clock = Arc::new(TestClock::following_tokio());
    let bus = Bus::builder()
        .clock(clock)
        .in_flight_max(8)
        .endpoint(Endpoint::builder("hanging", hanging.clone()).concurrency(4).build())
        .endpoint(Endpoint::builder("healthy", healthy.clone()).concurrency(4).build())
        .open()
        .await
        .unwrap();
    bus.publish_all((0..100).map(event)).await.unwrap();
    tokio::time::timeout(SECOND, healthy.delivered(100))
        .await
        .expect("the healthy one is served at once");
    assert_eq!(hanging.attempts().len(), 4);
}

/// Lanes with work beyond the bus-wide limit take turns: none waits for another's backlog.
#[tokio::test(start_paused = true)]
async fn lanes_take_turns_at_the_bus_wide_limit() {
    let sinks: Vec<RecordingSink> =
        (0..50).map(|_| RecordingSink::scripted(vec![Step::AckAfter(SECOND); 20])).collect();
    let endpoints = sinks.iter().enumerate().map(|(number, sink)| {
        Endpoint::builder(format!("e{number}"), sink.clone()).concurrency(4).build()
    });
    let clock = Arc::new(TestClock::following_tokio());
    let bus =
        Bus::builder().clock(clock).in_flight_max(10).endpoints(endpoints).open().await.unwrap();
    bus.publish_all((0..20).map(event)).await.unwrap();
    tokio::time::sleep(30 * SECOND).await;
    // 300 of 1,000 deliveries fit into this time: 6 for each if they take turns.
    let least = sinks.iter().map(|sink| sink.events().len()).min().unwrap();
    assert!(least >= 2, "the unluckiest endpoint got {least}");
    assert!(bus.flush(DAY).await.unwrap().is_empty());
    assert!(sinks.iter().all(|sink| sink.events().len() == 20));
}

/// A disabled endpoint's events are held and sent when it is enabled.
#[tokio::test(start_paused = true)]
async fn holds_while_disabled() {
    let sink = RecordingSink::default();
    let endpoint = |enabled| Endpoint::builder("a", sink.clone()).enabled(enabled).build();
    let bus = bus([endpoint(false)]).await;
    let receipt = bus.publish(event(1)).await.unwrap();
    assert_eq!(receipt.endpoints().len(), 1, "it is promised all the same");
    assert!(bus.flush(DAY).await.unwrap().endpoints()[0].held);
    assert!(sink.attempts().is_empty());
    bus.set_endpoints(vec![endpoint(true)]).await.unwrap();
    assert!(bus.flush(DAY).await.unwrap().is_empty());
    assert_eq!(sink.events().len(), 1);
}

/// Endpoints change under load: nothing is lost or doubled, what was promised to a removed endpoint
/// is held, and a sink that is no longer used is closed once, after its last call.
#[tokio::test(start_paused = true)]
async fn endpoints_change_while_running() {
    let old = RecordingSink::scripted([Step::AckAfter(5 * SECOND)]);
    let new = RecordingSink::default();
    let bus = bus([Endpoint::builder("a", old.clone()).concurrency(1).build()]).await;
    bus.publish_all((0..3).map(event)).await.unwrap();
    old.attempted(1).await;
    bus.set_endpoints(vec![Endpoint::builder("a", new.clone()).concurrency(1).build()])
        .await
        .unwrap();
    tokio::time::sleep(SECOND).await;
    assert_eq!(old.closed(), 0, "its call is still under way");
    assert!(bus.flush(DAY).await.unwrap().is_empty());
    assert_eq!((old.events().len(), new.events().len()), (1, 2));
    tokio::time::sleep(SECOND).await;
    assert_eq!((old.closed(), new.closed()), (1, 0));

    bus.set_endpoints(Vec::new()).await.unwrap();
    tokio::time::sleep(SECOND).await;
    assert_eq!(new.closed(), 1);
    assert!(bus.publish(event(9)).await.unwrap().endpoints().is_empty(), "nobody asks for it now");
    let twice =
        vec![Endpoint::builder("a", new.clone()).build(), Endpoint::builder("A", new).build()];
    let error = bus.set_endpoints(twice).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
}

/// Shutdown delivers what is due, breaks off what hangs at its deadline, and tells what is left.
#[tokio::test(start_paused = true)]
async fn shutdown_drains_and_reports() {
    let good = RecordingSink::scripted(vec![Step::AckAfter(SECOND); 4]);
    let hanging = RecordingSink::scripted([Step::Hang]);
    let failing = RecordingSink::scripted([Step::fail()]);
    let off = RecordingSink::default();
    let bus = bus([
        Endpoint::builder("good", good.clone()).concurrency(1).build(),
        Endpoint::builder("hanging", hanging.clone()).timeout(600 * SECOND).build(),
        Endpoint::builder("failing", failing.clone()).retry(retry(&[3600])).build(),
        Endpoint::builder("off", off.clone()).enabled(false).build(),
    ])
    .await;
    bus.publish(event(1)).await.unwrap();
    bus.publish_all((2..5).map(|n| NewEvent::raw("match", n.to_string()).unwrap())).await.unwrap();
    hanging.attempted(1).await;
    let started = tokio::time::Instant::now();
    let left = bus.shutdown(30 * SECOND).await.unwrap();
    assert!(started.elapsed() >= 30 * SECOND, "one hangs until the deadline");
    assert_eq!(good.events().len(), 4, "what was due is delivered");
    let seen: Vec<_> =
        left.endpoints().iter().map(|l| (l.endpoint.as_str(), l.due, l.delayed, l.held)).collect();
    assert_eq!(seen, [("failing", 0, 1, false), ("hanging", 1, 0, false), ("off", 4, 0, true)]);
    for sink in [&good, &hanging, &failing, &off] {
        assert_eq!(sink.closed(), 1);
    }
    assert!(bus.publish(event(9)).await.unwrap_err().is_closed());
    assert!(bus.shutdown(SECOND).await.unwrap_err().is_closed());
}

/// What is under way ends, and nothing more begins; what is due stays for the next start.
#[tokio::test(start_paused = true)]
async fn a_drain_breaks_nothing_off_and_begins_nothing() {
    let sink = RecordingSink::scripted([Step::AckAfter(SECOND)]);
    let bus = bus([Endpoint::builder("a", sink.clone()).concurrency(1).build()]).await;
    bus.publish_all((0..3).map(|n| NewEvent::raw("match", n.to_string()).unwrap())).await.unwrap();
    sink.attempted(1).await;
    let started = tokio::time::Instant::now();
    bus.drain(60 * SECOND).await;
    assert!(started.elapsed() <= SECOND, "{:?}", started.elapsed());
    assert_eq!(sink.events().len(), 1);
    bus.publish(event(9)).await.unwrap();
    assert_eq!(bus.shutdown(SECOND).await.unwrap().total(), 3);
    assert_eq!(sink.events().len(), 1);
}

/// With nothing due, shutdown does not wait for its deadline.
#[tokio::test(start_paused = true)]
async fn shutdown_is_quick_when_idle() {
    let failing = RecordingSink::scripted([Step::fail()]);
    let bus = bus([Endpoint::builder("a", failing.clone()).retry(retry(&[3600])).build()]).await;
    bus.publish(event(1)).await.unwrap();
    failing.attempted(1).await;
    let started = tokio::time::Instant::now();
    assert_eq!(bus.shutdown(DAY).await.unwrap().total(), 1);
    assert!(started.elapsed() < SECOND, "{:?}", started.elapsed());
}

/// When the last handle is dropped without a shutdown, the tasks end.
#[tokio::test(start_paused = true)]
async fn dropping_the_bus_ends_its_tasks() {
    let hanging = RecordingSink::scripted([Step::Hang]);
    let bus = bus([Endpoint::builder("a", hanging.clone()).timeout(600 * SECOND).build()]).await;
    bus.publish(event(1)).await.unwrap();
    hanging.attempted(1).await;
    let metrics = tokio::runtime::Handle::current().metrics();
    assert!(metrics.num_alive_tasks() > 0);
    drop(bus);
    tokio::time::sleep(SECOND).await;
    assert_eq!(metrics.num_alive_tasks(), 0);
}

/// A long attempt keeps its lease: nobody else starts the same delivery meanwhile.
#[tokio::test(start_paused = true)]
async fn leases_are_kept_alive() {
    let slow = RecordingSink::scripted([Step::AckAfter(600 * SECOND)]);
    let bus = bus([Endpoint::builder("a", slow.clone()).timeout(900 * SECOND).build()]).await;
    let receipt = bus.publish(event(1)).await.unwrap();
    assert!(bus.flush(DAY).await.unwrap().is_empty());
    assert_eq!(slow.attempts().len(), 1);
    assert_eq!(state(&bus, &receipt).await, State::Delivered);
}

/// A sink that takes batches gets them, and each delivery has its own outcome.
#[tokio::test(start_paused = true)]
async fn batches() {
    /// Takes up to four; refuses the odd ones the first time.
    struct Four(RecordingSink);
    #[async_trait::async_trait]
    impl Sink for Four {
        async fn deliver(&self, batch: &[Attempt]) -> Vec<postrider::delivery::Outcome> {
            assert!((1..=4).contains(&batch.len()));
            let mut outcomes = self.0.deliver(batch).await;
            for (attempt, outcome) in batch.iter().zip(&mut outcomes) {
                let is_odd =
                    matches!(attempt.event.payload_str().as_bytes(), [.., b'1' | b'3', b'}']);
                if is_odd && attempt.number == 1 {
                    *outcome = Err(Nack::retry(Cause::Status, "odd"));
                }
            }
            outcomes
        }
        fn batch_max(&self) -> usize {
            4
        }
    }
    let seen = RecordingSink::default();
    let bus = bus([Endpoint::builder("a", Four(seen.clone())).retry(retry(&[1])).build()]).await;
    let receipts = bus.publish_all((0..10).map(event)).await.unwrap();
    assert!(bus.flush(DAY).await.unwrap().is_empty());
    assert_eq!(seen.attempts().len(), 12, "two of ten were tried twice");
    for receipt in &receipts {
        assert_eq!(state(&bus, receipt).await, State::Delivered);
    }
}

/// An id published again gives the first receipt and no second delivery.
#[tokio::test(start_paused = true)]
async fn ids_are_accepted_once() {
    let sink = RecordingSink::default();
    let bus = bus([Endpoint::builder("a", sink.clone()).build()]).await;
    let order = || event(1).id("order-1".parse().unwrap());
    assert!(!bus.publish(order()).await.unwrap().is_duplicate());
    let again = bus.publish(order()).await.unwrap();
    assert!(again.is_duplicate());
    assert_eq!(again.endpoints().len(), 1);
    assert!(bus.flush(DAY).await.unwrap().is_empty());
    assert_eq!(sink.attempts().len(), 1);
}

/// What breaks a rule is refused before anything is stored, with a clear error.
#[tokio::test(start_paused = true)]
async fn refuses_what_breaks_a_rule() {
    let bus = Bus::builder().payload_bytes_max(10).batch_events_max(2).open().await.unwrap();
    let check = async |event: NewEvent, kind: ErrorKind, text: &str| {
        let error = bus.publish(event).await.unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains(text), "{error}");
    };
    let raw = |kind: &str| NewEvent::raw(kind, "1").unwrap();
    check(NewEvent::raw("a", "12345678901").unwrap(), ErrorKind::TooLarge, "11 bytes").await;
    check(raw("postrider.delivery.dead"), ErrorKind::Invalid, "belong to the bus").await;
    check(raw("a").key(""), ErrorKind::Invalid, "key of 1 to 256 bytes").await;
    check(raw("a").attribute("Bad Name", "x"), ErrorKind::Invalid, "attribute names").await;
    check(raw("a").attribute("name", "x\ny"), ErrorKind::Invalid, "printable ASCII").await;
    let error = bus.publish_all((0..3).map(|_| raw("a"))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
    for payload in ["", "{", "1 2", "\u{feff}1", "nan"] {
        let error = NewEvent::raw("a", payload).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{payload:?}");
    }
    assert!(NewEvent::raw("a", vec![b'"', 0xff, b'"']).is_err(), "not UTF-8");
    assert!(NewEvent::raw("a b", "1").is_err());
}

/// In-process subscribers see what they ask for, in order; a slow one is told what it missed and
/// holds nobody up; all end with the bus.
#[tokio::test(start_paused = true)]
async fn subscriptions() {
    #[derive(Debug, serde::Serialize, serde::Deserialize)]
    struct Match {
        n: usize,
    }
    impl postrider::Event for Match {
        const TYPE: &'static str = "match";
    }
    let store = MemoryStore::default();
    let bus = Bus::builder().store(store).subscriber_events_max(4).open().await.unwrap();
    let mut typed = bus.subscribe::<Match>();
    let mut all = bus.subscribe_to(["model.*", "match"]).unwrap();
    assert!(bus.subscribe_to(["a*"]).is_err());
    let mut other = bus.subscribe_to(["other"]).unwrap();
    bus.publish(&Match { n: 1 }).await.unwrap();
    bus.publish(NewEvent::raw("match", "[]").unwrap()).await.unwrap();
    bus.publish(NewEvent::raw("model.uploaded", "{}").unwrap()).await.unwrap();
    let first = typed.next().await.unwrap().unwrap();
    assert_eq!((first.n, first.envelope().event_type().as_str()), (1, "match"));
    let wrong = typed.next().await.unwrap().unwrap_err();
    assert!(matches!(wrong, postrider::SubscriptionError::Decode { .. }), "{wrong:?}");
    let mut kinds = Vec::new();
    for _ in 0..3 {
        kinds.push(all.next().await.unwrap().unwrap().event_type().to_string());
    }
    assert_eq!(kinds, ["match", "match", "model.uploaded"]);

    for n in 10..20 {
        bus.publish(&Match { n }).await.unwrap();
    }
    let missed = typed.next().await.unwrap().unwrap_err();
    assert!(matches!(missed, postrider::SubscriptionError::Missed(6)), "{missed:?}");
    assert_eq!(typed.next().await.unwrap().unwrap().n, 16);
    bus.shutdown(SECOND).await.unwrap();
    assert_eq!(typed.next().await.unwrap().unwrap().n, 17, "what was sent before is still read");
    typed.next().await.unwrap().unwrap();
    typed.next().await.unwrap().unwrap();
    assert!(typed.next().await.is_none());
    assert!(other.next().await.is_none());
    assert!(bus.subscribe::<Match>().next().await.is_none(), "a closed bus has nothing to say");
}

/// The contract suite accepts a good sink.
#[tokio::test]
async fn the_recording_sink_passes_the_contract() {
    postrider::testing::sink::contract(async || RecordingSink::default().batches(100)).await;
}
