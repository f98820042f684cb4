//! The seam to the places that events go to: what a plugin implements, and the registry that finds
//! it by name.
//!
//! A sink reports what happened and nothing else: it never sleeps, retries or remembers. When to
//! try again, in what order and how fast is the engine's.

mod registry;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use registry::{CheckContext, PreparedSink, Problem, Registry, SinkFactory};

use crate::delivery::{Cause, DeliveryId, Nack, Outcome};
use crate::error::Error;
use crate::event::Envelope;
use crate::time::Timestamp;

/// One try of one delivery, as handed to a sink.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Attempt {
    /// Which delivery.
    pub delivery: DeliveryId,
    /// The event, the same on every attempt.
    pub event: Arc<Envelope>,
    /// Counts from 1.
    pub number: u32,
    /// The wall time when this attempt started: what a signature's timestamp carries.
    pub now: Timestamp,
    /// How long the attempt may take; after it the engine drops it and counts a timeout.
    pub timeout: Duration,
}

impl Attempt {
    /// An attempt, for tests and for sinks that wrap others.
    pub fn new(
        delivery: DeliveryId,
        event: Arc<Envelope>,
        number: u32,
        now: Timestamp,
        timeout: Duration,
    ) -> Self {
        Self { delivery, event, number, now, timeout }
    }
}

/// Code that can deliver events to one place.
///
/// One value serves one endpoint and lives until the endpoint is removed or replaced; it is called
/// from many tasks at once.
///
/// ```
/// use async_trait::async_trait;
/// use postrider::delivery::{Ack, Outcome};
/// use postrider::sink::{Attempt, Sink};
///
/// struct Print;
///
/// #[async_trait]
/// impl Sink for Print {
///     async fn deliver(&self, batch: &[Attempt]) -> Vec<Outcome> {
///         batch
///             .iter()
///             .map(|attempt| {
///                 println!("{} {}", attempt.event.event_type(), attempt.event.payload_str());
///                 Ok(Ack::new())
///             })
///             .collect()
///     }
/// }
/// ```
#[async_trait]
pub trait Sink: Send + Sync + 'static {
    /// Makes one attempt for each delivery of `batch`, 1 to [`batch_max`](Self::batch_max) of them,
    /// and returns one outcome for each, in the same order.
    ///
    /// A panic, or an outcome that is missing, counts as a failure that is retried; an outcome too
    /// many is dropped and reported.
    ///
    /// # Cancel safety
    /// The engine drops the future when the timeout passes or a shutdown's deadline ends. A sink
    /// must then hold nothing that breaks its next call. What the receiver already took over is
    /// delivered again: at least once.
    async fn deliver(&self, batch: &[Attempt]) -> Vec<Outcome>;

    /// Most deliveries that one call takes. Default 1.
    fn batch_max(&self) -> usize {
        1
    }

    /// How long the first delivery that comes to an idle lane waits for others, so that they go in
    /// one call. A lane that is behind never waits. Default zero; more than 10 s counts as 10 s.
    fn batch_linger(&self) -> Duration {
        Duration::ZERO
    }

    /// Asks whether the place can be reached, without delivering anything. Default: yes.
    ///
    /// # Errors
    /// The failure that a delivery would meet now.
    async fn check(&self) -> Result<(), Nack> {
        Ok(())
    }

    /// Finishes: flushes what is buffered and lets go of files and connections. Called once, after
    /// the last `deliver` has ended; no more calls follow. Default: nothing.
    ///
    /// # Errors
    /// What could not be finished; it is logged.
    async fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// A shared sink is a sink.
#[async_trait]
impl<S: Sink + ?Sized> Sink for Arc<S> {
    async fn deliver(&self, batch: &[Attempt]) -> Vec<Outcome> {
        (**self).deliver(batch).await
    }

    fn batch_max(&self) -> usize {
        (**self).batch_max()
    }

    fn batch_linger(&self) -> Duration {
        (**self).batch_linger()
    }

    async fn check(&self) -> Result<(), Nack> {
        (**self).check().await
    }

    async fn close(&self) -> Result<(), Error> {
        (**self).close().await
    }
}

/// The sink of a bus that delivers nothing.
pub(crate) struct NoSink;

#[async_trait]
impl Sink for NoSink {
    async fn deliver(&self, batch: &[Attempt]) -> Vec<Outcome> {
        let refused = || Err(Nack::retry(Cause::Sink, "this bus was opened without delivery"));
        batch.iter().map(|_| refused()).collect()
    }
}
