//! Configuration: layers of files, environment and code become checked values.

mod network;
mod secret;
mod values;

pub use network::{InvalidNetwork, NetworkPolicy};
pub use secret::{SECRET_FILE_BYTES_MAX, Secret};
pub use values::{ByteSize, HumanDuration, InvalidValue};
