//! What ends or lengthens a lease.

use postrider::Timestamp;
use postrider::delivery::{Decision, DeliveryId};
use postrider::store::{ATTEMPTS_KEPT_MAX, Fence, Settled, Settlement};
use rusqlite::{OptionalExtension, params};

use super::lanes::Effect;
use super::row;
use super::work::{Done, Found, Work};

impl Work<'_> {
    /// The row of a lease, where it is the newest of its delivery.
    fn leased(&self, delivery: &DeliveryId, fence: Fence) -> rusqlite::Result<Option<Found>> {
        self.connection
            .prepare_cached(
                "SELECT event, place, run, endpoint, attempts FROM postrider_deliveries \
                 WHERE event = (SELECT seq FROM postrider_events WHERE id = ?1) \
                 AND endpoint = (SELECT number FROM postrider_endpoints WHERE id = ?2) \
                 AND run = ?3 AND state = 2 AND fence = ?4",
            )?
            .query_row(
                params![
                    delivery.event().encode(&mut [0; 36]),
                    delivery.endpoint().as_str(),
                    delivery.run(),
                    fence.0.cast_signed()
                ],
                |row| {
                    Ok(Found {
                        event: row.get(0)?,
                        place: row.get(1)?,
                        run: row.get(2)?,
                        endpoint: row.get(3)?,
                        attempts: row.get(4)?,
                    })
                },
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
                    "UPDATE postrider_deliveries SET due = ?4 \
                     WHERE event = ?1 AND place = ?2 AND run = ?3",
                )?
                .execute(params![place.event, place.place, place.run, until.as_millis()])?;
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
                     (SELECT accepted_at FROM postrider_events WHERE seq = ?1) ELSE ?4 END \
                     WHERE event = ?1 AND place = ?2 AND run = ?3",
                )?
                .execute(params![
                    place.event,
                    place.place,
                    place.run,
                    Timestamp::MIN.as_millis()
                ])?;
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
        self.count(place.endpoint, settlement)?;
        let (state, due, reason) = match settlement.decision {
            Decision::RetryAt(due) => (1, Some(due.as_millis()), None),
            Decision::Delivered => (3, Some(0), None),
            Decision::Dead(reason) => (4, None, Some(row::name(&reason)?)),
            Decision::Expired => (5, None, None),
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
                 SET state = ?4, reason = ?6, attempts = ?7, fence = 0, due = ifnull(?5, \
                 (SELECT accepted_at FROM postrider_events WHERE seq = ?1)) \
                 WHERE event = ?1 AND place = ?2 AND run = ?3",
            )?
            .execute(params![place.event, place.place, place.run, state, due, reason, made])?;
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
                "INSERT INTO postrider_attempts VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            )?
            .execute(params![
                place.event,
                place.place,
                place.run,
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
                 WHERE event = ?1 AND place = ?2 AND run = ?3 AND made = ?4 AND made > 1 \
                 RETURNING octet_length(message) + octet_length(answer)",
            )?
            .query_row(
                params![
                    place.event,
                    place.place,
                    place.run,
                    i64::from(made) - ATTEMPTS_KEPT_MAX as i64 + 1
                ],
                |row| row.get(0),
            )
            .optional()?;
        bytes -= dropped.unwrap_or_default();
        self.add(0, bytes)
    }
}
