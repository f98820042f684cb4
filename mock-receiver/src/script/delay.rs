//! How long an answer waits.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest delay of an answer.
pub(crate) const DELAY_MAX: Duration = Duration::from_mins(10);

/// How long to wait before an answer, once its request is complete; what comes out is cut to
/// 10 minutes.
///
/// As JSON, in the `delay` of an answer: `{"kind":"uniform","min_ms":10,"max_ms":50}`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Delay {
    /// Always the same.
    Fixed {
        /// Milliseconds.
        ms: u64,
    },
    /// Anything between two bounds, all equally likely.
    Uniform {
        /// Milliseconds, the least.
        min_ms: u64,
        /// Milliseconds, the most.
        max_ms: u64,
    },
    /// Around a mean, as a bell (normal distribution); never below zero.
    Normal {
        /// Milliseconds.
        mean_ms: f64,
        /// Standard deviation in milliseconds.
        deviation_ms: f64,
    },
    /// Mostly near a minimum and now and then very long (Pareto distribution).
    Pareto {
        /// Milliseconds, the least.
        min_ms: f64,
        /// How light the tail is: 1 is very heavy, 3 light. Above zero.
        shape: f64,
    },
}

impl Delay {
    /// One sample.
    pub(crate) fn sample(&self, random: &mut fastrand::Rng) -> Duration {
        let ms = match *self {
            Self::Fixed { ms } => return Duration::from_millis(ms).min(DELAY_MAX),
            Self::Uniform { min_ms, max_ms } => {
                min_ms as f64 + random.f64() * max_ms.saturating_sub(min_ms) as f64
            }
            Self::Normal { mean_ms, deviation_ms } => {
                // Box and Muller; 1 - f64() is never zero.
                let radius = (-2.0 * (1.0 - random.f64()).ln()).sqrt();
                mean_ms + deviation_ms * radius * (std::f64::consts::TAU * random.f64()).cos()
            }
            Self::Pareto { min_ms, shape } => min_ms / (1.0 - random.f64()).powf(1.0 / shape),
        };
        let max = DELAY_MAX.as_secs_f64();
        let secs = if ms.is_finite() { (ms / 1e3).clamp(0.0, max) } else { max };
        Duration::from_secs_f64(secs)
    }

    /// The error names the key.
    pub(crate) fn check(&self) -> Result<(), String> {
        let max = DELAY_MAX.as_millis() as f64;
        let within = |name: &str, ms: f64| {
            (0.0..=max)
                .contains(&ms)
                .then_some(())
                .ok_or_else(|| format!("{name}: 0 to {max}, found {ms}"))
        };
        match *self {
            Self::Fixed { ms } => within("ms", ms as f64),
            Self::Uniform { min_ms, max_ms } => {
                within("max_ms", max_ms as f64)?;
                if min_ms > max_ms {
                    return Err(format!("min_ms: at most max_ms ({max_ms}), found {min_ms}"));
                }
                Ok(())
            }
            Self::Normal { mean_ms, deviation_ms } => {
                within("mean_ms", mean_ms)?;
                within("deviation_ms", deviation_ms)
            }
            Self::Pareto { min_ms, shape } => {
                within("min_ms", min_ms)?;
                if shape > 0.0 { Ok(()) } else { Err(format!("shape: above 0, found {shape}")) }
            }
        }
    }
}

/// A fixed delay.
impl From<Duration> for Delay {
    fn from(delay: Duration) -> Self {
        Self::Fixed { ms: delay.min(DELAY_MAX).as_millis() as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_follow_their_distribution_and_their_seed() {
        let samples = |delay: Delay| {
            let mut random = fastrand::Rng::with_seed(7);
            let mut all: Vec<_> = (0..10_001).map(|_| delay.sample(&mut random)).collect();
            let first = all[0];
            all.sort_unstable();
            (first, all[0].as_millis(), all[5_000].as_millis(), all[10_000].as_millis())
        };
        let (_, least, median, most) = samples(Delay::Uniform { min_ms: 10, max_ms: 110 });
        assert!(
            least >= 10 && (57..=63).contains(&median) && most <= 110,
            "{least} {median} {most}"
        );
        let bell = Delay::Normal { mean_ms: 100.0, deviation_ms: 10.0 };
        let (_, least, median, most) = samples(bell);
        assert!((50..80).contains(&least) && (99..=101).contains(&median), "{least} {median}");
        assert!((120..150).contains(&most), "{most}");
        let (_, least, median, most) = samples(Delay::Pareto { min_ms: 10.0, shape: 1.2 });
        assert!(
            least == 10 && (16..=19).contains(&median) && most > 1_000,
            "{least} {median} {most}"
        );
        assert_eq!(samples(bell).0, samples(bell).0, "the seed decides");
        let cut = Delay::Pareto { min_ms: 500_000.0, shape: 0.001 };
        assert!(samples(cut).3 <= DELAY_MAX.as_millis());
    }

    #[test]
    fn what_is_no_delay_names_its_key() {
        for (delay, key) in [
            (Delay::Fixed { ms: 600_001 }, "ms"),
            (Delay::Uniform { min_ms: 2, max_ms: 1 }, "min_ms"),
            (Delay::Normal { mean_ms: -1.0, deviation_ms: 1.0 }, "mean_ms"),
            (Delay::Normal { mean_ms: 1.0, deviation_ms: f64::NAN }, "deviation_ms"),
            (Delay::Pareto { min_ms: 1.0, shape: 0.0 }, "shape"),
        ] {
            assert!(delay.check().expect_err(key).starts_with(key), "{delay:?}");
        }
    }
}
