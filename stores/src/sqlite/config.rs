//! `[bus.store]` with `type = "sqlite"`.

use std::sync::Arc;

use async_trait::async_trait;
use postrider::Error;
use postrider::config::{BusSettings, ByteSize, HumanDuration};
use postrider::store::{Store, StoreFactory};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    BUSY_TIMEOUT_DEFAULT, BYTES_MAX_DEFAULT, EVENTS_MAX_DEFAULT, POLL_DEFAULT, SqliteStore,
};

/// A SQLite database that several processes of this machine may share. It knows an id as long as
/// it keeps the event: for the longer of `bus.retention` and `bus.dedup_window`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Settings {
    /// The file, on a local disk; it is made where it is missing, its folder is not.
    #[schemars(extend("format" = "path"), length(min = 1))]
    pub path: String,
    /// How long a call waits while somebody else's transaction holds the database.
    #[serde(default = "busy_timeout_default")]
    #[schemars(extend("x-min" = "0s", "x-max" = "1h"))]
    pub busy_timeout: HumanDuration,
    /// How often other processes' work is looked for.
    #[serde(default = "poll_default")]
    #[schemars(extend("x-min" = "1ms", "x-max" = "1m"))]
    pub poll: HumanDuration,
    /// Most events held, settled ones included.
    #[serde(default = "events_max_default")]
    #[schemars(range(min = 1, max = 1_000_000_000_000_u64))]
    pub events_max: u64,
    /// Most bytes held.
    #[serde(default = "bytes_max_default")]
    #[schemars(extend("x-min" = "1B", "x-max" = "1048576GiB"))]
    pub bytes_max: ByteSize,
}

fn busy_timeout_default() -> HumanDuration {
    HumanDuration(BUSY_TIMEOUT_DEFAULT)
}

fn poll_default() -> HumanDuration {
    HumanDuration(POLL_DEFAULT)
}

fn events_max_default() -> u64 {
    EVENTS_MAX_DEFAULT
}

fn bytes_max_default() -> ByteSize {
    ByteSize(BYTES_MAX_DEFAULT)
}

/// Opens SQLite stores: `type = "sqlite"`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Factory;

#[async_trait]
impl StoreFactory for Factory {
    type Settings = Settings;

    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn target(&self, settings: &Settings) -> String {
        settings.path.clone()
    }

    async fn open(&self, settings: &Settings, bus: &BusSettings) -> Result<Arc<dyn Store>, Error> {
        let store = SqliteStore::builder(&settings.path)
            .busy_timeout(settings.busy_timeout.0)
            .poll(settings.poll.0)
            .events_max(settings.events_max)
            .bytes_max(settings.bytes_max.0)
            .retention(bus.retention.max(bus.dedup_window))
            .when_full(bus.when_full);
        Ok(Arc::new(store.open().await?))
    }
}
