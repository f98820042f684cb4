//! How fast a lane may go now: its rate, its breaker, what its receiver asked for, and how many calls
//! have proved to be well.
//!
//! Pure: times are passed in. The worker asks before it claims, says how much it took, and each attempt
//! says how it went.

use std::time::Duration;

use tokio::time::Instant;

use crate::delivery::{Cause, Nack, Outcome, Verdict};
use crate::endpoint::{Breaker, Concurrency, Policy};
use crate::rate::Rate;

/// Longest pause that a receiver can ask for by `Retry-After` or by answering "too many".
pub const PAUSE_ASKED_MAX: Duration = Duration::from_hours(1);
/// First pause after an answer that asks for less without saying for how long; doubled each time.
const SLOW_PAUSE_MIN: Duration = Duration::from_secs(1);
/// Longest such pause.
const SLOW_PAUSE_MAX: Duration = Duration::from_mins(1);
/// By how much the number of calls shrinks after one that was too much.
const SHRINK: f64 = 0.7;
/// A call may take so much longer than the usual before it counts as a sign of too much load.
const SLACK: f64 = 2.0;
/// What is added to that, so that receivers that answer within a millisecond may vary.
const SLACK_MIN: Duration = Duration::from_millis(5);

/// What the worker may do now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum May {
    /// Claim at most so many deliveries.
    Claim(usize),
    /// Nothing before this time.
    NotBefore(Instant),
    /// Nothing before a call has ended.
    AfterACall,
}

/// The state of one lane; small, since every endpoint has one.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// When the next delivery may start by the rate, as if all came evenly; in the past: saved up.
    next_at: Option<Instant>,
    /// Nothing starts before this time.
    paused_until: Option<Instant>,
    /// Whether a single delivery must succeed before others may follow.
    is_probing: bool,
    /// Attempts that failed in a row.
    failures: u32,
    /// Since when every attempt has failed; `None`: the last one did not.
    failing_since: Option<Instant>,
    /// For how long attempts had failed before, in earlier processes.
    failed_before: Duration,
    /// Whether the store was asked for that.
    is_failing_told: bool,
    /// How often it was paused in a row.
    pauses: u32,
    /// Calls that may be under way where that adapts; 0: not begun.
    calls: f32,
    /// The usual time of a call, in seconds; 0: unknown.
    usual: f32,
}

impl Pace {
    /// Calls that may be under way at once.
    pub(crate) fn calls_max(&self, policy: &Policy) -> usize {
        match policy.concurrency {
            Concurrency::Fixed(calls) => calls,
            Concurrency::Adaptive { min, max } => (self.calls as usize).clamp(min, max),
        }
    }

    /// Whether more may be claimed, where `wanted` could be taken and `under_way` calls are.
    pub(crate) fn may(
        &self,
        rate: Option<Rate>,
        wanted: usize,
        under_way: usize,
        now: Instant,
    ) -> May {
        if let Some(until) = self.paused_until(now) {
            return May::NotBefore(until);
        }
        if self.is_probing {
            return if under_way == 0 { May::Claim(1) } else { May::AfterACall };
        }
        let Some(rate) = rate else { return May::Claim(wanted) };
        let Some(next_at) = self.next_at.filter(|next_at| *next_at > now) else {
            let saved = self.next_at.map_or(rate.at_once(), |at| saved(rate, now - at));
            return May::Claim(wanted.min(saved.max(1)));
        };
        May::NotBefore(next_at)
    }

    /// So many deliveries were claimed.
    pub(crate) fn took(&mut self, rate: Option<Rate>, deliveries: usize, now: Instant) {
        let Some(rate) = rate else { return };
        if deliveries == 0 {
            return;
        }
        // What was not used is saved up for as long as comes at once.
        let saved_max = rate.time_of(rate.at_once().saturating_sub(1));
        let oldest = now.checked_sub(saved_max).unwrap_or(now);
        let from = self.next_at.map_or(oldest, |at| at.max(oldest));
        self.next_at = Some(from + rate.time_of(deliveries));
    }

    /// An attempt that took so long has ended. Returns how long the lane pauses, where that is news.
    pub(crate) fn ended(
        &mut self,
        policy: &Policy,
        outcome: &Outcome,
        took: Duration,
        now: Instant,
    ) -> Option<Duration> {
        let Err(nack) = outcome else {
            self.failures = 0;
            self.forgive();
            self.is_failing_told = false;
            self.grow(policy, took);
            // One that began before the pause does not end it.
            if self.paused_until(now).is_none() {
                self.pauses = 0;
                self.is_probing = false;
                self.paused_until = None;
            }
            return None;
        };
        if !is_the_receivers(nack) {
            // It says nothing about the receiver: the next one is the probe.
            return None;
        }
        if nack.slow || nack.cause == Cause::Timeout {
            self.shrink(policy);
        }
        self.failures = self.failures.saturating_add(1);
        self.failing_since.get_or_insert(now);
        let asked = match nack.verdict {
            Verdict::Retry { after } if nack.slow => {
                let own = doubled(SLOW_PAUSE_MIN, self.pauses, SLOW_PAUSE_MAX);
                Some(after.unwrap_or(own).min(PAUSE_ASKED_MAX))
            }
            _ => None,
        };
        let broken = match policy.breaker {
            Some(Breaker { failures, pause, pause_max })
                if self.is_probing || self.failures >= failures =>
            {
                Some(doubled(pause, self.pauses, pause_max))
            }
            _ => None,
        };
        let pause = asked.max(broken).filter(|pause| !pause.is_zero())?;
        // Calls that began before the pause may end in it: they make it no longer.
        let is_news = self.paused_until(now).is_none();
        if !is_news && asked.is_none() {
            return None;
        }
        let until = now + pause;
        self.paused_until = Some(self.paused_until.map_or(until, |before| before.max(until)));
        self.is_probing = true;
        if is_news {
            self.pauses = self.pauses.saturating_add(1);
        }
        is_news.then_some(pause)
    }

    /// For how long every attempt has failed, as far as is known here.
    pub(crate) fn failing_for(&self, now: Instant) -> Option<Duration> {
        self.failing_since.map(|since| now - since + self.failed_before)
    }

    /// Whether to ask the store since when attempts fail; once while they do.
    pub(crate) fn asks_for_failing(&mut self) -> bool {
        self.failing_since.is_some() && !std::mem::replace(&mut self.is_failing_told, true)
    }

    /// Attempts have failed for so long, those of earlier processes included.
    pub(crate) fn fails_for(&mut self, time: Duration, now: Instant) {
        if let Some(since) = self.failing_since {
            self.failed_before = time.saturating_sub(now - since);
        }
    }

    /// What failed so far is forgiven, and not asked for again.
    pub(crate) fn forgive(&mut self) {
        (self.failing_since, self.failed_before) = (None, Duration::ZERO);
        self.is_failing_told = true;
    }

    /// Until when nothing is started.
    pub(crate) fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.paused_until.filter(|until| *until > now)
    }

    fn grow(&mut self, policy: &Policy, took: Duration) {
        let Concurrency::Adaptive { min, max } = policy.concurrency else { return };
        let took = took.as_secs_f32();
        let calls = self.calls.max(min as f32);
        let is_usual =
            self.usual == 0.0 || took <= self.usual * SLACK as f32 + SLACK_MIN.as_secs_f32();
        self.calls = if is_usual {
            // One more for each round of calls that went well.
            (calls + 1.0 / calls).min(max as f32)
        } else {
            (calls - 1.0 / calls).max(min as f32)
        };
        // Follows what gets faster at once, and what gets slower over some hundred calls.
        self.usual = if self.usual == 0.0 || took < self.usual {
            took
        } else {
            self.usual + (took - self.usual) / 256.0
        };
    }

    fn shrink(&mut self, policy: &Policy) {
        if let Concurrency::Adaptive { min, .. } = policy.concurrency {
            self.calls = (self.calls * SHRINK as f32).max(min as f32);
        }
    }
}

/// Whether the failure is the receiver's, and not the event's or the application's.
fn is_the_receivers(nack: &Nack) -> bool {
    !matches!(nack.cause, Cause::Format | Cause::Refresh) && nack.verdict != Verdict::Reject
}

/// Deliveries that the rate has saved up in this time, at most those that may come at once.
fn saved(rate: Rate, time: Duration) -> usize {
    let each = rate.time_of(1).as_nanos().max(1);
    let saved = usize::try_from(time.as_nanos() / each).unwrap_or(usize::MAX).saturating_add(1);
    saved.min(rate.at_once())
}

/// `first`, doubled for each of `times`, at most `max`.
fn doubled(first: Duration, times: u32, max: Duration) -> Duration {
    first.saturating_mul(1_u32.checked_shl(times).unwrap_or(u32::MAX)).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::Ack;

    const SECOND: Duration = Duration::from_secs(1);
    const QUICK: Duration = Duration::from_millis(1);

    fn failed() -> Outcome {
        Err(Nack::retry(Cause::Connect, "refused"))
    }

    fn slow(after: Option<Duration>) -> Outcome {
        let nack = Nack::retry(Cause::Status, "answered 429").slow();
        Err(match after {
            Some(after) => nack.after(after),
            None => nack,
        })
    }

    #[test]
    fn a_rate_lets_through_what_it_says_and_saves_up_a_tenth_of_a_second() {
        let policy = Policy { rate: Some("100/s".parse().unwrap()), ..Policy::default() };
        let (mut pace, start) = (Pace::default(), Instant::now());
        let mut let_through = 0;
        // Asked every millisecond for ten seconds.
        for millis in 0..10_000 {
            let now = start + Duration::from_millis(millis);
            if let May::Claim(count) = pace.may(policy.rate, 1_000, 0, now) {
                pace.took(policy.rate, count, now);
                let_through += count;
                assert!(count <= 10, "{count} at once");
            }
        }
        assert!((1_000..=1_010).contains(&let_through), "{let_through}");
        // Idle for a minute: no more than ten at once after it.
        let now = start + 70 * SECOND;
        assert_eq!(pace.may(policy.rate, 1_000, 0, now), May::Claim(10));
        pace.took(policy.rate, 10, now);
        assert_eq!(pace.may(policy.rate, 1_000, 0, now), May::NotBefore(now + SECOND / 100));
    }

    #[test]
    fn a_slow_rate_lets_one_through_at_a_time() {
        let policy = Policy { rate: Some("30/m".parse().unwrap()), ..Policy::default() };
        let (mut pace, start) = (Pace::default(), Instant::now());
        assert_eq!(pace.may(policy.rate, 9, 0, start), May::Claim(1));
        pace.took(policy.rate, 1, start);
        assert_eq!(pace.may(policy.rate, 9, 0, start), May::NotBefore(start + 2 * SECOND));
        assert_eq!(pace.may(policy.rate, 9, 0, start + 2 * SECOND), May::Claim(1));
        // A batch that took more than is due is waited for.
        pace.took(policy.rate, 5, start + 2 * SECOND);
        assert_eq!(
            pace.may(policy.rate, 9, 0, start + 3 * SECOND),
            May::NotBefore(start + 12 * SECOND)
        );
    }

    #[test]
    fn the_breaker_opens_probes_with_one_and_waits_longer_each_time() {
        let breaker = Breaker::new(3, SECOND, 5 * SECOND);
        let policy = Policy { breaker: Some(breaker), ..Policy::default() };
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        assert_eq!(pace.ended(&policy, &failed(), QUICK, now), None);
        assert_eq!(pace.ended(&policy, &failed(), QUICK, now), None);
        assert_eq!(pace.may(policy.rate, 9, 1, now), May::Claim(9));
        assert_eq!(pace.ended(&policy, &failed(), QUICK, now), Some(SECOND));
        // Those that were under way too.
        assert_eq!(pace.ended(&policy, &failed(), QUICK, now), None);
        for pause in [1, 2, 4, 5, 5] {
            assert_eq!(pace.may(policy.rate, 9, 0, now), May::NotBefore(now + pause * SECOND));
            now += pause * SECOND;
            assert_eq!(pace.may(policy.rate, 9, 0, now), May::Claim(1));
            assert_eq!(pace.may(policy.rate, 9, 1, now), May::AfterACall);
            assert!(pace.ended(&policy, &failed(), QUICK, now).is_some());
        }
        now += 5 * SECOND;
        assert_eq!(pace.ended(&policy, &Ok(Ack::new()), QUICK, now), None);
        assert_eq!(pace.may(policy.rate, 9, 5, now), May::Claim(9));
        assert_eq!(pace.ended(&policy, &failed(), QUICK, now), None, "it counts anew");
    }

    #[test]
    fn what_is_wrong_with_an_event_opens_no_breaker() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let policy = Policy::default();
        for _ in 0..1_000 {
            let rejected = Err(Nack::reject(Cause::Status, "answered 400"));
            assert_eq!(pace.ended(&policy, &rejected, QUICK, now), None);
            let format = Err(Nack::retry(Cause::Format, "no"));
            assert_eq!(pace.ended(&policy, &format, QUICK, now), None);
        }
        assert_eq!(pace.may(policy.rate, 9, 0, now), May::Claim(9));
    }

    #[test]
    fn a_receiver_that_asks_for_less_pauses_its_lane_as_long_as_it_says() {
        let policy = Policy { breaker: None, ..Policy::default() };
        let check = |after: Option<u64>, expect: u32| {
            let (mut pace, now) = (Pace::default(), Instant::now());
            let asked = slow(after.map(Duration::from_secs));
            assert_eq!(pace.ended(&policy, &asked, QUICK, now), Some(expect * SECOND));
            assert_eq!(pace.may(policy.rate, 9, 0, now), May::NotBefore(now + expect * SECOND));
        };
        check(None, 1);
        check(Some(30), 30);
        check(Some(86_400), 3_600);
        // Without a time: longer each time, up to a minute.
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        for expect in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(pace.ended(&policy, &slow(None), QUICK, now), Some(expect * SECOND));
            now += expect * SECOND;
        }
        // A longer wish that comes in a pause lengthens it.
        pace.ended(&policy, &slow(Some(10 * SECOND)), QUICK, now);
        assert_eq!(pace.ended(&policy, &slow(Some(20 * SECOND)), QUICK, now), None);
        assert_eq!(pace.may(policy.rate, 9, 0, now), May::NotBefore(now + 20 * SECOND));
    }

    #[test]
    fn adaptive_calls_grow_while_answers_are_quick_and_shrink_when_they_are_not() {
        let concurrency = Concurrency::Adaptive { min: 2, max: 50 };
        let policy = Policy { concurrency, ..Policy::default() };
        let (mut pace, now) = (Pace::default(), Instant::now());
        assert_eq!(pace.calls_max(&policy), 2);
        for _ in 0..5_000 {
            pace.ended(&policy, &Ok(Ack::new()), 10 * QUICK, now);
        }
        assert_eq!(pace.calls_max(&policy), 50);
        pace.ended(&policy, &Err(Nack::retry(Cause::Timeout, "timeout")), SECOND, now);
        assert_eq!(pace.calls_max(&policy), 35);
        for _ in 0..200 {
            pace.ended(&policy, &Ok(Ack::new()), 100 * QUICK, now);
        }
        let slower = pace.calls_max(&policy);
        assert!((2..35).contains(&slower), "{slower}");
        for _ in 0..100 {
            pace.ended(&policy, &slow(None), QUICK, now);
        }
        assert_eq!(pace.calls_max(&policy), 2);
    }
}
