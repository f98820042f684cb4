//! Sending past events again, and setting dead letters aside.

use postrider::delivery::DeliveryId;
use postrider::store::{Note, Purged, RUNS_MAX, Replayed, Target};
use postrider::{EventId, Timestamp};
use rusqlite::{OptionalExtension, params};

use super::lanes::Effect;
use super::work::{DELIVERY_BYTES, Done, Work};

/// The newest delivery of an event to an endpoint.
struct Newest {
    event: i64,
    place: i64,
    run: u32,
    state: i64,
}

/// What a target names.
enum Named {
    /// No event that is known.
    Nothing,
    /// An event, and the delivery where there is one.
    Event(i64, Option<Newest>),
}

impl Work<'_> {
    pub(super) fn replay(
        &mut self,
        targets: &[Target],
        note: Option<&Note>,
        now: Timestamp,
    ) -> Done<Vec<Replayed>> {
        self.now = now;
        if let Err(error) = Target::check_count(targets) {
            return Ok(Err(error));
        }
        if let Some(note) = note
            && let Err(full) = self.check_note(note)?
        {
            return Ok(Err(full));
        }
        // What is asked for stays while room is made for it.
        let events: Vec<&EventId> = targets.iter().map(|target| &target.event).collect();
        let events = serde_json::to_string(&events).expect("ids are text");
        let bytes = targets.len() as u64 * DELIVERY_BYTES;
        if let Err(full) = self.make_room("replay an event", 0, bytes, &events)? {
            return Ok(Err(full));
        }
        let mut replayed = Vec::with_capacity(targets.len());
        for target in targets {
            replayed.push(self.replay_one(target, now)?);
        }
        if let Some(note) = note {
            self.write_note(note)?;
        }
        Ok(Ok(replayed))
    }

    fn replay_one(&mut self, target: &Target, now: Timestamp) -> rusqlite::Result<Replayed> {
        let (event, newest) = match self.named(target)? {
            Named::Nothing => return Ok(Replayed::Gone),
            Named::Event(_, Some(newest)) if newest.state < 3 => return Ok(Replayed::Owed),
            Named::Event(_, Some(newest)) if newest.run >= RUNS_MAX => {
                return Ok(Replayed::TooOften);
            }
            Named::Event(event, newest) => (event, newest),
        };
        let (place, run) = match newest {
            Some(newest) => {
                self.connection
                    .prepare_cached(
                        "UPDATE postrider_deliveries SET replaced = 1 \
                         WHERE event = ?1 AND place = ?2 AND run = ?3",
                    )?
                    .execute(params![newest.event, newest.place, newest.run])?;
                (newest.place, newest.run + 1)
            }
            None => (self.next_place(event)?, 1),
        };
        let endpoint = self.number(&target.endpoint)?;
        self.connection
            .prepare_cached(
                "INSERT INTO postrider_deliveries \
                 (event, place, run, endpoint, state, due, fence, attempts, replaced) \
                 VALUES (?1, ?2, ?3, ?4, 0, ?5, 0, 0, 0)",
            )?
            .execute(params![event, place, run, endpoint, now.as_millis()])?;
        for no_longer in [
            "DELETE FROM postrider_settled WHERE event = ?1",
            "DELETE FROM postrider_unmatched WHERE event = ?1",
        ] {
            self.connection.prepare_cached(no_longer)?.execute([event])?;
        }
        self.add(0, DELIVERY_BYTES.cast_signed())?;
        self.effects.push(Effect::Owed(target.endpoint.clone()));
        let id = DeliveryId::new(target.endpoint.clone(), target.event.clone());
        Ok(Replayed::Made(id.with_run(run)))
    }

    /// The place of an endpoint to which the event did not go before.
    fn next_place(&self, event: i64) -> rusqlite::Result<i64> {
        self.connection
            .prepare_cached(
                "SELECT ifnull(max(place) + 1, 0) FROM postrider_deliveries WHERE event = ?1",
            )?
            .query_row([event], |row| row.get(0))
    }

    pub(super) fn purge(&mut self, targets: &[Target]) -> Done<Vec<Purged>> {
        if let Err(error) = Target::check_count(targets) {
            return Ok(Err(error));
        }
        let mut purged = Vec::with_capacity(targets.len());
        for target in targets {
            purged.push(match self.named(target)? {
                Named::Event(_, Some(newest)) if matches!(newest.state, 4 | 5) => {
                    self.connection
                        .prepare_cached(
                            "UPDATE postrider_deliveries SET state = 6 \
                             WHERE event = ?1 AND place = ?2 AND run = ?3",
                        )?
                        .execute(params![newest.event, newest.place, newest.run])?;
                    Purged::Done
                }
                Named::Event(_, Some(_)) => Purged::NotDead,
                Named::Event(_, None) | Named::Nothing => Purged::Gone,
            });
        }
        Ok(Ok(purged))
    }

    fn named(&self, target: &Target) -> rusqlite::Result<Named> {
        // A place that no store of ours has counted to.
        let Ok(event) = i64::try_from(target.place.number()) else { return Ok(Named::Nothing) };
        let is_known = self
            .connection
            .prepare_cached("SELECT 1 FROM postrider_events WHERE seq = ?1 AND id = ?2")?
            .exists(params![event, target.event.encode(&mut [0; 36])])?;
        if !is_known {
            return Ok(Named::Nothing);
        }
        let Some(endpoint) = self.find_number(&target.endpoint)? else {
            return Ok(Named::Event(event, None));
        };
        let newest = self
            .connection
            .prepare_cached(
                "SELECT place, run, state FROM postrider_deliveries \
                 WHERE event = ?1 AND endpoint = ?2 AND replaced = 0",
            )?
            .query_row([event, endpoint], |row| {
                Ok(Newest { event, place: row.get(0)?, run: row.get(1)?, state: row.get(2)? })
            })
            .optional()?;
        Ok(Named::Event(event, newest))
    }
}
