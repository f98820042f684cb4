//! Event ids: `UUIDv7` unless the publisher brings its own.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use crate::time::Timestamp;

/// Longest id that a publisher may bring, in bytes.
pub const ID_BYTES_MAX: usize = 128;

/// Names one event for good: the same on every attempt and on every endpoint, so that a receiver
/// can drop duplicates (it travels as `webhook-id`).
///
/// Made by the bus it is a `UUIDv7` (RFC 9562 §5.7), which sorts by time. A publisher may bring any
/// 1 to 128 printable ASCII characters without spaces; publishing one again within the dedup window
/// returns the first receipt.
#[derive(Clone)]
pub struct EventId(Repr);

/// A UUID in its usual spelling is kept as 16 bytes: no allocation, and it hashes fast.
#[derive(Clone)]
enum Repr {
    Uuid(Uuid),
    Text(Arc<str>),
}

/// An id with a forbidden character or length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidEventId {
    found: String,
}

impl fmt::Display for InvalidEventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "expected an id of 1 to {ID_BYTES_MAX} printable ASCII characters without spaces, found {:?}",
            self.found
        )
    }
}

impl std::error::Error for InvalidEventId {}

impl EventId {
    /// A `UUIDv7` for `time` with the given random bits.
    ///
    /// Two ids of one millisecond sort by their random bits, so order within a millisecond is not
    /// told by the id; the store's sequence number tells it.
    pub fn v7(time: Timestamp, random: [u64; 2]) -> Self {
        let mut bytes = [0_u8; 10];
        bytes[..8].copy_from_slice(&random[0].to_le_bytes());
        bytes[8..].copy_from_slice(&random[1].to_le_bytes()[..2]);
        let millis = u64::try_from(time.as_millis()).unwrap_or(0);
        Self(Repr::Uuid(uuid::Builder::from_unix_timestamp_millis(millis, &bytes).into_uuid()))
    }

    /// The id of a UUID in its usual spelling.
    pub(crate) fn from_uuid(uuid: Uuid) -> Self {
        Self(Repr::Uuid(uuid))
    }

    /// The UUID that this id is in its usual spelling, if it is one.
    pub(crate) fn as_uuid(&self) -> Option<&Uuid> {
        match &self.0 {
            Repr::Uuid(uuid) => Some(uuid),
            Repr::Text(_) => None,
        }
    }

    /// The id as it travels. A UUID is written into `buffer`.
    pub fn encode<'a>(&'a self, buffer: &'a mut [u8; 36]) -> &'a str {
        match &self.0 {
            Repr::Uuid(uuid) => uuid.hyphenated().encode_lower(buffer),
            Repr::Text(text) => text,
        }
    }
}

impl FromStr for EventId {
    type Err = InvalidEventId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty()
            || text.len() > ID_BYTES_MAX
            || !text.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Err(InvalidEventId { found: text.chars().take(ID_BYTES_MAX + 1).collect() });
        }
        // Only the spelling that prints back the same may lose its text.
        if text.len() == 36
            && !text.bytes().any(|byte| byte.is_ascii_uppercase())
            && let Ok(uuid) = Uuid::try_parse(text)
        {
            return Ok(Self(Repr::Uuid(uuid)));
        }
        Ok(Self(Repr::Text(text.into())))
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.encode(&mut [0; 36]))
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// Equality and order follow the text, which is what the world sees; a UUID's text sorts as its bytes.
impl PartialEq for EventId {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Repr::Uuid(a), Repr::Uuid(b)) => a == b,
            (Repr::Text(a), Repr::Text(b)) => a == b,
            // `from_str` keeps no text that could be a UUID's own spelling.
            _ => false,
        }
    }
}

impl Eq for EventId {}

impl Hash for EventId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match &self.0 {
            Repr::Uuid(uuid) => state.write_u128(uuid.as_u128()),
            Repr::Text(text) => text.hash(state),
        }
    }
}

impl Ord for EventId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        match (&self.0, &other.0) {
            (Repr::Uuid(a), Repr::Uuid(b)) => a.cmp(b),
            _ => self.encode(&mut [0; 36]).cmp(other.encode(&mut [0; 36])),
        }
    }
}

impl PartialOrd for EventId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Serialize for EventId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.encode(&mut [0; 36]))
    }
}

impl<'de> Deserialize<'de> for EventId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_back_what_was_read() {
        for text in [
            "a",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "0193a5c0-7c3d-7d8e-9f00-0123456789ab",
            "0193A5C0-7C3D-7D8E-9F00-0123456789AB",
            "0193a5c07c3d7d8e9f000123456789ab",
            &"x".repeat(ID_BYTES_MAX),
        ] {
            assert_eq!(text.parse::<EventId>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_what_cannot_be_a_header_value() {
        for text in ["", "a b", "a\n", "\u{e9}", &"x".repeat(ID_BYTES_MAX + 1)] {
            assert!(text.parse::<EventId>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn v7_sorts_by_time_and_says_its_version() {
        let early = EventId::v7(Timestamp::from_millis(1_764_513_045_123), [u64::MAX; 2]);
        let late = EventId::v7(Timestamp::from_millis(1_764_513_045_124), [0; 2]);
        assert!(early < late);
        assert_eq!(early.to_string().as_bytes()[14], b'7');
    }
}
