//! The counters of one endpoint: bars over three windows, totals, and what came last.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::Window;
use super::latency::{self, Latency};
use crate::codec::{Decoded, Malformed, Put, Take};
use crate::delivery::{AttemptRecord, Cause, Decision};
use crate::time::Timestamp;

/// Bars kept beyond those of a window: what a clock that jumped ahead wrote takes their place, and
/// not that of younger ones.
const SPARE_BARS: usize = 4;
/// How much of a failure's description is kept, in bytes.
const MESSAGE_BYTES_MAX: usize = 200;

/// What a bar counts, by number: these, then failures by cause, failed answers by the class of their
/// status, and attempts by latency.
const SUCCEEDED: u8 = 0;
const DEAD: u8 = 1;
const EXPIRED: u8 = 2;
/// Plus [`Cause::code`], from 1.
const CAUSES: u8 = 15;
/// Plus the hundreds of the status, 1 to 9.
const STATUSES: u8 = 47;
const LATENCIES: u8 = 64;

/// The counters of one endpoint. A bar in which nothing happened takes no memory; one in which
/// something did takes 8 bytes for each thing that it counts, about 100 bytes in all. At most 76
/// bars are kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    totals: Totals,
    last_attempt: Option<Timestamp>,
    last_success: Option<Timestamp>,
    last_failure: Option<LastFailure>,
    /// By window; each oldest first.
    bars: [VecDeque<Slot>; 3],
}

/// One bar.
#[derive(Clone, Debug, Default, PartialEq)]
struct Slot {
    /// Its number since 1970.
    number: i64,
    /// By what is counted, in ascending order.
    counts: Vec<(u8, u32)>,
}

/// What was counted since the first attempt ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Totals {
    /// Attempts that succeeded, each of which ended a delivery.
    pub succeeded: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Deliveries given up.
    pub dead: u64,
    /// Deliveries whose deadline passed.
    pub expired: u64,
}

/// The attempt that failed last.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LastFailure {
    /// When it started.
    pub at: Timestamp,
    /// What kind of failure it was.
    pub cause: Cause,
    /// The answer's status, where there was one.
    pub status: Option<u16>,
    /// The failure in words, at most 200 bytes.
    pub message: String,
}

/// What was counted within a window.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Attempts that succeeded, each of which ended a delivery.
    pub succeeded: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Deliveries given up.
    pub dead: u64,
    /// Deliveries whose deadline passed.
    pub expired: u64,
    /// Failed attempts by cause, the most frequent first.
    pub causes: Vec<(Cause, u64)>,
    /// Failed attempts by the class of the status that was answered (5: 500 to 599), the most
    /// frequent first.
    pub status_classes: Vec<(u8, u64)>,
    /// How long attempts took.
    pub latency: Latency,
}

impl Counts {
    /// The share of attempts that succeeded, 0 to 1. `None` without attempts.
    pub fn success_rate(&self) -> Option<f64> {
        let attempts = self.succeeded + self.failed;
        (attempts > 0).then(|| self.succeeded as f64 / attempts as f64)
    }
}

/// One bar of a chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bar {
    /// When it begins.
    pub from: Timestamp,
    /// Attempts that succeeded.
    pub succeeded: u64,
    /// Attempts that failed.
    pub failed: u64,
}

impl Slot {
    fn add(&mut self, what: u8) {
        match self.counts.binary_search_by_key(&what, |(counted, _)| *counted) {
            Ok(at) => self.counts[at].1 = self.counts[at].1.saturating_add(1),
            Err(at) => self.counts.insert(at, (what, 1)),
        }
    }

    /// Succeeded, failed.
    fn attempts(&self) -> (u64, u64) {
        let mut sums = (0, 0);
        for (what, count) in &self.counts {
            match *what {
                SUCCEEDED => sums.0 += u64::from(*count),
                CAUSES..STATUSES => sums.1 += u64::from(*count),
                _ => {}
            }
        }
        sums
    }
}

impl Series {
    /// Counts the end of an attempt, or of a delivery without one. `now` is when that was, as far as
    /// the store knows; an attempt tells it itself.
    pub fn record(&mut self, attempt: Option<&AttemptRecord>, decision: Decision, now: Timestamp) {
        let at = attempt.map_or(now, |attempt| {
            attempt.at.after(std::time::Duration::from_millis(attempt.took_ms))
        });
        let mut counted = [0_u8; 5];
        let mut len = 0;
        let mut count = |what: u8| {
            counted[len] = what;
            len += 1;
        };
        if let Some(attempt) = attempt {
            self.last_attempt = self.last_attempt.max(Some(attempt.at));
            count(LATENCIES + latency::bucket(attempt.took_ms));
            match attempt.cause {
                None => {
                    count(SUCCEEDED);
                    self.totals.succeeded += 1;
                    self.last_success = self.last_success.max(Some(attempt.at));
                }
                Some(cause) => {
                    count(CAUSES + cause.code());
                    if let Some(class @ 1..=9) = attempt.status.map(|status| status / 100) {
                        count(STATUSES + class as u8);
                    }
                    self.totals.failed += 1;
                    if self.last_failure.as_ref().is_none_or(|last| last.at <= attempt.at) {
                        self.last_failure = Some(LastFailure::of(attempt, cause));
                    }
                }
            }
        }
        match decision {
            Decision::Dead(_) => {
                count(DEAD);
                self.totals.dead += 1;
            }
            Decision::Expired => {
                count(EXPIRED);
                self.totals.expired += 1;
            }
            Decision::Delivered | Decision::RetryAt(_) => {}
        }
        for (window, bars) in Window::ALL.iter().zip(&mut self.bars) {
            let number = at.as_millis().div_euclid(window.bar_millis());
            let slot = slot(bars, number, window.bars() + SPARE_BARS);
            if let Some(slot) = slot {
                counted[..len].iter().for_each(|what| slot.add(*what));
            }
        }
    }

    /// What was counted since the first attempt ever.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Sets the totals, where a store knows them from elsewhere.
    pub fn set_totals(&mut self, totals: Totals) {
        self.totals = totals;
    }

    /// When the newest attempt started.
    pub fn last_attempt(&self) -> Option<Timestamp> {
        self.last_attempt
    }

    /// When the newest attempt that succeeded started.
    pub fn last_success(&self) -> Option<Timestamp> {
        self.last_success
    }

    /// The newest attempt that failed.
    pub fn last_failure(&self) -> Option<&LastFailure> {
        self.last_failure.as_ref()
    }

    /// What was counted within `window` before `now`.
    pub fn window(&self, window: Window, now: Timestamp) -> Counts {
        let mut counts = Counts::default();
        for (what, count) in self.within(window, now).flat_map(|slot| &slot.counts) {
            let count = u64::from(*count);
            match *what {
                SUCCEEDED => counts.succeeded += count,
                DEAD => counts.dead += count,
                EXPIRED => counts.expired += count,
                code @ CAUSES..STATUSES => {
                    counts.failed += count;
                    add(&mut counts.causes, Cause::from_code(code - CAUSES), count);
                }
                class @ STATUSES..LATENCIES => {
                    add(&mut counts.status_classes, class - STATUSES, count);
                }
                bucket @ LATENCIES.. => counts.latency.add(bucket - LATENCIES, count),
                // Nothing is counted by other numbers.
                _ => {}
            }
        }
        counts.causes.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        counts.status_classes.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        counts
    }

    /// The bars of `window` before `now`, the oldest first, [`Window::bars`] of them; the last one
    /// goes on.
    pub fn bars(&self, window: Window, now: Timestamp) -> Vec<Bar> {
        let last = now.as_millis().div_euclid(window.bar_millis());
        let first = last - window.bars() as i64 + 1;
        let from = |number: i64| Timestamp::from_millis(number * window.bar_millis());
        let mut bars: Vec<Bar> = (first..=last)
            .map(|number| Bar { from: from(number), succeeded: 0, failed: 0 })
            .collect();
        for slot in self.within(window, now) {
            let bar = usize::try_from(slot.number - first).ok().and_then(|at| bars.get_mut(at));
            if let Some(bar) = bar {
                (bar.succeeded, bar.failed) = slot.attempts();
            }
        }
        bars
    }

    /// The slots of a window. One bar more than it has, so that the whole of its name is covered.
    fn within(&self, window: Window, now: Timestamp) -> impl Iterator<Item = &Slot> {
        let last = now.as_millis().div_euclid(window.bar_millis());
        let first = last - window.bars() as i64;
        let slots = &self.bars[window as usize];
        slots.iter().filter(move |slot| (first..=last).contains(&slot.number))
    }

    /// Appends the counters as bytes, for [`decode`](Self::decode).
    pub fn encode(&self, out: &mut Vec<u8>) {
        let Totals { succeeded, failed, dead, expired } = self.totals;
        for total in [succeeded, failed, dead, expired] {
            out.put_var(total);
        }
        put_time(out, self.last_attempt);
        put_time(out, self.last_success);
        put_time(out, self.last_failure.as_ref().map(|last| last.at));
        if let Some(last) = &self.last_failure {
            out.put_u8(last.cause.code());
            out.put_u16(last.status.unwrap_or(0));
            out.put_text(&last.message);
        }
        for bars in &self.bars {
            out.put_var(bars.len() as u64);
            let mut before = 0;
            for slot in bars {
                out.put_signed(slot.number - before);
                before = slot.number;
                out.put_var(slot.counts.len() as u64);
                for (what, count) in &slot.counts {
                    out.put_u8(*what);
                    out.put_var(u64::from(*count));
                }
            }
        }
    }

    /// Reads what [`encode`](Self::encode) wrote; `None` where the bytes are not that.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut take = Take::new(bytes);
        Self::take(&mut take).ok().filter(|_| take.rest().is_empty())
    }

    pub(crate) fn take(take: &mut Take<'_>) -> Decoded<Self> {
        let totals = Totals {
            succeeded: take.var()?,
            failed: take.var()?,
            dead: take.var()?,
            expired: take.var()?,
        };
        let last_attempt = take_time(take)?;
        let last_success = take_time(take)?;
        let last_failure = match take_time(take)? {
            None => None,
            Some(at) => Some(LastFailure {
                at,
                cause: Cause::from_code(take.u8()?),
                status: Some(take.u16()?).filter(|status| *status != 0),
                message: take.text()?.to_owned(),
            }),
        };
        let mut bars: [VecDeque<Slot>; 3] = Default::default();
        for bars in &mut bars {
            let mut before = 0_i64;
            for _ in 0..take.count()? {
                let number = before.checked_add(take.signed()?).ok_or(Malformed)?;
                if bars.back().is_some_and(|last: &Slot| last.number >= number) {
                    return Err(Malformed);
                }
                before = number;
                let count = take.count()?;
                let counts = (0..count).map(|_| Ok((take.u8()?, take.var_u32()?)));
                let counts = counts.collect::<Decoded<Vec<_>>>()?;
                if !counts.is_sorted_by(|a, b| a.0 < b.0) {
                    return Err(Malformed);
                }
                bars.push_back(Slot { number, counts });
            }
        }
        Ok(Self { totals, last_attempt, last_success, last_failure, bars })
    }
}

impl LastFailure {
    fn of(attempt: &AttemptRecord, cause: Cause) -> Self {
        let message = &attempt.message;
        let message = &message[..message.floor_char_boundary(MESSAGE_BYTES_MAX)];
        Self { at: attempt.at, cause, status: attempt.status, message: message.to_owned() }
    }
}

/// The bar of this number, made where there is none; `None` where it is older than all that are kept.
fn slot(bars: &mut VecDeque<Slot>, number: i64, bars_max: usize) -> Option<&mut Slot> {
    // Nearly always the newest.
    let mut at = bars.len();
    while at > 0 && bars[at - 1].number > number {
        at -= 1;
    }
    if at > 0 && bars[at - 1].number == number {
        return bars.get_mut(at - 1);
    }
    if bars.len() >= bars_max {
        if at == 0 {
            return None;
        }
        bars.pop_front();
        at -= 1;
    }
    bars.insert(at, Slot { number, counts: Vec::new() });
    bars.get_mut(at)
}

fn add<T: PartialEq>(counts: &mut Vec<(T, u64)>, what: T, count: u64) {
    match counts.iter_mut().find(|(counted, _)| *counted == what) {
        Some((_, sum)) => *sum += count,
        None => counts.push((what, count)),
    }
}

fn put_time(out: &mut Vec<u8>, time: Option<Timestamp>) {
    out.put_u8(u8::from(time.is_some()));
    if let Some(time) = time {
        out.put_signed(time.as_millis());
    }
}

fn take_time(take: &mut Take<'_>) -> Decoded<Option<Timestamp>> {
    Ok(if take.u8()? == 0 { None } else { Some(Timestamp::from_millis(take.signed()?)) })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::delivery::DeadReason;

    const T0: Timestamp = Timestamp::from_millis(1_764_513_045_123);

    fn at(minutes: u64) -> Timestamp {
        T0.after(Duration::from_mins(minutes))
    }

    fn attempt(at: Timestamp, cause: Option<Cause>, status: Option<u16>) -> AttemptRecord {
        let message = if cause.is_some() { "é".repeat(150) } else { String::new() };
        AttemptRecord { number: 1, at, took_ms: 7, cause, message, status, answer: String::new() }
    }

    fn delivered(series: &mut Series, at: Timestamp) {
        series.record(Some(&attempt(at, None, Some(200))), Decision::Delivered, at);
    }

    #[test]
    fn counts_what_happened_in_each_window() {
        let mut series = Series::default();
        delivered(&mut series, at(0));
        let retry = Decision::RetryAt(at(1));
        series.record(Some(&attempt(at(1), Some(Cause::Status), Some(503))), retry, at(1));
        let dead = Decision::Dead(DeadReason::Exhausted);
        series.record(Some(&attempt(at(2), Some(Cause::Timeout), None)), dead, at(2));
        series.record(None, Decision::Expired, at(2));
        for window in Window::ALL {
            let counts = series.window(window, at(3));
            assert_eq!(
                (counts.succeeded, counts.failed, counts.dead, counts.expired),
                (1, 2, 1, 1)
            );
            assert_eq!(counts.causes.len(), 2);
            assert!(counts.causes.contains(&(Cause::Timeout, 1)));
            assert_eq!(counts.status_classes, [(5, 1)]);
            assert_eq!((counts.latency.count(), counts.latency.quantile(0.5)), (3, Some(6)));
            let bars = series.bars(window, at(3));
            assert_eq!(bars.len(), window.bars());
            assert_eq!(bars.iter().map(|bar| bar.succeeded + bar.failed).sum::<u64>(), 3);
        }
        assert_eq!(series.last_attempt(), Some(at(2)));
        assert_eq!(series.last_success(), Some(at(0)));
        let last = series.last_failure().unwrap();
        assert_eq!((last.cause, last.at, last.message.len()), (Cause::Timeout, at(2), 200));
    }

    #[test]
    fn what_is_older_than_a_window_leaves_it_and_stays_in_the_totals() {
        let mut series = Series::default();
        delivered(&mut series, at(0));
        let expect = [(59, [1, 1, 1]), (66, [0, 1, 1]), (24 * 60, [0, 1, 1]), (26 * 60, [0, 0, 1])];
        for (minutes, expect) in expect.into_iter().chain([(7 * 24 * 60 + 361, [0, 0, 0])]) {
            let found = Window::ALL.map(|window| series.window(window, at(minutes)).succeeded);
            assert_eq!(found, expect, "after {minutes} minutes");
        }
        for day in 0..100 {
            delivered(&mut series, at(day * 24 * 60));
        }
        assert_eq!(series.totals().succeeded, 101);
        assert!(series.bars.iter().all(|bars| bars.len() <= 32), "what is kept is bounded");
    }

    /// A clock that jumps ahead for a while must not wipe out what was counted before.
    #[test]
    fn survives_a_clock_that_jumps() {
        let mut series = Series::default();
        for minute in 0..60 {
            delivered(&mut series, at(minute));
        }
        delivered(&mut series, at(60 * 24 * 365));
        delivered(&mut series, at(59));
        delivered(&mut series, Timestamp::MIN);
        delivered(&mut series, Timestamp::MAX);
        assert_eq!(series.window(Window::Hour, at(59)).succeeded, 61);
        assert_eq!(series.totals().succeeded, 64);
    }

    #[test]
    fn reads_back_what_it_wrote_and_nothing_else() {
        let mut series = Series::default();
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..2_000 {
            let at = at(random.u64(..20_000));
            let cause = random.bool().then(|| Cause::from_code(random.u8(1..14)));
            let status = random.bool().then(|| random.u16(100..600));
            series.record(Some(&attempt(at, cause, status)), Decision::Delivered, at);
        }
        let mut bytes = Vec::new();
        series.encode(&mut bytes);
        assert!(bytes.len() < 20_000, "{} bytes", bytes.len());
        assert_eq!(Series::decode(&bytes), Some(series));
        for cut in 0..bytes.len() {
            assert_eq!(Series::decode(&bytes[..cut]), None);
        }
        bytes.push(0);
        assert_eq!(Series::decode(&bytes), None);
    }
}
