//! Looking at the past and sending it again: what to look for, and what a store answers.
//!
//! Pure values. A store finds them its own way; what matches is decided here, once for all stores.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{DeliveryRecord, EventRecord};
use crate::delivery::{DeadReason, DeliveryId, State, StateKind};
use crate::endpoint::EndpointId;
use crate::error::{Error, ErrorKind};
use crate::event::{EventId, EventType};
use crate::route::Pattern;
use crate::time::Timestamp;

/// Most events on one [`Page`].
pub const PAGE_EVENTS_MAX: usize = 1_000;
/// Most times that one event can be sent again to one endpoint.
pub const RUNS_MAX: u32 = 1_000;
/// Longest key of a [`Note`], in bytes.
pub const NOTE_KEY_BYTES_MAX: usize = 200;
/// Longest value of a [`Note`], in bytes (16 KiB).
pub const NOTE_BYTES_MAX: usize = 16 << 10;
/// Most notes that a store keeps.
pub const NOTES_MAX: usize = 4_096;

/// Which events to look for, and which of their deliveries. All conditions must hold; an empty list
/// asks nothing. The default finds everything.
///
/// Of deliveries to one endpoint only the newest counts: an event that was dead and was then
/// replayed with success is delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Query {
    /// Accepted at this time or later.
    pub since: Option<Timestamp>,
    /// Accepted before this time.
    pub until: Option<Timestamp>,
    /// Of a type that one of these matches.
    pub types: Vec<Pattern>,
    /// With a delivery to one of these endpoints.
    pub endpoints: Vec<EndpointId>,
    /// With a delivery that stands so; [`StateKind::Unmatched`] is an event without deliveries.
    pub states: Vec<StateKind>,
    /// With a delivery that is dead for one of these reasons.
    pub reasons: Vec<DeadReason>,
    /// Which this endpoint has never got and is not about to get: no delivery to it, or the newest
    /// one ended without success.
    pub missing: Option<EndpointId>,
}

impl Query {
    /// Everything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Accepted at `time` or later.
    #[must_use]
    pub fn since(mut self, time: Timestamp) -> Self {
        self.since = Some(time);
        self
    }

    /// Accepted before `time`.
    #[must_use]
    pub fn until(mut self, time: Timestamp) -> Self {
        self.until = Some(time);
        self
    }

    /// Of a type that `pattern` matches, beside those named before.
    #[must_use]
    pub fn of_type(mut self, pattern: Pattern) -> Self {
        self.types.push(pattern);
        self
    }

    /// With a delivery to `endpoint`, or to one of those named before.
    #[must_use]
    pub fn endpoint(mut self, endpoint: EndpointId) -> Self {
        self.endpoints.push(endpoint);
        self
    }

    /// With a delivery in `state`, or in one of those named before.
    #[must_use]
    pub fn state(mut self, state: StateKind) -> Self {
        self.states.push(state);
        self
    }

    /// With a delivery that is dead for `reason`, or for one of those named before.
    #[must_use]
    pub fn reason(mut self, reason: DeadReason) -> Self {
        self.reasons.push(reason);
        self
    }

    /// Which `endpoint` has never got and is not about to get.
    #[must_use]
    pub fn missing(mut self, endpoint: EndpointId) -> Self {
        self.missing = Some(endpoint);
        self
    }

    /// Whether an event may be among those looked for, by what never changes of it.
    pub fn wants_event(&self, kind: &EventType, accepted_at: Timestamp) -> bool {
        self.since.is_none_or(|since| accepted_at >= since)
            && self.until.is_none_or(|until| accepted_at < until)
            && (self.types.is_empty() || self.types.iter().any(|pattern| pattern.matches(kind)))
    }

    /// Whether the query asks anything of deliveries.
    pub fn asks_of_deliveries(&self) -> bool {
        !(self.endpoints.is_empty() && self.states.is_empty() && self.reasons.is_empty())
    }

    /// Whether the newest delivery to an endpoint is among those looked for.
    pub fn wants_delivery(&self, endpoint: &EndpointId, state: &State) -> bool {
        let has_reason =
            |reason: &DeadReason| matches!(state, State::Dead { reason: is } if is == reason);
        (self.endpoints.is_empty() || self.endpoints.contains(endpoint))
            && (self.states.is_empty() || self.states.contains(&state.kind()))
            && (self.reasons.is_empty() || self.reasons.iter().any(has_reason))
    }

    /// Whether an event without deliveries is among those looked for.
    pub fn wants_unmatched(&self) -> bool {
        self.endpoints.is_empty()
            && self.reasons.is_empty()
            && (self.states.is_empty() || self.states.contains(&StateKind::Unmatched))
    }

    /// Whether [`missing`](Self::missing) holds, given where its newest delivery stands (`None`:
    /// there is none).
    pub fn wants_missing(&self, newest: Option<&State>) -> bool {
        self.missing.is_none()
            || newest.is_none_or(|state| state.is_final() && *state != State::Delivered)
    }

    /// What a store answers of an event: the event with those of its newest deliveries that are
    /// looked for, or `None`. `record` has every run of its deliveries, in the order of
    /// [`Store::event`](super::Store::event).
    pub fn select(&self, mut record: EventRecord) -> Option<EventRecord> {
        if !self.wants_event(&record.event.kind, record.accepted_at) {
            return None;
        }
        self.select_deliveries(&mut record.deliveries).then_some(record)
    }

    /// Whether an event with these deliveries is among those looked for, as far as deliveries tell;
    /// leaves those of its newest ones that are. For a store that reads an event itself last.
    pub fn select_deliveries(&self, deliveries: &mut Vec<DeliveryRecord>) -> bool {
        keep_newest_runs(deliveries);
        if let Some(missing) = &self.missing {
            let newest = deliveries.iter().find(|d| d.id.endpoint() == missing);
            if !self.wants_missing(newest.map(|delivery| &delivery.state)) {
                return false;
            }
        }
        if deliveries.is_empty() {
            return self.wants_unmatched();
        }
        deliveries.retain(|d| self.wants_delivery(d.id.endpoint(), &d.state));
        !deliveries.is_empty() || !self.asks_of_deliveries()
    }
}

/// Of deliveries to one endpoint, which follow each other by their runs, keeps the last.
fn keep_newest_runs(deliveries: &mut Vec<DeliveryRecord>) {
    let mut kept: Vec<DeliveryRecord> = Vec::with_capacity(deliveries.len());
    for delivery in deliveries.drain(..) {
        match kept.last_mut() {
            Some(last) if last.id.endpoint() == delivery.id.endpoint() => *last = delivery,
            _ => kept.push(delivery),
        }
    }
    *deliveries = kept;
}

/// A place among the events of a store, in order of acceptance. Means nothing to another store.
///
/// Prints as digits, to be handed to a user and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Place(u64);

impl Place {
    /// The event that a store counts as `number`.
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    /// What the store counts it as.
    pub fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Place {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// In which order events are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The event accepted last comes first.
    #[default]
    NewestFirst,
    /// The event accepted first comes first.
    OldestFirst,
}

/// Which part of what a query finds.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Page {
    /// In which order. Default: newest first.
    pub order: Order,
    /// Only what comes after this place in that order: [`Found::next`] of the page before.
    pub after: Option<Place>,
    /// Most events: 1 to 1,000 (more is taken as 1,000). Default 100.
    pub limit: usize,
    /// Whether the attempts of deliveries are told. Default: yes. Without them
    /// [`DeliveryRecord::attempts`] is empty and `attempts_made` is 0 where the store would have to
    /// read for it.
    pub attempts: bool,
}

impl Default for Page {
    fn default() -> Self {
        Self { order: Order::default(), after: None, limit: 100, attempts: true }
    }
}

impl Page {
    /// The newest 100 events.
    pub fn newest() -> Self {
        Self::default()
    }

    /// The oldest 100 events.
    pub fn oldest() -> Self {
        Self { order: Order::OldestFirst, ..Self::default() }
    }

    /// What comes after `place`; `None`: the first page.
    #[must_use]
    pub fn after(mut self, place: Option<Place>) -> Self {
        self.after = place;
        self
    }

    /// Most events: 1 to 1,000.
    #[must_use]
    pub fn limit(mut self, events: usize) -> Self {
        self.limit = events;
        self
    }

    /// Leaves the attempts of deliveries out, which saves reading them.
    #[must_use]
    pub fn without_attempts(mut self) -> Self {
        self.attempts = false;
        self
    }

    /// The limit within its bounds.
    pub fn events_max(&self) -> usize {
        self.limit.clamp(1, PAGE_EVENTS_MAX)
    }
}

/// A page of what a query found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Found {
    /// The events, each with those of its newest deliveries that were looked for.
    ///
    /// A call looks at a bounded number of events, so a page may hold fewer than asked for, even
    /// none, while there are more: `next` tells.
    pub events: Vec<EventRecord>,
    /// Where the next page begins; `None`: there is nothing more.
    pub next: Option<Place>,
}

impl Found {
    /// A page.
    pub fn new(events: Vec<EventRecord>, next: Option<Place>) -> Self {
        Self { events, next }
    }
}

/// One event and one endpoint, for a change of what is to become of them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Target {
    /// The event's place, from its [`EventRecord`].
    pub place: Place,
    /// The event's id.
    pub event: EventId,
    /// The endpoint.
    pub endpoint: EndpointId,
}

impl Target {
    /// The event that was found, for `endpoint`.
    pub fn new(found: &EventRecord, endpoint: EndpointId) -> Self {
        Self { place: found.place, event: found.event.id().clone(), endpoint }
    }

    /// For stores: whether one call may name so many.
    ///
    /// # Errors
    /// `TooLarge` for more than [`PAGE_EVENTS_MAX`].
    pub fn check_count(targets: &[Self]) -> Result<(), Error> {
        if targets.len() > PAGE_EVENTS_MAX {
            let what = format!(
                "change {} deliveries in one call: expected at most {PAGE_EVENTS_MAX}",
                targets.len()
            );
            return Err(Error::new(ErrorKind::TooLarge, what));
        }
        Ok(())
    }
}

/// What became of a request to send an event again.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Replayed {
    /// There is a new delivery.
    Made(DeliveryId),
    /// The newest delivery is still owed: it comes without being asked for again.
    Owed,
    /// The event is not known (any more).
    Gone,
    /// It was sent again [`RUNS_MAX`] times already.
    TooOften,
}

/// What became of a request to purge a dead delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Purged {
    /// It is purged.
    Done,
    /// Its newest delivery is neither dead nor expired; nothing changed.
    NotDead,
    /// The event or delivery is not known (any more).
    Gone,
}

/// Deliveries of one endpoint that were given up for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetters {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// [`State::Dead`] with its reason, or [`State::Expired`].
    pub state: State,
    /// How many.
    pub count: u64,
    /// When the first of their events was accepted, or a little earlier.
    pub oldest: Timestamp,
    /// When the last of their events was accepted, or a little earlier.
    pub newest: Timestamp,
}

impl DeadLetters {
    /// A group.
    pub fn new(
        endpoint: EndpointId,
        state: State,
        count: u64,
        oldest: Timestamp,
        newest: Timestamp,
    ) -> Self {
        Self { endpoint, state, count, oldest, newest }
    }
}

/// A small text that a store keeps for the bus, as durably as events and beyond retention: how far
/// a replay is, which endpoint wants nothing any more.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Note {
    /// Its name: 1 to 200 bytes.
    pub key: Box<str>,
    /// Its content, at most 16 KiB; `None` removes the note.
    pub value: Option<Bytes>,
}

impl Note {
    /// A note to be kept.
    ///
    /// # Errors
    /// `TooLarge` beyond the bounds, `Invalid` for an empty key.
    pub fn new(key: impl Into<Box<str>>, value: impl Into<Bytes>) -> Result<Self, Error> {
        let note = Self { key: key.into(), value: Some(value.into()) };
        note.check(0)?;
        Ok(note)
    }

    /// For stores: whether it may be kept beside `others`, the notes that have other keys. One that is
    /// to be removed always may.
    ///
    /// # Errors
    /// `TooLarge` or `Invalid` beyond its bounds, which its fields can be set to; `Full` beside
    /// [`NOTES_MAX`].
    pub fn check(&self, others: usize) -> Result<(), Error> {
        let Some(value) = &self.value else { return Ok(()) };
        if value.len() > NOTE_BYTES_MAX || self.key.len() > NOTE_KEY_BYTES_MAX {
            let what = format!(
                "keep a note: expected a key of at most {NOTE_KEY_BYTES_MAX} bytes and a value of at most \
                 {NOTE_BYTES_MAX}, found {} and {}",
                self.key.len(),
                value.len()
            );
            return Err(Error::new(ErrorKind::TooLarge, what));
        }
        if self.key.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "keep a note: its key is empty"));
        }
        if others >= NOTES_MAX {
            let what =
                format!("keep note {:?}: there are {NOTES_MAX}, which is the limit", self.key);
            return Err(Error::new(ErrorKind::Full, what));
        }
        Ok(())
    }

    /// The removal of a note.
    pub fn removed(key: impl Into<Box<str>>) -> Self {
        Self { key: key.into(), value: None }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::NewEvent;

    fn record(deliveries: &[(&str, u32, State)]) -> EventRecord {
        let new = NewEvent::raw("model.uploaded", "{}").unwrap().id("e".parse().unwrap());
        let clock = crate::clock::SystemClock;
        let event = Arc::new(new.seal_at(Timestamp::from_millis(50), &clock, 100).unwrap());
        let deliveries = deliveries.iter().map(|(endpoint, run, state)| DeliveryRecord {
            id: DeliveryId::new(endpoint.parse().unwrap(), event.id().clone()).with_run(*run),
            state: state.clone(),
            attempts_made: 0,
            attempts: Vec::new(),
        });
        let deliveries = deliveries.collect();
        let accepted_at = Timestamp::from_millis(50);
        EventRecord { place: Place::new(1), event, accepted_at, deliveries }
    }

    const DEAD: State = State::Dead { reason: DeadReason::Exhausted };
    const WAITING: State = State::Waiting { due: Timestamp::from_millis(60) };

    fn found(query: &Query, deliveries: &[(&str, u32, State)]) -> Option<Vec<String>> {
        let found = query.select(record(deliveries))?;
        Some(found.deliveries.iter().map(|delivery| delivery.id.to_string()).collect())
    }

    #[test]
    fn each_condition_alone_decides() {
        let at = Timestamp::from_millis;
        let endpoint = |id: &str| id.parse::<EndpointId>().unwrap();
        let both = [("a", 0, State::Delivered), ("b", 0, DEAD)];
        let cases: [(Query, &[&str]); 9] = [
            (Query::new(), &["a.e", "b.e"]),
            (Query::new().since(at(50)).until(at(51)), &["a.e", "b.e"]),
            (
                Query::new().of_type("x".parse().unwrap()).of_type("model.*".parse().unwrap()),
                &["a.e", "b.e"],
            ),
            (Query::new().endpoint(endpoint("b")), &["b.e"]),
            (Query::new().state(StateKind::Delivered), &["a.e"]),
            (Query::new().reason(DeadReason::Exhausted), &["b.e"]),
            (Query::new().missing(endpoint("b")), &["a.e", "b.e"]),
            (Query::new().missing(endpoint("c")), &["a.e", "b.e"]),
            (Query::new().endpoint(endpoint("a")).missing(endpoint("b")), &["a.e"]),
        ];
        for (query, expect) in cases {
            assert_eq!(found(&query, &both).as_deref().unwrap_or_default(), expect, "{query:?}");
        }
        let none = [
            Query::new().since(at(51)),
            Query::new().until(at(50)),
            Query::new().of_type("model".parse().unwrap()),
            Query::new().endpoint(endpoint("c")),
            Query::new().state(StateKind::Waiting),
            Query::new().reason(DeadReason::Gone),
            Query::new().endpoint(endpoint("a")).state(StateKind::Dead),
            Query::new().missing(endpoint("a")),
            Query::new().state(StateKind::Unmatched),
        ];
        for query in none {
            assert_eq!(found(&query, &both), None, "{query:?}");
        }
    }

    #[test]
    fn only_the_newest_run_counts() {
        let replayed = [("a", 0, DEAD), ("a", 1, State::Delivered), ("b", 0, DEAD)];
        let dead = Query::new().state(StateKind::Dead);
        assert_eq!(found(&dead, &replayed).unwrap(), ["b.e"]);
        let got = Query::new().state(StateKind::Delivered);
        assert_eq!(found(&got, &replayed).unwrap(), ["a~1.e"]);
        let missing = Query::new().missing("a".parse().unwrap());
        assert_eq!(found(&missing, &replayed), None);
        assert_eq!(found(&missing, &[("a", 0, DEAD), ("a", 1, WAITING)]), None, "it is coming");
    }

    #[test]
    fn an_event_without_deliveries_is_unmatched() {
        for query in [Query::new(), Query::new().state(StateKind::Unmatched)] {
            assert_eq!(found(&query, &[]).unwrap(), [""; 0], "{query:?}");
        }
        assert_eq!(found(&Query::new().state(StateKind::Delivered), &[]), None);
        assert_eq!(found(&Query::new().endpoint("a".parse().unwrap()), &[]), None);
    }

    #[test]
    fn notes_are_bounded() {
        assert!(Note::new("k", vec![0; NOTE_BYTES_MAX]).is_ok());
        assert!(Note::new("k", vec![0; NOTE_BYTES_MAX + 1]).is_err());
        assert!(Note::new("k".repeat(NOTE_KEY_BYTES_MAX + 1), "").is_err());
        assert!(Note::new("", "").is_err());
    }
}
