//! Event type names: plain (`match`) or dotted (`model.uploaded`).

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest type name, in bytes.
pub const TYPE_BYTES_MAX: usize = 128;

/// What kind of fact an event is: the name that endpoints ask for.
///
/// 1 to 128 bytes: segments of ASCII letters, digits, `_`, `-`, `:` or `/`, joined by single dots.
/// Names under `postrider.` belong to the bus itself and cannot be published.
#[derive(Clone)]
pub struct EventType(Repr);

#[derive(Clone)]
enum Repr {
    Static(&'static str),
    Shared(Arc<str>),
}

/// A type name that does not follow the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidEventType {
    found: String,
}

impl fmt::Display for InvalidEventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "expected an event type such as \"match\" or \"model.uploaded\" (letters, digits, _ - : / \
             in segments joined by dots, at most {TYPE_BYTES_MAX} bytes), found {:?}",
            self.found
        )
    }
}

impl std::error::Error for InvalidEventType {}

impl EventType {
    /// A name known at compile time.
    ///
    /// # Panics
    /// If the name breaks the rules; in a `const` that is a compile error.
    pub const fn from_static(name: &'static str) -> Self {
        assert!(is_valid(name), "not a valid event type name");
        Self(Repr::Static(name))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Repr::Static(name) => name,
            Repr::Shared(name) => name,
        }
    }

    /// Whether the name belongs to the bus: `postrider` or below it.
    pub fn is_reserved(&self) -> bool {
        let name = self.as_str();
        name == "postrider" || name.starts_with("postrider.")
    }
}

/// The rule, as a `const fn` so that typed events are checked when they are compiled.
const fn is_valid(name: &str) -> bool {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() > TYPE_BYTES_MAX {
        return false;
    }
    let mut at = 0;
    let mut segment_is_empty = true;
    while at < bytes.len() {
        match bytes[at] {
            b'.' if segment_is_empty => return false,
            b'.' => segment_is_empty = true,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b':' | b'/' => {
                segment_is_empty = false;
            }
            _ => return false,
        }
        at += 1;
    }
    !segment_is_empty
}

impl FromStr for EventType {
    type Err = InvalidEventType;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        if is_valid(name) {
            Ok(Self(Repr::Shared(name.into())))
        } else {
            Err(InvalidEventType { found: name.chars().take(TYPE_BYTES_MAX + 1).collect() })
        }
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl PartialEq for EventType {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for EventType {}

impl PartialOrd for EventType {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for EventType {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl Hash for EventType {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl Borrow<str> for EventType {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl Serialize for EventType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for EventType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let check = |name: &str, expect: bool| {
            assert_eq!(name.parse::<EventType>().is_ok(), expect, "{name:?}");
        };
        check("match", true);
        check("model.uploaded", true);
        check("com.github.pull_request.opened", true);
        check("orders/create", true);
        check("a", true);
        check(&"x".repeat(TYPE_BYTES_MAX), true);
        check(&"x".repeat(TYPE_BYTES_MAX + 1), false);
        check("", false);
        check(".", false);
        check("a.", false);
        check(".a", false);
        check("a..b", false);
        check("a b", false);
        check("*", false);
        check("model.*", false);
        check("m\u{f6}del", false);
    }

    #[test]
    fn reserved() {
        let check = |name: &str, expect: bool| {
            assert_eq!(name.parse::<EventType>().unwrap().is_reserved(), expect, "{name:?}");
        };
        check("postrider", true);
        check("postrider.delivery.dead", true);
        check("postriders", false);
        check("match", false);
    }
}
