//! A transaction of the writer, and what accept and claim do within it.

use std::collections::HashMap;
use std::sync::Arc;

use postrider::delivery::DeliveryId;
use postrider::stats::Series;
use postrider::store::{Accept, Accepted, Claim, Fence, Lease, Next};
use postrider::{EndpointId, Error, ErrorKind, Timestamp};
use rusqlite::{Connection, OptionalExtension, named_params, params};

use super::lanes::Effect;
use super::row::{self, EVENT_COLUMNS};
use super::{Limits, read};

/// Most events that one accept drops because their retention has passed, beside two for each that it
/// brings: so history shrinks faster than it grows, and no publisher pays for all of it.
const SWEPT_MAX: usize = 64;

/// What a delivery's row and index entries take, about.
pub(super) const DELIVERY_BYTES: u64 = 64;

/// A transaction of the writer under way.
pub(super) struct Work<'a> {
    pub(super) connection: &'a Connection,
    pub(super) limits: &'a Limits,
    /// The time that the engine told last.
    pub(super) now: Timestamp,
    /// The numbers of endpoints; emptied when a transaction is rolled back.
    pub(super) endpoints: &'a mut HashMap<EndpointId, i64>,
    /// The statistics of those endpoints of which something was settled.
    pub(super) series: HashMap<i64, Series>,
    /// What follows when the transaction is committed.
    pub(super) effects: Vec<Effect>,
}

/// `Err` is SQLite's and ends the transaction; the inner one refuses this call only.
pub(super) type Done<T> = rusqlite::Result<Result<T, Error>>;

/// A delivery's row.
pub(super) struct Found {
    pub(super) event: i64,
    pub(super) place: i64,
    pub(super) run: u32,
    pub(super) endpoint: i64,
    pub(super) attempts: u32,
}

fn weight(accept: &Accept) -> u64 {
    accept.event.weight() as u64 + accept.endpoints.len() as u64 * DELIVERY_BYTES
}

impl Work<'_> {
    pub(super) fn accept(&mut self, batch: &[Accept], now: Timestamp) -> Done<Vec<Accepted>> {
        self.now = now;
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
        if let Err(full) = self.make_room("accept an event", events, bytes, &repeated)? {
            return Ok(Err(full));
        }
        let before = self.totals()?.accepted;
        let (mut last, mut bytes) = (before, 0);
        let mut accepted = Vec::with_capacity(batch.len());
        for accept in batch {
            let inserted = self.insert(accept, last + 1, now)?;
            if !inserted.duplicate {
                last += 1;
                bytes += weight(accept);
            }
            accepted.push(inserted);
        }
        if last > before {
            self.add(last - before, bytes.cast_signed())?;
            self.connection
                .prepare_cached("UPDATE postrider_totals SET accepted = ?1")?
                .execute([last])?;
        }
        self.note_spans(before + 1, last, now)?;
        Ok(Ok(accepted))
    }

    /// Inserts an event as number `seq`, unless its id is there; the totals are the caller's to write.
    fn insert(&mut self, accept: &Accept, seq: i64, now: Timestamp) -> rusqlite::Result<Accepted> {
        let event = &accept.event;
        let mut buffer = [0; 36];
        let id = event.id().encode(&mut buffer);
        // In the same commit as the event itself: however the mover of the outbox is stopped, its
        // row is there and the event is not, or the other way round.
        self.connection
            .prepare_cached("DELETE FROM postrider_outbox WHERE id = ?1")?
            .execute([id])?;
        let inserted = self
            .connection
            .prepare_cached(
                "INSERT INTO postrider_events (seq, id, type, key, time, expires_at, accepted_at, \
                 bytes, attributes, payload) \
                 VALUES (?10, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (id) DO NOTHING",
            )?
            .execute(params![
                id,
                event.event_type().as_str(),
                event.key(),
                event.time().as_millis(),
                event.expires_at().map(Timestamp::as_millis),
                now.as_millis(),
                weight(accept).cast_signed(),
                row::attributes(event),
                &event.payload()[..],
                seq,
            ])?;
        if inserted == 0 {
            let endpoints = read::endpoints(self.connection, event.id())?;
            return Ok(Accepted { endpoints: endpoints.into(), duplicate: true });
        }
        for (place, endpoint) in (0_i64..).zip(&*accept.endpoints) {
            let number = self.number(endpoint)?;
            self.connection
                .prepare_cached(
                    "INSERT INTO postrider_deliveries \
                     (event, place, run, endpoint, state, due, fence, attempts, replaced) \
                     VALUES (?1, ?2, 0, ?3, 0, ?4, 0, 0, 0)",
                )?
                .execute(params![seq, place, number, now.as_millis()])?;
            self.effects.push(Effect::Owed(endpoint.clone()));
        }
        if accept.endpoints.is_empty() {
            self.connection
                .prepare_cached("INSERT INTO postrider_unmatched VALUES (?1)")?
                .execute([seq])?;
            self.note_settled(seq)?;
        }
        Ok(Accepted { endpoints: Arc::clone(&accept.endpoints), duplicate: false })
    }

    /// The number of an endpoint, a new one where it has none.
    pub(super) fn number(&mut self, endpoint: &EndpointId) -> rusqlite::Result<i64> {
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

    pub(super) fn find_number(&self, endpoint: &EndpointId) -> rusqlite::Result<Option<i64>> {
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
        self.now = now;
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
            "SELECT event, place, run, attempts, due FROM postrider_deliveries \
             WHERE endpoint = :endpoint AND state = 1 AND due <= :now \
             ORDER BY due, event LIMIT :max",
        )?;
        let mut fresh = self.connection.prepare_cached(
            "SELECT event, place, run, attempts, due FROM postrider_deliveries \
             WHERE endpoint = :endpoint AND state = 0 ORDER BY event LIMIT :max",
        )?;
        let mut delayed = delayed.query(
            named_params! {":endpoint": endpoint, ":now": now.as_millis(), ":max": one_more},
        )?;
        let mut fresh = fresh.query(named_params! {":endpoint": endpoint, ":max": one_more})?;
        let read = |rows: &mut rusqlite::Rows<'_>| {
            let Some(row) = rows.next()? else { return Ok(None) };
            let place = Found {
                event: row.get(0)?,
                place: row.get(1)?,
                run: row.get(2)?,
                endpoint,
                attempts: row.get(3)?,
            };
            Ok::<_, rusqlite::Error>(Some((row.get::<_, i64>(4)?, place)))
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
                "UPDATE postrider_deliveries SET state = 2, due = ?4, fence = ?5 \
                 WHERE event = ?1 AND place = ?2 AND run = ?3",
            )?
            .execute(params![place.event, place.place, place.run, until.as_millis(), fence])?;
        let event = self
            .connection
            .prepare_cached(&format!(
                "SELECT {EVENT_COLUMNS} FROM postrider_events WHERE seq = ?1"
            ))?
            .query_row([place.event], row::envelope)?;
        match event {
            Ok(event) => Ok(Some(Lease {
                delivery: DeliveryId::new(endpoint.clone(), event.id().clone()).with_run(place.run),
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
}
