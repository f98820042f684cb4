//! The layers of a configuration: each reads its text into figment values and remembers where every
//! value stands.

mod environment;
mod json;
mod patch;
mod toml;

use std::sync::Arc;

use figment::value::Dict;
use figment::{Metadata, Profile, Provider};

pub(super) use environment::{Environment, PREFIX};
pub(super) use patch::{Entry, patch, structure};

use super::errors::ConfigError;
use super::origin::{Document, Origins, Source};

/// How a configuration text is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// TOML 1.1.
    Toml,
    /// JSON (RFC 8259), without comments; a key must not stand twice in one object.
    Json,
}

impl Format {
    /// By a file's extension, else by its content: JSON starts with `{`, which no TOML does.
    pub(super) fn of(path: &std::path::Path, text: &str) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("toml") => Self::Toml,
            Some("json") => Self::Json,
            _ if text.trim_start().starts_with('{') => Self::Json,
            _ => Self::Toml,
        }
    }

    /// Reads a text: the values, and where each stands.
    pub(super) fn read(self, document: &Arc<Document>) -> Result<Layer, Vec<ConfigError>> {
        let (values, origins) = match self {
            Self::Toml => toml::read(document)?,
            Self::Json => json::read(document).map_err(|error| vec![error])?,
        };
        Ok(Layer { values, origins })
    }
}

/// One layer, as figment takes it.
pub(super) struct Layer {
    pub(super) values: Dict,
    pub(super) origins: Origins,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(match &self.origins.here.document.source {
            Source::File(_) | Source::Text => "file",
            Source::Variable(_) => "environment",
            Source::Flag(_) | Source::Code => "code",
            Source::Default => "defaults",
        })
    }

    fn data(&self) -> figment::Result<figment::value::Map<Profile, Dict>> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}
