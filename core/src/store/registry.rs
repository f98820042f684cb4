//! Which stores a configuration may name beside the built-in ones: an explicit list of factories,
//! as for sinks.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;

use super::Store;
use crate::config::BusSettings;
use crate::error::Error;
use crate::sink::Problem;

/// Opens stores of one kind out of configuration: `[bus.store]` with `type = "NAME"`.
///
/// `Settings` holds the table's other keys. What is said of
/// [`SinkFactory`](crate::sink::SinkFactory)'s holds for them too.
#[async_trait]
pub trait StoreFactory: Send + Sync + 'static {
    /// What a store of this kind may be told.
    type Settings: DeserializeOwned + JsonSchema + Send + Sync + 'static;

    /// The name in the configuration: `type = "sqlite"`.
    fn name(&self) -> &'static str;

    /// Finds everything that is wrong with the settings, without I/O. Default: nothing.
    fn check(&self, settings: &Self::Settings) -> Vec<Problem> {
        let _ = settings;
        Vec::new()
    }

    /// Where events are kept, for people: a path, a URL without its password.
    fn target(&self, settings: &Self::Settings) -> String;

    /// Opens the store. Of `bus` it follows `retention`, `dedup_window` and `when_full` as well as
    /// it can.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store) where it cannot be opened.
    async fn open(
        &self,
        settings: &Self::Settings,
        bus: &BusSettings,
    ) -> Result<Arc<dyn Store>, Error>;
}

/// The stores that a configuration may name.
#[derive(Clone, Default)]
pub struct Registry {
    factories: BTreeMap<&'static str, Arc<dyn ErasedFactory>>,
}

impl Registry {
    /// A registry without any store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a factory; one of the same name is replaced.
    #[must_use]
    pub fn with(mut self, factory: impl StoreFactory) -> Self {
        self.factories.insert(factory.name(), Arc::new(Typed(Arc::new(factory))));
        self
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.factories.keys().copied()
    }

    /// The JSON Schema of the settings of the store called `name`.
    pub fn schema(&self, name: &str, generator: &mut SchemaGenerator) -> Option<Schema> {
        Some(self.factories.get(name)?.schema(generator))
    }

    /// Parses the settings; the store is not opened yet.
    ///
    /// `None` where no store has this name.
    pub(crate) fn prepare(
        &self,
        name: &str,
        settings: &figment::value::Value,
    ) -> Option<Result<PreparedStore, Box<figment::Error>>> {
        let factory = self.factories.get(name)?;
        Some(
            factory
                .parse(settings)
                .map(|settings| PreparedStore { factory: Arc::clone(factory), settings }),
        )
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.factories.keys()).finish()
    }
}

/// Settings that have been parsed, with the factory that understands them.
#[derive(Clone)]
pub struct PreparedStore {
    factory: Arc<dyn ErasedFactory>,
    settings: Arc<dyn Any + Send + Sync>,
}

impl PreparedStore {
    /// The store's name, as in `type = "…"`.
    pub fn name(&self) -> &'static str {
        self.factory.name()
    }

    /// Where events are kept, for people.
    pub fn target(&self) -> String {
        self.factory.target(&*self.settings)
    }

    /// Everything wrong with the settings.
    pub fn check(&self) -> Vec<Problem> {
        self.factory.check(&*self.settings)
    }

    /// Opens the store.
    ///
    /// # Errors
    /// Those of [`StoreFactory::open`].
    pub async fn open(&self, bus: &BusSettings) -> Result<Arc<dyn Store>, Error> {
        self.factory.open(&*self.settings, bus).await
    }
}

impl fmt::Debug for PreparedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name(), self.target())
    }
}

/// [`StoreFactory`] without its settings' type, so that one map holds them all.
#[async_trait]
trait ErasedFactory: Send + Sync {
    fn name(&self) -> &'static str;
    fn schema(&self, generator: &mut SchemaGenerator) -> Schema;
    fn parse(
        &self,
        settings: &figment::value::Value,
    ) -> Result<Arc<dyn Any + Send + Sync>, Box<figment::Error>>;
    fn target(&self, settings: &(dyn Any + Send + Sync)) -> String;
    fn check(&self, settings: &(dyn Any + Send + Sync)) -> Vec<Problem>;
    async fn open(
        &self,
        settings: &(dyn Any + Send + Sync),
        bus: &BusSettings,
    ) -> Result<Arc<dyn Store>, Error>;
}

struct Typed<F>(Arc<F>);

impl<F: StoreFactory> Typed<F> {
    fn settings(settings: &(dyn Any + Send + Sync)) -> &F::Settings {
        settings.downcast_ref().expect("a prepared store keeps the settings of its own factory")
    }
}

#[async_trait]
impl<F: StoreFactory> ErasedFactory for Typed<F> {
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

    fn target(&self, settings: &(dyn Any + Send + Sync)) -> String {
        self.0.target(Self::settings(settings))
    }

    fn check(&self, settings: &(dyn Any + Send + Sync)) -> Vec<Problem> {
        self.0.check(Self::settings(settings))
    }

    async fn open(
        &self,
        settings: &(dyn Any + Send + Sync),
        bus: &BusSettings,
    ) -> Result<Arc<dyn Store>, Error> {
        self.0.open(Self::settings(settings), bus).await
    }
}
