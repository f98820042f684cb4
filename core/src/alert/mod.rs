//! Alerts: what the bus tells of itself, as events.
//!
//! They are routed, kept, signed and delivered like any event, to endpoints that ask for them by
//! name (`postrider.endpoint.failing`, `postrider.**`; a `*` does not include them) and to
//! subscribers in the process ([`Bus::subscribe`](crate::Bus::subscribe)). The rules:
//!
//! - An alert is never about alerts: attempts and deliveries of `postrider.*` events raise none.
//! - One that is about an endpoint does not go to that endpoint.
//! - Each kind is raised at most once per endpoint and [`Policy::interval`]; what happens in between
//!   is told with the next one, as a count.
//! - One that nobody asks for is not kept.
//!
//! Alerts that wait for their interval are lost in a crash; a shutdown has the store keep them.

mod board;
mod desk;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub(crate) use board::Alert;
pub(crate) use desk::Desk;

use crate::delivery::{Cause, DeadReason, DeliveryId};
use crate::endpoint::EndpointId;
use crate::event::{Event, EventId, EventType};
use crate::time::Timestamp;

/// Failed attempts in a row after which an endpoint counts as failing, unless configured.
pub const FAILING_AFTER_DEFAULT: u32 = 10;
/// Least time between two alerts of a kind about one endpoint, unless configured.
pub const INTERVAL_DEFAULT: Duration = Duration::from_mins(1);
/// Deliveries owed to one endpoint from which its backlog is high, unless configured.
pub const BACKLOG_EVENTS_DEFAULT: u64 = 100_000;

/// When alerts are raised: the `[alerts]` table.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Policy {
    /// Failed attempts in a row after which an endpoint counts as failing. Default 10, 1 to 1,000,000.
    pub failing_after: u32,
    /// Deliveries owed to one endpoint from which its backlog is high; it is so until it has fallen
    /// to four fifths. Default 100,000, at least 1.
    pub backlog_events: u64,
    /// Least time between two alerts of a kind about one endpoint. Default 1 min, 1 s to 1 day.
    pub interval: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            failing_after: FAILING_AFTER_DEFAULT,
            backlog_events: BACKLOG_EVENTS_DEFAULT,
            interval: INTERVAL_DEFAULT,
        }
    }
}

impl Policy {
    /// Sets [`failing_after`](Self::failing_after), at least 1.
    #[must_use]
    pub fn failing_after(mut self, attempts: u32) -> Self {
        self.failing_after = attempts.max(1);
        self
    }

    /// Sets [`backlog_events`](Self::backlog_events), at least 1.
    #[must_use]
    pub fn backlog_events(mut self, deliveries: u64) -> Self {
        self.backlog_events = deliveries.max(1);
        self
    }

    /// Sets [`interval`](Self::interval), at least 1 s and at most a day.
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval.clamp(Duration::from_secs(1), Duration::from_hours(24));
        self
    }
}

/// `postrider.endpoint.failing`: attempts at an endpoint fail, one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EndpointFailing {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Its name for people.
    pub name: String,
    /// Since when it counts as failing.
    pub since: Timestamp,
    /// How many failed in a row.
    pub failures: u32,
    /// The event of the newest of them.
    pub event: EventId,
    /// What kind of failure that was.
    pub cause: Cause,
    /// The same in words.
    pub message: String,
    /// The answer's status, where there was one.
    pub status: Option<u16>,
}

/// `postrider.endpoint.recovered`: an endpoint of which was told that it fails took an event over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EndpointRecovered {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Its name for people.
    pub name: String,
    /// Since when it counted as failing.
    pub failing_since: Timestamp,
    /// When it took an event over again.
    pub at: Timestamp,
}

/// `postrider.endpoint.disabled`: the bus attempts an endpoint's deliveries no more, until somebody
/// enables it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EndpointDisabled {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Its name for people.
    pub name: String,
    /// Since when.
    pub since: Timestamp,
    /// Why, in words.
    pub reason: String,
    /// The status that its receiver answered, where that was the reason.
    pub status: Option<u16>,
    /// The delivery that was answered so.
    pub delivery: Option<DeliveryId>,
}

/// `postrider.delivery.dead`: deliveries to an endpoint were given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeliveryDead {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Its name for people.
    pub name: String,
    /// How many since the last such alert; the rest tells of the newest.
    pub count: u64,
    /// Which delivery.
    pub delivery: DeliveryId,
    /// The type of its event.
    pub event_type: EventType,
    /// Why it was given up.
    pub reason: DeadReason,
    /// How often it was attempted.
    pub attempts: u32,
    /// What kind of failure the last attempt met.
    pub cause: Option<Cause>,
    /// The same in words.
    pub message: String,
    /// The last answer's status, where there was one.
    pub status: Option<u16>,
    /// When it was given up.
    pub at: Timestamp,
}

/// `postrider.backlog.high`: much is owed to an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BacklogHigh {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Its name for people.
    pub name: String,
    /// Deliveries owed to it.
    pub owed: u64,
    /// From how many on that is much.
    pub limit: u64,
    /// When it was counted.
    pub at: Timestamp,
}

impl Event for EndpointFailing {
    const TYPE: &'static str = "postrider.endpoint.failing";
}

impl Event for EndpointRecovered {
    const TYPE: &'static str = "postrider.endpoint.recovered";
}

impl Event for EndpointDisabled {
    const TYPE: &'static str = "postrider.endpoint.disabled";
}

impl Event for DeliveryDead {
    const TYPE: &'static str = "postrider.delivery.dead";
}

impl Event for BacklogHigh {
    const TYPE: &'static str = "postrider.backlog.high";
}
