//! One call into a sink: the attempt itself, its limits, and what its outcomes mean.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;
use tracing::Instrument;

use super::Shared;
use crate::delivery::{
    AttemptRecord, Cause, DeadReason, Decision, MESSAGE_BYTES_MAX, Nack, Outcome, decide,
};
use crate::endpoint::{Endpoint, Gone};
use crate::lane::Lane;
use crate::refresh::Refreshes;
use crate::sink::Attempt;
use crate::store::{Lease, Settlement};
use crate::time::Timestamp;

/// How much longer than its timeout a sink's call may take, so that a sink which keeps the time
/// itself can say in which phase it ran out.
const TIMEOUT_GRACE: Duration = Duration::from_millis(250);

/// Makes one attempt for each lease: one call into the sink. Always returns one settlement for each
/// lease, in order, whatever the sink does.
pub(super) async fn attempt(
    shared: &Shared,
    lane: &Lane,
    endpoint: &Endpoint,
    leases: Vec<Lease>,
) -> Vec<Settlement> {
    let clock = &*shared.clock;
    let started = clock.now();
    let mut settlements = Vec::with_capacity(leases.len());
    let mut batch = Vec::with_capacity(leases.len());
    let mut called = Vec::with_capacity(leases.len());
    for lease in leases {
        if lease.event.expires_at().is_some_and(|deadline| started >= deadline) {
            tracing::info!(endpoint = %endpoint.id, event = %lease.event.id(), "event expired");
            settlements.push(unattempted(lease, Decision::Expired));
            continue;
        }
        if lane.drops() {
            tracing::info!(endpoint = %endpoint.id, event = %lease.event.id(), "dropped: endpoint is disabled");
            settlements.push(unattempted(lease, Decision::Dead(DeadReason::Disabled)));
            continue;
        }
        batch.push(Attempt {
            delivery: lease.delivery,
            event: lease.event,
            number: lease.attempts + 1,
            now: started,
            timeout: endpoint.policy.timeout,
        });
        called.push(lease.fence);
    }
    if batch.is_empty() {
        return settlements;
    }
    let clock_started = Instant::now();
    let outcomes = call(endpoint, &shared.refreshes, &batch).await;
    let took = clock_started.elapsed();
    let ended = clock.now();
    let reported = outcomes.len();
    if reported > batch.len() {
        tracing::error!(
            endpoint = %endpoint.id, expected = batch.len(), reported,
            "sink reported more outcomes than deliveries; the rest is dropped"
        );
    }
    let mut outcomes = outcomes.into_iter();
    for (attempt, fence) in batch.into_iter().zip(called) {
        let outcome = outcomes.next().unwrap_or_else(|| {
            Err(Nack::retry(
                Cause::Sink,
                format!("the sink reported only {reported} outcomes of its batch"),
            ))
        });
        let decision = decide(
            &outcome,
            attempt.number,
            &endpoint.policy.retry,
            attempt.event.time(),
            attempt.event.expires_at(),
            ended,
            clock.random(),
        );
        log(&attempt, &outcome, decision, took);
        let policy = &endpoint.policy;
        let paused = lane.pace().ended(policy, &outcome, took, Instant::now());
        if let Some(pause) = paused {
            tracing::info!(endpoint = %endpoint.id, ?pause, "lane pauses, then tries a single delivery");
        }
        shared.desk.attempted(endpoint, lane.failures(), &attempt, &outcome, decision, ended);
        settlements.push(Settlement {
            delivery: attempt.delivery,
            fence,
            attempt: Some(record(attempt.number, started, took, outcome)),
            decision,
        });
    }
    settlements
}

/// Ends a delivery without an attempt.
fn unattempted(lease: Lease, decision: Decision) -> Settlement {
    Settlement { delivery: lease.delivery, fence: lease.fence, attempt: None, decision }
}

/// What to remember where the settlement means that the endpoint wants nothing any more.
pub(super) fn says_gone(settlement: &Settlement, now: Timestamp) -> Option<Gone> {
    (settlement.decision == Decision::Dead(DeadReason::Gone)).then(|| Gone {
        since: now,
        status: settlement.attempt.as_ref().and_then(|attempt| attempt.status),
        delivery: settlement.delivery.clone(),
        failing_since: None,
    })
}

/// Calls the sink within the timeout; a panic or a timeout counts for every delivery of the batch.
async fn call(endpoint: &Endpoint, refreshes: &Refreshes, batch: &[Attempt]) -> Vec<Outcome> {
    let first = &batch[0];
    let span = tracing::debug_span!(
        "attempt",
        endpoint = %endpoint.id,
        event = %first.event.id(),
        attempt = first.number,
        batch = batch.len(),
    );
    // Wrapped while it is made too: the body of a hand-written `deliver` may panic before its future
    // exists. A sink that panicked is called again: its state is its own responsibility, and the
    // alternative is never to deliver.
    let guarded = AssertUnwindSafe(refreshed(endpoint, refreshes, batch)).catch_unwind();
    let timed =
        tokio::time::timeout(endpoint.policy.timeout + TIMEOUT_GRACE, guarded.instrument(span));
    let nack = match timed.await {
        Ok(Ok(outcomes)) => return outcomes,
        Ok(Err(panic)) => {
            let message = panic_message(&*panic);
            tracing::error!(endpoint = %endpoint.id, message, "sink panicked");
            Nack::retry(Cause::Panic, format!("the sink panicked: {message}"))
        }
        Err(_) => Nack::retry(
            Cause::Timeout,
            format!("no outcome within the timeout of {:?}", endpoint.policy.timeout),
        ),
    };
    vec![Err(nack); batch.len()]
}

/// Has what is to be refreshed refreshed, and hands the batch to the sink without what could not be.
async fn refreshed(endpoint: &Endpoint, refreshes: &Refreshes, batch: &[Attempt]) -> Vec<Outcome> {
    if !batch.iter().any(|attempt| refreshes.are_for(attempt)) {
        return endpoint.sink.deliver(batch).await;
    }
    let mut ready = Vec::with_capacity(batch.len());
    let mut failed = Vec::with_capacity(batch.len());
    let renew = batch.iter().map(|attempt| refreshes.apply(attempt.clone()));
    for renewed in futures_util::future::join_all(renew).await {
        failed.push(match renewed {
            Ok(attempt) => {
                ready.push(attempt);
                None
            }
            Err(nack) => Some(nack),
        });
    }
    let outcomes = if ready.is_empty() { Vec::new() } else { endpoint.sink.deliver(&ready).await };
    let mut outcomes = outcomes.into_iter();
    // Ends where the sink's outcomes do: those that are missing are the caller's to tell of.
    failed.into_iter().map_while(|nack| nack.map(Err).or_else(|| outcomes.next())).collect()
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    &text[..text.floor_char_boundary(MESSAGE_BYTES_MAX)]
}

fn record(number: u32, at: Timestamp, took: Duration, outcome: Outcome) -> AttemptRecord {
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let (cause, message, status, answer) = match outcome {
        Ok(ack) => (None, String::new(), ack.status, ack.answer),
        Err(nack) => (Some(nack.cause), nack.message, nack.status, nack.answer),
    };
    AttemptRecord { number, at, took_ms, cause, message, status, answer }
}

/// One line for each failed attempt; successes are for the curious.
fn log(attempt: &Attempt, outcome: &Outcome, decision: Decision, took: Duration) {
    let (endpoint, event, number) =
        (attempt.delivery.endpoint(), attempt.event.id(), attempt.number);
    let Err(nack) = outcome else {
        tracing::debug!(%endpoint, %event, attempt = number, ?took, "delivered");
        return;
    };
    let (cause, message) = (nack.cause(), nack.message());
    match decision {
        Decision::RetryAt(at) => {
            tracing::info!(%endpoint, %event, attempt = number, ?cause, message, retry_at = %at, "attempt failed");
        }
        // The lane tells of it, once for all attempts under way.
        Decision::Dead(DeadReason::Gone) => {
            tracing::debug!(%endpoint, %event, attempt = number, ?cause, message, "delivery given up");
        }
        _ => {
            tracing::warn!(%endpoint, %event, attempt = number, ?cause, message, ?decision, "delivery given up");
        }
    }
}
