//! The transactional outbox: events that commit with an application's own rows, in the
//! application's own database.
//!
//! The outbox takes the event only. Whom it goes to is decided by the routes of the bus, when a
//! running [`relay`] publishes it there with the id that it got in the outbox; then the relay removes
//! it. That the application's transaction would need the routes, and would promise endpoints that a
//! configuration has changed since, is avoided; so is a second way into the store.
//!
//! A crash between any two steps loses and doubles nothing:
//!
//! | it stops | what is there | what follows |
//! |---|---|---|
//! | before the application's commit | nothing | the event never was |
//! | after the commit | the event in the outbox | the next relay publishes it |
//! | after the bus accepted it | the event in both | it is published again, is known by its id, and is removed |
//!
//! The last row needs a store with dedup, and a relay that is back within its window. Where bus and
//! outbox share one SQLite file it does not occur: the commit that accepts the event removes it from
//! the outbox.

use std::time::Duration;

use async_trait::async_trait;
use postrider::event::NewEvent;
use postrider::{Bus, Error};

/// Most events that a relay publishes in one write.
pub const RELAY_EVENTS_MAX: usize = 256;

/// How long a relay waits after a failure, at first and at most.
const WAIT_MIN: Duration = Duration::from_millis(50);
const WAIT_MAX: Duration = Duration::from_secs(5);
/// How long a relay waits for a change before it asks whether the bus is shut down.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// An event that waits in an outbox.
#[derive(Debug)]
pub struct Pending {
    /// Names it in its outbox for good; a place is never used twice.
    pub place: i64,
    /// The event with its id, or why it cannot be read.
    pub event: Result<NewEvent, Error>,
}

/// A table of events in an application's database. How an event gets into it is each database's own
/// affair; only what has been committed is seen here.
#[async_trait]
pub trait Outbox: Send + Sync {
    /// The first events, in the order in which they were written, at most `max`. Those that were
    /// refused are left out.
    ///
    /// # Errors
    /// `Store`.
    async fn pending(&self, max: usize) -> Result<Vec<Pending>, Error>;

    /// Removes events that a bus has accepted. Removing one again is well.
    ///
    /// # Errors
    /// `Store`; they are then moved again, which is safe.
    async fn done(&self, places: &[i64]) -> Result<(), Error>;

    /// Sets an event aside that the bus can never accept, with the reason, to be looked at.
    ///
    /// # Errors
    /// `Store`.
    async fn refuse(&self, place: i64, reason: &str) -> Result<(), Error>;

    /// Returns when `pending` may find more than at its last call; may return too often. One caller
    /// at a time: relays of one outbox open it once each.
    ///
    /// # Cancel safety
    /// Safe: a change that was not told is told by the next call.
    async fn changed(&self);
}

/// Moves events from an outbox to a bus until the bus is shut down. Run it as a task; any number of
/// relays, in any number of processes, may serve one outbox, each having opened it itself.
///
/// Events keep their order as far as one relay moves them. While the bus is full or a database fails,
/// they stay where they are and the relay tries again, waiting 50 ms at first and 5 s at most. An
/// event that the bus refuses for good is set aside in the outbox, and said as an error in the log.
///
/// # Cancel safety
/// May be dropped at any moment: see the table above.
pub async fn relay(outbox: &dyn Outbox, bus: &Bus) {
    let mut wait = WAIT_MIN;
    loop {
        match step(outbox, bus).await {
            Ok(moved) => {
                wait = WAIT_MIN;
                if moved == 0 {
                    // A limit that passes is a reason to look as well.
                    drop(tokio::time::timeout(IDLE_MAX, outbox.changed()).await);
                }
            }
            Err(error) if error.is_closed() => return,
            Err(error) => {
                tracing::warn!(error = error.chain(), ?wait, "outbox not moved; trying again");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(WAIT_MAX);
            }
        }
    }
}

/// Moves some events; tells how many were looked at.
async fn step(outbox: &dyn Outbox, bus: &Bus) -> Result<usize, Error> {
    let moved = publish(outbox, bus, RELAY_EVENTS_MAX).await;
    if !moved.as_ref().is_err_and(Error::is_invalid) {
        return moved;
    }
    // One of them cannot be accepted, or they are too many together: one by one.
    let mut moved = 0;
    while moved < RELAY_EVENTS_MAX && publish(outbox, bus, 1).await? > 0 {
        moved += 1;
    }
    Ok(moved)
}

async fn publish(outbox: &dyn Outbox, bus: &Bus, max: usize) -> Result<usize, Error> {
    let pending = outbox.pending(max).await?;
    let found = pending.len();
    let mut places = Vec::with_capacity(found);
    let mut events = Vec::with_capacity(found);
    for pending in pending {
        match pending.event {
            Ok(event) => {
                places.push(pending.place);
                events.push(event);
            }
            Err(error) => refuse(outbox, pending.place, &error).await?,
        }
    }
    // Without events too: a bus that is shut down says so.
    match bus.publish_all(events).await {
        Ok(_) if places.is_empty() => {}
        Ok(_) => outbox.done(&places).await?,
        Err(error) if error.is_invalid() && max == 1 => refuse(outbox, places[0], &error).await?,
        Err(error) => return Err(error),
    }
    Ok(found)
}

async fn refuse(outbox: &dyn Outbox, place: i64, error: &Error) -> Result<(), Error> {
    let reason = error.chain();
    tracing::error!(place, reason, "an event of the outbox was refused; it is kept there");
    outbox.refuse(place, &reason).await
}
