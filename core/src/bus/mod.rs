//! The bus: what an application holds.

mod alerts;
mod builder;
mod history;
mod receipt;
mod subscription;

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

pub use builder::{BATCH_BYTES_MAX_DEFAULT, BATCH_EVENTS_MAX_DEFAULT, BusBuilder};
pub use receipt::{Left, LeftAt, Receipt};
pub use subscription::{
    Received, SUBSCRIBER_EVENTS_MAX_DEFAULT, Subscription, SubscriptionError, TypedSubscription,
};

use crate::alert::Desk;
use crate::clock::SharedClock;
use crate::config::Config;
use crate::delivery::DeliveryId;
use crate::endpoint::{Endpoint, EndpointId};
use crate::engine::Engine;
use crate::error::{Error, ErrorKind};
use crate::event::{Envelope, Event, EventId, IntoNewEvent};
use crate::filter::{Facts, Filter};
use crate::route::{Pattern, Router};
use crate::store::{Accept, Accepted, Backlog, Capabilities, DeliveryRecord, EventRecord, Store};
use crate::time::Timestamp;
use subscription::Subscriptions;

/// An event bus: accepts typed events and delivers each to every endpoint that asks for it.
///
/// Cheap to clone; all clones are one bus. It runs on the tokio runtime that it was opened on. When
/// the last clone is dropped without [`shutdown`](Self::shutdown), attempts under way are dropped
/// and a durable store keeps what is owed for the next time.
///
/// ```
/// use std::time::Duration;
/// use postrider::testing::RecordingSink;
/// use postrider::{Bus, Endpoint, Event};
/// use serde::Serialize;
///
/// #[derive(Serialize)]
/// struct Match { best_model: String, confidence: f64 }
/// impl Event for Match { const TYPE: &'static str = "match"; }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), postrider::Error> {
/// let sink = RecordingSink::default();
/// let bus = Bus::builder()
///     .endpoint(Endpoint::builder("shop", sink.clone()).events(["match"])?.build())
///     .open()
///     .await?;
/// let receipt = bus.publish(&Match { best_model: "ray_ban.glb".into(), confidence: 0.87 }).await?;
/// assert_eq!(receipt.endpoints().len(), 1);
///
/// let left = bus.shutdown(Duration::from_secs(5)).await?;
/// assert!(left.is_empty());
/// assert_eq!(sink.events()[0].id(), receipt.event());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Bus {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Store>,
    clock: SharedClock,
    engine: Engine,
    routes: ArcSwap<Routes>,
    subscriptions: Subscriptions,
    /// Where the engine reports what may become an alert.
    desk: Arc<Desk>,
    limits: Limits,
    is_closed: AtomicBool,
    /// Publishers on their way into the store.
    publishing: TaskTracker,
    /// One change of the endpoints at a time.
    changing: tokio::sync::Mutex<()>,
}

/// What one publish may bring.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_field_names, reason = "the bound comes last in every name")]
struct Limits {
    payload_bytes_max: usize,
    batch_events_max: usize,
    batch_bytes_max: usize,
}

/// How long a shutdown waits beyond its deadline for writes that had begun.
const PUBLISHERS_WAIT: Duration = Duration::from_secs(1);

/// Who asks for what; replaced as a whole.
struct Routes {
    router: Router,
    endpoints: Vec<EndpointId>,
    /// By the same places as `endpoints`; of those that are not asked for, nothing is looked at.
    filters: Vec<Option<Filter>>,
    nobody: Arc<[EndpointId]>,
}

impl Routes {
    fn new(endpoints: &[Endpoint]) -> Self {
        Self {
            router: Router::new(endpoints.iter().map(|endpoint| &endpoint.events)),
            endpoints: endpoints.iter().map(|endpoint| endpoint.id.clone()).collect(),
            filters: endpoints.iter().map(|endpoint| endpoint.filter.clone()).collect(),
            nobody: Arc::new([]),
        }
    }

    /// The endpoints that the event goes to: those whose patterns match its type, as far as their
    /// filters let it through.
    fn plan(&self, event: &Envelope, buffer: &mut Vec<u32>) -> Arc<[EndpointId]> {
        let facts = Facts::of(event);
        let passes = |target: &&u32| match &self.filters[**target as usize] {
            None => true,
            Some(filter) => filter.matches(&facts),
        };
        let targets = self.router.find(&event.kind, buffer).iter().filter(passes);
        let mut targets = targets.map(|target| self.endpoints[*target as usize].clone()).peekable();
        match targets.peek() {
            None => Arc::clone(&self.nobody),
            Some(_) => targets.collect(),
        }
    }
}

impl Bus {
    /// Builds a bus in code: memory only and without endpoints until told otherwise.
    pub fn builder() -> BusBuilder {
        BusBuilder::default()
    }

    /// Opens the bus that a configuration describes.
    ///
    /// ```
    /// use postrider::config::Config;
    /// use postrider::{Bus, NewEvent};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), postrider::Error> {
    /// // With the sinks of a registry: `Config::loader().registry(&postrider_sinks::registry())`.
    /// let config = Config::loader().set("bus.batch_events_max", 100).load()?;
    /// let bus = Bus::open(config).await?;
    /// let receipt = bus.publish(NewEvent::raw("match", r#"{"confidence":0.87}"#)?).await?;
    /// assert!(receipt.endpoints().is_empty(), "nobody asks for it");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`BusBuilder::open`].
    pub async fn open(config: Config) -> Result<Self, Error> {
        Self::builder().config(config).open().await
    }

    /// Publishes one event: returns when the event *and* the list of endpoints it goes to are held
    /// by the store as durably as it says ([`Receipt::durability`]). Delivery follows by itself.
    ///
    /// Takes a typed event (by value or reference) or a [`NewEvent`](crate::NewEvent). An id that
    /// was published before, within the store's dedup window, returns the first receipt.
    ///
    /// # Errors
    /// `Invalid` where the event breaks a rule or its own `validate` refuses it; `TooLarge`;
    /// `Full` where the backlog limit is reached and the store is set to refuse; `Closed` after
    /// [`shutdown`](Self::shutdown); `Store`. After an error nothing was accepted.
    ///
    /// # Cancel safety
    /// Dropped before it returns, the event may have been accepted or not. To find out, publish
    /// again with the same id.
    pub async fn publish(&self, event: impl IntoNewEvent + Send) -> Result<Receipt, Error> {
        let now = self.inner.clock.now();
        let event = self.seal(event, now)?;
        let span = tracing::debug_span!("publish", event = %event.id, r#type = %event.kind);
        let accept = async {
            let mut accepted = self.accept(std::slice::from_ref(&event), now).await?;
            let accepted = accepted.pop().expect("a store answers for each event");
            Ok(self.announce(&event, accepted))
        };
        accept.instrument(span).await
    }

    /// Publishes several events in one write: all are accepted, or none. Receipts come in the order
    /// of the events.
    ///
    /// At most 1,000 events and 16 MiB of payload together, unless built otherwise.
    ///
    /// # Errors
    /// Those of [`publish`](Self::publish), for the first event that is refused.
    ///
    /// # Cancel safety
    /// As for [`publish`](Self::publish), for the batch as a whole.
    pub async fn publish_all<E>(
        &self,
        events: impl IntoIterator<Item = E, IntoIter: Send> + Send,
    ) -> Result<Vec<Receipt>, Error>
    where
        E: IntoNewEvent + Send,
    {
        let limits = &self.inner.limits;
        let now = self.inner.clock.now();
        let mut batch = Vec::new();
        let mut bytes = 0_usize;
        for event in events {
            let envelope = self.seal(event, now)?;
            bytes += envelope.payload.len();
            batch.push(envelope);
            if batch.len() > limits.batch_events_max || bytes > limits.batch_bytes_max {
                let what = format!(
                    "publish a batch: expected at most {} events and {} bytes of payload together \
                     (bus.batch_events_max, bus.batch_bytes_max)",
                    limits.batch_events_max, limits.batch_bytes_max
                );
                return Err(Error::new(ErrorKind::TooLarge, what));
            }
        }
        let span = tracing::debug_span!("publish", events = batch.len());
        let accept = async {
            let accepted = self.accept(&batch, now).await?;
            let both = batch.iter().zip(accepted);
            Ok(both.map(|(event, accepted)| self.announce(event, accepted)).collect())
        };
        accept.instrument(span).await
    }

    fn seal(&self, event: impl IntoNewEvent, now: Timestamp) -> Result<Arc<Envelope>, Error> {
        let new = event.into_new_event()?;
        new.check_name()?;
        let payload_bytes_max = self.inner.limits.payload_bytes_max;
        new.seal_at(now, &*self.inner.clock, payload_bytes_max).map(Arc::new)
    }

    /// Routes events and has the store accept them; `now` is when that is.
    async fn accept(
        &self,
        events: &[Arc<Envelope>],
        now: Timestamp,
    ) -> Result<Vec<Accepted>, Error> {
        let inner = &*self.inner;
        // Taken before looking: a shutdown waits for whoever has found the bus open.
        let _publishing = inner.publishing.token();
        if inner.is_closed.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Closed, "publish an event: the bus is shut down"));
        }
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let batch: Vec<Accept> = {
            let routes = inner.routes.load();
            let mut buffer = Vec::new();
            let accept = events.iter().map(|event| Accept {
                event: Arc::clone(event),
                endpoints: routes.plan(event, &mut buffer),
            });
            accept.collect()
        };
        inner.store.accept(batch, now).await
    }

    /// Tells subscribers of an accepted event, and makes the publisher's receipt.
    fn announce(&self, event: &Arc<Envelope>, accepted: Accepted) -> Receipt {
        if !accepted.duplicate {
            self.inner.subscriptions.send(event);
        }
        Receipt::new(event.id.clone(), accepted, self.capabilities().durability)
    }

    /// Subscribes to a typed event, within this process.
    ///
    /// A subscription sees what is accepted after it was made, in the order of acceptance as far as
    /// publishers wait for each other. It never holds the bus up: one that falls more than 1,024
    /// events behind (unless built otherwise) loses the oldest and is told how many.
    pub fn subscribe<E: Event + serde::de::DeserializeOwned>(&self) -> TypedSubscription<E> {
        TypedSubscription::new(self.inner.subscriptions.subscribe(vec![Pattern::exact(&E::NAME)]))
    }

    /// Subscribes to every event whose type matches one of the patterns, within this process; as
    /// [`subscribe`](Self::subscribe) otherwise.
    ///
    /// # Errors
    /// `Invalid` for a pattern that breaks the rules of [`Pattern`].
    pub fn subscribe_to<'a>(
        &self,
        patterns: impl IntoIterator<Item = &'a str>,
    ) -> Result<Subscription, Error> {
        let patterns: Result<Vec<Pattern>, _> = patterns.into_iter().map(str::parse).collect();
        let patterns = patterns
            .map_err(|error| Error::new(ErrorKind::Invalid, format!("subscribe: {error}")))?;
        Ok(self.inner.subscriptions.subscribe(patterns))
    }

    /// The endpoints that are served, in no order.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.inner.engine.endpoints()
    }

    /// Serves exactly these endpoints from now on, without stopping anything.
    ///
    /// Events accepted before keep the endpoints they were promised to: what is owed to an endpoint
    /// that is missing here is held until it is back. Attempts under way end with the sink that they
    /// began with; a sink that is no longer used is then closed.
    ///
    /// # Errors
    /// `Config` where two endpoints have one id, or one is to keep an order and the store has no history
    /// or is shared; nothing changes then. `Closed`.
    pub async fn set_endpoints(&self, endpoints: Vec<Endpoint>) -> Result<(), Error> {
        builder::check_ids(&endpoints)?;
        let _one_at_a_time = self.inner.changing.lock().await;
        if self.inner.is_closed.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Closed, "change endpoints: the bus is shut down"));
        }
        self.inner.engine.check(&endpoints)?;
        self.inner.routes.store(Arc::new(Routes::new(&endpoints)));
        self.inner.engine.set_endpoints(endpoints);
        Ok(())
    }

    /// Waits until nothing is owed to any endpoint that is served and enabled, and nothing is under way
    /// at one that is not (any more), but at most `wait`;
    /// tells what is still owed then, held deliveries included.
    ///
    /// # Errors
    /// `Store` where the store cannot tell.
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn flush(&self, wait: Duration) -> Result<Left, Error> {
        let done = |backlog: &Backlog, is_open: bool| !is_open || backlog.owed() == 0;
        // A limit that passes is an answer too: what is left is told below.
        if let Ok(failed) = tokio::time::timeout(wait, self.inner.engine.wait_until(done)).await {
            failed?;
        }
        Ok(Left::new(self.inner.engine.backlog().await?))
    }

    /// Begins no further attempt, and waits until those under way have ended, but at most `wait`. Events
    /// are still accepted, and kept for the next start. For an orderly end of a program that must be
    /// gone soon: what [`shutdown`](Self::shutdown) breaks off may have reached its receiver, and is
    /// sent again.
    ///
    /// # Cancel safety
    /// Safe; no attempt begins all the same.
    pub async fn drain(&self, wait: Duration) {
        self.inner.engine.drain(wait).await;
    }

    /// Ends the bus: refuses further events, stops replays, goes on delivering what is due until nothing more is
    /// or `deadline` has passed, drops attempts that are then still under way, closes every sink and
    /// the store, and tells what is left. A durable store keeps that for the next time.
    ///
    /// # Errors
    /// `Store` where the store cannot be read or closed; everything else has ended all the same.
    /// A second call returns `Closed`.
    ///
    /// # Cancel safety
    /// Dropped before it returns, the bus refuses events but goes on delivering until the last clone
    /// is dropped.
    pub async fn shutdown(&self, deadline: Duration) -> Result<Left, Error> {
        let inner = &*self.inner;
        if inner.is_closed.swap(true, Ordering::SeqCst) {
            return Err(Error::new(
                ErrorKind::Closed,
                "shut the bus down: it is shut down already",
            ));
        }
        let _no_more_changes = inner.changing.lock().await;
        let done = |backlog: &Backlog, is_open: bool| {
            // A lane that pauses has nothing to do before the next start.
            let is_paused = || inner.engine.paused_until(&backlog.endpoint).is_some();
            !is_open || backlog.leased == 0 && (backlog.ready == 0 || is_paused())
        };
        inner.publishing.close();
        let drain = async {
            inner.publishing.wait().await;
            // What replays have not made yet is made after the next start.
            inner.engine.stop_replays().await;
            inner.engine.wait_until(done).await
        };
        let drained = tokio::time::timeout(deadline, drain).await;
        let is_open: HashSet<EndpointId> = inner
            .engine
            .endpoints()
            .into_iter()
            .filter(|endpoint| inner.engine.is_open(&endpoint.id) == Some(true))
            .map(|endpoint| endpoint.id)
            .collect();
        inner.engine.stop().await;
        inner.raise_rest().await;
        inner.subscriptions.close();
        // A slow write that had begun before the deadline is told with what is left.
        let _ = tokio::time::timeout(PUBLISHERS_WAIT, inner.publishing.wait()).await;
        let backlog = inner.store.backlog(inner.clock.now()).await;
        inner.store.close().await?;
        if let Ok(failed) = drained {
            failed?;
        }
        let backlog = backlog?.into_iter().map(|backlog| {
            let is_open = is_open.contains(&backlog.endpoint);
            (backlog, is_open)
        });
        let left = Left::new(backlog.collect());
        tracing::info!(left = left.total(), "bus shut down");
        Ok(left)
    }

    /// What is owed to each endpoint now, and whether its deliveries are held.
    ///
    /// # Errors
    /// `Store` where the store cannot tell.
    pub async fn backlog(&self) -> Result<Left, Error> {
        Ok(Left::new(self.inner.engine.backlog().await?))
    }

    /// An event with its deliveries and their attempts; `None` where it is unknown or past
    /// retention.
    ///
    /// # Errors
    /// `Store`.
    pub async fn event(&self, id: &EventId) -> Result<Option<EventRecord>, Error> {
        self.inner.store.event(id).await
    }

    /// One delivery with its attempts; `None` where it is unknown or past retention.
    ///
    /// # Errors
    /// `Store`.
    pub async fn delivery(&self, id: &DeliveryId) -> Result<Option<DeliveryRecord>, Error> {
        self.inner.store.delivery(id).await
    }

    /// Whether the endpoint's deliveries are attempted; `Some(false)` while they are held (disabled
    /// in the configuration, or by the receiver's own wish), `None` where it is not served.
    pub fn is_open(&self, endpoint: &EndpointId) -> Option<bool> {
        self.inner.engine.is_open(endpoint)
    }

    /// What the store truly gives.
    pub fn capabilities(&self) -> Capabilities {
        self.inner.store.capabilities()
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus").field("store", &self.inner.store).finish_non_exhaustive()
    }
}
