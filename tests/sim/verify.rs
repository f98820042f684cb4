//! Looking at what the store says, against what was published and what receivers saw.

use fastrand::Rng;
use postrider::Bus;
use postrider::delivery::{DeadReason, State};
use postrider::store::{ATTEMPTS_KEPT_MAX, EventRecord, Store};
use postrider::testing::Disk;

use super::plan::place_number;
use super::run::open_log;
use super::world::{Answer, Inner, World};

/// Looks at one event while things go on.
pub(crate) async fn anything(
    world: &World,
    bus: &Bus,
    rng: &mut Rng,
    disk: &Disk,
) -> Result<(), String> {
    let (number, id) = {
        let inner = world.lock();
        if inner.events.is_empty() {
            return Ok(());
        }
        let number = rng.usize(0..inner.events.len());
        (number, inner.events[number].id.clone())
    };
    let Some(id) = id else { return Ok(()) };
    match bus.event(&id).await {
        Ok(found) => check(&world.lock(), number, found.as_ref(), false),
        Err(_) if disk.failed().is_some() => Ok(()),
        Err(error) => Err(format!("look: {}", error.chain())),
    }
}

/// After everything was delivered: each event is in a final state that fits what was seen.
pub(crate) async fn everything(world: &World, bus: &Bus) -> Result<(), String> {
    let is_calm = world.lock().is_calm;
    let count = world.lock().events.len();
    for number in 0..count {
        let id = world.lock().events[number].id.clone();
        if let Some(id) = id.filter(|_| is_calm) {
            let found = bus.event(&id).await.map_err(|error| error.chain())?;
            check(&world.lock(), number, found.as_ref(), true)?;
        }
    }
    Ok(())
}

/// The same, in a log that is opened once more.
pub(crate) fn reopened(world: &World, disk: &Disk) -> Result<(), String> {
    let log = open_log(disk, 0)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let is_calm = world.lock().is_calm;
    let count = world.lock().events.len();
    for number in 0..count {
        let id = world.lock().events[number].id.clone();
        let Some(id) = id else { continue };
        let found = runtime.block_on(log.event(&id)).map_err(|error| error.chain())?;
        check(&world.lock(), number, found.as_ref(), is_calm)?;
    }
    if is_calm && log.recovery().owed > 0 {
        return Err(format!("owed after all was delivered: {:?}", log.recovery()));
    }
    Ok(())
}

/// Checks an event; with `is_over` nothing may be owed any more.
fn check(
    world: &Inner,
    number: usize,
    found: Option<&EventRecord>,
    is_over: bool,
) -> Result<(), String> {
    let published = &world.events[number];
    let calls = world.seen.range((number, 0)..(number + 1, 0));
    let Some(found) = found else {
        return match published.answer {
            Answer::Accepted => Err(format!("event {number} was accepted and is not there")),
            _ if calls.count() > 0 => Err(format!("event {number} was delivered and is not there")),
            _ => Ok(()),
        };
    };
    if published.answer == Answer::Refused {
        return Err(format!("event {number} was refused and is there"));
    }
    let is_same = found.event.payload_str() == published.payload
        && Some(found.event.id()) == published.id.as_ref()
        && found.event.event_type().as_str() == published.kind;
    if !is_same {
        return Err(format!("event {number} is {:?}, published was {published:?}", found.event));
    }
    let places: Vec<usize> =
        found.deliveries.iter().filter_map(|it| place_number(it.id.endpoint())).collect();
    if published.answer == Answer::Accepted && places != published.places {
        return Err(format!("event {number} goes to {places:?}, promised was {published:?}"));
    }
    if let Some(((_, place), _)) = calls.into_iter().find(|((_, place), _)| !places.contains(place))
    {
        return Err(format!("event {number} was sent to {place}, it goes to {places:?}"));
    }
    for delivery in &found.deliveries {
        let place = place_number(delivery.id.endpoint()).unwrap_or(usize::MAX);
        let seen = world.seen.get(&(number, place));
        let made = delivery.attempts_made;
        let is_told = match delivery.state {
            State::Delivered => seen.is_some_and(|seen| seen.was_acked),
            State::Dead { reason } => seen.is_some_and(|seen| match reason {
                DeadReason::Exhausted => seen.was_exhausted,
                DeadReason::Rejected => seen.was_rejected,
                DeadReason::Gone => seen.was_gone,
                _ => false,
            }),
            State::Expired => published.expires_at.is_some(),
            _ => !is_over,
        };
        if !is_told {
            return Err(format!("{} is {:?}, seen was {seen:?}", delivery.id, delivery.state));
        }
        let kept = delivery.attempts.len();
        if made > seen.map_or(0, |seen| seen.calls)
            || kept != (made as usize).min(ATTEMPTS_KEPT_MAX)
        {
            return Err(format!("{}: {made} attempts, {kept} kept, of {seen:?}", delivery.id));
        }
        let numbers = delivery.attempts.iter().map(|attempt| attempt.number);
        if !numbers.is_sorted() || delivery.attempts.first().is_some_and(|first| first.number != 1)
        {
            return Err(format!("{}: attempts are {:?}", delivery.id, delivery.attempts));
        }
    }
    Ok(())
}
