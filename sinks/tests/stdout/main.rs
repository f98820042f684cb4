//! The stdout sink in real child processes: this test binary runs itself.
#![cfg(all(feature = "stdout", unix))]

mod closed;
#[path = "../common/mod.rs"]
mod common;
mod style;
mod support;
mod whole;
