//! The stdout sink in real child processes: this test binary runs itself.
#![cfg(feature = "stdout")]
