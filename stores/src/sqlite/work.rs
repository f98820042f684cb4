//! What each call of the store does within a transaction of the writer.

use std::collections::HashMap;
use std::sync::Arc;

use postrider::delivery::{Decision, DeliveryId};
use postrider::store::{
    ATTEMPTS_KEPT_MAX, Accept, Accepted, Claim, Fence, Lease, Next, Settled, Settlement,
};
use postrider::{EndpointId, Error, ErrorKind, Timestamp};
use rusqlite::{Connection, OptionalExtension, named_params, params};

use super::lanes::Effect;
use super::row::{self, EVENT_COLUMNS};
use super::{Limits, read};

/// Most events that one accept drops because their retention has passed, beside two for each that it
/// brings: so history shrinks faster than it grows, and no publisher pays for all of it.
const SWEPT_MAX: usize = 64;

/// A transaction of the writer under way.
pub(super) struct Work<'a> {
    pub(super) connection: &'a Connection,
    pub(super) limits: &'a Limits,
    /// The numbers of endpoints; emptied when a transaction is rolled back.
    pub(super) endpoints: &'a mut HashMap<EndpointId, i64>,
    /// What follows when the transaction is committed.
    pub(super) effects: Vec<Effect>,
}

/// `Err` is SQLite's and ends the transaction; the inner one refuses this call only.
pub(super) type Done<T> = rusqlite::Result<Result<T, Error>>;

/// A delivery's row.
struct Found {
    event: i64,
    place: i64,
    attempts: u32,
}

/// What is held against the limits.
struct Totals {
    events: u64,
    bytes: u64,
}

fn weight(accept: &Accept) -> u64 {
    /// What a delivery's row and index entry take, about.
    const DELIVERY_BYTES: usize = 64;
    (accept.event.weight() + accept.endpoints.len() * DELIVERY_BYTES) as u64
}

impl Work<'_> {
    pub(super) fn accept(&mut self, batch: &[Accept], now: Timestamp) -> Done<Vec<Accepted>> {
        let mut buffer = [0; 36];
        let mut known =
            self.connection.prepare_cached("SELECT 1 FROM postrider_events WHERE id = ?1")?;
        let (mut events, mut bytes) = (0, 0);
        for accept in batch {
            // A duplicate takes no room: it gets its receipt from a full store too.
            if !known.exists([accept.event.id().encode(&mut buffer)])? {
                events += 1;
                bytes += weight(accept);
            }
        }
        if events > self.limits.events_max || bytes > self.limits.bytes_max {
            return Ok(Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "accept {events} events of {bytes} bytes: the SQLite store holds at most {} \
                     events and {} bytes (events_max, bytes_max)",
                    self.limits.events_max, self.limits.bytes_max
                ),
            )));
        }
        self.sweep(now, 2 * batch.len() + SWEPT_MAX)?;
        // What the batch repeats stays, and a batch that is refused in the end evicts nothing.
        let repeated: Vec<&postrider::EventId> =
            batch.iter().map(|accept| accept.event.id()).collect();
        let repeated = serde_json::to_string(&repeated).expect("ids are text");
        self.connection.execute_batch("SAVEPOINT make_room")?;
        loop {
            let held = self.totals()?;
            if held.events + events <= self.limits.events_max
                && held.bytes + bytes <= self.limits.bytes_max
            {
                break;
            }
            if !self.evict_first(None, &repeated)? {
                self.connection.execute_batch("ROLLBACK TO make_room; RELEASE make_room")?;
                return Ok(Err(Error::new(
                    ErrorKind::Full,
                    format!(
                        "accept an event: {} events of {} bytes are held and all are still owed \
                         (limits events_max = {}, bytes_max = {})",
                        held.events, held.bytes, self.limits.events_max, self.limits.bytes_max
                    ),
                )));
            }
        }
        self.connection.execute_batch("RELEASE make_room")?;
        let mut accepted = Vec::with_capacity(batch.len());
        for accept in batch {
            accepted.push(self.insert(accept, now)?);
        }
        Ok(Ok(accepted))
    }

    fn insert(&mut self, accept: &Accept, now: Timestamp) -> rusqlite::Result<Accepted> {
        let event = &accept.event;
        let mut buffer = [0; 36];
        let id = event.id().encode(&mut buffer);
        // In the same commit as the event itself: however the mover of the outbox is stopped, its
        // row is there and the event is not, or the other way round.
        self.connection
            .prepare_cached("DELETE FROM postrider_outbox WHERE id = ?1")?
            .execute([id])?;
        let seq: Option<i64> = self
            .connection
            .prepare_cached(
                "INSERT INTO postrider_events (id, type, key, time, expires_at, accepted_at, bytes, \
                 attributes, payload) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) \
                 ON CONFLICT (id) DO NOTHING RETURNING seq",
            )?
            .query_row(
                params![
                    id,
                    event.event_type().as_str(),
                    event.key(),
                    event.time().as_millis(),
                    event.expires_at().map(Timestamp::as_millis),
                    now.as_millis(),
                    weight(accept).cast_signed(),
                    row::attributes(event),
                    &event.payload()[..],
                ],
                |row| row.get(0),
            )
            .optional()?;
        let Some(seq) = seq else {
            let endpoints = read::endpoints(self.connection, event.id())?;
            return Ok(Accepted { endpoints: endpoints.into(), duplicate: true });
        };
        self.add(1, weight(accept).cast_signed())?;
        for (place, endpoint) in (0_i64..).zip(&*accept.endpoints) {
            let number = self.number(endpoint)?;
            self.connection
                .prepare_cached(
                    "INSERT INTO postrider_deliveries \
                     (event, place, endpoint, state, due, fence, attempts) \
                     VALUES (?1, ?2, ?3, 0, ?4, 0, 0)",
                )?
                .execute(params![seq, place, number, now.as_millis()])?;
            self.effects.push(Effect::Owed(endpoint.clone()));
        }
        if accept.endpoints.is_empty() {
            self.note_settled(seq)?;
        }
        Ok(Accepted { endpoints: Arc::clone(&accept.endpoints), duplicate: false })
    }

    /// The number of an endpoint, a new one where it has none.
    fn number(&mut self, endpoint: &EndpointId) -> rusqlite::Result<i64> {
        if let Some(number) = self.endpoints.get(endpoint) {
            return Ok(*number);
        }
        let number = match self.find_number(endpoint)? {
            Some(number) => number,
            None => self.connection.query_row(
                "INSERT INTO postrider_endpoints (id) VALUES (?1) RETURNING number",
                [endpoint.as_str()],
                |row| row.get(0),
            )?,
        };
        self.endpoints.insert(endpoint.clone(), number);
        Ok(number)
    }

    fn find_number(&self, endpoint: &EndpointId) -> rusqlite::Result<Option<i64>> {
        if let Some(number) = self.endpoints.get(endpoint) {
            return Ok(Some(*number));
        }
        self.connection
            .prepare_cached("SELECT number FROM postrider_endpoints WHERE id = ?1")?
            .query_row([endpoint.as_str()], |row| row.get(0))
            .optional()
    }

    pub(super) fn claim(
        &mut self,
        endpoint: &EndpointId,
        max: usize,
        now: Timestamp,
        until: Timestamp,
    ) -> Done<Claim> {
        let Some(number) = self.find_number(endpoint)? else {
            self.effects.push(Effect::Looked(endpoint.clone(), Next::Announced));
            return Ok(Ok(Claim { leases: Vec::new(), next: Next::Announced }));
        };
        // A lease that ran out is due since it did, and its fence is worth nothing any more.
        self.connection
            .prepare_cached(
                "UPDATE postrider_deliveries SET state = 1, fence = 0 \
                 WHERE endpoint = ?1 AND state = 2 AND due <= ?2",
            )?
            .execute(params![number, now.as_millis()])?;
        let (places, has_more) = self.due(number, max, now)?;
        let mut leases = Vec::with_capacity(places.len());
        if !places.is_empty() {
            let fence_last: i64 = self
                .connection
                .prepare_cached("UPDATE postrider_totals SET fence = fence + ?1 RETURNING fence")?
                .query_row([places.len() as i64], |row| row.get(0))?;
            let fences = fence_last - places.len() as i64 + 1..;
            for (place, fence) in places.iter().zip(fences) {
                leases.extend(self.lease(endpoint, place, fence, until)?);
            }
        }
        let next = if has_more {
            Next::Now
        } else {
            let earliest: Option<i64> = self
                .connection
                .prepare_cached(
                    "SELECT min(due) FROM ( \
                     SELECT min(due) AS due FROM postrider_deliveries WHERE endpoint = ?1 AND state = 1 \
                     UNION ALL \
                     SELECT min(due) FROM postrider_deliveries WHERE endpoint = ?1 AND state = 2)",
                )?
                .query_row([number], |row| row.get(0))?;
            earliest.map_or(Next::Announced, |due| Next::At(Timestamp::from_millis(due)))
        };
        self.effects.push(Effect::Looked(endpoint.clone(), next));
        Ok(Ok(Claim { leases, next }))
    }

    /// The deliveries of an endpoint that are due, the longest due first, at most `max`, and whether
    /// there are more. Those never tried keep the order in which they were accepted, even where the
    /// clock jumped back between them; so they are merged here and not sorted by SQLite.
    fn due(
        &self,
        endpoint: i64,
        max: usize,
        now: Timestamp,
    ) -> rusqlite::Result<(Vec<Found>, bool)> {
        let one_more = i64::try_from(max).unwrap_or(i64::MAX).saturating_add(1);
        let mut delayed = self.connection.prepare_cached(
            "SELECT event, place, attempts, due FROM postrider_deliveries \
             WHERE endpoint = :endpoint AND state = 1 AND due <= :now \
             ORDER BY due, event LIMIT :max",
        )?;
        let mut fresh = self.connection.prepare_cached(
            "SELECT event, place, attempts, due FROM postrider_deliveries \
             WHERE endpoint = :endpoint AND state = 0 ORDER BY event LIMIT :max",
        )?;
        let mut delayed = delayed.query(
            named_params! {":endpoint": endpoint, ":now": now.as_millis(), ":max": one_more},
        )?;
        let mut fresh = fresh.query(named_params! {":endpoint": endpoint, ":max": one_more})?;
        let read = |rows: &mut rusqlite::Rows<'_>| {
            let Some(row) = rows.next()? else { return Ok(None) };
            let place = Found { event: row.get(0)?, place: row.get(1)?, attempts: row.get(2)? };
            Ok::<_, rusqlite::Error>(Some((row.get::<_, i64>(3)?, place)))
        };
        let (mut first_delayed, mut first_fresh) = (read(&mut delayed)?, read(&mut fresh)?);
        let mut places = Vec::new();
        while places.len() < max {
            let takes_delayed = match (&first_delayed, &first_fresh) {
                (Some((due, _)), Some((since, _))) => due <= since,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => break,
            };
            let taken = if takes_delayed {
                std::mem::replace(&mut first_delayed, read(&mut delayed)?)
            } else {
                std::mem::replace(&mut first_fresh, read(&mut fresh)?)
            };
            places.extend(taken.map(|(_, place)| place));
        }
        Ok((places, first_delayed.is_some() || first_fresh.is_some()))
    }

    /// Leases a delivery; `None` where its event cannot be read. Such a one stays owed and is looked
    /// at again when the lease ends, so that it does not stop those behind it.
    fn lease(
        &self,
        endpoint: &EndpointId,
        place: &Found,
        fence: i64,
        until: Timestamp,
    ) -> rusqlite::Result<Option<Lease>> {
        self.connection
            .prepare_cached(
                "UPDATE postrider_deliveries SET state = 2, due = ?3, fence = ?4 \
                 WHERE event = ?1 AND place = ?2",
            )?
            .execute(params![place.event, place.place, until.as_millis(), fence])?;
        let event = self
            .connection
            .prepare_cached(&format!(
                "SELECT {EVENT_COLUMNS} FROM postrider_events WHERE seq = ?1"
            ))?
            .query_row([place.event], row::envelope)?;
        match event {
            Ok(event) => Ok(Some(Lease {
                delivery: DeliveryId::new(endpoint.clone(), event.id().clone()),
                event: Arc::new(event),
                attempts: place.attempts,
                fence: Fence(fence.cast_unsigned()),
            })),
            Err(error) => {
                tracing::error!(%endpoint, error = error.chain(), "an event cannot be read; it is kept");
                Ok(None)
            }
        }
    }

    /// The row of a lease, where it is the newest of its delivery.
    fn leased(&self, delivery: &DeliveryId, fence: Fence) -> rusqlite::Result<Option<Found>> {
        if delivery.run() != 0 {
            return Ok(None);
        }
        self.connection
            .prepare_cached(
                "SELECT event, place, attempts FROM postrider_deliveries \
                 WHERE event = (SELECT seq FROM postrider_events WHERE id = ?1) \
                 AND endpoint = (SELECT number FROM postrider_endpoints WHERE id = ?2) \
                 AND state = 2 AND fence = ?3",
            )?
            .query_row(
                params![
                    delivery.event().encode(&mut [0; 36]),
                    delivery.endpoint().as_str(),
                    fence.0.cast_signed()
                ],
                |row| Ok(Found { event: row.get(0)?, place: row.get(1)?, attempts: row.get(2)? }),
            )
            .optional()
    }

    pub(super) fn extend(
        &mut self,
        leases: &[(DeliveryId, Fence)],
        until: Timestamp,
    ) -> Done<Vec<Settled>> {
        self.each(leases, |work, place, _| {
            work.connection
                .prepare_cached(
                    "UPDATE postrider_deliveries SET due = ?3 WHERE event = ?1 AND place = ?2",
                )?
                .execute(params![place.event, place.place, until.as_millis()])?;
            Ok(())
        })
    }

    pub(super) fn release(&mut self, leases: &[(DeliveryId, Fence)]) -> Done<Vec<Settled>> {
        self.each(leases, |work, place, delivery| {
            // Due at once, whatever the clock says: never tried, it is fresh again; tried, it has
            // been due for ever.
            work.connection
                .prepare_cached(
                    "UPDATE postrider_deliveries SET fence = 0, \
                     state = CASE attempts WHEN 0 THEN 0 ELSE 1 END, \
                     due = CASE attempts WHEN 0 THEN \
                     (SELECT accepted_at FROM postrider_events WHERE seq = ?1) ELSE ?3 END \
                     WHERE event = ?1 AND place = ?2",
                )?
                .execute(params![place.event, place.place, Timestamp::MIN.as_millis()])?;
            work.effects.push(Effect::Owed(delivery.endpoint().clone()));
            Ok(())
        })
    }

    fn each(
        &mut self,
        leases: &[(DeliveryId, Fence)],
        change: impl Fn(&mut Self, &Found, &DeliveryId) -> rusqlite::Result<()>,
    ) -> Done<Vec<Settled>> {
        let mut settled = Vec::with_capacity(leases.len());
        for (delivery, fence) in leases {
            settled.push(match self.leased(delivery, *fence)? {
                Some(place) => {
                    change(self, &place, delivery)?;
                    Settled::Applied
                }
                None => Settled::Stale,
            });
        }
        Ok(Ok(settled))
    }

    pub(super) fn settle(&mut self, batch: &[Settlement]) -> Done<Vec<Settled>> {
        let mut settled = Vec::with_capacity(batch.len());
        for settlement in batch {
            settled.push(match self.leased(&settlement.delivery, settlement.fence)? {
                Some(place) => {
                    self.settle_one(&place, settlement)?;
                    Settled::Applied
                }
                None => Settled::Stale,
            });
        }
        Ok(Ok(settled))
    }

    fn settle_one(&mut self, place: &Found, settlement: &Settlement) -> rusqlite::Result<()> {
        let mut made = place.attempts;
        if settlement.attempt.is_some() {
            made += 1;
            self.keep_attempt(place, made, settlement)?;
        }
        let (state, due, reason) = match settlement.decision {
            Decision::RetryAt(due) => (1, due.as_millis(), None),
            Decision::Delivered => (3, 0, None),
            Decision::Dead(reason) => (4, 0, Some(row::name(&reason)?)),
            Decision::Expired => (5, 0, None),
            // A decision that came after this store: nothing is lost when the lease runs out.
            other => {
                return Err(rusqlite::Error::ToSqlConversionFailure(
                    format!("this store does not know the decision {other:?}").into(),
                ));
            }
        };
        self.connection
            .prepare_cached(
                "UPDATE postrider_deliveries \
                 SET state = ?3, due = ?4, reason = ?5, attempts = ?6, fence = 0 \
                 WHERE event = ?1 AND place = ?2",
            )?
            .execute(params![place.event, place.place, state, due, reason, made])?;
        if state == 1 {
            return Ok(());
        }
        let is_owed = self
            .connection
            .prepare_cached("SELECT 1 FROM postrider_deliveries WHERE event = ?1 AND state < 3")?
            .exists([place.event])?;
        if !is_owed {
            self.note_settled(place.event)?;
        }
        Ok(())
    }

    /// Keeps the attempt, the `made`th that was settled, and drops one between the first and the
    /// newest where there are too many.
    fn keep_attempt(
        &mut self,
        place: &Found,
        made: u32,
        settlement: &Settlement,
    ) -> rusqlite::Result<()> {
        let Some(attempt) = &settlement.attempt else { return Ok(()) };
        self.connection
            .prepare_cached(
                "INSERT INTO postrider_attempts VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?
            .execute(params![
                place.event,
                place.place,
                made,
                attempt.number,
                attempt.at.as_millis(),
                attempt.took_ms.cast_signed(),
                attempt.cause.as_ref().map(row::name).transpose()?,
                attempt.message,
                attempt.status,
                attempt.answer,
            ])?;
        let mut bytes = (attempt.message.len() + attempt.answer.len()) as i64;
        let dropped: Option<i64> = self
            .connection
            .prepare_cached(
                "DELETE FROM postrider_attempts \
                 WHERE event = ?1 AND place = ?2 AND made = ?3 AND made > 1 \
                 RETURNING octet_length(message) + octet_length(answer)",
            )?
            .query_row(
                params![place.event, place.place, i64::from(made) - ATTEMPTS_KEPT_MAX as i64 + 1],
                |row| row.get(0),
            )
            .optional()?;
        bytes -= dropped.unwrap_or_default();
        self.add(0, bytes)
    }

    /// Puts an event that owes nothing any more at the end of those that may go.
    fn note_settled(&mut self, event: i64) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached("INSERT INTO postrider_settled (event) VALUES (?1)")?
            .execute([event])?;
        self.effects.push(Effect::Room);
        Ok(())
    }

    /// Drops events whose retention has passed, at most `max`.
    fn sweep(&mut self, now: Timestamp, max: usize) -> rusqlite::Result<()> {
        let before = now
            .as_millis()
            .saturating_sub(i64::try_from(self.limits.retention.as_millis()).unwrap_or(i64::MAX));
        for _ in 0..max {
            if !self.evict_first(Some(before), "[]")? {
                break;
            }
        }
        Ok(())
    }

    /// Drops the event that was settled first, if it was accepted `before`; not one whose id is in
    /// `spared`, a JSON array. `false` where there is none.
    fn evict_first(&mut self, before: Option<i64>, spared: &str) -> rusqlite::Result<bool> {
        let first: Option<(i64, i64, i64, i64)> = self
            .connection
            .prepare_cached(
                "SELECT s.place, s.event, e.bytes, e.accepted_at FROM postrider_settled s \
                 JOIN postrider_events e ON e.seq = s.event \
                 WHERE e.id NOT IN (SELECT value FROM json_each(?1)) ORDER BY s.place LIMIT 1",
            )?
            .query_row([spared], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
            .optional()?;
        let Some((place, event, mut bytes, accepted_at)) = first else { return Ok(false) };
        if before.is_some_and(|before| accepted_at > before) {
            return Ok(false);
        }
        let kept: Option<i64> = self
            .connection
            .prepare_cached(
                "SELECT sum(octet_length(message) + octet_length(answer)) \
                 FROM postrider_attempts WHERE event = ?1",
            )?
            .query_row([event], |row| row.get(0))?;
        bytes += kept.unwrap_or_default();
        for (delete, key) in [
            ("DELETE FROM postrider_settled WHERE place = ?1", place),
            ("DELETE FROM postrider_attempts WHERE event = ?1", event),
            ("DELETE FROM postrider_deliveries WHERE event = ?1", event),
            ("DELETE FROM postrider_events WHERE seq = ?1", event),
        ] {
            self.connection.prepare_cached(delete)?.execute([key])?;
        }
        self.add(-1, -bytes)?;
        Ok(true)
    }

    fn add(&mut self, events: i64, bytes: i64) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached("UPDATE postrider_totals SET events = events + ?1, bytes = bytes + ?2")?
            .execute([events, bytes])?;
        Ok(())
    }

    fn totals(&self) -> rusqlite::Result<Totals> {
        self.connection.prepare_cached("SELECT events, bytes FROM postrider_totals")?.query_row(
            [],
            |row| {
                let (events, bytes): (i64, i64) = (row.get(0)?, row.get(1)?);
                Ok(Totals { events: events.cast_unsigned(), bytes: bytes.cast_unsigned() })
            },
        )
    }
}
