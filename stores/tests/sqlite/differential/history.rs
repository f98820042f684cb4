//! What is asked of the past, and what is sent again.

use postrider::delivery::{DeadReason, StateKind};
use postrider::stats::{EndpointStats, Window};
use postrider::store::{
    DeadLetters, EventRecord, Note, Order, Page, Purged, Query, Replayed, Store, Target,
};
use postrider::{Error, Timestamp};

use super::{ENDPOINTS, Pair, make_comparable};
use crate::support::id;

/// An endpoint to which nothing is published; it gets what is replayed to it.
const STRANGER: &str = "stranger";

fn answers<T: std::fmt::Debug>(answers: Result<T, Error>) -> String {
    match answers {
        Ok(answers) => format!("{answers:?}"),
        Err(error) => format!("{:?}", error.kind()),
    }
}

/// Every page, joined: what is found, without the places, which are each store's own.
async fn find(store: &dyn Store, query: &Query, mut page: Page) -> Vec<String> {
    let mut found = Vec::new();
    loop {
        let next = store.find(query, page).await.unwrap();
        found.extend(next.events.into_iter().map(|event| view(event, page.attempts)));
        match next.next {
            None => return found,
            place => page = page.after(place),
        }
    }
}

fn view(mut event: EventRecord, with_attempts: bool) -> String {
    make_comparable(&mut event);
    let EventRecord { event, accepted_at, mut deliveries, .. } = event;
    if !with_attempts {
        // May be told all the same.
        for delivery in &mut deliveries {
            delivery.attempts_made = 0;
        }
    }
    format!("{:?} {accepted_at:?} {deliveries:?}", event.id())
}

fn view_stats(mut stats: Vec<EndpointStats>, now: Timestamp) -> String {
    stats.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
    let each = stats.iter().map(|EndpointStats { endpoint, series, .. }| {
        let lately = Window::ALL.map(|window| {
            let counts = series.window(window, now);
            // When a delivery ended without an attempt each store knows as well as it can.
            (counts.succeeded, counts.failed, counts.causes, counts.status_classes, counts.latency)
        });
        let last = (series.last_attempt(), series.last_success(), series.last_failure());
        format!("{endpoint}: {:?} {last:?} {lately:?}", series.totals())
    });
    each.collect::<Vec<_>>().join("\n")
}

/// By endpoint and state, in one order.
fn sorted(mut dead: Vec<DeadLetters>) -> Vec<DeadLetters> {
    dead.sort_by_key(|group| (group.endpoint.clone(), format!("{:?}", group.state)));
    dead
}

impl Pair {
    /// Some targets as each store names them.
    async fn targets(&mut self) -> [Vec<Target>; 2] {
        let mut both = [Vec::new(), Vec::new()];
        for _ in 0..self.random.usize(1..5) {
            let event = format!("e{}", self.random.usize(0..=self.published)).parse().unwrap();
            let endpoints = [ENDPOINTS[0], ENDPOINTS[1], ENDPOINTS[2], STRANGER];
            let endpoint = id(endpoints[self.random.usize(0..4)]);
            let oracle = self.oracle.event(&event).await.unwrap();
            let sqlite = self.sqlite.event(&event).await.unwrap();
            for (found, targets) in [oracle, sqlite].iter().zip(&mut both) {
                targets.extend(found.iter().map(|found| Target::new(found, endpoint.clone())));
            }
        }
        both
    }

    fn a_note(&mut self) -> Note {
        let key = format!("note-{}", self.random.u8(0..4));
        match self.random.u8(0..3) {
            0 => Note::removed(key),
            value => Note::new(key, vec![value; 3]).unwrap(),
        }
    }

    pub(super) async fn replay(&mut self) {
        let [left, right] = self.targets().await;
        let note = self.random.bool().then(|| self.a_note());
        self.note(format!("{:?} replay {right:?} {note:?}", self.now));
        let oracle = self.oracle.replay(&left, note.clone(), self.now).await;
        let sqlite: Result<Vec<Replayed>, Error> = self.sqlite.replay(&right, note, self.now).await;
        self.assert_same("replayed", &answers(oracle), &answers(sqlite));
    }

    pub(super) async fn purge(&mut self) {
        let [left, right] = self.targets().await;
        self.note(format!("{:?} purge {right:?}", self.now));
        let oracle = self.oracle.purge(&left, self.now).await;
        let sqlite: Result<Vec<Purged>, Error> = self.sqlite.purge(&right, self.now).await;
        self.assert_same("purged", &answers(oracle), &answers(sqlite));
    }

    pub(super) async fn keep(&mut self) {
        let note = self.a_note();
        self.note(format!("keep {note:?}"));
        let oracle = self.oracle.keep(note.clone()).await;
        let sqlite = self.sqlite.keep(note).await;
        self.assert_same("kept", &answers(oracle), &answers(sqlite));
    }

    fn a_query(&mut self) -> Query {
        const STATES: [StateKind; 7] = [
            StateKind::Waiting,
            StateKind::Leased,
            StateKind::Delivered,
            StateKind::Dead,
            StateKind::Expired,
            StateKind::Purged,
            StateKind::Unmatched,
        ];
        let mut query = Query::new();
        let now = self.now.as_millis();
        let mut time = || Timestamp::from_millis(now - self.random.i64(-10_000..1_000_000));
        let (since, until) = (time(), time());
        for condition in 0..7 {
            // Mostly few conditions, so that something is found.
            if self.random.u8(0..4) > 0 {
                continue;
            }
            let endpoint =
                id([ENDPOINTS[0], ENDPOINTS[1], STRANGER, "unknown"][self.random.usize(0..4)]);
            query = match condition {
                0 => query.since(since),
                1 => query.until(until),
                2 => query
                    .of_type(["match", "*", "no.such"][self.random.usize(0..3)].parse().unwrap()),
                3 => query.endpoint(endpoint),
                4 => query
                    .state(STATES[self.random.usize(0..7)])
                    .state(STATES[self.random.usize(0..7)]),
                5 => query.reason(DeadReason::Exhausted),
                _ => query.missing(endpoint),
            };
        }
        query
    }

    pub(super) async fn compare_history(&mut self) {
        for _ in 0..3 {
            let query = self.a_query();
            let mut page = Page::newest().limit(self.random.usize(1..8));
            page.attempts = self.random.bool();
            if self.random.bool() {
                page.order = Order::OldestFirst;
            }
            let oracle = find(&*self.oracle, &query, page).await.join("\n");
            let sqlite = find(&self.sqlite, &query, page).await.join("\n");
            self.assert_same(&format!("{query:?} {page:?}"), &oracle, &sqlite);
        }
        let oracle = view_stats(self.oracle.stats().await.unwrap(), self.now);
        let sqlite = view_stats(self.sqlite.stats().await.unwrap(), self.now);
        self.assert_same("statistics", &oracle, &sqlite);
        let oracle = answers(self.oracle.notes().await);
        self.assert_same("notes", &oracle, &answers(self.sqlite.notes().await));

        let oracle = sorted(self.oracle.dead().await.unwrap());
        let sqlite = sorted(self.sqlite.dead().await.unwrap());
        let view = |groups: &[DeadLetters]| {
            let each = groups.iter().map(|group| (&group.endpoint, &group.state, group.count));
            format!("{:?}", each.collect::<Vec<_>>())
        };
        self.assert_same("dead letters", &view(&oracle), &view(&sqlite));
        for (oracle, sqlite) in oracle.iter().zip(&sqlite) {
            // This store tells these times exactly, others may be a little early.
            assert!(oracle.oldest <= sqlite.oldest && oracle.newest <= sqlite.newest);
        }
    }
}
