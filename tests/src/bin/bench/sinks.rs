//! Sinks for measuring: one that does nothing, and one that counts what another one does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use postrider::Error;
use postrider::delivery::{Ack, Outcome};
use postrider::sink::{Attempt, Sink};
use tokio::sync::Notify;

use crate::Failure;

/// Longest time in which a slice may be delivered.
const SLICE_MAX: Duration = Duration::from_mins(2);

/// Takes everything over and does nothing with it.
pub(crate) struct Nothing {
    /// Most deliveries in one call.
    pub(crate) batch_max: usize,
}

#[async_trait]
impl Sink for Nothing {
    async fn deliver(&self, batch: &[Attempt]) -> Vec<Outcome> {
        batch.iter().map(|_| Ok(Ack::new())).collect()
    }

    fn batch_max(&self) -> usize {
        self.batch_max
    }
}

/// Passes everything on and counts acks.
pub(crate) struct Counted<S> {
    sink: S,
    acks: Arc<Acks>,
}

/// How many deliveries have been acked.
#[derive(Default)]
pub(crate) struct Acks {
    count: AtomicUsize,
    nacks: AtomicUsize,
    awaited: AtomicUsize,
    reached: Notify,
}

impl<S: Sink> Counted<S> {
    pub(crate) fn new(sink: S) -> (Self, Arc<Acks>) {
        let acks = Arc::<Acks>::default();
        (Self { sink, acks: Arc::clone(&acks) }, acks)
    }
}

impl Acks {
    /// Says for how many acks [`reached`](Self::reached) will wait; before they can come.
    pub(crate) fn expect(&self, more: usize) {
        self.awaited.fetch_add(more, Ordering::AcqRel);
    }

    /// Waits for all that were expected, each at the first attempt.
    pub(crate) async fn reached(&self) -> Result<(), Failure> {
        let timed_out = tokio::time::timeout(SLICE_MAX, self.reached.notified()).await.is_err();
        let (count, awaited) =
            (self.count.load(Ordering::Acquire), self.awaited.load(Ordering::Acquire));
        match self.nacks.load(Ordering::Acquire) {
            0 if count == awaited && !timed_out => Ok(()),
            nacks => {
                Err(format!("deliver: {awaited} expected, {count} acks, {nacks} nacks").into())
            }
        }
    }
}

#[async_trait]
impl<S: Sink> Sink for Counted<S> {
    async fn deliver(&self, batch: &[Attempt]) -> Vec<Outcome> {
        let outcomes = self.sink.deliver(batch).await;
        let acked = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        if acked < outcomes.len() {
            self.acks.nacks.fetch_add(outcomes.len() - acked, Ordering::AcqRel);
        }
        let count = self.acks.count.fetch_add(acked, Ordering::AcqRel) + acked;
        if count >= self.acks.awaited.load(Ordering::Acquire) || acked < outcomes.len() {
            self.acks.reached.notify_one();
        }
        outcomes
    }

    fn batch_max(&self) -> usize {
        self.sink.batch_max()
    }

    async fn close(&self) -> Result<(), Error> {
        self.sink.close().await
    }
}
