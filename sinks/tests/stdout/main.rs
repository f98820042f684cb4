//! The stdout sink in real child processes: this test binary runs itself.
#![cfg(all(feature = "stdout", unix))]

mod closed;
mod style;
mod support;
mod whole;
