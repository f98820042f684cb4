//! The contract of a [`Sink`], as a suite that anybody's sink can run.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;

use super::sealed;
use crate::delivery::DeliveryId;
use crate::event::NewEvent;
use crate::sink::{Attempt, Sink};
use crate::time::Timestamp;

/// Longest time that any one step of the suite may take.
const STEP_MAX: Duration = Duration::from_secs(30);

/// Runs the contract against a sink whose place answers well; panics with the broken rule.
///
/// `open` makes a sink that is ready to deliver; it is called once for each rule. What it delivers
/// to must take everything over: the suite asks that each outcome be an ack.
///
/// ```no_run
/// # use postrider::testing::RecordingSink;
/// # async fn example() {
/// postrider::testing::sink::contract(async || RecordingSink::default()).await;
/// # }
/// ```
///
/// # Panics
/// Where the sink breaks a rule.
pub async fn contract<S, F>(open: impl Fn() -> F)
where
    S: Sink,
    F: Future<Output = S>,
{
    one_outcome_for_each(&open().await).await;
    many_calls_at_once(Arc::new(open().await)).await;
    odd_payloads(&open().await).await;
    a_dropped_call_does_no_harm(&open().await).await;
    closes(&open().await).await;
}

/// An attempt of one event, the `number`th of a batch.
pub fn attempt(kind: &str, payload: &str, number: usize) -> Attempt {
    let event = NewEvent::raw(kind, payload.to_owned()).expect("a valid event");
    let event = event.id(format!("contract-{number}").parse().expect("a valid id"));
    let event = sealed(event.key("key").attribute("source", "contract"));
    let delivery = DeliveryId::new("contract".parse().expect("a valid id"), event.id().clone());
    Attempt::new(
        delivery,
        event,
        1,
        Timestamp::from_millis(1_764_513_045_123),
        Duration::from_secs(10),
    )
}

async fn within<T>(rule: &str, step: impl Future<Output = T>) -> T {
    tokio::time::timeout(STEP_MAX, step)
        .await
        .unwrap_or_else(|_| panic!("{rule}: took over {STEP_MAX:?}"))
}

async fn deliver_well(rule: &str, sink: &impl Sink, batch: &[Attempt]) {
    let outcomes = within(rule, sink.deliver(batch)).await;
    assert_eq!(outcomes.len(), batch.len(), "{rule}: one outcome for each delivery");
    for (attempt, outcome) in batch.iter().zip(outcomes) {
        if let Err(nack) = outcome {
            panic!(
                "{rule}: {} was not taken over: {:?} {}",
                attempt.delivery,
                nack.cause(),
                nack.message()
            );
        }
    }
}

async fn one_outcome_for_each(sink: &impl Sink) {
    let rule = "one outcome for each delivery, for batches of one up to batch_max";
    let max = sink.batch_max();
    assert!(max >= 1, "{rule}: batch_max is 0");
    for size in [1, 2, max.min(64)] {
        if size <= max {
            let batch: Vec<Attempt> =
                (0..size).map(|number| attempt("match", r#"{"n":1}"#, number)).collect();
            deliver_well(rule, sink, &batch).await;
        }
    }
}

async fn many_calls_at_once(sink: Arc<impl Sink>) {
    let rule = "16 calls at once all end well";
    let calls: Vec<_> = (0..16)
        .map(|number| {
            let sink = Arc::clone(&sink);
            tokio::spawn(async move {
                deliver_well(rule, &*sink, &[attempt("match", r#"{"n":1}"#, number)]).await;
            })
        })
        .collect();
    for call in calls {
        if let Err(error) = call.await {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

async fn odd_payloads(sink: &impl Sink) {
    let rule = "any JSON is taken over";
    for (number, payload) in
        ["null", "0", "\"\"", "[]", "{}", " {\n \"a\" : 1e400 }\r\n", "\"\\u0000\\ud83d\\ude00\""]
            .into_iter()
            .enumerate()
    {
        deliver_well(rule, sink, &[attempt("model.uploaded", payload, number)]).await;
    }
    let large = format!("\"{}\"", "x".repeat(300_000));
    deliver_well(rule, sink, &[attempt("large", &large, 99)]).await;
}

async fn a_dropped_call_does_no_harm(sink: &impl Sink) {
    let rule = "a call that is dropped half-way does not break the next";
    for _ in 0..8 {
        let batch = [attempt("match", r#"{"n":1}"#, 0)];
        // Polled once, then dropped: as far as the sink gets without waiting.
        let _ = sink.deliver(&batch).now_or_never();
    }
    deliver_well(rule, sink, &[attempt("match", r#"{"n":2}"#, 1)]).await;
}

async fn closes(sink: &impl Sink) {
    let rule = "close ends after deliveries";
    deliver_well(rule, sink, &[attempt("match", r#"{"n":1}"#, 0)]).await;
    if let Err(error) = within(rule, sink.close()).await {
        panic!("{rule}: failed to {}", error.chain());
    }
}
