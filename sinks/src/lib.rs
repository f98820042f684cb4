//! Postrider's sinks: HTTP webhooks, files and the terminal, each a module and a feature.
//!
//! They use what any third party's sink may use, [`postrider::sink`], and never each other.

#[cfg(feature = "http")]
pub mod http;

use postrider::sink::Registry;

/// A registry with every sink that is compiled in, under its name in the configuration.
#[must_use]
pub fn registry() -> Registry {
    let registry = Registry::new();
    #[cfg(feature = "http")]
    let registry = registry.with(http::HttpFactory);
    registry
}
