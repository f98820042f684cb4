//! Whether an endpoint asks for an event, and if not, why.

use std::fmt;

use crate::event::EventType;
use crate::filter::{Facts, Filter, Mismatch};
use crate::route::Pattern;

/// Why an endpoint does not get an event.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum NotAsked {
    /// None of its patterns matches the type.
    Type {
        /// The patterns.
        events: Vec<Pattern>,
    },
    /// Its filter does not let the event through.
    Filter(Mismatch),
}

/// As `asks for "match", not for this type` or `filter: payload.a: expected 1, found 2`.
impl fmt::Display for NotAsked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type { events } => {
                // Enough to see what was meant; a list may have a thousand.
                let shown = events.iter().take(5).map(|pattern| format!("{:?}", pattern.as_str()));
                let shown: Vec<String> = shown.collect();
                let more = if events.len() > shown.len() { ", …" } else { "" };
                write!(f, "asks for {}{more}, not for this type", shown.join(", "))
            }
            Self::Filter(mismatch) => write!(f, "filter: {mismatch}"),
        }
    }
}

/// The same decision as the bus's when it publishes, told with its reason.
pub(crate) fn asks(
    events: &[Pattern],
    filter: Option<&Filter>,
    kind: &EventType,
    facts: &Facts<'_>,
) -> Result<(), NotAsked> {
    if !events.iter().any(|pattern| pattern.matches(kind)) {
        return Err(NotAsked::Type { events: events.to_vec() });
    }
    filter.map_or(Ok(()), |filter| filter.explain(facts)).map_err(NotAsked::Filter)
}
