//! postrider-cli
