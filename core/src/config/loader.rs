//! Layers on layers: built-in defaults, a file, the environment, then what code and flags set.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use figment::value::{Dict, Value};
use figment::{Figment, Profile, Provider, providers::Serialized};

use super::check::{Given, check};
use super::errors::{ConfigError, ConfigErrors};
use super::layers::{Entry, Environment, Format, Layer, PREFIX, patch, structure};
use super::origin::{Document, Origins, Place, Source};
use super::path::KeyPath;
use super::raw::RawConfig;
use super::schema::Schema;
use super::settings::{Config, RawDocument};
use crate::sink::Registry;
use crate::store;

/// Largest configuration file, in bytes.
pub const FILE_BYTES_MAX: u64 = 16 << 20;
/// The files that [`Loader::find`] looks for, in this order.
pub const FILE_NAMES: [&str; 3] = ["postrider.toml", "postrider.json", GUIDE_FILE_NAME];
/// The guide's file, in which unknown keys are only warned of.
const GUIDE_FILE_NAME: &str = "webhook_config.json";

/// Reads a [`Config`] from its layers; later ones win: built-in defaults, the file (or text), the
/// environment, values set by code and flags.
///
/// ```
/// use postrider::config::{Config, Format};
///
/// let config = Config::loader()
///     .text(Format::Toml, "[bus]\nbatch_events_max = 10")
///     .environment_from([("POSTRIDER_BUS__WHEN_FULL", "wait")])
///     .set("server.listen", "127.0.0.1:0")
///     .load()?;
/// assert_eq!(config.bus.batch_events_max, 10);
/// assert_eq!(config.server.listen.port(), 0);
/// # Ok::<(), postrider::config::ConfigErrors>(())
/// ```
#[must_use = "a loader does nothing until it loads"]
pub struct Loader {
    registry: Registry,
    stores: store::Registry,
    file: Option<Input>,
    environment: Environment,
    reads_environment: bool,
    entries: Vec<(Source, String, serde_json::Value)>,
}

enum Input {
    File(PathBuf),
    Text(Format, String),
}

impl Default for Loader {
    fn default() -> Self {
        Self {
            registry: Registry::new(),
            stores: store::Registry::new(),
            file: None,
            environment: Environment::Process,
            reads_environment: true,
            entries: Vec::new(),
        }
    }
}

impl Loader {
    /// Sets which sinks endpoints may name. Default: none.
    pub fn registry(mut self, registry: &Registry) -> Self {
        self.registry = registry.clone();
        self
    }

    /// Sets which stores `bus.store` may name. Default: none.
    pub fn stores(mut self, stores: &store::Registry) -> Self {
        self.stores = stores.clone();
        self
    }

    /// Reads this file, at most 16 MiB: TOML or JSON by its extension, else by its content. In a
    /// file named `webhook_config.json` unknown keys are warnings, as the guide's own script keeps
    /// its statistics there.
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(Input::File(path.into()));
        self
    }

    /// Reads the first of [`FILE_NAMES`] that exists in `folder`; none is no error.
    pub fn find(mut self, folder: impl AsRef<Path>) -> Self {
        let folder = folder.as_ref();
        let found = FILE_NAMES.iter().map(|name| folder.join(name)).find(|path| path.exists());
        self.file = found.map(Input::File);
        self
    }

    /// Reads this text in place of a file.
    pub fn text(mut self, format: Format, text: impl Into<String>) -> Self {
        self.file = Some(Input::Text(format, text.into()));
        self
    }

    /// Sets whether variables `POSTRIDER_…` are a layer. Default yes. Secrets may refer to
    /// variables either way.
    pub fn environment(mut self, read: bool) -> Self {
        self.reads_environment = read;
        self
    }

    /// Takes these variables for the environment and looks at no others, also for secrets.
    pub fn environment_from<N: Into<String>, V: Into<String>>(
        mut self,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let variables = variables.into_iter().map(|(name, text)| (name.into(), text.into()));
        self.environment = Environment::Given(variables.collect());
        self
    }

    /// Sets one key, such as `bus.data_dir` or `endpoints.0.url`, over all other layers. The last
    /// setter wins.
    pub fn set(mut self, key: &str, value: impl Into<serde_json::Value>) -> Self {
        self.entries.push((Source::Code, key.to_owned(), value.into()));
        self
    }

    /// As [`set`](Self::set), for a command-line flag: errors name it, and its text is read as the
    /// key's type wants, as a variable's is.
    pub fn flag(mut self, flag: &str, key: &str, text: impl Into<String>) -> Self {
        let text = serde_json::Value::String(text.into());
        self.entries.push((Source::Flag(flag.to_owned()), key.to_owned(), text));
        self
    }

    /// Reads and checks everything.
    ///
    /// Relative paths in a file start at the file's folder; those set elsewhere start at the current
    /// folder.
    ///
    /// # Errors
    /// Every mistake in every layer, with its place and remedy. Only a file that cannot be read as
    /// TOML or JSON at all ends the search early.
    pub fn load(self) -> Result<Config, ConfigErrors> {
        let schema = Schema::new(&self.registry, &self.stores);
        let mut errors = Vec::new();

        let document = Document::new(Source::Default, "");
        let mut origins = Origins::leaf(&document, None);
        let mut figment = Figment::from(Serialized::defaults(RawConfig::default()));

        let mut path = None;
        let mut document = None;
        if let Some(input) = self.file {
            if let Input::File(file) = &input {
                path = Some(file.clone());
            }
            let (format, read) = read(input).map_err(|error| ConfigErrors::new(vec![error]))?;
            let layer = format.read(&read).map_err(ConfigErrors::new)?;
            document = Some(RawDocument { format, text: read.text.clone() });
            origins.merge(layer.origins.clone());
            figment = figment.merge(layer);
        }

        let values = values(&figment);
        let mut entries = Vec::new();
        if self.reads_environment {
            let referenced = references(&values);
            entries = self.environment.entries(&referenced, &schema, &mut errors);
        }
        let layer = patch(Layer { values, origins }, entries, &mut errors);
        let origins = layer.origins.clone();
        figment = figment.merge(layer);

        let entries = self.entries.into_iter().filter_map(|(source, key, value)| {
            let is_flag = matches!(source, Source::Flag(_));
            let document = Document::new(source, value.as_str().unwrap_or_default());
            let path = KeyPath::parse(&key);
            let value = match Value::serialize(value) {
                Ok(value) if !is_flag => Ok(value),
                _ => structure(&document, &path),
            };
            match value {
                Ok(value) => Some(Entry { path, value, document }),
                Err(error) => {
                    errors.push(error);
                    None
                }
            }
        });
        let entries = entries.collect();
        let values = self::values(&figment);
        let layer = patch(Layer { values, origins }, entries, &mut errors);
        let origins = layer.origins.clone();
        figment = figment.merge(layer);

        let is_lenient = path
            .as_ref()
            .and_then(|path| path.file_name())
            .is_some_and(|name| name == GUIDE_FILE_NAME);
        let tree = Value::from(self::values(&figment));
        let given = Given {
            registry: &self.registry,
            stores: &self.stores,
            schema: &schema,
            environment: &self.environment,
            origins: &origins,
            is_lenient,
        };
        match check(&tree, &given) {
            Ok(config) if errors.is_empty() => Ok(Config { path, document, ..config }),
            Ok(_) => Err(ConfigErrors::new(errors)),
            Err(found) => {
                errors.extend(found);
                Err(ConfigErrors::new(errors))
            }
        }
    }
}

impl Config {
    /// Starts to read a configuration from its layers.
    pub fn loader() -> Loader {
        Loader::default()
    }
}

/// What the layers hold together.
fn values(figment: &Figment) -> Dict {
    figment.data().ok().and_then(|mut data| data.remove(&Profile::Default)).unwrap_or_default()
}

/// Reads the file or text, and says how it is written.
fn read(input: Input) -> Result<(Format, Arc<Document>), ConfigError> {
    match input {
        Input::Text(format, text) => Ok((format, Document::new(Source::Text, text))),
        Input::File(path) => {
            let place = |path: &Path| Place {
                source: Source::File(path.to_owned()),
                line: None,
                column: None,
            };
            let text = read_file(&path).map_err(|(message, remedy)| {
                ConfigError::syntax(place(&path), message).remedy(remedy)
            })?;
            let format = Format::of(&path, &text);
            Ok((format, Document::new(Source::File(path), text)))
        }
    }
}

/// The file's text; else what is wrong and what to do.
fn read_file(path: &Path) -> Result<String, (String, &'static str)> {
    let cannot = |error: std::io::Error| {
        let remedy = match error.kind() {
            std::io::ErrorKind::NotFound => "check the path, or create it with `postrider init`",
            std::io::ErrorKind::PermissionDenied => "allow this user to read it",
            _ => "",
        };
        (format!("cannot read the file: {error}"), remedy)
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(cannot)?;
    // The bound holds for what is read, not for what the file system says: a pipe has no length.
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(("expected at most 16 MiB".to_owned(), "is this the configuration?"));
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| ("expected UTF-8 text".to_owned(), "save it as UTF-8"))?;
    Ok(text.strip_prefix('\u{feff}').map_or(text.clone(), ToOwned::to_owned))
}

/// The variables of our own prefix that secrets refer to: they set no keys.
fn references(values: &Dict) -> Vec<String> {
    fn collect(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Dict(_, table) => {
                match table.get("env") {
                    Some(Value::String(_, name)) if name.starts_with(PREFIX) => {
                        found.push(name.clone());
                    }
                    _ => {}
                }
                for value in table.values() {
                    collect(value, found);
                }
            }
            Value::Array(_, items) => {
                for value in items {
                    collect(value, found);
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    for value in values.values() {
        collect(value, &mut found);
    }
    found
}
