//! Configuration: layers of files, environment and code become checked values.
//!
//! The way of a value: `layers` read text into values and remember where each stands; `clean` looks
//! at them by the schema (unknown keys, bounds, secrets, paths); `read` makes types of them by serde;
//! `check` joins the types into a [`Config`]. Every step reports all that it finds. Nothing here
//! knows the engine.

#![expect(
    clippy::result_large_err,
    reason = "an error names place, key, value and remedy; each ends the loading"
)]

mod check;
mod clean;
mod errors;
mod followed;
mod layers;
mod live_secret;
mod loader;
mod network;
mod origin;
mod path;
mod raw;
mod raw_disable;
mod read;
mod reference;
mod report;
mod schema;
mod secret;
mod settings;
mod values;

pub use errors::{ConfigError, ConfigErrors, ERRORS_MAX};
pub use followed::{Followed, Seen};
pub use layers::Format;
pub use live_secret::LiveSecret;
pub use loader::{FILE_BYTES_MAX, FILE_NAMES, Loader};
pub use network::{InvalidNetwork, NetworkPolicy};
pub use origin::{Place, Source};
pub use reference::reference_markdown;
pub use schema::json_schema;
pub use secret::{SECRET_FILE_BYTES_MAX, Secret};
pub use settings::{
    BacklogSettings, BusSettings, Config, EndpointConfig, MemorySettings, RawDocument, Scope,
    ServerSettings, Token,
};
pub use values::{ByteSize, HumanDuration, InvalidValue};
