//! Sinks to configure: one like the real HTTP sink, one with nested settings, one without any; and a
//! store.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use postrider::Error;
use postrider::config::{BusSettings, ByteSize, HumanDuration, Secret};
use postrider::delivery::{Ack, Outcome};
use postrider::sink::{Attempt, CheckContext, Problem, Registry, Sink, SinkFactory};
use postrider::store::{self, MemoryStore, Store, StoreFactory};
use schemars::JsonSchema;
use serde::Deserialize;

/// `http`, `file` and `print`.
pub(crate) fn registry() -> Registry {
    Registry::new().with(HttpLike).with(FileLike).with(Print)
}

/// `shelf`.
pub(crate) fn stores() -> store::Registry {
    store::Registry::new().with(Shelf)
}

struct Shelf;

/// A board on which events are put.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ShelfSettings {
    /// The file with its plan.
    #[schemars(extend("format" = "path"))]
    plan: String,
    /// Most events on it.
    #[serde(default)]
    #[schemars(range(min = 1, max = 100))]
    events_max: Option<usize>,
    /// What opens its lock.
    #[serde(default)]
    #[expect(dead_code, reason = "only to be kept secret")]
    key: Option<Secret>,
}

#[async_trait]
impl StoreFactory for Shelf {
    type Settings = ShelfSettings;

    fn name(&self) -> &'static str {
        "shelf"
    }

    fn check(&self, settings: &ShelfSettings) -> Vec<Problem> {
        let is_wet = settings.plan.ends_with("rain");
        is_wet
            .then(|| Problem::new("plan", "gets wet").remedy("put it under a roof"))
            .into_iter()
            .collect()
    }

    fn target(&self, settings: &ShelfSettings) -> String {
        format!("{} up to {}", settings.plan, settings.events_max.unwrap_or(100))
    }

    async fn open(
        &self,
        settings: &ShelfSettings,
        bus: &BusSettings,
    ) -> Result<Arc<dyn Store>, Error> {
        let builder = MemoryStore::builder().when_full(bus.when_full);
        Ok(Arc::new(builder.events_max(settings.events_max.unwrap_or(100)).build()))
    }
}

struct Nowhere;

#[async_trait]
impl Sink for Nowhere {
    async fn deliver(&self, batch: &[Attempt]) -> Vec<Outcome> {
        batch.iter().map(|_| Ok(Ack::new())).collect()
    }
}

pub(crate) struct HttpLike;

/// Posts each event to a URL.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HttpSettings {
    /// Where events are posted to.
    url: String,
    /// Headers of every request.
    #[serde(default)]
    headers: BTreeMap<String, Secret>,
    /// Secrets that sign; several while rotating.
    #[serde(default)]
    secrets: Vec<Secret>,
    /// How the body is written.
    #[serde(default)]
    format: BodyFormat,
    /// Longest time for connecting.
    #[serde(default)]
    connect_timeout: Option<HumanDuration>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum BodyFormat {
    #[default]
    Guide,
    Standard,
    CloudeventsBinary,
}

impl SinkFactory for HttpLike {
    type Settings = HttpSettings;

    fn name(&self) -> &'static str {
        "http"
    }

    fn check(&self, settings: &HttpSettings, _: &CheckContext<'_>) -> Vec<Problem> {
        let is_url = ["http://", "https://"].iter().any(|scheme| settings.url.starts_with(scheme));
        if is_url {
            return Vec::new();
        }
        vec![Problem::new("url", "expected an http or https URL").remedy("begin it with https://")]
    }

    /// All settings but the secrets, so that tests can compare them; the secrets by their length.
    fn target(&self, settings: &HttpSettings) -> String {
        let headers: Vec<(&str, usize)> =
            settings.headers.iter().map(|(name, value)| (&**name, value.expose().len())).collect();
        let secrets: Vec<usize> = settings.secrets.iter().map(|one| one.expose().len()).collect();
        format!(
            "{}#{headers:?}{secrets:?}{:?}{:?}",
            settings.url, settings.format, settings.connect_timeout
        )
    }

    fn build(&self, _: &HttpSettings, _: &CheckContext<'_>) -> Result<Arc<dyn Sink>, Error> {
        Ok(Arc::new(Nowhere))
    }
}

pub(crate) struct FileLike;

/// Appends each event to a file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileSettings {
    /// The file.
    #[schemars(extend("format" = "path"))]
    path: String,
    /// When a new file is begun.
    #[serde(default)]
    rotate: Rotate,
}

/// When a new file is begun.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Rotate {
    /// At this size.
    size: Option<ByteSize>,
    /// How many old files are kept.
    #[schemars(range(min = 1, max = 1000))]
    keep: Option<u32>,
}

impl SinkFactory for FileLike {
    type Settings = FileSettings;

    fn name(&self) -> &'static str {
        "file"
    }

    fn target(&self, settings: &FileSettings) -> String {
        let rotate = &settings.rotate;
        format!("{} {:?} {:?}", settings.path, rotate.size, rotate.keep)
    }

    fn build(&self, _: &FileSettings, _: &CheckContext<'_>) -> Result<Arc<dyn Sink>, Error> {
        Ok(Arc::new(Nowhere))
    }
}

pub(crate) struct Print;

/// Prints each event.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PrintSettings {}

impl SinkFactory for Print {
    type Settings = PrintSettings;

    fn name(&self) -> &'static str {
        "print"
    }

    fn target(&self, _: &PrintSettings) -> String {
        "stdout".to_owned()
    }

    fn build(&self, _: &PrintSettings, _: &CheckContext<'_>) -> Result<Arc<dyn Sink>, Error> {
        Ok(Arc::new(Nowhere))
    }
}
