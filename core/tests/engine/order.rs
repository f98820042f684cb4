//! Order: within a key, the receiver takes events over in the order of acceptance, whatever fails.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use postrider::delivery::{Ack, Cause, Nack, Outcome, StateKind};
use postrider::endpoint::{OnDead, Order};
use postrider::replay::Request;
use postrider::retry::Policy;
use postrider::sink::{Attempt, Sink};
use postrider::store::{MemoryStore, Query};
use postrider::testing::{RecordingSink, Step, TestClock};
use postrider::{Bus, Endpoint, NewEvent};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// Looks at first arrivals: within a key their numbers must rise.
#[derive(Default)]
struct Checker {
    last: HashMap<String, u64>,
    seen: std::collections::HashSet<(String, u64)>,
    inversions: Vec<(String, u64, u64)>,
}

impl Checker {
    fn arrived(&mut self, key: &str, number: u64) {
        if !self.seen.insert((key.to_owned(), number)) {
            return;
        }
        let last = self.last.entry(key.to_owned()).or_insert(number);
        if number < *last {
            self.inversions.push((key.to_owned(), *last, number));
        }
        *last = number.max(*last);
    }
}

#[test]
fn the_checker_finds_a_planted_inversion_and_no_repeat() {
    let mut checker = Checker::default();
    for (key, number) in [("a", 1), ("b", 9), ("a", 2), ("a", 1), ("a", 4), ("b", 8), ("a", 3)] {
        checker.arrived(key, number);
    }
    assert_eq!(checker.inversions, [("b".to_owned(), 9, 8), ("a".to_owned(), 4, 3)]);
}

/// Takes over, refuses, or takes over and then hangs; takes a while for each.
#[derive(Default)]
struct Faulty {
    checker: Mutex<Checker>,
    calls: AtomicU64,
    most_at_once: AtomicU64,
    at_once: AtomicU64,
    is_well: AtomicBool,
}

#[async_trait]
impl Sink for Faulty {
    async fn deliver(&self, batch: &[Attempt]) -> Vec<Outcome> {
        let at_once = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(at_once, Ordering::SeqCst);
        let call =
            self.calls.fetch_add(1, Ordering::SeqCst).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        // tidy: allow(sleep): time is simulated
        tokio::time::sleep(Duration::from_millis(call % 50)).await;
        let fault = if self.is_well.load(Ordering::SeqCst) { 9 } else { call / 50 % 10 };
        let event = &batch[0].event;
        if fault != 0 {
            let number = event.payload_str().parse().unwrap();
            self.checker.lock().unwrap().arrived(event.key().unwrap_or("none"), number);
        }
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        match fault {
            0 | 1 => vec![Err(Nack::retry(Cause::Status, "500"))],
            2 => std::future::pending().await,
            _ => vec![Ok(Ack::new())],
        }
    }
}

fn retry(seconds: &[u64]) -> Policy {
    Policy::new(seconds.iter().copied().map(Duration::from_secs).collect(), 0.0).unwrap()
}

fn event(key: &str, number: u64) -> NewEvent {
    NewEvent::raw("match", number.to_string()).unwrap().key(key)
}

async fn bus(store: &Arc<MemoryStore>, endpoint: Endpoint) -> Bus {
    let clock = Arc::new(TestClock::following_tokio());
    let store = Arc::clone(store) as Arc<dyn postrider::store::Store>;
    Bus::builder().clock(clock).store_shared(store).endpoint(endpoint).open().await.unwrap()
}

fn ordered(sink: impl Sink, on_dead: OnDead) -> Endpoint {
    let builder = Endpoint::builder("a", sink).order(Order::Key).on_dead(on_dead);
    builder.retry(retry(&[5; 30])).timeout(SECOND).build()
}

fn numbers(sink: &RecordingSink) -> Vec<String> {
    sink.events().iter().map(|event| event.payload_str().to_owned()).collect()
}

async fn inversions(order: Order, keys: u64, events: u64) -> (usize, u64) {
    let sink = Arc::new(Faulty::default());
    let endpoint = Endpoint::builder("a", Arc::clone(&sink)).order(order).timeout(SECOND);
    let bus = bus(&Arc::default(), endpoint.retry(retry(&[1; 50])).build()).await;
    for number in 0..events {
        bus.publish(event(&format!("k{}", number % keys), number)).await.unwrap();
    }
    assert!(bus.flush(100 * DAY).await.unwrap().is_empty());
    let checker = sink.checker.lock().unwrap();
    assert_eq!(checker.seen.len() as u64, events);
    (checker.inversions.len(), sink.most_at_once.load(Ordering::SeqCst))
}

#[tokio::test(start_paused = true)]
async fn faults_invert_nothing_within_a_key() {
    let (found, at_once) = inversions(Order::Key, 50, 3000).await;
    assert_eq!(found, 0);
    assert!(at_once > 8, "other keys go on meanwhile: {at_once}");
    assert_eq!(inversions(Order::All, 5, 300).await, (0, 1));
    assert!(inversions(Order::None, 50, 3000).await.0 > 0, "without an order there are some");
}

/// More behind one failing key than a lane holds: its head is still tried again.
#[tokio::test(start_paused = true)]
async fn a_head_goes_on_while_the_lane_is_full() {
    let sink = RecordingSink::scripted([Step::fail(), Step::fail()]);
    let bus = bus(&Arc::default(), ordered(sink.clone(), OnDead::Park)).await;
    for number in 0..6000 {
        bus.publish(event("a", number)).await.unwrap();
    }
    assert!(bus.flush(DAY).await.unwrap().is_empty());
    let expect: Vec<String> = (0..6000).map(|number: u64| number.to_string()).collect();
    assert_eq!(numbers(&sink), expect);
}

#[tokio::test(start_paused = true)]
async fn a_dead_head_is_passed_or_blocks_its_key() {
    let reject = || [Step::Nack(Nack::reject(Cause::Format, "no"))];
    let check = async |on_dead: OnDead, expect: &[&str], left: u64| {
        let sink = RecordingSink::scripted(reject());
        let bus = bus(&Arc::default(), ordered(sink.clone(), on_dead)).await;
        for (number, key) in ["a", "a", "b"].into_iter().enumerate() {
            bus.publish(event(key, number as u64)).await.unwrap();
        }
        assert_eq!(bus.flush(60 * SECOND).await.unwrap().total(), left);
        let mut found = numbers(&sink);
        found.sort();
        assert_eq!(found, expect);
        (bus, sink)
    };
    check(OnDead::Park, &["1", "2"], 0).await;
    let (bus, sink) = check(OnDead::Block, &["2"], 1).await;
    assert_eq!(bus.purge(&Query::new()).await.unwrap(), 1);
    assert!(bus.flush(DAY).await.unwrap().is_empty());
    assert_eq!(numbers(&sink), ["2", "1"]);
}

/// What was tried before a restart is the head of its key; so is what is dead and blocks.
#[tokio::test(start_paused = true)]
async fn a_restart_keeps_the_heads() {
    for on_dead in [OnDead::Park, OnDead::Block] {
        let store = Arc::new(MemoryStore::default());
        let first = match on_dead {
            OnDead::Block => Step::Nack(Nack::reject(Cause::Format, "no")),
            _ => Step::fail(),
        };
        let failing = RecordingSink::scripted([first]);
        let bus_before = bus(&store, ordered(failing.clone(), on_dead)).await;
        for number in 0..20 {
            bus_before.publish(event("a", number)).await.unwrap();
        }
        failing.attempted(1).await;
        bus_before.flush(SECOND).await.unwrap();
        // Ends without closing the store, as a crash does.
        drop(bus_before);
        // tidy: allow(sleep): time is simulated
        tokio::time::sleep(40 * SECOND).await;

        let sink = RecordingSink::default();
        let bus = bus(&store, ordered(sink.clone(), on_dead)).await;
        let left = bus.flush(HOUR).await.unwrap().total();
        let expect: Vec<String> = (0..20).map(|number: u64| number.to_string()).collect();
        if on_dead == OnDead::Block {
            assert_eq!((left, numbers(&sink).len()), (19, 0));
            let dead = Query::new().state(StateKind::Dead);
            bus.replay(Request::new(dead)).await.unwrap();
            assert!(bus.flush(DAY).await.unwrap().is_empty());
        }
        assert_eq!(numbers(&sink), expect, "{on_dead:?}");
    }
}

/// The rule changes while events are under way and wait: each still comes once.
#[tokio::test(start_paused = true)]
async fn the_rule_may_change_while_running() {
    let sink = Arc::new(Faulty::default());
    let bus = bus(&Arc::default(), ordered(Arc::clone(&sink), OnDead::Park)).await;
    for number in 0..500 {
        bus.publish(event(&format!("k{}", number % 7), number)).await.unwrap();
    }
    for order in [Order::None, Order::All, Order::Key] {
        // tidy: allow(sleep): time is simulated
        tokio::time::sleep(SECOND).await;
        let endpoint = Endpoint::builder_shared("a", Arc::clone(&sink) as Arc<dyn Sink>);
        let endpoint = endpoint.order(order).timeout(SECOND).retry(retry(&[1; 50])).build();
        bus.set_endpoints(vec![endpoint]).await.unwrap();
    }
    assert!(bus.flush(100 * DAY).await.unwrap().is_empty());
    assert_eq!(sink.checker.lock().unwrap().seen.len(), 500);
}
