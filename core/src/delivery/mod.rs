//! Deliveries: the duty to bring one event to one endpoint, what became of each attempt, and the
//! pure decision what happens next.
//!
//! Knows no clock, store or task: `decide` is a table over values.

mod decide;
mod id;
mod outcome;

use serde::{Deserialize, Serialize};

pub use decide::{Decision, decide};
pub use id::{DeliveryId, InvalidDeliveryId};
pub use outcome::{ANSWER_BYTES_MAX, Ack, Cause, MESSAGE_BYTES_MAX, Nack, Outcome, Verdict};

use crate::time::Timestamp;

/// Where a delivery stands. Each is visible, with its reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
#[non_exhaustive]
pub enum State {
    /// To be attempted at `due` or as soon as its lane lets it.
    Waiting {
        /// When the next attempt may start.
        due: Timestamp,
    },
    /// An attempt is under way under a lease that runs out at `until`.
    Leased {
        /// When the lease runs out and somebody else may try.
        until: Timestamp,
    },
    /// Taken over by the receiver.
    Delivered,
    /// Given up.
    Dead {
        /// Why.
        reason: DeadReason,
    },
    /// Not delivered before the event's deadline.
    Expired,
    /// It was dead or expired, and somebody has set it aside for good.
    Purged,
}

impl State {
    /// Whether nothing more will be done by itself.
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::Waiting { .. } | Self::Leased { .. })
    }

    /// Which state it is, without its details.
    pub fn kind(&self) -> StateKind {
        match self {
            Self::Waiting { .. } => StateKind::Waiting,
            Self::Leased { .. } => StateKind::Leased,
            Self::Delivered => StateKind::Delivered,
            Self::Dead { .. } => StateKind::Dead,
            Self::Expired => StateKind::Expired,
            Self::Purged => StateKind::Purged,
        }
    }
}

/// A [`State`] without its details, and the state of an event without deliveries: to search by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StateKind {
    /// To be attempted, now or later.
    Waiting,
    /// An attempt is under way.
    Leased,
    /// Taken over by the receiver.
    Delivered,
    /// Given up.
    Dead,
    /// Not delivered before the event's deadline.
    Expired,
    /// Dead or expired, and set aside for good.
    Purged,
    /// No endpoint asked for the event: it has no deliveries.
    Unmatched,
}

/// Why a delivery was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DeadReason {
    /// Every attempt of the schedule failed.
    Exhausted,
    /// The sink said that no attempt can succeed.
    Rejected,
    /// The receiver asked never to be sent anything again; the endpoint is disabled.
    Gone,
    /// The endpoint was disabled, and drops what it is owed meanwhile
    /// ([`WhenDisabled::Drop`](crate::endpoint::WhenDisabled::Drop)).
    Disabled,
}

/// What one attempt did: kept with the delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// Counts from 1.
    pub number: u32,
    /// When it started.
    pub at: Timestamp,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// `None` where the receiver took the event over, else what kind of failure it was.
    pub cause: Option<Cause>,
    /// The failure in words, at most 500 bytes; empty for a success.
    pub message: String,
    /// The answer's status where the protocol has one (HTTP).
    pub status: Option<u16>,
    /// The beginning of the answer as text, at most 4 KiB.
    pub answer: String,
}

impl AttemptRecord {
    /// Whether the receiver took the event over.
    pub fn succeeded(&self) -> bool {
        self.cause.is_none()
    }
}
