//! Environment variables: `POSTRIDER_BUS__DATA_DIR` is `bus.data_dir`.
//!
//! Not figment's own `Env`: that one reads only the process's environment (tests could not run side
//! by side), cannot address an element of a list, and guesses a value's type from its text, so that
//! a token of digits would stop being text.

use std::collections::BTreeMap;

use super::patch::{Entry, structure};
use crate::config::errors::ConfigError;
use crate::config::origin::{Document, Source};
use crate::config::path::KeyPath;
use crate::config::schema;
use crate::config::secret::{NO_VARIABLE_NAME, is_variable_name};

/// What the name of a variable that sets a key starts with.
pub(in crate::config) const PREFIX: &str = "POSTRIDER_";
/// What stands between two levels in such a name.
const LEVEL: &str = "__";

/// The variables that configuration may be read from.
pub(in crate::config) enum Environment {
    /// Those of this process.
    Process,
    /// Those given, and no others.
    Given(BTreeMap<String, String>),
}

impl Environment {
    /// The variable called `name`, for a secret that refers to it. `Err` in words.
    pub(in crate::config) fn secret(&self, name: &str) -> Result<String, String> {
        if !is_variable_name(name) {
            return Err(NO_VARIABLE_NAME.to_owned());
        }
        let found = match self {
            Self::Given(variables) => Ok(variables.get(name).cloned()),
            Self::Process => match std::env::var(name) {
                Ok(text) => Ok(Some(text)),
                Err(std::env::VarError::NotPresent) => Ok(None),
                Err(std::env::VarError::NotUnicode(_)) => Err("is not valid UTF-8"),
            },
        };
        found
            .and_then(|text| text.ok_or("is not set"))
            .map_err(|problem| format!("environment variable {name} {problem}"))
    }

    /// The values that variables set. Those in `referenced` belong to secrets.
    pub(in crate::config) fn entries(
        &self,
        referenced: &[String],
        keys: &schema::Schema,
        errors: &mut Vec<ConfigError>,
    ) -> Vec<Entry> {
        let variables: Vec<(String, Option<String>)> = match self {
            Self::Given(given) => {
                given.iter().map(|(name, text)| (name.clone(), Some(text.clone()))).collect()
            }
            Self::Process => std::env::vars_os()
                .filter_map(|(name, text)| {
                    Some((name.into_string().ok()?, text.into_string().ok()))
                })
                .collect(),
        };
        let mut entries = Vec::new();
        for (name, text) in variables {
            let Some(rest) = name.strip_prefix(PREFIX) else { continue };
            if referenced.contains(&name) {
                continue;
            }
            let path = rest.to_ascii_lowercase();
            let levels: Vec<&str> = path.split(LEVEL).collect();
            let document =
                Document::new(Source::Variable(name.clone()), text.clone().unwrap_or_default());
            let path = KeyPath::from_names(levels.iter().copied());
            if levels.len() == 1 && !keys.has_top_level(levels[0]) {
                // The environment is shared: `POSTRIDER_PORT` may be a container manager's. Only
                // what looks like a slip of ours is refused.
                if let Some(nearest) = keys.nearest_variable(levels[0]) {
                    let nearest = nearest.replace('.', LEVEL).to_ascii_uppercase();
                    errors.push(
                        ConfigError::new(document.place(None), &path, "unknown key")
                            .remedy(format!("did you mean {PREFIX}{nearest}?")),
                    );
                }
                continue;
            }
            if text.is_none() {
                errors.push(ConfigError::new(document.place(None), &path, "expected valid UTF-8"));
                continue;
            }
            match structure(&document, &path) {
                Ok(value) => entries.push(Entry { path, value, document }),
                Err(error) => errors.push(error),
            }
        }
        entries
    }
}
