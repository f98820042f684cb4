//! What only looks: each call in a read transaction of its own, which waits for no writer.

use std::sync::Arc;

use postrider::delivery::{AttemptRecord, DeliveryId, State};
use postrider::store::{Backlog, DeliveryRecord, EventRecord, Place};
use postrider::{EndpointId, EventId, Timestamp};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::row::{self, EVENT_COLUMNS};
use super::work::Done;

pub(super) fn endpoint_id(row: &Row<'_>, column: usize) -> rusqlite::Result<EndpointId> {
    let id: String = row.get(column)?;
    id.parse().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
    })
}

/// Whom an event went to when it was published, in that order.
pub(super) fn endpoints(
    connection: &Connection,
    event: &EventId,
) -> rusqlite::Result<Vec<EndpointId>> {
    connection
        .prepare_cached(
            "SELECT e.id FROM postrider_deliveries d \
             JOIN postrider_endpoints e ON e.number = d.endpoint \
             WHERE d.event = (SELECT seq FROM postrider_events WHERE id = ?1) AND d.run = 0 \
             ORDER BY d.place",
        )?
        .query_map([event.encode(&mut [0; 36])], |row| endpoint_id(row, 0))?
        .collect()
}

pub(super) fn event(connection: &mut Connection, id: &EventId) -> Done<Option<EventRecord>> {
    let transaction = connection.transaction()?;
    let found = transaction
        .prepare_cached(&format!(
            "SELECT {EVENT_COLUMNS}, seq, accepted_at FROM postrider_events WHERE id = ?1"
        ))?
        .query_row([id.encode(&mut [0; 36])], |row| {
            Ok((row::envelope(row)?, row.get::<_, i64>(7)?, row.get(8)?))
        })
        .optional()?;
    let Some((event, seq, accepted_at)) = found else { return Ok(Ok(None)) };
    let event = match event {
        Ok(event) => Arc::new(event),
        Err(error) => return Ok(Err(error)),
    };
    let deliveries = deliveries(&transaction, seq, id, Runs::All, true)?;
    let accepted_at = Timestamp::from_millis(accepted_at);
    let place = Place::new(seq.cast_unsigned());
    Ok(Ok(Some(EventRecord { place, event, accepted_at, deliveries })))
}

pub(super) fn delivery(
    connection: &mut Connection,
    id: &DeliveryId,
) -> Done<Option<DeliveryRecord>> {
    let transaction = connection.transaction()?;
    let seq: Option<i64> = transaction
        .prepare_cached("SELECT seq FROM postrider_events WHERE id = ?1")?
        .query_row([id.event().encode(&mut [0; 36])], |row| row.get(0))
        .optional()?;
    let Some(seq) = seq else { return Ok(Ok(None)) };
    let found = deliveries(&transaction, seq, id.event(), Runs::Only(id), true)?;
    Ok(Ok(found.into_iter().next()))
}

/// Which deliveries of an event are read.
#[derive(Clone, Copy)]
pub(super) enum Runs<'a> {
    /// The newest to each endpoint.
    Newest,
    All,
    Only(&'a DeliveryId),
}

/// The deliveries of an event: to one endpoint after the other, in the order in which it came to
/// them, each by run.
pub(super) fn deliveries(
    connection: &Connection,
    seq: i64,
    event: &EventId,
    runs: Runs<'_>,
    with_attempts: bool,
) -> rusqlite::Result<Vec<DeliveryRecord>> {
    let mut attempts = connection.prepare_cached(
        "SELECT number, at, took_ms, cause, message, status, answer FROM postrider_attempts \
         WHERE event = ?1 AND place = ?2 AND run = ?3 ORDER BY made",
    )?;
    let mut deliveries = connection.prepare_cached(
        // What was given back is due for ever; it is shown as due since it was accepted.
        "SELECT d.place, e.id, d.state, \
         CASE d.due WHEN ?2 THEN (SELECT accepted_at FROM postrider_events WHERE seq = ?1) \
         ELSE d.due END, \
         d.reason, d.attempts, d.run FROM postrider_deliveries d \
         JOIN postrider_endpoints e ON e.number = d.endpoint \
         WHERE d.event = ?1 AND d.replaced <= ?3 ORDER BY d.place, d.run",
    )?;
    let replaced = !matches!(runs, Runs::Newest);
    let mut rows = deliveries.query(params![seq, Timestamp::MIN.as_millis(), replaced])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (place, run): (i64, u32) = (row.get(0)?, row.get(6)?);
        let id = DeliveryId::new(endpoint_id(row, 1)?, event.clone()).with_run(run);
        if let Runs::Only(only) = runs
            && *only != id
        {
            continue;
        }
        let attempts = if with_attempts {
            attempts
                .query_map(params![seq, place, run], attempt)?
                .collect::<rusqlite::Result<Vec<AttemptRecord>>>()?
        } else {
            Vec::new()
        };
        found.push(DeliveryRecord { id, state: state(row)?, attempts_made: row.get(5)?, attempts });
    }
    Ok(found)
}

fn state(row: &Row<'_>) -> rusqlite::Result<State> {
    let due = Timestamp::from_millis(row.get(3)?);
    Ok(match row.get::<_, i64>(2)? {
        0 | 1 => State::Waiting { due },
        2 => State::Leased { until: due },
        3 => State::Delivered,
        4 => State::Dead { reason: row::variant(4, row.get(4)?)? },
        5 => State::Expired,
        // The table holds nothing above 6.
        _ => State::Purged,
    })
}

fn attempt(row: &Row<'_>) -> rusqlite::Result<AttemptRecord> {
    let cause: Option<String> = row.get(3)?;
    Ok(AttemptRecord {
        number: row.get(0)?,
        at: Timestamp::from_millis(row.get(1)?),
        took_ms: row.get::<_, i64>(2)?.cast_unsigned(),
        cause: cause.map(|cause| row::variant(3, cause)).transpose()?,
        message: row.get(4)?,
        status: row.get(5)?,
        answer: row.get(6)?,
    })
}

/// What is owed to each endpoint; its cost grows with what is owed.
pub(super) fn backlog(connection: &mut Connection, now: Timestamp) -> Done<Vec<Backlog>> {
    let count = |row: &Row<'_>, column| row.get::<_, i64>(column).map(i64::cast_unsigned);
    let backlogs: rusqlite::Result<Vec<Backlog>> = connection
        .prepare_cached(
            "SELECT e.id, \
             (SELECT count(*) FROM postrider_deliveries WHERE endpoint = e.number AND state = 0), \
             (SELECT count(*) FROM postrider_deliveries \
              WHERE endpoint = e.number AND state = 1 AND due <= ?1), \
             (SELECT count(*) FROM postrider_deliveries \
              WHERE endpoint = e.number AND state = 1 AND due > ?1), \
             (SELECT count(*) FROM postrider_deliveries WHERE endpoint = e.number AND state = 2) \
             FROM postrider_endpoints e",
        )?
        .query_map([now.as_millis()], |row| {
            Ok(Backlog {
                endpoint: endpoint_id(row, 0)?,
                ready: count(row, 1)? + count(row, 2)?,
                delayed: count(row, 3)?,
                leased: count(row, 4)?,
            })
        })?
        .collect();
    Ok(Ok(backlogs?.into_iter().filter(|backlog| backlog.owed() > 0).collect()))
}

/// When the first delivery of each endpoint that is owed something may be claimed; `None`: now.
pub(super) fn earliest(
    connection: &Connection,
) -> rusqlite::Result<Vec<(EndpointId, Option<Timestamp>)>> {
    let mut statement = connection.prepare_cached(
        "SELECT e.id, \
         EXISTS (SELECT 1 FROM postrider_deliveries WHERE endpoint = e.number AND state = 0), \
         (SELECT min(due) FROM postrider_deliveries WHERE endpoint = e.number AND state = 1), \
         (SELECT min(due) FROM postrider_deliveries WHERE endpoint = e.number AND state = 2) \
         FROM postrider_endpoints e",
    )?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (delayed, leased): (Option<i64>, Option<i64>) = (row.get(2)?, row.get(3)?);
        let due = match (row.get::<_, bool>(1)?, delayed.into_iter().chain(leased).min()) {
            (true, _) => None,
            (false, Some(due)) => Some(Timestamp::from_millis(due)),
            (false, None) => continue,
        };
        found.push((endpoint_id(row, 0)?, due));
    }
    Ok(found)
}

/// Changes whenever another connection commits.
pub(super) fn data_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))
}
