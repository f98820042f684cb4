//! What was published and what receivers saw: the promises of `docs/DELIVERY.md`, checked as things
//! happen. The first that is broken is kept.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use postrider::endpoint::Order;
use postrider::sink::Attempt;
use postrider::{EventId, Timestamp};
use tokio::time::Instant;

use super::plan::{Place, Plan, place_number};

/// How late an attempt may be where nothing holds it up: its turn behind others of its lane.
const PROMPT: Duration = Duration::from_secs(2);
/// A settlement older than this is on the disk: written within 50 ms and synced a second later.
pub(crate) const DURABLE_AFTER: Duration = Duration::from_millis(1_200);

/// What its publisher was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Nothing, or an error after which it may be there.
    Unknown,
    Accepted,
    /// It is not there.
    Refused,
}

/// An event.
#[derive(Debug)]
pub(crate) struct Published {
    /// `None` until anybody told.
    pub(crate) id: Option<EventId>,
    pub(crate) has_own_id: bool,
    pub(crate) kind: &'static str,
    pub(crate) key: Option<&'static str>,
    pub(crate) payload: String,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) answer: Answer,
    /// When it was accepted, by the wall clock, or somewhat earlier.
    pub(crate) accepted_at: Timestamp,
    pub(crate) accepted: Option<Instant>,
    /// The turns of [`Inner::turn`] in which it was published and its receipt came.
    pub(crate) asked: u64,
    pub(crate) told: Option<u64>,
    /// The numbers of the endpoints on its receipt.
    pub(crate) places: Vec<usize>,
}

/// How an attempt ended, as its receiver knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    UnderWay,
    /// The engine dropped the call: its time was over, or the bus was shut down.
    BrokenOff,
    Acked,
    Failed,
    /// It said something after which there is no further attempt.
    Last,
}

/// The newest attempt of a delivery.
#[derive(Debug)]
struct Newest {
    number: u32,
    life: u32,
    end: End,
    ended: Timestamp,
    ended_in_life: Instant,
    /// When the next one is due after its end, at least and at most; `None`: there is none.
    delay: Option<(Duration, Duration)>,
    /// A crash may have forgotten it.
    may_be_lost: bool,
    /// [`Inner::jumps_back`] when it began.
    jumps_back: u32,
}

/// What receivers saw of a delivery.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) calls: u32,
    pub(crate) was_acked: bool,
    pub(crate) was_rejected: bool,
    pub(crate) was_gone: bool,
    pub(crate) was_exhausted: bool,
    newest: Option<Newest>,
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    inner: Mutex<Inner>,
}

#[derive(Default)]
pub(crate) struct Inner {
    life: u32,
    /// The process is gone; what its futures do while they are dropped means nothing.
    is_dead: bool,
    /// Faults are over: every receiver takes everything over, the store does what it is told.
    pub(crate) is_calm: bool,
    /// The store failed or was slow in this life.
    pub(crate) has_store_failed: bool,
    /// How often the clock has jumped back.
    pub(crate) jumps_back: u32,
    calls: usize,
    /// Publishing and receipts, counted.
    pub(crate) turn: u64,
    pub(crate) events: Vec<Published>,
    pub(crate) seen: BTreeMap<(usize, usize), Seen>,
    broken: Option<String>,
    pub(crate) attempts: u64,
}

impl Inner {
    pub(crate) fn breaks(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    /// These events are about to be published, one after the other.
    pub(crate) fn ask(&mut self, numbers: &[usize]) {
        for number in numbers {
            self.turn += 1;
            self.events[*number].asked = self.turn;
        }
    }

    /// Whether an event may be tried where an order is kept: what was accepted before it, and belongs
    /// to the same line, must have ended.
    fn check_order(&self, number: usize, place: &Place) -> Result<(), String> {
        let this = &self.events[number];
        let is_same_line = |other: &Published| match place.order {
            Order::All => true,
            Order::Key => this.key.is_some() && this.key == other.key,
            _ => false,
        };
        let owed_before = |(other, event): (usize, &Published)| {
            // One with a deadline may have ended without having been seen.
            let is_before = event.told.is_some_and(|told| told < this.asked)
                && event.expires_at.is_none()
                && event.places.contains(&place.number);
            let has_ended = || {
                let seen = self.seen.get(&(other, place.number));
                seen.is_some_and(|seen| {
                    seen.was_acked || seen.was_rejected || seen.was_gone || seen.was_exhausted
                })
            };
            (is_before && is_same_line(event) && !has_ended()).then_some(other)
        };
        match self.events.iter().enumerate().find_map(owed_before) {
            Some(first) => {
                let seen = self.seen.get(&(first, place.number));
                Err(format!("event {first} comes before it, and is still owed: {seen:?}"))
            }
            None => Ok(()),
        }
    }

    pub(crate) fn seen(&mut self, key: (usize, usize)) -> &mut Seen {
        self.seen.entry(key).or_default()
    }
}

/// The number of an event, which its payload begins with.
pub(crate) fn event_number(payload: &str) -> Option<usize> {
    let digits = payload.strip_prefix(r#"{"n":"#)?;
    digits[..digits.find(',')?].parse().ok()
}

impl World {
    pub(crate) fn new(plan: Plan) -> Self {
        Self { plan, inner: Mutex::default() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds this lock")
    }

    /// # Errors
    /// The first promise that was broken.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.lock().broken.clone().map_or(Ok(()), Err)
    }

    pub(crate) fn begin_life(&self) {
        let mut inner = self.lock();
        inner.life += 1;
        (inner.is_dead, inner.calls, inner.has_store_failed) = (false, 0, false);
    }

    /// The process crashes, now.
    pub(crate) fn crash(&self) {
        let mut inner = self.lock();
        inner.is_dead = true;
        let (life, has_store_failed) = (inner.life, inner.has_store_failed);
        let now = Instant::now();
        for seen in inner.seen.values_mut() {
            if let Some(newest) = &mut seen.newest {
                let is_fresh =
                    newest.life == life && now.duration_since(newest.ended_in_life) < DURABLE_AFTER;
                newest.may_be_lost |= is_fresh || newest.end == End::UnderWay || has_store_failed;
            }
        }
    }

    /// The process ended in good order.
    pub(crate) fn end_life(&self) {
        let mut inner = self.lock();
        inner.is_dead = true;
        if inner.calls > 0 {
            inner.breaks("a shutdown left calls under way".to_owned());
        }
        if inner.has_store_failed {
            // Its last settlements may have failed.
            for seen in inner.seen.values_mut() {
                if let Some(newest) = &mut seen.newest {
                    newest.may_be_lost = true;
                }
            }
        }
    }

    /// Notes the beginning of a call with these attempts; returns the key of each.
    pub(crate) fn begin(&self, place: &Place, batch: &[Attempt]) -> Vec<(usize, usize)> {
        let mut inner = self.lock();
        inner.calls += 1;
        if inner.calls > self.plan.in_flight_max {
            let calls = inner.calls;
            inner.breaks(format!("{calls} calls under way"));
        }
        let mut keys = Vec::with_capacity(batch.len());
        for attempt in batch {
            inner.attempts += 1;
            match inner.begin_one(place, attempt) {
                Ok(key) => keys.push(key),
                Err(what) => {
                    let (delivery, number) = (&attempt.delivery, attempt.number);
                    inner.breaks(format!("{delivery}, attempt {number}: {what}"));
                    keys.push((usize::MAX, place.number));
                }
            }
        }
        keys
    }

    /// Notes how an attempt of the newest call ended.
    fn end(&self, key: (usize, usize), end: End, now: Timestamp, wished: Duration, place: &Place) {
        let mut inner = self.lock();
        if inner.is_dead {
            return;
        }
        let seen = inner.seen(key);
        let Some(newest) = &mut seen.newest else { return };
        newest.delay = place.delay(newest.number, wished);
        newest.end = end;
        newest.ended = now;
        newest.ended_in_life = Instant::now();
        match end {
            End::Acked => seen.was_acked = true,
            End::Failed | End::BrokenOff if newest.delay.is_none() => seen.was_exhausted = true,
            _ => {}
        }
    }

    pub(crate) fn ack(&self, key: (usize, usize), now: Timestamp, place: &Place) {
        self.end(key, End::Acked, now, Duration::ZERO, place);
    }

    pub(crate) fn fail(
        &self,
        key: (usize, usize),
        now: Timestamp,
        wished: Duration,
        place: &Place,
    ) {
        self.end(key, End::Failed, now, wished, place);
    }

    pub(crate) fn break_off(&self, key: (usize, usize), now: Timestamp, place: &Place) {
        self.end(key, End::BrokenOff, now, Duration::ZERO, place);
    }

    pub(crate) fn give_up(
        &self,
        key: (usize, usize),
        is_gone: bool,
        now: Timestamp,
        place: &Place,
    ) {
        self.end(key, End::Last, now, Duration::ZERO, place);
        let mut inner = self.lock();
        if !inner.is_dead {
            let seen = inner.seen(key);
            seen.was_gone |= is_gone;
            seen.was_rejected |= !is_gone;
        }
    }

    pub(crate) fn end_call(&self) {
        let mut inner = self.lock();
        if !inner.is_dead {
            inner.calls -= 1;
        }
    }
}

impl Inner {
    fn begin_one(&mut self, place: &Place, attempt: &Attempt) -> Result<(usize, usize), String> {
        if self.is_dead {
            return Err("a process that has ended makes it".to_owned());
        }
        if place_number(attempt.delivery.endpoint()) != Some(place.number) {
            return Err("it is somebody else's".to_owned());
        }
        let (event, life) = (&attempt.event, self.life);
        let number = event_number(event.payload_str());
        let published = number.and_then(|number| self.events.get_mut(number));
        let Some(published) = published else {
            return Err(format!("nobody published {}", event.payload_str()));
        };
        let id = published.id.get_or_insert_with(|| event.id().clone());
        let is_same = event.payload_str() == published.payload
            && event.event_type().as_str() == published.kind
            && event.id() == id
            && event.expires_at() == published.expires_at;
        if !is_same {
            return Err(format!("published was {published:?}"));
        }
        if published.answer == Answer::Refused {
            return Err("its publisher was told that it is not accepted".to_owned());
        }
        if published.expires_at.is_some_and(|deadline| attempt.now >= deadline) {
            return Err("its deadline has passed".to_owned());
        }
        let accepted = published.accepted;
        self.check_order(number.expect("it was found by it"), place)?;
        // Then the clock is made to jump, and time in another life is no limit.
        let is_prompt = place.is_prompt && !self.is_calm && life == 1;
        let key = (number.expect("it was found by it"), place.number);
        let seen = self.seen.entry(key).or_default();
        seen.calls += 1;
        let found = match &seen.newest {
            Some(newest) => check_again(newest, life, is_prompt, attempt, self.jumps_back),
            None if attempt.number != 1 => Err("it is the first".to_owned()),
            None => check_prompt(accepted.filter(|_| is_prompt)),
        };
        seen.newest = Some(Newest {
            number: attempt.number,
            life,
            end: End::UnderWay,
            ended: attempt.now,
            ended_in_life: Instant::now(),
            delay: None,
            may_be_lost: false,
            jumps_back: self.jumps_back,
        });
        found.map(|()| key)
    }
}

fn check_prompt(accepted: Option<Instant>) -> Result<(), String> {
    match accepted.map(|accepted| accepted.elapsed()) {
        Some(waited) if waited > PROMPT => Err(format!("it begins {waited:?} after its receipt")),
        _ => Ok(()),
    }
}

/// Whether an attempt may follow the newest one so far.
fn check_again(
    newest: &Newest,
    life: u32,
    is_prompt: bool,
    attempt: &Attempt,
    jumps_back: u32,
) -> Result<(), String> {
    let is_counted = attempt.number == newest.number + 1;
    if !is_counted {
        if attempt.number > newest.number {
            return Err(format!("the one before was {}", newest.number));
        }
        // What a crash forgot is made again.
        if newest.may_be_lost {
            return Ok(());
        }
        let was_broken_off = matches!(newest.end, End::UnderWay | End::BrokenOff);
        return if attempt.number == newest.number && newest.life != life && was_broken_off {
            Ok(())
        } else {
            Err(format!("made again, without a crash, after {newest:?} (this is life {life})"))
        };
    }
    match newest.end {
        End::UnderWay if newest.life == life => return Err("the one before goes on".to_owned()),
        End::UnderWay | End::BrokenOff | End::Failed => {}
        End::Acked => return Err("delivered already".to_owned()),
        End::Last => return Err("given up already".to_owned()),
    }
    let Some((least, most)) = newest.delay else {
        // The process went while the attempt did, and told nobody how it ended.
        return match newest.end {
            End::UnderWay => Err("the one before is counted, and never ended".to_owned()),
            _ => Err("the schedule was used up".to_owned()),
        };
    };
    // A millisecond is lost where times are cut to whole ones.
    let waited = attempt.now.after(Duration::from_millis(1)).since(newest.ended);
    // One that was due, and claimed, may begin when the clock has just jumped back.
    if waited < least && newest.jumps_back == jumps_back {
        return Err(format!("due after {least:?}, made after {waited:?}: {newest:?}"));
    }
    if is_prompt && waited > most + PROMPT {
        return Err(format!("due after {most:?} at most, made after {waited:?}"));
    }
    Ok(())
}
