//! Events by query, and what was given up.
//!
//! A query becomes a SELECT of places (`seq`), each part of it along an index and all in the order of
//! the page, so that SQLite merges them and sorts nothing. It may name too many; what matches is
//! decided by the core, one event after the other.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use postrider::delivery::{State, StateKind};
use postrider::route::Pattern;
use postrider::store::{DeadLetters, EventRecord, Found, Order, Page, Place, Query};
use postrider::{EndpointId, Error, ErrorKind, EventId, Timestamp};
use rusqlite::{Connection, OptionalExtension};

use super::read::{self, Runs};
use super::row::{self, EVENT_COLUMNS};
use super::tables::SPAN_EVENTS;
use super::work::Done;

/// Most events that one page looks at.
const LOOK_MAX: usize = 10_000;
/// A page that holds so many bytes ends there (16 MiB).
const PAGE_BYTES: usize = 16 << 20;
/// Most indexed parts of one SELECT; beyond that all events are looked at.
const PARTS_MAX: usize = 64;

pub(super) fn find(connection: &mut Connection, query: &Query, page: Page) -> Done<Found> {
    let transaction = connection.transaction()?;
    let nothing = Found::new(Vec::new(), None);
    let Some((first, last)) = bounds(&transaction, query, page)? else { return Ok(Ok(nothing)) };
    let Some(search) = Search::of(&transaction, query)? else { return Ok(Ok(nothing)) };
    let mut statement = transaction.prepare(&search.sql(page.order))?;
    for (number, value) in (1..).zip([first, last]) {
        statement.raw_bind_parameter(number, value)?;
    }
    for (number, kind) in (3..).zip(&search.types) {
        statement.raw_bind_parameter(number, kind)?;
    }
    let mut rows = statement.raw_query();
    let mut events = Vec::new();
    let (mut looked_at, mut bytes, mut last) = (0, 0, None);
    while let Some(row) = rows.next()? {
        let seq: i64 = row.get(0)?;
        let place = Some(Place::new(seq.cast_unsigned()));
        if place == last {
            // Named again, by its next delivery.
            continue;
        }
        if events.len() >= page.events_max() || looked_at >= LOOK_MAX || bytes >= PAGE_BYTES {
            return Ok(Ok(Found::new(events, last)));
        }
        match look_at(&transaction, seq, query, page.attempts)? {
            Ok(Some(record)) => {
                bytes += weight(&record);
                events.push(record);
            }
            Ok(None) => {}
            // One that cannot be read must not hide the others.
            Err(error) => tracing::error!(error = error.chain(), "an event cannot be read"),
        }
        looked_at += 1;
        last = place;
    }
    Ok(Ok(Found::new(events, None)))
}

fn weight(record: &EventRecord) -> usize {
    let attempts = record.deliveries.iter().flat_map(|delivery| &delivery.attempts);
    let texts = attempts.map(|attempt| attempt.message.len() + attempt.answer.len());
    record.event.weight() + texts.sum::<usize>()
}

/// The event at `seq`, if it is looked for. Payloads and attempts are read only then.
fn look_at(
    connection: &Connection,
    seq: i64,
    query: &Query,
    with_attempts: bool,
) -> Done<Option<EventRecord>> {
    let found: Option<(String, String, i64)> = connection
        .prepare_cached("SELECT id, type, accepted_at FROM postrider_events WHERE seq = ?1")?
        .query_row([seq], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((id, kind, accepted_at)) = found else { return Ok(Ok(None)) };
    let damaged = |column: &str| format!("read event {id:?}: its {column} is damaged");
    let kind = match kind.parse() {
        Ok(kind) => kind,
        Err(error) => {
            return Ok(Err(Error::new(ErrorKind::Store, damaged("type")).because(error)));
        }
    };
    let accepted_at = Timestamp::from_millis(accepted_at);
    if !query.wants_event(&kind, accepted_at) {
        return Ok(Ok(None));
    }
    let event: EventId = match id.parse() {
        Ok(id) => id,
        Err(error) => return Ok(Err(Error::new(ErrorKind::Store, damaged("id")).because(error))),
    };
    let deliveries = |with_attempts| {
        let mut deliveries =
            read::deliveries(connection, seq, &event, Runs::Newest, with_attempts)?;
        let is_wanted = query.select_deliveries(&mut deliveries);
        Ok::<_, rusqlite::Error>(is_wanted.then_some(deliveries))
    };
    let Some(mut found) = deliveries(false)? else { return Ok(Ok(None)) };
    if with_attempts && !found.is_empty() {
        found = deliveries(true)?.unwrap_or(found);
    }
    let event = connection
        .prepare_cached(&format!("SELECT {EVENT_COLUMNS} FROM postrider_events WHERE seq = ?1"))?
        .query_row([seq], row::envelope)?;
    Ok(event.map(|event| {
        let place = Place::new(seq.cast_unsigned());
        Some(EventRecord { place, event: Arc::new(event), accepted_at, deliveries: found })
    }))
}

/// The first and the last place that the page may hold; `None`: there is none.
fn bounds(
    connection: &Connection,
    query: &Query,
    page: Page,
) -> rusqlite::Result<Option<(i64, i64)>> {
    let (mut first, mut last) = (0, i64::MAX);
    if let Some(since) = query.since {
        let span: Option<i64> = connection
            .prepare_cached(
                "SELECT span FROM postrider_spans WHERE newest >= ?1 ORDER BY span LIMIT 1",
            )?
            .query_row([since.as_millis()], |row| row.get(0))
            .optional()?;
        let Some(span) = span else { return Ok(None) };
        first = span * SPAN_EVENTS;
    }
    if let Some(until) = query.until {
        let span: Option<i64> = connection
            .prepare_cached(
                "SELECT span FROM postrider_spans WHERE oldest < ?1 ORDER BY span DESC LIMIT 1",
            )?
            .query_row([until.as_millis()], |row| row.get(0))
            .optional()?;
        let Some(span) = span else { return Ok(None) };
        last = span * SPAN_EVENTS + SPAN_EVENTS - 1;
    }
    if let Some(after) = page.after {
        let after = i64::try_from(after.number()).unwrap_or(i64::MAX);
        match page.order {
            Order::OldestFirst => first = first.max(after.saturating_add(1)),
            Order::NewestFirst => last = last.min(after - 1),
        }
    }
    Ok((first <= last).then_some((first, last)))
}

/// Where what is looked for stands: SELECTs of places from `?1` to `?2`.
#[derive(Default)]
struct Search {
    parts: Vec<String>,
    /// The parameters from `?3`.
    types: Vec<String>,
}

impl Search {
    /// The narrowest way that there is an index for; `None`: nothing can match.
    fn of(connection: &Connection, query: &Query) -> rusqlite::Result<Option<Self>> {
        let asks_how_it_stands = !(query.states.is_empty() && query.reasons.is_empty());
        let types = Self::by_type(&query.types);
        if asks_how_it_stands || (types.is_none() && !query.endpoints.is_empty()) {
            match Self::by_deliveries(connection, query)? {
                Some(search) if search.parts.is_empty() => return Ok(None),
                Some(search) => return Ok(Some(search)),
                None => {}
            }
        }
        Ok(Some(types.unwrap_or_else(Self::of_all)))
    }

    fn of_all() -> Self {
        let part = "SELECT seq FROM postrider_events WHERE seq BETWEEN ?1 AND ?2";
        Self { parts: vec![part.to_owned()], types: Vec::new() }
    }

    /// By types; `None` where all must be looked at, since a pattern names none.
    fn by_type(patterns: &[Pattern]) -> Option<Self> {
        let can = !patterns.is_empty()
            && patterns.len() <= PARTS_MAX
            && patterns.iter().all(Pattern::is_exact);
        can.then(|| Self {
            parts: (3..3 + patterns.len())
                .map(|number| {
                    format!(
                        "SELECT seq FROM postrider_events INDEXED BY postrider_types \
                         WHERE type = ?{number} AND seq BETWEEN ?1 AND ?2"
                    )
                })
                .collect(),
            types: patterns.iter().map(|pattern| pattern.as_str().to_owned()).collect(),
        })
    }

    /// By endpoints and by how deliveries stand; `None` where all must be looked at.
    fn by_deliveries(connection: &Connection, query: &Query) -> rusqlite::Result<Option<Self>> {
        let mut states = Vec::new();
        let mut search = Self::default();
        for kind in kinds(query) {
            match kind {
                StateKind::Waiting => states.extend([0, 1]),
                StateKind::Leased => states.push(2),
                StateKind::Delivered => states.push(3),
                StateKind::Dead => states.push(4),
                StateKind::Expired => states.push(5),
                StateKind::Purged => states.push(6),
                StateKind::Unmatched if query.wants_unmatched() => search.parts.push(
                    "SELECT event FROM postrider_unmatched WHERE event BETWEEN ?1 AND ?2".into(),
                ),
                StateKind::Unmatched => {}
                // A kind that came after this store.
                _ => return Ok(None),
            }
        }
        if query.endpoints.is_empty() && states.iter().all(|state| *state >= 4) {
            search.parts.extend(states.iter().map(|state| {
                format!(
                    "SELECT event FROM postrider_deliveries INDEXED BY postrider_given_up \
                     WHERE replaced = 0 AND state >= 4 AND state = {state} \
                     AND event BETWEEN ?1 AND ?2"
                )
            }));
            return Ok(Some(search));
        }
        let endpoints = numbers(connection, &query.endpoints)?;
        if search.parts.len() + endpoints.len() * states.len() > PARTS_MAX {
            return Ok(None);
        }
        for (endpoint, state) in endpoints.iter().flat_map(|e| states.iter().map(move |s| (e, s))) {
            search.parts.push(format!(
                "SELECT event FROM postrider_deliveries INDEXED BY postrider_stands \
                 WHERE replaced = 0 AND endpoint = {endpoint} AND state = {state} \
                 AND event BETWEEN ?1 AND ?2"
            ));
        }
        Ok(Some(search))
    }

    fn sql(&self, order: Order) -> String {
        let mut sql = self.parts.join(" UNION ");
        let direction = if order == Order::OldestFirst { "" } else { " DESC" };
        write!(sql, " ORDER BY 1{direction}").expect("a string takes everything");
        sql
    }
}

/// How a delivery that is looked for may stand.
fn kinds(query: &Query) -> Vec<StateKind> {
    let all = [
        StateKind::Waiting,
        StateKind::Leased,
        StateKind::Delivered,
        StateKind::Dead,
        StateKind::Expired,
        StateKind::Purged,
    ];
    let mut kinds = if query.states.is_empty() { all.to_vec() } else { query.states.clone() };
    if !query.reasons.is_empty() {
        kinds.retain(|kind| *kind == StateKind::Dead);
    }
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

/// The numbers of those of these endpoints that are known; none named: of all, one more than
/// [`PARTS_MAX`] at most.
fn numbers(connection: &Connection, endpoints: &[EndpointId]) -> rusqlite::Result<Vec<i64>> {
    if endpoints.is_empty() {
        return connection
            .prepare_cached("SELECT number FROM postrider_endpoints LIMIT ?1")?
            .query_map([PARTS_MAX as i64 + 1], |row| row.get(0))?
            .collect();
    }
    let ids = serde_json::to_string(endpoints).expect("ids are text");
    connection
        .prepare_cached(
            "SELECT number FROM postrider_endpoints \
             WHERE id IN (SELECT value FROM json_each(?1))",
        )?
        .query_map([ids], |row| row.get(0))?
        .collect()
}

/// What was given up, by endpoint and reason; its cost grows with what was given up.
pub(super) fn dead(connection: &mut Connection) -> Done<Vec<DeadLetters>> {
    let transaction = connection.transaction()?;
    let mut statement = transaction.prepare_cached(DEAD)?;
    let mut rows = statement.query([])?;
    // Counted here: SQLite would sort all of them first.
    let mut groups: HashMap<(i64, Option<String>), (u64, i64, i64)> = HashMap::new();
    while let Some(row) = rows.next()? {
        let (endpoint, reason, at) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let (count, oldest, newest) = groups.entry((endpoint, reason)).or_insert((0, at, at));
        *count += 1;
        *oldest = at.min(*oldest);
        *newest = at.max(*newest);
    }
    let mut dead = Vec::with_capacity(groups.len());
    for ((endpoint, reason), (count, oldest, newest)) in groups {
        let endpoint = transaction
            .prepare_cached("SELECT id FROM postrider_endpoints WHERE number = ?1")?
            .query_row([endpoint], |row| read::endpoint_id(row, 0))?;
        let state = match reason {
            Some(reason) => State::Dead { reason: row::variant(1, reason)? },
            None => State::Expired,
        };
        let [oldest, newest] = [oldest, newest].map(Timestamp::from_millis);
        dead.push(DeadLetters::new(endpoint, state, count, oldest, newest));
    }
    Ok(Ok(dead))
}

const DEAD: &str = "SELECT endpoint, reason, due FROM postrider_deliveries \
                    INDEXED BY postrider_given_up \
                    WHERE replaced = 0 AND state >= 4 AND state IN (4, 5)";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use postrider::delivery::DeadReason;

    use super::*;
    use crate::sqlite::schema;

    fn database(endpoints: usize) -> (tempfile::TempDir, Connection) {
        let folder = tempfile::tempdir().unwrap();
        let connection =
            schema::open(&folder.path().join("store.db"), Duration::from_secs(1)).unwrap();
        for number in 0..endpoints {
            connection
                .execute("INSERT INTO postrider_endpoints (id) VALUES (?1)", [format!("e{number}")])
                .unwrap();
        }
        (folder, connection)
    }

    /// What SQLite says that it does, without the merging of parts.
    fn plan(connection: &Connection, sql: &str) -> Vec<String> {
        let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        // Unbound parameters are NULL; the plan is the same.
        let mut rows = statement.raw_query();
        let mut steps = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            let step: String = row.get(3).unwrap();
            if !(step.starts_with("MERGE (UNION)") || step == "LEFT" || step == "RIGHT") {
                steps.push(step);
            }
        }
        steps.dedup();
        steps
    }

    #[test]
    fn every_condition_with_an_index_goes_along_it() {
        let (_folder, connection) = database(3);
        let id = |text: &str| text.parse::<EndpointId>().unwrap();
        let kind = |text: &str| text.parse::<Pattern>().unwrap();
        let all = "SEARCH postrider_events USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)";
        let types = "SEARCH postrider_events USING COVERING INDEX postrider_types \
                     (type=? AND rowid>? AND rowid<?)";
        let stands = "SEARCH postrider_deliveries USING COVERING INDEX postrider_stands \
                      (endpoint=? AND state=? AND event>? AND event<?)";
        let given_up = "SEARCH postrider_deliveries USING COVERING INDEX postrider_given_up \
                        (state=? AND event>? AND event<?)";
        let unmatched =
            "SEARCH postrider_unmatched USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)";
        let q = Query::new;
        let cases: [(Query, &[&str]); 12] = [
            (q(), &[all]),
            (q().of_type(kind("model.*")), &[all]),
            (q().missing(id("e1")), &[all]),
            (q().of_type(kind("match")), &[types]),
            (q().of_type(kind("match")).of_type(kind("model.uploaded")), &[types]),
            (q().endpoint(id("e1")).of_type(kind("match")), &[types]),
            (q().endpoint(id("e1")), &[stands]),
            (q().endpoint(id("e1")).endpoint(id("e2")).state(StateKind::Dead), &[stands]),
            (q().state(StateKind::Waiting).of_type(kind("match")), &[stands]),
            (q().state(StateKind::Dead).state(StateKind::Expired), &[given_up]),
            (q().reason(DeadReason::Gone), &[given_up]),
            (q().state(StateKind::Dead).state(StateKind::Unmatched), &[unmatched, given_up]),
        ];
        for (query, expect) in cases {
            let search = Search::of(&connection, &query).unwrap().unwrap();
            for order in [Order::OldestFirst, Order::NewestFirst] {
                assert_eq!(plan(&connection, &search.sql(order)), expect, "{query:?}");
            }
        }
        let given_up =
            "SEARCH postrider_deliveries USING COVERING INDEX postrider_given_up (state=?)";
        assert_eq!(plan(&connection, DEAD), [given_up]);
    }

    #[test]
    fn nothing_is_looked_at_where_nothing_can_match() {
        let (_folder, connection) = database(1);
        let none = [
            Query::new().endpoint("unknown".parse().unwrap()),
            Query::new().endpoint("e0".parse().unwrap()).state(StateKind::Unmatched),
            Query::new().state(StateKind::Delivered).reason(DeadReason::Gone),
        ];
        for query in none {
            assert!(Search::of(&connection, &query).unwrap().is_none(), "{query:?}");
        }
    }

    /// SQLite takes 500 parts, and each row passes through all of them.
    #[test]
    fn parts_are_bounded() {
        let (_folder, connection) = database(PARTS_MAX + 1);
        let delivered = Query::new().state(StateKind::Delivered);
        let search = Search::of(&connection, &delivered).unwrap().unwrap();
        assert_eq!(search.parts, Search::of_all().parts);
        let mut types = Query::new();
        for number in 0..=PARTS_MAX {
            types = types.of_type(format!("type-{number}").parse().unwrap());
        }
        let search = Search::of(&connection, &types).unwrap().unwrap();
        assert_eq!(search.parts, Search::of_all().parts);
    }

    #[test]
    fn a_time_leads_to_its_places() {
        let (_folder, connection) = database(0);
        connection.execute_batch("BEGIN").unwrap();
        for span in 0..1000_i64 {
            // The clock goes back once, for the length of a span.
            let oldest = if span == 600 { 100_000 } else { span * 1000 };
            connection
                .execute(
                    "INSERT INTO postrider_spans VALUES (?1, ?2, ?3)",
                    [span, oldest, span * 1000 + 999],
                )
                .unwrap();
        }
        connection.execute_batch("COMMIT").unwrap();
        let at = Timestamp::from_millis;
        let places =
            |first: i64, last: i64| Some((first * SPAN_EVENTS, (last + 1) * SPAN_EVENTS - 1));
        let check = |query: Query, page: Page, expect: Option<(i64, i64)>| {
            assert_eq!(bounds(&connection, &query, page).unwrap(), expect, "{query:?} {page:?}");
        };
        let between = |since, until| Query::new().since(at(since)).until(at(until));
        check(between(700_000, 702_000), Page::newest(), places(700, 701));
        check(between(700_001, 702_001), Page::newest(), places(700, 702));
        check(between(100_000, 101_000), Page::newest(), places(100, 600));
        check(between(1_000_000, 1_000_001), Page::newest(), None);
        check(between(-2, -1), Page::newest(), None);
        let after = Some(Place::new(701 * 1024));
        check(
            between(700_000, 702_000),
            Page::newest().after(after),
            Some((700 * SPAN_EVENTS, 701 * SPAN_EVENTS - 1)),
        );
        check(
            between(700_000, 702_000),
            Page::oldest().after(after),
            Some((701 * SPAN_EVENTS + 1, 702 * SPAN_EVENTS - 1)),
        );
        check(between(700_000, 702_000), Page::oldest().after(Some(Place::new(u64::MAX))), None);
        check(Query::new(), Page::newest().after(Some(Place::new(0))), None);
    }
}
