//! Which sinks there are: an explicit list of factories by name.
//!
//! No link-time magic: a program registers what it wants, ours and its own alike. A configured
//! endpoint goes through three steps, none but the last with any I/O: *parse* (its table becomes
//! the factory's settings), *check* (the settings make sense), *build* (the sink is made).

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::{EgressFuture, Sink};
use crate::config::NetworkPolicy;
use crate::endpoint::EndpointId;
use crate::error::Error;

/// Makes sinks of one kind out of configuration.
///
/// `Settings` holds the keys of an endpoint's table that are the sink's own; the common ones (`id`,
/// `name`, `sink`, `events`, `filter`, `enabled`, `timeout`, `concurrency`, `retry`) are taken out before.
/// Derive `Deserialize` with `#[serde(deny_unknown_fields)]`, and `JsonSchema`: the schema, the
/// reference page and the nearest-key hints come from it. Use [`Secret`](crate::config::Secret) for
/// values that must not be shown.
///
/// The schema does more than describe: a property with `format = "path"` is a path, relative to the
/// configuration file's folder; bounds (`range`, `length`; `x-min` and `x-max` for
/// [`HumanDuration`](crate::config::HumanDuration) and [`ByteSize`](crate::config::ByteSize)) are
/// enforced; a required key is asked for; keys and choices that are not in it are refused, so that
/// `#[serde(alias)]` has no effect. `flatten` and `untagged` lose the place of an error.
///
/// ```
/// use postrider::config::HumanDuration;
///
/// /// Appends to a file.
/// #[derive(serde::Deserialize, schemars::JsonSchema)]
/// #[serde(deny_unknown_fields)]
/// struct Settings {
///     /// The file.
///     #[schemars(extend("format" = "path"), length(min = 1))]
///     path: String,
///     /// How long it stays open.
///     #[schemars(extend("x-min" = "1s", "x-max" = "1h"))]
///     idle: Option<HumanDuration>,
/// }
/// ```
pub trait SinkFactory: Send + Sync + 'static {
    /// What an endpoint of this kind may be told.
    type Settings: DeserializeOwned + JsonSchema + Send + Sync + 'static;

    /// The name in the configuration: `sink = "slack"`.
    fn name(&self) -> &'static str;

    /// Finds everything that is wrong with the settings, without I/O. Default: nothing.
    fn check(&self, settings: &Self::Settings, context: &CheckContext<'_>) -> Vec<Problem> {
        let _ = (settings, context);
        Vec::new()
    }

    /// Where it delivers to, for people: a URL without its password, a path.
    fn target(&self, settings: &Self::Settings) -> String;

    /// From where the receiver would see connections come; called with settings that
    /// [`check`](Self::check) has passed. The future ends within a bounded time. Default: `None`,
    /// a sink that connects to nothing.
    fn egress(
        &self,
        settings: &Self::Settings,
        context: &CheckContext<'_>,
    ) -> Option<EgressFuture> {
        let _ = (settings, context);
        None
    }

    /// Makes the sink; may open files, must not wait for a network.
    ///
    /// # Errors
    /// [`ErrorKind::Sink`](crate::ErrorKind::Sink) where the sink cannot be opened.
    fn build(
        &self,
        settings: &Self::Settings,
        context: &CheckContext<'_>,
    ) -> Result<Arc<dyn Sink>, Error>;
}

/// What a factory may know beside its settings.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct CheckContext<'a> {
    /// The endpoint's id.
    pub endpoint: &'a EndpointId,
    /// The endpoint's name.
    pub name: &'a str,
    /// Which addresses may be connected to.
    pub network: &'a NetworkPolicy,
}

impl<'a> CheckContext<'a> {
    /// For tests and for programs that build sinks themselves.
    pub fn new(endpoint: &'a EndpointId, name: &'a str, network: &'a NetworkPolicy) -> Self {
        Self { endpoint, name, network }
    }
}

/// Something wrong with one setting: where, and in words with the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key within the endpoint's table, dotted: `url`, `rotate.size`.
    pub key: String,
    /// Lower-case sentence part: what is wrong, what was expected. No secret.
    pub message: String,
    /// What to do, as a lower-case sentence part; may be empty.
    pub remedy: String,
}

impl Problem {
    /// A problem at `key`.
    pub fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { key: key.into(), message: message.into(), remedy: String::new() }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }
}

/// The sinks that a configuration may name.
#[derive(Clone, Default)]
pub struct Registry {
    factories: BTreeMap<&'static str, Arc<dyn ErasedFactory>>,
}

impl Registry {
    /// A registry without any sink.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a factory; one of the same name is replaced.
    #[must_use]
    pub fn with(mut self, factory: impl SinkFactory) -> Self {
        self.factories.insert(factory.name(), Arc::new(Typed(Arc::new(factory))));
        self
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.factories.keys().copied()
    }

    /// The JSON Schema of the settings of the sink called `name`.
    pub fn schema(&self, name: &str, generator: &mut SchemaGenerator) -> Option<Schema> {
        Some(self.factories.get(name)?.schema(generator))
    }

    /// Parses the settings of one endpoint; the sink is not built yet.
    ///
    /// `None` where no sink has this name.
    pub(crate) fn prepare(
        &self,
        name: &str,
        table: &figment::value::Value,
    ) -> Option<Result<PreparedSink, Box<figment::Error>>> {
        let factory = self.factories.get(name)?;
        Some(factory.parse(table).map(|settings| PreparedSink {
            factory: Arc::clone(factory),
            settings,
            fingerprint: fingerprint_of(name, table),
        }))
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.factories.keys()).finish()
    }
}

/// Settings that have been parsed, with the factory that understands them.
#[derive(Clone)]
pub struct PreparedSink {
    factory: Arc<dyn ErasedFactory>,
    settings: Arc<dyn Any + Send + Sync>,
    fingerprint: u16,
}

impl PreparedSink {
    /// Tells changed settings from unchanged ones, also across restarts. A changed one goes unnoticed
    /// once in 65,536 times: settings may hold a secret, and more bits would let somebody who reads
    /// them guess it.
    pub(crate) fn fingerprint(&self) -> u16 {
        self.fingerprint
    }

    /// The sink's name, as in `sink = "…"`.
    pub fn sink(&self) -> &'static str {
        self.factory.name()
    }

    /// Where it delivers to, for people.
    pub fn target(&self) -> String {
        self.factory.target(&*self.settings)
    }

    /// From where the receiver would see connections come; `None` for a sink that connects to
    /// nothing.
    pub fn egress(&self, context: &CheckContext<'_>) -> Option<EgressFuture> {
        self.factory.egress(&*self.settings, context)
    }

    /// Everything wrong with the settings.
    pub fn check(&self, context: &CheckContext<'_>) -> Vec<Problem> {
        self.factory.check(&*self.settings, context)
    }

    /// Makes the sink.
    ///
    /// # Errors
    /// Those of [`SinkFactory::build`].
    pub fn build(&self, context: &CheckContext<'_>) -> Result<Arc<dyn Sink>, Error> {
        self.factory.build(&*self.settings, context)
    }
}

/// Of the sink's name and its settings as they are written: references to secrets are not resolved.
fn fingerprint_of(name: &str, table: &figment::value::Value) -> u16 {
    // Maps of the configuration are sorted by key, so that the same settings are the same text.
    let settings = serde_json::to_vec(table).unwrap_or_default();
    let hash = Sha256::new().chain_update(name).chain_update([0]).chain_update(settings).finalize();
    u16::from_le_bytes([hash[0], hash[1]])
}

impl fmt::Debug for PreparedSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.sink(), self.target())
    }
}

/// [`SinkFactory`] without its settings' type, so that one map holds them all.
trait ErasedFactory: Send + Sync {
    fn name(&self) -> &'static str;
    fn schema(&self, generator: &mut SchemaGenerator) -> Schema;
    fn parse(
        &self,
        settings: &figment::value::Value,
    ) -> Result<Arc<dyn Any + Send + Sync>, Box<figment::Error>>;
    fn target(&self, settings: &dyn Any) -> String;
    fn egress(&self, settings: &dyn Any, context: &CheckContext<'_>) -> Option<EgressFuture>;
    fn check(&self, settings: &dyn Any, context: &CheckContext<'_>) -> Vec<Problem>;
    fn build(&self, settings: &dyn Any, context: &CheckContext<'_>)
    -> Result<Arc<dyn Sink>, Error>;
}

struct Typed<F>(Arc<F>);

impl<F: SinkFactory> Typed<F> {
    fn settings(settings: &dyn Any) -> &F::Settings {
        settings.downcast_ref().expect("a prepared sink keeps the settings of its own factory")
    }
}

impl<F: SinkFactory> ErasedFactory for Typed<F> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Schema {
        F::Settings::json_schema(generator)
    }

    fn parse(
        &self,
        settings: &figment::value::Value,
    ) -> Result<Arc<dyn Any + Send + Sync>, Box<figment::Error>> {
        settings
            .deserialize::<F::Settings>()
            .map(|settings| Arc::new(settings) as _)
            .map_err(Box::new)
    }

    fn target(&self, settings: &dyn Any) -> String {
        self.0.target(Self::settings(settings))
    }

    fn egress(&self, settings: &dyn Any, context: &CheckContext<'_>) -> Option<EgressFuture> {
        self.0.egress(Self::settings(settings), context)
    }

    fn check(&self, settings: &dyn Any, context: &CheckContext<'_>) -> Vec<Problem> {
        self.0.check(Self::settings(settings), context)
    }

    fn build(
        &self,
        settings: &dyn Any,
        context: &CheckContext<'_>,
    ) -> Result<Arc<dyn Sink>, Error> {
        self.0.build(Self::settings(settings), context)
    }
}
