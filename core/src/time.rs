//! Wall-clock time as the bus keeps it: whole milliseconds since the Unix epoch.
//!
//! Pure: nothing here reads a clock. Whoever needs "now" is handed one (see [`crate::clock`]).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in time: milliseconds since 1970-01-01T00:00:00Z, without leap seconds.
///
/// Prints and parses as RFC 3339 in UTC with exactly three decimals, `2025-11-30T14:30:45.123Z`:
/// the form that the webhook body carries. Years -9999 to 9999 print; arithmetic saturates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The first instant that can be printed, `-9999-01-02T01:59:59.000Z`.
    pub const MIN: Self = Self(-377_705_023_201_000);
    /// The last instant that can be printed, `9999-12-30T22:00:00.000Z`.
    pub const MAX: Self = Self(253_402_207_200_000);

    /// From milliseconds since the Unix epoch; outside [`MIN`](Self::MIN)..=[`MAX`](Self::MAX) is
    /// clamped.
    pub const fn from_millis(millis: i64) -> Self {
        if millis < Self::MIN.0 {
            Self::MIN
        } else if millis > Self::MAX.0 {
            Self::MAX
        } else {
            Self(millis)
        }
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down: what `webhook-timestamp` carries.
    pub const fn as_seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// This time plus `duration`, at most [`MAX`](Self::MAX).
    pub fn after(self, duration: Duration) -> Self {
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self::from_millis(self.0.saturating_add(millis))
    }

    /// How long after `earlier` this is; zero where it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(time) => write!(f, "{time:.3}"),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

/// A time that is not RFC 3339.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseTimestampError(String);

impl fmt::Display for ParseTimestampError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected a time such as 2025-11-30T14:30:45.123Z, found {:?}", self.0)
    }
}

impl std::error::Error for ParseTimestampError {}

impl FromStr for Timestamp {
    type Err = ParseTimestampError;

    /// Reads RFC 3339 with any offset; digits past the millisecond are cut.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let time: jiff::Timestamp =
            text.parse().map_err(|_| ParseTimestampError(text.chars().take(64).collect()))?;
        Ok(Self::from_millis(time.as_nanosecond().div_euclid(1_000_000) as i64))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_three_decimals_and_z() {
        let check = |millis: i64, text: &str| {
            assert_eq!(Timestamp::from_millis(millis).to_string(), text);
            assert_eq!(text.parse::<Timestamp>(), Ok(Timestamp::from_millis(millis)));
        };
        check(1_764_513_045_123, "2025-11-30T14:30:45.123Z");
        check(1_764_513_045_000, "2025-11-30T14:30:45.000Z");
        check(0, "1970-01-01T00:00:00.000Z");
        check(-1, "1969-12-31T23:59:59.999Z");
    }

    #[test]
    fn reads_offsets_and_cuts_digits() {
        let check = |text: &str, millis: i64| {
            assert_eq!(text.parse::<Timestamp>().map(Timestamp::as_millis), Ok(millis), "{text}");
        };
        check("2025-11-30T15:30:45.123987+01:00", 1_764_513_045_123);
        check("1969-12-31T23:59:59.9991Z", -1);
        assert!("yesterday".parse::<Timestamp>().is_err());
    }

    #[test]
    fn saturates_at_both_ends() {
        assert_eq!(Timestamp::MAX.after(Duration::MAX), Timestamp::MAX);
        assert!(Timestamp::MAX.to_string().starts_with("9999-12-30"));
        assert!(Timestamp::MIN.to_string().starts_with("-009999-01-02"));
        assert_eq!(Timestamp::MIN.since(Timestamp::MAX), Duration::ZERO);
    }
}
