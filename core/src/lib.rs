//! An embeddable event bus that delivers typed events to pluggable sinks and never loses one.

pub mod alert;
mod bus;
pub mod clock;
mod codec;
pub mod config;
pub mod delivery;
pub mod endpoint;
mod engine;
mod error;
pub mod event;
pub mod filter;
mod lane;
mod rate;
pub mod refresh;
pub mod replay;
pub mod retry;
pub mod route;
pub mod sign;
pub mod sink;
pub mod stats;
pub mod store;
#[cfg(feature = "test-util")]
pub mod testing;
mod time;
pub mod transform;

pub use bus::{
    BATCH_BYTES_MAX_DEFAULT, BATCH_EVENTS_MAX_DEFAULT, Bus, BusBuilder, Left, LeftAt, Receipt,
    Received, SUBSCRIBER_EVENTS_MAX_DEFAULT, Subscription, SubscriptionError, TypedSubscription,
};
pub use endpoint::{Endpoint, EndpointId};
pub use engine::IN_FLIGHT_MAX_DEFAULT;
pub use error::{Error, ErrorKind};
pub use event::{Event, EventId, NewEvent};
pub use lane::PAUSE_ASKED_MAX;
pub use rate::{InvalidRate, Rate};
pub use time::{ParseTimestampError, Timestamp};
