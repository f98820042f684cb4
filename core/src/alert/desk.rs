//! Where the engine reports what may become an alert, and from where the bus takes them.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::board::{Alert, Board};
use super::{DeliveryDead, EndpointDisabled, EndpointFailing, Policy};
use crate::delivery::{Cause, DeadReason, Decision, Outcome};
use crate::endpoint::{Endpoint, EndpointId, Gone};
use crate::sink::Attempt;
use crate::store::Backlog;
use crate::time::Timestamp;

/// An alert that waits for its interval learns of every so many further failures.
const AGAIN_EVERY: u32 = 64;

/// Collects what the engine reports. Attempts that succeed at a healthy endpoint cost one load.
pub(crate) struct Desk {
    failing_after: u32,
    board: Mutex<Board>,
    has_news: Notify,
}

impl Desk {
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            failing_after: policy.failing_after,
            board: Mutex::new(Board::new(policy)),
            has_news: Notify::new(),
        }
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().expect("no code panics while it holds this lock")
    }

    /// An attempt has ended. `failures` counts those of the endpoint that failed in a row.
    pub(crate) fn attempted(
        &self,
        endpoint: &Endpoint,
        failures: &AtomicU32,
        attempt: &Attempt,
        outcome: &Outcome,
        decision: Decision,
        now: Timestamp,
    ) {
        if attempt.event.event_type().is_reserved() {
            return;
        }
        let Err(nack) = outcome else {
            if failures.load(Ordering::Relaxed) != 0
                && failures.swap(0, Ordering::Relaxed) >= self.failing_after
            {
                self.board().recovered(&endpoint.id, now);
                self.has_news.notify_one();
            }
            return;
        };
        let name = || endpoint.name.to_string();
        // What is wrong with the event says nothing about the endpoint.
        if nack.cause != Cause::Format {
            let count = failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
            let is_again = count > self.failing_after && count.is_multiple_of(AGAIN_EVERY);
            if count == self.failing_after || is_again {
                self.board().failing(EndpointFailing {
                    endpoint: endpoint.id.clone(),
                    name: name(),
                    since: now,
                    failures: count,
                    event: attempt.event.id().clone(),
                    cause: nack.cause,
                    message: nack.message.clone(),
                    status: nack.status,
                });
                self.has_news.notify_one();
            }
        }
        if let Decision::Dead(reason) = decision {
            self.dead(endpoint, attempt, outcome, reason, now);
        }
    }

    fn dead(
        &self,
        endpoint: &Endpoint,
        attempt: &Attempt,
        outcome: &Outcome,
        reason: DeadReason,
        at: Timestamp,
    ) {
        let nack = outcome.as_ref().err();
        self.board().dead(DeliveryDead {
            endpoint: endpoint.id.clone(),
            name: endpoint.name.to_string(),
            count: 1,
            delivery: attempt.delivery.clone(),
            event_type: attempt.event.event_type().clone(),
            reason,
            attempts: attempt.number,
            cause: nack.map(|nack| nack.cause),
            message: nack.map_or_else(String::new, |nack| nack.message.clone()),
            status: nack.and_then(|nack| nack.status),
            at,
        });
        self.has_news.notify_one();
    }

    /// The receiver wants nothing any more.
    pub(crate) fn gone(&self, endpoint: &Endpoint, gone: &Gone) {
        self.board().disabled(EndpointDisabled {
            endpoint: endpoint.id.clone(),
            name: endpoint.name.to_string(),
            since: gone.since,
            reason: match gone.failing_since {
                None => "its receiver answered that it wants nothing any more".to_owned(),
                Some(since) => format!("every attempt has failed since {since}"),
            },
            status: gone.status,
            delivery: Some(gone.delivery.clone()),
        });
        self.has_news.notify_one();
    }

    /// What is owed now, and the names of endpoints.
    pub(crate) fn owed(
        &self,
        backlog: &[Backlog],
        name: impl Fn(&EndpointId) -> Option<String>,
        now: Timestamp,
    ) {
        let mut board = self.board();
        let mut was_high = board.high();
        for of in backlog {
            was_high.retain(|endpoint| *endpoint != of.endpoint);
            if let Some(name) = name(&of.endpoint) {
                board.owed(&of.endpoint, &name, of.owed(), now);
            }
        }
        // Nothing is owed to these any more.
        for endpoint in was_high {
            board.owed(&endpoint, "", 0, now);
        }
        board.retain(|endpoint| name(endpoint).is_some());
    }

    /// Waits until there may be something to tell.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn has_news(&self) {
        self.has_news.notified().await;
    }

    /// Takes what may be told now, and says when there may be more.
    pub(crate) fn due(&self, now: Instant) -> (Vec<Alert>, Option<Instant>) {
        self.board().due(now)
    }

    /// Takes everything that is pending, for a shutdown.
    pub(crate) fn rest(&self, now: Instant) -> Vec<Alert> {
        self.board().rest(now)
    }
}
