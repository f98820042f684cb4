//! postrider-sinks
