//! What there is to tell, and when: a state for each endpoint that something is wrong with.
//!
//! Pure: times are passed in. Transitions (failing, recovered) are compared with what was told last,
//! so that an endpoint that flaps between two alerts is told of as it stands; counts add up.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::{
    BacklogHigh, DeliveryDead, EndpointDisabled, EndpointFailing, EndpointRecovered, Policy,
};
use crate::endpoint::EndpointId;
use crate::error::Error;
use crate::event::{Event as _, EventType, NewEvent};
use crate::time::Timestamp;

/// One alert, ready to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Alert {
    Failing(EndpointFailing),
    Recovered(EndpointRecovered),
    Disabled(EndpointDisabled),
    Dead(DeliveryDead),
    BacklogHigh(BacklogHigh),
}

impl Alert {
    /// The endpoint that it is about.
    pub(crate) fn endpoint(&self) -> &EndpointId {
        match self {
            Self::Failing(alert) => &alert.endpoint,
            Self::Recovered(alert) => &alert.endpoint,
            Self::Disabled(alert) => &alert.endpoint,
            Self::Dead(alert) => &alert.endpoint,
            Self::BacklogHigh(alert) => &alert.endpoint,
        }
    }

    pub(crate) fn event_type(&self) -> EventType {
        match self {
            Self::Failing(_) => EndpointFailing::NAME,
            Self::Recovered(_) => EndpointRecovered::NAME,
            Self::Disabled(_) => EndpointDisabled::NAME,
            Self::Dead(_) => DeliveryDead::NAME,
            Self::BacklogHigh(_) => BacklogHigh::NAME,
        }
    }

    /// As an event.
    ///
    /// # Errors
    /// None in practice: all fields encode.
    pub(crate) fn encode(&self) -> Result<NewEvent, Error> {
        match self {
            Self::Failing(alert) => NewEvent::of(alert),
            Self::Recovered(alert) => NewEvent::of(alert),
            Self::Disabled(alert) => NewEvent::of(alert),
            Self::Dead(alert) => NewEvent::of(alert),
            Self::BacklogHigh(alert) => NewEvent::of(alert),
        }
    }
}

/// What is pending for one endpoint. Absent for one of which there is nothing to say.
#[derive(Default)]
struct Entry {
    /// It fails now.
    failing: Option<EndpointFailing>,
    /// It was told that it fails, since then; by which name.
    told_failing: Option<(Timestamp, String)>,
    /// When it took an event over after that.
    recovered_at: Option<Timestamp>,
    /// When failing or recovered was told.
    health_told: Option<Instant>,
    disabled: Option<EndpointDisabled>,
    disabled_told: Option<Instant>,
    dead: Option<DeliveryDead>,
    dead_told: Option<Instant>,
    high: Option<BacklogHigh>,
    /// It was told that its backlog is high, and that has not ended.
    is_told_high: bool,
    high_told: Option<Instant>,
}

/// What there is to tell of all endpoints: at most an entry for each.
pub(super) struct Board {
    policy: Policy,
    entries: HashMap<EndpointId, Entry>,
}

/// What of the backlog's limit is no longer high.
const LOW: (u64, u64) = (4, 5);

impl Board {
    pub(super) fn new(policy: Policy) -> Self {
        Self { policy, entries: HashMap::new() }
    }

    fn entry(&mut self, endpoint: &EndpointId) -> &mut Entry {
        if !self.entries.contains_key(endpoint) {
            self.entries.insert(endpoint.clone(), Entry::default());
        }
        self.entries.get_mut(endpoint).expect("there is one now")
    }

    /// An endpoint has failed often enough in a row.
    pub(super) fn failing(&mut self, now: EndpointFailing) {
        let entry = self.entry(&now.endpoint);
        let since = entry.failing.as_ref().map_or(now.since, |before| before.since);
        entry.recovered_at = None;
        entry.failing = Some(EndpointFailing { since, ..now });
    }

    /// An endpoint that failed took an event over.
    pub(super) fn recovered(&mut self, endpoint: &EndpointId, at: Timestamp) {
        if let Some(entry) = self.entries.get_mut(endpoint) {
            entry.failing = None;
            entry.recovered_at = entry.told_failing.is_some().then_some(at);
        }
    }

    pub(super) fn disabled(&mut self, alert: EndpointDisabled) {
        let entry = self.entry(&alert.endpoint);
        entry.disabled = Some(alert);
    }

    /// A delivery was given up; `alert` counts 1.
    pub(super) fn dead(&mut self, alert: DeliveryDead) {
        let entry = self.entry(&alert.endpoint);
        let before = entry.dead.take().map_or(0, |before| before.count);
        entry.dead = Some(DeliveryDead { count: before + alert.count, ..alert });
    }

    /// What is owed to an endpoint.
    pub(super) fn owed(&mut self, endpoint: &EndpointId, name: &str, owed: u64, at: Timestamp) {
        let limit = self.policy.backlog_events;
        if owed >= limit {
            let entry = self.entry(endpoint);
            if !entry.is_told_high {
                let (endpoint, name) = (endpoint.clone(), name.to_owned());
                entry.high = Some(BacklogHigh { endpoint, name, owed, limit, at });
            }
        } else if let Some(entry) = self.entries.get_mut(endpoint) {
            entry.high = None;
            if owed <= limit / LOW.1 * LOW.0 {
                entry.is_told_high = false;
            }
        }
    }

    /// Endpoints whose backlog was high when it was looked at last.
    pub(super) fn high(&self) -> Vec<EndpointId> {
        let high =
            self.entries.iter().filter(|(_, entry)| entry.is_told_high || entry.high.is_some());
        high.map(|(endpoint, _)| endpoint.clone()).collect()
    }

    /// Takes what may be told now, and says when there may be more.
    pub(super) fn due(&mut self, now: Instant) -> (Vec<Alert>, Option<Instant>) {
        self.take(now, self.policy.interval)
    }

    /// Takes everything that is pending.
    pub(super) fn rest(&mut self, now: Instant) -> Vec<Alert> {
        self.take(now, Duration::ZERO).0
    }

    fn take(&mut self, now: Instant, interval: Duration) -> (Vec<Alert>, Option<Instant>) {
        let mut alerts = Vec::new();
        let mut next: Option<Instant> = None;
        // Whether a kind may be told; otherwise notes when.
        let mut may = |told: Option<Instant>| {
            let free = told.map(|told| told + interval).filter(|free| *free > now);
            next = [next, free].into_iter().flatten().min();
            free.is_none()
        };
        for (endpoint, entry) in &mut self.entries {
            entry.take_health(endpoint, now, &mut alerts, &mut may);
            if entry.disabled.is_some() && may(entry.disabled_told) {
                alerts.extend(entry.disabled.take().map(Alert::Disabled));
                entry.disabled_told = Some(now);
            }
            if entry.dead.is_some() && may(entry.dead_told) {
                alerts.extend(entry.dead.take().map(Alert::Dead));
                entry.dead_told = Some(now);
            }
            if entry.high.is_some() && may(entry.high_told) {
                alerts.extend(entry.high.take().map(Alert::BacklogHigh));
                entry.is_told_high = true;
                entry.high_told = Some(now);
            }
        }
        self.entries.retain(|_, entry| !entry.is_idle(now, interval));
        (alerts, next)
    }

    /// Forgets endpoints that are no longer served.
    pub(super) fn retain(&mut self, is_served: impl Fn(&EndpointId) -> bool) {
        self.entries.retain(|endpoint, _| is_served(endpoint));
    }
}

impl Entry {
    fn take_health(
        &mut self,
        endpoint: &EndpointId,
        now: Instant,
        alerts: &mut Vec<Alert>,
        may: &mut impl FnMut(Option<Instant>) -> bool,
    ) {
        if let Some(failing) = &self.failing {
            if self.told_failing.is_none() && may(self.health_told) {
                alerts.push(Alert::Failing(failing.clone()));
                self.told_failing = Some((failing.since, failing.name.clone()));
                self.health_told = Some(now);
            }
        } else if let Some(at) = self.recovered_at
            && may(self.health_told)
        {
            self.recovered_at = None;
            if let Some((failing_since, name)) = self.told_failing.take() {
                let endpoint = endpoint.clone();
                let alert = EndpointRecovered { endpoint, name, failing_since, at };
                alerts.push(Alert::Recovered(alert));
                self.health_told = Some(now);
            }
        }
    }

    /// Whether it says nothing that a new entry would not.
    fn is_idle(&self, now: Instant, interval: Duration) -> bool {
        let is_over = |told: Option<Instant>| told.is_none_or(|told| told + interval <= now);
        self.failing.is_none()
            && self.told_failing.is_none()
            && self.disabled.is_none()
            && self.dead.is_none()
            && self.high.is_none()
            && !self.is_told_high
            && [self.health_told, self.disabled_told, self.dead_told, self.high_told]
                .into_iter()
                .all(is_over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::{Cause, DeadReason, DeliveryId};

    const MINUTE: Duration = Duration::from_mins(1);

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_millis(secs * 1_000)
    }

    fn shop() -> EndpointId {
        "shop".parse().unwrap()
    }

    fn failing(secs: i64) -> EndpointFailing {
        EndpointFailing {
            endpoint: shop(),
            name: "Shop".into(),
            since: at(secs),
            failures: 10,
            event: "evt".parse().unwrap(),
            cause: Cause::Status,
            message: "answered 500".into(),
            status: Some(500),
        }
    }

    fn dead() -> DeliveryDead {
        DeliveryDead {
            endpoint: shop(),
            name: "Shop".into(),
            count: 1,
            delivery: DeliveryId::new(shop(), "evt".parse().unwrap()),
            event_type: "match".parse().unwrap(),
            reason: DeadReason::Exhausted,
            attempts: 8,
            cause: Some(Cause::Status),
            message: "answered 500".into(),
            status: Some(500),
            at: at(0),
        }
    }

    fn names(alerts: &[Alert]) -> Vec<String> {
        alerts.iter().map(|alert| alert.event_type().to_string()).collect()
    }

    #[test]
    fn failing_is_told_once_and_then_that_it_recovered() {
        let (mut board, start) = (Board::new(Policy::default()), Instant::now());
        board.failing(failing(1));
        let (alerts, _) = board.due(start);
        assert_eq!(alerts, [Alert::Failing(failing(1))]);
        board.failing(failing(2));
        assert_eq!(board.due(start + MINUTE * 5).0, []);
        board.recovered(&shop(), at(400));
        let (alerts, _) = board.due(start + MINUTE * 6);
        let expected = EndpointRecovered {
            endpoint: shop(),
            name: "Shop".into(),
            failing_since: at(1),
            at: at(400),
        };
        assert_eq!(alerts, [Alert::Recovered(expected)]);
        board.recovered(&shop(), at(401));
        assert_eq!(board.due(start + MINUTE * 9), (vec![], None));
        assert!(board.entries.is_empty(), "a healthy endpoint costs nothing");
    }

    #[test]
    fn an_endpoint_that_flaps_is_told_of_as_it_stands_after_the_interval() {
        let (mut board, start) = (Board::new(Policy::default()), Instant::now());
        board.failing(failing(1));
        assert_eq!(board.due(start).0.len(), 1);
        board.recovered(&shop(), at(2));
        let (alerts, next) = board.due(start + MINUTE / 2);
        assert_eq!((alerts, next), (vec![], Some(start + MINUTE)));
        board.failing(failing(3));
        // It fails, and that it does was told: nothing is new.
        assert_eq!(board.due(start + MINUTE), (vec![], None));
        board.recovered(&shop(), at(90));
        assert_eq!(names(&board.due(start + MINUTE * 2).0), ["postrider.endpoint.recovered"]);
    }

    #[test]
    fn a_failure_between_two_alerts_that_is_over_is_not_told() {
        let (mut board, start) = (Board::new(Policy::default()), Instant::now());
        board.failing(failing(1));
        board.recovered(&shop(), at(1));
        assert_eq!(board.due(start), (vec![], None));
    }

    #[test]
    fn dead_deliveries_add_up_between_two_alerts() {
        let (mut board, start) = (Board::new(Policy::default()), Instant::now());
        board.dead(dead());
        assert_eq!(board.due(start).0, [Alert::Dead(dead())]);
        for _ in 0..1_000 {
            board.dead(dead());
        }
        assert_eq!(board.due(start + MINUTE / 2), (vec![], Some(start + MINUTE)));
        let (alerts, _) = board.due(start + MINUTE);
        assert_eq!(alerts, [Alert::Dead(DeliveryDead { count: 1_000, ..dead() })]);
    }

    #[test]
    fn what_waits_for_its_interval_is_taken_at_the_end() {
        let (mut board, start) = (Board::new(Policy::default()), Instant::now());
        board.dead(dead());
        board.due(start);
        board.dead(dead());
        assert_eq!(board.due(start), (vec![], Some(start + MINUTE)));
        assert_eq!(board.rest(start).len(), 1);
        assert_eq!(board.rest(start), []);
    }

    #[test]
    fn a_backlog_is_high_until_it_has_fallen_well_below_the_limit() {
        let policy = Policy::default().backlog_events(100);
        let (mut board, mut now) = (Board::new(policy), Instant::now());
        let mut told = |owed: u64| {
            now += MINUTE;
            board.owed(&shop(), "Shop", owed, at(0));
            board.due(now).0.len()
        };
        assert_eq!([99, 100, 500, 99, 100, 81, 100].map(&mut told), [0, 1, 0, 0, 0, 0, 0]);
        assert_eq!([80, 99, 100].map(&mut told), [0, 0, 1]);
    }
}
