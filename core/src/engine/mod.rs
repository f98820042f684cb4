//! The engine: claims what is due, hands it to sinks, settles what they report.
//!
//! The only room that spawns tasks. One dispatcher learns from the store which endpoints have work
//! and starts a worker for each, as long as the bus-wide limit on attempts allows; a worker serves
//! its lane until nothing is in flight and nothing more is due, and ends.

mod attempt;
mod dispatcher;
mod guarded;
mod hold;
mod order;
mod permit;
mod replay;
mod worker;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::alert::Desk;
use crate::clock::SharedClock;
use crate::endpoint::{Endpoint, EndpointId, Hold};
use crate::error::{Error, ErrorKind};
use crate::lane::{Lane, Retired};
use crate::refresh::Refreshes;
use crate::store::{Backlog, Store, Target};
use crate::time::Timestamp;
use guarded::Guarded;
use replay::Replays;

/// Attempts under way at once in the whole bus, unless built otherwise.
pub const IN_FLIGHT_MAX_DEFAULT: usize = 1024;
/// How long a lease lasts by the wall clock; it is extended while the attempt runs.
pub(crate) const LEASE: Duration = Duration::from_secs(30);
/// How often running attempts have their leases extended.
pub(crate) const LEASE_TICK: Duration = Duration::from_secs(10);
/// Longest sleep before looking at the wall clock again, which may have jumped.
pub(crate) const SLEEP_MAX: Duration = Duration::from_secs(30);
/// Wait after the store failed, doubled up to `STORE_WAIT_MAX`.
pub(crate) const STORE_WAIT_MIN: Duration = Duration::from_millis(100);
/// Longest wait after the store failed.
pub(crate) const STORE_WAIT_MAX: Duration = Duration::from_secs(5);
/// Notes from workers to the dispatcher that may queue.
const NOTES_MAX: usize = 1024;

/// What a worker tells the dispatcher when it ends: when to look at the endpoint again.
pub(crate) enum LookAt {
    /// At this wall time something falls due.
    Due(EndpointId, Timestamp),
    /// The lane's pace lets nothing start before, whatever the wall clock does meanwhile.
    NotBefore(EndpointId, tokio::time::Instant),
}

/// What all tasks of the engine share.
pub(crate) struct Shared {
    pub(crate) store: Guarded,
    /// [`Capabilities::history`](crate::store::Capabilities::history).
    keeps_history: bool,
    /// Whether other processes may use the store: [`Capabilities::shared`](crate::store::Capabilities::shared).
    has_peers: bool,
    pub(crate) clock: SharedClock,
    pub(crate) desk: Arc<Desk>,
    pub(crate) refreshes: Refreshes,
    /// One permit for each call into a sink, bus-wide.
    pub(crate) permits: Arc<Semaphore>,
    /// Most permits that one lane may hold, so that one whose receiver hangs leaves some.
    pub(crate) lane_permits_max: usize,
    pub(crate) notes: mpsc::Sender<LookAt>,
    /// Endpoints that were opened, to be looked at now; at most all of them.
    opened: Mutex<Vec<EndpointId>>,
    pub(crate) has_opened: Notify,
    /// No more claims.
    pub(crate) stop_claiming: CancellationToken,
    /// Drop what is in flight.
    pub(crate) abort: CancellationToken,
    pub(crate) tasks: TaskTracker,
    /// Ticks after every settled batch.
    progress: watch::Sender<()>,
    /// One at a time notes that an endpoint is gone, or that it is not any more.
    noting: tokio::sync::Mutex<()>,
    replays: Replays,
    // A blocking mutex: held for look-ups and swaps of the map only.
    lanes: Mutex<HashMap<EndpointId, Arc<Lane>>>,
    /// Lanes of endpoints that were removed while their workers had calls under way.
    removed: Mutex<HashMap<EndpointId, Weak<Lane>>>,
    /// What receivers of endpoints said that have not been served since the start; at most as many as
    /// a store keeps notes.
    records: Mutex<HashMap<EndpointId, hold::Record>>,
}

impl Shared {
    pub(crate) fn lanes(&self) -> MutexGuard<'_, HashMap<EndpointId, Arc<Lane>>> {
        self.lanes.lock().expect("no code panics while it holds this lock")
    }

    pub(crate) fn lane(&self, id: &EndpointId) -> Option<Arc<Lane>> {
        self.lanes().get(id).cloned()
    }

    fn removed(&self) -> MutexGuard<'_, HashMap<EndpointId, Weak<Lane>>> {
        self.removed.lock().expect("no code panics while it holds this lock")
    }

    fn opened(&self) -> MutexGuard<'_, Vec<EndpointId>> {
        self.opened.lock().expect("no code panics while it holds this lock")
    }

    /// Takes the endpoints that were opened since the last call.
    pub(crate) fn take_opened(&self) -> Vec<EndpointId> {
        std::mem::take(&mut *self.opened())
    }

    pub(crate) fn tick(&self) {
        self.progress.send_replace(());
    }
}

/// What an engine is told when it starts.
pub(crate) struct Setup {
    /// Most calls into sinks at once.
    pub(crate) in_flight_max: usize,
    pub(crate) desk: Arc<Desk>,
    pub(crate) refreshes: Refreshes,
    /// Whether it delivers and goes on with replays.
    pub(crate) delivers: bool,
}

/// A running engine.
pub(crate) struct Engine {
    shared: Arc<Shared>,
}

impl Engine {
    /// Starts on the current runtime: delivers, and goes on with replays; or neither.
    ///
    /// # Errors
    /// Those of [`Store::notes`].
    pub(crate) async fn start(
        store: Arc<dyn Store>,
        clock: SharedClock,
        endpoints: Vec<Endpoint>,
        setup: Setup,
    ) -> Result<Self, Error> {
        let Setup { in_flight_max, desk, refreshes, delivers } = setup;
        order::check(&endpoints, store.capabilities())?;
        let mut records = hold::load(&*store).await?;
        let mut touched = Vec::new();
        let (notes, inbox) = mpsc::channel(NOTES_MAX);
        let lanes = endpoints.into_iter().map(|endpoint| {
            let id = endpoint.id.clone();
            (id, Arc::new(hold::lane(endpoint, &mut records, &mut touched)))
        });
        let lanes = Mutex::new(lanes.collect());
        let in_flight_max = in_flight_max.clamp(1, Semaphore::MAX_PERMITS);
        let capabilities = store.capabilities();
        let shared = Arc::new(Shared {
            store: Guarded(store),
            keeps_history: capabilities.history,
            has_peers: capabilities.shared,
            replays: Replays::new(clock.random()),
            noting: tokio::sync::Mutex::new(()),
            clock,
            desk,
            refreshes,
            permits: Arc::new(Semaphore::new(in_flight_max)),
            lane_permits_max: in_flight_max.div_ceil(2),
            notes,
            opened: Mutex::default(),
            has_opened: Notify::new(),
            stop_claiming: CancellationToken::new(),
            abort: CancellationToken::new(),
            tasks: TaskTracker::new(),
            progress: watch::Sender::new(()),
            lanes,
            removed: Mutex::default(),
            records: Mutex::new(records),
        });
        if !touched.is_empty() {
            shared.tasks.spawn(hold::forget(Arc::clone(&shared), touched));
        }
        if delivers {
            shared.tasks.spawn(dispatcher::run(Arc::clone(&shared), inbox));
        }
        if delivers && capabilities.history {
            shared.tasks.spawn(replay::run(Arc::clone(&shared)));
        }
        Ok(Self { shared })
    }

    /// Whether these endpoints may be served.
    ///
    /// # Errors
    /// `Config` where one is to keep an order and the store does not let it.
    pub(crate) fn check(&self, endpoints: &[Endpoint]) -> Result<(), Error> {
        order::check(endpoints, self.shared.store.0.capabilities())
    }

    /// Dead deliveries were purged: what waits behind them goes on.
    pub(crate) fn purged(&self, targets: &[&Target]) {
        order::purged(&self.shared, targets);
    }

    /// Serves exactly these endpoints from now on. Attempts under way end with the sink that they
    /// began with; a sink that is no longer used is closed after its last call.
    pub(crate) fn set_endpoints(&self, endpoints: Vec<Endpoint>) {
        let mut retired = Vec::new();
        let mut opened = Vec::new();
        let mut touched = Vec::new();
        {
            let mut lanes = self.shared.lanes();
            let mut removed = self.shared.removed();
            removed.retain(|_, lane| lane.strong_count() > 0);
            let mut records =
                self.shared.records.lock().expect("no code panics while it holds this lock");
            let mut kept: HashMap<EndpointId, Arc<Lane>> = HashMap::with_capacity(endpoints.len());
            for endpoint in endpoints {
                let id = endpoint.id.clone();
                let lane = if let Some(lane) = lanes.remove(&id) {
                    let was_open = lane.is_open();
                    let (old, is_back) = lane.replace(endpoint);
                    retired.extend(old);
                    if is_back {
                        touched.push(id.clone());
                    }
                    if !was_open || lane.drops() {
                        opened.push(id.clone());
                    }
                    lane
                } else {
                    opened.push(id.clone());
                    // One lane for one endpoint: only its worker knows what is under way, and keeps
                    // those leases.
                    match removed.remove(&id).and_then(|lane| lane.upgrade()) {
                        Some(lane) => {
                            if lane.put_back(endpoint) {
                                touched.push(id.clone());
                            }
                            lane
                        }
                        None => Arc::new(hold::lane(endpoint, &mut records, &mut touched)),
                    }
                };
                kept.insert(id, lane);
            }
            for (id, lane) in lanes.drain() {
                retired.extend(lane.remove());
                if lane.clear_gone() {
                    touched.push(id.clone());
                }
                removed.insert(id, Arc::downgrade(&lane));
            }
            *lanes = kept;
        }
        for retired in retired {
            self.shared.tasks.spawn(close(retired));
        }
        if !touched.is_empty() && self.shared.keeps_history {
            self.shared.tasks.spawn(hold::forget(Arc::clone(&self.shared), touched));
        }
        // What was held may go now.
        self.shared.opened().extend(opened);
        self.shared.has_opened.notify_one();
    }

    /// The endpoints served now.
    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        self.shared.lanes().values().map(|lane| lane.serving().endpoint.clone()).collect()
    }

    /// Is cancelled when the engine stops.
    pub(crate) fn stopping(&self) -> CancellationToken {
        self.shared.stop_claiming.clone()
    }

    /// Runs a task that ends when the engine stops; stopping waits for it.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.shared.tasks.spawn(task);
    }

    /// The name of an endpoint that is served.
    pub(crate) fn name(&self, id: &EndpointId) -> Option<String> {
        self.shared.lane(id).map(|lane| lane.serving().endpoint.name.to_string())
    }

    /// Whether the endpoint's deliveries are attempted; `None` where it is not configured.
    pub(crate) fn is_open(&self, id: &EndpointId) -> Option<bool> {
        self.shared.lane(id).map(|lane| lane.is_open())
    }

    /// Until when nothing is started at the endpoint, because its receiver failed or asked for it.
    pub(crate) fn paused_until(&self, id: &EndpointId) -> Option<Timestamp> {
        let until = self.shared.lane(id)?.paused_until()?;
        Some(self.shared.clock.now().after(until - tokio::time::Instant::now()))
    }

    /// Why the endpoint's deliveries are not attempted.
    pub(crate) fn hold(&self, id: &EndpointId) -> Option<Hold> {
        self.shared.lane(id)?.hold()
    }

    /// Attempts the endpoint's deliveries again, after its receiver wanted nothing any more.
    pub(crate) async fn enable(&self, id: &EndpointId) -> Result<(), Error> {
        let refused = |kind, why: &str| Error::new(kind, format!("enable endpoint {id:?}: {why}"));
        let Some(lane) = self.shared.lane(id) else {
            return Err(refused(ErrorKind::NotFound, "no such endpoint is served"));
        };
        hold::clear(&self.shared, &lane).await?;
        if lane.hold() == Some(Hold::Disabled) {
            return Err(refused(
                ErrorKind::Config,
                "it is disabled in the configuration (enabled)",
            ));
        }
        self.shared.opened().push(id.clone());
        self.shared.has_opened.notify_one();
        Ok(())
    }

    /// Waits until `is_done` says so of the backlog; asks after each settled batch.
    ///
    /// # Errors
    /// Those of [`Store::backlog`].
    pub(crate) async fn wait_until(
        &self,
        is_done: impl Fn(&Backlog, bool) -> bool + Send,
    ) -> Result<(), Error> {
        /// Least time between two looks at the backlog: a look costs what is owed.
        const PAUSE: Duration = Duration::from_millis(2);
        let mut progress = self.shared.progress.subscribe();
        loop {
            progress.borrow_and_update();
            let backlog = self.backlog().await?;
            // A lane that is held has settled what was under way when its task has ended.
            let is_busy = |id: &EndpointId| self.shared.lane(id).is_some_and(|lane| lane.is_busy());
            let is_done = |(backlog, is_open): &(Backlog, bool)| {
                is_done(backlog, *is_open || is_busy(&backlog.endpoint))
            };
            if backlog.iter().all(is_done) {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
            // The time limit covers a delayed delivery that falls due without any settlement.
            let _ = tokio::time::timeout(Duration::from_millis(100), progress.changed()).await;
        }
    }

    /// What is owed, and whether each endpoint's deliveries are attempted.
    pub(crate) async fn backlog(&self) -> Result<Vec<(Backlog, bool)>, Error> {
        let backlog = self.shared.store.0.backlog(self.shared.clock.now()).await?;
        Ok(backlog
            .into_iter()
            .map(|backlog| {
                let is_open = self.is_open(&backlog.endpoint).unwrap_or(false);
                (backlog, is_open)
            })
            .collect())
    }

    /// Stops claiming, drops what is in flight (giving leases back), ends every task, closes sinks.
    /// Claims nothing more, and waits at most so long until what is under way has ended.
    pub(crate) async fn drain(&self, wait: Duration) {
        let drained = async {
            self.stop_replays().await;
            self.shared.stop_claiming.cancel();
            self.shared.tasks.close();
            self.shared.tasks.wait().await;
        };
        // What takes longer is broken off by whoever stops the engine.
        let _ = tokio::time::timeout(wait, drained).await;
    }

    pub(crate) async fn stop(&self) {
        self.stop_replays().await;
        self.shared.stop_claiming.cancel();
        self.shared.abort.cancel();
        let retired: Vec<_> =
            self.shared.lanes().values().filter_map(|lane| lane.remove()).collect();
        // The lanes hold what serves them; without them the last call is the last holder.
        self.shared.lanes().clear();
        for retired in retired {
            self.shared.tasks.spawn(close(retired));
        }
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

/// Longest time a sink may take to close.
const CLOSE_MAX: Duration = Duration::from_secs(10);

async fn close(mut retired: Retired) {
    retired.unused().await;
    let endpoint = &retired.endpoint;
    match tokio::time::timeout(CLOSE_MAX, retired.sink.close()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%endpoint, error = error.chain(), "sink did not close"),
        Err(_) => tracing::warn!(%endpoint, "sink did not close within {CLOSE_MAX:?}"),
    }
}

/// Without a shutdown, the tasks end by themselves soon after the last handle is gone.
impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.stop_claiming.cancel();
        self.shared.abort.cancel();
        self.shared.replays.stop();
    }
}
