//! How fast something may go.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Most deliveries in a second, a minute or an hour: `100/s`, `30/m`, `10/h`.
///
/// Kept smoothly: at 100/s, at most ten come in any tenth of a second beyond those that are due. What
/// had to wait does not catch up by going faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    deliveries: NonZeroU32,
    per: Unit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Second,
    Minute,
    Hour,
}

impl Unit {
    fn seconds(self) -> u64 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3_600,
        }
    }
}

/// A text that is no rate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidRate {
    found: String,
}

impl fmt::Display for InvalidRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected a rate such as 100/s, 30/m or 10/h, found {:?}", self.found)
    }
}

impl std::error::Error for InvalidRate {}

impl Rate {
    /// So many deliveries a second.
    pub fn per_second(deliveries: NonZeroU32) -> Self {
        Self { deliveries, per: Unit::Second }
    }

    /// So many deliveries a minute.
    pub fn per_minute(deliveries: NonZeroU32) -> Self {
        Self { deliveries, per: Unit::Minute }
    }

    /// The slower of the two.
    pub(crate) fn slower(self, other: Self) -> Self {
        let an_hour = |rate: Self| {
            u64::from(rate.deliveries.get()) * (Unit::Hour.seconds() / rate.per.seconds())
        };
        if an_hour(other) < an_hour(self) { other } else { self }
    }

    /// How long `deliveries` take at this rate.
    pub(crate) fn time_of(self, deliveries: usize) -> Duration {
        let micros = u128::from(self.per.seconds()) * 1_000_000 * deliveries as u128;
        let micros = micros.div_ceil(u128::from(self.deliveries.get()));
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    /// How many deliveries may come at once: those of a tenth of a second, at least one.
    pub(crate) fn at_once(self) -> usize {
        let tenths = self.per.seconds() * 10;
        usize::try_from(u64::from(self.deliveries.get()) / tenths).unwrap_or(usize::MAX).max(1)
    }
}

impl FromStr for Rate {
    type Err = InvalidRate;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = || {
            let (deliveries, unit) = text.split_once('/')?;
            let per = match unit.trim() {
                "s" => Unit::Second,
                "m" => Unit::Minute,
                "h" => Unit::Hour,
                _ => return None,
            };
            Some(Self { deliveries: deliveries.trim().parse().ok()?, per })
        };
        read().ok_or_else(|| InvalidRate { found: text.chars().take(64).collect() })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.per {
            Unit::Second => 's',
            Unit::Minute => 'm',
            Unit::Hour => 'h',
        };
        write!(f, "{}/{unit}", self.deliveries)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_prints_back() {
        for text in ["100/s", "30/m", "1/h", "4294967295/s"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        for text in ["", "100", "0/s", "-1/s", "1.5/s", "1/d", "/s", "4294967296/s"] {
            assert!(text.parse::<Rate>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_slower_of_two() {
        let check = |one: &str, other: &str, slower: &str| {
            let (one, other): (Rate, Rate) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!(one.slower(other).to_string(), slower);
            assert_eq!(other.slower(one).to_string(), slower);
        };
        check("1/s", "59/m", "59/m");
        check("1/s", "61/m", "1/s");
        check("4294967295/s", "4294967295/h", "4294967295/h");
        check("2/m", "119/h", "119/h");
    }

    #[test]
    fn what_is_made_at_once_takes_a_tenth_of_a_second_or_is_one() {
        let check = |text: &str, at_once: usize, millis: u64| {
            let rate: Rate = text.parse().unwrap();
            assert_eq!(rate.at_once(), at_once, "{text}");
            assert_eq!(rate.time_of(at_once), Duration::from_millis(millis), "{text}");
        };
        check("100/s", 10, 100);
        check("1000/s", 100, 100);
        check("4/s", 1, 250);
        check("30/m", 1, 2_000);
        check("1/h", 1, 3_600_000);
        check("36000/h", 1, 100);
    }
}
