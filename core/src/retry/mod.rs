//! When a failed attempt is made again. Pure: times and randomness are passed in.

use std::time::Duration;

/// The delays of the Standard Webhooks specification ("Deliverability and reliability"), after a
/// first attempt at once: 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 10 h.
pub const SCHEDULE_DEFAULT: [Duration; 7] = [
    Duration::from_secs(5),
    Duration::from_mins(5),
    Duration::from_mins(30),
    Duration::from_hours(2),
    Duration::from_hours(5),
    Duration::from_hours(10),
    Duration::from_hours(10),
];
/// Share by which a delay varies unless set.
pub const JITTER_DEFAULT: f64 = 0.2;
/// Most delays in a schedule.
pub const SCHEDULE_LEN_MAX: usize = 100;
/// Longest delay that a schedule may name, and longest that a receiver's `Retry-After` is obeyed.
pub const DELAY_MAX: Duration = Duration::from_hours(720);

/// How often and when failed attempts are made again.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    schedule: Vec<Duration>,
    jitter: f64,
    age_max: Option<Duration>,
}

/// A policy that breaks a rule, in words.
#[derive(Clone, Debug, PartialEq)]
pub struct InvalidPolicy(String);

impl std::fmt::Display for InvalidPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidPolicy {}

impl Policy {
    /// One delay for each further attempt: a schedule of 7 makes at most 8 attempts. `jitter` is
    /// the share by which each delay varies in both directions.
    ///
    /// # Errors
    /// More than 100 delays, a delay above 30 days, a jitter outside 0..=1.
    pub fn new(schedule: Vec<Duration>, jitter: f64) -> Result<Self, InvalidPolicy> {
        if schedule.len() > SCHEDULE_LEN_MAX {
            return Err(InvalidPolicy(format!(
                "expected a schedule of at most {SCHEDULE_LEN_MAX} delays, found {}",
                schedule.len()
            )));
        }
        if let Some(delay) = schedule.iter().find(|delay| **delay > DELAY_MAX) {
            return Err(InvalidPolicy(format!(
                "expected delays of at most 30 days, found {delay:?}"
            )));
        }
        // The range is written so that NaN is refused too.
        if !(0.0..=1.0).contains(&jitter) {
            return Err(InvalidPolicy(format!("expected a jitter of 0 to 1, found {jitter}")));
        }
        Ok(Self { schedule, jitter, age_max: None })
    }

    /// Delays that grow: `first`, then each `factor` times as long as the one before, at most `max`;
    /// `attempts` in all, the first one included.
    ///
    /// # Errors
    /// More than 101 attempts or none, a delay above 30 days, a factor outside 1..=100, a jitter
    /// outside 0..=1.
    pub fn exponential(
        first: Duration,
        factor: f64,
        max: Duration,
        attempts: u32,
        jitter: f64,
    ) -> Result<Self, InvalidPolicy> {
        if !(1.0..=100.0).contains(&factor) {
            return Err(InvalidPolicy(format!("expected a factor of 1 to 100, found {factor}")));
        }
        if attempts == 0 || attempts as usize > SCHEDULE_LEN_MAX + 1 {
            let most = SCHEDULE_LEN_MAX + 1;
            return Err(InvalidPolicy(format!("expected 1 to {most} attempts, found {attempts}")));
        }
        let max = max.min(DELAY_MAX);
        let longest = max.as_secs_f64();
        let delays = (0..attempts as i32 - 1).map(|power| {
            // Compared as numbers: a power may be beyond every duration.
            let delay = first.as_secs_f64() * factor.powi(power);
            if delay < longest { Duration::from_secs_f64(delay) } else { max }
        });
        Self::new(delays.collect(), jitter)
    }

    /// Gives a delivery up rather than try it again so long after its event happened.
    #[must_use]
    pub fn age_max(mut self, age: Option<Duration>) -> Self {
        self.age_max = age;
        self
    }

    /// How long after its event happened a delivery may be tried; `None`: as long as the schedule.
    pub fn oldest(&self) -> Option<Duration> {
        self.age_max
    }

    /// One attempt and no more.
    pub fn never() -> Self {
        Self { schedule: Vec::new(), jitter: 0.0, age_max: None }
    }

    /// The delays between attempts.
    pub fn schedule(&self) -> &[Duration] {
        &self.schedule
    }

    /// The share by which delays vary.
    pub fn jitter(&self) -> f64 {
        self.jitter
    }

    /// Attempts before a delivery is given up.
    pub fn attempts_max(&self) -> u32 {
        self.schedule.len() as u32 + 1
    }

    /// The delay after `made` attempts have failed, or `None` where that was the last one.
    ///
    /// `random` picks the jitter: the same number gives the same delay.
    pub fn delay(&self, made: u32, random: u64) -> Option<Duration> {
        let delay = *self.schedule.get(made.checked_sub(1)? as usize)?;
        // 53 bits make an even fraction of 0..1 in an f64.
        let fraction = (random >> 11) as f64 / (1_u64 << 53) as f64;
        Some(delay.mul_f64(1.0 + self.jitter * (2.0 * fraction - 1.0)))
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self { schedule: SCHEDULE_DEFAULT.to_vec(), jitter: JITTER_DEFAULT, age_max: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_follow_the_schedule_within_the_jitter() {
        let policy = Policy::default();
        for (made, expect) in SCHEDULE_DEFAULT.iter().enumerate() {
            let made = made as u32 + 1;
            assert_eq!(policy.delay(made, 0), Some(expect.mul_f64(0.8)));
            let longest = policy.delay(made, u64::MAX).unwrap();
            assert!(
                longest <= expect.mul_f64(1.2) && longest > expect.mul_f64(1.199),
                "{longest:?}"
            );
        }
        assert_eq!(policy.delay(policy.attempts_max(), 0), None);
        assert_eq!(policy.delay(0, 0), None);
        assert_eq!(policy.delay(u32::MAX, 0), None);
    }

    #[test]
    fn exponential_delays_grow_up_to_their_bound() {
        let seconds = |policy: Policy| -> Vec<u64> {
            policy.schedule().iter().map(Duration::as_secs).collect()
        };
        let policy = |first: u64, factor: f64, max: u64, attempts: u32| {
            let (first, max) = (Duration::from_secs(first), Duration::from_secs(max));
            Policy::exponential(first, factor, max, attempts, 0.0)
        };
        assert_eq!(seconds(policy(1, 2.0, 10, 7).unwrap()), [1, 2, 4, 8, 10, 10]);
        assert_eq!(seconds(policy(5, 1.0, 10, 3).unwrap()), [5, 5]);
        assert!(policy(1, 2.0, 10, 1).unwrap().schedule().is_empty());
        let longest = policy(1, 100.0, u64::MAX, 101).unwrap();
        assert_eq!(longest.schedule().last(), Some(&DELAY_MAX));
        for refused in [policy(1, 0.5, 10, 3), policy(1, f64::NAN, 10, 3), policy(1, 2.0, 10, 0)] {
            assert!(refused.is_err());
        }
    }

    #[test]
    fn refuses_what_makes_no_sense() {
        let check = |schedule: Vec<Duration>, jitter: f64, expect: bool| {
            assert_eq!(Policy::new(schedule, jitter).is_ok(), expect);
        };
        check(vec![], 0.0, true);
        check(vec![DELAY_MAX], 1.0, true);
        check(vec![DELAY_MAX + Duration::from_secs(1)], 0.0, false);
        check(vec![Duration::ZERO; SCHEDULE_LEN_MAX + 1], 0.0, false);
        check(vec![], 1.01, false);
        check(vec![], -0.01, false);
        check(vec![], f64::NAN, false);
    }
}
