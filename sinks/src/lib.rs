//! Postrider's sinks: HTTP webhooks, files and the terminal, each a module and a feature.
//!
//! They use what any third party's sink may use, [`postrider::sink`], and never each other.

#[cfg(feature = "file")]
pub mod file;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "stdout")]
pub mod stdout;
#[cfg(any(feature = "file", feature = "stdout"))]
mod writer;

use postrider::sink::Registry;

/// A registry with every sink that is compiled in, under its name in the configuration.
#[must_use]
pub fn registry() -> Registry {
    let registry = Registry::new();
    #[cfg(feature = "file")]
    let registry = registry.with(file::Factory);
    #[cfg(feature = "http")]
    let registry = registry.with(http::HttpFactory);
    #[cfg(feature = "stdout")]
    let registry = registry.with(stdout::Factory);
    registry
}
