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
    /// Its receiver said that it wants nothing any more (HTTP 410).
    Gone(Gone),
}

/// A receiver that wants nothing any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Gone {
    /// When it said so.
    pub since: Timestamp,
    /// The answer's status, where the protocol has one.
    pub status: Option<u16>,
    /// The delivery that it said so to.
    pub delivery: DeliveryId,
}
