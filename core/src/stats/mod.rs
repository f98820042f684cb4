//! What became of attempts lately: compact counters over the last hour, day and week.
//!
//! Pure: times come in with what is counted. A store keeps a [`Series`] for each endpoint and feeds
//! it what is settled; the same bytes are kept by every store.

mod latency;
mod series;

use serde::{Deserialize, Serialize};

pub use latency::Latency;
pub use series::{Bar, Counts, LastFailure, Series, Totals};

use crate::endpoint::EndpointId;

/// A stretch of time up to now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Window {
    /// The last hour, in 12 bars of 5 minutes.
    Hour,
    /// The last 24 hours, in 24 bars of an hour.
    Day,
    /// The last 7 days, in 28 bars of 6 hours.
    Week,
}

impl Window {
    /// All, the shortest first.
    pub const ALL: [Self; 3] = [Self::Hour, Self::Day, Self::Week];

    /// How many bars it has. The last one is not full yet; the window reaches back by as many whole
    /// bars, so that it covers its name and up to one bar more.
    pub const fn bars(self) -> usize {
        match self {
            Self::Hour => 12,
            Self::Day => 24,
            Self::Week => 28,
        }
    }

    /// Milliseconds of one bar.
    pub const fn bar_millis(self) -> i64 {
        const MINUTE: i64 = 60_000;
        match self {
            Self::Hour => 5 * MINUTE,
            Self::Day => 60 * MINUTE,
            Self::Week => 360 * MINUTE,
        }
    }
}

/// The statistics of one endpoint.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct EndpointStats {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Its counters.
    pub series: Series,
}

impl EndpointStats {
    /// What a store counted for `endpoint`.
    pub fn new(endpoint: EndpointId, series: Series) -> Self {
        Self { endpoint, series }
    }
}
