//! postrider-tests
