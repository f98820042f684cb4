//! Values as people write them: durations with a unit, sizes with a unit.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration such as `"250ms"`, `"10s"`, `"5m"`, `"2h"`, `"7d"`, or a sum of them (`"1h 30m"`).
///
/// A bare number is refused: it has no unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HumanDuration(pub Duration);

/// A size in bytes: a number, or text such as `"64KiB"`, `"10MB"`, `"1GiB"`.
///
/// `k`, `M`, `G` with `B` are powers of 1000, with `iB` powers of 1024.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// A text that is no duration or size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidValue {
    expected: &'static str,
    found: String,
}

impl fmt::Display for InvalidValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}, found {:?}", self.expected, self.found)
    }
}

impl std::error::Error for InvalidValue {}

const DURATION_EXPECTED: &str = "a duration with a unit, such as \"10s\", \"5m\" or \"1h 30m\"";
const SIZE_EXPECTED: &str = "a size in bytes, such as 65536, \"64KiB\" or \"10MB\"";

/// Splits off a leading decimal number (`1`, `1.5`).
fn number(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

impl FromStr for HumanDuration {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = || {
            let mut rest = text.trim();
            let mut total = Duration::ZERO;
            loop {
                let (digits, after) = number(rest)?;
                let after = after.trim_start();
                let end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
                let seconds_each = match &after[..end] {
                    "ms" => 0.001,
                    "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
                    "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
                    "h" | "hour" | "hours" => 3600.0,
                    "d" | "day" | "days" => 86400.0,
                    _ => return None,
                };
                let seconds = digits.parse::<f64>().ok()? * seconds_each;
                total = total.checked_add(Duration::try_from_secs_f64(seconds).ok()?)?;
                rest = after[end..].trim_start();
                if rest.is_empty() {
                    return Some(Self(total));
                }
            }
        };
        read().ok_or_else(|| InvalidValue {
            expected: DURATION_EXPECTED,
            found: text.chars().take(64).collect(),
        })
    }
}

/// The shortest exact spelling: `90s`, `5m`, `1500ms`.
impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let text = match millis {
            0 => "0s".to_owned(),
            _ if millis.is_multiple_of(86_400_000) => format!("{}d", millis / 86_400_000),
            _ if millis.is_multiple_of(3_600_000) => format!("{}h", millis / 3_600_000),
            _ if millis.is_multiple_of(60_000) => format!("{}m", millis / 60_000),
            _ if millis.is_multiple_of(1_000) => format!("{}s", millis / 1_000),
            _ => format!("{millis}ms"),
        };
        f.pad(&text)
    }
}

impl FromStr for ByteSize {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = || {
            let (digits, unit) = number(text.trim())?;
            let each: u64 = match unit.trim() {
                "" | "B" => 1,
                "kB" | "KB" => 1_000,
                "MB" => 1_000_000,
                "GB" => 1_000_000_000,
                "KiB" => 1 << 10,
                "MiB" => 1 << 20,
                "GiB" => 1 << 30,
                _ => return None,
            };
            if let Ok(whole) = digits.parse::<u64>() {
                return whole.checked_mul(each).map(Self);
            }
            let bytes = digits.parse::<f64>().ok()? * each as f64;
            (bytes < u64::MAX as f64).then_some(Self(bytes as u64))
        };
        read().ok_or_else(|| InvalidValue {
            expected: SIZE_EXPECTED,
            found: text.chars().take(64).collect(),
        })
    }
}

/// The shortest exact spelling: `64KiB`, `1000B`.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            0 => "0B".to_owned(),
            n if n % (1 << 30) == 0 => format!("{}GiB", n >> 30),
            n if n % (1 << 20) == 0 => format!("{}MiB", n >> 20),
            n if n % (1 << 10) == 0 => format!("{}KiB", n >> 10),
            n => format!("{n}B"),
        };
        f.pad(&text)
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = HumanDuration;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(DURATION_EXPECTED)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<HumanDuration, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberOrText;
        impl Visitor<'_> for NumberOrText {
            type Value = ByteSize;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(SIZE_EXPECTED)
            }
            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(bytes))
            }
            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
                u64::try_from(bytes)
                    .map(ByteSize)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(bytes), &self))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(NumberOrText)
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for HumanDuration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }
    fn inline_schema() -> bool {
        true // Bounds stand beside the type.
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "x-type": "duration",
            "description": "A duration with a unit: ms, s, m, h, d; sums such as \"1h 30m\" are allowed.",
            "examples": ["10s", "5m", "1h 30m"],
        })
    }
}

impl JsonSchema for ByteSize {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }
    fn inline_schema() -> bool {
        true // Bounds stand beside the type.
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "integer"],
            "x-type": "size",
            "minimum": 0,
            "description": "A size in bytes: a number, or text with a unit: kB, MB, GB, KiB, MiB, GiB.",
            "examples": [65536, "64KiB", "10MB"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let check = |text: &str, expect: Option<u64>| {
            let found = text.parse::<HumanDuration>().ok().map(|d| d.0.as_millis() as u64);
            assert_eq!(found, expect, "{text:?}");
        };
        check("250ms", Some(250));
        check("10s", Some(10_000));
        check("1.5s", Some(1_500));
        check("5 m", Some(300_000));
        check("1h 30m", Some(5_400_000));
        check("7d", Some(604_800_000));
        check("0s", Some(0));
        for text in ["", "10", "s", "-1s", "1.2.3s", "10x", "1h30", "99999999999999999999d"] {
            check(text, None);
        }
    }

    #[test]
    fn sizes() {
        let check = |text: &str, expect: Option<u64>| {
            assert_eq!(text.parse::<ByteSize>().ok().map(|s| s.0), expect, "{text:?}");
        };
        check("65536", Some(65536));
        check("64KiB", Some(65536));
        check("1.5 MiB", Some(1_572_864));
        check("10MB", Some(10_000_000));
        for text in ["", "KiB", "-1", "10XB", "99999999999999999999", "99999999999GiB"] {
            check(text, None);
        }
    }

    #[test]
    fn print_back() {
        for text in ["0s", "10s", "90s", "5m", "2h", "7d", "1500ms"] {
            assert_eq!(text.parse::<HumanDuration>().unwrap().to_string(), text);
        }
        for text in ["64KiB", "1GiB", "1000B"] {
            assert_eq!(text.parse::<ByteSize>().unwrap().to_string(), text);
        }
    }
}
