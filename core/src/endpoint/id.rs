//! Endpoint ids.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest endpoint id, in bytes.
pub const ENDPOINT_ID_BYTES_MAX: usize = 64;

/// Names one endpoint for good: deliveries, history and statistics hang on it.
///
/// 1 to 64 ASCII letters, digits, `_` and `-`, for example `my-app` or the guide's `1701234567890`.
/// Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(Arc<str>);

/// An endpoint id with a forbidden character or length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidEndpointId {
    found: String,
}

impl fmt::Display for InvalidEndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "expected an endpoint id of 1 to {ENDPOINT_ID_BYTES_MAX} letters, digits, _ and -, found {:?}",
            self.found
        )
    }
}

impl std::error::Error for InvalidEndpointId {}

impl EndpointId {
    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id that an endpoint without one gets from its name: lower case, runs of other characters
    /// become one `-`. `None` where nothing is left.
    ///
    /// It depends on the name alone, so that it survives restarts and a changed URL.
    pub fn from_name(name: &str) -> Option<Self> {
        let mut id = String::new();
        for c in name.chars() {
            if c.is_ascii_alphanumeric() || c == '_' {
                id.push(c.to_ascii_lowercase());
            } else if !id.is_empty() && !id.ends_with('-') {
                id.push('-');
            }
            if id.len() == ENDPOINT_ID_BYTES_MAX {
                break;
            }
        }
        let id = id.trim_end_matches('-');
        (!id.is_empty()).then(|| Self(id.into()))
    }
}

impl FromStr for EndpointId {
    type Err = InvalidEndpointId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_valid = !text.is_empty()
            && text.len() <= ENDPOINT_ID_BYTES_MAX
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if is_valid {
            Ok(Self(text.into()))
        } else {
            Err(InvalidEndpointId { found: text.chars().take(ENDPOINT_ID_BYTES_MAX + 1).collect() })
        }
    }
}

impl Borrow<str> for EndpointId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Serialize for EndpointId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for EndpointId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_names() {
        let check = |name: &str, expect: Option<&str>| {
            assert_eq!(
                EndpointId::from_name(name).as_ref().map(EndpointId::as_str),
                expect,
                "{name:?}"
            );
        };
        check("My App", Some("my-app"));
        check("  Shop -- Orders! ", Some("shop-orders"));
        check("audit_log", Some("audit_log"));
        check("Zo\u{eb}", Some("zo"));
        check("\u{4e2d}\u{6587}", None);
        check("", None);
        check(&"x".repeat(99), Some(&"x".repeat(ENDPOINT_ID_BYTES_MAX)));
    }

    #[test]
    fn rules() {
        let check = |text: &str, expect: bool| {
            assert_eq!(text.parse::<EndpointId>().is_ok(), expect, "{text:?}");
        };
        check("1701234567890", true);
        check("My_App-2", true);
        check("", false);
        check("a b", false);
        check("a.b", false);
        check(&"x".repeat(ENDPOINT_ID_BYTES_MAX + 1), false);
    }
}
