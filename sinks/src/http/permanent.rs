//! Statuses after which no attempt makes sense.

use std::borrow::Cow;
use std::fmt;

use http::StatusCode;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};

const EXPECTED: &str =
    "a status from 300 to 599, such as 400, or a class, \"3xx\", \"4xx\" or \"5xx\"";

/// A status or a class of them: `400`, `"4xx"`. Neither 2xx, which is a success, nor 1xx, which is
/// no answer yet, can be named.
///
/// ```
/// use http::StatusCode;
/// use postrider_sinks::http::Statuses;
///
/// let class: Statuses = serde_json::from_str("\"4xx\"")?;
/// assert!(class.covers(StatusCode::NOT_FOUND));
/// assert!(!class.covers(StatusCode::TOO_MANY_REQUESTS));
/// # Ok::<_, serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statuses(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Code(u16),
    /// The first digit.
    Class(u16),
}

impl Statuses {
    /// Whether `status` is meant. A class leaves out what asks for another try by its definition:
    /// 408, 425, 429 and 503; each can be named by itself.
    pub fn covers(self, status: StatusCode) -> bool {
        let code = status.as_u16();
        match self.0 {
            Kind::Code(named) => code == named,
            Kind::Class(class) => code / 100 == class && !matches!(code, 408 | 425 | 429 | 503),
        }
    }

    fn code(code: u64) -> Option<Self> {
        u16::try_from(code).ok().filter(|code| (300..600).contains(code)).map(Kind::Code).map(Self)
    }

    fn parse(text: &str) -> Option<Self> {
        match text {
            "3xx" => Some(Self(Kind::Class(3))),
            "4xx" => Some(Self(Kind::Class(4))),
            "5xx" => Some(Self(Kind::Class(5))),
            _ => Self::code(text.parse().ok()?),
        }
    }
}

impl<'de> Deserialize<'de> for Statuses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;

        impl Visitor<'_> for Read {
            type Value = Statuses;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED)
            }

            fn visit_u64<E: Error>(self, code: u64) -> Result<Statuses, E> {
                Statuses::code(code)
                    .ok_or_else(|| E::invalid_value(Unexpected::Unsigned(code), &self))
            }

            fn visit_i64<E: Error>(self, code: i64) -> Result<Statuses, E> {
                u64::try_from(code)
                    .ok()
                    .and_then(Statuses::code)
                    .ok_or_else(|| E::invalid_value(Unexpected::Signed(code), &self))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Statuses, E> {
                Statuses::parse(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(Read)
    }
}

impl JsonSchema for Statuses {
    fn schema_name() -> Cow<'static, str> {
        "Statuses".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // Bounds hold for numbers, the pattern for texts.
        json_schema!({
            "type": ["integer", "string"],
            "minimum": 300,
            "maximum": 599,
            "pattern": "^[345](xx|[0-9]{2})$",
            "x-type": "status",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_classes() {
        let check = |written: &str, covered: &[u16], others: &[u16]| {
            let statuses: Statuses = serde_json::from_str(written).unwrap();
            for (codes, expect) in [(covered, true), (others, false)] {
                for &code in codes {
                    let status = StatusCode::from_u16(code).unwrap();
                    assert_eq!(statuses.covers(status), expect, "{written} and {code}");
                }
            }
        };
        check("400", &[400], &[401, 500, 499]);
        check("\"400\"", &[400], &[401]);
        check("429", &[429], &[428]);
        check("\"3xx\"", &[300, 308, 399], &[299, 400]);
        check("\"4xx\"", &[400, 404, 422, 499], &[399, 408, 425, 429, 500]);
        check("\"5xx\"", &[500, 501, 599], &[499, 503]);
    }

    #[test]
    fn what_is_neither() {
        for wrong in
            ["200", "299", "600", "-400", "70000", "\"2xx\"", "\"4XX\"", "\"\"", "true", "4.5"]
        {
            let error = serde_json::from_str::<Statuses>(wrong).unwrap_err().to_string();
            assert!(error.contains("300 to 599"), "{wrong}: {error}");
        }
    }
}
