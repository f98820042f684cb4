//! Delivery ids.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::endpoint::EndpointId;
use crate::event::EventId;

/// Names one delivery: an event, an endpoint, and which run of it.
///
/// Prints as `ENDPOINT.EVENT`, or `ENDPOINT~RUN.EVENT` for a delivery that a replay made (runs
/// count from 1). An endpoint id holds neither `.` nor `~`, so the first of each splits the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId {
    endpoint: EndpointId,
    run: u32,
    event: EventId,
}

impl DeliveryId {
    /// The first delivery of `event` to `endpoint`.
    pub fn new(endpoint: EndpointId, event: EventId) -> Self {
        Self { endpoint, run: 0, event }
    }

    /// The delivery of the `run`th replay of `event` to `endpoint`; 0 is the first delivery.
    #[must_use]
    pub fn with_run(mut self, run: u32) -> Self {
        self.run = run;
        self
    }

    /// The endpoint.
    pub fn endpoint(&self) -> &EndpointId {
        &self.endpoint
    }

    /// The event.
    pub fn event(&self) -> &EventId {
        &self.event
    }

    /// 0 for the delivery that publish made, then one more for each replay.
    pub fn run(&self) -> u32 {
        self.run
    }
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.run {
            0 => write!(f, "{}.{}", self.endpoint, self.event),
            run => write!(f, "{}~{run}.{}", self.endpoint, self.event),
        }
    }
}

impl fmt::Debug for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that names no delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidDeliveryId {
    found: String,
}

impl fmt::Display for InvalidDeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected a delivery id ENDPOINT.EVENT, found {:?}", self.found)
    }
}

impl std::error::Error for InvalidDeliveryId {}

impl FromStr for DeliveryId {
    type Err = InvalidDeliveryId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = || {
            let (place, event) = text.split_once('.')?;
            let (endpoint, run) = match place.split_once('~') {
                None => (place, 0),
                // A run of 0 or with leading zeros would print differently.
                Some((endpoint, run)) if run.starts_with(|c: char| ('1'..='9').contains(&c)) => {
                    (endpoint, run.parse().ok()?)
                }
                Some(_) => return None,
            };
            Some(Self { endpoint: endpoint.parse().ok()?, run, event: event.parse().ok()? })
        };
        read().ok_or_else(|| InvalidDeliveryId { found: text.chars().take(256).collect() })
    }
}

impl Serialize for DeliveryId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeliveryId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_back_what_was_read() {
        for text in
            ["my-app.0193a5c0-7c3d-7d8e-9f00-0123456789ab", "a~2.b", "a.b.c~1", "a~4294967295.b"]
        {
            assert_eq!(text.parse::<DeliveryId>().unwrap().to_string(), text);
        }
        for text in
            ["", "a", ".b", "a.", "a~0.b", "a~.b", "a~01.b", "a~+1.b", "a~4294967296.b", "~1.b"]
        {
            assert!(text.parse::<DeliveryId>().is_err(), "{text:?}");
        }
    }
}
