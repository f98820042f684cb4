//! Every way a receiver may misbehave, through the whole bus: engine, schedule, sink and sockets.
//!
//! Each case says how the delivery ends, after how many attempts, with what cause, status and
//! words. All have two attempts and [`TIMEOUT`] for each, and none may take longer.

mod answers;
mod names;
mod sockets;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use postrider::delivery::{Cause, DeadReason, State};
use postrider::retry::Policy;
use postrider::store::DeliveryRecord;
use postrider::{Bus, Endpoint, NewEvent};
use postrider_sinks::http::{HttpSettings, HttpSink};
use tokio::time::{Instant, sleep};

use crate::peer::{Connection, Peer};
use crate::{settings, sink};

/// How long one attempt may take.
const TIMEOUT: Duration = Duration::from_millis(1500);
/// What a busy machine may add to it.
const SLACK: Duration = Duration::from_secs(3);

/// How a case must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Delivered,
    /// Both attempts failed.
    Exhausted,
    /// Dead after the first attempt.
    Rejected,
    /// Dead after the first attempt, and nothing is sent any more.
    Gone,
    /// Waiting, after the first attempt, for at least this many seconds.
    Later(u64),
}

#[derive(Clone, Debug)]
struct Expect {
    end: End,
    attempts: usize,
    /// Of the last attempt; `None` where it succeeded.
    cause: Option<Cause>,
    /// Of the last attempt.
    status: Option<u16>,
    /// Part of the last attempt's message.
    words: &'static str,
}

fn taken(status: u16) -> Expect {
    Expect { end: End::Delivered, attempts: 1, cause: None, status: Some(status), words: "" }
}

/// The first attempt failed, the second did not.
fn taken_second() -> Expect {
    Expect { attempts: 2, ..taken(200) }
}

fn exhausted(cause: Cause, words: &'static str) -> Expect {
    Expect { end: End::Exhausted, attempts: 2, cause: Some(cause), status: None, words }
}

/// One attempt with a status that ends so.
fn ended(end: End, status: u16, words: &'static str) -> Expect {
    Expect { end, attempts: 1, cause: Some(Cause::Status), status: Some(status), words }
}

impl Expect {
    fn status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }
}

/// What a receiver does with each connection.
type Script = Arc<dyn Fn(Connection) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

fn script<F>(run: impl Fn(Connection) -> F + Send + Sync + 'static) -> Script
where
    F: Future<Output = ()> + Send + 'static,
{
    Arc::new(move |connection| Box::pin(run(connection)))
}

/// Answers every request, and closes when the sender does.
fn answers(answer: impl Into<Vec<u8>>) -> Script {
    let answer = Arc::new(answer.into());
    script(move |mut connection| {
        let answer = Arc::clone(&answer);
        async move {
            while connection.request().await.is_some() {
                connection.send(&answer).await;
            }
        }
    })
}

/// Answers the first request of a connection and closes it.
fn answers_once(answer: impl Into<Vec<u8>>) -> Script {
    let answer = Arc::new(answer.into());
    script(move |mut connection| {
        let answer = Arc::clone(&answer);
        async move {
            connection.request().await;
            connection.send(&answer).await;
        }
    })
}

struct Case {
    name: &'static str,
    script: Script,
    change: fn(&mut HttpSettings),
    payload_bytes: usize,
    expect: Expect,
    /// What may happen as well.
    or: Option<Expect>,
}

impl Case {
    fn new(name: &'static str, script: Script, expect: Expect) -> Self {
        Self { name, script, change: |_| (), payload_bytes: 2, expect, or: None }
    }

    fn with(mut self, change: fn(&mut HttpSettings)) -> Self {
        self.change = change;
        self
    }

    /// Where the operating system decides how much is seen before a reset.
    fn or(mut self, expect: Expect) -> Self {
        self.or = Some(expect);
        self
    }

    /// Makes the event so large that a receiver cannot take it in without reading.
    fn large(mut self) -> Self {
        self.payload_bytes = 16 << 20;
        self
    }
}

/// Runs all cases side by side and prints every one that went another way.
async fn run(cases: Vec<Case>) {
    let count = cases.len();
    let running: Vec<_> = cases.into_iter().map(|case| tokio::spawn(run_one(case))).collect();
    let mut wrong = Vec::new();
    for case in running {
        wrong.extend(case.await.unwrap().err());
    }
    assert!(wrong.is_empty(), "{} of {count} cases:\n{}", wrong.len(), wrong.join("\n"));
}

async fn run_one(case: Case) -> Result<(), String> {
    let script = Arc::clone(&case.script);
    let peer = Peer::start(move |connection| script(connection)).await;
    let mut settings = settings(&peer.url());
    (case.change)(&mut settings);
    let found = through_the_bus(sink(&settings), case.payload_bytes).await;
    // A failed attempt is made again by the schedule alone.
    let (connections, attempts) = (peer.connections(), found.0.attempts.len());
    if connections > attempts {
        return Err(format!("{}: {connections} connections, {attempts} attempts", case.name));
    }
    let wrong = compare(case.name, &case.expect, &found);
    match &case.or {
        Some(or) => wrong.or_else(|_| compare(case.name, or, &found)),
        None => wrong,
    }
}

/// Publishes one event and waits until nothing more happens to it soon.
async fn through_the_bus(sink: HttpSink, payload_bytes: usize) -> (DeliveryRecord, Duration) {
    let endpoint = Endpoint::builder("orders", sink)
        .timeout(TIMEOUT)
        .retry(Policy::new(vec![Duration::from_millis(1)], 0.0).unwrap())
        .build();
    let bus = Bus::builder().payload_bytes_max(32 << 20).endpoint(endpoint).open().await.unwrap();
    let payload = format!("\"{}\"", "x".repeat(payload_bytes - 2));
    let started = Instant::now();
    let receipt = bus.publish(NewEvent::raw("match", payload).unwrap()).await.unwrap();
    let delivery = receipt.deliveries().next().unwrap();
    let end = started + 2 * (TIMEOUT + SLACK) + SLACK;
    let record = loop {
        let record = bus.delivery(&delivery).await.unwrap().unwrap();
        let settled = match record.state {
            State::Leased { .. } => false,
            // Later than the schedule says: the receiver asked for it.
            State::Waiting { due } => record
                .attempts
                .last()
                .is_some_and(|last| due.since(last.at) > 2 * (TIMEOUT + SLACK)),
            _ => true,
        };
        if settled || Instant::now() > end {
            break record;
        }
        // tidy: allow(sleep): polls a condition with a deadline
        sleep(Duration::from_millis(3)).await;
    };
    let took = started.elapsed();
    bus.shutdown(SLACK).await.unwrap();
    (record, took)
}

fn compare(name: &str, expect: &Expect, found: &(DeliveryRecord, Duration)) -> Result<(), String> {
    let (record, took) = found;
    let wrong = |what: &str| Err(format!("{name}: {what}: expected {expect:?}, found {record:?}"));
    let ended = match (expect.end, &record.state) {
        (End::Delivered, State::Delivered) => true,
        (End::Exhausted, State::Dead { reason }) => *reason == DeadReason::Exhausted,
        (End::Rejected, State::Dead { reason }) => *reason == DeadReason::Rejected,
        (End::Gone, State::Dead { reason }) => *reason == DeadReason::Gone,
        (End::Later(seconds), State::Waiting { due }) => {
            due.since(record.attempts[0].at) >= Duration::from_secs(seconds)
        }
        _ => false,
    };
    if !ended {
        return wrong("another end");
    }
    if record.attempts.len() != expect.attempts {
        return wrong("another number of attempts");
    }
    let last = record.attempts.last().expect("there was an attempt");
    if (last.cause, last.status) != (expect.cause, expect.status) {
        return wrong("another cause or status");
    }
    if !last.message.contains(expect.words) {
        return wrong("other words");
    }
    let limit = TIMEOUT + SLACK;
    let slow = |ms: u64| Duration::from_millis(ms) > limit;
    if record.attempts.iter().any(|attempt| slow(attempt.took_ms)) || *took > 2 * limit {
        return wrong(&format!("{took:?} is too long"));
    }
    Ok(())
}
