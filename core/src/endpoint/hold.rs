//! Why what is owed to an endpoint is not attempted.

use serde::{Deserialize, Serialize};

use crate::delivery::DeliveryId;
use crate::time::Timestamp;

/// Why what is owed to an endpoint is not attempted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "hold")]
#[non_exhaustive]
pub enum Hold {
    /// It is disabled in its configuration, or all are.
    Disabled,
    /// Its receiver said that it wants nothing any more (HTTP 410), or took nothing over for too long.
    Gone(Gone),
}

/// What happens to what is owed to an endpoint while that is disabled, in its configuration or for
/// any other reason of [`Hold`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WhenDisabled {
    /// It is kept, and sent when the endpoint is enabled.
    #[default]
    Hold,
    /// It is given up, as dead with the reason `disabled`: visible, and it may be replayed.
    Drop,
}

/// A receiver that wants nothing any more, or took nothing over for too long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Gone {
    /// When it said so, or when it was given up.
    pub since: Timestamp,
    /// The answer's status, where the protocol has one.
    pub status: Option<u16>,
    /// The delivery that it said so to, or that failed last.
    pub delivery: DeliveryId,
    /// Where it said nothing: since when every attempt had failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Timestamp>,
}
