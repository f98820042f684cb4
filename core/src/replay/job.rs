//! What a replay is asked for, and how far it is.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::Rate;
use crate::endpoint::EndpointId;
use crate::error::{Error, ErrorKind};
use crate::event::EventId;
use crate::store::{EventRecord, Found, Place, Query, Replayed, Target};
use crate::time::Timestamp;

/// Longest request, written as JSON, in bytes.
pub const REQUEST_BYTES_MAX: usize = 8 << 10;

/// Which events to send again, and where to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Request {
    /// Which events. At most 8 KiB, written as JSON.
    pub query: Query,
    /// Where each goes to. `None`: to the endpoint that the query finds [missing](Query::missing),
    /// else to the endpoints of those deliveries that the query finds. So a query for what is dead
    /// sends each event to the endpoints where it is dead, and to no other.
    pub to: Option<EndpointId>,
    /// How fast. `None`: as fast as the store takes it.
    pub rate: Option<Rate>,
}

impl Request {
    /// What `query` finds, again to where it went, as fast as the store takes it.
    pub fn new(query: Query) -> Self {
        Self { query, to: None, rate: None }
    }

    /// To this endpoint, whether the events went there before or not.
    #[must_use]
    pub fn to(mut self, endpoint: EndpointId) -> Self {
        self.to = Some(endpoint);
        self
    }

    /// No faster than this.
    #[must_use]
    pub fn rate(mut self, rate: Rate) -> Self {
        self.rate = Some(rate);
        self
    }

    /// The one endpoint that everything goes to, where there is one.
    pub fn endpoint(&self) -> Option<&EndpointId> {
        self.to.as_ref().or(self.query.missing.as_ref())
    }

    /// Where an event that was found goes to, in ascending order.
    fn targets(&self, found: &EventRecord) -> Vec<EndpointId> {
        if let Some(endpoint) = self.endpoint() {
            return vec![endpoint.clone()];
        }
        let mut targets: Vec<EndpointId> =
            found.deliveries.iter().map(|delivery| delivery.id.endpoint().clone()).collect();
        targets.sort_unstable();
        targets.dedup();
        targets
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let bytes = serde_json::to_vec(self).map_or(usize::MAX, |json| json.len());
        if bytes > REQUEST_BYTES_MAX {
            let what = format!(
                "replay events: the query is too long: expected at most {REQUEST_BYTES_MAX} bytes as \
                 JSON, found {bytes}; ask for patterns of types, or make several replays"
            );
            return Err(Error::new(ErrorKind::TooLarge, what));
        }
        Ok(())
    }
}

/// Names one replay job: a `UUIDv7`, so that ids sort by time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(Uuid);

/// A text that names no job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidJobId {
    found: String,
}

impl fmt::Display for InvalidJobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected the id of a replay, a UUID, found {:?}", self.found)
    }
}

impl std::error::Error for InvalidJobId {}

impl JobId {
    pub(crate) fn new(now: Timestamp, random: [u64; 2]) -> Self {
        let id = EventId::v7(now, random);
        Self(*id.as_uuid().expect("a UUIDv7 is kept as one"))
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0.hyphenated().encode_lower(&mut [0; 36]))
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for JobId {
    type Err = InvalidJobId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = || InvalidJobId { found: text.chars().take(64).collect() };
        Uuid::try_parse(text).map(Self).map_err(|_| found())
    }
}

impl Serialize for JobId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for JobId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Where a job stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
#[non_exhaustive]
pub enum JobState {
    /// It makes deliveries, or waits for its turn.
    Running,
    /// It goes on by itself when the reason has passed.
    Waiting {
        /// Why it cannot go on just now: the backlog is full, the store fails.
        reason: String,
    },
    /// It has looked at everything it had to.
    Done,
    /// Somebody ended it.
    Cancelled,
    /// It cannot go on.
    Failed {
        /// Why.
        reason: String,
    },
}

impl JobState {
    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        !matches!(self, Self::Running | Self::Waiting { .. })
    }
}

/// What a job has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Counts {
    /// Events that the query found.
    pub found: u64,
    /// Deliveries made. (After a crash, what the last write before it asked for counts as made: up to
    /// 1,000 that may have been skipped.)
    pub made: u64,
    /// Skipped: the delivery is owed, so it comes anyway.
    pub owed: u64,
    /// Skipped: the event was past retention by then.
    pub gone: u64,
    /// Skipped: the event was sent there 1,000 times already.
    pub too_often: u64,
    /// Skipped: the bus that runs the job does not serve the endpoint (any more).
    pub unserved: u64,
}

impl Counts {
    /// All that was skipped.
    pub fn skipped(&self) -> u64 {
        self.owed + self.gone + self.too_often + self.unserved
    }

    fn add(&mut self, answer: &Replayed) {
        let count = match answer {
            Replayed::Made(_) => &mut self.made,
            Replayed::Owed => &mut self.owed,
            Replayed::Gone => &mut self.gone,
            Replayed::TooOften => &mut self.too_often,
        };
        *count += 1;
    }

    pub(crate) fn add_all(&mut self, answers: &[Replayed]) {
        for answer in answers {
            self.add(answer);
        }
    }
}

/// A replay job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// What was asked for.
    pub request: Request,
    /// Where it stands.
    #[serde(flatten)]
    pub state: JobState,
    /// When it was made. It covers what was accepted before.
    pub made_at: Timestamp,
    /// When it began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// What it has done so far.
    pub counts: Counts,
    /// How far it is; `None` where there was nothing when it was made.
    pub(crate) cursor: Option<Cursor>,
}

/// How far a job is among the events of its store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cursor {
    /// Where it began.
    pub(crate) first: Place,
    /// The last event that it covers.
    pub(crate) last: Place,
    /// Everything up to this one is done.
    pub(crate) after: Option<Place>,
    /// Of the event at this place, everything up to this endpoint is done too.
    pub(crate) part: Option<(Place, EndpointId)>,
}

/// What one write of a job is to do, and where the job is then.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) targets: Vec<Target>,
    pub(crate) job: Job,
    /// Whether there is nothing after it.
    pub(crate) is_last: bool,
}

impl Job {
    pub(crate) fn new(
        id: JobId,
        request: Request,
        now: Timestamp,
        range: Option<(Place, Place)>,
    ) -> Self {
        let cursor = range.map(|(first, last)| Cursor { first, last, after: None, part: None });
        let is_over = cursor.is_none();
        Self {
            id,
            request,
            state: if is_over { JobState::Done } else { JobState::Running },
            made_at: now,
            started_at: is_over.then_some(now),
            ended_at: is_over.then_some(now),
            counts: Counts::default(),
            cursor,
        }
    }

    /// How many events it has passed, whether they were looked for or not.
    pub fn looked_at(&self) -> u64 {
        let Some(Cursor { first, last, after, .. }) = &self.cursor else { return 0 };
        after.map_or(0, |after| (after.min(*last).number() + 1).saturating_sub(first.number()))
    }

    /// How many events it has to pass in all.
    pub fn to_look_at(&self) -> u64 {
        self.cursor
            .as_ref()
            .map_or(0, |cursor| (cursor.last.number() + 1).saturating_sub(cursor.first.number()))
    }

    /// How much of its way it has done, 0 to 1.
    pub fn share_done(&self) -> f64 {
        match (&self.state, self.to_look_at()) {
            (JobState::Done, _) | (_, 0) => 1.0,
            (_, all) => (self.looked_at() as f64 / all as f64).min(1.0),
        }
    }

    /// How many deliveries it will have made in all, if it goes on finding as many as so far. `None`
    /// before it has looked at anything.
    pub fn deliveries_estimate(&self) -> Option<u64> {
        let share = self.share_done();
        (share > 0.0).then(|| (self.counts.made as f64 / share).round() as u64)
    }

    /// Decides what the next write does: at most `max` deliveries to endpoints that are served, of the
    /// events on a page after the cursor.
    pub(crate) fn plan(
        &self,
        found: &Found,
        max: usize,
        is_served: impl Fn(&EndpointId) -> bool,
    ) -> Step {
        let mut job = self.clone();
        let mut targets = Vec::new();
        let Some(cursor) = &mut job.cursor else {
            return Step { targets, job, is_last: true };
        };
        for event in &found.events {
            if event.place > cursor.last {
                return Step { targets, job, is_last: true };
            }
            let done = match &cursor.part {
                Some((place, endpoint)) if *place == event.place => Some(endpoint.clone()),
                _ => None,
            };
            for endpoint in self.request.targets(event) {
                if done.as_ref().is_some_and(|done| endpoint <= *done) {
                    continue;
                }
                if targets.len() >= max {
                    return Step { targets, job, is_last: false };
                }
                cursor.part = Some((event.place, endpoint.clone()));
                if is_served(&endpoint) {
                    targets.push(Target::new(event, endpoint));
                } else {
                    job.counts.unserved += 1;
                }
            }
            job.counts.found += 1;
            cursor.after = Some(event.place);
            cursor.part = None;
        }
        let is_last = found.next.is_none_or(|next| next >= cursor.last);
        if !is_last {
            cursor.after = found.next;
        }
        Step { targets, job, is_last }
    }
}

/// What a replay would do now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Preview {
    /// Events that the query finds.
    pub events: u64,
    /// Deliveries that would be made, by endpoint.
    pub deliveries: BTreeMap<EndpointId, u64>,
    /// Skipped: the delivery is owed. With [`Request::to`] this is known only where the query finds
    /// the endpoint's own delivery.
    pub owed: u64,
    /// Skipped: the bus does not serve the endpoint.
    pub unserved: u64,
}

impl Preview {
    /// Deliveries that would be made, to all endpoints.
    pub fn total(&self) -> u64 {
        self.deliveries.values().sum()
    }

    pub(crate) fn add(
        &mut self,
        request: &Request,
        event: &EventRecord,
        is_served: impl Fn(&EndpointId) -> bool,
    ) {
        self.events += 1;
        for endpoint in request.targets(event) {
            let mut own = event.deliveries.iter().filter(|d| *d.id.endpoint() == endpoint);
            if !is_served(&endpoint) {
                self.unserved += 1;
            } else if own.any(|delivery| !delivery.state.is_final()) {
                self.owed += 1;
            } else {
                *self.deliveries.entry(endpoint).or_default() += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::delivery::{DeadReason, DeliveryId, State};
    use crate::event::NewEvent;
    use crate::store::DeliveryRecord;

    const NOW: Timestamp = Timestamp::from_millis(1_764_513_045_123);

    fn job(request: Request, last: u64) -> Job {
        let range = (Place::new(1), Place::new(last));
        Job::new(JobId::new(NOW, [1, 2]), request, NOW, Some(range))
    }

    fn event(place: u64, endpoints: &[&str]) -> EventRecord {
        let new = NewEvent::raw("match", "{}").unwrap().id(format!("e{place}").parse().unwrap());
        let event = Arc::new(new.seal_at(NOW, &crate::clock::SystemClock, 100).unwrap());
        let deliveries = endpoints.iter().map(|endpoint| DeliveryRecord {
            id: DeliveryId::new(endpoint.parse().unwrap(), event.id().clone()),
            state: State::Dead { reason: DeadReason::Exhausted },
            attempts_made: 0,
            attempts: Vec::new(),
        });
        let deliveries = deliveries.collect();
        EventRecord { place: Place::new(place), event, accepted_at: NOW, deliveries }
    }

    fn told(step: &Step) -> Vec<String> {
        step.targets.iter().map(|target| format!("{}.{}", target.endpoint, target.event)).collect()
    }

    /// An event with more endpoints than one write makes is done in parts, each endpoint once.
    #[test]
    fn an_event_may_take_several_writes() {
        let page = || Found::new(vec![event(1, &["c", "a", "b"]), event(2, &["a"])], None);
        let mut job = job(Request::default(), 2);
        let mut all = Vec::new();
        for expect_last in [false, true] {
            let mut found = page();
            // What is done is not on the page.
            let after = job.cursor.as_ref().unwrap().after;
            found.events.retain(|event| Some(event.place) > after);
            let step = job.plan(&found, 2, |_| true);
            assert_eq!(step.is_last, expect_last, "{step:?}");
            all.extend(told(&step));
            job = step.job;
        }
        assert_eq!(all, ["a.e1", "b.e1", "c.e1", "a.e2"]);
        assert_eq!((job.counts.found, job.share_done()), (2, 1.0));
    }

    #[test]
    fn the_last_event_it_covers_ends_it() {
        let found = Found::new(vec![event(1, &["a"]), event(2, &["a"]), event(3, &["a"])], None);
        let step = job(Request::default(), 2).plan(&found, 10, |_| true);
        assert_eq!((told(&step), step.is_last), (vec!["a.e1".into(), "a.e2".into()], true));
        let more = Found::new(vec![event(1, &["a"])], Some(Place::new(2)));
        assert!(job(Request::default(), 2).plan(&more, 10, |_| true).is_last);
        // A page on which nothing was found moves it on.
        let step =
            job(Request::default(), 8).plan(&Found::new(vec![], Some(Place::new(4))), 10, |_| true);
        assert_eq!((step.is_last, step.job.looked_at(), step.job.share_done()), (false, 4, 0.5));
    }

    #[test]
    fn goes_where_it_is_told_and_served() {
        let found = || Found::new(vec![event(1, &["a", "b"])], None);
        let to = Request::default().to("x".parse().unwrap());
        assert_eq!(told(&job(to, 1).plan(&found(), 10, |_| true)), ["x.e1"]);
        let missing = Request::new(Query::new().missing("y".parse().unwrap()));
        assert_eq!(told(&job(missing, 1).plan(&found(), 10, |_| true)), ["y.e1"]);
        let step = job(Request::default(), 1).plan(&found(), 10, |id| id.as_str() == "b");
        assert_eq!((told(&step), step.job.counts.unserved), (vec!["b.e1".into()], 1));
    }
}
