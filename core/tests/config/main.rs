//! Configuration as its users meet it: files, variables and flags in, a `Config` or errors out.

mod load;
mod sinks;
