//! An embeddable event bus that delivers typed events to pluggable sinks and never loses one.

pub mod clock;
pub mod config;
pub mod delivery;
pub mod endpoint;
mod error;
pub mod event;
pub mod retry;
pub mod route;
pub mod sign;
pub mod sink;
mod time;

pub use endpoint::{Endpoint, EndpointId};
pub use error::{Error, ErrorKind};
pub use event::{Event, EventId, NewEvent};
pub use time::{ParseTimestampError, Timestamp};
