//! Derive macro for Event.
