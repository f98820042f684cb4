//! The settings of a stdout endpoint.

use schemars::JsonSchema;
use serde::Deserialize;

/// What a stdout endpoint may be told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Settings {
    /// How events are shown: `auto` (default), `pretty` or `ndjson`.
    pub style: Style,
}

impl Settings {
    /// The settings with another style.
    pub fn style(mut self, style: Style) -> Self {
        self.style = style;
        self
    }
}

/// How events are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Style {
    /// `pretty` on a terminal, `ndjson` elsewhere.
    #[default]
    Auto,
    /// For people: time, type, the end of the id, key and the beginning of the payload, on one line.
    /// Coloured on a terminal unless `NO_COLOR` is set or `TERM` is `dumb`.
    Pretty,
    /// For programs: one JSON object per line, whole.
    Ndjson,
}
