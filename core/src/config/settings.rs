//! Checked configuration: what the rest of the program may rely on.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::errors::ConfigError;
use super::layers::Format;
use super::{ByteSize, NetworkPolicy, Secret};
use crate::alert;
use crate::endpoint::{Endpoint, EndpointId, NotAsked, Policy, asks};
use crate::error::Error;
use crate::event::NewEvent;
use crate::filter::{Facts, Filter};
use crate::route::Pattern;
use crate::sink::{CheckContext, NoSink, PreparedSink, Sink};
use crate::store::log::{
    BACKLOG_BYTES_MAX_DEFAULT, BACKLOG_EVENTS_MAX_DEFAULT, DEDUP_WINDOW_DEFAULT, RETENTION_DEFAULT,
    Sync,
};
use crate::store::{PreparedStore, WhenFull};

/// A whole configuration, checked. `Debug` shows no secret.
///
/// The default has no endpoints and keeps events in memory only: the start for a program that adds
/// endpoints in code. [`Config::loader`] reads files, the environment and flags.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The main switch. While off, deliveries are held, not lost. Default on.
    pub enabled: bool,
    /// The bus itself.
    pub bus: BusSettings,
    /// Another store than the built-in ones: the `[bus.store]` table. `None`: the log in
    /// [`BusSettings::data_dir`], or memory. Never beside a `data_dir`.
    pub store: Option<PreparedStore>,
    /// The configured endpoints, in the order of the file; no two have the same id.
    pub endpoints: Vec<EndpointConfig>,
    /// Which addresses may be connected to.
    pub network: NetworkPolicy,
    /// When the bus raises alerts about itself.
    pub alerts: alert::Policy,
    /// What `postrider serve` listens on and who may call it.
    pub server: ServerSettings,
    /// What is odd but no error, such as keys that an older file has and nobody reads.
    pub warnings: Vec<ConfigError>,
    /// The file that was read, by the path that was given or found.
    pub path: Option<PathBuf>,
    /// The file as it was read, for commands that change it and keep what they do not know.
    pub document: Option<RawDocument>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: true,
            bus: BusSettings::default(),
            store: None,
            endpoints: Vec::new(),
            network: NetworkPolicy::default(),
            alerts: alert::Policy::default(),
            server: ServerSettings::default(),
            warnings: Vec::new(),
            path: None,
            document: None,
        }
    }
}

/// A configuration text as it was read. `Debug` shows its format and length: it may hold secrets.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RawDocument {
    /// How it is written.
    pub format: Format,
    /// The whole text.
    pub text: String,
}

impl std::fmt::Debug for RawDocument {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} of {} bytes", self.format, self.text.len())
    }
}

/// The `[bus]` table.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BusSettings {
    /// Where accepted events are kept. `None`: in memory only, lost when the process ends.
    pub data_dir: Option<PathBuf>,
    /// Largest payload of one event. Default 1 MiB, at most 64 MiB.
    pub payload_bytes_max: ByteSize,
    /// Most events that one call publishes. Default 1000, 1 to 100,000.
    pub batch_events_max: usize,
    /// Most payload bytes that one call publishes. Default 16 MiB, at most 1 GiB.
    pub batch_bytes_max: ByteSize,
    /// When an event counts as accepted, where there is a `data_dir`. Default after a sync.
    pub durability: Sync,
    /// How long settled events are kept, where there is a `data_dir`. Default 7 days.
    pub retention: Duration,
    /// How long an id is known, where there is a `data_dir`. Default 24 hours.
    pub dedup_window: Duration,
    /// The backlog on disk, where there is a `data_dir`.
    pub backlog: BacklogSettings,
    /// The backlog in memory, where there is no `data_dir`.
    pub memory: MemorySettings,
    /// What `publish` does while the backlog limit is reached: `refuse` (default) or `wait`.
    pub when_full: WhenFull,
    /// Most attempts under way at once, all endpoints together. Default 1024, 1 to 65,536.
    pub in_flight_max: usize,
    /// Events that an in-process subscriber may lag behind before it misses some. Default 1024, 1
    /// to 1,048,576.
    pub subscriber_events_max: usize,
}

/// The `[bus.backlog]` table.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BacklogSettings {
    /// Most events owed. Default 10,000,000.
    pub events_max: u64,
    /// Most bytes that owed events take on disk. Default 16 GiB.
    pub bytes_max: ByteSize,
}

impl Default for BacklogSettings {
    fn default() -> Self {
        Self {
            events_max: BACKLOG_EVENTS_MAX_DEFAULT,
            bytes_max: ByteSize(BACKLOG_BYTES_MAX_DEFAULT),
        }
    }
}

/// The `[bus.memory]` table.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemorySettings {
    /// Most events waiting. Default 100,000, 1 to 100,000,000.
    pub events_max: usize,
    /// Most bytes of waiting events. Default 256 MiB, at most 1 TiB.
    pub bytes_max: ByteSize,
}

impl Default for BusSettings {
    fn default() -> Self {
        Self {
            data_dir: None,
            payload_bytes_max: ByteSize(1 << 20),
            batch_events_max: 1000,
            batch_bytes_max: ByteSize(16 << 20),
            durability: Sync::default(),
            retention: RETENTION_DEFAULT,
            dedup_window: DEDUP_WINDOW_DEFAULT,
            backlog: BacklogSettings::default(),
            memory: MemorySettings::default(),
            when_full: WhenFull::Refuse,
            in_flight_max: 1024,
            subscriber_events_max: 1024,
        }
    }
}

impl Default for MemorySettings {
    fn default() -> Self {
        Self { events_max: 100_000, bytes_max: ByteSize(256 << 20) }
    }
}

/// One configured endpoint: checked, its sink not yet built.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EndpointConfig {
    /// Its id: as configured, else made from the name.
    pub id: EndpointId,
    /// Its name for people: as configured, else the id, else the host of its URL, else its sink.
    pub name: String,
    /// Whether deliveries are attempted; a disabled endpoint's are held.
    pub enabled: bool,
    /// Which events it asks for; never empty. Without the key: every event (`*`).
    pub events: Vec<Pattern>,
    /// Which of these events it really gets; `None`: all.
    pub filter: Option<Filter>,
    /// How it is served: its own keys over those of `[defaults]`.
    pub policy: Policy,
    /// The sink's own settings.
    pub sink: PreparedSink,
}

impl EndpointConfig {
    /// Makes the endpoint, with its sink. The main switch of `config` holds its deliveries too.
    ///
    /// # Errors
    /// [`ErrorKind::Sink`](crate::ErrorKind::Sink) where the sink cannot be opened.
    pub fn build(&self, config: &Config) -> Result<Endpoint, Error> {
        let sink = self.sink.build(&CheckContext::new(&self.id, &self.name, &config.network))?;
        Ok(self.with_sink(sink, config))
    }

    /// Whether the event would go to this endpoint if it were published now.
    ///
    /// # Errors
    /// Why it would not.
    pub fn asks_for(&self, event: &NewEvent) -> Result<(), NotAsked> {
        let facts = Facts::of_new(event);
        asks(&self.events, self.filter.as_ref(), event.event_type(), &facts)
    }

    /// The endpoint for a bus that delivers nothing.
    pub(crate) fn without_sink(&self, config: &Config) -> Endpoint {
        self.with_sink(Arc::new(NoSink), config)
    }

    fn with_sink(&self, sink: Arc<dyn Sink>, config: &Config) -> Endpoint {
        Endpoint {
            id: self.id.clone(),
            name: self.name.as_str().into(),
            enabled: self.enabled && config.enabled,
            events: self.events.clone(),
            filter: self.filter.clone(),
            policy: self.policy.clone(),
            sink,
            fingerprint: Some(self.sink.fingerprint()),
        }
    }
}

/// The `[server]` table.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerSettings {
    /// The address to listen on; port 0 picks a free one. Default `127.0.0.1:8787`.
    pub listen: SocketAddr,
    /// Who may call. Default: none configured.
    pub tokens: Vec<Token>,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8787)), tokens: Vec::new() }
    }
}

/// One bearer token that the server takes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Token {
    /// Who holds it, for logs; no two tokens have the same name.
    pub name: String,
    /// The token; never empty.
    pub token: Secret,
    /// What it allows; never empty.
    pub scopes: Vec<Scope>,
}

/// What a bearer token allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Scope {
    /// Publishing events.
    Publish,
    /// Reading events, deliveries, endpoints and statistics.
    Read,
    /// Changing endpoints, retrying and replaying.
    Admin,
}
