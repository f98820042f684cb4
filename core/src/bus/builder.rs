//! Building a bus in code.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::ArcSwap;
use tokio_util::task::TaskTracker;

use super::subscription::{SUBSCRIBER_EVENTS_MAX_DEFAULT, Subscriptions};
use super::{Bus, Inner, Limits, Routes, alerts};
use crate::alert::{self, Desk};
use crate::clock::{SharedClock, SystemClock};
use crate::config::{ByteSize, Config};
use crate::endpoint::Endpoint;
use crate::engine::{Engine, IN_FLIGHT_MAX_DEFAULT, Setup};
use crate::error::{Error, ErrorKind};
use crate::event::PAYLOAD_BYTES_MAX_DEFAULT;
use crate::refresh::{Refresh, Refreshes, Registered};
use crate::route::Pattern;
use crate::store::{LogStore, MemoryStore, Store};

/// Most events of one [`Bus::publish_all`], unless built otherwise.
pub const BATCH_EVENTS_MAX_DEFAULT: usize = 1_000;
/// Most payload bytes of one [`Bus::publish_all`], unless built otherwise (16 MiB).
pub const BATCH_BYTES_MAX_DEFAULT: usize = 16 << 20;

/// Makes a [`Bus`].
#[must_use = "a builder does nothing until opened"]
pub struct BusBuilder {
    config: Option<Config>,
    store: Option<Arc<dyn Store>>,
    clock: SharedClock,
    endpoints: Vec<Endpoint>,
    limits: Limits,
    in_flight_max: usize,
    subscriber_events_max: usize,
    alerts: alert::Policy,
    refreshes: Vec<Registered>,
    delivers: bool,
}

impl Default for BusBuilder {
    fn default() -> Self {
        Self {
            config: None,
            store: None,
            clock: Arc::new(SystemClock),
            endpoints: Vec::new(),
            limits: Limits {
                payload_bytes_max: PAYLOAD_BYTES_MAX_DEFAULT,
                batch_events_max: BATCH_EVENTS_MAX_DEFAULT,
                batch_bytes_max: BATCH_BYTES_MAX_DEFAULT,
            },
            in_flight_max: IN_FLIGHT_MAX_DEFAULT,
            subscriber_events_max: SUBSCRIBER_EVENTS_MAX_DEFAULT,
            alerts: alert::Policy::default(),
            refreshes: Vec::new(),
            delivers: true,
        }
    }
}

impl BusBuilder {
    /// Takes limits, endpoints and the network policy from a configuration; what is set after this
    /// call wins. Endpoints set in code are served beside the configured ones.
    pub fn config(mut self, config: Config) -> Self {
        let bus = &config.bus;
        self.limits = Limits {
            payload_bytes_max: bytes(bus.payload_bytes_max),
            batch_events_max: bus.batch_events_max,
            batch_bytes_max: bytes(bus.batch_bytes_max),
        };
        self.in_flight_max = bus.in_flight_max;
        self.subscriber_events_max = bus.subscriber_events_max;
        self.alerts = config.alerts.clone();
        self.config = Some(config);
        self
    }

    /// Adds an endpoint.
    pub fn endpoint(mut self, endpoint: Endpoint) -> Self {
        self.endpoints.push(endpoint);
        self
    }

    /// Adds endpoints.
    pub fn endpoints(mut self, endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        self.endpoints.extend(endpoints);
        self
    }

    /// Sets where events live. Default: a [`MemoryStore`] with its default limits.
    pub fn store(self, store: impl Store) -> Self {
        self.store_shared(Arc::new(store))
    }

    /// [`store`](Self::store) for one that the application looks at too: what opening a
    /// [`LogStore`] found, how many publishes share a sync.
    pub fn store_shared(mut self, store: Arc<dyn Store>) -> Self {
        self.store = Some(store);
        self
    }

    /// Sets where wall time and randomness come from. Default: the machine.
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.clock = clock;
        self
    }

    /// Most bytes of one payload. Default 1 MiB.
    pub fn payload_bytes_max(mut self, bytes: usize) -> Self {
        self.limits.payload_bytes_max = bytes;
        self
    }

    /// Most events of one `publish_all`. Default 1,000.
    pub fn batch_events_max(mut self, events: usize) -> Self {
        self.limits.batch_events_max = events;
        self
    }

    /// Most payload bytes of one `publish_all`. Default 16 MiB.
    pub fn batch_bytes_max(mut self, bytes: usize) -> Self {
        self.limits.batch_bytes_max = bytes;
        self
    }

    /// Most calls into sinks under way at once, in the whole bus: at least 1. Default 1,024.
    /// Lanes with work beyond it take turns.
    pub fn in_flight_max(mut self, calls: usize) -> Self {
        self.in_flight_max = calls.max(1);
        self
    }

    /// Most events that an in-process subscription may fall behind: at least 1. Default 1,024.
    pub fn subscriber_events_max(mut self, events: usize) -> Self {
        self.subscriber_events_max = events.max(1);
        self
    }

    /// Sets when the bus raises alerts about itself.
    pub fn alerts(mut self, policy: alert::Policy) -> Self {
        self.alerts = policy;
        self
    }

    /// Has events of these types refreshed before each attempt; where several are registered for a
    /// type, by the first. See [`refresh`](crate::refresh).
    ///
    /// # Errors
    /// `Config` for a pattern that breaks the rules of [`Pattern`].
    pub fn refresh<'a>(
        mut self,
        patterns: impl IntoIterator<Item = &'a str>,
        refresh: impl Refresh,
    ) -> Result<Self, Error> {
        let patterns: Result<Vec<Pattern>, _> = patterns.into_iter().map(str::parse).collect();
        let patterns = patterns.map_err(|error| {
            Error::new(ErrorKind::Config, format!("register a refresh: {error}"))
        })?;
        self.refreshes.push((patterns, Arc::new(refresh)));
        Ok(self)
    }

    /// Delivers nothing and goes on with no replay: to look at what the store holds, and to change it
    /// (purge, cancel, enable) without anything being sent. Configured sinks are not opened.
    pub fn without_delivery(mut self) -> Self {
        self.delivers = false;
        self
    }

    /// Opens the bus on the current tokio runtime; deliveries that the store still owes start at
    /// once, and replays go on.
    ///
    /// # Errors
    /// `Config` where two endpoints have one id; `Sink` where a configured sink cannot be opened;
    /// `Store` where the data folder cannot be, for example because another process has it open.
    ///
    /// # Panics
    /// Outside a tokio runtime with its timer enabled.
    pub async fn open(self) -> Result<Bus, Error> {
        let mut endpoints = self.endpoints;
        if let Some(config) = &self.config {
            for endpoint in &config.endpoints {
                endpoints.push(if self.delivers {
                    endpoint.build(config)?
                } else {
                    endpoint.without_sink(config)
                });
            }
        }
        check_ids(&endpoints)?;
        let store = match (self.store, &self.config) {
            (Some(store), _) => store,
            (None, Some(config)) => open_store(config).await?,
            (None, None) => Arc::new(MemoryStore::default()),
        };
        let routes = Routes::new(&endpoints);
        let desk = Arc::new(Desk::new(self.alerts));
        let setup = Setup {
            in_flight_max: self.in_flight_max,
            desk: Arc::clone(&desk),
            refreshes: Refreshes::new(self.refreshes, self.limits.payload_bytes_max),
            delivers: self.delivers,
        };
        let engine =
            Engine::start(Arc::clone(&store), Arc::clone(&self.clock), endpoints, setup).await?;
        let inner = Inner {
            store,
            clock: self.clock,
            engine,
            routes: ArcSwap::from_pointee(routes),
            subscriptions: Subscriptions::new(self.subscriber_events_max),
            desk,
            limits: self.limits,
            is_closed: AtomicBool::new(false),
            publishing: TaskTracker::new(),
            changing: tokio::sync::Mutex::new(()),
        };
        let inner = Arc::new(inner);
        if self.delivers {
            alerts::start(&inner);
        }
        Ok(Bus { inner })
    }
}

/// A limit in bytes; one beyond what the machine can address is no limit.
fn bytes(size: ByteSize) -> usize {
    usize::try_from(size.0).unwrap_or(usize::MAX)
}

/// The store that the configuration asks for.
async fn open_store(config: &Config) -> Result<Arc<dyn Store>, Error> {
    let bus = &config.bus;
    if let Some(store) = &config.store {
        return store.open(bus).await;
    }
    let Some(folder) = &bus.data_dir else {
        let store = MemoryStore::builder()
            .events_max(bus.memory.events_max)
            .bytes_max(bytes(bus.memory.bytes_max))
            .when_full(bus.when_full);
        return Ok(Arc::new(store.build()));
    };
    let store = LogStore::builder(folder)
        .durability(bus.durability)
        .backlog_events_max(bus.backlog.events_max)
        .backlog_bytes_max(bus.backlog.bytes_max.0)
        .when_full(bus.when_full)
        .retention(bus.retention)
        .dedup_window(bus.dedup_window);
    Ok(Arc::new(store.open().await?))
}

pub(super) fn check_ids(endpoints: &[Endpoint]) -> Result<(), Error> {
    let mut seen = HashSet::with_capacity(endpoints.len());
    for endpoint in endpoints {
        if !seen.insert(endpoint.id()) {
            let what = format!(
                "set up endpoint {:?}: the id {:?} is taken by another one; give it an id of its own",
                endpoint.name(),
                endpoint.id()
            );
            return Err(Error::new(ErrorKind::Config, what));
        }
    }
    Ok(())
}
