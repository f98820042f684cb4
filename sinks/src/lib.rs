//! The sinks that come with Postrider: each a module and a feature, with its factory.

#[cfg(feature = "file")]
pub mod file;
#[cfg(feature = "stdout")]
pub mod stdout;
#[cfg(any(feature = "file", feature = "stdout"))]
mod writer;
