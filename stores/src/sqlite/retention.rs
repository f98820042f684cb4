//! What is held, and what goes to make room.

use postrider::{Error, ErrorKind, Timestamp};
use rusqlite::OptionalExtension;

use super::lanes::Effect;
use super::tables::SPAN_EVENTS;
use super::work::{DELIVERY_BYTES, Done, Work};

/// What is held against the limits, and the `seq` of the newest event ever.
pub(super) struct Totals {
    events: u64,
    bytes: u64,
    pub(super) accepted: i64,
}

impl Work<'_> {
    /// Evicts what is settled, the first settled first, until so many more fit; not an event whose id
    /// is in `spared`, a JSON array. Where that is not enough nothing goes. `what` reads after
    /// "failed to ".
    pub(super) fn make_room(
        &mut self,
        what: &str,
        events: u64,
        bytes: u64,
        spared: &str,
    ) -> Done<()> {
        if (events, bytes) == (0, 0) {
            return Ok(Ok(()));
        }
        self.connection.execute_batch("SAVEPOINT make_room")?;
        loop {
            let held = self.totals()?;
            if held.events + events <= self.limits.events_max
                && held.bytes + bytes <= self.limits.bytes_max
            {
                break;
            }
            if !self.evict_first(None, spared)? {
                self.connection.execute_batch("ROLLBACK TO make_room; RELEASE make_room")?;
                return Ok(Err(Error::new(
                    ErrorKind::Full,
                    format!(
                        "{what}: {} events of {} bytes are held and all are still owed \
                         (limits events_max = {}, bytes_max = {})",
                        held.events, held.bytes, self.limits.events_max, self.limits.bytes_max
                    ),
                )));
            }
        }
        self.connection.execute_batch("RELEASE make_room")?;
        Ok(Ok(()))
    }

    /// Notes when the events from `first` to `last` were accepted.
    pub(super) fn note_spans(&self, first: i64, last: i64, now: Timestamp) -> rusqlite::Result<()> {
        if first > last {
            return Ok(());
        }
        for span in first / SPAN_EVENTS..=last / SPAN_EVENTS {
            self.connection
                .prepare_cached(
                    "INSERT INTO postrider_spans VALUES (?1, ?2, ?2) ON CONFLICT (span) DO UPDATE \
                     SET oldest = min(oldest, ?2), newest = max(newest, ?2)",
                )?
                .execute([span, now.as_millis()])?;
        }
        Ok(())
    }

    /// Puts an event that owes nothing any more at the end of those that may go.
    pub(super) fn note_settled(&mut self, event: i64) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached("INSERT INTO postrider_settled (event) VALUES (?1)")?
            .execute([event])?;
        self.effects.push(Effect::Room);
        Ok(())
    }

    /// Drops events whose retention has passed, at most `max`.
    pub(super) fn sweep(&mut self, now: Timestamp, max: usize) -> rusqlite::Result<()> {
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
        // What attempts and replays have added to the event.
        let added: i64 = self
            .connection
            .prepare_cached(
                "SELECT (SELECT ifnull(sum(octet_length(message) + octet_length(answer)), 0) \
                 FROM postrider_attempts WHERE event = ?1) \
                 + ?2 * (SELECT count(*) FROM postrider_deliveries WHERE event = ?1 AND run > 0)",
            )?
            .query_row([event, DELIVERY_BYTES.cast_signed()], |row| row.get(0))?;
        bytes += added;
        for (delete, key) in [
            ("DELETE FROM postrider_settled WHERE place = ?1", place),
            ("DELETE FROM postrider_attempts WHERE event = ?1", event),
            ("DELETE FROM postrider_deliveries WHERE event = ?1", event),
            ("DELETE FROM postrider_unmatched WHERE event = ?1", event),
            ("DELETE FROM postrider_events WHERE seq = ?1", event),
        ] {
            self.connection.prepare_cached(delete)?.execute([key])?;
        }
        self.connection
            .prepare_cached(
                "DELETE FROM postrider_spans WHERE span = ?1 AND NOT EXISTS \
                 (SELECT 1 FROM postrider_events WHERE seq >= ?1 * ?2 AND seq < (?1 + 1) * ?2)",
            )?
            .execute([event / SPAN_EVENTS, SPAN_EVENTS])?;
        self.add(-1, -bytes)?;
        Ok(true)
    }

    pub(super) fn add(&mut self, events: i64, bytes: i64) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached("UPDATE postrider_totals SET events = events + ?1, bytes = bytes + ?2")?
            .execute([events, bytes])?;
        Ok(())
    }

    pub(super) fn totals(&self) -> rusqlite::Result<Totals> {
        self.connection
            .prepare_cached("SELECT events, bytes, accepted FROM postrider_totals")?
            .query_row([], |row| {
                let (events, bytes): (i64, i64) = (row.get(0)?, row.get(1)?);
                Ok(Totals {
                    events: events.cast_unsigned(),
                    bytes: bytes.cast_unsigned(),
                    accepted: row.get(2)?,
                })
            })
    }
}
