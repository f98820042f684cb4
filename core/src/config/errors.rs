//! What is wrong with a configuration: where, what was found, what to do.

use std::fmt;

use super::origin::{Place, Source};
use super::path::KeyPath;

/// What is shown in place of a secret.
pub(super) const REDACTED: &str = "••••";
/// Most errors that are collected; a file with more is most likely not a configuration at all.
pub const ERRORS_MAX: usize = 100;

/// One mistake in a configuration.
///
/// Prints as `postrider.toml:14: endpoints[1].timeout: expected a duration with a unit, such as
/// "10s", found "10" — write "10s"`. No field holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigError {
    /// Where it stands.
    pub place: Place,
    /// The key, such as `endpoints[1].url`; empty where the file as a whole is wrong.
    pub key: String,
    /// What is wrong, or what was expected.
    pub message: String,
    /// The value as it was written, shortened; `••••` for one that may be secret.
    pub found: Option<String>,
    /// What to do; may be empty.
    pub remedy: String,
}

impl ConfigError {
    pub(super) fn new(place: Place, path: &KeyPath, message: impl Into<String>) -> Self {
        Self {
            place,
            key: path.to_string(),
            message: message.into(),
            found: None,
            remedy: String::new(),
        }
    }

    /// A text that could not be read at all.
    pub(super) fn syntax(place: Place, message: impl Into<String>) -> Self {
        Self::new(place, &KeyPath::default(), message)
    }

    pub(super) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }

    pub(super) fn found(mut self, found: impl Into<String>) -> Self {
        self.found = Some(found.into());
        self
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.place)?;
        match (self.key.as_str(), self.place.column) {
            ("", Some(column)) => write!(f, ":{column}: "),
            ("", None) => f.write_str(": "),
            (key, _) => write!(f, ": {key}: "),
        }?;
        f.write_str(&self.message)?;
        if let Some(found) = &self.found {
            write!(f, ", found {found}")?;
        }
        if self.remedy.is_empty() { Ok(()) } else { write!(f, " — {}", self.remedy) }
    }
}

impl std::error::Error for ConfigError {}

/// Everything that is wrong with a configuration, in the order of the file, then what variables,
/// flags and code set; never empty.
///
/// `Display` prints one line for each. At most [`ERRORS_MAX`] are collected.
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    pub(super) fn new(mut errors: Vec<ConfigError>) -> Self {
        debug_assert!(!errors.is_empty(), "an error says what is wrong");
        errors.sort_by_key(|error| {
            let Place { source, line, column } = &error.place;
            (!matches!(source, Source::File(_) | Source::Text), *line, *column)
        });
        errors.truncate(ERRORS_MAX);
        Self(errors)
    }

    /// The errors.
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigError> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a ConfigErrors {
    type Item = &'a ConfigError;
    type IntoIter = std::slice::Iter<'a, ConfigError>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        if self.0.len() == ERRORS_MAX { f.write_str("\nthere may be more") } else { Ok(()) }
    }
}

impl fmt::Debug for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for ConfigErrors {}

/// The configuration is wrong; the message lists every mistake.
impl From<ConfigErrors> for crate::Error {
    fn from(errors: ConfigErrors) -> Self {
        Self::new(crate::ErrorKind::Config, format!("load the configuration:\n{errors}"))
    }
}
