//! Patterns over event type names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::event::{EventType, TYPE_BYTES_MAX};

/// Which events an endpoint or subscription asks for.
///
/// - an exact type name: `match`, `model.uploaded`;
/// - `*`: every event of the application (not the bus's own `postrider.*`);
/// - `model.*`: `model.` and exactly one more segment;
/// - `model.**`: `model.` and one or more segments.
///
/// A `*` may stand for any whole segment (`*.created`); `**` only at the end. Names under
/// `postrider.` are matched only by patterns that begin with `postrider.`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(Box<str>);

/// A pattern that does not follow the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidPattern {
    found: String,
}

impl fmt::Display for InvalidPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "expected an event type such as \"match\", or a pattern such as \"*\", \"model.*\" or \
             \"model.**\", found {:?}",
            self.found
        )
    }
}

impl std::error::Error for InvalidPattern {}

impl Pattern {
    /// `*`: every event of the application.
    pub fn all() -> Self {
        Self("*".into())
    }

    /// Exactly this type.
    pub fn exact(kind: &EventType) -> Self {
        Self(kind.as_str().into())
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the pattern names one type, without a `*`.
    pub fn is_exact(&self) -> bool {
        !self.0.contains('*')
    }

    /// Whether an event of type `kind` is asked for.
    pub fn matches(&self, kind: &EventType) -> bool {
        let name = kind.as_str();
        if kind.is_reserved() && !self.0.starts_with("postrider") {
            return false;
        }
        if &*self.0 == "*" {
            return true;
        }
        let mut segments = name.split('.');
        for wanted in self.0.split('.') {
            match (wanted, segments.next()) {
                ("**", Some(_)) => return true,
                ("*", Some(_)) => {}
                (wanted, Some(segment)) if wanted == segment => {}
                _ => return false,
            }
        }
        segments.next().is_none()
    }
}

impl FromStr for Pattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || InvalidPattern { found: text.chars().take(TYPE_BYTES_MAX + 1).collect() };
        if text.len() > TYPE_BYTES_MAX {
            return Err(refused());
        }
        // With each `*` read as a letter, a pattern obeys the rules of type names.
        let mut segments = text.split('.').peekable();
        let mut name = Vec::new();
        while let Some(segment) = segments.next() {
            name.push(match segment {
                "*" => "x",
                "**" if segments.peek().is_none() && !name.is_empty() => "x",
                other => other,
            });
        }
        match name.join(".").parse::<EventType>() {
            Ok(_) => Ok(Self(text.into())),
            Err(_) => Err(refused()),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matching() {
        let check = |pattern: &str, name: &str, expect: bool| {
            let pattern: Pattern = pattern.parse().unwrap();
            let name: EventType = name.parse().unwrap();
            assert_eq!(pattern.matches(&name), expect, "{pattern} against {name}");
        };
        check("match", "match", true);
        check("match", "matches", false);
        check("match", "match.made", false);
        check("*", "match", true);
        check("*", "model.uploaded", true);
        check("model.*", "model.uploaded", true);
        check("model.*", "model", false);
        check("model.*", "model.a.b", false);
        check("model.**", "model.a", true);
        check("model.**", "model.a.b.c", true);
        check("model.**", "model", false);
        check("*.created", "order.created", true);
        check("*.created", "order.paid", false);
        check("*.created", "created", false);
        check("a.*.c", "a.b.c", true);
        check("a.*.c", "a.b.d", false);
        check("*", "postrider.delivery.dead", false);
        check("*.*.*", "postrider.delivery.dead", false);
        check("postrider.**", "postrider.delivery.dead", true);
        check("postrider.delivery.dead", "postrider.delivery.dead", true);
    }

    #[test]
    fn rules() {
        let check = |text: &str, expect: bool| {
            assert_eq!(text.parse::<Pattern>().is_ok(), expect, "{text:?}");
        };
        check("*", true);
        check("a.*", true);
        check("a.**", true);
        check("*.*", true);
        check("**", false);
        check("a.**.b", false);
        check("a*", false);
        check("a.b*", false);
        check("", false);
        check("a..b", false);
        check("a b", false);
        check(&"x".repeat(TYPE_BYTES_MAX + 1), false);
    }
}
