//! From events to those who ask for them: patterns, and an index over them.
//!
//! Pure. The index is built once for each change of the configuration; a look-up costs what
//! matches, not what is registered.

mod pattern;
mod router;

pub use pattern::{InvalidPattern, Pattern};
pub use router::Router;
