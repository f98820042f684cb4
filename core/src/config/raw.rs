//! What people write: the shape of the tables, before anything is checked.
//!
//! The doc comments here are the reference page and the schema's descriptions. Bounds stand in the
//! schema (`range`, `length`, `x-min`, `x-max`) and are enforced from there, so that what is
//! printed is what holds. No `flatten`, no `untagged`: they lose the key's path.

use std::net::{IpAddr, SocketAddr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::json;

use super::raw_disable::{RawDisableAfter, RawWhenDisabled};
use super::settings::{BacklogSettings, BusSettings, MemorySettings, Scope, ServerSettings};
use super::{ByteSize, HumanDuration, NetworkPolicy, Secret};
use crate::alert;
use crate::endpoint::{
    ADAPTIVE_MAX_DEFAULT, BREAKER_PAUSE_MAX, Breaker, CONCURRENCY_DEFAULT, CONCURRENCY_MAX,
    Concurrency, OnDead, Order, TIMEOUT_DEFAULT, TIMEOUT_MAX,
};
use crate::rate::Rate;
use crate::retry::{DELAY_MAX, JITTER_DEFAULT, SCHEDULE_DEFAULT, SCHEDULE_LEN_MAX};
use crate::route::Pattern;
use crate::store::WhenFull;
use crate::store::log::Sync;

/// The configuration of Postrider: `postrider.toml`, `postrider.json` or `webhook_config.json`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "Postrider configuration")]
pub(super) struct RawConfig {
    /// The main switch. While `false`, accepted events are held and nothing is delivered.
    pub(super) enabled: bool,
    /// The bus itself: where events are kept, and its limits.
    pub(super) bus: RawBus,
    /// The places that events go to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) endpoints: Vec<RawEndpoint>,
    /// For every endpoint that does not say otherwise. Settings of sinks may stand here too; they
    /// reach the endpoints whose sink knows them.
    pub(super) defaults: RawPolicy,
    /// Which addresses may be connected to.
    pub(super) network: RawNetwork,
    /// When the bus raises alerts about itself: the events `postrider.endpoint.failing`,
    /// `postrider.endpoint.recovered`, `postrider.endpoint.disabled`, `postrider.delivery.dead` and
    /// `postrider.backlog.high`, for endpoints that ask for them by name or as `postrider.**`.
    pub(super) alerts: RawAlerts,
    /// What `postrider serve` listens on and who may call it.
    pub(super) server: RawServer,
}

impl Default for RawConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            bus: RawBus::default(),
            endpoints: Vec::new(),
            defaults: RawPolicy::default(),
            network: RawNetwork::default(),
            alerts: RawAlerts::default(),
            server: RawServer::default(),
        }
    }
}

/// The bus itself.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Bus")]
pub(super) struct RawBus {
    /// Folder in which accepted events are kept; absent: in memory only, lost when the process
    /// ends. A relative path in a file starts at the file's folder, elsewhere at the current one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"), length(min = 1))]
    pub(super) data_dir: Option<String>,
    /// Another store than the built-in ones, in place of a `data_dir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) store: Option<RawStore>,
    /// Largest payload of one event.
    #[schemars(extend("x-min" = "1B", "x-max" = "64MiB"))]
    pub(super) payload_bytes_max: ByteSize,
    /// Most events that one call publishes.
    #[schemars(range(min = 1, max = 100_000))]
    pub(super) batch_events_max: usize,
    /// Most payload bytes that one call publishes; at least `payload_bytes_max`.
    #[schemars(extend("x-min" = "1B", "x-max" = "1GiB"))]
    pub(super) batch_bytes_max: ByteSize,
    /// When an event counts as accepted, where there is a `data_dir`: `sync` after the disk has it,
    /// so that no crash loses it; `os` when the operating system has it, so that a power cut may
    /// lose the last half minute; `{ batch = "10ms" }` as `os`, but synced at most that much later.
    pub(super) durability: RawDurability,
    /// How long settled events are kept to be looked at, where there is a `data_dir`.
    #[schemars(extend("x-min" = "0s", "x-max" = "3650d"))]
    pub(super) retention: HumanDuration,
    /// How long publishing an id again returns its first receipt, where there is a `data_dir`.
    #[schemars(extend("x-min" = "0s", "x-max" = "3650d"))]
    pub(super) dedup_window: HumanDuration,
    /// The backlog on disk, where there is a `data_dir`.
    pub(super) backlog: RawBacklog,
    /// The backlog in memory, where there is no `data_dir`.
    pub(super) memory: RawMemory,
    /// What publishing does while the backlog limit is reached.
    pub(super) when_full: WhenFull,
    /// Most attempts under way at once, all endpoints together.
    #[schemars(range(min = 1, max = 65_536))]
    pub(super) in_flight_max: usize,
    /// Events that an in-process subscriber may lag behind before it is told that it missed some.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub(super) subscriber_events_max: usize,
}

impl Default for RawBus {
    fn default() -> Self {
        let bus = BusSettings::default();
        Self {
            data_dir: None,
            store: None,
            payload_bytes_max: bus.payload_bytes_max,
            batch_events_max: bus.batch_events_max,
            batch_bytes_max: bus.batch_bytes_max,
            durability: RawDurability(bus.durability),
            retention: HumanDuration(bus.retention),
            dedup_window: HumanDuration(bus.dedup_window),
            backlog: RawBacklog::default(),
            memory: RawMemory::default(),
            when_full: bus.when_full,
            in_flight_max: bus.in_flight_max,
            subscriber_events_max: bus.subscriber_events_max,
        }
    }
}

/// Another store; which keys it has beside `type` is the store's, which reads them.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Store", extend("additionalProperties" = true))]
pub(super) struct RawStore {
    /// Which store, such as `sqlite`.
    #[serde(rename = "type")]
    pub(super) kind: String,
}

/// The backlog on disk.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Backlog")]
pub(super) struct RawBacklog {
    /// Most events owed.
    #[schemars(range(min = 1, max = 1_000_000_000_000_u64))]
    pub(super) events_max: u64,
    /// Most bytes that owed events take on disk; at least `batch_bytes_max`.
    #[schemars(extend("x-min" = "1B", "x-max" = "1048576GiB"))]
    pub(super) bytes_max: ByteSize,
}

impl Default for RawBacklog {
    fn default() -> Self {
        let backlog = BacklogSettings::default();
        Self { events_max: backlog.events_max, bytes_max: backlog.bytes_max }
    }
}

/// The backlog in memory.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Memory")]
pub(super) struct RawMemory {
    /// Most events waiting.
    #[schemars(range(min = 1, max = 100_000_000))]
    pub(super) events_max: usize,
    /// Most bytes of waiting events; at least `batch_bytes_max`.
    #[schemars(extend("x-min" = "1B", "x-max" = "1024GiB"))]
    pub(super) bytes_max: ByteSize,
}

impl Default for RawMemory {
    fn default() -> Self {
        let memory = MemorySettings::default();
        Self { events_max: memory.events_max, bytes_max: memory.bytes_max }
    }
}

/// When alerts are raised.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Alerts")]
pub(super) struct RawAlerts {
    /// Failed attempts in a row after which an endpoint counts as failing.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(super) failing_after: u32,
    /// Deliveries owed to one endpoint from which its backlog is high, until it has fallen to four
    /// fifths.
    #[schemars(range(min = 1, max = 1_000_000_000_000_u64))]
    pub(super) backlog_events: u64,
    /// Least time between two alerts of a kind about one endpoint; the next one tells how many there
    /// would have been.
    #[schemars(extend("x-min" = "1s", "x-max" = "24h"))]
    pub(super) interval: HumanDuration,
}

impl Default for RawAlerts {
    fn default() -> Self {
        let alerts = alert::Policy::default();
        Self {
            failing_after: alerts.failing_after,
            backlog_events: alerts.backlog_events,
            interval: HumanDuration(alerts.interval),
        }
    }
}

/// One endpoint: the keys that it has whatever its sink.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Endpoint")]
pub(super) struct RawEndpoint {
    /// Names the endpoint for good: history and statistics hang on it. 1 to 64 letters, digits, `_`
    /// and `-`. Absent: made from the name, `My App` becomes `my-app`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<RawId>,
    /// Its name for people. Absent: the id, else the host of its URL, else its sink.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub(super) name: Option<String>,
    /// Which kind of place it is.
    pub(super) sink: String,
    /// Whether deliveries are attempted; while `false` they are held.
    pub(super) enabled: bool,
    /// Which events it asks for: type names (`match`) and patterns: `*` is every event, `model.*`
    /// one more segment, `model.**` one or more.
    #[schemars(with = "Vec<String>", length(min = 1, max = 1000))]
    pub(super) events: Vec<Pattern>,
    /// Which of these events it really gets: conditions on type, id, key, attributes and payload,
    /// such as `{ payload = { amount = { "$gte" = 100 } } }`; see FILTERS.md. Absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) filter: Option<RawFilter>,
}

/// Conditions, kept as they are written until all else is known.
#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct RawFilter(pub(super) serde_json::Value);

impl JsonSchema for RawFilter {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Filter".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["object", "array"], "x-type": "table or list", "x-verbatim": true })
    }
}

impl Default for RawEndpoint {
    fn default() -> Self {
        Self {
            id: None,
            name: None,
            sink: super::schema::SINK_DEFAULT.to_owned(),
            enabled: true,
            events: vec![Pattern::all()],
            filter: None,
        }
    }
}

/// How endpoints are served. Absent keys fall back to `[defaults]`, then to the built-in defaults.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Policy")]
pub(super) struct RawPolicy {
    /// Longest time that one attempt may take, connecting and reading the answer included.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend(
        "default" = HumanDuration(TIMEOUT_DEFAULT).to_string(),
        "x-min" = "1ms",
        "x-max" = HumanDuration(TIMEOUT_MAX).to_string(),
    ))]
    pub(super) timeout: Option<HumanDuration>,
    /// Most attempts under way at once, for one endpoint. `"adaptive"` (1 to 256) or
    /// `{ min = 1, max = 256 }`: more while answers come as quickly as usual, fewer after timeouts and
    /// answers that ask for less (429, 502, 503, 504).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = CONCURRENCY_DEFAULT))]
    pub(super) concurrency: Option<RawConcurrency>,
    /// Most deliveries in a second, minute or hour, kept smoothly: `"100/s"`, `"30/m"`, `"10/h"`.
    /// Absent: no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rate: Option<RawRate>,
    /// When an endpoint that fails is left alone for a while; `false`: never. What is owed waits
    /// meanwhile and uses up no attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) breaker: Option<RawBreaker>,
    /// When failed attempts are made again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) retry: Option<RawRetry>,
    /// Which events are delivered one after the other, in the order of acceptance. Anything but
    /// `none` needs a store with history that no other process uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = RawOrder::None))]
    pub(super) order: Option<RawOrder>,
    /// What happens to the events behind one that was given up, where an order is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = RawOnDead::Park))]
    pub(super) on_dead: Option<RawOnDead>,
    /// After how long without a success, and with failures, the endpoint is disabled; `false`: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) disable_after: Option<RawDisableAfter>,
    /// What happens to what is owed to the endpoint while it is disabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = RawWhenDisabled::Hold))]
    pub(super) when_disabled: Option<RawWhenDisabled>,
}

/// When failed attempts are made again.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Retry")]
pub(super) struct RawRetry {
    /// The delay before each further attempt, each at most 30 days: a schedule of 7 makes at most 8
    /// attempts, an empty one makes one. The default is that of the Standard Webhooks
    /// specification.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = SCHEDULE_LEN_MAX),
        extend("default" = SCHEDULE_DEFAULT.map(HumanDuration), "items" = delay()),
    )]
    pub(super) schedule: Option<Vec<HumanDuration>>,
    /// In place of a schedule: the first of delays that grow. Needs `attempts`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-min" = "1ms", "x-max" = HumanDuration(DELAY_MAX).to_string()))]
    pub(super) first: Option<HumanDuration>,
    /// How many times as long as the one before each delay is that grows; 2 unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub(super) factor: Option<f64>,
    /// Longest delay that they grow to; 10h unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-min" = "1ms", "x-max" = HumanDuration(DELAY_MAX).to_string()))]
    pub(super) max: Option<HumanDuration>,
    /// Attempts in all where delays grow, the first one included.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = SCHEDULE_LEN_MAX + 1))]
    pub(super) attempts: Option<u32>,
    /// A delivery is given up rather than tried again so long after its event happened. Absent: as
    /// long as the delays last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-min" = "1ms", "x-max" = "3650d"))]
    pub(super) max_age: Option<HumanDuration>,
    /// The share by which each delay varies, in both directions.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1), extend("default" = JITTER_DEFAULT))]
    pub(super) jitter: Option<f64>,
}

/// `16`, `"adaptive"` or `{ min = 1, max = 256 }`.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawConcurrency(pub(super) Concurrency);

const CONCURRENCY_EXPECTED: &str = "1 to 4096, \"adaptive\" or { min = 1, max = 256 }";

/// Bounds of adaptive concurrency.
#[derive(Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Adaptive")]
struct RawAdaptive {
    /// At least so many attempts, and so many at first.
    #[schemars(range(min = 1, max = CONCURRENCY_MAX))]
    min: usize,
    /// At most so many.
    #[schemars(range(min = 1, max = CONCURRENCY_MAX))]
    max: usize,
}

impl Default for RawAdaptive {
    fn default() -> Self {
        Self { min: 1, max: ADAPTIVE_MAX_DEFAULT }
    }
}

impl<'de> Deserialize<'de> for RawConcurrency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberOrBounds;
        impl<'de> Visitor<'de> for NumberOrBounds {
            type Value = RawConcurrency;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(CONCURRENCY_EXPECTED)
            }
            fn visit_u64<E: de::Error>(self, calls: u64) -> Result<RawConcurrency, E> {
                match usize::try_from(calls) {
                    Ok(calls @ 1..=CONCURRENCY_MAX) => {
                        Ok(RawConcurrency(Concurrency::Fixed(calls)))
                    }
                    _ => Err(E::custom(format!("expected {CONCURRENCY_EXPECTED}, found {calls}"))),
                }
            }
            fn visit_i64<E: de::Error>(self, calls: i64) -> Result<RawConcurrency, E> {
                match u64::try_from(calls) {
                    Ok(calls) => self.visit_u64(calls),
                    Err(_) => {
                        Err(E::custom(format!("expected {CONCURRENCY_EXPECTED}, found {calls}")))
                    }
                }
            }
            fn visit_str<E: de::Error>(self, word: &str) -> Result<RawConcurrency, E> {
                if let Ok(calls) = word.parse::<u64>() {
                    return self.visit_u64(calls);
                }
                let RawAdaptive { min, max } = RawAdaptive::default();
                match word {
                    "adaptive" => Ok(RawConcurrency(Concurrency::Adaptive { min, max })),
                    _ => Err(E::custom(format!("expected {CONCURRENCY_EXPECTED}, found {word:?}"))),
                }
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<RawConcurrency, A::Error> {
                let RawAdaptive { min, max } =
                    RawAdaptive::deserialize(de::value::MapAccessDeserializer::new(map))?;
                if min == 0 || min > max || max > CONCURRENCY_MAX {
                    return Err(de::Error::custom(format!(
                        "expected a min of at least 1 and a max of at least min and at most \
                         {CONCURRENCY_MAX}, found min {min} and max {max}"
                    )));
                }
                Ok(RawConcurrency(Concurrency::Adaptive { min, max }))
            }
        }
        deserializer.deserialize_any(NumberOrBounds)
    }
}

impl Serialize for RawConcurrency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Concurrency::Fixed(calls) => calls.serialize(serializer),
            Concurrency::Adaptive { min, max } => {
                use serde::ser::SerializeMap;
                let mut map = serializer.serialize_map(Some(2))?;
                map.serialize_entry("min", &min)?;
                map.serialize_entry("max", &max)?;
                map.end()
            }
        }
    }
}

impl JsonSchema for RawConcurrency {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Concurrency".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = RawAdaptive::json_schema(generator);
        // Each of the bounds holds for the type that it is about.
        schema.insert("type".into(), json!(["integer", "string", "object"]));
        schema.insert("minimum".into(), 1.into());
        schema.insert("maximum".into(), CONCURRENCY_MAX.into());
        schema.insert("pattern".into(), "^adaptive$".into());
        schema.remove("description");
        schema
    }
}

/// A rate as text.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct RawRate(pub(super) Rate);

impl JsonSchema for RawRate {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Rate".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "examples": ["100/s", "30/m", "10/h"] })
    }
}

/// `false` or `{ failures = 20, pause = "10s", pause_max = "5m" }`.
#[derive(Clone, Debug)]
pub(super) struct RawBreaker(pub(super) Option<Breaker>);

/// When an endpoint is left alone for a while.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "BreakerTable")]
struct RawBreakerTable {
    /// Attempts that failed in a row.
    #[schemars(range(min = 1, max = 1_000_000))]
    failures: u32,
    /// How long nothing is sent then. After it a single delivery probes the endpoint; while that fails
    /// too, the pause doubles.
    #[schemars(extend("x-min" = "1ms", "x-max" = HumanDuration(BREAKER_PAUSE_MAX).to_string()))]
    pause: HumanDuration,
    /// Longest pause; at least `pause`.
    #[schemars(extend("x-min" = "1ms", "x-max" = HumanDuration(BREAKER_PAUSE_MAX).to_string()))]
    pause_max: HumanDuration,
}

impl From<Breaker> for RawBreakerTable {
    fn from(breaker: Breaker) -> Self {
        Self {
            failures: breaker.failures,
            pause: HumanDuration(breaker.pause),
            pause_max: HumanDuration(breaker.pause_max),
        }
    }
}

impl Default for RawBreakerTable {
    fn default() -> Self {
        Breaker::default().into()
    }
}

const BREAKER_EXPECTED: &str = "false or { failures = 20, pause = \"10s\", pause_max = \"5m\" }";

impl<'de> Deserialize<'de> for RawBreaker {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SwitchOrTable;
        impl<'de> Visitor<'de> for SwitchOrTable {
            type Value = RawBreaker;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(BREAKER_EXPECTED)
            }
            fn visit_bool<E: de::Error>(self, is_on: bool) -> Result<RawBreaker, E> {
                Ok(RawBreaker(is_on.then(Breaker::default)))
            }
            fn visit_str<E: de::Error>(self, word: &str) -> Result<RawBreaker, E> {
                match word.parse() {
                    Ok(is_on) => self.visit_bool(is_on),
                    Err(_) => {
                        Err(E::custom(format!("expected {BREAKER_EXPECTED}, found {word:?}")))
                    }
                }
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<RawBreaker, A::Error> {
                let RawBreakerTable { failures, pause, pause_max } =
                    RawBreakerTable::deserialize(de::value::MapAccessDeserializer::new(map))?;
                let breaker = Breaker::new(failures, pause.0, pause_max.0);
                if RawBreakerTable::from(breaker).pause != pause || breaker.failures != failures {
                    return Err(de::Error::custom(format!(
                        "expected at least 1 failure and a pause of 1ms to pause_max, found \
                         {failures} failures, {pause} and {pause_max}"
                    )));
                }
                Ok(RawBreaker(Some(breaker)))
            }
        }
        deserializer.deserialize_any(SwitchOrTable)
    }
}

impl Serialize for RawBreaker {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            None => false.serialize(serializer),
            Some(breaker) => RawBreakerTable::from(breaker).serialize(serializer),
        }
    }
}

impl JsonSchema for RawBreaker {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Breaker".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = RawBreakerTable::json_schema(generator);
        schema.insert("type".into(), json!(["boolean", "object"]));
        schema.remove("description");
        schema
    }
}

/// The schema of one delay.
fn delay() -> Schema {
    let mut schema = HumanDuration::json_schema(&mut SchemaGenerator::default());
    schema.insert("x-max".to_owned(), HumanDuration(DELAY_MAX).to_string().into());
    schema
}

/// Which events of an endpoint keep their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "Order")]
pub(super) enum RawOrder {
    /// None: every event goes as soon as it can.
    #[default]
    None,
    /// Events of one key; an event without a key is not ordered.
    Key,
    /// All events of the endpoint.
    All,
}

impl From<RawOrder> for Order {
    fn from(order: RawOrder) -> Self {
        match order {
            RawOrder::None => Self::None,
            RawOrder::Key => Self::Key,
            RawOrder::All => Self::All,
        }
    }
}

/// What happens to the events behind one that was given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "OnDead")]
pub(super) enum RawOnDead {
    /// It goes to the dead letters and the next one follows.
    #[default]
    Park,
    /// They wait until it is replayed and delivered, or purged.
    Block,
}

impl From<RawOnDead> for OnDead {
    fn from(on_dead: RawOnDead) -> Self {
        match on_dead {
            RawOnDead::Park => Self::Park,
            RawOnDead::Block => Self::Block,
        }
    }
}

/// Which addresses may be connected to.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Network")]
pub(super) struct RawNetwork {
    /// Networks or addresses that may be connected to beside public ones, such as `127.0.0.0/8` or
    /// `::1`.
    #[schemars(length(max = 1000))]
    pub(super) allow: Vec<RawNetworkText>,
    /// Networks or addresses that are never connected to, public or allowed: a denial always wins.
    #[schemars(length(max = 1000))]
    pub(super) deny: Vec<RawNetworkText>,
    /// The ports that may be connected to. Absent: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1000), extend("examples" = [[443], [80, 443]]))]
    pub(super) ports: Option<Vec<u16>>,
    /// Whether plain http is forbidden.
    pub(super) https_only: bool,
    /// Local addresses to send from, one of IPv4, one of IPv6 or both; a family without one is then
    /// not used. An endpoint may have its own. Absent: the system picks.
    #[schemars(length(max = 2), extend("examples" = [["198.51.100.7"]]))]
    pub(super) bind_address: Vec<RawIp>,
    /// A forward proxy that all http endpoints connect through, as `http://HOST:PORT` or
    /// `http://USER:PASSWORD@HOST:PORT`. Absent: none; proxies of the environment are never used.
    #[serde(skip_serializing)]
    pub(super) proxy: Option<Secret>,
}

/// An IP address, checked, so that an error names the very element.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub(super) struct RawIp(#[schemars(with = "String")] pub(super) IpAddr);

impl<'de> Deserialize<'de> for RawIp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(|_| {
            let found: String = text.chars().take(64).collect();
            de::Error::custom(format!(
                "expected an address such as \"198.51.100.7\", found {found:?}"
            ))
        })
    }
}

/// A network or address, checked, so that an error names the very element.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub(super) struct RawNetworkText(pub(super) String);

impl<'de> Deserialize<'de> for RawNetworkText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        NetworkPolicy::public_only().allow(&text).map_err(de::Error::custom)?;
        Ok(Self(text))
    }
}

/// What `postrider serve` listens on and who may call it.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Server")]
pub(super) struct RawServer {
    /// Address and port to listen on; port 0 picks a free one.
    pub(super) listen: RawAddress,
    /// Bearer tokens that are taken. Absent: `serve` makes one and keeps it in the data folder.
    #[serde(serialize_with = "no_tokens")]
    #[schemars(length(max = 1000))]
    pub(super) tokens: Vec<RawToken>,
}

impl Default for RawServer {
    fn default() -> Self {
        Self { listen: RawAddress(ServerSettings::default().listen), tokens: Vec::new() }
    }
}

/// Only the default is ever serialised, and that has none; a `Secret` cannot be.
fn no_tokens<S: Serializer>(_: &[RawToken], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq([(); 0])
}

/// One bearer token.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Token")]
pub(super) struct RawToken {
    /// Who holds it, for logs.
    #[schemars(length(min = 1, max = 128))]
    pub(super) name: String,
    /// The token.
    pub(super) token: Secret,
    /// What it allows.
    #[schemars(length(min = 1, max = 3))]
    pub(super) scopes: Vec<Scope>,
}

/// An endpoint's id as written: the guide's files may hold it as a number.
#[derive(Debug, Serialize)]
pub(super) struct RawId(pub(super) String);

impl<'de> Deserialize<'de> for RawId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrNumber;
        impl Visitor<'_> for TextOrNumber {
            type Value = RawId;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an id of 1 to 64 letters, digits, _ and -")
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<RawId, E> {
                Ok(RawId(number.to_string()))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<RawId, E> {
                Ok(RawId(number.to_string()))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<RawId, E> {
                Ok(RawId(text.to_owned()))
            }
        }
        deserializer.deserialize_any(TextOrNumber)
    }
}

impl JsonSchema for RawId {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Id".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "integer"] })
    }
}

/// `"sync"`, `"os"` or `{ batch = "10ms" }`.
#[derive(Debug)]
pub(super) struct RawDurability(pub(super) Sync);

const DURABILITY_EXPECTED: &str = "\"sync\", \"os\" or { batch = \"10ms\" }";

impl<'de> Deserialize<'de> for RawDurability {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WordOrBatch;
        impl<'de> Visitor<'de> for WordOrBatch {
            type Value = RawDurability;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(DURABILITY_EXPECTED)
            }
            fn visit_str<E: de::Error>(self, word: &str) -> Result<RawDurability, E> {
                match word {
                    "sync" => Ok(RawDurability(Sync::Always)),
                    "os" => Ok(RawDurability(Sync::Os)),
                    _ => Err(E::custom(format!("expected {DURABILITY_EXPECTED}"))),
                }
            }
            fn visit_map<A: de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<RawDurability, A::Error> {
                let delay = match map.next_key::<String>()?.as_deref() {
                    Some("batch") => map.next_value::<HumanDuration>()?,
                    Some(key) => return Err(de::Error::unknown_field(key, &["batch"])),
                    None => {
                        return Err(de::Error::custom(format!("expected {DURABILITY_EXPECTED}")));
                    }
                };
                Ok(RawDurability(Sync::Batch(delay.0)))
            }
        }
        deserializer.deserialize_any(WordOrBatch)
    }
}

impl Serialize for RawDurability {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Sync::Always => serializer.serialize_str("sync"),
            Sync::Os => serializer.serialize_str("os"),
            Sync::Batch(delay) => {
                use serde::ser::SerializeMap;
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("batch", &HumanDuration(delay))?;
                map.end()
            }
        }
    }
}

impl JsonSchema for RawDurability {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Durability".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let delay = generator.subschema_for::<HumanDuration>();
        json_schema!({
            "oneOf": [
                { "type": "string", "enum": ["sync", "os"] },
                {
                    "type": "object",
                    "properties": { "batch": delay },
                    "required": ["batch"],
                    "additionalProperties": false,
                },
            ],
        })
    }
}

/// An address and port.
#[derive(Debug, Serialize)]
pub(super) struct RawAddress(pub(super) SocketAddr);

impl<'de> Deserialize<'de> for RawAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = RawAddress;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an IP address and a port, such as \"127.0.0.1:8787\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<RawAddress, E> {
                text.parse()
                    .map(RawAddress)
                    .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl JsonSchema for RawAddress {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Address".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "examples": ["127.0.0.1:8787", "[::1]:0"] })
    }
}
