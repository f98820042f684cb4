//! Postrider's further stores, each a module and a feature, none on by default: embedding the bus
//! never compiles a database that it does not use.
//!
//! They use what any third party's store may use, [`postrider::store`], and never each other.
//! [`outbox`] is the seam for events that commit with an application's own rows.

pub mod outbox;
#[cfg(feature = "sqlite")]
pub mod sqlite;

use postrider::store::Registry;

/// A registry with every store that is compiled in, under its name in the configuration.
#[must_use]
pub fn registry() -> Registry {
    let registry = Registry::new();
    #[cfg(feature = "sqlite")]
    let registry = registry.with(sqlite::Factory);
    registry
}

/// Compiles the Rust of the page.
#[cfg(all(doctest, feature = "sqlite"))]
#[doc = include_str!("../../docs/STORES.md")]
struct Page;
